"""Universal logit distillation: compare the shapes of two distributions over different vocabularies, not their tokens.

Shape suffixes: N supervised positions, M those of a teacher with another tokenizer, P pairs of both, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import CrossSignal, Loss, Positions, SignalKind, Targets, TeacherSignal, TokenObjective, check_weight
from distill.objectives.log_odds import spread

_BLOCK_BYTES_CPU = 1 << 22
_BLOCK_BYTES_ACCELERATOR = 256 << 20


@dataclass(frozen=True, kw_only=True)
class UniversalLogit(TokenObjective):
    """Sum over ranks i of |p_(i) - q_(i)|: both distributions sorted, the shorter padded with zeros; from 0 to 2, no unit.

    It is the 1-Wasserstein distance where every two different tokens are equally far apart, in closed form. It knows nothing of
    what the tokens say: it asks the student to be as sure as the teacher, not of the same, and needs Likelihood beside it
    (the paper adds it to cross-entropy).
    pairing: "position" compares the k-th supervised position of a response with the teacher's k-th, as the paper does, and
    leaves out what is past the shorter of the two; once the tokenizers have cut one word differently, it compares places of
    different text. "span" compares the first positions of each stretch that both tokenizers delimit.

    Source: Boizard et al. 2024 (arXiv:2402.12030), equations 4 and 5. The authors' code compares from the first answer token
    on and averages within a batch; here the sum is over the student's supervised positions of the optimiser step, a position
    without a partner counting as 0. Temperature 1, as in the paper.
    """

    weight: float = 1.0
    pairing: Literal["position", "span"] = "position"
    positions: Positions = "all"
    whole_sequences: ClassVar[bool] = True
    needs_cross: ClassVar[bool] = True
    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense"})

    def __post_init__(self) -> None:
        check_weight(self.weight, "UniversalLogit")
        if self.pairing not in ("position", "span"):
            raise ConfigError(f"UniversalLogit.pairing is {self.pairing!r}; expected position or span")
        if self.positions not in get_args(Positions):
            raise ConfigError(f"UniversalLogit.positions is {self.positions!r}; expected one of {', '.join(get_args(Positions))}")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The distance at the student's position of each pair, 0 elsewhere."""
        cross, teacher = cross_signal(targets, "UniversalLogit")
        where_N = targets.where(self.positions)
        if self.pairing == "position":
            key_N, key_M = _places(targets.sequence_N), _places(cross.sequence_M)
        else:
            key_N, key_M = _first_of_spans(cross.span_N), _first_of_spans(cross.span_M)
        row_P, column_P = matching(key_N.masked_fill(~where_N, -1), key_M)
        value_P: Tensor = _SortedDistance.apply(logits_NV, teacher.log_probs_NK, row_P, column_P)
        return Loss(value_N=spread(value_P, row_P, where_N.shape[0]), where_N=where_N)


def cross_signal(targets: Targets, name: str) -> tuple[CrossSignal, TeacherSignal]:
    """The other tokenizer's signal and its materialised, whole distributions. Raises ConfigError where there is none."""
    cross = targets.cross
    if cross is None or not isinstance(cross.teacher, TeacherSignal):
        raise ConfigError(
            f"{name} compares with a teacher that has another tokenizer, and there is no such signal: set model.teacher to a "
            f"CrossTeacher and data.teacher_tokenizer to the same model"
        )
    if cross.teacher.kind != "dense":
        raise ConfigError(f"{name} needs the teacher's whole distributions, and the signal is a {cross.teacher.kind} one")
    return cross, cross.teacher


def matching(key_N: Tensor, key_M: Tensor) -> tuple[Tensor, Tensor]:
    """Indices into N and M of equal keys, by ascending key; a key occurs at most once on either side; -1 is none.

    >>> [index.tolist() for index in matching(torch.tensor([7, -1, 3]), torch.tensor([3, 5, 7, -1]))]
    [[2, 0], [0, 2]]
    """
    row = (torch.isin(key_N, key_M) & (key_N >= 0)).nonzero().squeeze(1)
    column = (torch.isin(key_M, key_N[row])).nonzero().squeeze(1)
    return row[key_N[row].argsort()], column[key_M[column].argsort()]


def _places(sequence: Tensor) -> Tensor:
    """One number per position, equal for the k-th positions of one sequence on both sides."""
    order = sequence.argsort(stable=True)
    sizes = torch.bincount(sequence)
    first = (sizes.cumsum(0) - sizes)[sequence[order]]
    place = torch.empty_like(sequence)
    place[order] = torch.arange(sequence.shape[0], device=sequence.device) - first
    return (sequence << 32) | place


def _first_of_spans(span: Tensor) -> Tensor:
    """The span's number at its first position, -1 elsewhere."""
    order = span.argsort(stable=True)
    ordered = span[order]
    first = torch.ones_like(span, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return span.masked_fill(~first, -1)


class _SortedDistance(torch.autograd.Function):
    """The gradient is made with the value, block by block: one sort of each side, and the only (P, V) tensor is the gradient."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, teacher_MV: Tensor, row_P: Tensor, column_P: Tensor) -> Tensor:
        dtype = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
        (pairs,), vocabulary = row_P.shape, logits_NV.shape[1]
        value_P = torch.zeros(pairs, dtype=dtype, device=logits_NV.device)
        wanted = ctx.needs_input_grad[0]
        gradient_PV = logits_NV.new_empty((pairs, vocabulary)) if wanted else logits_NV.new_empty((0, vocabulary))
        width = max(vocabulary, teacher_MV.shape[1])
        budget = _BLOCK_BYTES_CPU if logits_NV.device.type == "cpu" else _BLOCK_BYTES_ACCELERATOR
        size = max(1, budget // (4 * width))
        for start in range(0, pairs, size):
            block = slice(start, start + size)
            p_BV = logits_NV[row_P[block]].to(dtype).softmax(1)
            sorted_BV, order_BV = p_BV.sort(dim=1, descending=True)
            teacher_BV = teacher_MV[column_P[block]].to(dtype).exp().sort(dim=1, descending=True).values
            gap_BV = F.pad(sorted_BV, (0, width - vocabulary)) - F.pad(teacher_BV, (0, width - teacher_BV.shape[1]))
            value_P[block] = gap_BV.abs().sum(1)
            if wanted:
                # d|gap| / dp is the sign of the gap at each token's own rank; then the softmax's own derivative.
                sign_BV = torch.empty_like(p_BV).scatter_(1, order_BV, gap_BV[:, :vocabulary].sign())
                mean_B1 = (p_BV * sign_BV).sum(1, keepdim=True)
                gradient_PV[block] = (p_BV * (sign_BV - mean_B1)).to(logits_NV.dtype)
        ctx.save_for_backward(gradient_PV, row_P)
        ctx.rows = logits_NV.shape[0]
        return value_P

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor, None, None, None]:
        gradient_PV, row_P = ctx.saved_tensors
        scaled_PV = gradient_PV * grad_P.unsqueeze(1).to(gradient_PV.dtype)
        return gradient_PV.new_zeros(ctx.rows, gradient_PV.shape[1]).index_copy_(0, row_P, scaled_PV), None, None, None
