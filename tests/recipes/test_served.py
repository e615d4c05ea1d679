"""A recipe's command with a server: an address is enough, and what is wrong with the server is told before a row is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "teachers"))
from chat_server import Server, serving

from distill.cli import main
from distill.judges.base import Judge
from distill.recipes.served import SERVER, with_server_classes
from distill.teachers.base import Generator

COMMAND = ["recipe", "idk_consensus", "--prompts", "q.jsonl", "--sampling.max_tokens", "4"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": str(place), "prompt": f"Question {place}?"}) for place in range(5)]
    Path("q.jsonl").write_text("\n".join(lines))
    with serving(models=("qwen3",)) as running:
        yield running


def build(*, teacher: Generator, student: Generator | None = None, judge: Judge, prompts: str) -> None:
    """What a recipe may take."""


def test_an_address_alone_means_a_server() -> None:
    url = ["--teacher.base_url", "http://localhost/v1"]
    assert with_server_classes(build, ["--limit", "1", *url]) == ["--limit", "1", "--teacher", SERVER, *url]
    for name in ("student", "judge.teacher"):
        given = [f"--{name}.model=qwen3", f"--{name}.base_url=http://localhost/v1"]
        assert with_server_classes(build, given) == [f"--{name}", SERVER, *given]


@pytest.mark.parametrize("given", [["--teacher", "X"], ["--teacher=X"], ["--teacher.class_path", "X"]])
def test_a_class_that_is_named_stays(given: list[str]) -> None:
    arguments = [*given, "--teacher.base_url", "http://localhost/v1"]
    assert with_server_classes(build, arguments) == arguments


def test_a_parameter_that_takes_no_teacher_stays() -> None:
    assert with_server_classes(build, ["--prompts.base_url", "x"]) == ["--prompts.base_url", "x"]


def test_the_class_of_a_config_stays_where_it_has_an_address(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    arguments = ["--config", str(config), "--teacher.base_url", "http://localhost/v1"]
    for kind, stays in ((SERVER, True), ("distill.teachers.huggingface.HuggingFaceTeacher", False)):
        config.write_text(yaml.safe_dump({"teacher": {"class_path": kind, "init_args": {"model": "m"}}}))
        assert (with_server_classes(build, arguments) == arguments) is stays


def test_a_preview_with_a_server_prints_records_and_asks_no_more_than_it_needs(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--teacher.base_url", server.url, "--teacher.model", "qwen3", "--preview", "2"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert not server.asked("Question 4?")


def test_a_run_with_a_server_counts_its_cost_and_gives_the_same_bytes_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_KEY", "sk-very-secret-0123456789")
    server.key = "sk-very-secret-0123456789"
    given = ["--teacher.base_url", server.url, "--teacher.model", "qwen3", "--teacher.api_key_env", "TOY_KEY"]
    given += ["--teacher.price.input", "1", "--teacher.price.output", "2"]
    for out, more in (("one", []), ("two", ["--teacher.concurrency", "1", "--batch_size", "1"])):
        assert main([*COMMAND, *given, *more, "--out", out]) == 0
    assert "cost" in capsys.readouterr().out
    one, two = (sorted(Path(out, "records").glob("*.parquet")) for out in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two] and one
    kept = [file for out in ("one", "two") for file in Path(out).rglob("*") if file.is_file()]
    assert len(kept) > 6 and not [file for file in kept if b"very-secret" in file.read_bytes()]


def test_a_dry_run_says_what_the_server_can_and_what_it_cannot(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.drops = frozenset({"response_format"})
    assert main([*COMMAND, "--teacher.base_url", server.url, "--teacher.model", "qwen3", "--dry_run", "true"]) == 0
    said = capsys.readouterr().out
    assert "qwen3 can: n, log_probs, top_log_probs (17)" in said and "qwen3 cannot: json_schema" in said


def test_a_model_that_is_not_served_is_told_with_those_that_are(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--teacher.base_url", server.url, "--teacher.model", "qwen4", "--out", "run"]) == 2
    assert "it serves qwen3" in capsys.readouterr().err and not list(Path("run").rglob("*.parquet"))
