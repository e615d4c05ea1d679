"""DistiLLM-2's contrastive distillation: each divergence on the responses it suits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Targets
from distill.objectives.divergences import Block, Kernel
from distill.objectives.skew import Skew


@dataclass(frozen=True, kw_only=True)
class ContrastiveSkewKL(Skew):
    """SkewForwardKL at positive positions (the teacher's responses), SkewReverseKL at negative ones (the student's) (nats).

    On a teacher's response the forward direction pulls the student's probabilities up to the teacher's; on a student's response
    the reverse direction pushes down what the teacher would not say. Unlike a preference loss it stops where the student says
    what the teacher says. alpha, alpha_min, mean_gap: of both, as there. negative_weight: factor of negative positions' values.
    A record's polarity says whose response it is: teacher's positive, student's negative.

    Source: Ko et al. 2025, DistiLLM-2 (arXiv:2503.07067), its contrastive loss. The authors average over each
    pair's responses; here over positions. Deviations in the skew: see SkewForwardKL and SkewReverseKL.
    """

    negative_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.negative_weight) and self.negative_weight >= 0):
            raise ConfigError(f"ContrastiveSkewKL.negative_weight is {self.negative_weight}; expected a finite number >= 0")

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """The forward direction at positive rows, the reverse one at negative rows."""
        negative_M = targets.negative_N[row_M]
        chosen, rejected = row_M[~negative_M], row_M[negative_M]
        reverse = self.kernel("reverse", logits_NV, targets, rejected)

        def weighted(block: Block) -> tuple[Tensor, Tensor]:
            value_B, g_BC = reverse(block)
            return value_B * self.negative_weight, g_BC * self.negative_weight

        return [(chosen, self.kernel("forward", logits_NV, targets, chosen)), (rejected, weighted)]
