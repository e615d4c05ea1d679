"""Swaps stay within a type, never name the same thing, and never stay true where the truth is known."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import ConfigError
from distill.judges import TruthTable
from distill.negators import EntitySwap, capitalised_names
from distill.negators.entities import with_names
from distill.negators.gazetteer import Gazetteer, packaged, read_pools
from distill.records import Message

ASKED = (Message(role="user", content="What is the capital of France?"),)


@pytest.fixture
def pools(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(
        json.dumps({"person": ["Ada Lovelace", "Jane Austen", ["Kyiv Mohyla", "Kiev Mohyla"]], "river": ["Nile", "Danube"]})
    )
    return path


def texts(swap, response, prompt=(), seed=0):
    return [one.text for one in swap.negate(prompt, response, seed)]


def test_a_person_goes_for_a_person_and_a_river_for_a_river(pools):
    swap = EntitySwap(kinds=(), pools=pools, dates=False)
    assert texts(swap, "Jane Austen saw it.")[0] in {"Ada Lovelace saw it.", "Kyiv Mohyla saw it."}
    assert texts(swap, "The Nile is long.") == ["The Danube is long."]
    assert texts(swap, "Nobody saw it.") == []


def test_every_mention_is_replaced_and_marked(pools):
    (found,) = EntitySwap(kinds=(), pools=pools, dates=False).negate((), "Nile, yes the Nile, so Niles.")
    assert found.text == "Danube, yes the Danube, so Niles."
    assert [found.text[span.start : span.end] for span in found.spans] == ["Danube", "Danube"]


@given(seed=st.integers(0, 200))
def test_what_the_question_names_is_kept_where_the_answer_names_more(seed):
    (found,) = EntitySwap().negate(ASKED, "The capital of France is Paris.", seed)
    assert found.text.startswith("The capital of France is ") and "Paris" not in found.text


@given(seed=st.integers(0, 100), count=st.integers(1, 5))
def test_variants_are_different_and_depend_on_the_seed_alone(seed, count):
    swap = EntitySwap(kinds=("country",), dates=False, count=count)
    found = texts(swap, "Peru borders Chile.", seed=seed)
    assert found == texts(swap, "Peru borders Chile.", seed=seed)
    assert len(set(found)) == len(found) == count


def test_a_country_s_article_goes_and_comes_with_it(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps({"country": ["Netherlands", "Peru"]}))
    swap = EntitySwap(kinds=(), pools=path, dates=False)
    assert texts(swap, "The Netherlands is in the Netherlands.") == ["Peru is in Peru."]
    assert texts(swap, "Peru is in Peru.") == ["The Netherlands is in the Netherlands."]


def test_an_element_at_the_start_of_a_sentence_keeps_its_capital():
    text = texts(EntitySwap(kinds=("element",), dates=False), "Gold is heavy.")[0]
    assert text[0].isupper() and text.split()[0].lower() in {entity.name for entity in packaged("element")} - {"gold"}


@pytest.mark.parametrize("date", ["12 March 1990", "March 12, 1990", "March 1990", "1990", "12 March", "March 12"])
def test_a_date_becomes_another_date_in_the_same_form(date):
    def form(text):
        return [
            "N" * len(word) if word.isdigit() and len(word) == 4 else "N" if word.isdigit() else word for word in text.split()
        ]

    new = texts(EntitySwap(kinds=()), f"He came on {date} .")[0].removeprefix("He came on ").removesuffix(" .")
    assert new != date
    assert form(new.replace(",", "")) == form(date.replace(",", ""))


def test_spellings_of_one_thing_are_not_swapped_for_each_other(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps({"city": [["Kyiv", "Kiev"], "Kyiv."]}))
    assert texts(EntitySwap(kinds=(), pools=path, dates=False), "It is Kiev.") == []


def test_no_swap_stays_true_where_the_table_knows(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps({"country": ["France", "Austria", "Peru"]}))
    table = TruthTable(truth={"Italy borders France.": True, "Italy borders Austria.": True})
    for seed in range(20):
        assert texts(EntitySwap(kinds=(), pools=path, judge=table), "Italy borders France.", seed=seed) == ["Italy borders Peru."]
    assert "Italy borders Austria." in {
        text for seed in range(20) for text in texts(EntitySwap(kinds=(), pools=path), "Italy borders France.", seed=seed)
    }


def test_a_false_response_becomes_one_that_is_known_to_be_true_or_none(tmp_path):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps({"city": ["Lyon", "Paris", "Nice"]}))
    truth = {"Lyon is the capital of France.": False, "Paris is the capital of France.": True}
    swap = EntitySwap(kinds=(), pools=path, judge=TruthTable(truth=truth), count=3)
    assert texts(swap, "Lyon is the capital of France.") == ["Paris is the capital of France."]
    assert texts(EntitySwap(kinds=(), pools=path, judge=TruthTable(truth={"Lyon is it.": False})), "Lyon is it.") == []


def test_names_of_no_type_are_swapped_with_names_of_as_many_words(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Ada Lovelace\nJane Austen\nByron\nHomer\n")
    swap = EntitySwap(kinds=(), names=names, dates=False)
    assert texts(swap, "It was Jane Austen.") == ["It was Ada Lovelace."]
    assert texts(swap, "It was Byron.") == ["It was Homer."]
    assert texts(swap, "Mary Shelley wrote it.")[0] in {"Jane Austen wrote it.", "Ada Lovelace wrote it."}


def test_the_other_records_answers_give_the_names():
    assert capitalised_names(["The author was Jane Austen.", "Rivers flow.", "Homer"]) == ("Homer", "Jane Austen")
    swap = with_names(EntitySwap(kinds=(), dates=False), ["By Ada Lovelace.", "By Jane Austen."])
    assert texts(swap, "By Jane Austen.") == ["By Ada Lovelace."]


def test_the_longest_name_wins_and_words_are_no_names():
    gazetteer = Gazetteer({kind: packaged(kind) for kind in ("country", "currency")})
    found = [(one.kind, one.entity.name) for one in gazetteer.mentions("Papua New Guinea won the euro.")]
    assert found == [("country", "Papua New Guinea"), ("currency", "euro")]


def test_a_wrong_file_of_pools_is_named_with_what_is_wrong(tmp_path):
    path = tmp_path / "pools.json"
    for content, message in (("[", "no JSON"), ("[]", "got list"), ('{"river": []}', "'river'"), ('{"river": [1]}', "'river'")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            read_pools(path)
    with pytest.raises(ConfigError, match="no packaged type 'ship'; expected some of: country"):
        EntitySwap(kinds=("ship",)).negate((), "Titanic")
    with pytest.raises(ConfigError, match="count 0"):
        EntitySwap(count=0)
