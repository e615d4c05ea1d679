"""What every negator must obey. The classes are found by walking the package: a new one is tested with no edit here."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import distill.negators
from distill.negators.base import Negator
from distill.recipes.key import canonical, describe
from distill.records import Message
from distill.teachers.base import Completion, Generator

STATEMENTS = [
    "Paris is the capital of France.",
    " Gold has 79 protons. ",
    "Egypt does not lie in Europe.",
    "Paris",
    "",
    "פריז היא בירת צרפת, 2024",
    "All 3 of them?",
]
PROMPT = (Message(role="user", content="What is the capital?"),)
# What a class needs beyond its defaults, by field.
FIELDS = {"pool": ("Paris", "Rome", "פריז", "רומא")}


class Denies(Generator):
    """Puts "not" into the statement at the prompt's end."""

    def identity(self):
        return {"denies": True}

    def generate(self, prompts, sampling):
        texts = [prompt[-1].content.rsplit("Statement: ", 1)[-1].removesuffix("\nRewritten:") for prompt in prompts]
        return [[Completion(text=text.replace(" is ", " is not "), tokens=1, finish="stop")] * sampling.n for text in texts]


def found_negators():
    classes = set()
    for entry in pkgutil.iter_modules(distill.negators.__path__):
        module = importlib.import_module(f"distill.negators.{entry.name}")
        classes |= {
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, Negator) and not inspect.isabstract(kind) and kind.__module__ == module.__name__
        }
    return sorted(classes, key=lambda kind: kind.__qualname__)


def made(kind):
    needed = [field.name for field in dataclasses.fields(kind) if field.default is field.default_factory is dataclasses.MISSING]
    return kind(**{name: Denies() if name == "generator" else FIELDS[name] for name in needed})


NEGATORS = found_negators()


def test_the_walk_finds_what_there_is():
    assert {"RuleNegator", "AnswerSwap", "EntitySwap", "DistractorNegator", "TextToTextNegator"} <= {
        kind.__qualname__ for kind in NEGATORS
    }


@pytest.mark.parametrize("kind", NEGATORS)
def test_a_negator_is_a_frozen_dataclass_with_keywords_only_and_a_docstring(kind):
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind) if field.init)
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("kind", NEGATORS)
def test_a_negation_differs_and_marks_a_part_of_itself(kind):
    negator, changed = made(kind), 0
    for statement in STATEMENTS:
        for negation in negator.negate(PROMPT, statement, 3):
            changed += 1
            assert negation.text != statement
            assert negation.spans
            assert all(0 <= span.start < span.end <= len(negation.text) for span in negation.spans)
            assert all(one.end <= two.start for one, two in zip(negation.spans, negation.spans[1:], strict=False))
            assert all(negation.text[span.start : span.end].strip() for span in negation.spans)
    assert changed, "no statement here is one that this negator can change: add one"


@pytest.mark.parametrize("kind", NEGATORS)
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_the_same_seed_gives_the_same_negations(kind, seed):
    for statement in STATEMENTS:
        assert made(kind).negate(PROMPT, statement, seed) == made(kind).negate(PROMPT, statement, seed)


@pytest.mark.parametrize("kind", NEGATORS)
def test_a_negator_can_be_part_of_a_cache_key(kind):
    assert canonical(describe(made(kind))) == canonical(describe(made(kind)))


@pytest.mark.parametrize("kind", NEGATORS)
def test_many_statements_are_negated_as_each_alone(kind):
    negator = made(kind)
    alone = [negator.negate(PROMPT, statement, 3) for statement in STATEMENTS]
    assert negator.negate_many([PROMPT] * len(STATEMENTS), STATEMENTS, 3) == alone
    assert negator.negate_many([], [], 3) == []
