"""The recipe negate: one true and one false text from each statement, whatever the statement's own truth."""

import json

import pytest

from data_recipes.negate import build, pair_records, truth_table
from distill.errors import ConfigError, RecipeError
from distill.evaluate.negation import NegationPair, evaluate_negation
from distill.judges import TruthTable
from distill.judges.base import Judge, Verdict
from distill.negators import AnswerSwap, RuleNegator, measure_negator
from distill.recipes import Run
from distill.recipes.statements import Statement, country_statements, element_statements
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
        return list(build(run=run, prompts=str(statements), **settings)), run


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
    (stage,) = run.accounts()["stages"]
    assert (stage["in"], stage["out"], stage["lost"]) == (4, 3, {"the negator has no negation for it": 1})
    assert run.counts["negation"] == {"right": 3}


class Knows(Judge):
    """Judges by a table in batches, with a reference of its own to how often it was asked."""

    def __init__(self, truth):
        self.truth, self.batches = truth, []

    def judge(self, prompt, response, reference=()):
        return Verdict(approved=self.truth.get(response), confidence=0.75, reason="asked")

    def judge_many(self, prompts, responses, references=()):
        self.batches.append(len(responses))
        return [self.judge(*one) for one in zip(prompts, responses, strict=True)]


def test_a_judge_is_asked_in_batches_and_its_verdict_is_evidence(statements, monkeypatch):
    truth = {"Iron is not a metal.": False, "Wood is not a metal.": True}
    judge = Knows(truth)
    monkeypatch.setattr("distill.recipes.key.describe", lambda value: repr(type(value)))
    monkeypatch.setattr("distill.recipes.run.describe", lambda value: {"it": 1})
    records, run = made(statements, judge=judge, batch_size=2)
    assert judge.batches == [2, 1]
    assert run.counts["negation"] == {"right": 2, "not judged": 1}
    assert run.counts["check"] == {"approved": 1, "rejected": 1, "abstained": 1}
    assert {record.evidence["verdict"]["confidence"] for record in records} == {0.75}


def test_a_new_judge_negates_nothing_again(statements, tmp_path):
    calls = []

    class Counting(RuleNegator):
        def negate_many(self, prompts, responses, seed=0):
            calls.append(len(responses))
            return super().negate_many(prompts, responses, seed)

    for truth in ({"Iron is not a metal.": False}, {"Wood is not a metal.": True}):
        with Run(tmp_path / "run", quiet=True) as run:
            judge = TruthTable(truth=truth)
            assert len(list(build(run=run, prompts=str(statements), negator=Counting(), judge=judge))) == 2
    assert calls == [4]


def test_batches_of_any_size_give_the_same_records(statements):
    assert made(statements, batch_size=1)[0] == made(statements, batch_size=3)[0]


def test_a_wrong_limit_and_statements_of_no_kind_are_refused_at_once(statements):
    with Run(None, quiet=True) as run:
        with pytest.raises(ConfigError, match="limit is 0"):
            build(run=run, prompts=str(statements), limit=0)
        with pytest.raises(RecipeError, match="no such facts"):
            build(run=run, prompts="facts:rivers")
        with pytest.raises(RecipeError, match="further columns: topic"):
            build(run=run, prompts="example:topics", judge=TruthTable())


def test_the_packaged_statements_are_negated_rightly():
    records, run = made("example:statements")
    assert run.counts["negation"]["right"] >= 15 and set(run.counts["negation"]) == {"right"}
    assert len(records) == 2 * run.counts["negation"]["right"]


def test_a_negation_that_is_none_is_dropped_and_counted(statements):
    # Of a false statement a swap makes another false one: no negation at all.
    judge = TruthTable(truth={"Wood is a metal.": False, "Iron is a metal.": True, "Tin is a metal.": False})
    swap = AnswerSwap(pool=("Iron", "Wood"))
    records, run = made(statements, negator=swap, judge=judge)
    assert run.counts["negation"] == {"right": 2}
    records, run = made(statements, negator=AnswerSwap(pool=("Wood", "Tin")), judge=judge)
    assert run.counts["negation"] == {"wrong": 1}
    assert records == []


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

    def test_the_elements_too(self):
        statements = list(element_statements())
        report = measure_negator(RuleNegator(), [(one.text, one.is_true) for one in statements], truth_table(statements))
        assert report.statements > 900 and report.coverage > 0.98 and report.precision == 1.0

    def test_facts_are_named_like_any_source(self):
        records, run = made("facts:countries", limit=8)
        assert len(records) == 16 and run.counts["negation"] == {"right": 8}

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
