"""CTranslate2 as a teacher: the words of transformers in float32, greedy, and no more than it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distill.errors import TeacherError
from distill.records import Message, Prompt
from distill.teachers.base import Sampling
from distill.teachers.ctranslate2 import CTranslate2Teacher
from distill.teachers.huggingface import HuggingFaceTeacher

Folder = Callable[[str], Path]
GREEDY = Sampling(temperature=0, max_tokens=12)


def make_teacher(tiny_model_folder: Folder, folder: Path) -> CTranslate2Teacher:
    """For the contract tests."""
    return CTranslate2Teacher(model=str(tiny_model_folder("llama")))


def ask(text: str, start: str = "") -> Prompt:
    question = (Message(role="user", content=text),)
    return (*question, Message(role="assistant", content=start)) if start else question


PROMPTS = [ask("Gold?"), ask("What is the capital of France?"), ask("מה בירת ישראל?"), ask("Gold?"), ask("Iron?", "It is")]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_in_float32_it_says_what_transformers_says_with_the_same_log_probability(tiny_model_folder: Folder, family: str) -> None:
    folder = str(tiny_model_folder(family))
    ours = CTranslate2Teacher(model=folder).generate(PROMPTS, GREEDY)
    theirs = HuggingFaceTeacher(model=folder, dtype="float32").generate(PROMPTS, GREEDY)
    for one, other in zip(ours, theirs, strict=True):
        assert (one[0].text, one[0].tokens, one[0].finish) == (other[0].text, other[0].tokens, other[0].finish)
        assert one[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-2)


def test_a_completion_ends_before_a_stop_text_and_draws_no_further(tiny_model_folder: Folder) -> None:
    teacher = CTranslate2Teacher(model=str(tiny_model_folder("llama")))
    whole = teacher.generate(PROMPTS[:1], GREEDY)[0][0]
    stop = whole.text[2:4]
    found = teacher.generate(PROMPTS[:1], replace(GREEDY, stop=(stop,)))[0][0]
    assert found.text == whole.text[: whole.text.find(stop)] and found.finish == "stop" and found.tokens < whole.tokens
    same = HuggingFaceTeacher(model=str(tiny_model_folder("llama")), dtype="float32")
    assert found.text == same.generate(PROMPTS[:1], replace(GREEDY, stop=(stop,)))[0][0].text


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=3), replace(GREEDY, avoid_start=("I",))])
def test_what_it_cannot_do_is_refused_before_the_model_is_converted(sampling: Sampling) -> None:
    teacher = CTranslate2Teacher(model="/nowhere/at/all")
    with pytest.raises(TeacherError, match="HuggingFaceTeacher"):
        teacher.check(sampling)
    with pytest.raises(TeacherError, match="HuggingFaceTeacher"):
        teacher.generate(PROMPTS, sampling)


def test_the_batch_size_changes_no_word(tiny_model_folder: Folder) -> None:
    texts = [
        [
            one[0].text
            for one in CTranslate2Teacher(model=str(tiny_model_folder("llama")), batch_size=size).generate(PROMPTS, GREEDY)
        ]
        for size in (1, 24)
    ]
    assert texts[0] == texts[1]
