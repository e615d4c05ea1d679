"""Passages of a corpus, how files are cut into them, and what finds those on a question: a local index, or any other search."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import ConfigError
from distill.judges.sentences import sentence_spans

# "## Uses" and " = = Uses = = " are headings of level 2.
_HEADING = re.compile(r"\s*(?P<level>#{1,6}(?=\s)|(?:=\s*)+)\s*(?P<name>[^=#].*?)\s*(?:#+|(?:=\s*)+)?\s*")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A stretch of a source. id: the file's name and its row or line; title: the heading that it stands under; score: how well it
    fits the query, comparable within one search only.
    """

    id: str
    text: str
    title: str = ""
    score: float = 0.0

    @property
    def whole(self) -> str:
        """Title and text."""
        return f"{self.title}: {self.text}" if self.title else self.text


class Searcher(ABC):
    """Finds passages on a question. A local index, or a web search tool: one method."""

    @abstractmethod
    def search(self, query: str, k: int) -> list[Passage]:
        """At most k passages, best first; an empty list where nothing fits."""


def read_passages(path: Path, *, columns: Sequence[str], words: int) -> Iterator[Passage]:
    """The passages of a .txt, .md, .jsonl or .parquet file, in order.

    Text: each line is a paragraph, cut between sentences into passages of at most `words` words; headings ("# Title",
    " = Title = ") become titles. Rows: their columns, one under the other, cut in the same way.

    Raises ConfigError with file, line and remedy for a file that cannot be read so.
    """
    suffix = path.suffix.casefold()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a corpus is .txt, .md, .jsonl and .parquet files")
    if suffix in (".txt", ".md"):
        yield from _text_passages(path, words)
    elif suffix in (".jsonl", ".parquet"):
        for where, row in _rows(path, suffix, columns):
            parts = [row[column] for column in columns]
            if not all(isinstance(part, str) for part in parts):
                raise ConfigError(f"{path}:{where}: columns {', '.join(columns)} must be text, got {parts!r:.80}")
            yield from _cut(f"{path.name}:{where}", "\n".join(parts), "", words)
    else:
        raise ConfigError(f"{path}: a corpus is .txt, .md, .jsonl and .parquet files; convert {suffix or 'it'} to one of them")


def _text_passages(path: Path, words: int) -> Iterator[Passage]:
    article, section = "", ""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            heading = _HEADING.fullmatch(line)
            if heading is None:
                yield from _cut(f"{path.name}:{number}", line, ", ".join(filter(None, (article, section))), words)
            elif len(re.sub(r"\s", "", heading["level"])) == 1:
                article, section = heading["name"], ""
            else:
                section = heading["name"]


def _rows(path: Path, suffix: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with all of the columns, and their line or number."""
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not JSON ({error}); a .jsonl corpus has one object on each line") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{path}:{number}: got {type(row).__name__}, expected an object with {', '.join(columns)}")
            _check_columns(f"{path}:{number}", list(row), columns)
            yield number, row


def _check_columns(where: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := [column for column in wanted if column not in found]:
        raise ConfigError(f"{where}: no column {missing[0]!r}; it has {', '.join(found)}: name those to read with `columns`")


def _cut(name: str, text: str, title: str, words: int) -> Iterator[Passage]:
    """Sentences together as long as they fit; a longer sentence is a passage of its own."""
    pieces: list[str] = []
    length, part = 0, 0
    for start, end in [*sentence_spans(text), (0, 0)]:
        size = len(text[start:end].split())
        if pieces and (not end or length + size > words):
            yield Passage(id=f"{name}.{part}" if part else name, text=" ".join(pieces), title=title)
            pieces, length, part = [], 0, part + 1
        pieces.append(text[start:end])
        length += size
