"""How well a model knows what it does not know: accuracy, coverage, refusal, ranking, and their standard errors.

One row of `Outcomes` per question: what the model would answer if made to, how sure it is, and whether it chose to answer.
NumPy only; nothing here touches a model. Arrays have shape (Q,), Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What one system did on Q questions. `cluster` names the entity asked about: questions of one entity are not independent.

    answered: it gave an answer. right: that answer, or the one it would have given, is correct. majority_right: the untrained
    model's majority answer is correct (what the question's label should have been). p_idk: probability of the abstention
    as the next words. answer_log_prob: log-probability of its own answer (nats). confidence: what its decision is made from
    (higher: surer). negative_mass: probability of the answers known to be wrong, summed; NaN where none are known.
    """

    cluster: NDArray[np.str_]
    answered: Bools
    right: Bools
    majority_right: Bools
    p_idk: Floats
    answer_log_prob: Floats
    confidence: Floats
    negative_mass: Floats

    def take(self, index: NDArray[np.intp]) -> Outcomes:
        """The same for a selection of questions, repeats allowed."""
        return Outcomes(**{name: values[index] for name, values in vars(self).items()})


def auroc(score: Floats, positive: Bools) -> float:
    """Chance that a positive outranks a negative, ties counting half; NaN where one of the two kinds is missing.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return float("nan")
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[inverse]  # average rank of ties, from 1
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n))


def risk_coverage(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """Coverage 1/Q ... 1 and the error rate among the most confident share of that size (Geifman and El-Yaniv 2017).

    Where confidences tie, the order within the tie is unknown: each tied question counts with the tie's mean error.

    >>> coverage, risk = risk_coverage(np.array([0.9, 0.5, 0.1]), np.array([True, False, True]))
    >>> risk.round(3).tolist()
    [0.0, 0.5, 0.333]
    """
    order = np.argsort(-confidence, kind="stable")
    _, tie, count = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    wrong = np.bincount(tie, weights=(~right[order]).astype(float)) / count
    k = np.arange(1, len(right) + 1)
    return k / len(right), np.cumsum(wrong[tie]) / k


def aurc(confidence: Floats, right: Bools) -> float:
    """Area under the risk-coverage curve: the mean over all coverages of the error rate among those answered. Lower is better."""
    return _mean(risk_coverage(confidence, right)[1])


def accuracy_at_coverage(confidence: Floats, right: Bools, coverage: float) -> float:
    """Accuracy among the most confident share `coverage` of the questions."""
    covered, risk = risk_coverage(confidence, right)
    return float(1 - risk[min(int(np.searchsorted(covered, coverage)), len(risk) - 1)])


def _mean(values: Floats | Bools) -> float:
    return float(values.mean()) if len(values) else float("nan")


METRICS: Mapping[str, Callable[[Outcomes], float]] = {
    "accuracy": lambda o: _mean(o.answered & o.right),
    "coverage": lambda o: _mean(o.answered),
    "accuracy_answered": lambda o: _mean(o.right[o.answered]),
    "hallucination": lambda o: _mean(o.answered & ~o.right),
    "over_refusal": lambda o: _mean(~o.answered[o.majority_right]),
    "truthful": lambda o: _mean(np.where(o.answered, o.right, ~o.majority_right)),
    "auroc": lambda o: auroc(o.p_idk, ~o.right),
    "aurc": lambda o: aurc(-o.p_idk, o.right),
    "auroc_answer": lambda o: auroc(o.answer_log_prob, o.right),
    "aurc_answer": lambda o: aurc(o.answer_log_prob, o.right),
    "auroc_confidence": lambda o: auroc(o.confidence, o.right),
    "aurc_confidence": lambda o: aurc(o.confidence, o.right),
    "negative_mass": lambda o: _mean(o.negative_mass[~np.isnan(o.negative_mass)]),
}


def measure(outcomes: Outcomes) -> dict[str, float]:
    """Every metric of METRICS; NaN where it has no meaning (the accuracy of someone who never answers)."""
    return {name: metric(outcomes) for name, metric in METRICS.items()}


def standard_errors(outcomes: Outcomes, *, resamples: int = 400, seed: int = 0) -> dict[str, float]:
    """Standard error of every metric by the bootstrap over clusters (entities): correlated questions count as one draw."""
    draws = [measure(outcomes.take(index)) for index in _bootstrap(outcomes, resamples, seed)]
    return {name: _spread([draw[name] for draw in draws]) for name in METRICS}


def paired_difference(
    first: Outcomes, second: Outcomes, metric: str, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """metric(first) - metric(second) on the same questions, and its standard error under one common resampling of entities."""
    if not np.array_equal(first.cluster, second.cluster):
        raise ConfigError("a paired difference needs both systems on the same questions in the same order")
    value = METRICS[metric]
    draws = [value(first.take(i)) - value(second.take(i)) for i in _bootstrap(first, resamples, seed)]
    return value(first) - value(second), _spread(draws)


def _bootstrap(outcomes: Outcomes, resamples: int, seed: int) -> list[NDArray[np.intp]]:
    generator = np.random.default_rng(seed)
    _, cluster = np.unique(outcomes.cluster, return_inverse=True)
    members = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    return [np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))]) for _ in range(resamples)]


def _spread(draws: list[float]) -> float:
    known = np.array([d for d in draws if not np.isnan(d)])
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
