"""A teacher's signal on disk: safetensors shards found by record id, written so that a killed run goes on, read memory-mapped.

A folder holds `part-00000.safetensors` and so on, `index.safetensors` (which record is where), `manifest.json` and, for the exact
kind, `head.safetensors`. A shard holds, for the records in it end to end: the tokens of each up to the last supervised one, which
of them are supervised, and the signal there. The manifest is written last: a folder without one is not finished.

Axes of a tensor in a shard: record, token (of all sequences), position (supervised), value (drawn tokens).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import TeacherError
from distill.records.manifest import MANIFEST_NAME, Shard, now, sha256_of, versions, write_whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

StoredKind = Literal["exact", "top_k", "sampled", "token"]
FORMAT = 1
INDEX_NAME, HEAD_NAME, JOURNAL_NAME = "index.safetensors", "head.safetensors", "unfinished.jsonl"
SHARD_BYTES = 64 << 20
# What each kind stores beside the tokens, and along which axis.
VALUES: dict[StoredKind, dict[str, Literal["position", "value"]]] = {
    "exact": {"hidden": "position"},
    "top_k": {"ids": "position", "log_probs": "position", "rest": "position"},
    "sampled": {"ids": "value", "counts": "value", "unique": "position"},
    "token": {"log_prob": "position"},
}
_OPEN_SHARDS = 256
_AGAIN = "run `distill signal` again into a new folder"


@dataclass(frozen=True, kw_only=True)
class SignalSettings:
    """What decides the numbers of a stored signal; a run goes on only in a folder with the same.

    kind: what is stored. k: tokens a position (top_k) or draws (sampled), else 0. dtype: of the stored numbers. vocabulary: how
    many ids, from 0, the signal is about. teacher: its identity. tokenizer, template: digests of the student's. records: SHA-256
    of each file. turns, max_tokens: how records were rendered. seed: of the draws. after_head: what the family does to logits.
    """

    kind: StoredKind
    vocabulary: int
    teacher: Mapping[str, Any]
    tokenizer: str
    template: str
    records: tuple[str, ...] = ()
    k: int = 0
    dtype: str = "float32"
    turns: str = "last"
    max_tokens: int | None = None
    seed: int = 0
    after_head: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON reads it back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True, kw_only=True)
class SignalManifest:
    """What a finished folder holds. rows: records. positions: supervised tokens. lost: records without a signal, by reason."""

    settings: SignalSettings
    rows: int
    positions: int
    bytes: int
    lost: Mapping[str, int] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    others: tuple[Shard, ...] = ()  # the index and the head
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SequenceSignal:
    """A teacher's signal on one record. token_T: the tokens up to the last supervised one. index_P: which of them are supervised.

    values: the tensors of its kind, see VALUES.
    """

    record_id: str
    token_T: NDArray[np.int64]
    index_P: NDArray[np.int64]
    values: Mapping[str, Tensor]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Digests of what text becomes which ids, and of the chat template; the same wherever the tokenizer lies."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        facts: Any = json.loads(backend.to_str())
        for changing in ("padding", "truncation"):  # what the last call left set
            facts.pop(changing, None)
    else:
        facts = sorted(tokenizer.get_vocab().items())
    text = json.dumps([facts, sorted(tokenizer.get_added_vocab().items())], sort_keys=True)
    return _digest(text), _digest(json.dumps(tokenizer.chat_template))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def record_key(record_id: str) -> bytes:
    """The 16 bytes by which a record is found."""
    return hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def read_signal_manifest(folder: str | os.PathLike[str]) -> SignalManifest:
    """The manifest of a finished folder. Raises TeacherError: not finished, or not a signal's."""
    file = Path(folder) / MANIFEST_NAME
    if not file.is_file():
        unfinished = (Path(folder) / JOURNAL_NAME).is_file()
        do = "run the same `distill signal` command again: it goes on" if unfinished else "make it with `distill signal`"
        raise TeacherError(f"{folder}: holds no {'finished ' if unfinished else ''}signal (no {MANIFEST_NAME}); {do}")
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict) or found.pop("signal_format", None) != FORMAT:
            raise TeacherError(f'{file}: expected an object with "signal_format": {FORMAT}; update distill, or {_AGAIN}')
        settings = found.pop("settings")
        settings["records"] = tuple(settings["records"])
        shards, others = (tuple(Shard(**one) for one in found.pop(name)) for name in ("shards", "others"))
        return SignalManifest(**found, settings=SignalSettings(**settings), shards=shards, others=others)
    except (ValueError, TypeError, KeyError) as error:
        raise TeacherError(f"{file}: cannot be read as a signal's manifest ({error}); {_AGAIN}") from None


