"""What a server can do is seen in its answers: a parameter that it drops in silence, one that it refuses, one that it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from chat_server import Server, serving
from test_server import QUESTIONS, teacher

from distill.errors import TeacherError
from distill.teachers.base import Sampling
from distill.teachers.server_probe import Capabilities

ALL = Capabilities(
    models=("toy",),
    n=True,
    log_probs=True,
    top_log_probs=17,
    raw_log_probs=True,
    seed="honoured",
    json_schema=True,
    stop=True,
    top_k=True,
    plain="parameters",
    continues="flags",
    prompt_scoring="prompt_logprobs",
    counts=True,
)


def seen(**settings: Any) -> dict[str, Any]:
    """What of ALL a server with these settings lacks."""
    with serving(**settings) as server:
        found = asdict(teacher(server, concurrency=4).capabilities())
    return {name: value for name, value in found.items() if value != asdict(ALL)[name]}


NO_LOG_PROBS = {"log_probs": False, "top_log_probs": 0, "raw_log_probs": False}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything": ({}, {}),
    "drops n": ({"drops": frozenset({"n"})}, {"n": False}),
    "refuses n": ({"refuses": frozenset({"n"})}, {"n": False}),
    "drops logprobs": ({"drops": frozenset({"logprobs"})}, NO_LOG_PROBS),
    "refuses logprobs": ({"refuses": frozenset({"logprobs"})}, NO_LOG_PROBS),
    "five at most": ({"most_top_logprobs": 5}, {"top_log_probs": 5}),
    "scaled": ({"scaled": True}, {"raw_log_probs": False}),
    "drops seed": ({"drops": frozenset({"seed"})}, {"seed": "ignored"}),
    "refuses seed": ({"refuses": frozenset({"seed"})}, {"seed": "refused"}),
    "one random state": ({"lonely_seed": True}, {"seed": "alone"}),
    "always greedy": ({"constant": True}, {"seed": "constant"}),
    "drops the schema": ({"drops": frozenset({"response_format"})}, {"json_schema": False}),
    "drops stop": ({"drops": frozenset({"stop"})}, {"stop": False}),
    "drops top_k": ({"drops": frozenset({"top_k"})}, {"top_k": False}),
    "refuses top_k": ({"refuses": frozenset({"top_k", "generation_config"})}, {"top_k": False, "plain": None}),
    "continues by itself": ({"continues": "itself"}, {"continues": "itself"}),
    "cannot continue": ({"continues": None}, {"continues": None}),
    "scores no prompt": ({"drops": frozenset({"prompt_logprobs"})}, {"prompt_scoring": None}),
    "counts no tokens": ({"counts": False}, {"counts": False, "continues": None}),
    "thinks": ({"thinks": True}, {"thinks": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_server_cannot_do_is_found_and_nothing_else(name: str) -> None:
    settings, lacking = CASES[name]
    found = seen(**settings)
    if name == "thinks":  # a server that hides its text hides what would be seen in it
        found = {"thinks": found["thinks"]}
    if name == "always greedy":
        found.pop("top_k", None)
    assert found == lacking


@pytest.fixture
def server() -> Any:
    with serving() as running:
        yield running


def test_everything_is_asked_once(server: Server) -> None:
    one = teacher(server)
    assert one.capabilities() == one.capabilities()
    first = len(server.bodies)
    one.capabilities()
    one.check(Sampling(n=3, stop=("x",)), log_probs=True)
    assert len(server.bodies) == first <= 25 and one.usage().completion_tokens <= 16 * first


def test_only_what_is_needed_is_asked(server: Server) -> None:
    teacher(server).check(Sampling(temperature=0))
    assert len(server.bodies) <= 3


def test_a_wrong_model_is_told_with_those_that_are_served() -> None:
    with serving(models=("qwen3", "llama")) as server, pytest.raises(TeacherError, match="HTTP 404.*`toy`.*qwen3, llama"):
        teacher(server).check(Sampling())


def test_a_server_that_wants_max_completion_tokens_gets_them() -> None:
    with serving(refuses=frozenset({"max_tokens", "top_k", "generation_config"})) as server:
        assert teacher(server).generate(QUESTIONS[:1], Sampling(max_tokens=3))[0][0].tokens <= 3
        assert server.bodies[-1]["max_completion_tokens"] == 3


def test_what_a_recipe_needs_and_the_server_lacks_is_refused_with_the_remedy() -> None:
    with serving(drops=frozenset({"logprobs", "top_k"})) as server:
        one = teacher(server)
        one.check(Sampling())
        with pytest.raises(TeacherError, match="no log-probabilities.*use vLLM"):
            one.check(Sampling(), log_probs=True)
        with pytest.raises(TeacherError, match="top_k.*use top_p"):
            one.check(Sampling(top_k=5))
        with pytest.raises(TeacherError, match="no log-probabilities to choose by"):
            one.choose(QUESTIONS[:1], ["a", "b"])


def test_a_server_that_is_greedy_at_any_temperature_cannot_pass_for_one_that_samples() -> None:
    with serving(constant=True, drops=frozenset({"n"})) as server:
        with pytest.raises(TeacherError, match="10 samples would be one"):
            teacher(server).generate(QUESTIONS[:1], Sampling(n=10))
        assert teacher(server).generate(QUESTIONS[:1], Sampling(temperature=0))


def test_reasoning_that_is_only_counted_is_noticed_too(server: Server) -> None:
    server.change = lambda answer: answer["usage"].update(completion_tokens_details={"reasoning_tokens": 7})
    with pytest.raises(TeacherError, match="thinks before it answers"):
        teacher(server).check(Sampling(max_tokens=32))


def test_a_model_that_thinks_needs_room_for_it() -> None:
    with serving(thinks=True) as server:
        with pytest.raises(TeacherError, match="thinks before it answers.*enable_thinking"):
            teacher(server).check(Sampling(max_tokens=32))
        teacher(server).check(Sampling(max_tokens=2048))


def inline(thought: str) -> Any:
    """A server that leaves the thought within the text."""

    def change(answer: dict[str, Any]) -> None:
        for choice in answer["choices"]:
            choice["message"]["content"] = thought + choice["message"]["content"]

    return change


@pytest.mark.parametrize("thought", ["<think>\nLet me see.\n</think>\n\n", "begun by the template.</think>"])
def test_a_thought_within_the_text_is_no_part_of_the_answer(server: Server, thought: str) -> None:
    sampling = Sampling(max_tokens=300)
    plain = teacher(server).generate(QUESTIONS[:2], sampling)
    server.change = inline(thought)
    found = teacher(server).generate(QUESTIONS[:2], sampling)
    assert [one[0].text for one in found] == [one[0].text.lstrip() for one in plain]
    assert plain[0][0].log_prob is not None and all(one[0].log_prob is None for one in found)


def test_a_thought_that_was_cut_off_is_no_answer(server: Server) -> None:
    server.change = inline("<think> and so on ")
    assert [one[0].text for one in teacher(server).generate(QUESTIONS[:2], Sampling(max_tokens=300))] == ["", ""]


def test_a_model_that_thinks_beside_its_answer_is_not_taken_for_one_that_always_says_the_same() -> None:
    with serving(thinks=True) as server:
        assert teacher(server).capabilities().seed == "honoured"
        teacher(server).check(Sampling(n=4, max_tokens=2048))


def test_a_model_that_thinks_in_secret_has_not_shown_whether_it_heeds_seeds() -> None:
    def secret(answer: dict[str, Any]) -> None:
        for choice in answer["choices"]:
            choice["message"] = {"role": "assistant", "content": ""}

    with serving(change=secret) as server:
        assert teacher(server).capabilities().seed == "ignored"
