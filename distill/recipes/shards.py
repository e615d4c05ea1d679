"""A job's share of a recipe's rows, and what its folder remembers of it, so that the shares can be one run again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from distill.errors import RecipeError
from distill.recipes.cache import replace_file
from distill.recipes.key import canonical, describe

T = TypeVar("T")
FILE = "shard.json"


@runtime_checkable
class Fingerprinted(Protocol):
    """A source of rows that can say whether it is still the same."""

    def fingerprint(self) -> str:
        """Equal for equal rows, whatever file or place they come from."""
        ...


@dataclass(frozen=True)
class Made(Generic[T]):
    """A source whose rows are made anew, the same ones, each time it is iterated: so they can be counted without being held.

    >>> len(Made(lambda: iter("abc")))
    3
    """

    rows: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.rows()

    def __len__(self) -> int:
        return sum(1 for _ in self.rows())


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Share `index` (from 0) of `count` shares of the rows: contiguous, so that the shares one after the other are the whole.

    >>> [Shard(index=i, count=3).of(10) for i in range(3)]
    [range(0, 3), range(3, 6), range(6, 10)]
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a share that there is not."""
        if not 0 <= self.index < self.count:
            raise RecipeError(f"shard {self}: shards of {self.count} are numbered from 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, rows: int) -> range:
        """The positions of this share among so many rows."""
        return range(rows * self.index // self.count, rows * (self.index + 1) // self.count)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A source that shards were cut from: its content's fingerprint and how many of its rows the run as a whole takes."""

    fingerprint: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a shard's folder remembers of itself, in shard.json; `records` is None until it is finished."""

    shard: Shard
    recipe: str = ""
    recipe_hash: str = ""
    sources: tuple[Taken, ...] = ()
    records: int | None = None


def parse_shard(text: str) -> Shard:
    """`2/16` -> the third of sixteen shards. Raises RecipeError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise RecipeError(f"shard {text!r}: expected i/n, as in 0/4, 1/4, 2/4 and 3/4 for the four jobs of an array")
    return Shard(index=int(found[1]), count=int(found[2]))


def share(source: Iterable[T], shard: Shard, *, limit: int | None) -> tuple[Iterator[T], Taken]:
    """The shard's rows of a source, in order, and what to remember of the source.

    Raises RecipeError for a source that cannot tell how many rows it has.
    """
    if not isinstance(source, Sized):
        kind = type(source).__name__
        raise RecipeError(
            f"shard {shard}: a {kind} cannot say how many rows it has, so it has no shares; leave --shard out, or have "
            "the recipe give Run.take a list, read_questions(...) or Made(...)"
        )
    named = source.fingerprint() if isinstance(source, Fingerprinted) else _named(source)
    there = len(source)
    rows = there if limit is None else min(limit, there)
    mine = shard.of(rows)
    return islice(source, mine.start, mine.stop), Taken(fingerprint=named, rows=rows)


def _named(source: Iterable[T]) -> str:
    total = hashlib.sha256()
    for row in source:
        total.update(canonical(describe(row)).encode() + b"\n")
    return total.hexdigest()[:32]


def read_note(folder: Path) -> Note | None:
    """What shard.json says; None where the folder is no shard's."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        shard, sources = Shard(**found.pop("shard")), tuple(Taken(**one) for one in found.pop("sources"))
        return Note(shard=shard, sources=sources, **found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{file}: not the note of a shard ({error}); run the shard again in a new folder") from error


def write_note(folder: Path, note: Note) -> None:
    """Keep the note, whole or not at all."""
    replace_file(folder / FILE, json.dumps(asdict(note), indent=2) + "\n")


def check_folder(folder: Path, shard: Shard | None) -> None:
    """RecipeError where the folder holds another share than the one that is asked for."""
    note = read_note(folder)
    if note is not None and note.shard != shard:
        asked = "the whole" if shard is None else f"shard {shard}"
        raise RecipeError(
            f"{folder} holds shard {note.shard}, and {asked} was asked for; give --shard {note.shard}, or another folder"
        )