def verify_signal(folder: str | os.PathLike[str]) -> SignalManifest:
    """Read every file and compare its SHA-256 with the manifest's. Raises TeacherError naming the first that changed."""
    manifest = read_signal_manifest(folder)
    for one in (*manifest.shards, *manifest.others):
        file = Path(folder) / one.name
        _check_size(file, one)
        if sha256_of(file) != one.sha256:
            raise TeacherError(f"{file}: changed since it was written (another SHA-256); copy it again, or {_AGAIN}")
    return manifest


def _check_size(file: Path, listed: Shard) -> None:
    size = file.stat().st_size if file.is_file() else None
    if size != listed.bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise TeacherError(f"{file}: {found}; the manifest says {listed.bytes} bytes: copy it again, or {_AGAIN}")


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


def id_dtype(vocabulary: int) -> Any:
    """The smaller torch dtype that holds a token id."""
    import torch

    return torch.uint16 if vocabulary <= 1 << 16 else torch.int32


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


@dataclass(frozen=True, kw_only=True)
class StoredSequence:
    """Where one record lies. token_T: its tokens up to the last supervised one; index_P: which are supervised, ascending."""

    shard: int
    first_position: int
    first_value: int
    values: int
    token_T: NDArray[np.int64]
    index_P: NDArray[np.int64]


class SignalReader:
    """Reads a finished folder, memory-mapped: what is asked for is read, and no more. Memory: the index, 72 bytes a record.

    Raises TeacherError: no finished signal, or a file that is missing or of another size.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from safetensors.numpy import load_file

        self.folder = Path(folder)
        self.manifest = read_signal_manifest(folder)
        for shard in (*self.manifest.shards, *self.manifest.others):
            _check_size(self.folder / shard.name, shard)
        index = load_file(self.folder / INDEX_NAME)
        self._keys = np.ascontiguousarray(index.pop("key")).view("S16").reshape(-1)
        self._index = index
        self._open: OrderedDict[int, Any] = OrderedDict()

    @property
    def settings(self) -> SignalSettings:
        """What decided the numbers."""
        return self.manifest.settings

    def find(self, record_id: str) -> StoredSequence | None:
        """Where a record's signal lies; None where there is none."""
        key = np.frombuffer(record_key(record_id), dtype="S16")
        row = int(np.searchsorted(self._keys, key)[0])
        if row == len(self._keys) or self._keys[row] != key[0]:
            return None
        at = {name: int(column[row]) for name, column in self._index.items()}
        shard = at["shard"]
        return StoredSequence(
            shard=shard,
            first_position=at["first_positions"],
            first_value=at["first_values"],
            values=at["values"],
            token_T=self._numbers(shard, "token", at["first_tokens"], at["tokens"]),
            index_P=self._numbers(shard, "index", at["first_positions"], at["positions"]),
        )

    def read(self, sequence: StoredSequence, name: str, first: int = 0, count: int | None = None) -> Tensor:
        """A tensor of VALUES for a record, from its `first` position (or value) on."""
        if VALUES[self.settings.kind][name] == "value":
            start, length = sequence.first_value, sequence.values
        else:
            start, length = sequence.first_position, len(sequence.index_P)
        stop = length if count is None else first + count
        return self._slice(sequence.shard, name, start + first, start + stop)

    def head(self) -> dict[str, Tensor]:
        """The teacher's LM head (`weight` (V, D), and `bias` where it has one)."""
        from safetensors.torch import load_file

        return load_file(self.folder / HEAD_NAME)

    def _numbers(self, shard: int, name: str, first: int, count: int) -> NDArray[np.int64]:
        import torch

        found: NDArray[np.int64] = self._slice(shard, name, first, first + count).to(torch.int64).numpy()
        return found

    def _slice(self, shard: int, name: str, start: int, stop: int) -> Tensor:
        from safetensors import safe_open

        opened = self._open.get(shard)
        if opened is None:
            opened = self._open[shard] = safe_open(self.folder / self.manifest.shards[shard].name, "pt")
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        part: Tensor = opened.get_slice(name)[start:stop]
        return part
