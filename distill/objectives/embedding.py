"""Embedding matching: a response's meaning, as a teacher that only serves embeddings sees it.

Shape suffixes: N supervised positions, S sequences (responses), U positive ones of them, D the teacher's width, H the student's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.objectives.base import Objective, SequenceLoss, Sequences, Targets, Unit, check_weight
from distill.objectives.hidden_states import cosine_distance


@dataclass(frozen=True, kw_only=True)
class EmbeddingMatching(Objective):
    """Mean what the teacher understands: 1 - cos between the student's state of a response and the teacher's embedding of it.

    One value for each positive response, not in nats. The student's state is that of the last layer, pooled and mapped to
    the teacher's width by a trained linear projector (in training only, never exported).
    pooling: "mean" over the states that predict the response's supervised tokens; "last" takes the last of them, which has read the
    whole response but its last token, the end of turn.

    It shapes the states only; have a loss on tokens beside it. The gradient does not reach the LM head.

    Source: the last-layer form of Sanh et al. 2019's cosine (arXiv:1910.01108), for whole responses; the pooling is that of
    Reimers and Gurevych 2019 (arXiv:1908.10084).
    """

    weight: float = 1.0
    pooling: Literal["mean", "last"] = "mean"
    unit: ClassVar[Unit] = "positive"

    def __post_init__(self) -> None:
        check_weight(self.weight, "EmbeddingMatching")

    def pooled(self, hidden_NH: Tensor, targets: Targets, count: int) -> Tensor:
        """One state (S, H) for each of `count` responses, float32; 0 for one without supervised positions.

        >>> targets = Targets(token_N=torch.tensor([5, 6, 7]), weight_N=torch.ones(3), sequence_N=torch.tensor([0, 0, 1]),
        ...                   negative_N=torch.zeros(3, dtype=torch.bool))
        >>> EmbeddingMatching().pooled(torch.tensor([[1.0], [3.0], [5.0]]), targets, 2).tolist()
        [[2.0], [5.0]]
        """
        hidden_NH = hidden_NH if hidden_NH.dtype == torch.float64 else hidden_NH.float()
        sequence_N = targets.sequence_N
        tokens_S = torch.bincount(sequence_N, minlength=count)
        zeros_SH = hidden_NH.new_zeros(count, hidden_NH.shape[1])
        if self.pooling == "mean":
            return zeros_SH.index_add(0, sequence_N, hidden_NH) / tokens_S.clamp(min=1)[:, None]
        # Positions of a sequence are in text order, so the last of them is the one with the greatest index.
        index_N = torch.arange(len(sequence_N), device=sequence_N.device)
        last_S = torch.zeros_like(tokens_S).scatter_reduce(0, sequence_N, index_N, "amax")
        real_S = (tokens_S > 0).nonzero().squeeze(1)
        return zeros_SH.index_copy(0, real_S, hidden_NH[last_S[real_S]])

    def __call__(self, projected_SD: Tensor, embedding_SD: Tensor, sequences: Sequences) -> SequenceLoss:
        """Projected states and the teacher's embeddings of all responses -> a value for each positive one."""
        row_U = ((sequences.tokens_S > 0) & ~sequences.negative_S).nonzero().squeeze(1)
        return SequenceLoss(
            value_U=cosine_distance(projected_SD[row_U], embedding_SD[row_U].detach()), weight_U=sequences.weight_S[row_U]
        )
