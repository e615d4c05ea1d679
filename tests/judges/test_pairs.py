"""A preference that turns with the order is none; many preferences make one ranking."""

import math
import random

import numpy as np
import pytest
from choosers import Chooses
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import ConfigError
from distill.judges.bradley_terry import Comparison, bradley_terry, rank
from distill.judges.choice import NO_CHOICE, UNDECIDED
from distill.judges.pairs import CONTRADICTION, JudgePair, TeacherPairJudge
from distill.judges.table import TruthTable
from distill.prompt_file import nonce
from distill.records import Message

PROMPT = (Message(role="user", content="Decline the offer."),)
POLITE, RUDE = "Thank you, but I have to decline.", "Nah."


def standing_first(text):
    return text.split("A: ")[1].split("\n")[0]


def longer_wins(text):
    return (0.8, 0.2) if standing_first(text) == POLITE else (0.3, 0.7)


def test_both_orders_are_asked_and_must_agree():
    teacher = Chooses(longer_wins)
    judge = TeacherPairJudge(generator=teacher, criterion="Which of the two sounds more professional?")
    assert judge.compare(PROMPT, POLITE, RUDE).preferred == "first"
    assert judge.compare(PROMPT, RUDE, POLITE).preferred == "second"
    assert len(teacher.seen) == 4 and "sounds more professional?" in teacher.seen[0]
    mean = (math.log(4) + math.log(7 / 3)) / 2
    assert judge.compare(PROMPT, POLITE, RUDE).confidence == pytest.approx(1 / (1 + math.exp(-mean)))


def test_a_preference_for_a_position_is_a_contradiction_and_no_verdict():
    found = TeacherPairJudge(generator=Chooses(lambda text: (0.9, 0.1))).compare(PROMPT, POLITE, RUDE)
    assert (found.preferred, found.reason) == (None, CONTRADICTION)
    assert found.evidence["log_odds"] == pytest.approx([math.log(9), -math.log(9)])


def test_averaging_cancels_the_position_and_leaves_the_preference():
    def says(text):
        odds = 2.0 + (0.5 if standing_first(text) == POLITE else -0.5)  # prefers what stands first, and politeness a little
        return (1 / (1 + math.exp(-odds)), 1 / (1 + math.exp(odds)))

    assert TeacherPairJudge(generator=Chooses(says)).compare(PROMPT, RUDE, POLITE).preferred is None
    averaged = TeacherPairJudge(generator=Chooses(says), contradiction="average").compare(PROMPT, RUDE, POLITE)
    assert averaged.preferred == "second" and averaged.confidence == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_equals_and_silence_are_abstentions():
    assert TeacherPairJudge(generator=Chooses(lambda text: (0.5, 0.5))).compare(PROMPT, "a", "b").reason == UNDECIDED
    assert TeacherPairJudge(generator=Chooses(lambda text: (0, 0))).compare(PROMPT, "a", "b").reason == NO_CHOICE
    split = TeacherPairJudge(generator=Chooses(lambda text: (1, 0)), contradiction="average").compare(PROMPT, "a", "b")
    assert split.reason == CONTRADICTION


@given(st.text(max_size=40), st.text(max_size=40))
def test_swapping_the_two_swaps_the_preference(first, second):
    judge = TeacherPairJudge(generator=Chooses(lambda text: (1 + len(standing_first(text)), 9)))
    one, other = judge.compare(PROMPT, first, second), judge.compare(PROMPT, second, first)
    assert {"first": "second", "second": "first", None: None}[one.preferred] == other.preferred
    assert one.confidence == pytest.approx(other.confidence)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_of_a_pair_closes_the_fence(first, second):
    text = TeacherPairJudge(generator=Chooses(lambda text: (1, 0))).ask(PROMPT, first, second).content
    assert text.split("\n").count(nonce(PROMPT[0].content, first, second)) == 2


def test_a_pair_is_told_from_the_verdicts_on_each():
    judge = JudgePair(judge=TruthTable(truth={"Up.": True, "Over.": True, "Down.": False, "Under.": False}))
    found = judge.compare_many([PROMPT] * 4, ["Up.", "Down.", "Up.", "Up."], ["Down.", "Up.", "Over.", "?"])
    assert [one.preferred for one in found] == ["first", "second", None, None]
    assert [one.reason for one in found[2:]] == ["both are approved", "the judge abstained: not in the table"]
    assert judge.compare_many([], [], []) == []


@pytest.mark.parametrize("settings", [{"options": ("A", "A")}, {"margin": 1.0}])
def test_labels_that_are_one_and_margins_that_nothing_passes_are_refused(settings):
    with pytest.raises(ConfigError):
        TeacherPairJudge(generator=Chooses(lambda text: (1, 0)), **settings)


def test_two_items_have_the_closed_form():
    ranking = bradley_terry([("a", "b", 1)] * 30 + [("b", "a", 1)] * 10, spread=math.inf)
    gap, error = ranking.difference("a", "b")
    assert gap == pytest.approx(math.log(3), abs=1e-10)
    assert error == pytest.approx(1 / math.sqrt(40 * 0.75 * 0.25), rel=1e-10)
    assert ranking.probability("a", "b") == pytest.approx(0.75) and ranking.rank() == ["a", "b"]
    assert ranking.errors == pytest.approx((error / 2, error / 2)), "each against the mean of the two"


