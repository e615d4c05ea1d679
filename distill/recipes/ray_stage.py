"""A stage beyond this machine: Ray Data hands its batches to workers with a teacher each; cache, order and accounts stay here."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from distill.errors import ConfigError, DistillError, RecipeError, TeacherError
from distill.recipes.cache import Outcome
from distill.recipes.key import teachers_in
from distill.recipes.spending import NOT_ASKED, Meter
from distill.recipes.stage import WINDOW, Item, Portable, Row, Seen, Stage, Waiting, results_of
from distill.teachers.base import Teacher, Usage

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Ray Data with one teacher for each worker. None of it changes the data.

    cpus, gpus: what Ray reserves for each worker; a model on an accelerator needs gpus. The cluster is the one of RAY_ADDRESS or
    of `ray start` on this machine; where there is none, one is started here and stopped at the end.
    """

    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no cluster could give."""
        if self.workers < 1 or self.cpus < 0 or self.gpus < 0:
            raise ConfigError(f"{self}: expected at least 1 worker, and no less than 0 CPUs and GPUs for each")


class Cluster:
    """The Ray cluster that a run's stages share: joined, or started here, when the first of them has something to do."""

    def __init__(self, engine: RayEngine) -> None:
        self.engine = engine
        self._ours = False

    def join(self) -> str:
        """Join a cluster or start one; returns what it lacks at present, in words, or "" where all workers find their place."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report home
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ConfigError("--engine ray needs Ray: pip install 'distill[ray]'") from error
        if not ray.is_initialized():
            self._connect()
        there = ray.cluster_resources()
        for name, each in (("CPU", self.engine.cpus), ("GPU", self.engine.gpus)):
            wanted = self.engine.workers * each
            if wanted > there.get(name, 0.0):
                has = f"{there.get(name, 0.0):g}"
                return f"the workers want {wanted:g} {name} together, and the cluster has {has}: some wait for their place"
        return ""

    def close(self) -> None:
        """Stop the cluster, if it was started here."""
        if self._ours:
            import ray

            ray.shutdown()
            self._ours = False

    def _connect(self) -> None:
        import ray

        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            # CPUs are counted, not used up: as many as the workers want, or they would wait for ever.
            wanted = math.ceil(self.engine.workers * self.engine.cpus)
            ray.init(num_cpus=max(os.cpu_count() or 1, wanted), **quiet)
            self._ours = True


class RayStage(Stage):
    """A stage whose missing batches are done by Ray's workers, all of them before its first row is given out.

    The items are spilled to a file of this process, what is missing in the same batches as without Ray. Each batch that comes
    back, in whatever order, is one transaction of the cache; rows are then given out in the items' order, from the cache.
    A kill costs what was under way. `cluster` is set by whoever makes the stage.
    """

    cluster: Cluster
    _stopped = False  # by the budget

    def rows(self) -> Iterator[Row]:
        """The results, in the items' order. Memory: some batches, and 8 bytes for each id seen."""
        assert isinstance(self._work, Portable) and self._cache is not None
        try:
            with tempfile.TemporaryFile(dir=self._scratch) as items:
                # By its whole path: Ray's tasks do not run in this directory.
                batches = Path(self._scratch or tempfile.gettempdir(), f".{self.name}.batches").absolute()
                try:
                    with open(batches, "wb") as file:
                        count = self._spill(items, file)
                    if count and not self._over_budget():
                        self._compute(batches, count)
                finally:
                    batches.unlink(missing_ok=True)  # a killed process leaves it; the next one writes it anew
                for item, named, cached in _unpickled(items):
                    outcome = self._cache.get(named)
                    if outcome is None and (cached or not self._stopped):
                        raise RecipeError(
                            f"stage {self.name!r}, item {item.id!r}: its result was kept and cannot be read back; is the disk "
                            "well? Give the same command again: what cannot be read is done anew"
                        )
                    outcome = outcome or Outcome(True, NOT_ASKED)
                    if outcome.lost:
                        self._lose(item, outcome.value)
                        continue
                    self.given += 1
                    yield Row(item.id, item.value, outcome.value, item.carried)
            self.finished = True
        finally:
            self._stop()
            self._progress.close()

    def _spill(self, items: IO[bytes], batches: IO[bytes]) -> int:
        """Write all items to one file and the batches of missing ones to the other; returns how many batches there are."""
        seen, missing, count = Seen(), list[Waiting](), 0
        for item in self._items:
            one = self._waiting(Item(*item), seen)
            try:
                pickle.dump((one.item, one.digest, one.cached), items)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise RecipeError(
                    f"stage {self.name!r}, item {one.item.id!r}: what it carries cannot be written to disk ({error}), which the "
                    "engine ray needs; carry plain values and dataclasses"
                ) from error
            if one.outcome is None:
                missing.append(one)
            else:
                self._progress.add(1, cached=1)
            if missing and (len(missing) == self._batch_size or self.taken % (WINDOW * self._batch_size) == 0):
                batches.write(_line(missing))
                missing, count = [], count + 1
        if missing:
            batches.write(_line(missing))
            count += 1
        items.seek(0)
        return count

    def _compute(self, batches: Path, count: int) -> None:
        """Have the batches done and keep each one as it comes."""
        assert isinstance(self._work, Portable)
        shortage = self.cluster.join()
        if shortage:
            self._progress.say(shortage)
        self._busy.start()
        try:
            for done in _done(self.name, self._work, self.cluster.engine, batches, count):
                self._commit(done)
                if self._over_budget():
                    break  # what the other workers have under way is given up
        finally:
            self._busy.end()

    def _commit(self, done: _Done) -> None:
        kept = [
            (bytes.fromhex(named), name.encode("utf-8", "surrogatepass"), lost, text.encode("utf-8", "surrogatepass"))
            for named, name, lost, text in done.rows
        ]
        outcomes = [Outcome(lost, json.loads(text)) for _, _, lost, text in done.rows]
        before = self.spent.usage
        self._keep(kept, outcomes, done.usage)
        self._busy.start()  # _keep has read the clock
        if done.error is not None:  # raised only now: a batch that failed has cost something too
            kind, message = done.error
            raise (TeacherError if kind == TeacherError.__name__ else RecipeError)(message)
        news = self.spent.usage - before
        self._progress.add(len(kept), tokens=news.completion_tokens, cost=news.cost)

    def _over_budget(self) -> bool:
        self._stopped = self.asked.budget.stops(self.asked.teachers)
        return self._stopped


