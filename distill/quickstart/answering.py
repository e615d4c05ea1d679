"""When each system of the quickstart answers: always, never, or by a rule that is fitted and set on validation questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from distill.evaluate.abstention import Outcomes
from distill.evaluate.answers import Answer, signals
from distill.evaluate.rule import AbstentionRule, fit_rule, set_threshold_and_veto
from distill.quickstart.labels import ABSTENTION
from distill.recipes.facts import Split

Decide = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
RULE_SPLITS: tuple[Split, ...] = ("validation", "made_up_validation")
MADE_UP_SHARE = 0.2
OVER_REFUSAL = 0.2  # at most this share of what the untrained model knows may be refused, on validation


def fit_answering_rule(
    answers: Mapping[Split, Sequence[Answer]], right: Mapping[Split, Sequence[bool]], majority: Sequence[bool]
) -> AbstentionRule:
    """The confidence is fitted on validation questions; made-up ones have a say, MADE_UP_SHARE of it, in threshold and veto.

    majority: whether the untrained model's majority answer is right, for each validation question.

    What answering wins is taken as expected, from fitted chances, and not as counted: the count over a hundred questions has
    several peaks of about the same height, and which one is the highest is luck. On random halves of the validation questions
    the threshold then varies by .03 (standard deviation) in the place of .12; docs/results.md has the comparison.
    """
    real, made_up = signals(answers["validation"]), signals(answers["made_up_validation"])
    rule = _fitted(real, right["validation"])
    gain = [truthful_gain(right["validation"], majority) / len(real[0])]
    if len(set(majority)) == 2:  # else there is no chance to fit, and the counts do
        chances = [_fitted(real, outcome).confidence(*real) for outcome in (right["validation"], majority)]
        gain = [(chances[0] + chances[1] - 1) / len(real[0])]
    if len(made_up[0]):
        gain.append(np.full(len(made_up[0]), -MADE_UP_SHARE / len(made_up[0])))
    log_prob, p_idk, greedy = (np.concatenate(pair) for pair in zip(real, made_up, strict=True))
    return set_threshold_and_veto(
        rule,
        answer_log_prob=log_prob,
        p_idk=p_idk,
        greedy_idk=greedy,
        gain=np.concatenate(gain),
        known=np.concatenate([np.array(majority, dtype=bool), np.zeros(len(made_up[0]), dtype=bool)]),
        over_refusal=OVER_REFUSAL,
    )


def _fitted(real: tuple[np.ndarray, np.ndarray, np.ndarray], outcome: Sequence[bool]) -> AbstentionRule:
    """The chance of an outcome by the answer's log-probability alone.

    Adding p(IDK) and greedy IDK made the ranking of validation questions worse: docs/results.md.
    """
    return fit_rule(
        answer_log_prob=real[0],
        p_idk=real[1],
        greedy_idk=real[2],
        right=np.array(outcome, dtype=bool),
        abstention=ABSTENTION,
        use=("answer",),
    )


def truthful_gain(right: Sequence[bool], majority: Sequence[bool]) -> np.ndarray:
    """What answering wins over abstaining in the truthful count: +1, 0 or -1 for each question."""
    return np.array(right, dtype=float) - ~np.array(majority, dtype=bool)


def always(log_prob: np.ndarray, p_idk: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A model without a rule answers everything, and is as sure as its answer is probable."""
    return log_prob, np.ones(len(log_prob), dtype=bool)


def by_rule(rule: AbstentionRule) -> Decide:
    def decide(log_prob: np.ndarray, p_idk: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        confidence = rule.confidence(log_prob, p_idk, greedy)
        return confidence, confidence >= rule.threshold

    return decide


def never(base: Outcomes) -> Outcomes:
    """Someone who says "I don't know" to everything: no answer, and nothing to rank by."""
    nothing = np.zeros(len(base.right))
    return dataclasses.replace(
        base,
        answered=np.zeros_like(base.answered),
        confidence=nothing,
        p_idk=nothing + 1,
        answer_log_prob=nothing,
        negative_mass=nothing,
    )
