"""The reference page of formats: every row on it is one that the export writes, in its order."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distill.records import Message, Record, Span, write_records
from distill.records.export import EXPORT_FORMATS, export_records

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
ASK = (Message(role="system", content="Be brief."), Message(role="user", content="What is the capital of France?"))
SUM = (Message(role="user", content="What is 2 + 2 + 5?"),)
PAIR = [
    Record(
        id="fr-1",
        group="fr",
        prompt=ASK,
        response="It is Paris.",
        polarity="positive",
        spans=(Span(start=6, end=11, polarity="positive"),),
    ),
    Record(
        id="fr-2",
        group="fr",
        prompt=ASK,
        response="It is Lyon.",
        polarity="negative",
        spans=(Span(start=6, end=10, polarity="negative"),),
    ),
]
STEPS = Record(
    id="sum",
    group="sum",
    prompt=SUM,
    response="2 + 2 = 4\n4 + 5 = 8",
    polarity="negative",
    spans=(Span(start=0, end=9, polarity="positive"), Span(start=10, end=19, polarity="negative")),
)


def test_the_rows_on_the_page_are_the_rows_that_are_written(tmp_path: Path) -> None:
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)]
    write_records(PAIR, tmp_path / "pair.jsonl")
    write_records([STEPS], tmp_path / "steps.jsonl")
    written = []
    for format in ("trl-sft", "trl-dpo", "trl-kto", "trl-prm", "axolotl", "llamafactory"):
        source = tmp_path / ("steps.jsonl" if format == "trl-prm" else "pair.jsonl")
        done = export_records(source, tmp_path / format, format)  # type: ignore[arg-type]
        for file in done.files:
            row = json.loads((tmp_path / format / file.name).read_text(encoding="utf-8").splitlines()[0])
            written.append({name: value for name, value in row.items() if not name.startswith("distill_")})
    described = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text(encoding="utf-8"))
    written.append({"distill_kto": described["distill_kto"]})
    assert shown == written
    assert all(f"`{format}`" in PAGE for format in EXPORT_FORMATS)
