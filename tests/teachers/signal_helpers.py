"""Records, a stored signal of a tiny model and the student's side of it, for the tests of stored teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.cli import main
from distill.models import load_model, load_tokenizer
from distill.records import Message, Record, read_records, write_records
from distill.render import Example, render
from distill.teachers.logits import LiveStudent


def some_records(countries: Sequence[str] = ("France", "Kenya", "Japan", "Peru", "Chad", "Iran", "Oman")) -> list[Record]:
    """Two or three responses to each question, of several lengths and both polarities."""
    rows = []
    for number, name in enumerate(countries):
        ask = (Message(role="user", content=f"What is the capital of {name}?"),)
        rows.append(
            Record(id=f"{name}+", group=name, prompt=ask, response="Paris is it." * (1 + number % 3), polarity="positive")
        )
        rows.append(Record(id=f"{name}-", group=name, prompt=ask, response=f"Paris, {name}", polarity="negative"))
        if number % 2:
            rows.append(Record(id=f"{name}?", group=name, prompt=ask, response="I don't know.", polarity="negative", weight=0.5))
    return rows


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A folder that `distill signal` wrote, the records, and the model that is teacher and student."""

    signal: str
    records: str
    model: str

    def student(self) -> LiveStudent:
        return LiveStudent(name=self.model, model=load_model(self.model, dtype="float32"))

    def examples(self) -> list[Example]:
        tokenizer = load_tokenizer(self.model)
        return [render(record, tokenizer) for record in read_records(self.records)]


def store(folder: Path, model: Path, *arguments: str, records: Sequence[Record] | None = None, name: str = "signal") -> Stored:
    """Write records.jsonl and run `distill signal` over it."""
    file = folder / "records.jsonl"
    if records is not None or not file.exists():
        write_records(some_records() if records is None else records, file)
    made = Stored(signal=str(folder / name), records=str(file), model=str(model))
    assert main(["signal", "--teacher", made.model, "--records", made.records, "--out", made.signal, *arguments]) == 0
    return made


def changed(example: Example, **values: Any) -> Example:
    return replace(example, **values)
