"""Gradient ascent: the baseline that unlearning methods are measured against."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import likelihood_of, over_positions


@dataclass(frozen=True, kw_only=True)
class GradientAscent(TokenObjective):
    """log p of every negative position, to be minimised: likelihood with the sign turned (nats, negative, unbounded below).

    Its gradient at the token is 1 - p: nothing where the model is surest of the token, and most where it has long forgotten
    it. So it never ends, and what it destroys on the way is the model. For comparison only: it warns when it is made.

    Source: the GA baseline of Maini et al. 2024 (arXiv:2401.06121), without its retain term (that is Likelihood).
    """

    weight: float = 1.0
    positions: ClassVar[Positions] = "negative"

    def __post_init__(self) -> None:
        check_weight(self.weight, "GradientAscent")
        warnings.warn(
            "GradientAscent has no lower bound: its push grows as the tokens are forgotten, and it destroys the model. Use it "
            "as a baseline only. NPO and TokenNPO are bounded, and the push of Unlikelihood fades with p.",
            stacklevel=3,
        )

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """log p at negative positions, 0 elsewhere."""
        return over_positions(logits_NV, targets, self.positions, lambda odds_M, row_M: -likelihood_of(odds_M))
