"""Likelihood: -log p of the token that should be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import likelihood_of, log_odds, over_positions


def likelihood(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """-log p(target), unreduced.

    logits (N, V): any float dtype, already shifted, not normalised. target (N,): int64. Returns (N,) nats, float32 (float64
    for float64 logits). Gradient: -(1 - p) at the target, (1 - p) softmax over the others. The value of F.cross_entropy, but
    exact also where p rounds to 1: softplus(c - z_t) with c the logsumexp of the other logits.

    >>> import torch
    >>> likelihood(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([2])).item()  # log 4
    1.3862943649291992
    """
    return likelihood_of(log_odds(logits_NV, target_N))


@dataclass(frozen=True, kw_only=True)
class Likelihood(TokenObjective):
    """Say these tokens: -log p of every positive position (nats).

    own_samples: also where the student itself wrote the response. Off, since likelihood of its own samples only sharpens what
    it already says; on, it is training on those that a judge approved.
    """

    weight: float = 1.0
    own_samples: bool = False
    positions: ClassVar[Positions] = "positive"

    def __post_init__(self) -> None:
        check_weight(self.weight, "Likelihood")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """-log p at positive positions, 0 elsewhere."""
        where_N = targets.where(self.positions, own_samples=self.own_samples)
        return over_positions(logits_NV, targets, where_N, lambda odds_M, row_M: likelihood_of(odds_M))
