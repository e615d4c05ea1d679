"""Every way in refuses wrong input in one line that names it, with exit code 2, before anything expensive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distill.cli import main
from distill.errors import ConfigError
from distill.evaluate.rule import AbstentionRule
from distill.records import Message, Record, write_records

QUESTIONS = "id,prompt,answers\n1,What is the capital of France?,Paris\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records, questions, an empty folder, and files that are none of what they are given as."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILL_DEBUG", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ask = (Message(role="user", content="What is the capital of France?"),)
    write_records([Record(id="a", group="fr", prompt=ask, response="Paris.", polarity="positive")], "good.jsonl")
    Path("questions.csv").write_text(QUESTIONS)
    Path("empty.jsonl").write_text("")
    Path("latin.jsonl").write_bytes('{"prompt": "é", "completion": "x"}\n'.encode("latin-1"))
    Path("torn.parquet").write_bytes(b"PAR1torn")
    Path("folder").mkdir()
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The last line of stderr of a command that ends with exit code 2, by itself or through its parser."""
    try:
        code: object = main(list(args))
    except SystemExit as stop:
        code = stop.code
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["records", "head", "good.jsonl", "-n", "-1"], "expected a whole number of at least 0, got '-1'"),
        (["records", "validate", "good.jsonl", "--max-errors", "0"], "expected a whole number of at least 1, got '0'"),
        (["records", "convert", "latin.jsonl", "out.jsonl", "--from", "trl"], "latin.jsonl:1: not JSON in UTF-8"),
        (["records", "convert", "torn.parquet", "out.jsonl", "--from", "trl"], "torn.parquet: not a whole Parquet file"),
        (["records", "convert", "empty.jsonl", "out.jsonl", "--from", "trl"], "empty.jsonl: file is empty"),
        (["records", "convert", "good.jsonl", "out.jsonl", "--from", "trl"], "good.jsonl: row 1: columns"),
        (["records", "convert", "good.jsonl", "good.jsonl/out.jsonl"], "good.jsonl: File exists"),
        (["show", "good.jsonl", "--student", "folder", "--limit", "-3"], "expected a whole number of at least 0, got '-3'"),
        (["chat", "--student", "folder"], "model folder 'folder' has no config.json"),
        (["chat", "--student", "folder", "--max-tokens", "0"], "expected a whole number of at least 1, got '0'"),
        (["chat", "--student", "folder", "--threshold", "0.5"], "no abstention rule"),
        (["evaluate", "questions.csv", "--student", "folder", "--limit", "-1"], "expected a whole number of at least 1"),
        (["evaluate", "questions.csv", "--student", "folder", "--abstention", " "], "--abstention is empty"),
        (["evaluate", "questions.csv", "--student", "folder", "--out", "good.jsonl/x.json"], "good.jsonl: File exists"),
        (["export", "--checkpoint", "x.ckpt", "--out", "new", "--rule", "folder"], "abstention.json: no such file"),
        (["recipe", "negate", "--limit", "-1", "--preview", "1"], "limit is -1"),
        (["recipe", "negate", "--out", "good.jsonl"], "good.jsonl is a file; give a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_that_names_it(
    place: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert said in complaint(capsys, *args)


def test_the_second_models_name_is_checked_before_the_first_model_is_asked(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_folder: Callable[[str], Path],
) -> None:
    monkeypatch.setattr("distill.cli.evaluate._ask", lambda *_: pytest.fail("a model was asked"))
    said = complaint(capsys, "evaluate", "questions.csv", "--student", str(tiny_model_folder("llama")), "--base", "folder")
    assert "'folder' has no config.json" in said


@pytest.mark.parametrize("text", ["{", "[]", '{"bias": 0}', '{"threshold": 2}', "\xff"])
def test_a_file_that_is_no_abstention_rule_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "abstention.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="abstention.json: not an abstention rule"):
        AbstentionRule.load(tmp_path)
