"""Kahneman-Tversky optimisation: responses that are good or bad each for themselves, bounded on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import SequenceLoss, SequenceObjective, Sequences, Unit, check_weight


@dataclass(frozen=True, kw_only=True)
class KTO(SequenceObjective):
    """1 - sigmoid(beta (r - z)) for a positive response and 1 - sigmoid(beta (z - r)) for a negative one (0 to 1, no nats).

    r = log(p / p_reference), summed over the response; z is a baseline that all responses share, held constant for the gradient.
    No pairs are needed. The gradient vanishes on both sides: far from the baseline a response is either done or given up,
    which makes it robust against wrong labels.

    baseline="batch": z = max(0, mean of r over the responses of the micro-batch). So the loss of a response depends on those
    beside it, and on how an optimiser step is cut into micro-batches. baseline="none": z = 0, every response for itself; this is
    APO-zero without pairs.
    desirable, undesirable: factors of the two kinds, to balance them where one is much more frequent.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), its loss and value function. Deviation: the paper's z estimates
    KL(p || p_reference) from responses to *other* prompts of the batch, a second pass of both models; here it is the mean
    over the batch's own responses. Both are near 0 at first; then the paper's follows how far the student has moved at all,
    this one how far positives have risen and negatives fallen. baseline="none": D'Oosterlinck et al. 2024
    (arXiv:2408.06266), APO-zero, eq. 7 without pairs, as TRL's apo_zero_unpaired.
    """

    weight: float = 1.0
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    baseline: Literal["batch", "none"] = "batch"
    unit: ClassVar[Unit] = "sequence"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "KTO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"KTO.beta is {self.beta}; expected a finite number > 0 (smaller: further from the reference)")
        for name, factor in (("desirable", self.desirable), ("undesirable", self.undesirable)):
            if not (math.isfinite(factor) and factor >= 0):
                raise ConfigError(f"KTO.{name} is {factor}; expected a finite factor >= 0")

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per response. Raises ConfigError without sequences.reference_S."""
        index_U = sequences.where("all").nonzero().squeeze(1)
        ratio_U, negative_U = sequences.log_ratio()[index_U], sequences.negative_S[index_U]
        gain_U = self.beta * (ratio_U - self._baseline(ratio_U.detach()))
        # 1 - sigmoid(x) = sigmoid(-x), without the cancellation.
        value_U = torch.where(negative_U, self.undesirable * torch.sigmoid(gain_U), self.desirable * torch.sigmoid(-gain_U))
        return SequenceLoss(value_U=value_U, weight_U=sequences.weight_S[index_U])

    def _baseline(self, ratio_U: Tensor) -> Tensor:
        if self.baseline == "none":
            return ratio_U.new_zeros(())
        return (ratio_U.sum() / max(len(ratio_U), 1)).clamp(min=0)
