"""What the quickstart trains on: every label gives its records, and a penalty lies on the wrong fact and nowhere else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import Answerability
from distill.quickstart.grading import accepts
from distill.quickstart.labels import (
    ABSTENTION,
    EQUIVALENCE,
    Recipe,
    all_records,
    labeller,
    made_up_record,
    majority_record,
    majority_right,
    records,
    wrong_answers,
)
from distill.recipes.facts import Fact
from distill.records import Record
from distill.teachers.base import Completion

UKRAINE = Fact(id="capital-UA", entity="Ukraine", topic="capital", accepted=("Kyiv", "Kiev"), split="train")
GOLD = Fact(id="number-79", entity="gold", topic="atomic_number", accepted=("79",), split="train")
KNOWN = [" Kyiv"] * 7 + [" Lviv", " Odesa.", " Lviv"]
UNKNOWN = [" Lviv", " Odesa", " Kharkiv", " Minsk", " Kyiv", " Dnipro", " Yalta", " Riga", " Lviv", " Sofia"]
UNSURE = [" Lviv"] * 4 + [" Odesa", " Kharkiv", " Minsk", " Dnipro", " Yalta", " Riga"]

answers = st.sampled_from(
    [
        " Kyiv",
        " Kiev",
        " Kyiv.",
        "Kyiv",
        " Lviv",
        " Lviv Oblast",
        " L",
        " 12",
        " 12.0",
        ' "Odesa"',
        " I don't know",
        " ",
        " ...",
        " -",
    ]
)


def label(samples: list[str], fact: Fact = UKRAINE, *, threshold: float = 0.45, band: float = 0.0) -> Answerability:
    drawn = [Completion(text=text, tokens=1, finish="stop", log_prob=-1.0) for text in samples]
    return labeller(threshold=threshold, band=band).label(fact.started_prompt, drawn)


def made(samples: list[str], fact: Fact = UKRAINE, *, band: float = 0.0, **recipe: Any) -> list[Record]:
    return list(records(fact, label(samples, fact, band=band), Recipe(**({"grading": "label"} | recipe))))


def penalised(record: Record) -> list[str]:
    return [record.response[span.start : span.end] for span in record.spans]


def of(polarity: str, found: list[Record]) -> list[str]:
    return [record.response for record in found if record.polarity == polarity]


def test_an_unanswerable_question_is_abstained_from_and_its_guesses_are_negative() -> None:
    found = made(UNKNOWN, negatives=3)
    assert of("positive", found) == [ABSTENTION]
    assert of("negative", found) == [UKRAINE.respond(text) for text in (" Lviv", " Odesa", " Kharkiv")]


def test_an_answerable_question_is_answered_by_its_majority_and_its_minority_is_negative_if_wanted() -> None:
    found = made(KNOWN, negatives=5, known_negatives=True)
    assert of("positive", found) == ["The capital of Ukraine is Kyiv."]
    assert of("negative", found) == [UKRAINE.respond(" Lviv"), UKRAINE.respond(" Odesa")]
    assert of("negative", made(KNOWN, known_negatives=False)) == []


def test_the_abstention_is_a_negative_of_an_answerable_question_only_with_a_weight() -> None:
    assert ABSTENTION not in of("negative", made(KNOWN, abstention_weight=0.0))
    abstentions = [r for r in made(KNOWN, abstention_weight=0.3, known_negatives=False) if r.response == ABSTENTION]
    assert [(r.polarity, r.weight, r.spans) for r in abstentions] == [("negative", 0.3, ())]
    assert ABSTENTION not in of("negative", made(UNKNOWN, abstention_weight=0.3))


def test_an_uncertain_question_has_no_record() -> None:
    assert label(UNSURE, band=0.2).label == "uncertain"
    assert made(UNSURE, band=0.2) == []
    assert made(UNSURE) != []


def test_weights_that_grade_by_agreement_share_one_unit_between_answer_and_abstention() -> None:
    positive = {r.response: r.weight for r in made(KNOWN, grading="agreement") if r.polarity == "positive"}
    assert positive == {"The capital of Ukraine is Kyiv.": pytest.approx(0.7), ABSTENTION: pytest.approx(0.3)}
    assert [r.weight for r in made(KNOWN) if r.polarity == "positive"] == [1.0]


def test_no_answer_is_trained_up_and_down_at_once() -> None:
    for grading in ("agreement", "label"):
        for samples in (KNOWN, UNKNOWN):
            found = made(samples, grading=grading, negatives=100)
            assert not set(of("positive", found)) & set(of("negative", found))


def test_the_penalty_lies_on_the_fact_and_not_on_the_opening_or_the_stop() -> None:
    for samples, wanted in ((UNKNOWN, [" Lviv", " Odesa"]), (KNOWN, [" Lviv", " Odesa"])):
        negatives = [r for r in made(samples, negatives=2) if r.polarity == "negative"]
        assert [penalised(r) for r in negatives] == [[text] for text in wanted]
        assert {span.polarity for r in negatives for span in r.spans} == {"negative"}


def test_no_more_negatives_than_asked_for() -> None:
    assert [len(of("negative", made(UNKNOWN, negatives=n))) for n in (0, 1, 4, 100)] == [0, 1, 4, 9]


def test_the_control_takes_other_answers_in_place_of_the_own_ones() -> None:
    found = list(records(UKRAINE, label(UNKNOWN), Recipe(grading="label", negatives=2), instead=[" yen", " Oslo", " Fe"]))
    assert [penalised(r) for r in found if r.polarity == "negative"] == [[" yen"], [" Oslo"]]
    assert of("positive", found) == [ABSTENTION]


def test_two_spellings_of_one_name_agree() -> None:
    mixed = label([" Kyiv", " Kiev"] * 3 + [" Lviv"] * 4)
    assert (mixed.label, mixed.agreement, len(mixed.clusters)) == ("answerable", 0.6, 2)
    assert EQUIVALENCE.same(" 79", " 79.0") and not EQUIVALENCE.same(" Kyiv", " Lviv")


def test_one_spelling_of_the_majority_is_never_the_negative_of_another() -> None:
    found = made([" Kyiv"] * 3 + [" Kiev"] * 3 + [" Lviv"] * 4)
    assert of("negative", found) == [UKRAINE.respond(" Lviv")]


def test_an_abstaining_sample_is_neither_an_answer_nor_a_wrong_answer() -> None:
    samples = [" I don't know"] * 6 + [" Lviv", " Odesa", " ", " Minsk"]
    assert label(samples).label == "unanswerable"
    assert [penalised(r) for r in made(samples, negatives=9) if r.polarity == "negative"] == [[" Lviv"], [" Odesa"], [" Minsk"]]
    assert wrong_answers(UKRAINE, label(samples)) == (" Lviv", " Odesa", " Minsk")
    assert [r.response for r in made([" I don't know"] * 10)] == [ABSTENTION]


@given(
    samples=st.lists(answers, min_size=1, max_size=10),
    recipe=st.builds(
        Recipe,
        grading=st.sampled_from(["label", "agreement"]),
        negatives=st.integers(0, 5),
        known_negatives=st.booleans(),
        abstention_weight=st.sampled_from([0.0, 0.5]),
    ),
    threshold=st.sampled_from([0.15, 0.45, 0.75]),
)
def test_whatever_was_sampled_the_records_are_sound(samples: list[str], recipe: Recipe, threshold: float) -> None:
    found = list(records(UKRAINE, label(samples, threshold=threshold), recipe))
    assert len({r.id for r in found}) == len(found)
    assert {r.group for r in found} == {UKRAINE.id}
    assert all(r.prompt == UKRAINE.prompt and r.source == "quickstart" for r in found)
    assert sum(r.weight for r in found if r.polarity == "positive") == pytest.approx(1)
    for r in found:
        opened = r.response.startswith(UKRAINE.start)
        assert opened or r.response == ABSTENTION
        assert penalised(r) == ([r.response[len(UKRAINE.start) : -1]] if opened and r.polarity == "negative" else [])


def test_the_evidence_suffices_to_label_again_without_sampling() -> None:
    for r in made(UNKNOWN):
        again = label(list(r.evidence["samples"]))
        assert (again.label, again.agreement) == (r.evidence["label"], r.evidence["agreement"]) == ("unanswerable", 0.2)


@given(st.lists(answers, min_size=1, max_size=10))
def test_known_wrong_answers_are_wrong_and_none_begins_another(samples: list[str]) -> None:
    wrong = wrong_answers(UKRAINE, label(samples))
    assert not any(accepts(UKRAINE, text) for text in wrong)
    assert not any(a.startswith(b) for a in wrong for b in wrong if a is not b)
    assert len(set(wrong)) == len(wrong) and all(text.startswith(" ") and text.strip() for text in wrong)


def test_wrong_answers_come_by_frequency_and_the_right_one_is_left_out_whatever_the_label() -> None:
    samples = [" 97", " 80", " 79", " 80", " 80", " 8", " 79.", " 97", " 1", " 12"]
    assert wrong_answers(GOLD, label(samples, GOLD)) == (" 80", " 97", " 1")
    assert wrong_answers(replace(GOLD, accepted=()), label([" 79"] * 4, GOLD)) == (" 79",)


def test_the_majority_is_right_only_where_the_fact_says_so() -> None:
    assert majority_right(UKRAINE, label([" Kiev"] * 6 + [" Lviv"] * 4))
    assert not majority_right(UKRAINE, label([" Kiev"] * 4 + [" Lviv"] * 6))
    assert not majority_right(replace(UKRAINE, accepted=()), label(KNOWN))
    assert not majority_right(UKRAINE, label([" I don't know"] * 10))


def test_the_baseline_learns_the_majority_answer_whatever_the_agreement() -> None:
    for samples, answer in ((KNOWN, " Kyiv"), (UNKNOWN, " Lviv"), (UNSURE, " Lviv")):
        record = majority_record(UKRAINE, label(samples))
        assert record is not None
        assert (record.response, record.polarity, record.spans) == (UKRAINE.respond(answer), "positive", ())
    assert majority_record(UKRAINE, label([" I don't know", " "])) is None


def test_an_invented_entity_is_abstained_from_without_a_sample() -> None:
    fact = Fact(id="made_up-capital-Marvelia", entity="Marvelia", topic="capital", accepted=(), split="made_up")
    record = made_up_record(fact)
    assert (record.group, record.response, record.polarity, record.spans) == (fact.id, ABSTENTION, "positive", ())


def test_every_question_has_its_own_ids_even_with_the_same_answers() -> None:
    poland = Fact(id="capital-PL", entity="Poland", topic="capital", accepted=("Warsaw",), split="train")
    ids = Counter(r.id for fact in (UKRAINE, poland) for r in made(UNKNOWN, fact))
    assert max(ids.values()) == 1


PERU = Fact(id="capital-PE", entity="Peru", topic="capital", accepted=("Lima",), split="train")


def test_another_questions_guesses_are_of_its_kind_and_never_ones_own_answer() -> None:
    labelled = [
        (UKRAINE, label(KNOWN)),
        (PERU, label([" Lima"] * 5 + [" Kyiv", " Bogota", " Quito"], PERU)),
        (GOLD, label([" 79"] * 5 + [" 80", " 47"], GOLD)),
    ]
    for seed in range(5):
        found = list(all_records(labelled, Recipe(guesses="others", negatives=9), seed=seed))
        negatives = {fact.id: {text for r in found if r.group == fact.id for text in penalised(r)} for fact, _ in labelled}
        assert negatives["capital-UA"] == {" Bogota", " Quito"}  # Peru's guesses without Kyiv, which Ukraine is trained to say
        assert negatives["capital-PE"] == {" Lviv", " Odesa"}
        assert negatives["number-79"] == set()  # no other question of its kind


def test_ones_own_guesses_are_taken_where_that_is_asked_for() -> None:
    labelled = [(UKRAINE, label(KNOWN)), (PERU, label([" Lima"] * 5 + [" Bogota"], PERU))]
    found = list(all_records(labelled, Recipe(guesses="own"), seed=0))
    assert found == [r for fact, one in labelled for r in records(fact, one, Recipe(guesses="own"))]


def test_whose_guesses_they_are_depends_on_the_seed_alone() -> None:
    labelled = [(UKRAINE, label(KNOWN)), (PERU, label(UNKNOWN, PERU))]
    assert list(all_records(labelled, Recipe(), seed=3)) == list(all_records(labelled, Recipe(), seed=3))
