"""Writes a teacher's stored signal so that a run which is stopped, however it ends, goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.errors import TeacherError
from distill.records.manifest import MANIFEST_NAME, Shard, now, sha256_of, versions, write_whole
from distill.teachers.signal_store import (
    FORMAT,
    HEAD_NAME,
    INDEX_NAME,
    JOURNAL_NAME,
    VALUES,
    SequenceSignal,
    SignalManifest,
    SignalSettings,
    StoredKind,
    id_dtype,
    read_signal_manifest,
    record_key,
)

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 64 << 20


class SignalWriter:
    """Writes a folder, batch by batch; a context manager. `has` tells what a run that was killed has left whole.

    Only whole batches are in a shard and only whole shards have their name, so that a killed run which goes on makes the very
    bytes of one that was never stopped. An error or Ctrl-C loses the batch at work only. Memory: one shard, and about 150 bytes
    for each record.

    Raises TeacherError: the folder holds another signal (and what differs), or another process writes it.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: SignalSettings, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.settings = Path(folder), settings
        self._shard_bytes = shard_bytes
        self._waiting: list[SequenceSignal] = []
        self._waiting_bytes = 0
        self._shards: list[Shard] = []
        self._tables: list[dict[str, NDArray[np.int64]]] = []  # per shard: positions, tokens and values of each record
        self._places: dict[bytes, None] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        self._resume()

    def __enter__(self) -> SignalWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, Exception | KeyboardInterrupt) and self._waiting:
                self._write_shard()  # what a server was asked for is not asked again
        finally:
            self._lock.close()

    def has(self, record_id: str) -> bool:
        """Whether a record's signal is on disk already, or waits to be."""
        return record_key(record_id) in self._places

    @property
    def rows(self) -> int:
        """Records so far."""
        return len(self._places)

    def add(self, batch: Sequence[SequenceSignal]) -> None:
        """Append a batch of records; a shard is written when it is full."""
        for one in batch:
            key = record_key(one.record_id)
            if key in self._places:
                raise TeacherError(f"record id {one.record_id!r} came twice; a signal is found by record id: make them unique")
            self._places[key] = None
            self._waiting.append(one)
            self._waiting_bytes += 4 * len(one.token_T) + sum(value.nbytes for value in one.values.values())
        if self._waiting_bytes >= self._shard_bytes:
            self._write_shard()

    def finish(self, *, head: Mapping[str, Tensor] | None = None, lost: Mapping[str, int] | None = None) -> SignalManifest:
        """Write what waits, the index, the teacher's head if the kind needs it, and the manifest."""
        if self._waiting:
            self._write_shard()
        if not self._shards:
            raise TeacherError(f"{self.folder}: no record has a signal; look at the counts of lost records for the reason")
        others = [self._write(INDEX_NAME, self._index(), rows=self.rows)]
        if head is not None:
            others.append(self._write(HEAD_NAME, head, rows=0))
        manifest = SignalManifest(
            settings=self.settings,
            rows=self.rows,
            positions=sum(int(table["positions"].sum()) for table in self._tables),
            bytes=sum(shard.bytes for shard in self._shards),
            lost=dict(lost or {}),
            shards=tuple(self._shards),
            others=tuple(others),
            created=now(),
            versions=versions(),
        )
        text = json.dumps({"signal_format": FORMAT, **asdict(manifest)}, ensure_ascii=False, indent=2, allow_nan=False)
        write_whole(self.folder / MANIFEST_NAME, text + "\n")
        (self.folder / JOURNAL_NAME).unlink()
        return manifest

    def _resume(self) -> None:
        """Take over the whole shards of a run that was stopped, and drop everything else of it."""
        for left in self.folder.glob(".*.partial"):
            left.unlink()
        journal, wanted = self.folder / JOURNAL_NAME, self.settings.to_json()
        if (self.folder / MANIFEST_NAME).exists():
            _refuse_difference(self.folder, read_signal_manifest(self.folder).settings.to_json(), wanted)
            raise TeacherError(f"{self.folder}: the signal is finished already; read it, or choose another folder")
        lines = _whole_lines(journal)
        if lines:
            _refuse_difference(self.folder, lines[0], wanted)
        elif strangers := [file.name for file in self.folder.iterdir() if not file.name.startswith(".")]:
            raise TeacherError(f"{self.folder}: holds {min(strangers)!r}, which no signal has left there; choose another folder")
        for line in lines[1:]:
            shard = Shard(**line)
            file = self.folder / shard.name
            if not file.is_file() or file.stat().st_size != shard.bytes:
                break
            self._take_over(file, shard)
        for file in self.folder.glob("part-*.safetensors"):
            if file.name not in {shard.name for shard in self._shards}:
                file.unlink()
        text = "".join(json.dumps(line) + "\n" for line in (wanted, *(asdict(shard) for shard in self._shards)))
        write_whole(journal, text)

    def _take_over(self, file: Path, shard: Shard) -> None:
        from safetensors.numpy import safe_open

        with safe_open(file, "np") as opened:
            keys, sizes = opened.get_tensor("key"), opened.get_tensor("sizes")
        self._places.update(dict.fromkeys(key.tobytes() for key in keys))
        self._tables.append(_table(sizes))
        self._shards.append(shard)

    def _write_shard(self) -> None:
        import torch

        some, kind = self._waiting, self.settings.kind
        sizes = np.array([[len(one.index_P), len(one.token_T), _values_of(one, kind)] for one in some], dtype=np.int64)
        tensors = {name: torch.cat([one.values[name] for one in some]) for name in VALUES[kind]}
        keys = np.frombuffer(b"".join(record_key(one.record_id) for one in some), dtype=np.uint8).reshape(-1, 16)
        tensors["key"] = torch.from_numpy(keys.copy())
        tensors["sizes"] = torch.from_numpy(sizes)
        tensors["token"] = torch.from_numpy(np.concatenate([one.token_T for one in some])).to(id_dtype(self.settings.vocabulary))
        tensors["index"] = torch.from_numpy(np.concatenate([one.index_P for one in some])).to(torch.int32)
        shard = self._write(f"part-{len(self._shards):05d}.safetensors", tensors, rows=len(some))
        with (self.folder / JOURNAL_NAME).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(shard)) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._shards.append(shard)
        self._tables.append(_table(sizes))
        self._waiting, self._waiting_bytes = [], 0

    def _write(self, name: str, tensors: Mapping[str, Tensor], *, rows: int) -> Shard:
        from safetensors.torch import save_file

        partial = self.folder / f".{name}.partial"
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, partial)
        shutil.copymode(self.folder / ".lock", partial)  # safetensors lets nobody else read it; the lock is as the umask says
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        shard = Shard(name=name, rows=rows, bytes=partial.stat().st_size, sha256=sha256_of(partial))
        os.replace(partial, self.folder / name)
        return shard

    def _index(self) -> dict[str, Tensor]:
        """Per record, sorted by key: its shard, and where in it its positions, tokens and values begin and how many they are."""
        import torch

        keys = np.frombuffer(b"".join(self._places), dtype="S16")
        order = np.argsort(keys, kind="stable")
        columns = {"shard": np.repeat(np.arange(len(self._tables)), [len(table["positions"]) for table in self._tables])}
        for name in ("positions", "tokens", "values"):
            columns[name] = np.concatenate([table[name] for table in self._tables])
            columns[f"first_{name}"] = np.concatenate([np.cumsum(table[name]) - table[name] for table in self._tables])
        index = {name: torch.from_numpy(column[order].astype(np.int64)) for name, column in columns.items()}
        index["key"] = torch.from_numpy(keys[order].view(np.uint8).reshape(-1, 16).copy())
        return index


def _values_of(one: SequenceSignal, kind: StoredKind) -> int:
    return next((len(one.values[name]) for name, axis in VALUES[kind].items() if axis == "value"), 0)


def _table(sizes: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {name: sizes[:, column] for column, name in enumerate(("positions", "tokens", "values"))}


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _refuse_difference(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = [name for name in wanted if found.get(name) != wanted[name]]
    if names:
        name = names[0]
        raise TeacherError(
            f"{folder}: holds a signal of other settings: {name} is {found.get(name)!r} there and {wanted[name]!r} now"
            f"{f' (and {len(names) - 1} more differ)' if len(names) > 1 else ''}; choose another folder"
        )


def _lock(folder: Path) -> Any:
    """Held as long as the process lives, so that no two write one folder."""
    file = open(folder / ".lock", "a+")  # noqa: SIM115 (held until the writer closes)
    try:
        import fcntl
    except ImportError:  # Windows: the folder is written unguarded
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise TeacherError(f"{folder}: is being written by another process; wait for it, or choose another folder") from None
    return file
