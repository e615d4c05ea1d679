"""What every judge must obey. The classes are found by walking the package: a new one is tested with no edit here."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import distill.judges
from distill.judges.base import Judge, Verdict
from distill.recipes.key import canonical, describe
from distill.records import Message
from distill.teachers.base import Completion, Generator

PROMPT = (Message(role="user", content="What is the capital of Ukraine?"),)
CASES = [("Kyiv", ("Kyiv",)), ("Rome", ("Kyiv", "Kiev")), ("I don't know.", ("Kyiv",)), ("", ("Kyiv",)), ("ירושלים", ())]


class Undecided(Generator):
    """Says yes, no, or nothing readable, in turn."""

    def identity(self):
        return {"undecided": True}

    def generate(self, prompts, sampling):
        replies = ("APPROVED", "REJECTED", "well ...")
        return [
            [Completion(text=replies[len(prompt[-1].content) % 3], tokens=1, finish="stop") for _ in range(sampling.n)]
            for prompt in prompts
        ]


def found_judges():
    classes = set()
    for entry in pkgutil.iter_modules(distill.judges.__path__):
        module = importlib.import_module(f"distill.judges.{entry.name}")
        classes |= {
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, Judge) and not inspect.isabstract(kind) and kind.__module__ == module.__name__
        }
    return sorted(classes, key=lambda kind: kind.__qualname__)


def made(kind):
    """With a teacher where one is wanted; any other field without a default is for the judge's author to add here."""
    needed = {field.name for field in dataclasses.fields(kind) if field.default is field.default_factory is dataclasses.MISSING}
    return kind(**({"generator": Undecided()} if "generator" in needed else {}))


JUDGES = found_judges()


def test_the_walk_finds_what_there_is():
    assert {"ExactMatch", "AcceptedAnswer", "TruthTable", "TeacherJudge"} <= {kind.__qualname__ for kind in JUDGES}


@pytest.mark.parametrize("kind", JUDGES)
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
def test_a_judge_can_be_part_of_a_cache_key(kind):
    assert canonical(describe(made(kind))) == canonical(describe(made(kind)))
