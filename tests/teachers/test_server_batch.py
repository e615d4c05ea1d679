"""Hosted batch files: the same data as one by one, submitted once, whatever happens to this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, serving, status
from test_server import QUESTIONS, ask, teacher

from distill.errors import TeacherError
from distill.teachers.base import Failed, Price, Sampling
from distill.teachers.server_link import Link, Unanswered

SAMPLING = Sampling(n=3, max_tokens=4)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("distill.teachers.server_link.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("distill.teachers.server_batch.FIRST_LOOK", 0.01)
    with serving() as running:
        yield running


def batched(server: Server, folder: Path, **settings: Any) -> Any:
    return teacher(server, batch_folder=str(folder / "batches"), **settings)


def test_a_batch_gives_what_single_requests_give_and_asks_for_nothing_beside_the_probe(server: Server, tmp_path: Path) -> None:
    single = teacher(server).generate(QUESTIONS, SAMPLING)
    one = batched(server, tmp_path, price=Price(output=1.0))
    one.check(SAMPLING)
    before, asked = one.usage(), len(server.bodies)
    assert one.generate(QUESTIONS, SAMPLING) == single
    assert len(server.batches) == 1 and len(server.bodies) == asked
    used = one.usage() - before
    assert used.completion_tokens == sum(said.tokens for several in single for said in several) and used.cost > 0
    assert one.identity() == teacher(server).identity()


def test_the_same_requests_are_never_submitted_twice(server: Server, tmp_path: Path) -> None:
    found = batched(server, tmp_path).generate(QUESTIONS[:2], SAMPLING)
    server.files.clear()  # not even looked at again
    again = batched(server, tmp_path)
    assert again.generate(QUESTIONS[:2], SAMPLING) == found
    # Whoever reads the answers again was stopped before their cost was kept.
    assert again.usage().completion_tokens >= sum(said.tokens for several in found for said in several)
    assert len(server.batches) == 1
    batched(server, tmp_path).generate(QUESTIONS[2:4], SAMPLING)
    assert len(server.batches) == 2


@pytest.mark.parametrize("where", ["after the file", "after the submission", "while waiting", "after the answers"])
def test_a_process_killed_anywhere_finds_its_batch_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Killed(BaseException):
        pass

    ask_server, fetch = Link.ask, Link.fetch

    async def killed(self: Link, path: str, body: Any, read: Any, **more: Any) -> Any:
        if where == "after the file" and path == "/batches" and body:
            raise Killed
        found = await ask_server(self, path, body, read, **more)
        if where == "after the submission" and path == "/batches" and body:
            raise Killed
        if where == "while waiting" and path.startswith("/batches/"):
            raise Killed
        return found

    async def killed_later(self: Link, path: str) -> str:
        if where == "after the answers":
            raise Killed
        return await fetch(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(Link, "ask", killed)
        patched.setattr(Link, "fetch", killed_later)
        with pytest.raises(Killed):
            batched(server, tmp_path).generate(QUESTIONS[:2], SAMPLING)
    assert batched(server, tmp_path).generate(QUESTIONS[:2], SAMPLING) == teacher(server).generate(QUESTIONS[:2], SAMPLING)
    assert len(server.batches) == 1 and len([name for name in server.files if name.startswith("file-")]) == 1


def test_a_submission_whose_answer_was_lost_is_looked_for_before_it_is_repeated(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_server, lost = Link.ask, []

    async def loses(self: Link, path: str, body: Any, read: Any, **more: Any) -> Any:
        found = await ask_server(self, path, body, read, **more)
        if path == "/batches" and body and not lost:
            lost.append(found)
            raise Unanswered("connection lost", "a lost connection")
        return found

    monkeypatch.setattr(Link, "ask", loses)
    assert batched(server, tmp_path).generate(QUESTIONS[:2], SAMPLING)[1] and len(server.batches) == 1 and lost


def test_what_fails_in_a_batch_costs_its_own_row(server: Server, tmp_path: Path) -> None:
    server.fails = lambda body: status(500) if body["messages"][-1]["content"] == "Question 1?" else None
    found = batched(server, tmp_path).generate([*ask("x" * 3000), *QUESTIONS[:3]], SAMPLING)
    reasons = [several.reason if isinstance(several, Failed) else None for several in found]
    assert "maximum context length" in str(reasons[0]) and reasons[1:] == [None, "no answer from the server (HTTP 500)", None]


def test_what_a_batch_had_no_time_for_is_lost_and_asked_again_by_the_next_process(server: Server, tmp_path: Path) -> None:
    whole = teacher(server).generate(QUESTIONS[:3], SAMPLING)
    server.expires = {"Question 1?"}
    found = batched(server, tmp_path).generate(QUESTIONS[:3], SAMPLING)
    assert found[1].reason == "no answer from the server (not done in the batch's time)"
    assert [found[0], found[2]] == [whole[0], whole[2]]
    server.expires = set()
    assert batched(server, tmp_path).generate(QUESTIONS[:3], SAMPLING) == whole
    second = [json.loads(line) for line in server.files[server.batches["batch-1"]["input_file_id"]].splitlines()]
    assert {line["body"]["messages"][-1]["content"] for line in second} == {"Question 1?"}


def test_a_batch_that_the_server_refuses_is_told_with_its_reason_and_may_be_sent_again(server: Server, tmp_path: Path) -> None:
    server.fails_batches = "Enqueued token limit reached"
    with pytest.raises(TeacherError, match="refused the batch batch-0: Enqueued token limit reached"):
        batched(server, tmp_path).generate(QUESTIONS[:1], SAMPLING)
    server.fails_batches = ""
    assert batched(server, tmp_path).generate(QUESTIONS[:1], SAMPLING)[0] and len(server.batches) == 2
