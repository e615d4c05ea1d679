"""The model's own wrong answers, the most tempting first; a right answer is never among them, however it is worded."""

import pytest

from distill.consensus import AliasMatch
from distill.errors import ConfigError, TeacherError
from distill.judges import AcceptedAnswer, TruthTable
from distill.negators import DistractorNegator
from distill.records import Message
from distill.teachers.base import Completion, Generator, Sampling

CAPITAL = (Message(role="user", content="What is the capital of Australia?"),)


class Says(Generator):
    """Samples of the form text or (text, log-probability); "..." at the end marks a cut one."""

    def __init__(self, *samples):
        self.samples, self.batches = samples, []

    def identity(self):
        return {"samples": self.samples}

    def generate(self, prompts, sampling):
        self.batches.append(len(prompts))
        pairs = [one if isinstance(one, tuple) else (one, -1.0) for one in self.samples]
        drawn = [
            Completion(
                text=text.removesuffix("..."), tokens=3, finish="length" if text.endswith("...") else "stop", log_prob=log_prob
            )
            for text, log_prob in pairs
        ]
        return [list(drawn) for _ in prompts]


def wrong(*samples, response=" Canberra", prompt=CAPITAL, **settings):
    return [one.text for one in DistractorNegator(generator=Says(*samples), **settings).negate(prompt, response)]


def test_the_most_frequent_wrong_answer_comes_first():
    samples = [" Perth", " Sydney", " Canberra", " sydney.", " Melbourne", " Melbourne", " Sydney"]
    assert wrong(*samples) == [" Sydney"]
    assert wrong(*samples, count=5) == [" Sydney", " Melbourne", " Perth"]


def test_log_probability_orders_where_it_is_asked_to_and_breaks_ties_where_not():
    samples = [("Perth", -0.5), ("Sydney", -2.0), ("Sydney", -2.0)]
    assert wrong(*samples, order="log_prob", count=2) == [" Perth", " Sydney"]
    assert wrong(("Perth", -3.0), ("Sydney", -2.0), count=2) == [" Sydney", " Perth"]


@pytest.mark.parametrize(
    "right",
    ["canberra.", "The capital of Australia is Canberra.", "It is Canberra, in the capital territory.", "Canberra City"],
)
def test_a_right_answer_in_other_words_is_not_wrong(right):
    assert wrong(right) == []


def test_an_answer_that_lacks_what_a_whole_sentence_adds_is_wrong():
    response = "The capital of Australia is Canberra."
    assert wrong("Canberra.", "It is called Canberra.", "The capital is Sydney", response=response) == ["The capital is Sydney."]


def test_abstentions_blanks_and_cut_answers_are_no_temptations():
    assert wrong("I don't know.", " ", "The largest city in Aus...", response="Canberra") == []
    assert wrong("Sydney. It is the largest city in...", response="Canberra") == ["Sydney"]


def test_spellings_that_the_judge_accepts_are_right_and_those_it_does_not_know_are_left_out():
    judge = AcceptedAnswer(equivalence=AliasMatch(aliases={"Kyiv": ["Kiev"]}))
    assert wrong("Kiev", "Lviv", response="Kyiv", judge=judge) == ["Lviv"]
    assert wrong("Kiev", "Lviv", response="Kyiv", judge=TruthTable(truth={"Lviv": False})) == ["Lviv"]


def test_the_span_is_what_is_said_otherwise():
    response = "The capital of Australia is Canberra."
    (found,) = DistractorNegator(generator=Says("The capital of Australia is Sydney.")).negate(CAPITAL, response)
    assert [found.text[span.start : span.end] for span in found.spans] == ["Sydney"]


def test_questions_go_in_batches_and_a_statement_without_one_has_no_wrong_answers():
    generator = Says("Sydney")
    negator = DistractorNegator(generator=generator, batch_size=2)
    found = negator.negate_many([CAPITAL, (), CAPITAL, CAPITAL], ["Canberra"] * 4)
    assert [len(several) for several in found] == [1, 0, 1, 1]
    assert generator.batches == [2, 1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="count 0"):
        DistractorNegator(generator=Says("a"), count=0)
    with pytest.raises(ConfigError, match="sampling.n 0"):
        DistractorNegator(generator=Says("a"), sampling=Sampling(n=0))

    class Silent(Says):
        def generate(self, prompts, sampling):
            return []

    with pytest.raises(TeacherError, match="0 of 1"):
        DistractorNegator(generator=Silent()).negate(CAPITAL, "Canberra")
