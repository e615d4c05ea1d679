"""A model behind an OpenAI-compatible server, on a real socket: what it says, and that nothing but the question decides it."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the contract tests load this file from elsewhere
from chat_server import Server, log_probs, serving

from distill.errors import ConfigError, TeacherError
from distill.records import Message, Prompt
from distill.teachers.base import Price, Sampling
from distill.teachers.server import ServerTeacher
from distill.teachers.server_limits import Pace

SAMPLING = Sampling(n=4, max_tokens=6)


def make_teacher(tiny_model_folder: Callable[[str], Path], folder: Path) -> ServerTeacher:
    server = Server()
    server.start()  # until the tests' process ends
    return teacher(server)


def teacher(server: Server, **settings: Any) -> ServerTeacher:
    return ServerTeacher(**{"model": "toy", "base_url": server.url, "max_retries": 2, **settings})


def ask(*texts: str) -> list[Prompt]:
    return [(Message(role="user", content=text),) for text in texts]


def texts(found: list[Any]) -> list[list[str]]:
    return [[one.text for one in several] for several in found]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


QUESTIONS = ask(*(f"Question {place}?" for place in range(12)))


def test_a_prompts_samples_depend_neither_on_concurrency_nor_on_the_other_prompts(server: Server) -> None:
    server.pause = 0.002
    whole = teacher(server, concurrency=16).generate(QUESTIONS, SAMPLING)
    assert teacher(server, concurrency=1).generate(QUESTIONS[::-1], SAMPLING) == whole[::-1]
    assert teacher(server).generate(QUESTIONS[3:4], SAMPLING) == whole[3:4]


def test_threads_that_ask_at_once_get_what_one_thread_gets(server: Server) -> None:
    one, found = teacher(server), {}
    threads = [threading.Thread(target=lambda p=p: found.update({p: one.generate([p], SAMPLING)})) for p in QUESTIONS]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [found[prompt][0] for prompt in QUESTIONS] == teacher(server).generate(QUESTIONS, SAMPLING)


def test_a_server_with_one_random_state_for_everybody_is_asked_one_thing_at_a_time() -> None:
    with serving(lonely_seed=True, drops=frozenset({"n"})) as server:
        many = teacher(server, concurrency=8)
        assert many.capabilities().seed == "alone"
        before = server.open_most
        found = many.generate(QUESTIONS[:3], SAMPLING)
        assert found == teacher(server, concurrency=1).generate(QUESTIONS[:3], SAMPLING) and before > 1


def test_samples_are_requests_with_seeds_of_their_own_so_that_later_ones_continue_the_earlier(server: Server) -> None:
    one = teacher(server)
    first, later = (texts(one.generate(QUESTIONS, replace(SAMPLING, n=2, skip=skip))) for skip in (0, 2))
    assert texts(one.generate(QUESTIONS, SAMPLING)) == [a + b for a, b in zip(first, later, strict=True)]
    assert all("n" not in body for body in server.asked("Question 1?"))
    assert len({body["seed"] for body in server.asked("Question 1?")}) == 4


def test_together_asks_for_all_samples_at_once_and_is_another_identity(server: Server) -> None:
    together = teacher(server, together=True)
    found = together.generate(QUESTIONS[:1], SAMPLING)
    assert len(found[0]) == 4 and [body["n"] for body in server.asked("Question 0?")] == [4]
    assert together.identity() != teacher(server).identity()


def test_a_server_without_seeds_gives_n_in_one_request_for_nothing_is_lost_by_it() -> None:
    with serving(drops=frozenset({"seed"})) as server:
        found = teacher(server).generate(QUESTIONS[:1], SAMPLING)
        assert len(set(texts(found)[0])) > 1 and [body.get("n") for body in server.asked("Question 0?")] == [4]


@pytest.mark.parametrize("drops", [{"n"}, {"n", "seed"}])
def test_n_is_emulated_where_the_server_drops_it(drops: set[str]) -> None:
    with serving(drops=frozenset(drops)) as server:
        found = teacher(server).generate(QUESTIONS[:2], SAMPLING)
        assert [len(set(several)) for several in texts(found)] == [4, 4]


def test_greedy_is_asked_once_however_many_samples_are_wanted(server: Server) -> None:
    found = teacher(server).generate(QUESTIONS[:1], replace(SAMPLING, temperature=0))
    assert found[0] == [found[0][0]] * 4 and len(server.asked("Question 0?")) == 1


def test_the_log_prob_is_the_sum_over_the_tokens_under_the_models_own_distribution(server: Server) -> None:
    for sampling in (Sampling(max_tokens=5), Sampling(max_tokens=5, temperature=0.5, top_p=0.9)):
        said = teacher(server).generate(QUESTIONS[:1], sampling)[0][0]
        context, left, total, tokens = "<user>Question 0?</end><assistant>", said.text, 0.0, 0
        while left or said.finish == "stop":
            values = log_probs(context)
            word = next((one for one in sorted(values, key=len, reverse=True) if left.startswith(one)), "<end>")
            total, tokens, context, left = total + values[word], tokens + 1, context + word, left.removeprefix(word)
            if word == "<end>":
                break
        assert said.log_prob == pytest.approx(total) and said.tokens == tokens


def test_log_probabilities_after_temperature_are_not_passed_off_as_the_models_own() -> None:
    with serving(scaled=True) as server:
        one = teacher(server)
        assert one.generate(QUESTIONS[:1], Sampling(max_tokens=3))[0][0].log_prob is not None
        cold = Sampling(max_tokens=3, temperature=0.5)
        assert one.generate(QUESTIONS[:1], cold)[0][0].log_prob is None
        with pytest.raises(TeacherError, match="after temperature.*--logprobs-mode raw_logprobs"):
            one.check(cold, log_probs=True)


@pytest.mark.parametrize("drops", [frozenset(), frozenset({"stop"})])
def test_a_completion_ends_before_the_first_stop_text_also_where_the_server_drops_stop(drops: frozenset[str]) -> None:
    with serving(drops=drops) as server:
        free = teacher(server).generate(QUESTIONS, Sampling(max_tokens=12))
        found = teacher(server).generate(QUESTIONS, Sampling(max_tokens=12, stop=(" red", " is")))
        for (whole,), (cut,) in zip(free, found, strict=True):
            places = [place for stop in (" red", " is") if (place := whole.text.find(stop)) >= 0]
            assert cut.text == (whole.text[: min(places)] if places else whole.text)
            assert cut.finish == ("stop" if places else whole.finish) and cut.tokens <= whole.tokens


@pytest.mark.parametrize("way", ["flags", "itself"])
def test_a_started_answer_is_continued(way: str) -> None:
    started = (*QUESTIONS[0], Message(role="assistant", content="The capital"))
    with serving(continues=way) as server:
        best = max(log_probs("<user>Question 0?<assistant>The capital").items(), key=lambda pair: pair[1])[0]
        assert teacher(server).generate([started], Sampling(temperature=0, max_tokens=1))[0][0].text == best


def test_a_server_that_would_begin_another_answer_is_refused_a_started_one() -> None:
    started = (*QUESTIONS[0], Message(role="assistant", content="The capital"))
    with serving(continues=None) as server, pytest.raises(TeacherError, match="does not go on with one.*use vLLM"):
        teacher(server).generate([started], Sampling())


def test_choosing_reads_the_log_probabilities_of_the_first_token(server: Server) -> None:
    values = log_probs("<user>Question 0?</end><assistant>")
    found = teacher(server).choose(QUESTIONS[:1], ["Paris", " Oslo.", "Never said"])
    assert found == [(pytest.approx(values["Paris"]), pytest.approx(values[" Oslo"]), -math.inf)]
    assert server.bodies[-1]["max_tokens"] == 1
    with pytest.raises(TeacherError, match="begin with the same token ' is'"):
        teacher(server).choose(QUESTIONS[:1], [" is", " is not"])


def test_no_more_requests_are_under_way_than_allowed_over_all_threads(server: Server) -> None:
    server.pause = 0.01
    one = teacher(server, concurrency=3)
    one.check(SAMPLING)
    threads = [threading.Thread(target=one.generate, args=([prompt], SAMPLING)) for prompt in QUESTIONS[:6]]
    server.open_most = 0
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert server.open_most == 3


def test_no_more_requests_start_in_a_minute_than_allowed(server: Server) -> None:
    one = teacher(server, requests_per_minute=1200, concurrency=16)
    one.generate(QUESTIONS, Sampling(max_tokens=1))
    assert len(server.at) >= 12
    assert server.at[-1] - server.at[0] >= 0.05 * (len(server.at) - 1) * 0.95


def test_tokens_are_reserved_before_a_request_and_settled_after_it() -> None:
    now = [0.0]
    pace = Pace(tokens_per_minute=600, clock=lambda: now[0])
    assert pace.reserve(100) == 0 and pace.reserve(100) == 10
    pace.settle(100, used=10)
    assert pace.reserve(100) == pytest.approx(11)


def test_a_server_that_asks_for_patience_means_all_requests() -> None:
    pace = Pace()
    pace.hold(0.05)
    start = time.monotonic()
    asyncio.run(pace.turn(1))
    assert time.monotonic() - start >= 0.045


def test_usage_counts_every_request_the_reported_tokens_and_their_price(server: Server) -> None:
    one = teacher(server, price=Price(input=1.0, output=10.0))
    one.check(SAMPLING)
    before = one.usage()
    found = one.generate(QUESTIONS, SAMPLING)
    used = one.usage() - before
    assert used.requests == 48 and used.completion_tokens == sum(said.tokens for several in found for said in several)
    assert used.cost == pytest.approx((used.prompt_tokens + 10 * used.completion_tokens) / 1e6) and used.cost > 0
    assert one.usage().requests == len(server.bodies)


def test_a_price_needs_a_server_that_counts() -> None:
    with serving(counts=False) as server:
        assert teacher(server).generate(QUESTIONS[:1], Sampling(max_tokens=2))[0][0].text
        with pytest.raises(TeacherError, match="reports no tokens"):
            teacher(server, price=Price(input=1.0)).check(Sampling())


def test_the_identity_is_what_changes_the_text_and_no_address() -> None:
    near = ServerTeacher(model="qwen3", base_url="http://localhost:1/v1", concurrency=1)
    far = ServerTeacher(model="qwen3", base_url="http://127.0.0.1:2/v1", timeout=3, price=Price(input=1.0))
    assert near.identity() == far.identity() == {"teacher": "server", "model": "qwen3"}
    for change in ({"model": "other"}, {"revision": "2026-11"}, {"extra_body": {"min_p": 0.1}}):
        assert replace(near, **change).identity() != near.identity()


def test_extra_body_is_sent_and_wins_over_the_plain_distribution(server: Server) -> None:
    teacher(server, extra_body={"min_p": 0.1, "priority": 2}).generate(QUESTIONS[:1], Sampling(max_tokens=1))
    assert server.bodies[-1]["min_p"] == 0.1 and server.bodies[-1]["priority"] == 2 and server.bodies[-1]["top_k"] == -1


def test_a_copy_is_a_teacher_with_a_line_of_its_own(server: Server) -> None:
    one = teacher(server)
    found = one.generate(QUESTIONS[:2], SAMPLING)
    for copied in (pickle.loads(pickle.dumps(one)), deepcopy(one), replace(one)):
        assert copied == one and copied.usage().requests == 0
        assert copied.generate(QUESTIONS[:2], SAMPLING) == found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "localhost:8000"}, "'localhost:8000' is no server's address"),
        ({"base_url": "me:secret@host:8000?key=sk-live-1"}, "'host:8000' is no server's address"),
        ({"base_url": "http://me:secret@host/v1"}, "holds a key or password"),
        ({"base_url": "https://api.example.com/v1"}, "OPENAI_API_KEY is not set.*api.example.com"),
        ({"base_url": "https://api.example.com/v1", "api_key_env": "sk-live-123"}, "no name of an environment variable"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"extra_body": {"n": 3, "seed": 1}}, "extra_body holds n, seed"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_anything_is_sent(
    settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=said) as error:
        ServerTeacher(**{"model": "toy", "base_url": "http://localhost:8000/v1", **settings})
    assert "secret" not in str(error.value) and "sk-live" not in str(error.value)


def test_a_server_without_keys_on_another_machine_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert ServerTeacher(model="toy", base_url="http://node17:8000/v1", api_key_env="").identity()


def test_avoid_start_is_refused_for_a_servers_tokens_are_not_known(server: Server) -> None:
    with pytest.raises(TeacherError, match="HuggingFaceTeacher"):
        teacher(server).generate(QUESTIONS, Sampling(avoid_start=("I don't know",)))


def test_the_key_is_sent_and_in_nothing_that_is_kept_or_said(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("TOY_KEY", key)
    server.key = key
    caplog.set_level("DEBUG")
    one = teacher(server, api_key_env="TOY_KEY", batch_folder=str(tmp_path))
    monkeypatch.setattr("distill.teachers.server_batch.FIRST_LOOK", 0.01)
    assert one.generate(QUESTIONS[:1], Sampling(max_tokens=2)) and server.keys[-1] == f"Bearer {key}"
    server.key = "another"  # from here on its 401 repeats the key it got
    with pytest.raises(TeacherError, match=r"HTTP 401.*environment variable TOY_KEY") as error:
        replace(one, batch_folder=None).check(SAMPLING)
    shown: BaseException | None = error.value
    told = [caplog.text, repr(one), json.dumps(dict(one.identity())), repr(one.__getstate__()), repr(one.capabilities)]
    while shown is not None:
        told.append(f"{shown!r} {shown}")
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    told += [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(told) > 7 and not [text for text in told if key in text or "very-secret" in text]
