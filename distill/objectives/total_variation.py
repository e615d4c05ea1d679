"""Total variation: half the absolute difference of the probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distill.objectives.base import Targets
from distill.objectives.divergences import Block, Divergence, Kernel


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Divergence):
    """1/2 sum |q - p|: the largest difference of any event's probability, between 0 and 1 (no nats).

    Symmetric and bounded; every token's gradient has the same strength per probability, however wrong it is: with
    g = -1/2 p sign(q - p) the gradient in the logits is g - p sum g. Not differentiable where p = q (there sign is 0).
    Its gradient falls with 1 / T, not with 1 / T squared as KL's: the value is multiplied by T only.

    Source: Wen et al. 2023, f-divergence minimization for sequence-level knowledge distillation (arXiv:2307.15190), there of
    sequences and stepwise; per token as in the code of Ko et al. 2024 (jongwooko/distillm, losses.py, tv_distance).
    """

    @property
    def scale(self) -> float:
        """T."""
        return self.temperature

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, total_variation)]


def total_variation(block: Block) -> tuple[Tensor, Tensor]:
    """1/2 sum |q - p| and g = -1/2 p sign(q - p)."""
    difference_BC = block.q_BC - block.p_BC
    return difference_BC.abs().sum(1).mul_(0.5), difference_BC.sign_().mul_(block.p_BC).mul_(-0.5)