def minorise_maximise(names, comparisons, steps=20_000):
    """Zermelo's iteration (Hunter 2004), in plain loops: another way to the same maximum."""
    strength = dict.fromkeys(names, 1.0)
    for _ in range(steps):
        new = {}
        for name in names:
            wins = sum(won if first == name else 1 - won for first, second, won in comparisons if name in (first, second))
            rest = sum(1 / (strength[first] + strength[second]) for first, second, _ in comparisons if name in (first, second))
            new[name] = wins / rest
        scale = math.exp(sum(map(math.log, new.values())) / len(new))
        change = max(abs(new[name] / scale - strength[name]) for name in names)
        strength = {name: value / scale for name, value in new.items()}
        if change < 1e-13:
            break
    return {name: math.log(value) for name, value in strength.items()}


def test_without_a_prior_it_is_the_maximum_that_zermelo_s_iteration_finds():
    chance = random.Random(1)
    names = ["a", "b", "c", "d", "e"]
    drawn = [(*chance.sample(names, 2), chance.choice([0.0, 0.5, 1.0])) for _ in range(80)]
    ranking = bradley_terry(drawn, spread=math.inf)
    expected = minorise_maximise(names, drawn)
    assert dict(zip(ranking.items, ranking.strengths, strict=True)) == pytest.approx(expected, abs=1e-8)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"), st.floats(0, 1)).filter(lambda one: one[0] != one[1]),
        min_size=1,
        max_size=30,
    ),
    st.floats(0.1, 20),
)
def test_with_a_prior_it_exists_and_its_gradient_is_zero(comparisons, spread):
    ranking = bradley_terry(comparisons, spread=spread)
    strength = dict(zip(ranking.items, ranking.strengths, strict=True))
    for item in ranking.items:
        slope = -strength[item] / spread**2
        for first, second, won in comparisons:
            if item in (first, second):
                expected = 1 / (1 + math.exp(strength[second] - strength[first]))
                slope += (won - expected) * (1 if item == first else -1)
        assert slope == pytest.approx(0, abs=1e-7)
    for component in ranking.components:
        assert sum(strength[item] for item in component) == pytest.approx(0, abs=1e-9)
    assert all(math.isfinite(error) for error in ranking.errors)


def test_errors_are_those_of_the_inverted_information():
    comparisons = [("a", "b", 1), ("b", "c", 1), ("c", "a", 1), ("a", "b", 0), ("a", "c", 1), ("b", "c", 0.5)]
    ranking = bradley_terry(comparisons, spread=2.0)
    size, strengths = 3, np.array(ranking.strengths)
    information = np.eye(size) / 4
    for first, second, _ in comparisons:
        i, j = ranking.items.index(first), ranking.items.index(second)
        p = 1 / (1 + np.exp(strengths[j] - strengths[i]))
        e = np.zeros(size)
        e[i], e[j] = 1, -1
        information += p * (1 - p) * np.outer(e, e)
    centre = np.eye(size) - 1 / size
    expected = np.sqrt(np.diag(centre @ np.linalg.inv(information) @ centre))
    assert ranking.errors == pytest.approx(tuple(expected), rel=1e-9)


def test_groups_that_were_never_compared_have_no_common_ranking():
    ranking = bradley_terry([("a", "b", 1), ("c", "d", 1)])
    assert ranking.components == (("a", "b"), ("c", "d"))
    with pytest.raises(ConfigError, match="never compared"):
        ranking.rank()
    with pytest.raises(ConfigError, match="not linked"):
        ranking.difference("a", "c")
    assert ranking.probability("c", "d") > 0.5


def test_an_item_that_never_lost_needs_the_prior():
    with pytest.raises(ConfigError, match="finite spread"):
        bradley_terry([("a", "b", 1), ("a", "b", 1)], spread=math.inf)
    assert bradley_terry([("a", "b", 1)] * 500).probability("a", "b") < 1


@pytest.mark.parametrize("wrong", [[], [("a", "a", 1)], [("a", "b", 1.5)], [("a", "b", math.nan)]])
def test_comparisons_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        bradley_terry(wrong)


def test_known_strengths_are_found_again_within_their_errors():
    chance = random.Random(3)
    true = {name: 0.4 * index for index, name in enumerate("abcdefgh")}
    drawn = []
    for _ in range(6000):
        first, second = chance.sample(sorted(true), 2)
        wins = chance.random() < 1 / (1 + math.exp(true[second] - true[first]))
        drawn.append(Comparison(first, second, float(wins)))
    ranking = bradley_terry(drawn, spread=100.0)
    assert ranking.rank() == sorted(true, key=true.__getitem__, reverse=True)
    mean = sum(true.values()) / len(true)
    off = [(ranking.strengths[i] - true[item] + mean) / ranking.errors[i] for i, item in enumerate(ranking.items)]
    assert max(map(abs, off)) < 3.5 and 0.3 < float(np.std(off)) < 2


def test_responses_are_ranked_by_all_their_pairs():
    judge = TeacherPairJudge(generator=Chooses(lambda text: (1 + len(standing_first(text)), 3)))
    ranking, preferences = rank(judge, PROMPT, ["a", "bbbb", "cc", "bbbb"])
    assert ranking.rank()[0] == "bbbb" and len(preferences) == 3
    first = TeacherPairJudge(generator=Chooses(lambda text: (0.9, 0.1)))
    assert rank(first, PROMPT, ["a", "b", "c"])[0].strengths == pytest.approx((0, 0, 0))
