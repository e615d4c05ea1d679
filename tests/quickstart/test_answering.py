"""The rule of the quickstart's student: what it is fitted on and how far luck decides it."""

import numpy as np

from distill.evaluate.answers import Answer
from distill.evaluate.rule import set_threshold_and_veto
from distill.quickstart.answering import OVER_REFUSAL, _fitted, fit_answering_rule, signals, truthful_gain


def validation(seed: int, count: int = 120):
    """Answers whose chance of being right is their probability; the untrained model knows about the same ones."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.5, 0.5, count).clip(1e-6)
    answers = [
        Answer(text="x", log_prob=float(np.log(one)), idk_log_prob=float(np.log(0.05)), greedy_idk=False) for one in chance
    ]
    return answers, list(rng.random(count) < chance), list(rng.random(count) < chance)


def counted(answers, right, majority):
    """The threshold by counted wins."""
    log_prob, p_idk, greedy = signals(answers)
    return set_threshold_and_veto(
        _fitted((log_prob, p_idk, greedy), right),
        answer_log_prob=log_prob,
        p_idk=p_idk,
        greedy_idk=greedy,
        gain=truthful_gain(right, majority),
        known=np.array(majority),
        over_refusal=OVER_REFUSAL,
    ).threshold


def test_expected_wins_give_a_steadier_threshold_than_counted_ones():
    expected, by_count = [], []
    for seed in range(60):
        answers, right, majority = validation(seed)
        rule = fit_answering_rule(
            {"validation": answers, "made_up_validation": []}, {"validation": right, "made_up_validation": []}, majority
        )
        expected.append(rule.threshold)
        by_count.append(counted(answers, right, majority))
    assert np.std(expected) < 0.75 * np.std(by_count)
    assert abs(np.mean(expected) - 0.5) < 0.03  # right as often as it costs: the threshold that the chances say


def test_a_model_that_knows_everything_or_nothing_still_gets_a_rule():
    answers, right, _ = validation(0)
    for majority in ([True] * len(right), [False] * len(right)):
        rule = fit_answering_rule(
            {"validation": answers, "made_up_validation": []}, {"validation": right, "made_up_validation": []}, majority
        )
        assert 0 <= rule.threshold <= 1
