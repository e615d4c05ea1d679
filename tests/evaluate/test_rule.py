"""The rule that decides when the student answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.errors import ConfigError
from distill.evaluate.rule import RULE_FILE, AbstentionRule, choose_threshold, fit_rule, set_threshold_and_veto


def _signals(n: int = 4000, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    answer_log_prob = -draw.exponential(2.0, n)
    p_idk = 1 / (1 + np.exp(-draw.normal(0, 2, n)))
    logit = 1.0 + 0.8 * answer_log_prob - 0.5 * np.log(p_idk / (1 - p_idk))
    right = draw.random(n) < 1 / (1 + np.exp(-logit))
    return dict(answer_log_prob=answer_log_prob, p_idk=p_idk, greedy_idk=p_idk > 0.5, right=right)


def test_the_fit_finds_the_weights_that_made_the_data() -> None:
    rule = fit_rule(**_signals(40_000), abstention="I don't know.")
    assert rule.bias == pytest.approx(1.0, abs=0.15)
    assert rule.answer == pytest.approx(0.8, abs=0.05)
    assert rule.idk == pytest.approx(-0.5, abs=0.05)
    assert rule.greedy == pytest.approx(0.0, abs=0.15)


def test_confidence_is_calibrated() -> None:
    train, test = _signals(), _signals(seed=1)
    right = test.pop("right")
    confidence = fit_rule(**train, abstention="I don't know.").confidence(**test)
    for low in np.arange(0, 1, 0.2):
        inside = (confidence >= low) & (confidence < low + 0.2)
        assert right[inside].mean() == pytest.approx(confidence[inside].mean(), abs=0.06)


def test_a_signal_that_never_changes_gets_no_weight() -> None:
    signals = _signals()
    rule = fit_rule(**{**signals, "greedy_idk": np.zeros(4000, dtype=bool)}, abstention="I don't know.")
    assert rule.greedy == 0


def test_only_the_named_signals_are_used() -> None:
    rule = fit_rule(**_signals(), abstention="I don't know.", use=("answer",))
    assert rule.idk == rule.greedy == 0 and rule.answer > 0


def test_nothing_can_be_fitted_to_answers_that_are_all_wrong() -> None:
    signals = _signals()
    with pytest.raises(ConfigError, match="all wrong"):
        fit_rule(**{**signals, "right": np.zeros(4000, dtype=bool)}, abstention="I don't know.")


def test_the_threshold_is_the_one_that_gains_most() -> None:
    draw = np.random.default_rng(0)
    confidence, gain = draw.random(200), draw.choice([-1.0, 0.0, 1.0], 200)

    def won(threshold: float) -> float:
        return float(gain[confidence >= threshold].sum())

    assert won(choose_threshold(confidence, gain)) == max(won(t) for t in np.linspace(0, 1, 2001))


def _vetoed() -> tuple[AbstentionRule, dict[str, np.ndarray]]:
    """Answers as probable as right ones, that only p(IDK) tells apart."""
    rule = AbstentionRule(bias=2, answer=1, idk=0, greedy=0, threshold=0.5, abstention="I don't know.")
    signals = dict(
        answer_log_prob=np.array([-0.1, -0.2, -5.0, -0.1, -0.2]),
        p_idk=np.array([0.1, 0.3, 0.4, 0.95, 0.9]),
        greedy_idk=np.zeros(5, dtype=bool),
    )
    return set_threshold_and_veto(
        rule, **signals, gain=np.array([1.0, 1.0, -1.0, -1.0, -1.0]), known=np.zeros(5, dtype=bool)
    ), signals


def test_no_more_than_the_allowed_share_of_what_is_known_is_refused() -> None:
    draw = np.random.default_rng(1)
    rule = AbstentionRule(bias=2, answer=1, idk=0, greedy=0, threshold=0.5, abstention="I don't know.")
    known = draw.random(300) < 0.5
    signals = dict(answer_log_prob=-draw.exponential(2, 300), p_idk=draw.random(300), greedy_idk=np.zeros(300, dtype=bool))
    for share in (0.0, 0.1, 0.5):
        found = set_threshold_and_veto(rule, **signals, gain=-np.ones(300), known=known, over_refusal=share)
        refused = found.confidence(**signals)[known] < found.threshold
        assert refused.mean() <= share
        assert refused.mean() >= share - 0.02


def test_the_veto_abstains_where_the_answer_is_probable_and_the_abstention_more_so() -> None:
    rule, signals = _vetoed()
    assert (rule.confidence(**signals) >= rule.threshold).tolist() == [True, True, False, False, False]
    assert 0.4 <= rule.veto < 0.9


def test_a_threshold_of_zero_answers_everything_the_vetoed_last() -> None:
    rule, signals = _vetoed()
    confidence = rule.confidence(**signals)
    assert (confidence >= 0).all()
    assert confidence[:2].min() > confidence[3:].max() and confidence[3] > confidence[4]


def test_a_rule_survives_its_file(tmp_path: Path) -> None:
    rule = AbstentionRule(bias=1.0, answer=0.5, idk=-0.25, greedy=0.0, threshold=0.4, abstention="לא יודע.")
    rule.save(tmp_path)
    assert AbstentionRule.load(tmp_path) == rule


def test_a_broken_rule_file_is_named(tmp_path: Path) -> None:
    (tmp_path / RULE_FILE).write_text('{"bias": 1}')
    with pytest.raises(ConfigError, match=RULE_FILE):
        AbstentionRule.load(tmp_path)


def test_a_threshold_outside_the_probabilities_is_refused() -> None:
    with pytest.raises(ConfigError, match="no probability"):
        AbstentionRule(bias=0, answer=0, idk=0, greedy=0, threshold=1.5, abstention="no")
