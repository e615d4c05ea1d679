"""KL between a student and a teacher with another tokenizer, over what both can say of the next text.

Shape suffixes: N supervised positions of the student, M those of the teacher, V vocabulary, K stretches of text (spans) that both
tokenizers delimit, W tokens of a span after its first, and its end, R roots, B those of one block of spans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, SignalKind, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import log_odds
from distill.objectives.universal_logit import cross_signal

Kind = Literal["forward", "reverse", "jsd"]

_NEVER = float("-inf")
_BLOCK_BYTES_CPU = 1 << 20
_BLOCK_BYTES_ACCELERATOR = 256 << 20


@dataclass(frozen=True, kw_only=True)
class SpanAlignedKL(TokenObjective):
    """KL (nats) of the next texts that both tokenizers can tell apart, at the start of each span that both delimit.

    Both distributions are summed over roots (`CommonRoots`): a root is a text that both vocabularies hold, and it takes in the
    tokens that only one side has and the other begins so. Of the root of the actual text one part is told apart: that the
    span's text comes and both tokenizers cut after it. By the chain rule this is the product of the probabilities of the
    span's tokens, times the probability that nothing follows which the other tokenizer would have written as one token with
    the last. So the buckets are: the span; the rest of its root; every other root. What cannot follow, since the other side
    would have merged it, is taken out of the next span's distribution (and out of nothing else).
    The sum over a response's spans is, by the chain rule, a KL of whole texts with some of them not told apart, so a lower
    bound of it, as far as either tokenizer cuts a text in one way and begins it with the same root as the other. Where the two
    begin the actual text with different roots, these are taken together. With equal tokenizers it is ForwardKL at temperature 1;
    there is no temperature, since the chain rule holds at 1 only.

    kind: "forward" is KL(teacher || student), "reverse" the other one, "jsd" their mean against the mean distribution. A root
    that one side can say nothing of is left out: the other side's distribution is taken given that it says none of it.
    A span's value is shared out evenly over the student's positions in it; positions of no span count as 0, so that the mean is
    per supervised token of the student, as ForwardKL's is.

    Source: our own form. GOLD (TRL 1.16, experimental) also compares spans, but multiplies the distribution of a span's first
    position by the probabilities of its later tokens and matches tokens by equal strings: a teacher's p("1") that is all
    numbers beginning with 1 then teaches a student that knows "12" to say "1".
    """

    weight: float = 1.0
    kind: Kind = "forward"
    positions: Positions = "all"
    whole_sequences: ClassVar[bool] = True
    needs_cross: ClassVar[bool] = True
    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense"})

    def __post_init__(self) -> None:
        check_weight(self.weight, "SpanAlignedKL")
        for name, value, known in (("kind", self.kind, get_args(Kind)), ("positions", self.positions, get_args(Positions))):
            if value not in known:
                raise ConfigError(f"SpanAlignedKL.{name} is {value!r}; expected one of {', '.join(known)}")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The divergence at the positions of spans whose positions are all of the kind asked for, 0 elsewhere."""
        cross, teacher = cross_signal(targets, "SpanAlignedKL")
        roots = cross.roots
        if roots is None:
            raise ConfigError("SpanAlignedKL needs to know what the two vocabularies have in common; CrossTeacher tells it")
        if (logits_NV.shape[1], teacher.log_probs_NK.shape[1]) != (len(roots.student_V), len(roots.teacher_V)):
            raise ConfigError(
                f"the student has {logits_NV.shape[1]} logits and the teacher {teacher.log_probs_NK.shape[1]}; the roots are of "
                f"vocabularies of {len(roots.student_V)} and {len(roots.teacher_V)}"
            )
        where_N = targets.where(self.positions)
        span_N = _whole(cross.span_N, where_N)
        spans_K = torch.unique(span_N[span_N >= 0])
        spans_K = spans_K[torch.isin(spans_K, cross.span_M)]
        if not len(spans_K):
            return Loss(value_N=logits_NV[:, 0].to(torch.promote_types(logits_NV.dtype, torch.float32)) * 0, where_N=where_N)

        student = _Chains(spans_K, span_N, targets.token_N)
        other = _Chains(spans_K, cross.span_M, cross.token_M)
        begins_K2 = torch.stack((roots.student_V[student.first_K], roots.teacher_V[other.first_K]), 1)
        cut = student.cut(other, roots.glues_teacher)
        ours = student.events(logits_NV, cut, roots.student_V, roots.count, begins_K2)
        with torch.no_grad():
            cut = other.cut(student, roots.glues_student)
            theirs = other.events(teacher.log_probs_NK, cut, roots.teacher_V, roots.count, begins_K2)
        # Where nothing is known of what follows, and it could be merged, the span is not told apart from the rest of its root.
        last_K = ~torch.isin(spans_K + 1, spans_K)
        open_K = last_K & (_glued(student.last_K, roots.glues_student) | _glued(other.last_K, roots.glues_teacher))
        value_K = self._divergence(ours, theirs, begins_K2, open_K)
        share_N = (value_K / student.size_K)[student.span_of.clamp(min=0)]
        return Loss(value_N=torch.where(student.span_of >= 0, share_N, 0.0), where_N=where_N)

    def _divergence(self, ours: _Events, theirs: _Events, begins_K2: Tensor, open_K: Tensor) -> Tensor:
        whole_K = open_K | ours.rest_K.isneginf() | theirs.rest_K.isneginf()
        ours_KC, theirs_KC = (side.buckets(begins_K2, whole_K) for side in (ours, theirs))
        if self.kind == "forward":
            return _kl(theirs_KC, ours_KC)
        if self.kind == "reverse":
            return _kl(ours_KC, theirs_KC)
        mean_KC = _log_sum(torch.stack((ours_KC, theirs_KC))) - math.log(2)
        return (_kl(theirs_KC, mean_KC) + _kl(ours_KC, mean_KC)) / 2


