"""One run of a recipe: a folder that one process at a time may write, and the accounts of every row."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

from distill.errors import ConfigError, RecipeError, RecordError
from distill.recipes import accounts
from distill.recipes.cache import Cache, Spent, StageCache, replace_file
from distill.recipes.estimate import Estimate
from distill.recipes.folder import Resume, full_disk_explained, lock, prepare, refuse
from distill.recipes.key import changes, describe, teachers_in
from distill.recipes.progress import Progress
from distill.recipes.ray_stage import Cluster, RayEngine, RayStage
from distill.recipes.shards import Fingerprinted, Note, Shard, Taken, check_folder, share, write_note
from distill.recipes.spending import NOT_ASKED, Budget, Meter
from distill.recipes.stage import Asked, Portable, Row, Stage, Work
from distill.records import Record
from distill.teachers.base import Sampling

if TYPE_CHECKING:
    from distill.records.manifest import Manifest

T = TypeVar("T")
_STAGE_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


WORKERS = 8  # batches under way at once where the teachers are concurrent and nobody said how many


class Run:
    """A recipe's run folder: `stages/` (what was computed), `records/`, `lost.jsonl`, `summary.json`.

    folder=None keeps nothing (a preview). resume: what to do where the folder holds results: "never" refuses it, "if_possible"
    goes on where the settings match and starts a stage over where they do not, "always" insists on going on. fresh=True sets
    earlier results aside; retry_lost=True does the rows again that an earlier start lost; extend=True lets a finished folder go
    on with a source that has changed since. `max_batch` bounds every stage's batch.
    workers: batches under way at once in a stage that asks concurrent teachers only (by default 8); other stages have one.
    max_cost (in the currency of the teachers' prices), max_tokens: what the folder may use over all its restarts; then no
    further batch is begun, and the rows that were not reached are lost for that reason, until a larger budget asks them.
    shard: the share of the source's rows that is this job's; the folder remembers it. dry_run=True asks no teacher: stages that
    would are read to the end of their items, counted in `estimate`, and yield nothing. engine: workers beyond this process, for
    the stages of `generate` and `judge`; a stage of a recipe's own stays here.

    Raises RecipeError where another process writes the folder.

    >>> with Run(None, quiet=True) as run:
    ...     rows = run.map("double", [("a", 1), ("b", 2)], lambda items: [2 * item.value for item in items], key={"version": 1})
    ...     [row.result for row in rows]
    [2, 4]
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        resume: Resume = "if_possible",
        fresh: bool = False,
        retry_lost: bool = False,
        extend: bool = False,
        quiet: bool = False,
        max_batch: int | None = None,
        workers: int | None = None,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        shard: Shard | None = None,
        dry_run: bool = False,
        engine: RayEngine | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise RecipeError(f"workers is {workers}: give at least 1, or leave it out")
        self.folder = None if folder is None else Path(folder)
        self.stages: list[Stage] = []
        self.counts: dict[str, Counter[str]] = {}
        self.budget = Budget(max_cost=max_cost, max_tokens=max_tokens)
        self._resume, self._retry_lost, self._extend, self._quiet = resume, retry_lost, extend, quiet
        self._max_batch, self._workers, self._meter, self._sources = max_batch, workers, Meter(), 0
        self.shard, self._taken = shard, list[Taken]()
        self.estimate = Estimate() if dry_run else None
        self._cluster = None if engine is None else Cluster(engine)
        self._lock: IO[str] | None = None
        self._cache: Cache | None = None
        self._spent: Spent | None = None  # of a folder that is closed
        if self.folder is not None:
            try:
                with full_disk_explained(self.folder):
                    self._lock = lock(self.folder)
                    check_folder(self.folder, shard)
                    self._say(prepare(self.folder / "stages", resume=resume, fresh=fresh))
                    self._cache = Cache(self.folder / "stages")
                    refuse(self.folder, resume, holds_results=self._cache.holds_results())
                    self.budget.add(self._cache.spent().usage)
            except BaseException:  # Ctrl-C too: the folder's lock must go
                self.close()
                raise

    def map(
        self,
        name: str,
        items: Iterable[tuple[Any, ...]],
        work: Work,
        *,
        key: Mapping[str, Any],
        batch_size: int = 16,
        total: int | None = None,
        tokens: Callable[[Any], int] | None = None,
        keep: bool = True,
        asks: Any = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Row]:
        """Apply `work` to items in batches; yield one Row for each result, in the items' order, computing nothing twice.

        items: (id, JSON value) pairs, or Items, whose third part is carried to the row and changes no key; ids differ. work: a
        list of Item -> one JSON result or Lost(reason) for each. key: what changes the results beside the items themselves
        (teacher, sampling, template, a version of the code); dataclasses and teachers describe themselves. Batch size,
        concurrency and progress do not belong in it: no result may depend on them.
        tokens: how many tokens a result cost, for the progress line. keep=False for a stage cheaper than reading its cache.
        asks: whatever `work` asks, with the teachers inside it (a generator, a judge); by default what is in the key. Their usage
        is the stage's, and where all of them are concurrent, `work` is called from several threads. sampling: how a generator is
        asked, for an estimate before it is.

        Raises RecipeError on a repeated id, a value or result that is not JSON, a wrong number of results, a budget in money
        where a price is missing, or (with resume="always") a key that is not the one of before.
        """
        if not name or set(name) - _STAGE_NAME:
            raise RecipeError(f"stage name {name!r}: use lower-case letters, digits and _ only; it names a file")
        if any(stage.name == name for stage in self.stages):
            raise RecipeError(f"stage {name!r} was mapped twice in one run; give the second one another name")
        if batch_size < 1:
            raise RecipeError(f"stage {name!r}: batch_size must be at least 1, got {batch_size}")
        if total is None and isinstance(items, list | tuple):
            total = len(items)
        if self.shard is not None and any(taken.rows == total for taken in self._taken):
            total = len(self.shard.of(total or 0))  # a recipe counts all rows of its source
        teachers = teachers_in(dict(key) if asks is None else asks)
        self.budget.refuse_unpriced(teachers)
        if self.estimate is not None and teachers:
            return self.estimate.work(name, items, teachers, total=total)
        self._meter.watch(teachers)
        concurrent = bool(teachers) and all(teacher.concurrent for teacher in teachers)
        priced = any(teacher.price is not None for teacher in teachers)
        cache = self._stage_cache(name, describe(dict(key))) if keep and self._cache is not None else None
        kind = RayStage if self._cluster is not None and cache is not None and isinstance(work, Portable) else Stage
        stage = kind(
            name,
            items,
            work,
            cache=cache,
            progress=Progress(
                name,
                total=total,
                quiet=self._quiet,
                spent=(Spent() if cache is None else cache.spent()).usage.cost if priced else None,
            ),
            batch_size=min(batch_size, self._max_batch or batch_size),
            tokens=tokens,
            retry_lost=self._retry_lost,
            scratch=self.folder,
            asked=Asked(
                teachers=teachers,
                workers=(self._workers or WORKERS) if concurrent else 1,
                meter=self._meter,
                budget=self.budget,
            ),
        )
        if isinstance(stage, RayStage) and self._cluster is not None:
            stage.cluster = self._cluster
        self.stages.append(stage)
        return stage.rows()

    def take(self, source: Iterable[T], *, limit: int | None = None) -> Iterator[T]:
        """The rows of a recipe's source that this run is to do, in order: the first `limit`, or this job's share of them.

        Raises RecipeError where the folder is finished and the source (one with a `fingerprint()`) has changed since, unless the
        run was told to extend it.
        """
        self._sources += 1
        if self._cache is not None and isinstance(source, Fingerprinted):
            self._compare(self._cache, f"source {self._sources}", source)
        if self.shard is None:
            return islice(source, limit)
        rows, taken = share(source, self.shard, limit=limit)
        self._taken.append(taken)
        if self.folder is not None:
            write_note(self.folder, Note(shard=self.shard, sources=tuple(self._taken)))
        return rows

    def total(self, source: Sized, limit: int | None = None, *, of: str = "prompt") -> int:
        """How many rows of the source the run as a whole takes, for a stage's `total`. ConfigError for a limit below 1.

        of: what the rows are, for the error.
        """
        if limit is not None and limit < 1:
            raise ConfigError(f"limit is {limit}: give at least 1 {of}, or leave it out for all of them")
        return len(source) if limit is None else min(limit, len(source))

    def count(self, title: str, outcome: str, n: int = 1) -> None:
        """Count what became of rows that are not lost (labels, verdicts); shown in the summary."""
        self.counts.setdefault(title, Counter())[outcome] += n

    def write_records(self, records: Iterable[Record], *, about: Manifest | None = None) -> Manifest:
        """Finish: records/ (Parquet shards, manifest, card), lost.jsonl and summary.json, each whole or not there at all.

        A shard may end without any record: then records/ is not there, and the manifest counts none.

        about: what the manifest says beside the counts (recipe, teacher, sampling); the lost rows are filled in here.
        """
        if self.folder is None:
            raise RecipeError("a preview has no folder to write records to; give Run a folder")
        from distill.records import write_card, write_manifest, write_records

        if self.shard is not None:
            records = iter(records)
            first = next(records, None)
            if not self._taken:
                raise RecipeError(
                    f"shard {self.shard}: the recipe takes no share of its source, so every shard would make all records; read "
                    "it by run.take(source), or leave --shard out"
                )
            if first is None:
                return self._finish_without_records(about)
            records = chain([first], records)
        with full_disk_explained(self.folder):
            try:
                manifest = write_records(records, self.folder / "records", about=about)
            except RecordError:
                if all(stage.finished for stage in self.stages):
                    self._say(self.finish())  # where no row became a record, the accounts say why
                raise
            lost = sum((stage.lost for stage in self.stages), Counter())
            usage = accounts.usage_json(self.spent.usage)
            manifest = replace(manifest, lost=dict(sorted(lost.items())), usage=usage)
            write_manifest(self.folder / "records", manifest)
            write_card(self.folder / "records", manifest)
            self.finish()
        self._remember(manifest)
        return manifest

    def finish(self) -> str:
        """Check that every row is accounted for, write lost.jsonl and summary.json, and return the summary table.

        Raises RecipeError where a stage was not read to its end or rows in are not rows out and lost.
        """
        for stage in self.stages:
            if not stage.finished:
                raise RecipeError(
                    f"stage {stage.name!r} was left after {stage.given} rows; read it to its end, or limit the items that go in"
                )
            if stage.taken != stage.given + stage.lost.total():
                raise RecipeError(
                    f"stage {stage.name!r}: {stage.taken} in, {stage.given} out, {stage.lost.total()} lost do not add up"
                )
        if self.folder is not None:
            with full_disk_explained(self.folder):
                self._write_lost(self.folder / "lost.jsonl")
                text = json.dumps(self.accounts(), indent=2, ensure_ascii=False) + "\n"
                replace_file(self.folder / "summary.json", text)
        return self.table()

    @property
    def spent(self) -> Spent:
        """What the folder has used over all its restarts; without a folder, what this run has."""
        if self._cache is not None:
            return self._cache.spent()
        return self._spent or sum((stage.spent for stage in self.stages), Spent())

    @property
    def not_asked(self) -> int:
        """Rows that were not reached because the budget is spent."""
        return sum(stage.lost[NOT_ASKED] for stage in self.stages)

    def accounts(self) -> dict[str, Any]:
        """Rows in, out and lost of every stage, what it used and what the folder used, and all counts, as JSON."""
        return accounts.accounts(self.stages, self.counts, self.spent)

    def table(self) -> str:
        """The accounts as text, one line for each stage and each count."""
        return accounts.table(self.stages, self.counts, self.spent)

    def close(self) -> None:
        """Let another process write the folder."""
        with ExitStack() as last_first:
            if self._lock is not None:
                last_first.callback(self._lock.close)  # the kernel drops the lock with the file, also when the process is killed
            if self._cache is not None:
                last_first.callback(self._cache.close)
                last_first.callback(self._note_spent, self._cache)
            self._lock = self._cache = None
            if self._cluster is not None:
                last_first.callback(self._cluster.close)
            for stage in self.stages:
                last_first.callback(stage.close)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _finish_without_records(self, about: Manifest | None) -> Manifest:
        from distill.records.manifest import Manifest

        assert self.folder is not None
        self._say(self.finish())
        shutil.rmtree(self.folder / "records", ignore_errors=True)  # of an earlier start, with other settings
        manifest = replace(about or Manifest(), counts={"negative": 0, "positive": 0})
        self._remember(manifest)
        return manifest

    def _remember(self, manifest: Manifest) -> None:
        """The folder is finished, unless rows wait for a larger budget."""
        if self.not_asked:
            return
        if self._cache is not None:
            self._cache.note("finished", True)
        if self.shard is not None and self.folder is not None:
            note = Note(shard=self.shard, sources=tuple(self._taken), recipe=manifest.recipe, recipe_hash=manifest.recipe_hash)
            write_note(self.folder, replace(note, records=manifest.rows))

    def _stage_cache(self, name: str, key: Any) -> StageCache:
        assert self._cache is not None
        before = self._cache.key_before(name, key)
        if before is not None:
            changed = changes(before, key)
            if self._resume == "always":
                raise RecipeError(
                    f"stage {name!r}: {changed}; resume=always goes on with the same settings only: put them back, or leave it "
                    "out"
                )
            self._say(f"stage {name}: {changed}; starting over, the old results stay in {self._cache.path}")
        return self._cache.stage(name, key)

    def _compare(self, cache: Cache, name: str, source: Fingerprinted) -> None:
        """Note what the source is now, once it is known that it may be that."""
        rows = len(source) if isinstance(source, Sized) else None
        now, before = {"fingerprint": source.fingerprint(), "rows": rows}, cache.fact(name)
        if before is not None and before["fingerprint"] != now["fingerprint"]:
            changed = f"the source has changed since ({_source(before)} -> {_source(now)})"
            if cache.fact("finished") and not self._extend:
                raise RecipeError(
                    f"{self.folder} is finished, and {changed}; to reuse its results and ask what is new, extend it "
                    "(--extend true), or choose another folder"
                )
            self._say(f"{changed}; rows that are the same are not done again")
        if before != now:
            cache.note("finished", False)
            cache.note(name, now)

    def _note_spent(self, cache: Cache) -> None:
        with suppress(RecipeError):  # whatever is wrong with the file has been said
            self._spent = cache.spent()

    def _write_lost(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            for stage in self.stages:
                stage.write_lost(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _say(self, text: str) -> None:
        if text and not self._quiet:
            print(text, file=sys.stderr)


def _source(known: Mapping[str, Any]) -> str:
    rows = "" if known["rows"] is None else f"{known['rows']} rows, "
    return f"{rows}hash {known['fingerprint'][:12]}"
