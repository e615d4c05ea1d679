"""What a recipe reads: questions from JSONL, CSV, Parquet or plain text, checked to the last row before anything expensive."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import RecipeError
from distill.records import Message, Prompt
from distill.records.schema import ROLES


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt with its stable id; `answers` are the accepted ones, where known; `extra` holds the other columns."""

    id: str
    prompt: Prompt
    answers: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A checked file of questions: knows its length, and streams from the file each time it is iterated."""

    path: Path
    id_column: str = "id"
    prompt_column: str = "prompt"
    answers_column: str = "answers"
    size: int = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Question]:
        for where, row in _rows(self.path):
            yield self._question(where, row)

    def _question(self, where: str, row: dict[str, Any]) -> Question:
        for column in (self.id_column, self.prompt_column):
            if row.get(column) in (None, "", []):
                found = ", ".join(row) or "none"
                raise RecipeError(
                    f"{where}: no {column!r} column, or it is empty; columns found: {found}. Rename one, or name it"
                )
        name = row[self.id_column]
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise RecipeError(f"{where}: {self.id_column!r} must be a string or a whole number, got {type(name).__name__}")
        rest = {k: v for k, v in row.items() if k not in (self.id_column, self.prompt_column, self.answers_column)}
        return Question(
            id=str(name),
            prompt=_prompt(where, self.prompt_column, row[self.prompt_column]),
            answers=_answers(where, self.answers_column, row.get(self.answers_column)),
            extra=rest,
        )


def read_questions(
    path: str | Path, *, id_column: str = "id", prompt_column: str = "prompt", answers_column: str = "answers"
) -> Questions:
    """Check a whole file of questions; the result streams it.

    path: .jsonl (also .ndjson), .csv, .parquet, or .txt with one prompt a line (its id is then a hash of the text). A prompt is a
    text (one user message) or a list of {"role", "content"}; if the assistant has the last message, the answer continues it.
    Answers are optional: a list of strings, or in CSV one text with `|` between them.

    Raises RecipeError with file and line: a missing column (with the columns found), a repeated id (with both places), a wrong
    type, bytes that are not UTF-8, an empty file, another kind of file.
    """
    questions = Questions(path=Path(path), id_column=id_column, prompt_column=prompt_column, answers_column=answers_column)
    if not questions.path.is_file():
        raise RecipeError(f"{path}: no such file; questions come as .jsonl, .csv, .parquet or .txt")
    first_seen: dict[int, int] = {}
    size = 0
    for size, question in enumerate(questions, start=1):
        before = first_seen.setdefault(hash(question.id), size)
        if before != size:
            raise RecipeError(f"{path}: question {size} has the id {question.id!r} of question {before}; ids must differ")
    if size == 0:
        raise RecipeError(f"{path}: no questions in it")
    return Questions(
        path=questions.path, id_column=id_column, prompt_column=prompt_column, answers_column=answers_column, size=size
    )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of any of the formats, each with `file:line` for errors."""
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        for where, line in _lines(path):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RecipeError(f"{where}: not JSON ({error}); each line is one object with an id and a prompt") from error
            if not isinstance(row, dict):
                raise RecipeError(f"{where}: expected an object, got {type(row).__name__}")
            yield where, row
    elif kind == ".csv":
        reader = csv.DictReader(text + "\n" for _, text in _lines(path, blank=True))
        for row in reader:
            if None in row:
                raise RecipeError(f"{path}:{reader.line_num}: more cells than the header has; quote a cell that holds a comma")
            yield f"{path}:{reader.line_num}", row
    elif kind == ".parquet":
        import pyarrow.parquet as parquet

        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    elif kind == ".txt":
        for where, line in _lines(path):
            yield where, {"id": hashlib.sha256(line.encode()).hexdigest()[:12], "prompt": line}
    else:
        raise RecipeError(f"{path}: questions come as .jsonl, .csv, .parquet or .txt, not {kind or 'a file without a suffix'}")


def _lines(path: Path, *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Text lines without their ends; blank ones left out unless asked for (a quoted CSV cell may hold one)."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise RecipeError(f"{path}:{number}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
            if blank or line.strip():
                yield f"{path}:{number}", line


def _prompt(where: str, column: str, value: Any) -> Prompt:
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    if isinstance(value, list):
        for message in value:
            good = isinstance(message, dict) and isinstance(message.get("content"), str) and message.get("role") in ROLES
            if not good:
                raise RecipeError(
                    f"{where}: each message of {column!r} needs a role ({', '.join(ROLES)}) and a content, got {message!r}"
                )
        return tuple(Message(role=message["role"], content=message["content"]) for message in value)
    raise RecipeError(f"{where}: {column!r} must be a text or a list of messages, got {type(value).__name__}")


def _answers(where: str, column: str, value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split("|") if part.strip())
    if isinstance(value, list) and all(isinstance(answer, str) for answer in value):
        return tuple(value)
    raise RecipeError(f"{where}: {column!r} must be a list of strings or one text with | between answers, got {value!r}")
