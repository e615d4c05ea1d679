"""Save what can be read of a damaged file of results: `python -m distill.recipes.salvage RUN_FOLDER`."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from distill.errors import DistillError, RecipeError
from distill.recipes.cache import FILE, create
from distill.recipes.folder import lock

_GIVE_UP = 100_000  # unreadable rows in a row, after which nothing more is expected


def salvage(folder: str | Path) -> int:
    """Put what can be read in the place of a run folder's damaged file, and keep that one beside it; returns the results saved.

    What is not saved is done again by the next start; a batch that is saved in part is completed in a batch of its own.

    Raises RecipeError where there is nothing to read, or another process writes the folder.
    """
    path = Path(folder) / "stages" / FILE
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; give the run folder that holds stages/{FILE}")
    with closing(lock(Path(folder))):
        number = 1
        while (aside := path.with_name(f"damaged{number}")).exists():
            number += 1
        aside.mkdir()
        log = path.with_name(path.name + "-wal")
        for file in (path, log):
            if file.exists():  # a copy: opening the original would write its log into it
                shutil.copyfile(file, aside / file.name)
        saved = path.with_name("saved.sqlite")
        try:
            count = _copy(aside / FILE, saved)
        except sqlite3.Error as error:
            saved.unlink(missing_ok=True)
            shutil.rmtree(aside)
            remedy = "--fresh true sets it aside and starts over"
            raise RecipeError(f"{path}: nothing can be read of it ({error}); {remedy}") from error
        for file in (path, log):
            if file.exists():
                file.replace(aside / file.name)
        saved.replace(path)
    return count


def _copy(damaged: Path, saved: Path) -> int:
    create(saved)
    with (
        closing(sqlite3.connect(damaged, isolation_level=None)) as old,
        closing(sqlite3.connect(saved, isolation_level=None)) as new,
    ):
        old.execute("PRAGMA writable_schema = ON")  # else a file that is too short is not read at all
        new.execute("BEGIN")
        for table in ("stage", "fact"):
            for row in old.execute(f"SELECT * FROM {table}"):
                new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        count = 0
        for row in _readable(old):
            count += new.execute("INSERT OR IGNORE INTO outcome VALUES (?, ?, ?, ?, ?)", row).rowcount
        new.execute("COMMIT")
        return count


def _readable(old: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Every row that can be read, one page's damage after the other stepped over."""
    # NOT INDEXED: the rows are looked up where they are, whatever has become of the index.
    query = "SELECT rowid, stage, digest, id, lost, value FROM outcome NOT INDEXED WHERE rowid > ? ORDER BY rowid"
    last = unreadable = 0
    while unreadable < _GIVE_UP:
        try:
            for number, *row in old.execute(query, (last,)):
                last, unreadable = number, 0
                if isinstance(row[1], bytes) and isinstance(row[4], bytes):
                    yield tuple(row)
            return
        except sqlite3.DatabaseError:
            last, unreadable = last + 1, unreadable + 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m distill.recipes.salvage RUN_FOLDER")
    try:
        print(f"{salvage(sys.argv[1])} results saved; give the recipe's command again to go on")
    except DistillError as error:
        sys.exit(f"error: {error}")
