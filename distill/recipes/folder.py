"""The run folder: one process at a time writes it, and what an earlier start left in it is gone on with, or not."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from distill.errors import RecipeError

Resume = Literal["never", "if_possible", "always"]
"""What a start does in a folder that holds results: refuse it, go on where the settings match, or insist on going on."""


def lock(folder: Path) -> IO[str]:
    """Make `folder` and hold its `.lock` as long as this process lives.

    A lock of the kernel rather than a file with a pid: it ends with its holder, however that ends, and no reused pid can fool it.
    """
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; give a folder for the run, new or an earlier one of this recipe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115 (held until the run closes)
    except PermissionError as error:
        raise RecipeError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
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
    except OSError as error:
        file.close()
        raise RecipeError(f"{folder}: its file system has no locks ({error.strerror}); choose a folder on another one") from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def prepare(stages: Path, *, resume: Resume, fresh: bool) -> str:
    """Set aside what an earlier start left, if that is wanted; returns what to say of it."""
    if resume not in ("never", "if_possible", "always"):
        raise RecipeError(f"resume is {resume!r}: expected never, if_possible or always")
    if fresh and resume == "always":
        raise RecipeError("fresh starts over and resume=always insists on going on; leave one of them out")
    if not fresh or not stages.exists() or not any(stages.iterdir()):
        return ""
    number = 1
    while (aside := stages.with_name(f"stages.old{number}")).exists():
        number += 1
    stages.rename(aside)
    return f"starting over; the old results stay in {aside}"


def refuse(folder: Path, resume: Resume, *, holds_results: bool) -> None:
    """RecipeError where there are results that must not be there, or none to go on with."""
    if resume == "never" and holds_results:
        raise RecipeError(f"{folder} already holds results; choose another folder, or start over with --fresh true")
    if resume == "always" and not holds_results:
        raise RecipeError(f"{folder} holds no results to go on with; correct the folder, or leave resume out")


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn a full disk into a RecipeError that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RecipeError(
            f"{folder}: the disk is full ({error.strerror}). What is done is kept in stages/: free some space and give the same "
            "command again"
        ) from error
