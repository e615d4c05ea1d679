"""A text-to-text model as negator: what it writes counts only where it has the form of a negation."""

import pytest

from distill.errors import ConfigError, TeacherError
from distill.negators import TextToTextNegator
from distill.negators.edits import is_plain_negation
from distill.teachers.base import Completion, Generator


class Maps(Generator):
    """Writes what a table says for the last message; remembers the sizes of its batches."""

    def __init__(self, table, finish="stop"):
        self.table, self.finish, self.batches, self.asked = table, finish, [], []

    def identity(self):
        return {"table": self.table}

    def generate(self, prompts, sampling):
        self.batches.append(len(prompts))
        self.asked += [prompt[-1].content for prompt in prompts]
        return [
            [Completion(text=text, tokens=1, finish=self.finish) for text in self.table.get(prompt[-1].content, [""])]
            for prompt in prompts
        ]


def test_the_prefix_goes_before_the_statement_and_outer_white_space_stays_outside():
    model = Maps({"negate: Iron is a metal.": ["Iron is not a metal."]})
    (found,) = TextToTextNegator(generator=model, prefix="negate: ").negate((), " Iron is a metal.")
    assert found.text == " Iron is not a metal."
    assert [found.text[span.start : span.end] for span in found.spans] == ["not"]


def test_several_outputs_are_kept_in_their_order_and_equal_ones_once():
    texts = ["Iron is not a metal.", "Iron is not a metal.", "Iron isn't a metal.", "Iron is a metal."]
    found = TextToTextNegator(generator=Maps({"Iron is a metal.": texts})).negate((), "Iron is a metal.")
    assert [one.text for one in found] == ["Iron is not a metal.", "Iron isn't a metal."]


def test_statements_go_to_the_model_in_batches_and_blank_ones_not_at_all():
    model = Maps({f"{n} is odd.": [f"{n} is not odd."] for n in range(5)})
    statements = ["0 is odd.", " ", *(f"{n} is odd." for n in range(1, 5))]
    found = TextToTextNegator(generator=model, batch_size=2).negate_many([()] * 6, statements)
    assert [len(several) for several in found] == [1, 0, 1, 1, 1, 1]
    assert model.batches == [2, 2, 1]


def test_a_text_that_was_cut_off_is_no_statement():
    model = Maps({"Iron is a metal.": ["Iron is not a"]}, finish="length")
    assert TextToTextNegator(generator=model).negate((), "Iron is a metal.") == []


PLAIN = [
    ("The Danube traverses Bratislava.", "The Danube does not traverse Bratislava."),
    ("The Danube traverses Bratislava.", "The Danube doesn't traverse Bratislava."),
    ("He wrote Hamlet.", "He did not write Hamlet."),
    ("He hopped home.", "He did not hop home."),
    ("Iron has 26 protons.", "Iron does not have 26 protons."),
    ("She carries it.", "She does not carry it."),
    ("He focuses on it.", "He does not focus on it."),
    ("He lies there.", "He does not lie there."),
    ("She passes it.", "She does not pass it."),
    ("Whales inhabit oceans.", "Whales do not inhabit oceans."),
    ("Lyon is old.", "Lyon isn’t old."),
    ("Birds can fly.", "Birds cannot fly."),
    ("It has been signed.", "It has not been signed."),
]


@pytest.mark.parametrize(("statement", "denial"), PLAIN)
def test_a_denied_verb_in_its_own_tense_is_a_plain_negation_both_ways(statement, denial):
    assert is_plain_negation(statement, denial)
    assert is_plain_negation(denial, statement)


@pytest.mark.parametrize(
    "reply",
    [
        "The Danube does not traverse Brazil.",
        "The Dnieper does not traverse Bratislava.",
        "Dan does not traverse Bratislava.",
        "The Danube does not leave Bratislava.",
        "The Danube did not traverse Bratislava.",
        "The Danube did not traverses Bratislava.",
        "The Danube does not traverses Bratislava.",
        "The Danube do not traverse Bratislava.",
        "The Danube does not traverse Bratislava in 1990.",
        "The Danube does not traverse.",
        "The Danube not traverses Bratislava.",
        "The Danube traverses not Bratislava.",
        "The Danube never traverses Bratislava.",
        "Not the Danube traverses Bratislava.",
        "The Danube traverses Bratislava.",
        "",
    ],
)
def test_another_word_tense_or_number_is_no_plain_negation(reply):
    assert not is_plain_negation("The Danube traverses Bratislava.", reply)


@pytest.mark.parametrize(
    ("statement", "reply"),
    [
        ("Peru occupies it.", "Peru does not occupie it."),
        ("Lima houses it.", "Lima does not hous it."),
        ("It did not serve.", "It servor."),
        ("Peru does not lie there.", "Peru does lie there."),
        ("Peru lies there.", "Peru does not ly there."),
        ("It crosses DE 72.", "It does not crosse DE 72."),
        ("He starred in it.", "He did not starr in it."),
        ("Evita stars Madonna.", "Evita do not stars Madonna."),
        ("They brought it.", "They do not brought it."),
        ("Sharks have no bones.", "Sharks do not have no bones."),
        ("He has never won.", "He does not have never won."),
        ("Hyenas are only found there.", "Hyenas are not only found there."),
    ],
)
def test_a_misspelt_base_an_emphatic_do_and_a_second_no_are_refused(statement, reply):
    assert not is_plain_negation(statement, reply)


def test_a_vanished_auxiliary_is_no_denial():
    assert not is_plain_negation("What has the symbol Fe is iron.", "What not the symbol Fe is iron.")


def test_other_languages_are_checked_by_form_alone():
    model = Maps({"הברזל הוא מתכת": ["הברזל אינו מתכת"]})
    assert TextToTextNegator(generator=model).negate((), "הברזל הוא מתכת") == []
    assert [one.text for one in TextToTextNegator(generator=model, plain=False).negate((), "הברזל הוא מתכת")] == [
        "הברזל אינו מתכת"
    ]


def test_settings_that_refuse_or_accept_anything_are_refused():
    with pytest.raises(ConfigError, match="max_changed 0"):
        TextToTextNegator(generator=Maps({}), max_changed=0)
    with pytest.raises(ConfigError, match="max_longer -1"):
        TextToTextNegator(generator=Maps({}), max_longer=-1)


def test_a_model_that_loses_statements_is_an_error():
    class Silent(Maps):
        def generate(self, prompts, sampling):
            return []

    with pytest.raises(TeacherError, match="0 outputs for 1"):
        TextToTextNegator(generator=Silent({})).negate((), "Iron is a metal.")
