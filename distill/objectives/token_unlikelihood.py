"""Unlikelihood: -log(1 - p) of the token that should not be said, exact at every p."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import log_odds, over_positions, unlikelihood_of


def unlikelihood(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """-log(1 - p(target)), unreduced, exact at every p without a clamp or an epsilon.

    logits (N, V): any float dtype, already shifted, not normalised. target (N,): int64. Returns (N,) nats, float32 (float64
    for float64 logits). With c the logsumexp of all logits but the target's it is softplus(z_t - c); gradient p at the
    target and -p softmax over the others: it fades when the token has become improbable and is largest where the model is
    surest. Raises ValueError for a vocabulary of one token, where the value is infinite whatever the logits.

    >>> import torch
    >>> logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    >>> value = unlikelihood(logits, torch.tensor([0]))
    >>> value.item()
    100.0
    >>> value.sum().backward(); logits.grad
    tensor([[ 1., -1.]])

    Source: Welleck et al. 2020 (arXiv:1908.04319), one term of eq. 4. The authors clamp 1 - p at 1e-5, which makes the
    gradient 0 exactly where the token is surest; here it is p.
    """
    return unlikelihood_of(log_odds(logits_NV, target_N))


@dataclass(frozen=True, kw_only=True)
class Unlikelihood(TokenObjective):
    """Do not say these tokens: -log(1 - p) of every negative position (nats).

    margin: only tokens with p > margin are pushed down. The others have value 0 but stay in the mean, so that the term fades
    as the job gets done instead of concentrating on the last survivors.
    """

    weight: float = 1.0
    margin: float = 0.0
    positions: ClassVar[Positions] = "negative"

    def __post_init__(self) -> None:
        check_weight(self.weight, "Unlikelihood")
        if not 0 <= self.margin < 1:
            raise ConfigError(
                f"Unlikelihood.margin is {self.margin}; expected a probability, 0 <= margin < 1 (0 pushes every token down)"
            )

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """-log(1 - p) at negative positions where p > margin, 0 elsewhere."""
        return over_positions(logits_NV, targets, self.positions, lambda odds_M, row_M: self._value(odds_M))

    def _value(self, odds_M: Tensor) -> Tensor:
        value_M = unlikelihood_of(odds_M)
        if self.margin == 0:
            return value_M
        # p > margin, compared as log-odds: p itself rounds to 1 long before its log-odds run out.
        above_M = odds_M.detach() > math.log(self.margin) - math.log1p(-self.margin)
        return torch.where(above_M, value_M, torch.zeros_like(value_M))
