"""ORPO's odds-ratio term: the positive's odds against the negative's, beside likelihood of the positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.objectives.base import SequenceLoss, SequenceObjective, Sequences, Unit, check_weight


@dataclass(frozen=True, kw_only=True)
class ORPO(SequenceObjective):
    """-log sigmoid(log odds of the positive - log odds of the negative) for every pair (nats).

    A response's odds are P / (1 - P) with P = exp(mean log p per token). The paper's loss is likelihood plus lambda times this:
    `Likelihood()` beside `ORPO(weight=0.1)`. A pair's weight is the product of its responses' weights.

    log(1 - P) is taken as log(-expm1(log P)): exact down to 1 - P = 1e-38, where log p itself runs out of float32; beyond it
    the log-odds stay at 87.

    Source: Hong et al. 2024 (arXiv:2403.07691), eq. 4 and 7. Deviation: the paper's likelihood is a mean per
    response; Likelihood is one over all tokens of the step.
    """

    weight: float = 1.0
    unit: ClassVar[Unit] = "pair"

    def __post_init__(self) -> None:
        check_weight(self.weight, "ORPO")

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per pair."""
        chosen_P, rejected_P = sequences.pairs()
        odds_S = _log_odds_of(sequences.mean_log_prob())
        value_P = -F.logsigmoid(odds_S[chosen_P] - odds_S[rejected_P])
        return SequenceLoss(value_U=value_P, weight_U=sequences.weight_S[chosen_P] * sequences.weight_S[rejected_P])


def _log_odds_of(log_prob_S: Tensor) -> Tensor:
    """log(P / (1 - P)) from log P. The smallest normal number stands for log P that has rounded to 0."""
    log_prob_S = log_prob_S.clamp(max=-torch.finfo(log_prob_S.dtype).tiny)
    return log_prob_S - torch.log(-torch.expm1(log_prob_S))
