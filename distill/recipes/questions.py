"""What a recipe reads: questions with their columns found, checked to the last row before anything expensive."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from distill.errors import RecipeError
from distill.recipes.sources import Source, find_source
from distill.records import Message, Prompt
from distill.records.schema import ROLES

FROM_PROMPT = ""  # an id column of this name: ids are made from the prompts
ROW_NUMBER = "#"  # an id column of this name: ids are the rows' numbers


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt with its stable id; `answers` are the accepted ones, where known; `extra` holds the other columns."""

    id: str
    prompt: Prompt
    answers: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A checked source of questions: knows its length and its content's hash, and streams each time it is iterated."""

    name: str
    source: Source
    id_column: str = "id"
    prompt_column: str = "prompt"
    answers_column: str = "answers"
    size: int = 0
    content: str = ""

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Question]:
        for number, (where, row) in enumerate(self.source.rows(), start=1):
            yield self._question(number, where, row)

    def fingerprint(self) -> str:
        """32 hexadecimal digits that name what all rows say, in their order, whatever the file's name, place and format."""
        return self.content

    def _question(self, number: int, where: str, row: dict[str, Any]) -> Question:
        named = [self.prompt_column, *([] if self.id_column in (FROM_PROMPT, ROW_NUMBER) else [self.id_column])]
        for column in named:
            if row.get(column) in (None, "", []):
                self._refuse(where, row, column)
        prompt = _prompt(where, self.prompt_column, row[self.prompt_column])
        return Question(
            id=self._id(number, where, row),
            prompt=prompt,
            answers=_answers(where, self.answers_column, row.get(self.answers_column)),
            extra={k: v for k, v in row.items() if k not in (self.id_column, self.prompt_column, self.answers_column)},
        )

    def _id(self, number: int, where: str, row: dict[str, Any]) -> str:
        if self.id_column == ROW_NUMBER:
            return str(number)
        if self.id_column == FROM_PROMPT:
            text = row[self.prompt_column]
            return hashlib.sha256((text if isinstance(text, str) else json.dumps(text)).encode()).hexdigest()[:16]
        name = row[self.id_column]
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise RecipeError(f"{where}: {self.id_column!r} must be a string or a whole number, got {type(name).__name__}")
        return str(name)

    def _refuse(self, where: str, row: dict[str, Any], column: str) -> None:
        wrong = f"an empty {column!r}" if column in row else f"no {column!r} column"
        role = "id" if column == self.id_column else "prompt"
        remedy = f"name the right one: {self.name}?{role}=COLUMN"
        if role == "id":
            remedy += f", or make ids from the prompts: {self.name}?id="
        raise RecipeError(f"{where}: {wrong}; columns found: {', '.join(row) or 'none'}. Fill it, or {remedy}")


def read_questions(
    source: str | Path, *, id_column: str | None = None, prompt_column: str = "prompt", answers_column: str = "answers"
) -> Questions:
    """Check all questions of a source; the result streams them.

    source: a file, .jsonl (also .ndjson), .csv, .parquet, or .txt with one prompt a line; `example:NAME`, a packaged file;
    `facts:countries`, `facts:currencies`, `facts:elements` or `facts:invented`, from the packages of the extra quickstart;
    `datasets:NAME[,CONFIG][:SPLIT]`, whatever the library datasets loads (of the hub, or a folder or file here). A source's
    columns may be named after it: `gsm8k.parquet?prompt=question&answers=answer&id=`.

    id_column: "" makes ids from the prompts (a hash; .txt has such ids, and data sets without a column `id`), "#" takes the row's
    number; by default "id". A prompt is a text (one user message) or a list of {"role", "content"}; if the assistant has the last
    message, the answer continues it. Answers are optional: a list of strings, or one text with `|` between them.

    Memory: 8 bytes a row. Raises RecipeError with file and line: a missing column (with the columns found), a repeated id (with
    both places), a wrong type, bytes that are not UTF-8, an empty source, one that is not there.
    """
    name, columns = _columns(str(source))
    found = find_source(name)
    ids = columns.get("id", id_column)
    questions = Questions(
        name=name,
        source=found,
        id_column=ids if ids is not None else "id" if found.own_ids else FROM_PROMPT,
        prompt_column=columns.get("prompt", prompt_column),
        answers_column=columns.get("answers", answers_column),
    )
    seen, content = array("q"), hashlib.sha256()
    for question in questions:
        seen.append(hash(question.id))
        content.update(_content(question))
    if not seen:
        raise RecipeError(f"{name}: no questions in it")
    _refuse_twice(questions, seen)
    return replace(questions, size=len(seen), content=content.hexdigest()[:32])


def _columns(source: str) -> tuple[str, dict[str, str]]:
    """`FILE?prompt=question&id=` -> the name and the columns; a file whose own name holds a question mark is left alone."""
    name, mark, query = source.partition("?")
    if not mark or Path(source).is_file():
        return source, {}
    columns = dict(parse_qsl(query, keep_blank_values=True))
    wrong = sorted(set(columns) - {"id", "prompt", "answers"})
    if wrong or not columns:
        raise RecipeError(
            f"{source}: got {', '.join(wrong) or repr(query)} after the question mark; columns of id, prompt and answers stand "
            f"there, as in {name}?prompt=question&id=key"
        )
    return name, columns


def _content(question: Question) -> bytes:
    prompt = [[message.role, message.content] for message in question.prompt]
    row = [question.id, prompt, question.answers, question.extra]
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _refuse_twice(questions: Questions, seen: array[int]) -> None:
    """Raise on the first repeated id. Sorted, not in a set: a set of a million would take a tenth of a gigabyte."""
    import numpy as np

    hashes = np.frombuffer(seen, dtype=np.int64)
    order = np.argsort(hashes, kind="stable")
    again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    if not again.size:
        return
    second = int(again.min())
    first = int(np.flatnonzero(hashes == hashes[second])[0])
    name = next(question.id for number, question in enumerate(questions) if number == second)
    remedy = "ids must differ"
    if questions.id_column == FROM_PROMPT:
        remedy = f"its id is made from the same prompt: remove one, or number the rows: {questions.name}?id={ROW_NUMBER}"
    raise RecipeError(f"{questions.name}: question {second + 1} has the id {name!r} of question {first + 1}; {remedy}")


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
