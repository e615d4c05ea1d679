import pytest

from distill.judges.mentioned import MentionedAnswer
from distill.records import Message

ASK = (Message(role="user", content="What is the capital of France?"),)


@pytest.mark.parametrize(
    ("response", "approved"),
    [
        (" Paris", True),
        ("The capital of France is Paris.", True),
        ("The capital of France is PÁRIS, a city.", True),
        ("The capital of France is Lyon.", False),
        ("Parisian suburbs.", False),
        ("It is not Paris.", None),
        ("It isn't Paris.", None),
        ("Paris or Lyon.", None),
        ("It is Lyon. Paris is larger.", False),
        ("I don't know.", False),
        ("I don't know, Paris perhaps.", False),
        ("", False),
    ],
)
def test_a_mention_is_right_unless_it_is_denied_or_offered_as_a_choice(response, approved):
    assert MentionedAnswer().judge(ASK, response, ("Paris", "City of Light")).approved is approved


def test_a_mention_that_the_question_makes_already_proves_nothing():
    ask = (Message(role="user", content="What is the capital of Luxembourg?"),)
    judge = MentionedAnswer()
    assert judge.judge(ask, "The capital of Luxembourg is old.", ("Luxembourg",)).approved is None
    assert judge.judge(ask, "Luxembourg.", ("Luxembourg",)).approved is True


def test_the_whole_response_is_searched_only_where_asked_for():
    text = "Let me think. It is Paris."
    assert MentionedAnswer().judge(ASK, text, ("Paris",)).approved is False
    assert MentionedAnswer(extract="whole").judge(ASK, text, ("Paris",)).approved is True


def test_numbers_are_whole_words_too():
    assert MentionedAnswer().judge((), "There are 118 of them.", ("18",)).approved is False
    assert MentionedAnswer().judge((), "There are 1,180 of them.", ("1180",)).approved is True
