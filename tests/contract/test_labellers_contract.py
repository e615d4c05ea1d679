"""What every labeller and every equivalence must obey. Classes are found by walking the package: a new one is tested too."""

import dataclasses
import importlib
import inspect
import math
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distill.consensus
from distill.consensus.base import Answerability, Equivalence, Labeller
from distill.recipes.key import canonical, describe
from distill.records import Message
from distill.teachers.base import Completion


def found_classes(package, base):
    modules = [importlib.import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
    classes = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and not inspect.isabstract(kind) and kind.__module__ == module.__name__
    }
    return sorted(classes, key=lambda kind: kind.__qualname__)


LABELLERS = found_classes(distill.consensus, Labeller)
EQUIVALENCES = found_classes(distill.consensus, Equivalence)
# What a class needs beyond its defaults. EmbeddingMatch has its own tests: loading its model takes seconds.
SETTINGS = {"AnyOf": {"equivalences": ()}}
LEFT_OUT = {"JudgeMatch", "EmbeddingMatch"}

PROMPT = (Message(role="user", content="What?"),)
TEXTS = st.sampled_from([" Paris.", "paris", "Rome", "12", "twelve", "I don't know.", "", "...", "אני לא יודע", "ירושלים"])
SAMPLES = st.lists(
    st.builds(
        Completion, text=TEXTS, tokens=st.integers(0, 9), finish=st.just("stop"), log_prob=st.floats(-50, 0) | st.just(-math.inf)
    ),
    min_size=1,
    max_size=8,
)


def test_the_walk_finds_what_there_is():
    assert {"ConsensusLabeller", "LogProbLabeller"} <= {kind.__qualname__ for kind in LABELLERS}
    assert {"NormalisedMatch", "AliasMatch", "NumberMatch", "AnyOf"} <= {kind.__qualname__ for kind in EQUIVALENCES}


@pytest.mark.parametrize("kind", [*LABELLERS, *EQUIVALENCES])
def test_a_plug_in_is_a_frozen_dataclass_with_keywords_only(kind):
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind) if field.init)
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("kind", LABELLERS)
def test_a_labeller_can_be_part_of_a_cache_key(kind):
    assert canonical(describe(kind())) == canonical(describe(kind()))


@pytest.mark.parametrize("kind", LABELLERS)
@given(samples=SAMPLES)
def test_an_answerability_is_complete_and_consistent(kind, samples):
    labeller = kind()
    found = labeller.label(PROMPT, samples)
    assert isinstance(found, Answerability)
    assert found.label in {"answerable", "unanswerable", "uncertain"}
    assert found.samples == tuple(sample.text for sample in samples)
    members = sorted(index for cluster in found.clusters for index in cluster.members)
    assert members == list(range(len(samples)))
    assert all(0 <= value <= 1 for value in (found.confidence, found.agreement, found.low, found.high))
    assert found.low <= found.high + 1e-12
    assert (found.answer is None) <= (found.label == "unanswerable")
    if found.answer is not None:
        assert found.agreement == pytest.approx(len(found.clusters[0].members) / len(samples))
    assert labeller.label(PROMPT, samples) == found  # no state, no chance


@pytest.mark.parametrize("kind", [kind for kind in EQUIVALENCES if kind.__qualname__ not in LEFT_OUT])
@given(first=TEXTS, second=TEXTS)
def test_an_equivalence_is_reflexive_symmetric_and_ignores_what_it_was_prepared_with(kind, first, second):
    equivalence = kind(**SETTINGS.get(kind.__qualname__, {}))
    before = equivalence.same(first, second)
    equivalence.prepare([first, second, "something else"])
    assert equivalence.same(first, second) == equivalence.same(second, first) == before
    if kind.__qualname__ != "AnyOf":  # without members it knows no sameness at all
        assert equivalence.same(first, first)
