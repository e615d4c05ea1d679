"""One stage of a recipe: a function over batches of items, whose results come in order, once, and outlive the process.

Everything but `work` runs in the thread that reads the rows; of a teacher that can be asked from several threads, some batches
are under way at once. So stages may be chained freely: no thread ever waits for another stage.
"""

from __future__ import annotations

import json
import tempfile
import threading
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from distill.errors import RecipeError
from distill.recipes.cache import Outcome, Spent, StageCache, encoded
from distill.recipes.key import digest
from distill.recipes.progress import Progress
from distill.recipes.spending import NOT_ASKED, Budget, Busy, Meter
from distill.teachers.base import Teacher, Usage

WINDOW = 8  # batches' worth of rows, in order, among which a batch of missing ones is collected
AHEAD = 2  # batches for each worker that may be under way or wait for an earlier one


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


class Portable(ABC):
    """Work that another process can do as well: it is picklable, and asks no more of an item than its id and its value."""

    @abstractmethod
    def __call__(self, items: list[Item]) -> Sequence[Any]:
        """One JSON result or Lost(reason) for each item."""


@dataclass
class Waiting:
    """A row on its way out. It has its outcome, or the batch that will bring it, or (not yet) neither."""

    item: Item
    digest: bytes
    outcome: Outcome | None
    cached: bool
    batch: _Batch | None = None


@dataclass
class _Batch:
    rows: list[Waiting]
    future: Future[list[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom a stage asks, and the accounts of it: shared by all stages of a run."""

    teachers: tuple[Teacher, ...] = ()
    workers: int = 1
    meter: Meter = field(default_factory=Meter)
    budget: Budget = field(default_factory=Budget)


class Stage:
    """The accounts and the loop of one `Run.map`: `taken` items in, `given` rows out, `lost` by reason, `spent` in all."""

    def __init__(
        self,
        name: str,
        items: Iterable[tuple[Any, ...]],
        work: Work,
        *,
        cache: StageCache | None,
        progress: Progress,
        batch_size: int,
        tokens: Callable[[Any], int] | None,
        retry_lost: bool,
        scratch: Path | None,
        asked: Asked | None = None,
    ) -> None:
        self.name = name
        self.taken = self.given = 0
        self.lost: Counter[str] = Counter()
        self.finished = False
        self.asked = asked or Asked()
        self.spent = cache.spent() if cache is not None else Spent()
        self._items, self._work, self._cache, self._progress = items, work, cache, progress
        self._batch_size, self._tokens, self._retry_lost, self._scratch = batch_size, tokens, retry_lost, scratch
        # Anonymous: it vanishes with the process, so an interrupted run leaves nothing to clean.
        self._lost_lines: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (goes with the stage)
        self._pool: ThreadPoolExecutor | None = None
        self._lock, self._busy = threading.Lock(), Busy()
        self._under_way: set[Future[list[Outcome]]] = set()
        self._failure: BaseException | None = None
        self._shown = self.spent.usage

    def rows(self) -> Iterator[Row]:
        """The results, in the items' order. Memory: some batches, and 8 bytes for each id seen."""
        seen = Seen()
        waiting: deque[Waiting] = deque()
        missing: list[Waiting] = []
        block = WINDOW * self._batch_size
        room = block + AHEAD * self.asked.workers * self._batch_size
        try:
            for item in self._items:
                one = self._waiting(Item(*item), seen)
                waiting.append(one)
                if one.outcome is None:
                    missing.append(one)
                # Where a batch ends depends on places among the items and on what was missing when the run first started, not
                # on how many workers there are or where it was killed: whole batches are kept, so the rest falls apart as before.
                if missing and (len(missing) == self._batch_size or self.taken % block == 0):
                    self._start(missing)
                    missing = []
                for row in self._settled(waiting, room):
                    self.given += 1
                    yield row
            if missing:
                self._start(missing)
            while waiting:
                for row in self._settled(waiting, 0):
                    self.given += 1
                    yield row
            self.finished = True
        finally:
            self._stop()
            self._progress.close()

    def write_lost(self, file: IO[bytes]) -> None:
        """Append this stage's lost rows, in the items' order, to lost.jsonl."""
        self._lost_lines.seek(0)
        for line in self._lost_lines:
            file.write(line)

    def close(self) -> None:
        """Let go of the stage's threads and files, also where nobody read its rows; what is under way ends and is kept."""
        self._stop()
        self._lost_lines.close()
        self._progress.close()

    def _waiting(self, item: Item, seen: Seen) -> Waiting:
        if not isinstance(item.id, str) or not item.id:
            raise RecipeError(f"stage {self.name!r}, item {self.taken + 1}: an id is a string that is not empty, got {item.id!r}")
        if not seen.add(item.id):
            raise RecipeError(
                f"stage {self.name!r}: the id {item.id!r} came twice (item {self.taken + 1}); results are kept by id"
            )
        try:
            named = bytes.fromhex(digest([item.id, item.value]))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"stage {self.name!r}, item {item.id!r}: the value is not JSON ({error})") from error
        kept = self._cache.get(named) if self._cache is not None else None
        if kept is not None and self._retry_lost and kept.lost:
            kept = None
        self.taken += 1
        return Waiting(item, named, kept, kept is not None)

    def _start(self, rows: list[Waiting]) -> None:
        """Have a batch done, by a worker where there is more than one."""
        if self._failure is not None:  # of an earlier batch, whose turn to give its rows out has not come
            raise self._failure
        if self.asked.workers == 1:
            for one, outcome in zip(rows, self._do(rows), strict=True):
                one.outcome = outcome
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.asked.workers, thread_name_prefix=f"distill-{self.name}")
        batch = _Batch(rows, self._pool.submit(self._do, rows))
        self._under_way.add(batch.future)
        for one in rows:
            one.batch = batch

    def _settled(self, waiting: deque[Waiting], room: int) -> list[Row]:
        """Take off the front what is done. Wait for what is not, only as long as too much is waiting."""
        rows: list[Row] = []
        count = cached = 0
        while waiting:
            one = waiting[0]
            if one.outcome is None:
                if one.batch is None:
                    break
                full = len(waiting) > room or len(self._under_way) >= AHEAD * self.asked.workers
                if not one.batch.future.done() and (rows or not full):
                    break  # where there is something to give out, that comes before any waiting
                self._collect(one.batch)
            assert one.outcome is not None
            waiting.popleft()
            count, cached = count + 1, cached + one.cached
            if one.outcome.lost:
                self._lose(one.item, one.outcome.value)
            else:
                rows.append(Row(one.item.id, one.item.value, one.outcome.value, one.item.carried))
        if count:
            used = self.spent.usage
            news = used - self._shown
            self._shown = used
            self._progress.add(count, cached=cached, tokens=news.completion_tokens, cost=news.cost)
        return rows

    def _lose(self, item: Item, reason: str) -> None:
        self.lost[reason] += 1
        line = json.dumps({"id": item.id, "stage": self.name, "reason": reason}, ensure_ascii=False)
        self._lost_lines.write(line.encode("utf-8", "surrogatepass") + b"\n")

    def _collect(self, batch: _Batch) -> None:
        """Wait for a batch; raise what its work raised."""
        try:
            outcomes = batch.future.result()
        finally:
            self._under_way.discard(batch.future)
        for one, outcome in zip(batch.rows, outcomes, strict=True):
            one.outcome = outcome

    def _do(self, rows: list[Waiting]) -> list[Outcome]:
        """Do one batch and keep it; or do not, where the budget is spent."""
        if self._failure is not None:
            raise self._failure
        if self.asked.budget.stops(self.asked.teachers):
            return [Outcome(True, NOT_ASKED)] * len(rows)
        kept: list[tuple[bytes, bytes, bool, bytes]] = []
        self._busy.start()
        try:
            done = results_of(self.name, self._work, [one.item for one in rows])
            for one, (lost, value) in zip(rows, done, strict=True):
                kept.append((one.digest, one.item.id.encode("utf-8", "surrogatepass"), lost, value))
        except BaseException as error:
            kept = []
            self._failure = error
            raise
        finally:  # a batch that failed has cost something too
            # Read back from the text, so that a first run and a resumed one hand out the same values.
            outcomes = [Outcome(lost, json.loads(value.decode("utf-8", "surrogatepass"))) for _, _, lost, value in kept]
            self._keep(kept, outcomes)
        return outcomes

    def _keep(
        self, kept: list[tuple[bytes, bytes, bool, bytes]], outcomes: list[Outcome], elsewhere: Usage | None = None
    ) -> None:
        """Commit a batch with what the teachers here have used for it, or their copies `elsewhere`."""
        with self._lock:
            usage = self.asked.meter.since(self.asked.teachers) if elsewhere is None else elsewhere
            counted = self.asked.meter.counts(self.asked.teachers) if elsewhere is None else elsewhere != Usage()
            if self._tokens is not None and not counted:
                usage = replace(usage, completion_tokens=sum(self._tokens(one.value) for one in outcomes if not one.lost))
            spent = Spent(usage=usage, seconds=self._busy.end())
            self.asked.budget.add(usage)
            self.spent += spent
            if self._cache is not None:
                try:
                    self._cache.put(kept, spent)
                except BaseException as error:
                    self._failure = self._failure or error
                    raise

    def _stop(self) -> None:
        """Start no more; what is under way has been paid for, so it ends and is kept."""
        if self._pool is None:
            return
        running = sum(1 for future in self._under_way if not future.cancel() and not future.done())
        if running:
            self._progress.say(f"{running} batches are under way; they end and are kept")
        pool, self._pool = self._pool, None
        pool.shutdown(wait=True, cancel_futures=True)


