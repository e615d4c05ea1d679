"""What every judge must obey. The classes are found by walking the package: a new one is tested with no edit here."""

import dataclasses
import importlib
import inspect
import json
import pkgutil

import pytest

import distill.judges
from distill.judges.base import Judge, PairJudge, Preference, Verdict
from distill.judges.passages import Passage, Searcher
from distill.judges.table import TruthTable
from distill.recipes.key import canonical, describe
from distill.records import Message
from distill.teachers.base import Chooser, Completion, Generator

PROMPT = (Message(role="user", content="What is the capital of Ukraine?"),)
CASES = [("Kyiv", ("Kyiv",)), ("Rome", ("Kyiv", "Kiev")), ("I don't know.", ("Kyiv",)), ("", ("Kyiv",)), ("ירושלים", ())]


class Undecided(Generator, Chooser):
    """Says yes, no, or nothing readable, in turn; chooses one or the other."""

    def identity(self):
        return {"undecided": True}

    def generate(self, prompts, sampling):
        replies = ("APPROVED", "REJECTED", "well ...")
        return [
            [Completion(text=replies[len(prompt[-1].content) % 3], tokens=1, finish="stop") for _ in range(sampling.n)]
            for prompt in prompts
        ]

    def choose(self, prompts, options):
        return [(-0.5 - len(prompt[-1].content) % 3, -1.0) for prompt in prompts]


@dataclasses.dataclass(frozen=True)
class OneBook(Searcher):
    """Has the same passage on everything."""

    def search(self, query, k):
        return [Passage(id="book", text="Kyiv is the capital of Ukraine.")]


# What a field without a default is given; a new one is for the judge's author to add here.
FIELDS = {"generator": Undecided(), "searcher": OneBook(), "judge": TruthTable(truth={"Kyiv": True, "Rome": False})}


def found_classes(base):
    classes = set()
    for entry in pkgutil.iter_modules(distill.judges.__path__):
        module = importlib.import_module(f"distill.judges.{entry.name}")
        classes |= {
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, base) and not inspect.isabstract(kind) and kind.__module__ == module.__name__
        }
    return sorted(classes, key=lambda kind: kind.__qualname__)


def made(kind):
    """With what FIELDS holds for the fields that have no default."""
    needed = {field.name for field in dataclasses.fields(kind) if field.default is field.default_factory is dataclasses.MISSING}
    return kind(**{name: FIELDS[name] for name in needed})


JUDGES = found_classes(Judge)
PAIR_JUDGES = found_classes(PairJudge)


def test_the_walk_finds_what_there_is():
    assert {"ExactMatch", "AcceptedAnswer", "TruthTable", "TeacherJudge", "ChoiceJudge", "SentimentJudge", "RetrievalJudge"} <= {
        kind.__qualname__ for kind in JUDGES
    }
    assert {"TeacherPairJudge", "JudgePair"} <= {kind.__qualname__ for kind in PAIR_JUDGES}


@pytest.mark.parametrize("kind", JUDGES + PAIR_JUDGES)
def test_a_judge_is_a_frozen_dataclass_with_keywords_only_and_a_docstring(kind):
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind) if field.init)
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("kind", JUDGES)
def test_a_verdict_is_complete_and_the_same_each_time(kind):
    judge = made(kind)
    for response, reference in CASES:
        verdict = judge.judge(PROMPT, response, reference)
        assert isinstance(verdict, Verdict)
        assert verdict.approved in {True, False, None}
        assert 0 <= verdict.confidence <= 1
        assert verdict.reason
        assert judge.judge(PROMPT, response, reference) == verdict


@pytest.mark.parametrize("kind", JUDGES)
def test_many_verdicts_are_those_of_one_by_one_in_order(kind):
    judge = made(kind)
    responses, references = [case[0] for case in CASES], [case[1] for case in CASES]
    assert judge.judge_many([PROMPT] * len(CASES), responses, references) == [judge.judge(PROMPT, *case) for case in CASES]
    assert judge.judge_many([], []) == []


@pytest.mark.parametrize("kind", JUDGES)
def test_spans_lie_inside_the_response_and_evidence_is_json(kind):
    text = "Kyiv is the capital of Ukraine. 3 + 4 = 8."
    verdict = made(kind).judge(PROMPT, text, ("Kyiv",))
    assert all(0 <= span.start < span.end <= len(text) for span in verdict.spans)
    json.dumps(verdict.evidence, allow_nan=False)


@pytest.mark.parametrize("kind", PAIR_JUDGES)
def test_a_preference_is_complete_and_turns_with_the_pair(kind):
    judge = made(kind)
    pairs = [("Kyiv", "Rome"), ("Kyiv", "Kyiv"), ("", "Rome"), ("Odesa?", "ירושלים")]
    found = judge.compare_many([PROMPT] * len(pairs), [one for one, _ in pairs], [other for _, other in pairs])
    assert found == [judge.compare(PROMPT, *pair) for pair in pairs]
    turned = {"first": "second", "second": "first", None: None}
    for preference, (first, second) in zip(found, pairs, strict=True):
        assert isinstance(preference, Preference) and preference.reason and 0 <= preference.confidence <= 1
        assert judge.compare(PROMPT, second, first).preferred == turned[preference.preferred]
        json.dumps(preference.evidence, allow_nan=False)
    assert judge.compare_many([], [], []) == []


@pytest.mark.parametrize("kind", JUDGES + PAIR_JUDGES)
def test_a_judge_can_be_part_of_a_cache_key(kind):
    assert canonical(describe(made(kind))) == canonical(describe(made(kind)))
