"""One stage of a recipe: a function over batches of items, whose results come in order, once, and outlive the process."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from distill.errors import RecipeError
from distill.recipes.cache import Cache, line_of
from distill.recipes.key import digest
from distill.recipes.progress import Progress

WINDOW = 8  # batches' worth of finished rows that may wait, in order, for a missing one


class Item(NamedTuple):
    """What a stage's work receives. `carried` travels along with the item and is no part of its cache key."""

    id: str
    value: Any
    carried: Any = None


class Row(NamedTuple):
    """What a stage yields: the item as it came and the result as JSON reads it (tuples have become lists)."""

    id: str
    value: Any
    result: Any
    carried: Any = None


@dataclass(frozen=True)
class Lost:
    """What work returns in a result's place where there is none; the reason is one of few, for it is counted."""

    reason: str


Work = Callable[[list[Item]], Sequence[Any]]


class _Waiting(NamedTuple):
    item: Item
    digest: str
    kept: dict[str, Any] | None


class Stage:
    """The accounts and the loop of one `Run.map`: `taken` items in, `given` rows out, `lost` by reason."""

    def __init__(
        self,
        name: str,
        items: Iterable[tuple[Any, ...]],
        work: Work,
        *,
        cache: Cache | None,
        progress: Progress,
        batch_size: int,
        tokens: Callable[[Any], int] | None,
        retry_lost: bool,
        scratch: Path | None,
    ) -> None:
        self.name = name
        self.taken = self.given = 0
        self.lost: Counter[str] = Counter()
        self.finished = False
        self._items, self._work, self._cache, self._progress = items, work, cache, progress
        self._batch_size, self._tokens, self._retry_lost = batch_size, tokens, retry_lost
        # Anonymous: it vanishes with the process, so an interrupted run leaves nothing to clean.
        self._lost_lines: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115

    def rows(self) -> Iterator[Row]:
        """The results, in the items' order. Memory: a few batches, and 8 bytes and a hash slot for each id seen."""
        seen: set[int] = set()
        waiting: list[_Waiting] = []
        missing = 0
        try:
            for item in self._items:
                item = Item(*item)
                self._refuse_twice(item, seen)
                name = self._digest(item)
                kept = self._cache.get(name) if self._cache is not None else None
                if kept is not None and self._retry_lost and "lost" in kept:
                    kept = None
                self.taken += 1
                waiting.append(_Waiting(item, name, kept))
                missing += kept is None
                if missing == 0 or missing == self._batch_size or len(waiting) >= WINDOW * self._batch_size:
                    yield from self._settle(waiting)
                    waiting, missing = [], 0
            yield from self._settle(waiting)
            self.finished = True
        finally:
            self._progress.close()
            if self._cache is not None:
                self._cache.close()

    def write_lost(self, file: IO[bytes]) -> None:
        """Append this stage's lost rows, in the items' order, to lost.jsonl."""
        self._lost_lines.seek(0)
        for line in self._lost_lines:
            file.write(line)

    def close(self) -> None:
        """Let go of the stage's files, also where nobody read its rows."""
        self._lost_lines.close()
        self._progress.close()
        if self._cache is not None:
            self._cache.close()

    def _settle(self, waiting: list[_Waiting]) -> Iterator[Row]:
        """Do what is missing in one batch, keep it, then give everything out in order."""
        todo = [one for one in waiting if one.kept is None]
        fresh = iter(self._do(todo))
        tokens = 0
        rows: list[Row] = []
        for one in waiting:
            kept = one.kept if one.kept is not None else next(fresh)
            if "lost" in kept:
                self.lost[kept["lost"]] += 1
                line = json.dumps({"id": one.item.id, "stage": self.name, "reason": kept["lost"]}, ensure_ascii=False)
                self._lost_lines.write(line.encode("utf-8", "surrogatepass") + b"\n")
            else:
                tokens += self._tokens(kept["result"]) if self._tokens is not None and one.kept is None else 0
                rows.append(Row(one.item.id, one.item.value, kept["result"], one.item.carried))
        self._progress.add(len(waiting), cached=len(waiting) - len(todo), tokens=tokens)
        for row in rows:
            self.given += 1
            yield row

    def _do(self, todo: list[_Waiting]) -> list[dict[str, Any]]:
        if not todo:
            return []
        results = self._work([one.item for one in todo])
        if len(results) != len(todo):
            raise RecipeError(
                f"stage {self.name!r}: {len(todo)} items went in (first {todo[0].item.id!r}) and {len(results)} results came "
                "out; work must return one result or Lost(reason) for each item, in order"
            )
        lines = [
            line_of(one.digest, one.item.id, *(("lost", result.reason) if isinstance(result, Lost) else ("result", result)))
            for one, result in zip(todo, results, strict=True)
        ]
        if self._cache is not None:
            self._cache.append(lines)
        # Read back from the text, so that a first run and a resumed one hand out the same values.
        return [json.loads(line) for line in lines]

    def _digest(self, item: Item) -> str:
        try:
            return digest([item.id, item.value])
        except (TypeError, ValueError) as error:
            raise RecipeError(f"stage {self.name!r}, item {item.id!r}: the value is not JSON ({error})") from error

    def _refuse_twice(self, item: Item, seen: set[int]) -> None:
        if not isinstance(item.id, str) or not item.id:
            raise RecipeError(f"stage {self.name!r}, item {self.taken + 1}: an id is a string that is not empty, got {item.id!r}")
        before = len(seen)
        seen.add(hash(item.id))
        if len(seen) == before:
            raise RecipeError(
                f"stage {self.name!r}: the id {item.id!r} came twice (item {self.taken + 1}); results are kept by id"
            )
