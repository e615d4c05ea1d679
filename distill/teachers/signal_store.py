"""A teacher's signal on disk: what a folder holds, and how it is read, memory-mapped and by record id. `signal_writer` writes it.

A folder holds `part-00000.safetensors` and so on, `index.safetensors` (which record is where), `manifest.json` and, for the exact
kind, `head.safetensors`. A shard holds, for the records in it end to end: the tokens of each up to the last supervised one, which
of them are supervised, and the signal there. The manifest is written last: a folder without one is not finished.

Axes of a tensor in a shard: record, token (of all sequences), position (supervised), value (drawn tokens).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import TeacherError
from distill.records.manifest import MANIFEST_NAME, Shard, sha256_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

StoredKind = Literal["exact", "top_k", "sampled", "token"]
FORMAT = 1
INDEX_NAME, HEAD_NAME, JOURNAL_NAME = "index.safetensors", "head.safetensors", "unfinished.jsonl"
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


def id_dtype(vocabulary: int) -> Any:
    """The smaller torch dtype that holds a token id."""
    import torch

    return torch.uint16 if vocabulary <= 1 << 16 else torch.int32


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