@dataclass(frozen=True, kw_only=True)
class _Events:
    """One side's log-probabilities (nats) at the start of each span, given that both sides cut before it: of the roots; of the
    span and a cut of both sides after it; of the rest of the roots that the two sides begin the span with.
    """

    root_KR: Tensor
    span_K: Tensor
    rest_K: Tensor

    def buckets(self, begins_K2: Tensor, whole_K: Tensor) -> Tensor:
        """(K, R + 2): the other roots, the span, the rest; span and rest in one where `whole_K`."""
        both_K = _log_sum(torch.stack((self.span_K, self.rest_K)))
        span_K, rest_K = torch.where(whole_K, both_K, self.span_K), self.rest_K.masked_fill(whole_K, _NEVER)
        others_KR = self.root_KR.scatter(1, begins_K2, _NEVER)
        return torch.cat((others_KR, span_K.unsqueeze(1), rest_K.unsqueeze(1)), 1)


class _Chains:
    """Where the spans' tokens are on one side, in text order. span_of: which of the K spans each position is in, -1 none.
    start_K: a span's first position; first_K, last_K: its first and last token.
    """

    def __init__(self, spans_K: Tensor, span: Tensor, token: Tensor) -> None:
        place = torch.searchsorted(spans_K, span).clamp(max=len(spans_K) - 1)
        self.span_of = place.masked_fill(spans_K[place] != span, -1)
        order = self.span_of.argsort(stable=True)
        order = order[self.span_of[order] >= 0]
        self.size_K = torch.bincount(self.span_of[order], minlength=len(spans_K))
        begin_K = self.size_K.cumsum(0) - self.size_K
        self.token, self.start_K = token, order[begin_K]
        self.first_K, self.last_K = token[self.start_K], token[order[begin_K + self.size_K - 1]]
        column = torch.arange(len(order), device=span.device) - begin_K[self.span_of[order]]
        inside = column > 0
        self._inside, self._row, self._column = order[inside], self.span_of[order[inside]], column[inside] - 1
        self._follows_K = torch.isin(spans_K - 1, spans_K)

    def cut(self, partner: _Chains, glues: Tensor) -> tuple[Tensor, Tensor]:
        """(rows of K, tokens): what of this side's cannot begin a span, since the partner would have made one token of it and
        the last token that it said. Never the token that did come.
        """
        last = partner.last_K.roll(1).masked_fill(~self._follows_K, -1)
        low_K, high_K = (torch.searchsorted(glues[:, 0].contiguous(), last, right=right) for right in (False, True))
        row = torch.arange(len(last), device=last.device).repeat_interleave(high_K - low_K)
        before = (high_K - low_K).cumsum(0) - (high_K - low_K)
        token = glues[torch.arange(len(row), device=row.device) - before[row] + low_K[row], 1]
        other = token != self.first_K[row]
        return row[other], token[other]

    def events(self, logits: Tensor, cut: tuple[Tensor, Tensor], root_V: Tensor, count: int, begins_K2: Tensor) -> _Events:
        """The side's log-probabilities, from its logits at all its positions."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        root_KR, other_K = _Masses.apply(logits, self.start_K, self.first_K, *cut, root_V, count, begins_K2)
        allowed_K = root_KR.logsumexp(1)
        first_K = logits[self.start_K, self.first_K].to(dtype) - allowed_K
        # Log-probabilities of the span's later tokens, and last that both sides cut after it; and of the contrary of each.
        width = int(self.size_K.max())
        log_p_KW = first_K.new_zeros(len(first_K), width)
        log_not_KW = torch.full_like(log_p_KW, _NEVER)
        if len(self._inside):
            odds = log_odds(logits, self.token, self._inside)
            log_p_KW = log_p_KW.index_put((self._row, self._column), F.logsigmoid(odds))
            log_not_KW = log_not_KW.index_put((self._row, self._column), F.logsigmoid(-odds))
        if len(cut[0]):
            cut_K = _log_sum_by(logits[self.start_K[cut[0]], cut[1]].to(dtype), cut[0], len(first_K))
            total_K = torch.logaddexp(allowed_K, cut_K)
            ends, begins = (self._follows_K.nonzero().squeeze(1) - shift for shift in (1, 0))
            log_p_KW = log_p_KW.index_put((ends, torch.full_like(ends, width - 1)), (allowed_K - total_K)[begins])
            log_not_KW = log_not_KW.index_put((ends, torch.full_like(ends, width - 1)), (cut_K - total_K)[begins])
        before_KW = log_p_KW.cumsum(1) - log_p_KW
        not_K = first_K + _log_sum((before_KW + log_not_KW).t())
        return _Events(
            root_KR=root_KR - allowed_K.unsqueeze(1),
            span_K=first_K + log_p_KW.sum(1),
            rest_K=_log_sum(torch.stack((other_K - allowed_K, not_K))),
        )


class _Masses(torch.autograd.Function):
    """Logits at the spans' starts, without what is cut -> logsumexp over each root (K, R), and over the tokens, but for the one
    that came, of the roots that the spans begin with (K,). Each has its own maximum, so none is lost beside a larger one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        start_K: Tensor,
        first_K: Tensor,
        cut_row: Tensor,
        cut_token: Tensor,
        root_V: Tensor,
        count: int,
        begins_K2: Tensor,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        root_KR = torch.empty(len(start_K), count, dtype=dtype, device=logits.device)
        other_K = root_KR.new_empty(len(start_K))
        place = (start_K, first_K, cut_row, cut_token, root_V, begins_K2)
        for block in _blocks(len(start_K), logits):
            z_BV, index_BV, other_BV = _block(logits, block, *place)
            top_BR = z_BV.new_full((len(z_BV), count), _NEVER).scatter_reduce_(1, index_BV, z_BV, "amax")
            top_BR.masked_fill_(top_BR.isneginf(), 0)
            mass_BV = (z_BV - top_BR.gather(1, index_BV)).exp_()
            root_KR[block] = torch.zeros_like(top_BR).scatter_add_(1, index_BV, mass_BV).log_() + top_BR
            other_K[block] = _log_sum(z_BV.masked_fill_(~other_BV, _NEVER).t())
        ctx.save_for_backward(logits, *place, root_KR, other_K)
        return root_KR, other_K

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_KR: Tensor, grad_K: Tensor) -> tuple[Tensor | None, ...]:
        logits, *place, root_KR, other_K = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        root_KR, other_K = (one.masked_fill(one.isneginf(), 0) for one in (root_KR, other_K))
        for block in _blocks(len(root_KR), logits):
            z_BV, index_BV, other_BV = _block(logits, block, *place)
            gradient_BV = (z_BV - root_KR[block].gather(1, index_BV)).exp_() * grad_KR[block].gather(1, index_BV)
            share_BV = (z_BV.masked_fill_(~other_BV, _NEVER) - other_K[block].unsqueeze(1)).exp_()
            gradient_BV += share_BV.mul_(grad_K[block].unsqueeze(1))
            gradient[place[0][block]] = gradient_BV.to(logits.dtype)
        return gradient, None, None, None, None, None, None, None