class _Done(NamedTuple):
    """A batch as it came back: (digest, id, whether lost, JSON text) of each item, what it used, or the error that it met."""

    rows: list[tuple[str, str, bool, str]]
    usage: Usage
    error: tuple[str, str] | None


class _Worker:
    """What lives in each of Ray's workers: the stage's work, with the teacher that it loads at its first batch.

    work: pickled by the process that started all of them. path: where that one finds its modules, a recipe of one's own too.
    """

    def __init__(self, stage: str, work: bytes, path: list[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self.stage, self.work = stage, pickle.loads(work)
        self.teachers: tuple[Teacher, ...] = teachers_in(self.work)
        self.meter = Meter()
        self.meter.watch(self.teachers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"done": [self.do(json.loads(text)) for text in batch["batch"]]}

    def do(self, rows: list[tuple[str, str, Any]]) -> str:
        done: dict[str, Any] = {"rows": [], "error": None}
        try:
            results = results_of(self.stage, self.work, [Item(name, value) for _, name, value in rows])
            done["rows"] = [
                (named, name, lost, text.decode("utf-8", "surrogatepass"))
                for (named, name, _), (lost, text) in zip(rows, results, strict=True)
            ]
        except DistillError as error:
            done["error"] = (type(error).__name__, str(error))
        return json.dumps({**done, "usage": asdict(self.meter.since(self.teachers))})


def _read(text: str) -> _Done:
    """What `_Worker.do` said."""
    found = json.loads(text)
    error = None if found["error"] is None else (found["error"][0], found["error"][1])
    return _Done([(named, name, lost, value) for named, name, lost, value in found["rows"]], Usage(**found["usage"]), error)


def _done(stage: str, work: Portable, engine: RayEngine, batches: Path, count: int) -> Iterator[_Done]:
    """Each batch of the file as a worker has done it, as soon as it is."""
    import ray.data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # that its bars are off is no news
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # the stage has its own
    context.target_max_block_size = 1  # every batch travels alone, so that a kill costs no more than what is under way
    try:
        with ray.data.DataContext.current(context):
            done = _dataset(stage, work, engine, batches, count)
            for part in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for text in dict(part)["done"]:
                    yield _read(text)
    except RayError as error:
        told = [line for line in str(error).splitlines() if line.strip()]
        raise RecipeError(
            f"stage {stage!r}: Ray could not do a batch ({type(error).__name__}: {told[-1] if told else 'no reason given'}). "
            "What is done is kept: see to it, and give the same command again"
        ) from error


def _dataset(stage: str, work: Portable, engine: RayEngine, batches: Path, count: int) -> Dataset:
    import ray.data
    from ray import cloudpickle

    pickled = cloudpickle.dumps(_settings_of(work))  # a class of the script that runs, or of a recipe's own file, goes along
    source = ray.data.read_datasource(_spilled(batches, count), num_cpus=0, override_num_blocks=1)
    return source.map_batches(
        _Worker,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=engine.workers),
        fn_constructor_args=(stage, pickled, [folder or os.getcwd() for folder in sys.path]),
        num_cpus=engine.cpus,
        num_gpus=engine.gpus,
    )


def _spilled(batches: Path, count: int) -> Any:
    """The file of batches for Ray: one task on this machine reads it, no faster than the workers ask."""
    import pyarrow as pa
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    path, size = str(batches), batches.stat().st_size

    def read() -> Iterator[pa.Table]:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield pa.table({"batch": pa.array([line], pa.large_string())})

    class Spilled(Datasource):
        @property
        def supports_distributed_reads(self) -> bool:
            return False  # no other machine has the file

        def estimate_inmemory_data_size(self) -> int:
            return size

        def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[Any]:
            return [ReadTask(read, BlockMetadata(num_rows=count, size_bytes=size, input_files=None, exec_stats=None))]

    return Spilled()


def _settings_of(value: Any) -> Any:
    """A copy of a dataclass as its settings say, without what it has loaded or cached since; teachers see to that themselves."""
    if isinstance(value, Teacher) or not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {one.name: _settings_of(getattr(value, one.name)) for one in dataclasses.fields(value) if one.init}
    return dataclasses.replace(value, **fields)


def _line(missing: list[Waiting]) -> bytes:
    # Escaped, so that a lone surrogate and a line separator within a text do no harm.
    return json.dumps([[one.digest.hex(), one.item.id, one.item.value] for one in missing]).encode() + b"\n"


def _unpickled(items: IO[bytes]) -> Iterator[tuple[Item, bytes, bool]]:
    """What `_spill` has written to this process's own file."""
    while True:
        try:
            yield pickle.load(items)
        except EOFError:
            return
