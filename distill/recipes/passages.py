"""Documents in, passages out: whole sentences of bounded length, with ids that say where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distill.errors import ConfigError, RecipeError
from distill.recipes.sources import find_source

# A capital, a digit or a letter of a script without capitals behind the stop: "e.g. this" and "St. John" may be cut, no harm done.
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+(?=[^\sa-z])")
# WikiText and other corpora that were split into tokens: " , " and "@-@" as people write them.
_TOKENISED = (
    (re.compile(r" @([-.,])@ "), r"\1"),
    (re.compile(r"\s+([,.;:!?)\]%]|'s\b|n't\b|')"), r"\1"),
    (re.compile(r"([(\[$£])\s+"), r"\1"),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A stretch of a document. id: the document's number and the stretch's in it."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Passages:
    """The passages of a source, streamed each time it is iterated.

    source: .txt (a document a line), .jsonl, .csv, .parquet, `datasets:NAME` or `example:NAME`. column: that holds the text; None:
    `text`, else `prompt`. longest, shortest: of a passage, in characters; sentences are joined as long as they fit, and
    what stays shorter than `shortest` (a heading) is left out. tokenised: undo the spaces and marks of WikiText.
    """

    source: str
    column: str | None = None
    longest: int = 600
    shortest: int = 120
    tokenised: bool = False

    def __post_init__(self) -> None:
        """Refuse lengths that leave nothing."""
        if not 1 <= self.shortest <= self.longest:
            raise ConfigError(
                f"passages of {self.shortest} to {self.longest} characters: the shortest is at least 1 and at most the longest"
            )

    def __iter__(self) -> Iterator[Passage]:
        for number, (where, row) in enumerate(find_source(self.source).rows(), start=1):
            column = self.column or ("text" if "text" in row else "prompt")
            text = row.get(column)
            if not isinstance(text, str):
                found = ", ".join(row) or "none"
                raise RecipeError(
                    f"{where}: no text in the column {column!r}; columns found: {found}. Name the one with the text"
                )
            for part, piece in enumerate(split_text(self._plain(text), longest=self.longest), start=1):
                if len(piece) >= self.shortest:
                    yield Passage(id=f"{number}-{part}", text=piece)

    def _plain(self, text: str) -> str:
        for pattern, written in _TOKENISED if self.tokenised else ():
            text = pattern.sub(written, text)
        return " ".join(text.split())


def split_text(text: str, *, longest: int) -> list[str]:
    """Whole sentences, joined while they fit into `longest` characters; a longer sentence is cut between words.

    >>> split_text("One. Two two. Three three three three.", longest=14)
    ['One. Two two.', 'Three three', 'three three.']
    """
    pieces: list[str] = []
    for sentence in _SENTENCE.split(text):
        for stretch in _stretches(sentence, longest):
            if pieces and len(pieces[-1]) + 1 + len(stretch) <= longest and stretch is sentence:
                pieces[-1] += " " + stretch
            else:
                pieces.append(stretch)
    return [piece for piece in pieces if piece]


def _stretches(sentence: str, longest: int) -> list[str]:
    if len(sentence) <= longest:
        return [sentence]
    found: list[str] = []
    for word in sentence.split():
        if found and len(found[-1]) + 1 + len(word) <= longest:
            found[-1] += " " + word
        else:
            found.append(word)
    return found
