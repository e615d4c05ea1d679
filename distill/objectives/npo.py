"""Negative preference optimisation, of tokens and of whole responses: forgetting that ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import (
    Loss,
    Positions,
    SequenceLoss,
    SequenceObjective,
    Sequences,
    Targets,
    TokenObjective,
    Unit,
    check_weight,
)
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


@dataclass(frozen=True, kw_only=True)
class NPO(SequenceObjective):
    """(2 / beta) log(1 + (p / p_reference)^beta) of every negative response, p that of the whole response (nats).

    Its gradient is that of gradient ascent times 2 p^beta / (p^beta + p_reference^beta): full strength while the response is as
    probable as under the reference, fading once it is much less so. One very improbable token switches the whole response off:
    TokenNPO judges each token for itself, and takes spans.

    Source: Zhang et al. 2024 (arXiv:2404.05868), eq. 3, beta = 0.1. Its retain term is Likelihood on positive records.
    """

    weight: float = 1.0
    beta: float = 0.1
    unit: ClassVar[Unit] = "negative"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "NPO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"NPO.beta is {self.beta}; expected a finite number > 0 (beta -> 0 is gradient ascent)")

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per negative response. Raises ConfigError without sequences.reference_S."""
        index_U = sequences.where("negative").nonzero().squeeze(1)
        value_U = -(2 / self.beta) * F.logsigmoid(-self.beta * sequences.log_ratio()[index_U])
        return SequenceLoss(value_U=value_U, weight_U=sequences.weight_S[index_U])


@dataclass(frozen=True, kw_only=True)
class SimNPO(SequenceObjective):
    """-(2 / beta) log sigmoid(-beta m - gamma) of every negative response, m its mean log p per token (nats).

    NPO without a reference: the push on a response depends on how probable it is now, not on how probable it was, and is the
    same for short and long ones. It fades where -m is well above gamma / beta, so an uncommon response is hardly pushed at all.
    gamma: how improbable is enough; 0 is the usual choice.

    Source: Fan et al. 2024 (arXiv:2410.07163), the SimNPO loss. Deviation: its authors' code has beta (-m - gamma) where the
    paper has -beta m - gamma; this is the paper's, and the same at gamma = 0. beta = 2.5 is their code's for TOFU forget05 (4.5
    for forget10).
    """

    weight: float = 1.0
    beta: float = 2.5
    gamma: float = 0.0
    unit: ClassVar[Unit] = "negative"

    def __post_init__(self) -> None:
        check_weight(self.weight, "SimNPO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"SimNPO.beta is {self.beta}; expected a finite number > 0")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ConfigError(f"SimNPO.gamma is {self.gamma}; expected a finite margin >= 0")

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per negative response."""
        index_U = sequences.where("negative").nonzero().squeeze(1)
        value_U = -(2 / self.beta) * F.logsigmoid(-self.beta * sequences.mean_log_prob()[index_U] - self.gamma)
        return SequenceLoss(value_U=value_U, weight_U=sequences.weight_S[index_U])
