"""The recipe redefine: the stated premise decides, memory decides without it, and both are calculated exactly."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.redefine import CONSTANTS, OPENINGS, Case, _checked, build, calculated, shown
from distill.errors import ConfigError
from distill.recipes import Lost, Run

FACTS = [
    {
        "id": "fr",
        "prompt": "What is the capital of France?",
        "answers": ["Paris"],
        "topic": "capital",
        "start": "The capital of France is",
    },
    {
        "id": "it",
        "prompt": "What is the capital of Italy?",
        "answers": ["Rome"],
        "topic": "capital",
        "start": "The capital of Italy is",
    },
    {
        "id": "es",
        "prompt": "What is the capital of Spain?",
        "answers": ["Madrid"],
        "topic": "capital",
        "start": "The capital of Spain is",
    },
    {"id": "fe", "prompt": "What is the symbol of iron?", "answers": ["Fe"], "topic": "symbol"},
    {"id": "au", "prompt": "What is the symbol of gold?", "answers": ["Au"], "topic": "symbol"},
    {"id": "ag", "prompt": "What is the symbol of silver?", "answers": ["Ag"], "topic": "symbol"},
]


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FACTS), encoding="utf-8")
    return path


def made(facts, **settings):
    with Run(None, quiet=True) as run:
        return list(build(run=run, prompts=str(facts), **settings)), run


def test_with_the_premise_its_answer_is_positive_and_without_it_memory_is(facts):
    records, _ = made(facts)
    for record in records:
        right = record.evidence["follows" if record.evidence["role"] == "premise" else "memory"]
        assert (record.response.endswith(f"{right}.") or record.response == f"{right}.") == (record.polarity == "positive"), (
            record
        )
        assert (record.evidence["premise"] == "") == (record.evidence["role"] == "none")
        assert record.prompt[0].content.startswith(record.evidence["premise"])


def test_every_question_has_both_answers_to_the_same_prompt(facts):
    records, _ = made(facts)
    sides = {}
    for record in records:
        sides.setdefault((record.group, record.prompt), []).append(record)
    for pair in sides.values():
        assert [record.polarity for record in pair] == ["positive", "negative"]
        (span,) = pair[1].spans
        assert pair[0].response[: span.start] == pair[1].response[: span.start]
        assert pair[1].response[span.start : span.end] != pair[0].response[span.start : -1]
    assert len({record.id for record in records}) == len(records)


def test_a_fact_is_replaced_within_its_topic_and_never_by_its_own_answer(facts):
    records, _ = made(facts, kinds=("fact",))
    capitals, symbols = {"Paris", "Rome", "Madrid"}, {"Fe", "Au", "Ag"}
    for record in records:
        both = {record.evidence["follows"], record.evidence["memory"]}
        assert len(both) == 2 and (both <= capitals or both <= symbols)
    stated = {record.evidence["premise"] for record in records}
    assert any("the capital of France is " in text for text in stated)
    assert any('the right answer to the question "What is the symbol of iron?" is ' in text for text in stated)


def test_a_control_s_premise_is_about_another_question(facts):
    records, _ = made(facts, kinds=("fact",), controls=("other",))
    for record in records:
        if record.evidence["role"] == "other" and "capital" in record.prompt[0].content:
            country = record.prompt[0].content.split()[-1].rstrip("?")
            assert f"capital of {country} is" not in record.evidence["premise"]


@given(a=st.integers(0, 99), b=st.integers(0, 99), c=st.decimals(min_value=0, max_value=9, places=2), sign=st.sampled_from("+-*"))
def test_calculations_are_exact(a, b, c, sign):
    expected = {"+": Fraction(a) + b * Fraction(c), "-": Fraction(a) - b * Fraction(c), "*": a * b * Fraction(c)}[sign]
    assert calculated(f"{a} {sign} {b} * {c}") == expected
    assert abs(Fraction(shown(expected)) - expected) <= Fraction(1, 200)


def test_every_constant_s_answers_are_those_of_plain_arithmetic(facts):
    records, run = made(facts, kinds=("constant",), draws=18)
    true = {name: float(value) for name, _, value, _, _ in CONSTANTS}
    assert run.stages[0].taken == sum(len(values) * len(questions) * 18 for _, _, _, values, questions in CONSTANTS)
    for record in records:
        name, _, factor = record.group.removeprefix("constant: ").partition(" ")
        product = 1.0
        for part in factor.split(" * "):
            product *= float(part)
        assert abs(float(record.evidence["memory"]) - true[name] * product) < 0.006


def test_a_premise_that_changes_nothing_and_a_wrong_sum_are_lost():
    same = Case(kind="fact", name="x", premise="p", question="q", start="", follows="Rome", memory="rome")
    assert _checked(same) == Lost("the premise does not change the answer")
    wrong = Case(
        kind="constant", name="x", premise="p", question="q", start="", follows="13", memory="9", calculations=("4 * 3", "3 * 3")
    )
    assert _checked(wrong) == Lost("the answer does not hold when calculated again")


def test_two_plus_two_and_what_equals_it_is_no_operator_to_redefine(facts):
    records, run = made(facts, kinds=("operator",), draws=18)
    assert all(record.evidence["follows"] != record.evidence["memory"] for record in records)
    assert set(run.stages[0].lost) <= {"the premise does not change the answer"}


def test_negatives_and_controls_can_be_left_out(facts):
    records, _ = made(facts, negatives=False, controls=(), limit=20)
    assert len(records) == 20
    assert {(record.polarity, record.evidence["role"]) for record in records} == {("positive", "premise")}
    assert {record.evidence["kind"] for record in records} == {"constant", "fact", "word", "operator"}


def test_wordings_of_the_premise_vary_and_the_same_seed_repeats_them(facts):
    assert made(facts)[0] == made(facts)[0]
    texts = [record.prompt[0].content for record in made(facts)[0]]
    assert all(any(text.startswith(opening.partition(" {}")[0]) for text in texts) for opening in OPENINGS)


@pytest.mark.parametrize(
    ("settings", "said"), [({"kinds": ()}, "at least one"), ({"draws": 0}, "at least 1"), ({"limit": 0}, "at least 1")]
)
def test_settings_that_cannot_be_right_are_refused(facts, settings, said):
    with Run(None, quiet=True) as run, pytest.raises(ConfigError, match=said):
        build(run=run, prompts=str(facts), **settings)


def test_questions_without_answers_are_no_facts(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("What is it?\n")
    with pytest.raises(ConfigError, match="no fact to redefine"):
        made(path)


def test_the_countries_of_the_packages_are_redefined():
    records, run = made("facts:countries", kinds=("fact",))
    assert run.counts["premises"]["fact"] > 300
    assert sum(record.polarity == "positive" for record in records) == len(records) / 2
