"""The reference page of records: its code runs, and the errors it shows are the errors that are raised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.records import record_from_json, validate_files
from distill.records.schema import FIELDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "records.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_code_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "records.md", "exec"), names)
    assert "foreign" in names


def test_the_record_on_the_page_has_every_field_and_is_valid() -> None:
    import json

    shown = json.loads(blocks("json")[0])
    assert tuple(shown) == FIELDS
    record = record_from_json(shown)
    assert record.response[record.spans[0].start : record.spans[0].end] == "Lyon"
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Files")[0], flags=re.MULTILINE)) == set(FIELDS)


def test_the_errors_on_the_page_are_the_errors_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def line(name: str, old: str = "", new: str = "") -> str:
        text = (
            f'{{"id":"{name}","group":"fr","prompt":[{{"role":"user","content":"What is the capital of France?"}}],'
            '"response":"It is Lyon.","polarity":"negative"}'
        )
        return text.replace(old, new) if old else text

    spans = '"negative","spans":[{"start":6,"end":%d,"polarity":"negative"}]'
    text = [
        line("fr-1", '"negative"', '"negative","weight":NaN'),
        line("fr-2", '"negative"', spans % 12),
        line("fr-3", '"negative"', spans % 2),
        line("fr-4", '"negative"', '"bad"'),
        line("fr-5", "It is Lyon.", ""),
        line("fr-6", '"response"', '"answer"'),
        line("fr-7", '"role":"user"', '"role":"human"'),
        line("fr-8"),
        line("fr-9", "Lyon", "Orl\xe9ans"),
        line("fr-8"),
        line("fr-10")[:-30],
    ]
    Path("capitals.jsonl").write_bytes("\n".join(text).encode("latin-1"))
    assert "\n".join(validate_files("capitals.jsonl").errors) == blocks("text")[0].rstrip()
