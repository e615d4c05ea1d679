"""The manifest beside the shards: what they were made from, what they hold, and the hash that proves it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.errors import RecordError
from distill.records.schema import plain_json

MANIFEST_NAME = "manifest.json"
FORMAT = 1  # of the manifest and of the records beside it; a reader refuses a newer one


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records: its name inside the folder, its rows, its size in bytes and its SHA-256 (hexadecimal)."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of records is. Counts and shards are measured by write_records; the rest is its caller's to say.

    recipe and recipe_hash: what made the records. teacher: Teacher.identity(). sampling: the Sampling, as JSON. counts: rows
    by polarity. groups: distinct questions. lost: rows that did not become records, by reason. usage: what the teachers did for
    it, interrupted starts included: requests, prompt_tokens, completion_tokens, cost. created: UTC, ISO 8601; beside usage the
    one field in which two runs of the same recipe differ. versions: of what was running. command: what to type to make the
    records again. licence: an SPDX identifier such as "cc-by-4.0", or "unknown".
    """

    recipe: str = ""
    recipe_hash: str = ""
    teacher: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    licence: str = "unknown"

    def __post_init__(self) -> None:
        for name in ("teacher", "sampling", "counts", "lost", "usage", "sources", "versions"):
            object.__setattr__(self, name, plain_json(f"manifest {name}", getattr(self, name)))

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """The manifest as one plain JSON object."""
        return {"format": FORMAT, **asdict(self)}


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Write manifest.json into a folder, whole or not at all, and return its path."""
    text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return write_whole(Path(folder) / MANIFEST_NAME, text)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a folder of records.

    Raises:
        RecordError: no manifest, one that is not JSON, or keys or values that a manifest does not have.
    """
    file = Path(folder) / MANIFEST_NAME
    if not file.is_file():
        raise RecordError(f"{file}: no manifest; the folder was not finished, or its records were not written by write_records")
    again = "write the records again, or remove the file to read them without it"
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise RecordError(f"{file}: not JSON ({error}); {again}") from None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise RecordError(f'{file}: expected an object with "format": {FORMAT}; update distill, or {again}')
    unknown = found.keys() - {entry.name for entry in fields(Manifest)}
    if unknown:
        raise RecordError(f"{file}: unknown key {min(unknown)!r}; update distill, or {again}")
    for name, value in found.items():
        expected = _TYPES[name]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise RecordError(f"{file}: {name}: got {type(value).__name__}, expected {_named(expected)}; {again}")
    try:
        shards = tuple(Shard(**shard) for shard in found.pop("shards", ()))
    except TypeError as error:
        raise RecordError(f"{file}: shards: each is an object with name, rows, bytes and sha256 ({error}); {again}") from None
    return Manifest(**found, shards=shards)


def verify(folder: str | os.PathLike[str]) -> Manifest:
    """Check that a folder holds exactly the shards of its manifest, byte by byte, and return the manifest.

    Raises:
        RecordError: names the first shard that is missing, changed or not listed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        file = folder / shard.name
        if not file.is_file():
            raise RecordError(f"{file}: missing; the manifest lists it with {shard.rows} rows: copy it or write them again")
        found = sha256_of(file)
        if found != shard.sha256:
            raise RecordError(
                f"{file}: changed since it was written: SHA-256 {found[:12]}..., the manifest says {shard.sha256[:12]}... "
                f"({file.stat().st_size} bytes, the manifest says {shard.bytes}); copy it again or write the records again"
            )
    listed = {shard.name for shard in manifest.shards}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".jsonl", ".parquet") and not file.name.startswith(".") and file.name not in listed:
            raise RecordError(f"{file}: not in the manifest, but would be read; move it away or write the records again")
    return manifest


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """The installed versions that can change a record's bytes."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("distill", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source folder that was never installed
            found[name] = "unknown"
    return found


def write_whole(file: Path, text: str) -> Path:
    """Write a small text file whole or not at all: temporary file, fsync, os.replace."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)
    return file


_TYPES: dict[str, type | tuple[type, ...]] = {
    "recipe": str,
    "recipe_hash": str,
    "teacher": dict,
    "sampling": dict,
    "seed": (int, type(None)),
    "counts": dict,
    "groups": int,
    "lost": dict,
    "usage": dict,
    "shards": list,
    "sources": dict,
    "created": str,
    "versions": dict,
    "command": str,
    "licence": str,
}


def _named(expected: type | tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in expected) if isinstance(expected, tuple) else expected.__name__
