"""vLLM as a teacher, against a stand-in for its published interface: what is asked of it, and what is made of its answers."""

from __future__ import annotations

import importlib.machinery
import random
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.errors import TeacherError
from distill.records import Message
from distill.teachers.base import Sampling
from distill.teachers.vllm import VllmTeacher

Folder = Callable[[str], Path]
PROMPTS = [(Message(role="user", content=text),) for text in ("Gold?", "Iron?")]


class StandIn:
    """Draws printable bytes from a generator with the request's own seed; an "e" after at least two tokens ends the turn."""

    made: list[dict] = []

    def __init__(self, **settings):
        self.made.append(settings)

    def generate(self, prompts, sampling_params, use_tqdm=True):
        return [self._answer(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, sampling_params, strict=True)]

    def _answer(self, ids, asked):
        draw = random.Random(f"{asked.seed} {ids}")
        tokens = []
        while len(tokens) < asked.max_tokens and not (tokens and tokens[-1] in asked.stop_token_ids):
            tokens.append(asked.stop_token_ids[0] if len(tokens) > 1 and draw.random() < 0.2 else draw.randrange(40, 60))
        reason = "stop" if tokens[-1] in asked.stop_token_ids else "length"
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tokens, cumulative_logprob=-1.5 * len(tokens), finish_reason=reason)]
        )


def stand_in() -> None:
    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", loader=None)
    module.LLM, module.SamplingParams = StandIn, lambda **settings: SimpleNamespace(**settings)  # type: ignore[attr-defined]
    sys.modules["vllm"] = module


def make_teacher(tiny_model_folder: Folder, folder: Path) -> VllmTeacher:
    """For the contract tests."""
    stand_in()
    return VllmTeacher(model=str(tiny_model_folder("llama")))


@pytest.fixture
def teacher(tiny_model_folder: Folder) -> VllmTeacher:
    return make_teacher(tiny_model_folder, Path())


def test_the_engine_is_made_once_and_never_trusts_remote_code(teacher: VllmTeacher) -> None:
    StandIn.made.clear()
    for _ in range(2):
        teacher.generate(PROMPTS, Sampling(max_tokens=3))
    assert len(StandIn.made) == 1 and StandIn.made[0]["trust_remote_code"] is False


def test_samples_of_a_prompt_differ_and_do_not_depend_on_the_others_asked(teacher: VllmTeacher) -> None:
    sampling = Sampling(n=6, max_tokens=8)
    both, alone = teacher.generate(PROMPTS, sampling), teacher.generate(PROMPTS[1:], sampling)
    assert both[1] == alone[0] and len({one.text for one in both[0]}) > 1
    assert {one.finish for several in both for one in several} == {"stop", "length"}
    assert all(one.log_prob == -1.5 * one.tokens for several in both for one in several)


def test_a_text_ends_before_its_stop_text(teacher: VllmTeacher) -> None:
    whole = teacher.generate(PROMPTS[:1], Sampling(max_tokens=8))[0][0].text
    stopped = teacher.generate(PROMPTS[:1], Sampling(max_tokens=8, stop=(whole[1],)))[0][0].text
    assert stopped == whole[: whole.index(whole[1])]


def test_what_it_cannot_do_is_refused(teacher: VllmTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError, match="avoid_start"):
        teacher.check(replace(Sampling(), avoid_start=("I",)))
    monkeypatch.delitem(sys.modules, "vllm")
    with pytest.raises(TeacherError, match="pip install"):
        teacher.check(Sampling())
