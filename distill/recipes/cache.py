"""How results survive a crash: one SQLite file for a run folder, a batch a transaction, found again by stage and digest."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from distill.errors import RecipeError
from distill.recipes.key import canonical, digest
from distill.teachers.base import Usage

FILE = "results.sqlite"
_MAGIC = b"SQLite format 3\0"
_FORMAT = 1  # of the tables; a newer file is refused
_TABLES = f"""
CREATE TABLE stage (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, key TEXT NOT NULL, used INTEGER NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0
);
CREATE TABLE outcome (stage INTEGER NOT NULL, digest BLOB NOT NULL, id BLOB NOT NULL, lost INTEGER NOT NULL, value BLOB NOT NULL);
CREATE UNIQUE INDEX outcome_of_item ON outcome (stage, digest);
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = {_FORMAT};
"""


class Outcome(NamedTuple):
    """What became of one item: a result as JSON reads it, or the reason why there is none."""

    lost: bool
    value: Any


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a stage has used: its teachers' usage, and the seconds during which it had work under way."""

    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(usage=self.usage + other.usage, seconds=self.seconds + other.seconds)


class Cache:
    """The results of all stages of one run folder, and what they cost. One process at a time; any of its threads.

    A batch and what it cost are one transaction in a write-ahead log: a killed process leaves whole batches only. A model's last
    digits depend on what shares its batch, so half a batch kept and half done again could differ from what an uninterrupted run
    would have drawn. Nothing is held in memory but a page cache of fixed size.

    Raises RecipeError where the file is damaged, is of a newer version, cannot be written, or the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        with self._explained():
            if self.path.exists():
                _refuse_cut(self.path)
            else:
                create(self.path)
            self._database = sqlite3.connect(self.path, timeout=1, isolation_level=None, check_same_thread=False)
            # The folder's own lock keeps others out, so the log's index can live in memory: it works on network drives too.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA wal_autocheckpoint = 8192")  # pages, so 32 MiB: each one waits for the disk
            (found,) = self._database.execute("PRAGMA user_version").fetchone()
            if found == 0:
                raise sqlite3.DatabaseError("it has none of the tables")
            if found > _FORMAT:
                raise RecipeError(f"{self.path}: written by a newer version of distill; update it, or choose another folder")
            self._database.execute("SELECT count(*) FROM stage").fetchone()

    def stage(self, name: str, key: Any) -> StageCache:
        """The part of a stage with this name and this description of what its results depend on."""
        named = digest({"stage": name, "key": key})
        with self._transaction():
            (latest,) = self._database.execute("SELECT coalesce(max(used), 0) + 1 FROM stage").fetchone()
            self._database.execute(
                "INSERT INTO stage (name, digest, key, used) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (digest) DO UPDATE SET used = excluded.used",
                (name, named, canonical(key), latest),
            )
            (number,) = self._database.execute("SELECT number FROM stage WHERE digest = ?", (named,)).fetchone()
        return StageCache(self, number)

    def key_before(self, name: str, key: Any) -> Any | None:
        """The key with which a stage of this name was last run, if it never ran with this one."""
        with self._lock, self._explained():
            ran = self._database.execute("SELECT digest, key FROM stage WHERE name = ? ORDER BY used", (name,)).fetchall()
        if not ran or digest({"stage": name, "key": key}) in {named for named, _ in ran}:
            return None
        return json.loads(ran[-1][1])

    def holds_results(self) -> bool:
        """Whether any item of any stage is done."""
        with self._lock, self._explained():
            return self._database.execute("SELECT 1 FROM outcome LIMIT 1").fetchone() is not None

    def spent(self) -> Spent:
        """What all stages have used since the folder was made, those with earlier settings too."""
        with self._lock, self._explained():
            return self._spent("SELECT {} FROM stage", ())

    def fact(self, name: str) -> Any:
        """What `note` kept under this name; None where it kept nothing."""
        with self._lock, self._explained():
            found = self._database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def note(self, name: str, value: Any) -> None:
        """Keep a JSON value about the folder as a whole."""
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, json.dumps(value)))

    def close(self) -> None:
        """Bring everything into the one file and on the disk; closing twice is allowed."""
        with self._lock, self._explained():
            self._database.close()

    def get(self, stage: int, named: bytes) -> Outcome | None:
        """One item's outcome."""
        with self._lock, self._explained():
            found = self._database.execute(
                "SELECT lost, value FROM outcome WHERE stage = ? AND digest = ?", (stage, named)
            ).fetchone()
        if found is None or not isinstance(found[1], bytes):
            return None
        try:
            return Outcome(bool(found[0]), json.loads(found[1].decode("utf-8", "surrogatepass")))
        except ValueError:  # damaged within a value (a failing disk): done again, and the new one counts from then on
            return None

    def put(self, stage: int, rows: Sequence[tuple[bytes, bytes, bool, bytes]], spent: Spent) -> None:
        """Keep one batch, as (digest, id, whether lost, JSON), with what it cost: all of it or nothing."""
        usage = asdict(spent.usage)
        added = ", ".join(f"{name} = {name} + ?" for name in (*usage, "seconds"))
        with self._transaction():
            self._database.executemany(f"INSERT OR REPLACE INTO outcome VALUES ({stage}, ?, ?, ?, ?)", rows)
            self._database.execute(f"UPDATE stage SET {added} WHERE number = ?", (*usage.values(), spent.seconds, stage))

    def spent_by(self, stage: int) -> Spent:
        """What one stage has used since the folder was made."""
        with self._lock, self._explained():
            return self._spent("SELECT {} FROM stage WHERE number = ?", (stage,))

    def _spent(self, query: str, values: tuple[Any, ...]) -> Spent:
        names = [one.name for one in fields(Usage)]
        columns = ", ".join(f"coalesce(sum({name}), 0)" for name in (*names, "seconds"))
        *used, seconds = self._database.execute(query.format(columns), values).fetchone()
        return Spent(usage=Usage(**dict(zip(names, used, strict=True))), seconds=seconds)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:  # Ctrl-C too: half a batch must not stand
                if self._database.in_transaction:  # a full disk has rolled it back already
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RecipeError(f"{self.path}: {_reason(error, self.path)}") from error


