"""Jensen-Shannon divergences with a knob for the direction: the published form, and one whose ends do not vanish."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Targets
from distill.objectives.divergences import Block, Divergence, Kernel
from distill.objectives.kl import forward_kl, reverse_kl
from distill.objectives.skew import log_mixture


@dataclass(frozen=True, kw_only=True)
class _Directed(Divergence):
    """A divergence with beta: 0 is forward KL, 1 is reverse KL."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"{type(self).__name__}.beta is {self.beta}; expected 0 (forward KL) to 1 (reverse KL)")

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        if self.beta in (0, 1):
            return [(row_M, forward_kl if self.beta == 0 else reverse_kl)]
        return [(row_M, self.between)]

    @abstractmethod
    def between(self, block: Block) -> tuple[Tensor, Tensor]:
        """The kernel for 0 < beta < 1."""


@dataclass(frozen=True, kw_only=True)
class JensenShannon(_Directed):
    """KL(T || M) / (1 - beta) + KL(S || M) / beta (nats) with M = beta T + (1 - beta) S: the direction, and nothing else.

    T is the teacher, S the student. It is the published form (GeneralizedJSD) divided by beta (1 - beta), the factor with which
    that one vanishes at its ends. For S near T every such divergence is chi-square / 2 to second order, whatever beta, and so
    are both KLs: beta chooses between covering (towards 0) and seeking (towards 1) and is no learning rate. The limits are
    forward KL at 0 and reverse KL at 1, both continuous, and at the ends they are taken exactly. beta = 1/2 is four times the
    Jensen-Shannon divergence. Bounded by -log(beta) / (1 - beta) - log(1 - beta) / beta in between.

    With d = log q - log p and l_b(x) = log(1 - b + b e^x) / b (l_0(x) = e^x - 1, l_1(x) = x) it is

        - sum p l_beta(d) - sum q l_(1 - beta)(-d),    g = -p l_beta(d),

    computed so: nothing is divided by a vanishing number after rounding.

    Source: own form of Agarwal et al. 2024 (arXiv:2306.13649), eq. 1; the same family as Nielsen 2020, On a generalization of
    the Jensen-Shannon divergence (doi:10.3390/e22020221), up to its factor.
    """

    def between(self, block: Block) -> tuple[Tensor, Tensor]:
        """The kernel for 0 < beta < 1."""
        gap_BC = block.gap()
        g_BC = _log_mixture_slope(gap_BC, self.beta).mul_(block.p_BC).neg_()
        teacher_BC = _log_mixture_slope(gap_BC.neg_(), 1 - self.beta).mul_(block.q_BC)
        return g_BC.sum(1) - teacher_BC.sum(1), g_BC


@dataclass(frozen=True, kw_only=True)
class GeneralizedJSD(_Directed):
    """beta KL(T || M) + (1 - beta) KL(S || M) (nats) with M = beta T + (1 - beta) S: the published form.

    It vanishes towards both ends like beta (1 - beta): beta = .01 has about a twenty-fifth of the gradient of beta = .5, so that
    beta is also a learning rate. At the ends themselves, where the formula is 0, it is forward KL (0) and reverse KL (1), as
    published: from .99 to 1 it jumps. JensenShannon is the same without the factor.
    With g = -(1 - beta) p log(m / p) the gradient in the logits is g - p sum g.

    Source: Agarwal et al. 2024, On-Policy Distillation of Language Models (GKD, arXiv:2306.13649), eq. 1, default beta .5. Equal
    to TRL 1.16's GKDTrainer.generalized_jsd_loss and DistillationTrainer loss at temperature 1, at every beta; at other
    temperatures theirs lacks the factor T squared.
    """

    def between(self, block: Block) -> tuple[Tensor, Tensor]:
        """The kernel for 0 < beta < 1."""
        mixture_BC, teacher_BC = log_mixture(block.gap(), self.beta)
        g_BC = mixture_BC.mul_(block.p_BC).mul_(self.beta - 1)
        return self.beta * teacher_BC.mul_(block.q_BC).sum(1) + g_BC.sum(1), g_BC


def _log_mixture_slope(gap_BC: Tensor, share: float) -> Tensor:
    """l_share(gap), 0 < share < 1, to be multiplied by the probability that the gap is measured from."""
    if share >= 0.5:
        return log_mixture(gap_BC, share)[0].div_(share)
    # Relative precision where share is small. Above the largest exponent the probability it is multiplied by has underflowed.
    largest = math.log(torch.finfo(gap_BC.dtype).max) - 1
    return gap_BC.clamp(max=largest).expm1_().mul_(share).log1p_().div_(share)
