"""Repetition: unlikelihood on what the text has already said, token by token or n-gram by n-gram.

Both see the supervised tokens of one sequence as its context, never another row's.
Shape suffixes: N supervised positions, M selected ones, P (position, candidate) pairs, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import likelihood_of, log_odds, spread, unlikelihood_of


def earlier_tokens(token_N: Tensor, sequence_N: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (position, earlier token of its sequence): each distinct earlier token once, the position's own token never.

    DABCC | D | EFF => at position 5 (the second D) {A, B, C} are candidates.

    token_N, sequence_N: (N,) int64, in text order within a sequence. Returns two (P,) int64 tensors: index into N, token id.
    P is at most the sum over positions of the distinct tokens before it, never N x V.

    >>> position_P, token_P = earlier_tokens(torch.tensor([4, 1, 2, 3, 3, 4]), torch.zeros(6, dtype=torch.int64))
    >>> token_P[position_P == 5].tolist()
    [1, 2, 3]
    """
    order = sequence_N.argsort(stable=True)
    token, sequence = token_N[order], sequence_N[order]
    first = _first_occurrence(_identity(sequence, token))
    before = first.cumsum(0) - first.long()  # distinct tokens before each position, in this sequence and all earlier ones
    before_sequence = before[_run_start(sequence)]
    count = before - before_sequence
    pair = torch.repeat_interleave(torch.arange(token.shape[0], device=token.device), count)
    within = torch.arange(pair.shape[0], device=token.device) - (count.cumsum(0) - count)[pair]
    candidate = token[first.nonzero().squeeze(1)[before_sequence[pair] + within]]
    keep = candidate != token[pair]
    return order[pair[keep]], candidate[keep]


def repeated_ngram_positions(token_N: Tensor, sequence_N: Tensor, n: int, *, marks: Literal["whole", "last"] = "whole") -> Tensor:
    """True (bool, (N,)) where a token belongs to an n-gram that its own sequence has already said ("last": only its last token).

    Overlapping occurrences count: in `a a a` the second `a a` repeats the first. An n-gram never spans two sequences.

    >>> repeated_ngram_positions(torch.tensor([1, 2, 3, 1, 2, 4]), torch.zeros(6, dtype=torch.int64), 2).tolist()
    [False, False, False, True, True, False]

    Source: Welleck et al. 2020 (arXiv:1908.04319), sec. 5.2, eq. 8 with "whole".
    """
    if n < 1:
        raise ConfigError(f"n is {n}; expected the length of an n-gram in tokens, 1 or more")
    count = token_N.shape[0]
    marked_N = torch.zeros_like(token_N, dtype=torch.bool)
    if count < n:
        return marked_N
    order = sequence_N.argsort(stable=True)
    token, sequence = token_N[order], sequence_N[order]
    # An n-gram's identity is built from that of the (n-1)-gram at the same start and one more token: n sorts, no hashing.
    gram = _identity(sequence, token)
    for extra in range(1, n):
        gram = _identity(gram[:-1], token[extra:])
    starts = count - n + 1
    inside = sequence[:starts] == sequence[n - 1 :]
    repeated = inside & ~_first_occurrence(gram)
    marked = torch.zeros_like(marked_N)
    for offset in range(n) if marks == "whole" else (n - 1,):
        marked[offset : offset + starts] |= repeated
    marked_N[order] = marked
    return marked_N


