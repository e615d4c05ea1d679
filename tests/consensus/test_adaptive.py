"""Adaptive sampling saves samples and, under the rule "certain", never changes a label."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.consensus import ConsensusLabeller, NormalisedMatch, sample_until_settled, samples_settled, settled
from distill.consensus.base import Equivalence
from distill.errors import ConfigError, TeacherError
from distill.records import Message
from distill.teachers.base import Completion, Generator, Sampling

LABELLER = ConsensusLabeller(threshold=0.4, band=0.2)


def prompt(name):
    return (Message(role="user", content=name),)


def completion(text):
    return Completion(text=text, tokens=1, finish="stop")


class Stream(Generator):
    """Sample i of a prompt is a function of prompt, seed and i: what `Sampling.skip` promises. Remembers what was asked."""

    def __init__(self, answers=("a", "b", "c", "I don't know")):
        self.answers, self.asked = answers, []

    def identity(self):
        return {"stream": self.answers}

    def generate(self, prompts, sampling):
        self.asked.append((len(prompts), sampling.n, sampling.skip))
        return [[self.draw(one, sampling.seed, sampling.skip + i) for i in range(sampling.n)] for one in prompts]

    def draw(self, one, seed, index):
        name = one[-1].content
        weights = [1 + 20 * random.Random(f"{name}{k}").random() ** 6 for k in range(len(self.answers))]
        return completion(random.Random(f"{name} {seed} {index}").choices(self.answers, weights)[0])


@dataclass(frozen=True, kw_only=True)
class Bridge(Equivalence):
    """a ~ b and b ~ c, but not a ~ c: a new b joins two clusters."""

    def same(self, first, second):
        return first == second or "b" in (first, second)


@given(
    count=st.integers(0, 10),
    drawn=st.integers(0, 10),
    full=st.integers(1, 20),
    threshold=st.floats(0.1, 0.9),
    credible=st.floats(0.5, 0.95),
)
def test_settled_for_certain_means_that_no_outcome_changes_the_label(count, drawn, full, threshold, credible):
    labeller = ConsensusLabeller(threshold=threshold, band=threshold / 2, credible=credible)
    count, drawn = min(count, drawn, full), min(drawn, full)
    outcomes = {labeller.decide(final, full) for final in range(count, count + full - drawn + 1)}
    assert settled(count, drawn, full, labeller) == (len(outcomes) == 1)


@given(count=st.integers(0, 10), threshold=st.floats(0.1, 0.9))
def test_everything_drawn_is_settled_by_both_rules(count, threshold):
    labeller = ConsensusLabeller(threshold=threshold, band=threshold / 2)
    assert settled(count, 10, 10, labeller)
    assert settled(count, 10, 10, labeller, rule="probable")


@given(count=st.integers(0, 9), drawn=st.integers(1, 9))
def test_a_label_that_cannot_change_is_also_probable(count, drawn):
    count = min(count, drawn)
    if settled(count, drawn, 10, LABELLER) and LABELLER.decide(count, drawn) == LABELLER.decide(count, 10):
        assert settled(count, drawn, 10, LABELLER, rule="probable")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([NormalisedMatch(), Bridge()]), st.integers(0, 1000), st.sampled_from([(4, 3, 3), (1,) * 10, (5, 5), (10,)])
)
def test_labels_from_adaptive_samples_are_those_of_the_full_draw(equivalence, seed, rounds):
    labeller = ConsensusLabeller(equivalence=equivalence, threshold=0.4, band=0.2)
    prompts = [prompt(f"question {i}") for i in range(12)]
    found = sample_until_settled(Stream(), prompts, Sampling(seed=seed), labeller, rounds=rounds)
    every = Stream().generate(prompts, Sampling(n=10, seed=seed))
    for one, samples, full in zip(prompts, found.samples, every, strict=True):
        assert list(samples) == full[: len(samples)]  # the start of the full draw
        assert labeller.label(one, samples).label == labeller.label(one, full).label


def test_only_unsettled_questions_are_asked_again_and_the_stream_goes_on():
    class Two(Stream):
        def draw(self, one, seed, index):
            return completion("same" if one[-1].content == "known" else f"answer {index}")

    stream = Two()
    found = sample_until_settled(stream, [prompt("known"), prompt("unknown")], Sampling(), LABELLER, rounds=(4, 3, 3))
    assert stream.asked == [(2, 4, 0), (1, 3, 4), (1, 3, 7)]
    assert [len(samples) for samples in found.samples] == [4, 10]
    assert found.saved == 6
    assert [sample.text for sample in found.samples[1]] == [f"answer {i}" for i in range(10)]


def test_a_skip_that_was_given_is_continued():
    stream = Stream()
    sample_until_settled(stream, [prompt("x")], Sampling(skip=100), ConsensusLabeller(credible=0.99), rounds=(2, 2))
    assert [skip for _, _, skip in stream.asked][0] == 100
    assert all(skip in (100, 102) for _, _, skip in stream.asked)


def test_the_probable_rule_saves_more_than_the_certain_one():
    prompts = [prompt(f"question {i}") for i in range(100)]
    saved = {
        rule: sample_until_settled(Stream(), prompts, Sampling(), LABELLER, rounds=(4, 3, 3), rule=rule, sure=0.8).saved
        for rule in ("certain", "probable")
    }
    assert saved["probable"] >= saved["certain"] > 0


def test_where_new_wordings_can_join_clusters_a_small_majority_is_not_settled():
    samples = [completion(text) for text in ("a", "c", "d", "e", "f", "g", "h")]
    assert samples_settled(samples, 8, ConsensusLabeller(equivalence=NormalisedMatch(), threshold=0.8, band=0.2))
    assert not samples_settled(samples, 8, ConsensusLabeller(equivalence=Bridge(), threshold=0.8, band=0.2))


@pytest.mark.parametrize("rounds", [(), (0, 5), (4, -1)])
def test_rounds_that_draw_nothing_are_refused(rounds):
    with pytest.raises(ConfigError, match="rounds"):
        sample_until_settled(Stream(), [prompt("x")], Sampling(), LABELLER, rounds=rounds)


def test_a_teacher_that_loses_samples_is_an_error():
    class Lossy(Stream):
        def generate(self, prompts, sampling):
            return [completions[:-1] for completions in super().generate(prompts, sampling)]

    with pytest.raises(TeacherError, match="asked for 4"):
        sample_until_settled(Lossy(), [prompt("x")], Sampling(), LABELLER)
