"""SimPO: preference by the student's own mean log-probability, with a margin and without a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from distill.errors import ConfigError
from distill.objectives.base import SequenceLoss, SequenceObjective, Sequences, Unit, check_weight


@dataclass(frozen=True, kw_only=True)
class SimPO(SequenceObjective):
    """-log sigmoid(beta (m_positive - m_negative) - gamma) for every pair, m the mean log p per token (nats).

    The mean is what decides between answers of unequal length when they are ranked, so nothing is gained by length. gamma:
    by how much (in units of the argument) the positive should lead. Without a reference nothing holds the student near what it
    was: use a small learning rate, or put Likelihood beside it. A pair's weight is the product of its responses' weights.

    Source: Meng et al. 2024 (arXiv:2405.14734), eq. 6. Its authors used beta 2 to 2.5 and recommend gamma / beta = 0.5 to begin
    with.
    """

    weight: float = 1.0
    beta: float = 2.0
    gamma: float = 1.0
    unit: ClassVar[Unit] = "pair"

    def __post_init__(self) -> None:
        check_weight(self.weight, "SimPO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"SimPO.beta is {self.beta}; expected a finite number > 0")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ConfigError(f"SimPO.gamma is {self.gamma}; expected a finite margin >= 0")

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per pair."""
        chosen_P, rejected_P = sequences.pairs()
        mean_S = sequences.mean_log_prob()
        value_P = -F.logsigmoid(self.beta * (mean_S[chosen_P] - mean_S[rejected_P]) - self.gamma)
        return SequenceLoss(value_U=value_P, weight_U=sequences.weight_S[chosen_P] * sequences.weight_S[rejected_P])
