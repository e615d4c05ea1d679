"""A server as teacher, on a real socket: the same numbers as the model itself, and no lost row whatever the network does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import pytest
import torch
from signal_helpers import Stored, some_records, store
from vllm_server import Server, cut_off, dropped, send, serving, slow, status, truncated

from distill.cli import main
from distill.errors import ConfigError, TeacherError
from distill.models import load_tokenizer
from distill.objectives.base import TeacherSignal
from distill.records import read_records, write_records
from distill.render import render
from distill.rows import plain_rows
from distill.teachers.prompt_logprobs import PromptLogprobs, log_rest
from distill.teachers.signal_store import read_signal_manifest
from distill.teachers.stored import StoredReference, StoredTeacher


@pytest.fixture(scope="module")
def folder(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def server(folder: str) -> Iterator[Server]:
    with serving(folder) as running:
        yield running


@pytest.fixture
def records(tmp_path: Path) -> str:
    write_records(some_records(("France", "Kenya", "Japan")), tmp_path / "records.jsonl")
    return str(tmp_path / "records.jsonl")


def signal(server: Server, folder: str, records: str, out: Path, *arguments: str) -> int:
    common = ["--teacher_model", "tiny", "--student", folder, "--records", records, "--out", str(out), "--retries", "3"]
    return main(["signal", "--teacher", server.url, *common, *(arguments or ("--kind", "top_k", "--k", "9"))])


def source(server: Server, folder: str, **settings: Any) -> PromptLogprobs:
    return PromptLogprobs(**{"url": server.url, "model": "tiny", "student": folder, "k": 5, "retries": 2, **settings})


def stored(folder: str, records: str, out: Path) -> TeacherSignal:
    one = Stored(signal=str(out), records=records, model=folder)
    found = StoredTeacher(path=one.signal).start(one.student())(plain_rows(one.examples(), 0)).signal
    assert isinstance(found, TeacherSignal)
    return found


def test_the_stored_signal_of_a_server_is_that_of_the_same_model_here(
    server: Server, folder: str, records: str, tmp_path: Path
) -> None:
    assert signal(server, folder, records, tmp_path / "remote", "--kind", "top_k", "--k", "9", "--store_dtype", "float32") == 0
    local = store(tmp_path, Path(folder), "--kind", "top_k", "--k", "9", "--store_dtype", "float32", name="local")
    here, there = (stored(folder, records, Path(path)) for path in (local.signal, tmp_path / "remote"))
    assert torch.equal(here.ids_NK, there.ids_NK)
    assert torch.allclose(here.log_probs_NK, there.log_probs_NK, atol=1e-4)
    # The rest is one minus a sum that is all but 1: exact in mass, not in its logarithm.
    assert torch.allclose(here.rest_N.exp(), there.rest_N.exp(), atol=1e-5)
    settings = read_signal_manifest(tmp_path / "remote").settings
    assert settings.teacher == {"teacher": "prompt_logprobs", "model": "tiny"}
    assert server.url.split("/")[2] not in (tmp_path / "remote" / "manifest.json").read_text()


def test_a_server_gives_references_too(server: Server, folder: str, records: str, tmp_path: Path) -> None:
    assert signal(server, folder, records, tmp_path / "remote", "--kind", "token") == 0
    local = store(tmp_path, Path(folder), "--kind", "token", name="local")
    batch = plain_rows(local.examples(), 0)
    here, there = (StoredReference(str(path), student=folder, rows=400)(batch) for path in (local.signal, tmp_path / "remote"))
    assert torch.allclose(here, there, atol=1e-4)


def test_the_server_is_asked_for_the_model_s_own_numbers_and_no_token_more_than_needed(
    server: Server, folder: str, records: str, tmp_path: Path
) -> None:
    assert signal(server, folder, records, tmp_path / "remote") == 0
    tokenizer = load_tokenizer(folder)
    examples = [render(record, tokenizer) for record in read_records(records)]
    sent = {tuple(body["prompt"]) for body in server.bodies[1:]}  # the first is the probe
    assert sent == {ex.token_ids[: max(np.flatnonzero(ex.weight)) + 1] for ex in examples}
    for body in server.bodies:
        assert (body["model"], body["max_tokens"], body["prompt_logprobs"]) == ("tiny", 1, 9)
        assert (body["temperature"], body["top_p"], body["repetition_penalty"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "fault",
    [status(429, Retry_After="0"), status(500), status(503), truncated, cut_off, dropped],
    ids=["429", "500", "503", "truncated", "cut off", "dropped"],
)
def test_a_request_that_failed_is_repeated_and_no_row_is_lost(
    server: Server, folder: str, records: str, tmp_path: Path, fault: Any
) -> None:
    assert signal(server, folder, records, tmp_path / "clean") == 0
    asked = len(server.bodies)
    server.faults = [fault, lambda handler: False, fault, fault]
    assert signal(server, folder, records, tmp_path / "faulty") == 0
    assert len(server.bodies) == 2 * asked + 3
    left, right = (read_signal_manifest(tmp_path / name) for name in ("clean", "faulty"))
    assert left.rows == right.rows == 7 and left.shards == right.shards


def test_a_slow_answer_is_given_up_and_asked_for_again(server: Server, folder: str) -> None:
    server.faults = [slow(1.5)]
    source(server, folder, timeout=0.3).probe()
    assert len(server.bodies) == 2


@pytest.mark.parametrize("asked", ["1", formatdate(time() + 2, usegmt=True)], ids=["seconds", "date"])
def test_retry_after_is_waited_for(server: Server, folder: str, asked: str) -> None:
    server.faults = [status(429, Retry_After=asked)]
    source(server, folder).probe()
    assert 0.8 < server.at[1] - server.at[0] < 10 if asked == "1" else len(server.at) == 2


def test_a_server_that_keeps_failing_stops_the_run_and_the_run_goes_on_later(
    server: Server, folder: str, records: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--kind", "top_k", "--k", "9", "--batch_size", "2", "--concurrency", "1", "--retries", "1", "--shard_mb", "1")
    server.faults = [*[lambda handler: False] * 5, *[status(500)] * 50]
    assert signal(server, folder, records, tmp_path / "remote", *arguments) == 2
    message = capsys.readouterr().err
    assert "failed 2 times, the last time with HTTP 500: " in message and "run the same command again" in message
    server.faults = []
    assert signal(server, folder, records, tmp_path / "remote", *arguments) == 0
    assert read_signal_manifest(tmp_path / "remote").rows == 7


def test_no_more_requests_are_open_at_once_than_asked_for(server: Server, folder: str, records: str, tmp_path: Path) -> None:
    server.pause = 0.05
    assert signal(server, folder, records, tmp_path / "remote", "--kind", "top_k", "--k", "3", "--concurrency", "3") == 0
    assert server.open_most == 3


def drop_logprobs(answer: dict[str, Any]) -> None:
    del answer["choices"][0]["prompt_logprobs"]


def other_tokens(answer: dict[str, Any]) -> None:
    positions = answer["choices"][0]["prompt_logprobs"]
    positions[1:] = [{str(int(id) + 1): entry for id, entry in position.items()} for position in positions[1:]]


def longer(answer: dict[str, Any]) -> None:
    answer["choices"][0]["prompt_logprobs"].insert(1, {"5": {"logprob": -0.1}})


def logits(answer: dict[str, Any]) -> None:
    for position in answer["choices"][0]["prompt_logprobs"][1:]:
        for entry in position.values():
            entry["logprob"] += 20


def other_tokenizer(answer: dict[str, Any]) -> None:
    for position in answer["choices"][0]["prompt_logprobs"][1:]:
        for entry in position.values():
            entry["decoded_token"] = "zebra"


def fewer(answer: dict[str, Any]) -> None:
    for position in answer["choices"][0]["prompt_logprobs"][1:]:
        for id in list(position)[2:]:
            del position[id]


def no_numbers(answer: dict[str, Any]) -> None:
    positions = answer["choices"][0]["prompt_logprobs"]
    positions[1] = dict.fromkeys(positions[1], -1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_logprobs, "answers without prompt_logprobs; .*transformers serve.* vllm serve MODEL --max-logprobs 5"),
        (other_tokens, "read another token than the"),
        (longer, "tokens were sent and .* scored"),
        (logits, "--logprobs-mode raw_logprobs"),
        (other_tokenizer, "has another tokenizer than student"),
        (fewer, "gave 2 numbers.*expected at least 5"),
        (no_numbers, "not vLLM's"),
    ],
)
def test_a_server_that_cannot_do_it_is_found_by_the_first_request(
    server: Server, folder: str, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    server.change = change
    with pytest.raises(TeacherError, match=message):
        source(server, folder).probe()
    assert len(server.bodies) == 1


def test_a_limit_of_the_server_is_told_with_the_remedy(server: Server, folder: str) -> None:
    server.limit = 20
    with pytest.raises(TeacherError, match="greater than max allowed: 20.*--max-logprobs 64 or give a smaller --k"):
        source(server, folder, k=64).probe()


def test_the_key_is_sent_and_written_nowhere(
    folder: str,
    records: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret-value")
    key = ("--kind", "top_k", "--k", "3", "--api_key_env", "THE_KEY")
    with serving(folder, key="s3cret-value") as server, caplog.at_level(logging.DEBUG):
        assert signal(server, folder, records, tmp_path / "remote", *key) == 0
        monkeypatch.setenv("THE_KEY", "wr0ng-value")
        assert signal(server, folder, records, tmp_path / "other", *key) == 2
        server.faults = [status(302, Location=server.url.replace("/v1", "/v2/completions"))]
        assert signal(server, folder, records, tmp_path / "third", *key) == 2
        assert len(server.bodies) == 10  # the redirect was not followed
    said = "".join(capsys.readouterr()) + caplog.text
    written = "".join(file.read_bytes().decode("latin1") for file in tmp_path.rglob("*") if file.is_file())
    assert "HTTP 401: " in said and "invalid key Bearer ***" in said
    for secret in ("s3cret-value", "wr0ng-value"):
        assert secret not in said and secret not in written


def test_settings_that_cannot_work_are_refused_before_a_request(server: Server, folder: str) -> None:
    for change, message in (
        ({"url": "ftp://host/v1"}, "no server's address"),
        ({"url": "http://user:pass@host/v1"}, "holds a key or password"),
        ({"kind": "exact"}, "a server gives top_k or token"),
        ({"key_variable": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
    ):
        with pytest.raises(ConfigError, match=message):
            source(server, folder, **change)
    assert server.bodies == []


def test_tokens_that_the_student_does_not_have_count_to_the_rest(server: Server, folder: str) -> None:
    def pad(answer: dict[str, Any]) -> None:
        for position in answer["choices"][0]["prompt_logprobs"][1:]:
            position["400000"] = {"logprob": -50.0}
            best = max(position, key=lambda id: position[id]["logprob"])
            position["500000"] = position.pop(best) if len(position) > 6 else {"logprob": -60.0}

    example = render(some_records(("France",))[0], load_tokenizer(folder))
    plain = source(server, folder)([example])[0].values
    server.change = pad
    cut = source(server, folder)([example])[0].values
    assert cut["ids"].shape == plain["ids"].shape and int(cut["ids"].long().max()) < 400
    assert all(len(set(row)) == 5 for row in cut["ids"].tolist())
    assert (cut["rest"] >= plain["rest"] - 1e-3).all()


def test_the_rest_of_a_sum_that_rounds_to_one_is_small_and_never_nothing() -> None:
    log_probs = np.log(np.array([[0.9, 0.05, 0.05], [1.0, 1e-30, 1e-35], [0.4, 0.3, 0.2]]))
    log_probs[0, 0] += 1e-7
    rest = log_rest(log_probs, 1000)
    assert np.isfinite(rest).all() and rest[0] < np.log(1e-6) and rest[1] < np.log(1e-30)
    assert rest[2] == pytest.approx(np.log(0.1))
    assert np.isneginf(log_rest(log_probs, 3)).all()


def test_vllm_s_number_for_an_impossible_token_is_none(server: Server, folder: str) -> None:
    def impossible(answer: dict[str, Any]) -> None:
        for position in answer["choices"][0]["prompt_logprobs"][1:]:
            for id in list(position)[-2:]:
                position[id]["logprob"] = -9999.0

    server.change = impossible
    example = render(some_records(("France",))[0], load_tokenizer(folder))
    values = source(server, folder)([example])[0].values
    assert values["log_probs"].isneginf().any(1).any() and values["rest"].isfinite().all()


def test_an_unfinished_error_page_does_not_hide_the_status(server: Server, folder: str) -> None:
    def page(handler: Any) -> bool:
        send(handler, 404, "x" * 5000)
        return True

    server.faults = [page]
    with pytest.raises(TeacherError, match="HTTP 404: .*xxx; check --teacher"):
        source(replace(server), folder).probe()
