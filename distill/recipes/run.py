"""One run of a recipe: a folder that one process at a time may write, and the accounts of every row."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

from distill.errors import RecipeError, RecordError
from distill.recipes.cache import Cache, replace_file
from distill.recipes.key import describe, digest
from distill.recipes.progress import Progress
from distill.recipes.stage import Row, Stage, Work
from distill.records import Record
from distill.teachers.base import Sampling

if TYPE_CHECKING:
    from distill.records.manifest import Manifest

T = TypeVar("T")
_STAGE_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class Run:
    """A recipe's run folder: `stages/` (what was computed), `records/`, `lost.jsonl`, `summary.json`.

    folder=None keeps nothing (a preview). resume=False refuses a folder that already holds results; fresh=True sets them aside
    and starts over; retry_lost=True does the rows again that an earlier start lost. `max_batch` bounds every stage's batch.

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
        resume: bool = True,
        fresh: bool = False,
        retry_lost: bool = False,
        quiet: bool = False,
        max_batch: int | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.stages: list[Stage] = []
        self.counts: dict[str, Counter[str]] = {}
        self._retry_lost, self._quiet, self._max_batch = retry_lost, quiet, max_batch
        self._lock: IO[str] | None = None
        if self.folder is not None:
            if self.folder.exists() and not self.folder.is_dir():
                raise RecipeError(f"{self.folder} is a file; give a folder for the run, new or an earlier one of this recipe")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            self._prepare(self.folder / "stages", resume=resume, fresh=fresh)

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
        asks: whatever `work` asks, with the teachers inside it (a generator, a judge): their usage is the stage's. sampling: how
        a generator is asked, for an estimate before it is.

        Raises RecipeError on a repeated id, a value or result that is not JSON, or a wrong number of results.
        """
        if not name or set(name) - _STAGE_NAME:
            raise RecipeError(f"stage name {name!r}: use lower-case letters, digits and _ only; it names a file")
        if any(stage.name == name for stage in self.stages):
            raise RecipeError(f"stage {name!r} was mapped twice in one run; give the second one another name")
        if batch_size < 1:
            raise RecipeError(f"stage {name!r}: batch_size must be at least 1, got {batch_size}")
        if total is None and isinstance(items, list | tuple):
            total = len(items)
        stage = Stage(
            name,
            items,
            work,
            cache=self._cache(name, describe(dict(key))) if keep and self.folder is not None else None,
            progress=Progress(name, total=total, quiet=self._quiet),
            batch_size=min(batch_size, self._max_batch or batch_size),
            tokens=tokens,
            retry_lost=self._retry_lost,
            scratch=self.folder,
        )
        self.stages.append(stage)
        return stage.rows()

    def take(self, source: Iterable[T], *, limit: int | None = None) -> Iterator[T]:
        """The rows of a recipe's source that this run is to do, in order: the first `limit`, or this job's share of them."""
        return islice(source, limit)

    def count(self, title: str, outcome: str, n: int = 1) -> None:
        """Count what became of rows that are not lost (labels, verdicts); shown in the summary."""
        self.counts.setdefault(title, Counter())[outcome] += n

    def write_records(self, records: Iterable[Record], *, about: Manifest | None = None) -> Manifest:
        """Finish: records/ (Parquet shards, manifest, card), lost.jsonl and summary.json, each whole or not there at all.

        about: what the manifest says beside the counts (recipe, teacher, sampling); the lost rows are filled in here.
        """
        if self.folder is None:
            raise RecipeError("a preview has no folder to write records to; give Run a folder")
        from distill.records import write_card, write_manifest, write_records

        try:
            manifest = write_records(records, self.folder / "records", about=about)
        except RecordError:
            if all(stage.finished for stage in self.stages):
                self._say(self.finish())  # where no row became a record, the accounts say why
            raise
        lost = sum((stage.lost for stage in self.stages), Counter())
        manifest = replace(manifest, lost=dict(sorted(lost.items())))
        write_manifest(self.folder / "records", manifest)
        write_card(self.folder / "records", manifest)
        self.finish()
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
            self._write_lost(self.folder / "lost.jsonl")
            replace_file(self.folder / "summary.json", json.dumps(self.accounts(), indent=2, ensure_ascii=False) + "\n")
        return self.table()

    def accounts(self) -> dict[str, Any]:
        """Rows in, out and lost of every stage, and all counts, as JSON."""
        stages = [
            {"name": stage.name, "in": stage.taken, "out": stage.given, "lost": dict(sorted(stage.lost.items()))}
            for stage in self.stages
        ]
        return {"stages": stages, "counts": {title: dict(sorted(count.items())) for title, count in self.counts.items()}}

    def table(self) -> str:
        """The accounts as text, one line for each stage and each count."""
        width = max([len("stage"), *(len(stage.name) for stage in self.stages)])
        lines = [f"{'stage':<{width}} {'in':>9} {'out':>9} {'lost':>9}"]
        for stage in self.stages:
            reasons = ", ".join(f"{count} {reason}" for reason, count in stage.lost.most_common())
            line = f"{stage.name:<{width}} {stage.taken:>9} {stage.given:>9} {stage.lost.total():>9}  {reasons}"
            lines.append(line.rstrip())
        for title, count in self.counts.items():
            lines.append(f"{title}: " + ", ".join(f"{n} {outcome}" for outcome, n in count.most_common()))
        return "\n".join(lines)

    def close(self) -> None:
        """Let another process write the folder."""
        for stage in self.stages:
            stage.close()
        if self._lock is not None:
            self._lock.close()  # the kernel drops the lock with the file, also when the process is killed
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _cache(self, name: str, key: Any) -> Cache:
        assert self.folder is not None
        header = {"stage": name, "key": key}
        path = self.folder / "stages" / f"{name}-{digest(header)[:16]}.jsonl"
        others = sorted(path.parent.glob(f"{name}-{'[0-9a-f]' * 16}.jsonl"), key=lambda file: file.stat().st_mtime)
        if others and not path.exists():
            self._say(f"stage {name}: {_changes(others[-1], key)}; starting over, the old results stay in {others[-1]}")
        cache = Cache(path, header)
        if cache.cut_bytes:
            self._say(f"stage {name}: cut an unfinished batch ({cache.cut_bytes} bytes) off {path}; it is done again")
        return cache

    def _prepare(self, stages: Path, *, resume: bool, fresh: bool) -> None:
        if not stages.exists() or not any(stages.iterdir()):
            return
        if fresh:
            number = 1
            while (aside := stages.with_name(f"stages.old{number}")).exists():
                number += 1
            stages.rename(aside)
            self._say(f"starting over; the old results stay in {aside}")
        elif not resume:
            self.close()
            raise RecipeError(f"{stages} already holds results; choose another folder, or start over with fresh=True")

    def _write_lost(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "wb") as file:
            for stage in self.stages:
                stage.write_lost(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr)


def _lock(folder: Path) -> IO[str]:
    """Hold `folder/.lock` as long as this process lives.

    A lock of the kernel rather than a file with a pid: it ends with its holder, however that ends, and no reused pid can fool it.
    """
    file = open(folder / ".lock", "a+")  # noqa: SIM115 (held until the run closes)
    if sys.platform == "win32":  # no flock there: the folder is written unguarded
        return file
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RecipeError(
            f"{folder} is being written by process {holder}; wait for it or stop it, or choose another folder"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _changes(old: Path, key: Any) -> str:
    """Which settings differ from the ones an older cache was made from."""
    with open(old, "rb") as file:
        try:
            before = json.loads(file.readline())["key"]
        except (ValueError, KeyError, TypeError):
            return "an older cache has an unreadable first line"
    was, now = _flat(before), _flat(key)
    missing = object()
    names = [name for name in {**was, **now} if was.get(name, missing) != now.get(name, missing)]
    return "changed: " + ", ".join(
        f"{name} ({was.get(name, 'not there')!r} -> {now.get(name, 'not there')!r})" for name in names[:5]
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{path}.{key}" if path else key).items()}
    return {path: value}
