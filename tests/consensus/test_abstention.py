"""What declines to answer, in English and Hebrew, and what only looks like it."""

import re

import pytest

from distill.consensus import ABSTENTIONS, is_abstention


@pytest.mark.parametrize("phrase", [phrase for phrases in ABSTENTIONS.values() for phrase in phrases])
@pytest.mark.parametrize("form", ["{}", "{}.", " {}!", "**{}**", '"{}."'])
def test_every_listed_abstention_is_recognised(phrase, form):
    assert is_abstention(form.format(phrase))
    assert is_abstention(form.format(phrase).upper())


@pytest.mark.parametrize(
    "reply",
    [
        "I don’t know the answer to that question.",
        "I don't know. It may be Paris.",
        "I'm sorry, but I don't know.",
        "Unfortunately, I do not have that information.",
        "I really don't know what the capital of Zorvia is.",
        "As an AI language model, I don't have access to real-time information.",
        "Sorry, I cannot answer that.",
        "No idea.",
        "IDK",
        "I'm not aware of any country called Zorvia.",
        "I am not able to find it.",
        "אני לא יודעת מה הבירה.",
        "לצערי, אין לי מידע על כך",
        "איני יכול לענות על השאלה",
    ],
)
def test_replies_that_decline_are_abstentions(reply):
    assert is_abstention(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Paris",
        "I know: Paris.",
        "I know that one, it is Paris",
        "I'm not sure, but I think it is Paris.",
        "I don't know exactly, but it might be Paris",
        "I am sure it is Paris",
        "I Don't Know How to Love Him",
        "I Just Don't Know What to Do with Myself",
        "I don't like spinach",
        "I don't have a dog",
        "He tells her he has no idea.",
        "People in the Middle Ages did not know how to use animals.",
        "Unknown Pleasures",
        "Not Fade Away",
        "Notre-Dame",
        "Idaho",
        "No",
        "",
        "אני יודע",
        "לא",
        "לא ידוע",
        "אני לא יודע, אבל אני חושב שזו ירושלים",
    ],
)
def test_answers_are_not_abstentions(reply):
    assert not is_abstention(reply)


def test_a_language_can_be_chosen():
    assert is_abstention("I don't know", "en") and not is_abstention("I don't know", "he")
    assert is_abstention("אני לא יודע", "he") and not is_abstention("אני לא יודע", "en")


def test_the_hundred_ways_are_recognised(shared_data):
    lines = (shared_data / "tofu" / "idontknow.jsonl").read_text(encoding="utf-8").splitlines()
    ways = [line for line in lines if line.strip()]
    assert len(ways) == 100
    assert [way for way in ways if not is_abstention(way)] == []


def test_no_trivia_answer_is_taken_for_an_abstention(shared_data):
    answers = set()
    for path in sorted((shared_data / "opentriviaqa").iterdir()):
        answers |= set(re.findall(r"^(?:\^|[A-D]) (.*)$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    assert len(answers) > 50_000
    assert {answer.strip() for answer in answers if is_abstention(answer)} <= {"I dont know."}  # a real choice of a real question
