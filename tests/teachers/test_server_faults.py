"""What goes wrong between here and a server: what passes is tried again, what does not costs its own row, or stops at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from chat_server import Fault, Server, another_model, cut_off, dropped, fewer, send, serving, slow, status, truncated
from test_server import QUESTIONS, ask, teacher

from distill.errors import TeacherError
from distill.recipes import Ask, Run, generate
from distill.teachers.base import Failed, Sampling

ONE = Sampling(max_tokens=3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("distill.teachers.server_link.FIRST_PAUSE", 0.01)
    with serving() as running:
        yield running


def about(text: str, fault: Fault) -> Callable[[dict[str, Any]], Fault | None]:
    """A fault for every request whose last message is that text."""
    return lambda body: fault if body["messages"][-1]["content"] == text else None


FAULTS = {
    "429": status(429, Retry_After="0.05"),
    "429 in milliseconds": status(429, retry_after_ms="50"),
    "500": status(500),
    "503": status(503),
    "truncated": truncated,
    "cut off": cut_off,
    "dropped": dropped,
    "fewer": fewer,
    "slow": slow(0.4),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_may_pass_is_tried_again_and_changes_nothing(server: Server, name: str) -> None:
    whole = teacher(server).generate(QUESTIONS[:4], ONE)
    one = teacher(server, timeout=0.2 if name == "slow" else 10)
    one.check(ONE)
    before, requests = len(server.bodies), one.usage().requests
    server.faults = [FAULTS[name]] * 2
    assert one.generate(QUESTIONS[:4], ONE) == whole
    assert len(server.bodies) - before == 6 == one.usage().requests - requests, "every attempt is counted"


def test_a_server_that_says_when_to_come_back_is_not_asked_before(server: Server) -> None:
    one = teacher(server, concurrency=1)
    one.check(ONE)
    server.at.clear()
    server.faults = [status(429, Retry_After="0.3")]
    one.generate(QUESTIONS[:2], ONE)
    assert server.at[1] - server.at[0] >= 0.29


def test_a_wait_of_an_hour_ends_the_run_instead(server: Server) -> None:
    one = teacher(server)
    one.check(ONE)
    server.faults = [status(429, Retry_After="3600")]
    with pytest.raises(TeacherError, match="asks to wait 3600 s.*same command again then"):
        one.generate(QUESTIONS[:1], ONE)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "put the right key into the environment variable OPENAI_API_KEY"),
        (403, "may not do this"),
        (404, "usually ends in /v1"),
        (302, "final address"),
    ],
)
def test_what_will_never_pass_stops_at_once_with_the_remedy(server: Server, code: int, said: str) -> None:
    one = teacher(server)
    one.check(ONE)
    before = len(server.bodies)
    server.faults = [status(code, Location="http://localhost:9/")]
    with pytest.raises(TeacherError, match=f"HTTP {code}: not now.*{said}"):
        one.generate(QUESTIONS[:1], ONE)
    assert len(server.bodies) == before + 1


def test_another_model_than_the_one_asked_is_an_error(server: Server) -> None:
    one = teacher(server)
    one.check(ONE)
    server.faults = [another_model]
    with pytest.raises(TeacherError, match="'toy' was asked and 'impostor' answered.*answers_as"):
        one.generate(QUESTIONS[:1], ONE)
    server.answers_as = "impostor"
    assert teacher(server, answers_as="impostor").generate(QUESTIONS[:1], ONE)[0]


def test_a_prompt_that_is_too_long_costs_its_own_row_only(server: Server) -> None:
    one = teacher(server)
    found = one.generate([*ask("x" * 3000), *QUESTIONS[:2]], ONE)
    assert isinstance(found[0], Failed) and [len(several) for several in found] == [0, 1, 1]
    assert "maximum context length is # characters" in found[0].reason


def test_a_prompt_on_which_the_server_breaks_every_time_costs_its_own_row_only(server: Server) -> None:
    server.fails = about("Question 1?", status(500))
    found = teacher(server, give_up_after=2).generate(QUESTIONS[:3], ONE)
    assert [several.reason for several in found if isinstance(several, Failed)] == ["no answer from the server (HTTP 500)"]
    assert [len(several) for several in found] == [1, 0, 1]


def test_an_answer_that_a_filter_cut_is_no_completion(server: Server) -> None:
    def filtered(answer: dict[str, Any]) -> None:
        answer["choices"][0]["finish_reason"] = "content_filter"

    one = teacher(server)
    one.check(ONE)
    server.change = filtered
    assert one.generate(QUESTIONS[:1], ONE)[0].reason == "stopped by the server's content filter"  # type: ignore[attr-defined]


def test_a_refusal_of_a_setting_stops_the_run_and_says_what_the_server_said(server: Server) -> None:
    server.refuses = frozenset({"stop"})
    with pytest.raises(TeacherError, match="refuses what is asked of 'toy'.*'stop'"):
        teacher(server).generate(QUESTIONS[:1], Sampling(max_tokens=3, stop=("x",)))


def test_more_tokens_than_the_model_can_write_stop_the_run_and_lose_no_row(server: Server) -> None:
    def too_large(handler: Any) -> bool:
        said = "'max_tokens' is too large: 5000. This model's maximum context length is 2000 tokens"
        send(handler, 400, {"error": {"message": said}})
        return True

    server.fails = lambda body: too_large if body["max_tokens"] > 2000 else None
    with pytest.raises(TeacherError, match="refuses what is asked of 'toy'.*'max_tokens' is too large"):
        teacher(server).generate(QUESTIONS[:3], Sampling(max_tokens=5000))


def test_a_refusal_that_a_harmless_prompt_does_not_get_is_the_prompts_own(server: Server) -> None:
    server.fails = about("Question 1?", status(400))
    found = teacher(server).generate(QUESTIONS[:3], ONE)
    assert [len(several) for several in found] == [1, 0, 1] and found[1].reason == "refused by the server (not now)"  # type: ignore[attr-defined]


def test_a_dead_server_stops_the_run_after_a_bounded_number_of_rows(server: Server) -> None:
    one = teacher(server, give_up_after=3, concurrency=1)
    one.check(ONE)
    server.fails = lambda body: status(500)
    before = len(server.bodies)
    with pytest.raises(TeacherError, match=r"3 requests in a row failed 3 times each.*same command again"):
        one.generate(QUESTIONS, ONE)
    assert 3 * 3 <= len(server.bodies) - before <= 3 * 3 + 2, "others may begin while the server's health is looked at"


def test_a_server_that_is_gone_stops_the_run_at_the_first_row() -> None:
    with serving() as server:
        one = teacher(server, max_retries=0, concurrency=1)
        one.check(ONE)
    with pytest.raises(TeacherError, match="does not list its models either"):
        one.generate(QUESTIONS[:4], ONE)


def test_where_there_never_was_a_server_nothing_is_tried_twice() -> None:
    with serving() as server:
        pass
    start = time.monotonic()
    with pytest.raises(TeacherError, match="no server answers at 127.0.0.1.*start it, or correct base_url"):
        teacher(server, max_retries=6).check(ONE)
    assert time.monotonic() - start < 2


def test_ctrl_c_does_not_wait_for_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    one = teacher(server)
    one.check(ONE)
    server.pause = 5.0

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        time.sleep(0.05)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupted)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            one.generate(QUESTIONS, ONE)
    assert time.monotonic() - start < 1
    server.pause = 0.0
    assert one.generate(QUESTIONS[:1], ONE)[0], "the line is free again"


def test_a_recipe_loses_the_failed_row_with_its_reason_and_keeps_the_others(server: Server) -> None:
    server.fails = about("Question 1?", status(500))
    asks = [Ask(str(place), prompt) for place, prompt in enumerate(QUESTIONS[:3])]
    with Run(None, quiet=True) as run:
        found = list(generate(run, "ask", asks, teacher(server), ONE))
        assert [row.id for row in found] == ["0", "2"]
        assert "1 no answer from the server (HTTP 500)" in run.table()
