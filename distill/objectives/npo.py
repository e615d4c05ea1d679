"""Negative preference optimisation, token by token: bounded forgetting relative to a frozen reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import likelihood_of, over_positions


@dataclass(frozen=True, kw_only=True)
class TokenNPO(TokenObjective):
    """(2 / beta) log(1 + (p / p_reference)^beta) at every negative position (nats).

    Its gradient is that of gradient ascent times 2 p^beta / (p^beta + p_reference^beta): full strength while the token is as
    probable as under the reference, fading once it is much less so. Reads targets.reference_N.

    Source: Zhang et al. 2024 (arXiv:2404.05868), eq. 3, beta = 0.1. Deviation: the paper's ratio is that of whole responses;
    here each token has its own, so that one improbable token does not switch the others off and spans can carry it.
    """

    weight: float = 1.0
    beta: float = 0.1
    positions: ClassVar[Positions] = "negative"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "TokenNPO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"TokenNPO.beta is {self.beta}; expected a finite number > 0 (beta -> 0 is gradient ascent)")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The bounded loss at negative positions, 0 elsewhere. Raises ConfigError without targets.reference_N."""
        reference_N = targets.reference_N
        if reference_N is None:
            raise ConfigError(
                "TokenNPO: the batch has no reference log-probabilities (targets.reference_N is None); expected log p of each "
                "supervised token under the frozen reference, in nats. Add them to the batch, or use Unlikelihood, which "
                "needs no reference"
            )

        def value_of(odds_M: Tensor, row_M: Tensor) -> Tensor:
            ratio_M = -likelihood_of(odds_M) - reference_N[row_M].to(odds_M.dtype)
            return -(2 / self.beta) * F.logsigmoid(-self.beta * ratio_M)

        return over_positions(logits_NV, targets, self.positions, value_of)
