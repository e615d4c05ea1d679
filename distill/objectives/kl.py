"""Kullback-Leibler divergence in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distill.objectives.base import SignalKind, Targets
from distill.objectives.divergences import Block, Divergence, Kernel, infinite_where


@dataclass(frozen=True, kw_only=True)
class ForwardKL(Divergence):
    """KL(teacher || student) = sum q (log q - log p) (nats): the student must cover whatever the teacher says.

    The gradient in the logits is p - q: that of a cross-entropy with the teacher's probabilities as soft labels.

    A sampled signal is right here and nowhere else, as the gradient is linear in q: with the importance weights in q's place
    p - q is its unbiased estimate. The value is then that of the sample (its entropy, not the teacher's, is taken off), and
    the tokens that were not drawn form a bucket of teacher mass 0.

    >>> import torch
    >>> from distill.objectives import Targets, TeacherSignal
    >>> q = torch.tensor([[0.5, 0.5, 0.0]])
    >>> teacher = TeacherSignal(ids_NK=None, log_probs_NK=q.log(), rest_N=torch.tensor([float("-inf")]))
    >>> targets = Targets(token_N=torch.tensor([0]), weight_N=torch.ones(1), negative_N=torch.tensor([False]),
    ...                   sequence_N=torch.tensor([0]), teacher=teacher)
    >>> ForwardKL()(torch.zeros(1, 3), targets).value_N  # log 3 - log 2
    tensor([0.4055])

    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2, less the teacher's entropy. The sampled form: Anshumann et al.
    2025, Sparse Logit Sampling (arXiv:2503.16870).
    """

    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense", "top_k", "sampled"})

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, forward_kl)]


@dataclass(frozen=True, kw_only=True)
class ReverseKL(Divergence):
    """KL(student || teacher) = sum p (log p - log q) (nats): the student must say only what the teacher would.

    The gradient in the logits is p (log p - log q - KL). Infinite, and refused with ValueError, where the teacher gives
    probability 0 to what the student can say; a top-k signal does not, as its rest has mass.

    Source: Gu et al. 2024, MiniLLM (arXiv:2306.08543), eq. 1, there of whole responses and on the student's own samples;
    per token as in Agarwal et al. 2024 (arXiv:2306.13649).
    """

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, reverse_kl)]


def forward_kl(block: Block) -> tuple[Tensor, Tensor]:
    """sum q (log q - log p) and g = -q."""
    # sum p - sum q is 0 but for the rounding of the normalisers, which it takes off the first term: each summand
    # q log(q / p) + p - q is then >= 0, and KL(x, x) is 0 to the second order of the rounding.
    correction_B = block.p_BC.sum(1) - block.q_BC.sum(1)
    value_B = block.gap().mul_(block.q_BC).sum(1) + correction_B
    return infinite_where(value_B, block.log_p_BC, block.q_BC), block.q_BC.neg()


def reverse_kl(block: Block) -> tuple[Tensor, Tensor]:
    """sum p (log p - log q) and g = p (log p - log q)."""
    g_BC = block.gap().mul_(block.p_BC).neg_()
    correction_B = block.q_BC.sum(1) - block.p_BC.sum(1)
    return infinite_where(g_BC.sum(1) + correction_B, block.log_q_BC, block.p_BC), g_BC
