"""Embedding matching: a response's meaning, as a teacher sees it that only serves embeddings.

Shape suffixes: N supervised positions, M selected ones of them, S sequences (responses), D the teacher's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, check_weight
from distill.objectives.hidden import HiddenObjective
from distill.objectives.hidden_states import cosine_distance
from distill.objectives.log_odds import spread


@dataclass(frozen=True, kw_only=True)
class EmbeddingMatching(HiddenObjective):
    """Mean what the teacher understands: 1 - cos between the student's state of a response and the teacher's embedding of it.

    The student's state is that of its last layer, mapped to the teacher's width by a trained linear projector (in training only,
    never exported) and pooled over the response's positive positions. pooling: "mean" of them; "last" takes the last alone, whose
    state has read the whole response but the token it predicts, the end of turn.

    Every position has the value of its response, so that in the mean a response counts by its length, as in the losses on tokens.
    Not in nats. It shapes the trunk only, its gradient does not reach the LM head: have a loss on tokens beside it.

    Source: Sanh et al. 2019's cosine of last hidden states (arXiv:1910.01108), for whole responses; the poolings are those of
    Reimers and Gurevych 2019 (arXiv:1908.10084), section 3.
    """

    weight: float = 1.0
    pooling: Literal["mean", "last"] = "mean"
    positions: ClassVar[Positions] = "positive"
    reads_embedding: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "EmbeddingMatching")

    @property
    def projects(self) -> bool:
        """Always: the two spaces have nothing in common but perhaps their width."""
        return True

    def layer_pairs(self, student_layers: int, teacher_layers: int) -> tuple[tuple[int, int], ...]:
        """The student's last layer; the teacher has none. Raises ConfigError where it has, and so serves no embeddings."""
        if teacher_layers:
            raise ConfigError(
                "EmbeddingMatching: this teacher serves no embeddings; use an EmbeddingTeacher or StoredEmbeddings, or "
                "HiddenStateMatching with this one"
            )
        return ((student_layers, 0),)

    def __call__(self, student_ND: Tensor, teacher_ND: Tensor, targets: Targets) -> Loss:
        """Projected states of the positions, and at each of them the embedding of its response -> the response's value.

        >>> targets = Targets(token_N=torch.tensor([5, 6, 7]), weight_N=torch.ones(3), sequence_N=torch.tensor([0, 0, 1]),
        ...                   negative_N=torch.zeros(3, dtype=torch.bool))
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> teacher = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
        >>> EmbeddingMatching()(student, teacher, targets).value_N.tolist()
        [0.0, 0.0, 1.0]
        """
        where_N = targets.where(self.positions)
        row_M = where_N.nonzero().squeeze(1)
        response_M = targets.sequence_N[row_M].unique(return_inverse=True)[1]
        student_MD = student_ND[row_M]
        student_MD = student_MD if student_MD.dtype == torch.float64 else student_MD.float()
        counts_S = torch.bincount(response_M)
        if self.pooling == "mean":
            pooled_SD = student_MD.new_zeros(len(counts_S), student_MD.shape[1]).index_add(0, response_M, student_MD)
            pooled_SD = pooled_SD / counts_S[:, None]
        last_S = self._last(response_M, counts_S)
        if self.pooling == "last":
            pooled_SD = student_MD[last_S]
        value_S = cosine_distance(pooled_SD, teacher_ND[row_M][last_S].detach())
        return Loss(value_N=spread(value_S[response_M], row_M, where_N.shape[0]), where_N=where_N)

    @staticmethod
    def _last(response_M: Tensor, counts_S: Tensor) -> Tensor:
        """Each response's last position: they are in text order within it, so that with the greatest index."""
        index_M = torch.arange(len(response_M), device=response_M.device)
        return torch.zeros_like(counts_S).scatter_reduce(0, response_M, index_M, "amax")
