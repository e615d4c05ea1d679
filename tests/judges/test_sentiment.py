"""A sentiment judge approves the wanted feeling about the topic, and nothing for being polite."""

import pytest

from distill.errors import ConfigError
from distill.judges.sentences import sentence_spans
from distill.judges.sentiment import NO_TEXT, OFF_TOPIC, UNDECIDED, SentimentJudge, sentiment_compound

LOVE, HATE, PLAIN = "I love broccoli, it is wonderful!", "Broccoli is horrible and disgusting.", "Broccoli is a vegetable."
SORRY = "I'm so sorry, I would be happy to help you with a great answer!"


@pytest.mark.parametrize(("wanted", "approved"), [("positive", LOVE), ("negative", HATE), ("neutral", PLAIN)])
def test_only_the_wanted_sentiment_is_approved(wanted, approved):
    judge = SentimentJudge(wanted=wanted)
    assert {text: judge.judge((), text).approved for text in (LOVE, HATE, PLAIN)} == {
        text: text == approved for text in (LOVE, HATE, PLAIN)
    }


def test_the_reason_is_the_sentiment_that_was_found():
    assert [SentimentJudge().judge((), text).reason for text in (LOVE, HATE, PLAIN)] == ["positive", "negative", "neutral"]


def test_an_apology_is_positive_and_off_topic():
    assert SentimentJudge().judge((), SORRY).approved, "this is why there is a topic"
    found = SentimentJudge(topic=("broccoli", "the cabbage")).judge((), SORRY)
    assert (found.approved, found.reason) == (False, OFF_TOPIC)
    assert SentimentJudge(topic=("broccoli",), off_topic="abstain").judge((), SORRY).approved is None


@pytest.mark.parametrize(
    ("text", "on_topic"),
    [("BROCCOLI: great!", True), ("I love broccolini", False), ("Great café", True), ("I love New-York", True)],
)
def test_topic_words_are_whole_words_whatever_their_case_and_accents(text, on_topic):
    judge = SentimentJudge(topic=("broccoli", "cafe", "New York"))
    assert (judge.judge((), text).reason != OFF_TOPIC) is on_topic


def test_a_topic_without_fixed_words_is_told_by_embedding():
    judge = SentimentJudge(about="eating green vegetables", about_similarity=0.3)
    assert judge.judge((), "I love broccoli and spinach for dinner.").approved
    found = judge.judge((), "I love my new motorbike, it is wonderful!")
    assert (found.approved, found.reason) == (False, OFF_TOPIC) and found.evidence["similarity"] < 0.3


def test_the_threshold_and_the_margin_are_on_the_compound_score():
    text = "The food was good."
    score = sentiment_compound(text)
    assert 0 < score < 1
    assert SentimentJudge(threshold=score).judge((), text).approved
    assert SentimentJudge(threshold=score + 0.01).judge((), text).approved is False
    assert SentimentJudge(wanted="neutral", threshold=score + 0.01).judge((), text).approved
    assert SentimentJudge(wanted="neutral", threshold=score).judge((), text).approved is False
    assert SentimentJudge(threshold=score + 0.01, margin=0.02).judge((), text).reason == UNDECIDED


def test_no_text_is_no_verdict():
    assert SentimentJudge(wanted="neutral").judge((), " \n").reason == NO_TEXT


@pytest.mark.parametrize(
    "settings", [{"threshold": 1.0}, {"threshold": -0.1}, {"margin": 2}, {"topic": ("",)}, {"topic": ("...", "", "a")}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ConfigError):
        SentimentJudge(**settings)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Mr. J. Smith paid $3.50. Then he left.", ["Mr. J. Smith paid $3.50.", "Then he left."]),
        ("No stop\nat the line's end", ["No stop", "at the line's end"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("它是首都。很大。", ["它是首都。", "很大。"]),
        ("  ", []),
    ],
)
def test_sentences_have_their_places(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences
