"""Teachers that serve embeddings, made for the contract; what they teach is in tests/student/test_hidden_training.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from distill.records import read_records
from distill.teachers.embedding import EmbeddingTeacher, StoredEmbeddings, store_embeddings
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher


class Lengths:
    """A sentence encoder that needs no package."""

    def encode(self, texts: list[str], **named: Any) -> np.ndarray:
        return np.array([[len(text), text.count("a"), 1.0] for text in texts], dtype=np.float32)


def toy_encoder() -> Any:
    return patch("distill.teachers.embedding.sentence_encoder", lambda model, wanted_by: Lengths())


class ToyEmbeddings(EmbeddingTeacher):
    """An EmbeddingTeacher with the toy encoder."""

    def start(self, student: LiveStudent) -> RunningTeacher:
        with toy_encoder():
            return super().start(student)


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    if kind is EmbeddingTeacher:
        return ToyEmbeddings()
    with toy_encoder():
        store_embeddings(read_records(Path(records)), folder / "it.safetensors")
    return StoredEmbeddings(path=str(folder / "it.safetensors"))
