"""How a divergence between teacher and student is computed: one pass over blocks of rows, its gradient made on the way.

For a divergence D between the teacher's q and the student's p = softmax(z / T), the chain rule through the softmax is

    dD/dz_j = (g_j - p_j sum_k g_k) / T        with g_k = p_k dD/dp_k

so that a divergence is a small pure kernel (log p, log q -> value, g) and everything else is done here, once: temperature,
padded vocabularies, the bucket of a stored teacher's rest, rows that are not looked at, precision, memory.

Shape suffixes: N supervised positions, M looked-at ones of them, B those of one block, V the student's vocabulary, K the
teacher's candidates, C the columns compared: tokens, and where the signal is not dense one last bucket for all the others.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, SignalKind, Targets, TeacherSignal, TokenObjective, check_weight
from distill.objectives.log_odds import spread

# What stands for log 0: exp of it is exactly 0 and its product with 0 is 0, where those of -inf are NaN. It is no epsilon: no
# probability changes.
_LOG_ZERO = -1e30

# A block and its temporaries stay in the second-level cache. An accelerator wants few large launches instead.
_BLOCK_BYTES_CPU = 1 << 18
_BLOCK_BYTES_ACCELERATOR = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Block:
    """Both distributions at a few positions, tempered and normalised, in the working precision (float32 or float64).

    log_p_BC, p_BC: the student's; log_q_BC, q_BC: the teacher's. Log-probabilities are finite (log 0 is -1e30).
    rest: whether the last column is the bucket of all tokens that the teacher does not list.
    row: which of the M looked-at positions these are.
    """

    log_p_BC: Tensor
    p_BC: Tensor
    log_q_BC: Tensor
    q_BC: Tensor
    rest: bool
    row: slice

    def gap(self) -> Tensor:
        """log q - log p (B, C), a fresh tensor."""
        return self.log_q_BC - self.log_p_BC


# -> value (B,), of which rounding below 0 is cut off afterwards, and g (B, C) up to a multiple of p, which is then overwritten.
Kernel = Callable[[Block], tuple[Tensor, Tensor]]


def infinite_where(value_B: Tensor, log_BC: Tensor, mass_BC: Tensor) -> Tensor:
    """The values, infinite in rows where one distribution has mass and the other's logarithm is log 0."""
    if float(log_BC.amin()) > _LOG_ZERO:
        return value_B
    return value_B.masked_fill(((log_BC <= _LOG_ZERO) & (mass_BC > 0)).any(1), float("inf"))