@dataclass(frozen=True)
class StageCache:
    """One stage's part of a Cache."""

    cache: Cache
    number: int

    def get(self, named: bytes) -> Outcome | None:
        """The outcome kept for this digest, or None."""
        return self.cache.get(self.number, named)

    def put(self, rows: Sequence[tuple[bytes, bytes, bool, bytes]], spent: Spent) -> None:
        """Keep one batch: from then on a killed process loses none of it."""
        self.cache.put(self.number, rows, spent)

    def spent(self) -> Spent:
        """What the stage has used, over all restarts."""
        return self.cache.spent_by(self.number)


def encoded(item: str, value: Any) -> bytes:
    """A result as JSON text; RecipeError where it is not JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"item {item!r}: the result is not JSON ({error}); return dicts, lists, strings, finite numbers, booleans and None"
        ) from error
    return text.encode("utf-8", "surrogatepass")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it: temporary file, fsync, os.replace."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def create(path: Path) -> None:
    """Make the tables under another name: a file under its own name without them is a damaged one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    database = sqlite3.connect(temporary, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = MEMORY")  # half a temporary file is nobody's
        database.executescript(f"BEGIN; {_TABLES} COMMIT;")
    finally:
        database.close()
    os.replace(temporary, path)


def _refuse_cut(path: Path) -> None:
    """DatabaseError where a file is shorter than it says: SQLite reads an empty one as new, and a part of a page as zeros."""
    log = path.with_name(path.name + "-wal")
    with open(path, "rb") as file:
        head = file.read(32)
    size, page, pages = path.stat().st_size, int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
    if size < len(_MAGIC):
        raise sqlite3.DatabaseError(f"it has {size} bytes")
    # Where a log is left, pages may be there that are not in the file yet.
    if head.startswith(_MAGIC) and size < page * pages and not (log.exists() and log.stat().st_size):
        raise sqlite3.DatabaseError(f"it has {size} bytes, and had {page * pages}")


def _reason(error: sqlite3.Error, path: Path) -> str:
    """What a database error means for the person who ran the recipe, and what to do."""
    codes: Mapping[int, str] = {
        sqlite3.SQLITE_FULL: "the disk is full. What is done is kept: free some space and give the same command again",
        sqlite3.SQLITE_IOERR: "the disk failed. What is done is kept: when it is well, give the same command again",
        sqlite3.SQLITE_BUSY: "another program has it open; close it there and give the same command again",
        sqlite3.SQLITE_READONLY: "it cannot be written; give yourself the right to, or choose another folder",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened for writing; look at the folder's rights, or choose another folder",
    }
    code = getattr(error, "sqlite_errorcode", None)  # set by SQLite's own errors only
    known = codes.get(code & 0xFF) if code is not None else None
    if known is not None:
        return f"{known} ({error})"
    return (
        f"damaged ({error}), and left as it is. `python -m distill.recipes.salvage {path.parents[1]}` saves what can be read of "
        "it; --fresh true sets it aside and starts over"
    )
