"""Skew divergences: the direction of one KL, the other side softened by a share of the first, so that it is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Targets, TeacherSignal
from distill.objectives.divergences import Block, Divergence, Kernel
from distill.objectives.kl import forward_kl, reverse_kl
from distill.objectives.log_odds import likelihood_of, log_odds


@dataclass(frozen=True, kw_only=True)
class Skew(Divergence):
    """What the skew divergences share.

    alpha: the share of the side that is measured in the mixture that it is measured against, 0 <= alpha < 1. 0 is plain KL;
    at 1 both are the same and nothing is left.
    mean_gap: None keeps alpha everywhere. A number m in (0, 1) makes it adaptive, per response r: with P and S the geometric
    means of teacher's and student's probability of its tokens and gap = P - S (forward) or S - P (reverse),

        alpha_r = clip(1 - (1 - alpha) m / gap, alpha_min, alpha)

    held constant for the gradient: alpha for a response as far off as the mean one or farther, less for nearer ones, alpha_min
    where there is no gap. (With alpha .1 the whole way from .01 to .1 lies between gaps of .91 m and m.)
    """

    alpha: float = 0.1
    alpha_min: float = 0.01
    mean_gap: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if not 0 <= self.alpha < 1:
            raise ConfigError(
                f"{name}.alpha is {self.alpha}; expected 0 <= alpha < 1 (0 is plain KL, at 1 the divergence is 0 everywhere)"
            )
        if self.mean_gap is not None and not (0 < self.mean_gap < 1 and 0 < self.alpha_min <= self.alpha):
            raise ConfigError(
                f"{name}: mean_gap {self.mean_gap}, alpha_min {self.alpha_min}, alpha {self.alpha}; expected a difference of "
                f"probabilities, 0 < mean_gap < 1, and 0 < alpha_min <= alpha"
            )

    @property
    def detached(self) -> bool:  # type: ignore[override]
        """An adaptive alpha is constant for the gradient."""
        return self.mean_gap is not None

    @property
    def whole_sequences(self) -> bool:  # type: ignore[override]
        """An adaptive alpha is one of a whole response."""
        return self.mean_gap is not None

    def kernel(self, direction: Literal["forward", "reverse"], logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Kernel:
        """The kernel of one direction for some rows, each with the alpha of its response."""
        of = skew_forward_kl if direction == "forward" else skew_reverse_kl
        if self.mean_gap is None:
            return lambda block: of(block, self.alpha)
        gap_M = response_gaps(logits_NV, targets, row_M) * (1 if direction == "forward" else -1)
        wanted_M = 1 - (1 - self.alpha) * self.mean_gap / gap_M.clamp(min=0)  # no gap: 1 - inf, clipped
        alpha_M = wanted_M.clamp(min=self.alpha_min, max=self.alpha)
        return lambda block: of(block, alpha_M[block.row].unsqueeze(1))


@dataclass(frozen=True, kw_only=True)
class SkewForwardKL(Skew):
    """KL(teacher || alpha teacher + (1 - alpha) student) (nats), at most -log alpha.

    With m the mixture and g = -(1 - alpha) q p / m, the gradient in the logits is g - p sum g: forward KL's, with each token's
    pull faded by (1 - alpha) p / m where the student is far below the teacher. It does not need the student to cover
    everything at any price.

    Source: Ko et al. 2024, DistiLLM (arXiv:2402.03898), skew KL, alpha = .1. The authors' code (jongwooko/distillm,
    losses.py) leaves out the constant sum q log q of the value and averages over a micro-batch. The adaptive alpha: Ko et al.
    2025, DistiLLM-2 (arXiv:2503.07067), with the authors' code (jongwooko/distillm-2, distillm_trainer.py): per response, clip
    to [.01, .1], mean gap that of the epoch before. Here the mean gap is a setting, as a loss remembers nothing and a
    batch's mean would make one response's loss depend on its neighbours; a gap <= 0 gives alpha_min, where the code's
    formula jumps to alpha; no gradient goes through alpha.
    """

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, self.kernel("forward", logits_NV, targets, row_M))]


@dataclass(frozen=True, kw_only=True)
class SkewReverseKL(Skew):
    """KL(student || alpha student + (1 - alpha) teacher) (nats), at most -log alpha.

    With m the mixture, g = p (log(p / m) - alpha p / m), and the gradient in the logits is g - p sum g: reverse KL's, bounded
    where the teacher gives (almost) nothing.

    Source: Ko et al. 2024, DistiLLM (arXiv:2402.03898), skew reverse KL, alpha = .1; adaptive as in SkewForwardKL.
    DistiLLM-2's code holds the student inside the mixture constant (DistiLLM's does not); here it has its gradient.
    """

    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """One kernel everywhere."""
        return [(row_M, self.kernel("reverse", logits_NV, targets, row_M))]


def log_mixture(gap_BC: Tensor, share: float | Tensor) -> tuple[Tensor, Tensor]:
    """log(m / p) and log(q / m), m = share q + (1 - share) p, from the gap log q - log p; share in (0, 1), a number or (B, 1).

    Neither is the difference of two large numbers, however far apart p and q are.
    """
    share_11 = torch.as_tensor(share, dtype=torch.float64)
    odds, log_share, log_other = (f(share_11).to(gap_BC) for f in (torch.logit, torch.log, lambda x: torch.log1p(-x)))
    relative_BC = gap_BC + odds  # log of share q / ((1 - share) p)
    # Softplus goes over to the identity above its threshold: the default, 20, is wrong in float64.
    softplus_BC = F.softplus(relative_BC.neg(), threshold=40)
    return relative_BC.add_(softplus_BC).add_(log_other), softplus_BC.neg_().sub_(log_share)


def skew_forward_kl(block: Block, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """sum q log(q / m) with m = alpha q + (1 - alpha) p, and g = -(1 - alpha) q p / m."""
    if not isinstance(alpha, Tensor) and alpha == 0:
        return forward_kl(block)
    mixture_BC, teacher_BC = log_mixture(block.gap(), alpha)
    rounding_B = (1 - _per_row(alpha)) * (block.p_BC.sum(1) - block.q_BC.sum(1))  # sum m - sum q: see forward_kl
    return teacher_BC.mul_(block.q_BC).sum(1) + rounding_B, mixture_BC.neg_().exp_().mul_(block.q_BC).mul_(alpha - 1)


def skew_reverse_kl(block: Block, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """sum p log(p / m) with m = alpha p + (1 - alpha) q, and g = p (log(p / m) - alpha p / m)."""
    if not isinstance(alpha, Tensor) and alpha == 0:
        return reverse_kl(block)
    mixture_BC, _ = log_mixture(block.gap(), 1 - alpha)
    rounding_B = (1 - _per_row(alpha)) * (block.q_BC.sum(1) - block.p_BC.sum(1))
    value_B = rounding_B - (mixture_BC * block.p_BC).sum(1)
    return value_B, mixture_BC.neg().exp_().mul_(alpha).add_(mixture_BC).mul_(block.p_BC).neg_()


def response_gaps(logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Tensor:
    """P - S at each row (M,): geometric means of the teacher's and the student's probability of its response's tokens there."""
    token_M, sequence_M = targets.token_N[row_M], targets.sequence_N[row_M]
    with torch.no_grad():
        student_M = -likelihood_of(log_odds(logits_NV, targets.token_N, row_M))
    teacher_M = _log_prob(targets.signal().select(row_M), token_M, logits_NV.shape[1]).to(student_M.dtype)
    _, response_M = sequence_M.unique(return_inverse=True)
    count_R = torch.bincount(response_M).to(student_M.dtype)
    means = [count_R.new_zeros(len(count_R)).index_add_(0, response_M, log_M) / count_R for log_M in (teacher_M, student_M)]
    return (means[0].exp() - means[1].exp())[response_M]


def _log_prob(signal: TeacherSignal, token_M: Tensor, vocabulary: int) -> Tensor:
    """The teacher's log-probability of a token; one that it does not list has its share of the rest."""
    token_M1, width = token_M.unsqueeze(1), signal.log_probs_NK.shape[1]
    if signal.ids_NK is None:
        known_M1 = token_M1 < width
        return signal.log_probs_NK.gather(1, token_M1.clamp(max=width - 1)).masked_fill(~known_M1, float("-inf")).squeeze(1)
    found_MK = (signal.ids_NK == token_M1) & signal.log_probs_NK.isfinite()
    listed_M = signal.log_probs_NK.masked_fill(~found_MK, float("-inf")).amax(1)
    others_M = vocabulary - signal.log_probs_NK.isfinite().sum(1)
    return torch.where(found_MK.any(1), listed_M, signal.rest_N - others_M.clamp(min=1).log())


def _per_row(alpha: float | Tensor) -> float | Tensor:
    return alpha.squeeze(1) if isinstance(alpha, Tensor) else alpha
