"""Labels from agreement and from log-probabilities, and the one parameter behind threshold and penalty."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import AliasMatch, ConsensusLabeller, LogProbLabeller, penalty, threshold_of
from distill.errors import ConfigError, TeacherError
from distill.records import Message
from distill.teachers.base import Completion

PROMPT = (Message(role="user", content="What is the capital of Ukraine?"),)
ORDER = {"unanswerable": 0, "uncertain": 1, "answerable": 2}


def completions(*texts, log_prob=None):
    return [Completion(text=text, tokens=3, finish="stop", log_prob=log_prob) for text in texts]


@st.composite
def labellers(draw):
    threshold = draw(st.floats(0.05, 0.95))
    band = draw(st.floats(0, 1)) * threshold
    prior = draw(st.sampled_from([(1.0, 1.0), (0.5, 0.5), (2.0, 5.0)]))
    return ConsensusLabeller(threshold=threshold, band=band, credible=draw(st.floats(0.5, 0.99)), prior=prior)


@given(labeller=labellers(), samples=st.integers(1, 30))
def test_more_agreement_never_makes_a_question_less_answerable(labeller, samples):
    labels = [ORDER[labeller.decide(count, samples)] for count in range(samples + 1)]
    assert labels == sorted(labels)


@given(labeller=labellers(), samples=st.integers(1, 30), data=st.data())
def test_the_label_says_on_which_side_of_the_threshold_the_interval_lies(labeller, samples, data):
    count = data.draw(st.integers(1, samples))
    low, high = labeller.interval(count, samples)
    label = labeller.decide(count, samples)
    assert low <= high + 1e-12
    margin = 1e-9
    if label == "answerable":
        assert low >= labeller.threshold - margin
    elif label == "unanswerable":
        assert high <= labeller.threshold - labeller.band + margin
    else:
        assert low <= labeller.threshold + margin and high >= labeller.threshold - labeller.band - margin


@given(samples=st.integers(1, 20), data=st.data())
def test_a_wider_credible_interval_only_adds_uncertain_questions(samples, data):
    count = data.draw(st.integers(1, samples))
    loose, strict = ConsensusLabeller(credible=0.5).decide(count, samples), ConsensusLabeller(credible=0.9).decide(count, samples)
    assert strict in {loose, "uncertain"}


def test_the_samples_are_clustered_and_kept_as_evidence():
    labeller = ConsensusLabeller(equivalence=AliasMatch(aliases={"Kyiv": ["Kiev"]}))
    found = labeller.label(PROMPT, completions(" Kyiv.", " Kiev", " Odessa", " Kyiv. It lies on the Dnieper."))
    assert found.label == "answerable"
    assert found.answer == "Kyiv"
    assert found.agreement == 0.75
    assert [cluster.members for cluster in found.clusters] == [(0, 1, 3), (2,)]
    assert found.samples == (" Kyiv.", " Kiev", " Odessa", " Kyiv. It lies on the Dnieper.")


def test_abstaining_samples_are_no_answer_even_where_they_are_the_most():
    found = ConsensusLabeller().label(PROMPT, completions("I don't know.", "Kyiv", "I'm not sure", "", "I do not know", "Kyiv"))
    assert found.answer == "Kyiv"
    assert found.agreement == pytest.approx(2 / 6)
    assert [cluster.members for cluster in found.clusters] == [(1, 5), (0, 2, 3, 4)]


def test_a_model_that_only_abstains_has_no_answer():
    found = ConsensusLabeller(threshold=0.0, band=0.0).label(PROMPT, completions("I don't know.", "I have no idea"))
    assert (found.label, found.answer, found.agreement) == ("unanswerable", None, 0.0)


def test_facts_band_of_two_to_five_in_ten_is_expressible():
    labeller = ConsensusLabeller(threshold=0.45, band=0.25)
    assert [labeller.decide(count, 10) for count in (1, 2, 3, 4, 5)] == [
        "unanswerable",
        "uncertain",
        "uncertain",
        "uncertain",
        "answerable",
    ]


def test_nothing_sampled_is_an_error_and_not_a_label():
    with pytest.raises(TeacherError, match="no samples"):
        ConsensusLabeller().label(PROMPT, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 1.2},
        {"threshold": 0.3, "band": 0.4},
        {"band": -0.1},
        {"credible": 0.3},
        {"credible": 1.0},
        {"prior": (0, 1)},
    ],
)
def test_settings_without_a_rule_are_refused(settings):
    with pytest.raises(ConfigError):
        ConsensusLabeller(**settings)


@given(st.floats(0, 0.999))
def test_threshold_and_penalty_are_one_parameter(threshold):
    cost = penalty(threshold)
    assert threshold_of(cost) == pytest.approx(threshold, abs=1e-12)
    # At the threshold answering and abstaining are worth the same; above it answering is worth more.
    assert threshold - (1 - threshold) * cost == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 2.0])
def test_a_penalty_needs_a_threshold_below_one(threshold):
    with pytest.raises(ConfigError):
        penalty(threshold)


@pytest.mark.parametrize(("chance", "label"), [(0.9, "answerable"), (0.3, "uncertain"), (0.1, "unanswerable")])
def test_the_baseline_labels_by_the_greedy_probability(chance, label):
    found = LogProbLabeller(threshold=0.4, band=0.2).label(PROMPT, completions("Kyiv.", log_prob=math.log(chance)))
    assert found.label == label
    assert found.confidence == pytest.approx(chance)
    assert found.answer == "Kyiv"


def test_the_baseline_per_token_takes_the_geometric_mean():
    found = LogProbLabeller(per_token=True).label(PROMPT, completions("Kyiv", log_prob=math.log(0.125)))
    assert found.confidence == pytest.approx(0.5)


def test_the_baseline_reads_the_first_sample_with_a_log_probability_and_counts_who_agrees():
    greedy = completions("Odessa", log_prob=math.log(0.5))
    found = LogProbLabeller().label(PROMPT, [*greedy, *completions("Kyiv", "Kyiv", "Odessa.")])
    assert (found.answer, found.agreement) == ("Odessa", 0.5)
    assert found.clusters[0].members == (0, 3)


def test_a_sure_abstention_is_no_answer_for_the_baseline():
    found = LogProbLabeller().label(PROMPT, completions("I don't know.", log_prob=-0.01))
    assert (found.label, found.answer, found.confidence) == ("unanswerable", None, 0.0)


def test_a_teacher_without_log_probabilities_is_an_error_and_not_a_label():
    with pytest.raises(TeacherError, match="log-probability"):
        LogProbLabeller().label(PROMPT, completions("Kyiv"))
