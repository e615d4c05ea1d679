"""Whether a model tells statements from their negations, in both columns: true ones affirmed, and false ones denied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distill.records import Prompt
from distill.teachers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class NegationPair:
    """A statement of known truth and its checked negation, for `evaluate_negation`."""

    prompt: Prompt
    statement: str
    negation: str
    is_true: bool


@dataclass(frozen=True, kw_only=True)
class NegationReport:
    """Both columns, as shares of pairs (0 to 1) with their binomial standard errors; None where a column has no pairs.

    true_over_denied: pairs of true statements in which the statement is more probable than its negation. denied_over_false:
    pairs of false statements in which the negation is more probable. Only the two together say that a model knows "not".
    """

    true_over_denied: float | None
    true_over_denied_error: float | None
    true_pairs: int
    denied_over_false: float | None
    denied_over_false_error: float | None
    false_pairs: int


def evaluate_negation(scorer: Scorer, pairs: Sequence[NegationPair], *, per_token: bool = False) -> NegationReport:
    """Score both texts of each pair and count, for true and for false statements apart, how often the true text wins.

    per_token: compare mean log-probabilities, which does not hold the length of a "not" against the negation.
    """
    prompts = [pair.prompt for pair in pairs]
    first = scorer.score(prompts, [pair.statement for pair in pairs])
    second = scorer.score(prompts, [pair.negation for pair in pairs])
    wins: dict[bool, list[bool]] = {True: [], False: []}
    for pair, statement, negation in zip(pairs, first, second, strict=True):
        one, other = (score.log_prob / (max(len(score.tokens), 1) if per_token else 1) for score in (statement, negation))
        wins[pair.is_true].append(one > other if pair.is_true else other > one)
    true_rate, true_error = _rate(wins[True])
    false_rate, false_error = _rate(wins[False])
    return NegationReport(
        true_over_denied=true_rate,
        true_over_denied_error=true_error,
        true_pairs=len(wins[True]),
        denied_over_false=false_rate,
        denied_over_false_error=false_error,
        false_pairs=len(wins[False]),
    )


def _rate(wins: Sequence[bool]) -> tuple[float | None, float | None]:
    """Share of wins and its binomial standard error."""
    if not wins:
        return None, None
    share = sum(wins) / len(wins)
    return share, math.sqrt(share * (1 - share) / len(wins))
