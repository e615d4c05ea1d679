"""Adaptive KL: forward and reverse weighted by where the student is wrong, in the teacher's head or in its tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Targets
from distill.objectives.divergences import Block, Divergence, Kernel
from distill.objectives.kl import forward_kl, reverse_kl

_FIRST_LOOK = 64


@dataclass(frozen=True, kw_only=True)
class AdaptiveKL(Divergence):
    """w KL(teacher || student) + (1 - w) KL(student || teacher) (nats), w = head gap / (head gap + tail gap).

    The head are the teacher's most probable tokens while their probabilities sum to at most `head_mass`, the first one always;
    a gap is the sum of |q - p|. w is held constant for the gradient: -w q + (1 - w) p (log p - log q) stands for g. Forward KL
    works on the head first and reverse KL on the tail: each gets the weight of what is wrong there.
    With a top-k signal the bucket of the rest belongs to the tail. Where student and teacher agree, w = 1/2.

    Source: Wu et al. 2025, Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models
    (arXiv:2404.02657), AKL, head_mass .5. As in the authors' code the head ends before its sum exceeds .5, and the weights are
    constant for the gradient. There equal distributions give 0/0.
    """

    head_mass: float = 0.5
    detached: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.head_mass < 1:
            raise ConfigError(f"AdaptiveKL.head_mass is {self.head_mass}; expected a probability, 0 < head_mass < 1")

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, self._kernel)]

    def _kernel(self, block: Block) -> tuple[Tensor, Tensor]:
        weight_B = _forward_weight(block, self.head_mass)
        forward_B, g_BC = forward_kl(block)
        reverse_B, reverse_g_BC = reverse_kl(block)
        value_B = torch.lerp(reverse_B.clamp(min=0), forward_B.clamp(min=0), weight_B)
        return value_B, torch.lerp(reverse_g_BC, g_BC, weight_B.unsqueeze(1))


def _forward_weight(block: Block, head_mass: float) -> Tensor:
    gap_BC = (block.q_BC - block.p_BC).abs_()
    tokens_BC = block.q_BC[:, :-1] if block.rest else block.q_BC
    # The head is short where the teacher is sure: look at few tokens, and at eight times more until they hold its mass.
    count = min(_FIRST_LOOK, tokens_BC.shape[1])
    while True:
        top_BK, ids_BK = tokens_BC.topk(count, dim=1)
        mass_BK = top_BK.cumsum(1)
        if count == tokens_BC.shape[1] or bool((mass_BK[:, -1] > head_mass).all()):
            break
        count = min(8 * count, tokens_BC.shape[1])
    in_head_BK = mass_BK <= head_mass
    in_head_BK[:, 0] = True
    head_B = gap_BC.gather(1, ids_BK).mul_(in_head_BK).sum(1)
    total_B = gap_BC.sum(1)
    return torch.where(total_B > 0, head_B / total_B, 0.5).clamp_(max=1)
