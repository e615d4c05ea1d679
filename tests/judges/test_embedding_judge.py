"""The embedding judge compares meanings, and numbers as they are."""

import pytest

from distill.errors import ConfigError
from distill.judges.accepted import NO_REFERENCE
from distill.judges.embedding import NO_TEXT, UNDECIDED, EmbeddingJudge

GOLD = ("The author was born in Taipei.",)


def test_a_paraphrase_is_approved_and_another_matter_is_not():
    judge = EmbeddingJudge(threshold=0.7)
    verdict = judge.judge((), "The writer's birthplace is Taipei.", ("It rains.", *GOLD))
    assert verdict.approved and verdict.evidence["closest"] == GOLD[0] and 0.7 <= verdict.evidence["similarity"] <= 1
    assert judge.judge((), "Gold has the atomic number seventy-nine.", GOLD).approved is False


def test_other_numbers_are_another_answer_however_close():
    close = ("He died in 1914.", ("He died in 1915.",))
    assert EmbeddingJudge(threshold=0.7).judge((), *close).reason == "has other numbers"
    assert EmbeddingJudge(threshold=0.7, same_numbers=False).judge((), *close).approved


def test_what_cannot_be_compared_is_an_abstention():
    judge = EmbeddingJudge()
    assert judge.judge((), "Taipei").reason == NO_REFERENCE
    assert judge.judge((), " . ", ("x",)).reason in {NO_TEXT, "close to no accepted answer"}
    assert judge.judge((), "", GOLD).reason == NO_TEXT
    similarity = judge.judge((), "A Taipei writer", GOLD).evidence["similarity"]
    near = EmbeddingJudge(threshold=similarity + 0.01, margin=0.05)
    assert near.judge((), "A Taipei writer", GOLD).reason == UNDECIDED


def test_confidence_is_a_half_at_the_threshold_and_one_at_the_end():
    assert EmbeddingJudge(threshold=0.7).judge((), GOLD[0], GOLD).confidence == 1.0
    similarity = EmbeddingJudge().judge((), "A Taipei writer", GOLD).evidence["similarity"]
    assert EmbeddingJudge(threshold=similarity).judge((), "A Taipei writer", GOLD).confidence == 0.5


@pytest.mark.parametrize("settings", [{"threshold": 1.0}, {"threshold": -2}, {"margin": 1}])
def test_a_threshold_that_is_no_cosine_is_refused(settings):
    with pytest.raises(ConfigError):
        EmbeddingJudge(**settings)
