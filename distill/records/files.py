"""Records on disk: a .jsonl file, a .parquet file, or a folder of shards; read, written and validated as a stream.

Memory does not grow with rows. A file appears under its own name only when it is whole, and a folder's shards carry how
many they are (part-00000-of-00003), so that an unfinished folder can never be read as a finished one.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Literal

from distill.errors import RecordError
from distill.records import jsonl, parquet
from distill.records.manifest import MANIFEST_NAME, Manifest, Shard, now, sha256_of, versions, write_manifest
from distill.records.schema import Record

FileFormat = Literal["jsonl", "parquet"]
ROWS_PER_SHARD = 100_000
SUFFIXES: dict[str, FileFormat] = {".jsonl": "jsonl", ".parquet": "parquet"}
_READERS = {"jsonl": jsonl.rows, "parquet": parquet.rows}
_SHARD_NAME = re.compile(r"part-(\d{5,})-of-(\d{5,})\.(?:jsonl|parquet)")
_SOURCES_KEPT = 100  # distinct sources counted by name; the rest is counted together, or memory would grow with rows
OTHER_SOURCES = "(other sources)"
AnyPath = str | os.PathLike[str]


def read_records(path: AnyPath) -> Iterator[Record]:
    """Every record of a file or of a folder's shards, in order, one at a time.

    Path and shard names are checked at once, each row when it is reached. That ids differ between shards is checked where
    records are written and by validate_files, not here.

    Raises:
        RecordError: nothing to read at the path, or the first row that breaks the schema (`file:line: field: ...`).
    """
    return _read(_shards(Path(path)))


def write_records(
    records: Iterable[Record],
    path: AnyPath,
    *,
    format: FileFormat | None = None,
    rows_per_shard: int | None = None,
    about: Manifest | None = None,
) -> Manifest:
    """Write records to one .jsonl or .parquet file, or to a folder of shards with its manifest.json; replace what was there.

    Nothing is visible under its own name before the last record is written and known to be unique. Old shards go before the
    new ones come, so a stop in between leaves a folder that is refused, not one that mixes both.

    Arguments:
        path: its suffix chooses; without one it is a folder. An existing folder is always a folder.
        format: of a folder's shards ("parquet" unless given).
        rows_per_shard: of a folder; 100,000 unless given.
        about: what to say in the manifest beside the counts (recipe, teacher, licence, ...).

    Returns the manifest: rows by polarity, groups, sources, and each shard's rows, bytes and SHA-256.

    Raises:
        RecordError: no records, an id used twice, an unknown suffix, or a format that the suffix contradicts.

    >>> import tempfile
    >>> from distill.records import Message
    >>> ask = (Message(role="user", content="What is the capital of France?"),)
    >>> record = Record(id="fr-1", group="fr", prompt=ask, response="Paris", polarity="positive")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = write_records([record], f"{folder}/capitals.jsonl")
    ...     assert list(read_records(f"{folder}/capitals.jsonl")) == [record]
    >>> dict(manifest.counts), manifest.groups
    ({'negative': 0, 'positive': 1}, 1)
    """
    path = Path(path)
    kind, folder = _target(path, format)
    if not folder and rows_per_shard is not None:
        raise RecordError(f"{path}: rows_per_shard is for a folder of shards; name a folder, or leave it out")
    limit = ROWS_PER_SHARD if rows_per_shard is None and folder else rows_per_shard
    if limit is not None and limit < 1:
        raise RecordError(f"rows_per_shard: got {limit}, expected 1 or more")
    home = path if folder else path.parent
    home.mkdir(parents=True, exist_ok=True)
    if folder:
        _refuse_strangers(home)
    written = _Partials(home, "part" if folder else path.stem, kind, limit)
    with closing(_Tally()) as tally, closing(written):
        for record in records:
            written.write(record)
            tally.add(record, 0, tally.rows + 1)
        if not tally.rows:
            raise RecordError(f"{path}: no records to write; look at the counts of lost rows for the reason")
        repeated = tally.repeated_ids(1)
        if repeated:
            name, times, (_, first), (_, last) = repeated[0]
            raise RecordError(
                f"{path}: id {name!r} is used by {times} records (the {first}. and the {last}. written); "
                "ids name one record each: distill.records.make_id makes one from the content"
            )
        manifest = replace(
            about or Manifest(),
            counts=dict(tally.counts),
            groups=tally.groups(),
            sources=dict(tally.sources),
            created=now(),
            versions={**versions(), **(about.versions if about else {})},
            shards=written.publish(None if folder else path),
        )
    if folder:
        write_manifest(path, manifest)
        _sync_folder(path)
    return manifest


@dataclass(frozen=True, kw_only=True)
class Report:
    """What validate_files found: rows that are records, and errors (`file:line: field: ...`), at most as many as asked for."""

    rows: int
    counts: dict[str, int]
    groups: int
    files: int
    errors: tuple[str, ...]
    stopped: bool  # there were more errors than asked for; the counts end where reading ended

    @property
    def ok(self) -> bool:
        """Whether every row is a record and no id is used twice."""
        return not self.errors

    def __str__(self) -> str:
        polarities = f"{self.counts['positive']} positive, {self.counts['negative']} negative"
        what = f"{self.rows} records ({polarities}) in {self.groups} groups"
        found = "no errors" if self.ok else f"{len(self.errors)} errors{' and more' if self.stopped else ''}"
        return "\n".join([f"{what}, {self.files} files: {found}", *self.errors])


def validate_files(path: AnyPath, *, max_errors: int = 20) -> Report:
    """Read everything at a path and report up to `max_errors` errors, repeated ids across shards included.

    Raises:
        RecordError: max_errors below 1. A path with nothing to read is reported, not raised.
    """
    if max_errors < 1:
        raise RecordError(f"max_errors: got {max_errors}, expected 1 or more")
    try:
        shards = _shards(Path(path))
    except RecordError as error:
        counts = {"positive": 0, "negative": 0}
        return Report(rows=0, counts=counts, groups=0, files=0, errors=(str(error),), stopped=False)
    errors: list[str] = []
    with closing(_Tally()) as tally:
        for index, number, record in _numbered(shards):
            if isinstance(record, Record):
                tally.add(record, index, number)
            else:
                errors.append(str(record))
            if len(errors) > max_errors:  # one more than asked for, so that `stopped` is the truth
                break
        for name, times, first, last in tally.repeated_ids(max_errors + 1 - len(errors)):
            at, before = _where(shards, last), _where(shards, first)
            errors.append(f"{at}: id: {name!r} is used {times} times, first at {before}; give each record its own")
        return Report(
            rows=tally.rows,
            counts=dict(tally.counts),
            groups=tally.groups(),
            files=len(shards),
            errors=tuple(errors[:max_errors]),
            stopped=len(errors) > max_errors,
        )


def _read(shards: list[Path]) -> Iterator[Record]:
    for _, _, record in _numbered(shards):
        if not isinstance(record, Record):
            raise record
        yield record


def _numbered(shards: list[Path]) -> Iterator[tuple[int, int, Record | RecordError]]:
    """Each row of each shard: the shard's index, the row's number in it, and the record or what is wrong with it."""
    for index, shard in enumerate(shards):
        for number, record in _READERS[SUFFIXES[shard.suffix]](shard):
            yield index, number, record


def _where(shards: list[Path], place: tuple[int, int]) -> str:
    shard, number = shards[place[0]], place[1]
    return f"{shard}:{number}" if shard.suffix == ".jsonl" else f"{shard}: row {number}"


def _shards(path: Path) -> list[Path]:
    """The files to read at a path, in order.

    Raises:
        RecordError: no such path, an unknown suffix, a folder without shards, with two formats, or with some shards missing.
    """
    if path.is_dir():
        return _shards_of_folder(path)
    if not path.exists():
        raise RecordError(f"{path}: no such file or folder; expected a .jsonl file, a .parquet file or a folder of them")
    if path.suffix not in SUFFIXES:
        raise RecordError(f"{path}: unknown file extension {path.suffix!r}, expected .jsonl or .parquet; convert or rename it")
    return [path]


def _shards_of_folder(folder: Path) -> list[Path]:
    visible = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    shards = [file for file in visible if file.suffix in SUFFIXES and file.is_file()]
    if not shards:
        found = ", ".join(file.name for file in visible[:3]) or "nothing"
        raise RecordError(f"{folder}: folder without shards: expected .jsonl or .parquet, found {found}; did it finish?")
    if len({shard.suffix for shard in shards}) > 1:
        names = [next(shard.name for shard in shards if shard.suffix == suffix) for suffix in SUFFIXES]
        raise RecordError(f"{folder}: shards of two formats ({' and '.join(names)}) would be read together; keep one format")
    numbers = {shard.name: _SHARD_NAME.fullmatch(shard.name) for shard in shards}
    totals = {int(match[2]) for match in numbers.values() if match}
    complete = [f"part-{n:05d}-of-{total:05d}" for total in totals for n in range(total)]
    if totals and sorted(complete) != [shard.stem for shard in shards]:
        sizes = " and of ".join(map(str, sorted(totals)))
        raise RecordError(
            f"{folder}: shards are not one whole set: {len(shards)} files of a set of {sizes}; "
            "the writing was stopped or a copy is missing files: write or copy it again"
        )
    return shards


def _target(path: Path, format: FileFormat | None) -> tuple[FileFormat, bool]:
    """The format to write, and whether the path is a folder."""
    if format is not None and format not in _READERS:
        raise RecordError(f"format: got {format!r}, expected 'jsonl' or 'parquet'")
    if path.is_dir() or path.suffix == "":
        return format or "parquet", True
    if path.suffix not in SUFFIXES:
        raise RecordError(f"{path}: unknown file extension {path.suffix!r}, expected .jsonl, .parquet, or none for a folder")
    if format is not None and SUFFIXES[path.suffix] != format:
        raise RecordError(f"{path}: format={format!r} contradicts the extension {path.suffix!r}; leave one of them out")
    return SUFFIXES[path.suffix], False


def _refuse_strangers(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        if file.suffix in SUFFIXES and not file.name.startswith(".") and not _SHARD_NAME.fullmatch(file.name):
            raise RecordError(f"{file}: is in the way: it would be read as a shard; choose an empty folder or move it away")


class _Partials:
    """Shards under hidden names until all of them are whole."""

    def __init__(self, home: Path, stem: str, kind: FileFormat, rows_per_shard: int | None) -> None:
        self._home, self._stem, self._kind, self._limit = home, stem, kind, rows_per_shard
        for left in home.glob(f".{escape(stem)}-*.{kind}.partial"):  # of a run that was killed
            left.unlink()
        self._partials: list[Path] = []
        self._rows: list[int] = []
        self._writer: jsonl.JsonlWriter | parquet.ParquetWriter | None = None

    def write(self, record: Record) -> None:
        if self._rows and self._rows[-1] == self._limit:
            self._end_shard()
        if self._writer is None:
            self._partials.append(self._home / f".{self._stem}-{len(self._partials):05d}.{self._kind}.partial")
            self._rows.append(0)
            self._writer = _opened(self._partials[-1], self._kind)
        self._writer.write(record)
        self._rows[-1] += 1

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def publish(self, file: Path | None) -> tuple[Shard, ...]:
        """Give every shard its own name, a single file that of `file`, and say what each holds."""
        self._end_shard()
        total = len(self._partials)
        names = [file.name] if file else [f"part-{n:05d}-of-{total:05d}.{self._kind}" for n in range(total)]
        shards = tuple(
            Shard(name=name, rows=rows, bytes=partial.stat().st_size, sha256=sha256_of(partial))
            for name, rows, partial in zip(names, self._rows, self._partials, strict=True)
        )
        if file is None:
            (self._home / MANIFEST_NAME).unlink(missing_ok=True)
            for old in self._old_shards():
                old.unlink()
            _sync_folder(self._home)
        for name, partial in zip(names, self._partials, strict=True):
            os.replace(partial, self._home / name)
        _sync_folder(self._home)
        return shards

    def _old_shards(self) -> list[Path]:
        return [file for file in self._home.iterdir() if _SHARD_NAME.fullmatch(file.name)]

    def close(self) -> None:
        """Remove what was not published."""
        if self._writer is not None:
            self._writer.abort()
        for partial in self._partials:
            partial.unlink(missing_ok=True)


def _opened(file: Path, kind: FileFormat) -> jsonl.JsonlWriter | parquet.ParquetWriter:
    return jsonl.JsonlWriter(file) if kind == "jsonl" else parquet.ParquetWriter(file)


class _Tally:
    """Counts of a stream of records; ids and groups go to a temporary database on disk, so memory does not grow with rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter({"positive": 0, "negative": 0})
        self.sources: Counter[str] = Counter()
        self._waiting: list[tuple[str, str, int, int]] = []
        self._database = sqlite3.connect("")  # the empty name: a private file that sqlite removes, cached in memory while small
        self._database.execute("PRAGMA journal_mode = OFF")  # nothing to roll back: the file dies with this object
        self._database.execute("CREATE TABLE seen (id TEXT, name TEXT, shard INTEGER, number INTEGER)")

    def close(self) -> None:
        self._database.close()

    def add(self, record: Record, shard: int, number: int) -> None:
        self.rows += 1
        self.counts[record.polarity] += 1
        self.sources[record.source if record.source in self.sources or len(self.sources) < _SOURCES_KEPT else OTHER_SOURCES] += 1
        self._waiting.append((record.id, record.group, shard, number))
        if len(self._waiting) == 4096:
            self._flush()

    def groups(self) -> int:
        """How many distinct groups there are."""
        self._flush()
        return int(self._database.execute("SELECT count(*) FROM (SELECT name FROM seen GROUP BY name)").fetchone()[0])

    def repeated_ids(self, most: int) -> list[tuple[str, int, tuple[int, int], tuple[int, int]]]:
        """Up to `most` ids used more than once: id, times, and the first and last place (shard, number)."""
        self._flush()
        found = self._database.execute(
            "SELECT id, count(*), min(rowid), max(rowid) FROM seen GROUP BY id HAVING count(*) > 1 ORDER BY min(rowid) LIMIT ?",
            (most,),
        ).fetchall()
        return [(name, times, self._place(first), self._place(last)) for name, times, first, last in found]

    def _place(self, row: int) -> tuple[int, int]:
        shard, number = self._database.execute("SELECT shard, number FROM seen WHERE rowid = ?", (row,)).fetchone()
        return shard, number

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", self._waiting)
        self._waiting.clear()


def _sync_folder(folder: Path) -> None:
    """Bring a folder's new names to the disk; Windows cannot open a folder for that, and does not need it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