def results_of(stage: str, work: Work, items: list[Item]) -> list[tuple[bool, bytes]]:
    """What work makes of the items: whether each is lost, and the result or the reason as JSON text.

    Raises RecipeError for a wrong number of results, or one that is not JSON.
    """
    results = work(items)
    if len(results) != len(items):
        raise RecipeError(
            f"stage {stage!r}: {len(items)} items went in (first {items[0].id!r}) and {len(results)} results came "
            "out; work must return one result or Lost(reason) for each item, in order"
        )
    return [
        (isinstance(result, Lost), encoded(item.id, result.reason if isinstance(result, Lost) else result))
        for item, result in zip(items, results, strict=True)
    ]


class Seen:
    """Which ids came before, by 64 bits of each: the latest in a set, the others sorted in an array of 8 bytes an id."""

    def __init__(self) -> None:
        self._latest: set[int] = set()
        self._older = array("q")

    def add(self, name: str) -> bool:
        """Whether this id is new."""
        number = hash(name)
        place = bisect_left(self._older, number)
        if number in self._latest or (place < len(self._older) and self._older[place] == number):
            return False
        self._latest.add(number)
        if len(self._latest) > max(1 << 16, len(self._older) // 8):
            self._merge()
        return True

    def _merge(self) -> None:
        import numpy as np

        latest = np.fromiter(self._latest, dtype=np.int64, count=len(self._latest))
        together = np.concatenate([np.frombuffer(self._older, dtype=np.int64), latest]) if self._older else latest
        together.sort()
        self._older, self._latest = array("q", together.tobytes()), set()