@dataclass(frozen=True, kw_only=True)
class Divergence(TokenObjective):
    """How far the student's distribution is from the teacher's at each position (nats), at `temperature`.

    Both are softmax(z / T); the value is multiplied by T squared, so that the gradient's size does not fall as T grows
    (Hinton et al. 2015, arXiv:1503.02531, section 2).
    Teacher's signals: dense ones are compared over the K tokens that both models have, the student renormalised on them.
    top_k: over the K tokens and one bucket for all others, whose student mass is taken exactly; at T = 1 a lower bound of the
    dense divergence (data processing), equal to it at K = V. At T != 1 the rest's tempered mass is unknown: its tokens are
    taken as equally probable, which overstates it for T > 1. sampled: see ForwardKL; the others refuse it.
    """

    weight: float = 1.0
    temperature: float = 1.0
    positions: Positions = "all"
    needs_teacher: ClassVar[bool] = True
    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense", "top_k"})

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_weight(self.weight, name)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"{name}.temperature is {self.temperature}; expected a finite number > 0 (1: as the models are)")
        if self.positions not in get_args(Positions):
            raise ConfigError(f"{name}.positions is {self.positions!r}; expected one of {', '.join(get_args(Positions))}")

    @abstractmethod
    def parts(self, logits_NV: Tensor, targets: Targets, row_M: Tensor) -> Sequence[tuple[Tensor, Kernel]]:
        """Which kernel at which rows (int64 indices into N); together they are row_M, the rows looked at."""

    @property
    def scale(self) -> float:
        """The factor of the value that keeps the gradient's size as the temperature grows."""
        return self.temperature**2

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The divergence at `positions`, 0 elsewhere; rows elsewhere are not read.

        Raises ConfigError where there is no teacher, or its signal cannot carry this divergence, and ValueError where the
        divergence is infinite.
        """
        signal = targets.signal()
        self._check(signal, logits_NV)
        where_N = targets.where(self.positions)
        parts = self.parts(logits_NV, targets, where_N.nonzero().squeeze(1))
        value_M = divergence(logits_NV, signal, parts, temperature=self.temperature, scale=self.scale)
        row_M = torch.cat([row for row, _ in parts])
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)

    def _check(self, signal: TeacherSignal, logits_NV: Tensor) -> None:
        name = type(self).__name__
        if signal.kind not in self.signals:
            raise ConfigError(
                f"{name} cannot be computed from a {signal.kind} teacher signal: a sample estimates only what is linear in the "
                f"teacher's probabilities; use ForwardKL, or store the teacher's top-k or hidden states"
            )
        if signal.kind == "sampled" and self.temperature != 1:
            raise ConfigError(
                f"{name}.temperature is {self.temperature} and the teacher's signal is sampled at temperature 1, from which no "
                f"other can be estimated; use temperature 1, or store the teacher's hidden states"
            )
        if signal.ids_NK is None and signal.log_probs_NK.shape[1] > logits_NV.shape[1]:
            raise ConfigError(
                f"the teacher gives {signal.log_probs_NK.shape[1]} probabilities and the student has {logits_NV.shape[1]} "
                f"tokens; expected the teacher's sliced to the tokens that both have"
            )


def divergence(
    logits_NV: Tensor, signal: TeacherSignal, parts: Sequence[tuple[Tensor, Kernel]], *, temperature: float, scale: float
) -> Tensor:
    """scale * D(teacher, student) at the rows of all parts, one after the other: (M,), float32 (float64 for float64 logits).

    logits (N, V): any float dtype, shifted, not normalised; the gradient comes back in that dtype. Only rows of some part are
    read; the others get gradient 0. Where logits need a gradient it is made here, in the forward pass, and is the only (N, V)
    tensor made. Not twice differentiable. Raises ValueError where the divergence is infinite.
    """
    wants_gradient = logits_NV.requires_grad and torch.is_grad_enabled()
    value_M: Tensor = _Divergence.apply(logits_NV, signal, tuple(parts), temperature, scale, wants_gradient)
    return value_M


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: Tensor,
        signal: TeacherSignal,
        parts: tuple[tuple[Tensor, Kernel], ...],
        temperature: float,
        scale: float,
        wants_gradient: bool,
    ) -> Tensor:
        value_M, grad_NV = _one_pass(logits_NV, signal, parts, temperature, scale, wants_gradient)
        # Tensors go through save_for_backward, none through ctx: what a checkpoint is to forget must not stay alive there.
        ctx.save_for_backward(grad_NV, logits_NV, signal.ids_NK, signal.log_probs_NK, signal.rest_N)
        ctx.settings, ctx.sampled, ctx.is_fresh = (parts, temperature, scale), signal.sampled, True
        return value_M

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        grad_NV, logits_NV, ids_NK, log_probs_NK, rest_N = ctx.saved_tensors
        parts, temperature, scale = ctx.settings
        if not ctx.is_fresh:  # a second backward pass through a retained graph: the first one has used the gradient up
            signal = TeacherSignal(ids_NK=ids_NK, log_probs_NK=log_probs_NK, rest_N=rest_N, sampled=ctx.sampled)
            _, grad_NV = _one_pass(logits_NV, signal, parts, temperature, scale, True)
        ctx.is_fresh = False
        if not _is_every_row(parts, logits_NV):
            row_M = torch.cat([row_M for row_M, _ in parts])
            grad_M = grad_M.new_zeros(logits_NV.shape[0]).index_copy_(0, row_M, grad_M)
        # In place, as a second (N, V) tensor costs a third more time; .data, as autograd would else refuse a second pass. In
        # blocks, as bfloat16 times float32 makes float32 copies first.
        for chunk in _chunks(len(grad_NV), grad_NV):
            grad_NV.data[chunk].mul_(grad_M[chunk].unsqueeze(1))
        return grad_NV, None, None, None, None, None


def _is_every_row(parts: Sequence[tuple[Tensor, Kernel]], logits_NV: Tensor) -> bool:
    return len(parts) == 1 and parts[0][0].shape[0] == logits_NV.shape[0]


def _one_pass(
    logits_NV: Tensor,
    signal: TeacherSignal,
    parts: Sequence[tuple[Tensor, Kernel]],
    temperature: float,
    scale: float,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """scale * divergence (M,) and, if wanted, its gradient (N, V) in the logits' dtype."""
    every_row = _is_every_row(parts, logits_NV)
    count, dtype = sum(len(row_M) for row_M, _ in parts), torch.promote_types(logits_NV.dtype, torch.float32)
    value_M = logits_NV.new_empty(count, dtype=dtype)
    grad_NV = None
    if wants_gradient:
        grad_NV = torch.empty_like(logits_NV) if every_row else torch.zeros_like(logits_NV)
    start = 0
    for row_M, kernel in parts:
        for chunk in _chunks(len(row_M), logits_NV):
            row = chunk if every_row else row_M[chunk]
            value_B, gradient_BV = _block(logits_NV[row], signal, row, kernel, chunk, temperature)
            value_M[start + chunk.start : start + chunk.stop] = value_B
            if grad_NV is not None:
                grad_NV[row] = (gradient_BV if scale == temperature else gradient_BV.mul_(scale / temperature)).to(grad_NV.dtype)
        start += len(row_M)
    value_M.clamp_(min=0).mul_(scale)  # no divergence is negative: what is below 0 is rounding
    if bool(value_M.isinf().any()):
        raise ValueError(
            f"the divergence is infinite at {int(value_M.isinf().sum())} of {count} positions: one model gives a token "
            f"probability 0 (a logit of -inf) where the other does not. Cut padding off the vocabulary, or use a divergence that "
            f"is bounded (SkewForwardKL, SkewReverseKL, GeneralizedJSD, TotalVariation)"
        )
    return value_M, grad_NV


