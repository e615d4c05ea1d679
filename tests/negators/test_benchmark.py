"""The benchmark of negators judges by facts: it must find out a swap that stays true, and train on nothing that it tests."""

import importlib
from pathlib import Path

import pytest

from distill.negators import Negation, RuleNegator
from distill.recipes.statements import Statement
from distill.records import Span

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="not a source checkout")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.negators")


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        ("Austria borders Slovenia.", True),
        ("Austria does not border Slovenia.", False),
        ("Austria doesn't border Peru.", True),
        ("It is not true that the capital of Peru is Lima.", False),
        ("It is not true that Peru does not lie in Asia.", False),
        ("The capital of Peru is not Lima.", False),
        ("People in Peru can't pay with the sol.", False),
        ("An atom of gold contains 80 protons.", False),
        ("Gold isn't a country.", None),
        ("The capital of Atlantis is Lima.", None),
        ("Peru borders Lima.", None),
    ],
)
def test_the_judge_knows_facts_in_its_forms_and_abstains_on_all_else(benchmark, text, is_true):
    assert benchmark.FactJudge().judge((), text).approved is is_true


def test_every_output_of_the_baseline_is_judged(benchmark):
    judge, baseline = benchmark.FactJudge(), benchmark.PrefixNegator()
    for one in benchmark.sample(benchmark.country_statements(seed=1), 50):
        (negation,) = baseline.negate((), one.text)
        assert judge.judge((), negation.text).approved is not one.is_true


def test_the_rules_refuse_every_form_that_is_beyond_them(benchmark):
    names = {"x": "Peru", "X": "Peru", "y": "Lima"}
    for _, _, affirmed, _ in benchmark.FORMS:
        assert RuleNegator().negate((), affirmed.format(**names)) == []
    for _, _, affirmed, _ in benchmark.MORE_FORMS:
        assert RuleNegator().negate((), affirmed.format(x="tin", X="Tin", y="50")) == []


def test_no_pair_that_is_trained_on_has_a_held_out_verb(benchmark):
    statements = [f"Peru {form} Chile." for form in ("borders", "exports", "lies near", "used", "crossed")]
    trained = {text for pair in benchmark.pairs([*benchmark.drills(300), *statements]) for text in pair}
    assert "Peru does not border Chile." in trained and "Peru does not export Chile." not in trained
    held = {text for pair in benchmark.pairs(statements, held_out=True) for text in pair}
    assert held >= {"Peru did not use Chile.", "Peru did not cross Chile."} and not held & trained
    assert list(benchmark.drills(50)) == list(benchmark.drills(50))


def test_a_change_outside_the_span_is_seen(benchmark):
    span = (Span(start=8, end=11, polarity="negative"),)
    assert benchmark.only_marked("Iron is a metal.", Negation(text="Iron is not a metal.", spans=span))
    assert not benchmark.only_marked("Iron is a metal.", Negation(text="Iron is not a stone.", spans=span))


def test_a_denial_is_right_to_the_letter_but_for_contractions(benchmark):
    one = Statement(id="1", group="1", question="", text="It adjoins Peru.", is_true=True, denial="It does not adjoin Peru.")
    assert benchmark.by_denial(one, Negation(text="It doesn’t adjoin Peru.", spans=()))
    assert not benchmark.by_denial(one, Negation(text="It did not adjoin Peru.", spans=()))
