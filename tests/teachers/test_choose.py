"""A teacher chooses by the probability of each option's first token."""

import pytest

from distill.errors import TeacherError
from distill.records import Message
from distill.teachers.base import Chooser, Sampling
from distill.teachers.huggingface import HuggingFaceTeacher

PROMPTS = [(Message(role="user", content=text),) for text in ("Is Paris in France?", "Is it?", "Is Paris in France?")]


@pytest.fixture(scope="module")
def teacher(tiny_model_folder) -> HuggingFaceTeacher:
    return HuggingFaceTeacher(model=str(tiny_model_folder("llama")), dtype="float32", device="cpu", batch_size=2)


def test_an_option_s_log_probability_is_that_of_its_first_token(teacher):
    chosen = teacher.choose(PROMPTS, ["Y", "N"])
    for column, option in enumerate(("Y", "N")):
        scored = teacher.score(PROMPTS, [option] * len(PROMPTS))
        assert [row[column] for row in chosen] == pytest.approx([one.log_probs[0] for one in scored], abs=1e-4)
    assert isinstance(teacher, Chooser) and chosen[0] == chosen[2]


def test_the_greedy_reply_s_opening_is_the_most_probable_option(teacher):
    greedy = [one[0].text for one in teacher.generate(PROMPTS[:2], Sampling(temperature=0.0, max_tokens=1))]
    letters = [letter for letter in "abcdefghYN" if all(not text.startswith(letter) for text in greedy)]
    for text, prompt in zip(greedy, PROMPTS, strict=False):
        if text:
            log_probs = teacher.choose([prompt], [text, *letters])[0]
            assert max(log_probs) == log_probs[0]


@pytest.mark.parametrize("options", [["N", "N"], ["The", "The "], ["Y", ""]])
def test_options_that_begin_alike_are_refused(teacher, options):
    with pytest.raises(TeacherError, match="different tokens"):
        teacher.choose(PROMPTS, options)


def test_no_prompts_are_no_choices(teacher):
    assert teacher.choose([], ["Y", "N"]) == []