@dataclass(frozen=True, kw_only=True)
class RepetitionUnlikelihood(TokenObjective):
    """Do not say again what was said: at each positive position, the sum of -log(1 - p) over the earlier tokens of its sequence.

    Candidates are the distinct supervised tokens before the position, of either polarity, without the position's own target.

    Source: Welleck et al. 2020 (arXiv:1908.04319), eq. 4 and 5, without its likelihood term (that is Likelihood). Deviations:
    exact where the authors clamp 1 - p at 1e-5; the context starts with the response, not with the prompt.
    """

    weight: float = 1.0
    positions: ClassVar[Positions] = "positive"
    whole_sequences: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "RepetitionUnlikelihood")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """Sum over candidates of -log(1 - p(candidate)) at positive positions, 0 elsewhere."""
        where_N = targets.where(self.positions)
        count = where_N.shape[0]
        position_P, candidate_P = earlier_tokens(targets.token_N, targets.sequence_N)
        kept = where_N[position_P]
        position_P, candidate_P = position_P[kept], candidate_P[kept]
        row_M = position_P.unique()
        place_N = torch.zeros_like(targets.token_N).index_copy(0, row_M, torch.arange(row_M.shape[0], device=row_M.device))

        # 1 - p rounds away only for a token with p > 1/2, and that is the row's largest: it alone takes the exact, dearer way.
        top_N = logits_NV.detach().argmax(1)
        odds_M = log_odds(logits_NV, top_N, row_M)
        is_top = candidate_P == top_N[position_P]
        row_P, token_P = position_P[~is_top], candidate_P[~is_top]
        logit_P, top_M = (
            logits_NV[torch.cat([row_P, row_M]), torch.cat([token_P, top_N[row_M]])]
            .to(odds_M.dtype)
            .split([row_P.shape[0], row_M.shape[0]])
        )
        normaliser_M = top_M + likelihood_of(odds_M)
        rest_P = -torch.log1p(-torch.exp(logit_P - normaliser_M[place_N[row_P]]))

        value_N = odds_M.new_zeros(count).index_add(0, row_P, rest_P)
        top_row = position_P[is_top]
        value_N = value_N.index_add(0, top_row, unlikelihood_of(odds_M[place_N[top_row]]))
        return Loss(value_N=value_N, where_N=where_N)


@dataclass(frozen=True, kw_only=True)
class SequenceUnlikelihood(TokenObjective):
    """Do not repeat n-grams: -log(1 - p) at the tokens of negative sequences that repeat an n-gram of their own sequence.

    For the student's own continuations, recorded with negative polarity: tokens outside a repeated n-gram have value 0 and
    stay in the mean, so the term measures how repetitive the student is. marks="last" pushes down only the token that completes
    the repeated n-gram.

    Source: Welleck et al. 2020 (arXiv:1908.04319), sec. 5.2, eq. 7 and 8; n = 4 is the paper's.
    """

    weight: float = 1.0
    n: int = 4
    marks: Literal["whole", "last"] = "whole"
    positions: ClassVar[Positions] = "negative"
    whole_sequences: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "SequenceUnlikelihood")
        if self.n < 1:
            raise ConfigError(f"SequenceUnlikelihood.n is {self.n}; expected the length of an n-gram in tokens, 1 or more")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """-log(1 - p) at negative positions inside a repeated n-gram, 0 elsewhere."""
        where_N = targets.where(self.positions)
        row_M = (
            (where_N & repeated_ngram_positions(targets.token_N, targets.sequence_N, self.n, marks=self.marks))
            .nonzero()
            .squeeze(1)
        )
        value_M = unlikelihood_of(log_odds(logits_NV, targets.token_N, row_M))
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)


def _identity(left: Tensor, right: Tensor) -> Tensor:
    """One integer per pair, equal exactly where the pairs are."""
    return torch.unique(torch.stack([left, right]), dim=1, return_inverse=True)[1]


def _first_occurrence(identity: Tensor) -> Tensor:
    """True where no earlier element is equal."""
    order = identity.argsort(stable=True)
    ordered = identity[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).index_copy_(0, order, first)


def _run_start(run: Tensor) -> Tensor:
    """For each element of a sorted tensor, the index at which its run of equal values starts."""
    index = torch.arange(run.shape[0], device=run.device)
    starts = torch.ones_like(run, dtype=torch.bool)
    starts[1:] = run[1:] != run[:-1]
    return torch.cummax(torch.where(starts, index, torch.zeros_like(index)), 0).values if run.shape[0] else index