def _blocks(rows: int, logits: Tensor) -> list[slice]:
    budget = _BLOCK_BYTES_CPU if logits.device.type == "cpu" else _BLOCK_BYTES_ACCELERATOR
    size = max(1, budget // (4 * logits.shape[1]))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _block(
    logits: Tensor,
    block: slice,
    start_K: Tensor,
    first_K: Tensor,
    cut_row: Tensor,
    cut_token: Tensor,
    root_V: Tensor,
    begins_K2: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """A copy of some rows without what is cut, the root of each column, and which columns are the actual root's other tokens."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z_BV = logits[start_K[block]].to(dtype)
    inside = (cut_row >= block.start) & (cut_row < block.stop)
    z_BV[cut_row[inside] - block.start, cut_token[inside]] = _NEVER
    begins_B2 = begins_K2[block]
    other_BV = (root_V == begins_B2[:, :1]) | (root_V == begins_B2[:, 1:])
    return z_BV, root_V.expand(len(z_BV), -1), other_BV.scatter_(1, first_K[block].unsqueeze(1), False)


def _whole(span_N: Tensor, where_N: Tensor) -> Tensor:
    """The spans' numbers, -1 for those that are not wholly in `where_N`."""
    partial = span_N[~where_N]
    return span_N.masked_fill(torch.isin(span_N, partial), -1)


def _glued(last_K: Tensor, glues: Tensor) -> Tensor:
    return torch.isin(last_K, glues[:, 0])


def _log_sum(values: Tensor) -> Tensor:
    """logsumexp over the first dimension, -inf with gradient 0 where all are."""
    top = values.detach().amax(0)
    top = top.masked_fill(top.isneginf(), 0)
    mass = (values - top).exp().sum(0)
    none = mass == 0
    return (mass.masked_fill(none, 1).log() + top).masked_fill(none, _NEVER)


def _log_sum_by(values: Tensor, row: Tensor, count: int) -> Tensor:
    """logsumexp of the values of each row (count,), -inf where it has none."""
    top = values.new_full((count,), _NEVER).scatter_reduce(0, row, values.detach(), "amax")
    top = top.masked_fill(top.isneginf(), 0)
    mass = values.new_zeros(count).index_add(0, row, (values - top[row]).exp())
    none = mass == 0
    return (mass.masked_fill(none, 1).log() + top).masked_fill(none, _NEVER)


def _kl(left_KC: Tensor, right_KC: Tensor) -> Tensor:
    """KL(left || right) per row; what the right cannot say at all is taken out of the left."""
    never_KC = right_KC.detach().isneginf() & ~left_KC.detach().isneginf()
    if bool(never_KC.any()):
        left_KC = left_KC.masked_fill(never_KC, _NEVER)
        left_KC = left_KC - _log_sum(left_KC.t()).unsqueeze(1)
    said_KC = ~left_KC.detach().isneginf()
    gap_KC = torch.where(said_KC, left_KC, 0.0) - torch.where(said_KC, right_KC, 0.0)
    return (left_KC.exp() * gap_KC).sum(1)
