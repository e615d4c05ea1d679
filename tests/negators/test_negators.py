"""Negators change what they mark and nothing else; the rules are right or silent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import AliasMatch, NumberMatch
from distill.errors import ConfigError, TeacherError
from distill.judges import TruthTable
from distill.negators import (
    AnswerSwap,
    EntitySwap,
    Negation,
    NumberChange,
    RuleNegator,
    TeacherNegator,
    changed_spans,
    check_negation,
    measure_negator,
)
from distill.negators.verbs import PAST, THIRD_PERSON, VERBS, past, third_person
from distill.teachers.base import Completion, Generator


def negated(statement):
    return [one.text for one in RuleNegator().negate((), statement)]


def marked(negation):
    return [negation.text[span.start : span.end] for span in negation.spans]


BOTH_WAYS = [
    ("Paris is the capital of France.", "Paris is not the capital of France."),
    ("Whales are mammals.", "Whales are not mammals."),
    ("Napoleon was born in Corsica.", "Napoleon was not born in Corsica."),
    ("The Nile flows through Egypt.", "The Nile does not flow through Egypt."),
    ("Egypt lies in Africa.", "Egypt does not lie in Africa."),
    ("Italy borders France.", "Italy does not border France."),
    ("Marie Curie won two Nobel Prizes.", "Marie Curie did not win two Nobel Prizes."),
    ("Tolstoy wrote War and Peace.", "Tolstoy did not write War and Peace."),
    ("Penguins can swim.", "Penguins cannot swim."),
    ("Water will freeze at zero degrees.", "Water will not freeze at zero degrees."),
    ("The treaty has been signed.", "The treaty has not been signed."),
    ("Rome was the city that Nero burned.", "Rome was not the city that Nero burned."),
    ("The U.S. Virgin Islands belong to America.", None),  # no third person: not understood
    ("St. Petersburg is in Russia.", "St. Petersburg is not in Russia."),
    (" Oslo is in Norway", " Oslo is not in Norway"),
]


@pytest.mark.parametrize(("statement", "negation"), BOTH_WAYS)
def test_a_statement_is_negated_and_its_negation_taken_back(statement, negation):
    if negation is None:
        assert negated(statement) == []
        return
    assert negated(statement) == [negation]
    assert negated(negation) == [statement]


@pytest.mark.parametrize(
    ("statement", "negation"),
    [
        ("Iron has 26 protons.", "Iron does not have 26 protons."),
        ("Birds have wings.", "Birds do not have wings."),
        ("Rome had seven kings.", "Rome did not have seven kings."),
        ("Lyon isn't the capital.", "Lyon is the capital."),
        ("Penguins can’t fly.", "Penguins can fly."),
        ("Egypt doesn't border Spain.", "Egypt borders Spain."),
        ("Nero didn't write Hamlet.", "Nero wrote Hamlet."),
        ("Sharks do not eat grass.", "Sharks eat grass."),
    ],
)
def test_main_verb_have_and_contractions_are_understood(statement, negation):
    assert negated(statement) == [negation]


@pytest.mark.parametrize(
    "statement",
    [
        "Paris",
        "",
        "Yes, Paris.",
        "Is Paris the capital of France?",
        "All swans are white.",
        "Some birds cannot fly.",
        "Nobody is perfect.",
        "He never lies to me.",
        "Only cats are grey.",
        "You must pay taxes.",
        "It may rain today.",
        "Paris is in France and Rome is in Italy.",
        "Paris is in France but Rome is not.",
        "Paris is in France. Rome is in Italy.",
        "The city that is the capital of France is Paris.",
        "Two sailors were killed.",
        "It's the capital of France.",
        "The borders of Italy.",
        "A concert held at Wembley.",
        "Australian forces later joined the war.",
        "Adults lack incisors, and have eight teeth.",
        "Paris is not only big, it is not only old.",
        "ירושלים היא הבירה.",
    ],
)
def test_what_the_rules_do_not_understand_is_left_alone(statement):
    assert negated(statement) == []


def test_the_change_is_marked_in_both_directions():
    assert marked(RuleNegator().negate((), "Iron is a metal.")[0]) == ["not"]
    assert marked(RuleNegator().negate((), "Egypt lies in Africa.")[0]) == ["does not lie"]
    # Where "not" went, the word in its place is what a left-to-right model must (not) say there.
    assert marked(RuleNegator().negate((), "Iron is not a metal.")[0]) == ["a"]


@given(st.lists(st.sampled_from(["is", "not", "a", "the", "metal", ",", ".", "iron", "does", "lie"]), max_size=8), st.data())
def test_spans_lie_within_the_text_in_order_and_mark_whole_words(words, data):
    other = data.draw(st.lists(st.sampled_from(["is", "not", "a", "the", "metal", ",", ".", "iron", "does", "lie"]), max_size=8))
    old, new = " ".join(words), " ".join(other)
    spans = changed_spans(old, new)
    assert all(0 <= span.start < span.end <= len(new) for span in spans)
    assert all(one.end < other.start for one, other in zip(spans, spans[1:], strict=False))
    assert all(new[span.start : span.end] == new[span.start : span.end].strip() for span in spans)
    if old == new:
        assert spans == ()
    elif new:
        assert spans


def test_spans_count_code_points_in_right_to_left_text():
    new = "ירושלים אינה הבירה"
    assert [new[span.start : span.end] for span in changed_spans("ירושלים היא הבירה", new)] == ["אינה"]


def test_verb_forms_lead_back_to_one_base():
    assert all(third_person(base) == form for form, base in THIRD_PERSON.items())
    assert all(past(base) == form for form, base in PAST.items())
    assert not VERBS & set(PAST)


def test_a_swap_replaces_every_occurrence_and_marks_the_new_answer():
    swap = AnswerSwap(pool=("Paris", "Rome"))
    found = swap.negate((), "Paris, yes Paris, the Parisian one.")
    assert [one.text for one in found] == ["Rome, yes Rome, the Parisian one."]
    assert marked(found[0]) == ["Rome", "Rome"]


@given(seed=st.integers(0, 100), count=st.integers(1, 4))
def test_swaps_are_different_wrong_answers_and_depend_on_the_seed_alone(seed, count):
    swap = AnswerSwap(
        pool=("Kyiv", "Kiev", "Rome", "Oslo", "Bern"), count=count, equivalence=AliasMatch(aliases={"Kyiv": ["Kiev"]})
    )
    found = swap.negate((), "It is Kyiv.", seed)
    assert found == swap.negate((), "It is Kyiv.", seed)
    assert len({one.text for one in found}) == len(found) == min(count, 3)
    assert not any("K" in one.text for one in found)


def test_the_longest_answer_is_the_one_that_is_swapped():
    swap = AnswerSwap(pool=("Guinea", "Papua New Guinea", "Chad"), count=2)
    assert {one.text for one in swap.negate((), "It is Papua New Guinea.")} == {"It is Guinea.", "It is Chad."}


def test_without_an_answer_of_the_pool_there_is_no_swap():
    assert AnswerSwap(pool=("Paris", "Rome")).negate((), "It is Berlin.") == []
    assert AnswerSwap(pool=("Kyiv", "Kiev"), equivalence=AliasMatch(aliases={"Kyiv": ["Kiev"]})).negate((), "Kyiv") == []


def test_a_pool_of_one_is_refused():
    with pytest.raises(ConfigError, match="at least two"):
        AnswerSwap(pool=("Paris", "Paris"))


@given(number=st.sampled_from(["0", "7", "79", "1,234", "1999", "3.14", "0.5", "1,000,000.25"]), seed=st.integers(0, 200))
def test_a_changed_number_is_another_number_in_the_same_form(number, seed):
    statement = f"There are {number} of H2O."
    (found,) = NumberChange().negate((), statement, seed)
    (new,) = marked(found)
    assert found.text == f"There are {new} of H2O."
    assert not NumberMatch().same(new, number)
    assert len(new.partition(".")[2]) == len(number.partition(".")[2])
    assert not new.startswith("-")


def test_several_changes_are_different_and_no_number_means_no_change():
    assert len({one.text for one in NumberChange(count=5).negate((), "It has 79 protons.")}) == 5
    assert NumberChange().negate((), "H2O and B12 and 1.2.3") == []


class Writes(Generator):
    """Replies with given texts to every prompt, and remembers the prompts."""

    def __init__(self, *texts):
        self.texts, self.asked = texts, []

    def identity(self):
        return {"texts": self.texts}

    def generate(self, prompts, sampling):
        self.asked += [prompt[-1].content for prompt in prompts]
        return [[Completion(text=text, tokens=1, finish="stop") for text in self.texts] for _ in prompts]


def test_a_teachers_negation_comes_with_its_changed_words():
    teacher = Writes(" Rewritten: Iron is not a metal.\n\nStatement: ...")
    (found,) = TeacherNegator(generator=teacher).negate((), " Iron is a metal.")
    assert found.text == " Iron is not a metal."
    assert marked(found) == ["not"]
    assert teacher.asked[0].endswith("Statement: Iron is a metal.\nRewritten:")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Iron is a metal.",
        "iron is a metal",
        "I don't know.",
        "Iron is not a metal, as you can see from all the many reasons there are.",
        "Gold never rusts",
        "Tin is a metal.",
        "The statement is: Iron is a metal.",
    ],
)
def test_a_reply_that_is_no_small_change_is_refused(reply):
    assert TeacherNegator(generator=Writes(reply)).negate((), "Iron is a metal.") == []


def test_without_markers_any_small_change_counts():
    negator = TeacherNegator(generator=Writes("Tin is a metal."), markers=())
    assert [marked(found) for found in negator.negate((), "Iron is a metal.")] == [["Tin"]]


def test_a_teacher_may_take_a_negation_back_and_contract_it():
    assert TeacherNegator(generator=Writes("Iron is a metal.")).negate((), "Iron isn’t a metal.") != []
    assert TeacherNegator(generator=Writes("הברזל אינו מתכת")).negate((), "הברזל הוא מתכת") != []


def test_a_teacher_that_loses_statements_is_an_error():
    class Silent(Writes):
        def generate(self, prompts, sampling):
            return []

    with pytest.raises(TeacherError, match="0 replies to 2"):
        TeacherNegator(generator=Silent()).negate_many([(), ()], ["a", "b"])


TABLE = TruthTable(
    truth={"Iron is a metal.": True, "Iron is not a metal.": False, "Wood is a metal.": False, "Wood is not a metal.": True}
)


def test_the_negation_of_a_false_statement_has_to_be_true():
    denial = Negation(text="Wood is not a metal.", spans=())
    assert check_negation(False, denial, TABLE) is True
    assert check_negation(True, denial, TABLE) is False
    assert check_negation(True, Negation(text="Glass is a metal.", spans=()), TABLE) is None


def test_a_report_keeps_precision_coverage_and_what_nobody_could_judge_apart():
    statements = [("Iron is a metal.", True), ("Wood is a metal.", True), ("Glass is a metal.", False), ("Metal!", True)]
    report = measure_negator(RuleNegator(), statements, TABLE)
    assert (report.statements, report.negated, report.right, report.wrong, report.unjudged) == (4, 3, 1, 1, 1)
    assert report.precision == 0.5
    assert report.coverage == 0.75
    assert ("Wood is a metal.", "Wood is not a metal.") in report.examples


def test_a_negator_that_lies_is_found_out():
    report = measure_negator(
        AnswerSwap(pool=("Wood", "Glass")), [("Wood is a metal.", False)], TruthTable(truth={"Glass is a metal.": False})
    )
    assert (report.precision, report.precision_error, report.refused) == (0.0, 0.0, 0)
    assert measure_negator(RuleNegator(), [], TABLE).precision is None


@pytest.mark.parametrize("negator", [AnswerSwap(pool=("Oslo", "Rome")), NumberChange(), EntitySwap()])
def test_a_denial_is_not_swapped_since_it_would_stay_true(negator):
    assert negator.negate((), "Oslo has 3 kings.") != []
    assert negator.negate((), "Oslo does not have 3 kings.") == []
    assert negator.negate((), "Oslo doesn't have 3 kings.") == []