def _chunks(rows: int, logits_NV: Tensor) -> Iterator[slice]:
    budget = _BLOCK_BYTES_CPU if logits_NV.device.type == "cpu" else _BLOCK_BYTES_ACCELERATOR
    size = max(1, budget // (4 * logits_NV.shape[1]))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _block(
    logits_BV: Tensor, signal: TeacherSignal, row: Tensor | slice, kernel: Kernel, chunk: slice, temperature: float
) -> tuple[Tensor, Tensor]:
    """Value (B,) and T * its gradient (B, V), for some rows."""
    dtype = torch.promote_types(logits_BV.dtype, torch.float32)
    if signal.ids_NK is not None:
        return _bucketed(logits_BV.to(dtype, copy=True), signal, row, kernel, chunk, temperature)
    log_q_BK = signal.log_probs_NK[row].to(dtype)
    known_BK = logits_BV[:, : log_q_BK.shape[1]].to(dtype)
    if temperature != 1:
        known_BK, log_q_BK = known_BK / temperature, torch.log_softmax(log_q_BK / temperature, 1)
    value_B, gradient_BK = _compare(known_BK, log_q_BK, kernel, chunk, rest=False)
    padding = logits_BV.shape[1] - known_BK.shape[1]
    return value_B, F.pad(gradient_BK, (0, padding)) if padding else gradient_BK


def _bucketed(
    logits_BV: Tensor, signal: TeacherSignal, row: Tensor | slice, kernel: Kernel, chunk: slice, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same over the listed tokens and one bucket for all others; overwrites the logits.

    The bucket's logit is the logsumexp of its tokens', so that its mass is the exact complement, never 1 - sum; the chain rule
    through it spreads its gradient by the student's own softmax among them.
    """
    assert signal.ids_NK is not None
    nothing = float("-inf")
    ids_BK, log_q_BK = signal.ids_NK[row], signal.log_probs_NK[row].to(logits_BV.dtype)
    # A candidate of probability 0 is none (a row may have fewer than K): its token belongs to the others, whatever its id.
    listed_BK = log_q_BK != nothing
    logits_BV = logits_BV.div_(temperature)
    candidate_BK = logits_BV.gather(1, ids_BK)
    logits_BV.scatter_(1, ids_BK, candidate_BK.masked_fill(listed_BK, nothing))
    peak_B, share_BV = logits_BV.amax(1), torch.softmax(logits_BV, 1)
    others_B = peak_B - share_BV.amax(1).log()  # logsumexp: softmax's largest entry is 1 / sum(exp(z - max))
    if bool((nobody_B := peak_B == nothing).any()):  # every token of the vocabulary is listed
        share_BV[nobody_B], others_B = 0, others_B.masked_fill(nobody_B, nothing)
    bucket_BC = torch.cat([candidate_BK.masked_fill(~listed_BK, nothing), others_B.unsqueeze(1)], 1)

    rest_B = signal.rest_N[row].to(logits_BV.dtype)
    if temperature != 1:
        # U equally probable others of mass R: U (R / U)^(1 / T), beside the listed tokens' q^(1 / T).
        log_u_B = (logits_BV.shape[1] - listed_BK.sum(1)).to(rest_B.dtype).log()
        rest_B = torch.where(nobody_B, nothing, rest_B + (temperature - 1) * log_u_B)
    log_q_BC = torch.log_softmax(torch.cat([log_q_BK, rest_B.unsqueeze(1)], 1) / temperature, 1)

    value_B, gradient_BC = _compare(bucket_BC, log_q_BC, kernel, chunk, rest=True)
    gradient_BV = share_BV.mul_(gradient_BC[:, -1:])
    return value_B, gradient_BV.scatter_(1, ids_BK, gradient_BC[:, :-1].where(listed_BK, gradient_BV.gather(1, ids_BK)))


def _compare(logits_BC: Tensor, log_q_BC: Tensor, kernel: Kernel, chunk: slice, *, rest: bool) -> tuple[Tensor, Tensor]:
    """Value (B,) and its gradient (B, C) for tempered logits."""
    # softmax takes its exponentials faster than exp does, and normalises what a signal's storage has rounded.
    block = Block(
        log_p_BC=torch.log_softmax(logits_BC, 1).clamp_(min=_LOG_ZERO),
        p_BC=torch.softmax(logits_BC, 1),
        log_q_BC=log_q_BC.clamp(min=_LOG_ZERO),
        q_BC=torch.softmax(log_q_BC, 1),
        rest=rest,
        row=chunk,
    )
    value_B, g_BC = kernel(block)
    return value_B, g_BC.addcmul_(block.p_BC, g_BC.sum(1, keepdim=True), value=-1)
