"""The one N x V pass that every token loss shares: log p/(1-p) of a token, exact at every p, with its hand-written backward.

Shape suffixes: N supervised positions, M selected ones of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.objectives.base import Loss, Positions, Targets

# One block of rows is brought into the cache, worked on there, and left: 1 MiB fits the second-level cache of current
# processors. An accelerator wants few large launches instead.
_BLOCK_BYTES_CPU = 1 << 20
_BLOCK_BYTES_ACCELERATOR = 256 << 20


def log_odds(logits_NV: Tensor, target_N: Tensor, row_M: Tensor | None = None) -> Tensor:
    """log(p / (1 - p)) of each target = its logit minus the logsumexp of all others; float32 nats (float64 for float64 input).

    Every token loss is a cheap function of it: log p = logsigmoid(x), log(1 - p) = logsigmoid(-x), p = sigmoid(x), and each of
    these is exact where the others round to 0 or 1. `log_softmax` first and `log1p(-exp(.))` after is not: it has already
    rounded log p to 0 from p > 1 - 6e-8 on.

    Arguments: logits (N, V), any float dtype, not normalised; target (N,) int64. With `row_M` (int64 indices into N, no
    repeats) only those rows are read and the result is (M,), in that order, with `target_N` still (N,).
    The gradient is +1 at the target and -softmax over the complement elsewhere, in the logits' own dtype; the only (N, V)
    tensor made is that gradient. At least one other logit of a row must be finite. Not twice differentiable.
    Raises ValueError where V < 2, where p is 1 whatever the logits.

    >>> log_odds(torch.tensor([[0.0, 100.0, 0.0]]), torch.tensor([1])).item()  # 100 - log 2: p = 1 - 7e-44
    99.30685424804688
    """
    if logits_NV.dim() != 2 or target_N.shape != logits_NV.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits_NV.shape)} and targets {tuple(target_N.shape)}; expected (N, V) and (N,), already "
            f"shifted and flat"
        )
    if logits_NV.shape[1] < 2:
        raise ValueError(
            f"a vocabulary of {logits_NV.shape[1]} token(s): its probability is 1 whatever the logits; expected 2 or more tokens"
        )
    result: Tensor = _LogOdds.apply(logits_NV, target_N, row_M)
    return result


def likelihood_of(log_odds_N: Tensor) -> Tensor:
    """-log p (nats, (N,)) from log-odds. F.softplus is not used: its linear branch above 20 is wrong in float64."""
    return -F.logsigmoid(log_odds_N)


def unlikelihood_of(log_odds_N: Tensor) -> Tensor:
    """-log(1 - p) (nats, (N,)) from log-odds."""
    return -F.logsigmoid(-log_odds_N)


def spread(value_M: Tensor, row_M: Tensor, count: int) -> Tensor:
    """(count,) with value_M at row_M and 0 elsewhere, differentiable in value_M."""
    return value_M.new_zeros(count).index_copy(0, row_M, value_M)


def over_positions(
    logits_NV: Tensor, targets: Targets, positions: Positions | Tensor, value_of: Callable[[Tensor, Tensor], Tensor]
) -> Loss:
    """The Loss whose values are `value_of(log_odds_M, row_M)` at the given positions; other rows' logits are not even read.

    positions: a kind of them, or a mask (bool, (N,)).
    """
    where_N = positions if isinstance(positions, Tensor) else targets.where(positions)
    row_M = where_N.nonzero().squeeze(1)
    every_row = row_M.shape[0] == where_N.shape[0]
    odds_M = log_odds(logits_NV, targets.token_N, None if every_row else row_M)
    return Loss(value_N=spread(value_of(odds_M, row_M), row_M, where_N.shape[0]), where_N=where_N)


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(rows: int, vocabulary: int, like: Tensor) -> list[tuple[int, int]]:
    budget = _BLOCK_BYTES_CPU if like.device.type == "cpu" else _BLOCK_BYTES_ACCELERATOR
    size = max(1, budget // (4 * vocabulary))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _complement(logits_NV: Tensor, row: Tensor | slice, target_M: Tensor) -> Tensor:
    """A copy of some rows in the working dtype, the target's logit replaced by -inf."""
    block = logits_NV[row].to(_working_dtype(logits_NV.dtype), copy=True)
    return block.scatter_(1, target_M.unsqueeze(1), float("-inf"))


class _LogOdds(torch.autograd.Function):
    """Backward recomputes the complement's softmax block by block: cheaper than keeping (N, V) of it between the passes."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, row_M: Tensor | None) -> Tensor:
        target_M = target_N if row_M is None else target_N[row_M]
        rows, vocabulary = target_M.shape[0], logits_NV.shape[1]
        row_index = torch.arange(rows, device=logits_NV.device) if row_M is None else row_M
        odds_M = logits_NV[row_index, target_M].to(_working_dtype(logits_NV.dtype))
        for start, end in _blocks(rows, vocabulary, logits_NV):
            row = slice(start, end) if row_M is None else row_M[start:end]
            block = _complement(logits_NV, row, target_M[start:end])
            # The complement's own maximum: one common with the target underflows when the target leads by more than 88.
            # softmax's largest entry is 1 / sum(exp(z - max)), so logsumexp = max - log of it, from one fused kernel.
            odds_M[start:end] -= block.amax(1) - torch.softmax(block, 1).amax(1).log()
        ctx.save_for_backward(logits_NV, target_N, row_M)
        return odds_M

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, row_M = ctx.saved_tensors
        target_M = target_N if row_M is None else target_N[row_M]
        rows, vocabulary = target_M.shape[0], logits_NV.shape[1]
        grad_NV = torch.empty_like(logits_NV) if row_M is None else torch.zeros_like(logits_NV)
        minus_grad_M1 = -grad_M.unsqueeze(1)
        for start, end in _blocks(rows, vocabulary, logits_NV):
            row = slice(start, end) if row_M is None else row_M[start:end]
            share = torch.softmax(_complement(logits_NV, row, target_M[start:end]), 1)
            if isinstance(row, slice):
                torch.mul(share, minus_grad_M1[start:end], out=grad_NV[row])
            else:
                grad_NV[row] = share.mul_(minus_grad_M1[start:end]).to(grad_NV.dtype)
        row_index = torch.arange(rows, device=grad_NV.device) if row_M is None else row_M
        grad_NV[row_index, target_M] = grad_M.to(grad_NV.dtype)
        return grad_NV, None, None
