"""The metrics of abstention are checked against their definitions, computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import ConfigError
from distill.evaluate.abstention import (
    METRICS,
    Outcomes,
    accuracy_at_coverage,
    aurc,
    auroc,
    measure,
    paired_difference,
    risk_coverage,
    standard_errors,
)

scores = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=12)


def _outcomes(n: int = 60, seed: int = 0, **changes: np.ndarray) -> Outcomes:
    draw = np.random.default_rng(seed)
    right = draw.random(n) < 0.4
    confidence = draw.random(n) + 0.4 * right
    values = dict(
        cluster=np.array([f"entity {i // 3}" for i in range(n)]),
        answered=confidence > 0.6,
        right=right,
        majority_right=right ^ (draw.random(n) < 0.1),
        p_idk=1 / (1 + confidence),
        answer_log_prob=np.log(confidence + 1e-3),
        confidence=confidence,
        negative_mass=np.where(draw.random(n) < 0.2, np.nan, draw.random(n)),
    )
    return Outcomes(**(values | changes))


@given(scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order_ties_counting_half(pairs: list[tuple[float, bool]]) -> None:
    positive = [s for s, p in pairs if p]
    negative = [s for s, p in pairs if not p]
    expected = [float(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    found = auroc(np.array([s for s, _ in pairs]), np.array([p for _, p in pairs]))
    assert np.isnan(found) if not expected else found == pytest.approx(np.mean(expected))


@given(scores, st.randoms(use_true_random=False))
def test_risk_coverage_does_not_depend_on_the_order_of_tied_questions(pairs: list[tuple[float, bool]], shuffle) -> None:
    before = aurc(np.array([s for s, _ in pairs]), np.array([r for _, r in pairs]))
    shuffle.shuffle(pairs)
    assert aurc(np.array([s for s, _ in pairs]), np.array([r for _, r in pairs])) == pytest.approx(before)


def test_risk_at_full_coverage_is_the_error_rate_and_a_perfect_ranking_starts_without_risk() -> None:
    right = np.array([True, True, False, False, False])
    coverage, risk = risk_coverage(np.array([0.9, 0.8, 0.3, 0.2, 0.1]), right)
    assert coverage[-1] == 1 and risk[-1] == pytest.approx(0.6)
    assert risk[:2].tolist() == [0, 0]
    assert accuracy_at_coverage(np.array([0.9, 0.8, 0.3, 0.2, 0.1]), right, 0.4) == 1


def test_always_answering_and_never_answering_are_the_two_ends() -> None:
    always = measure(_outcomes(answered=np.ones(60, dtype=bool)))
    never = measure(_outcomes(answered=np.zeros(60, dtype=bool)))
    assert always["coverage"] == 1 and always["over_refusal"] == 0
    assert always["accuracy"] + always["hallucination"] == pytest.approx(1)
    assert never["coverage"] == never["accuracy"] == never["hallucination"] == 0 and never["over_refusal"] == 1
    assert np.isnan(never["accuracy_answered"])


def test_truthful_counts_a_right_answer_and_an_abstention_where_the_majority_is_wrong() -> None:
    outcomes = _outcomes(
        n=4,
        answered=np.array([True, True, False, False]),
        right=np.array([True, False, True, False]),
        majority_right=np.array([True, True, True, False]),
    )
    assert measure(outcomes)["truthful"] == 0.5


def test_standard_errors_grow_when_questions_of_one_entity_stand_or_fall_together() -> None:
    right = np.repeat(np.arange(40) % 2 == 0, 5)
    alone = _outcomes(200, right=right, answered=np.ones(200, dtype=bool), cluster=np.array([str(i) for i in range(200)]))
    together = _outcomes(200, right=right, answered=np.ones(200, dtype=bool), cluster=np.repeat([str(i) for i in range(40)], 5))
    apart, correlated = standard_errors(alone)["accuracy"], standard_errors(together)["accuracy"]
    assert apart == pytest.approx(0.5 / np.sqrt(200), rel=0.15)
    assert correlated == pytest.approx(0.5 / np.sqrt(40), rel=0.15)


def test_every_metric_has_a_standard_error() -> None:
    assert standard_errors(_outcomes(), resamples=20).keys() == METRICS.keys()


def test_a_paired_difference_of_a_system_with_itself_is_exactly_zero() -> None:
    difference, error = paired_difference(_outcomes(), _outcomes(), "auroc_confidence", resamples=50)
    assert difference == 0 and error == 0


def test_a_paired_difference_refuses_other_questions() -> None:
    with pytest.raises(ConfigError, match="same questions"):
        paired_difference(_outcomes(60), _outcomes(30), "accuracy")


def test_no_questions_have_no_figures_rather_than_a_warning() -> None:
    nothing = _outcomes().take(np.array([], dtype=int))
    assert all(np.isnan(value) for value in measure(nothing).values())
