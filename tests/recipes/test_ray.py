"""Ray Data as the engine: two workers on this machine, the same bytes as without it."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distill.errors import ConfigError, RecipeError, TeacherError
from distill.judges.base import Judge, Verdict
from distill.recipes import Ask, Claim, Run, generate, judge, ray_stage
from distill.recipes.cache import StageCache
from distill.recipes.command import run_recipe
from distill.recipes.ray_stage import RayEngine
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Generator, Price, Sampling, Usage

HERE = Path(__file__).parent
SAMPLING = Sampling(n=2, max_tokens=8)
TWO = RayEngine(workers=2)


@dataclass(frozen=True, kw_only=True)
class Echo(Generator):
    """Says the question again after `pause`; loses every seventh, dies of `bad`; `log`: who was asked what."""

    log: Path = field(compare=False)
    bad: str = ""
    pause: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        self.__dict__["asked"] = 0

    def identity(self) -> Mapping[str, str]:
        return {"model": "echo"}

    @property
    def price(self) -> Price:
        return Price(output=1e6)

    def usage(self) -> Usage:
        return Usage(
            requests=self.__dict__["asked"], completion_tokens=4 * self.__dict__["asked"], cost=4.0 * self.__dict__["asked"]
        )

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        time.sleep(self.pause)
        out = []
        for prompt in prompts:
            text = prompt[-1].content
            if text == self.bad:
                raise TeacherError(f"{text} is too much")
            self.__dict__["asked"] += 1
            with open(self.log / f"{os.getpid()}", "a") as file:
                file.write(text + "\n")
            said = [Completion(text=f"{text}\u2028{n}", tokens=2, finish="stop", log_prob=-0.1) for n in range(sampling.n)]
            out.append([] if int(text) % 7 == 0 else said)
        return out


@dataclass(frozen=True, kw_only=True)
class Even(Judge):
    """Approves even numbers. Once used, it holds what no other process could take over."""

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        self.__dict__["_loaded"] = lambda: None
        return Verdict(approved=int(prompt[-1].content) % 2 == 0)


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def asked(log):
    return {file.name: file.read_text().split() for file in log.iterdir()}


def rows_of(count):
    return [Ask(f"q{n}", (Message(role="user", content=str(n)),), {"n": n}) for n in range(count)]


def answers(folder, log, engine=None, *, rows=40, **options):
    """What two stages make of numbers: each with what was said of it and whether that is approved; and the accounts."""
    settings = {name: options.pop(name) for name in ("bad", "pause") if name in options}
    asks = rows_of(rows)
    even = Even()
    even.judge(rows_of(1)[0].prompt, "")
    with Run(folder, quiet=True, engine=engine, **options) as run:
        answered = generate(run, "ask", asks, Echo(log=log, **settings), SAMPLING, batch_size=4)
        claims = (Claim(one.id, one.prompt, one.completions[0].text, carried=one.carried) for one in answered)
        judged = judge(run, "even", claims, even)
        found = [(one.claim.id, one.claim.response, one.verdict.approved, one.claim.carried) for one in judged]
        run.finish()
        return found, {**run.accounts(), "not asked": run.not_asked}


def without_seconds(accounts):
    for part in (accounts["total"], *accounts["stages"]):
        part["seconds"] = 0
    return accounts


@pytest.fixture
def without_ray(monkeypatch):
    """The same stage with its workers in this process: batches come back in another order, and nothing has to be started."""

    def done(stage, work, engine, batches, count):
        workers = [ray_stage._Worker(stage, pickle.dumps(ray_stage._settings_of(work)), []) for _ in range(engine.workers)]
        lines = batches.read_text().splitlines()
        assert len(lines) == count
        for number, line in reversed(list(enumerate(lines))):
            yield ray_stage._read(workers[number % len(workers)].do(json.loads(line)))

    monkeypatch.setattr(ray_stage, "_done", done)
    monkeypatch.setattr(ray_stage.Cluster, "join", lambda self: "")


@pytest.mark.slow  # Ray takes seconds to start
def test_two_workers_of_ray_give_the_rows_accounts_and_bytes_that_one_process_gives(tmp_path, log, capfd):
    rows, accounts = answers(tmp_path / "here", log)
    here = asked(log)
    for file in log.iterdir():
        file.unlink()
    theirs, their_accounts = answers(tmp_path / "ray", log, TWO, pause=0.1)  # long enough for the second one to start
    there = asked(log)
    assert theirs == rows
    assert without_seconds(their_accounts) == without_seconds(accounts)
    assert (tmp_path / "ray/lost.jsonl").read_bytes() == (tmp_path / "here/lost.jsonl").read_bytes()
    assert str(os.getpid()) not in there and sorted(sum(there.values(), [])) == sorted(sum(here.values(), []))
    assert len(there) == 2, "one teacher for each worker"
    # What the workers did is in the cache: a run without them goes on with it, and asks nothing.
    again, _ = answers(tmp_path / "ray", log)
    assert again == rows and asked(log) == there
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_again_only_what_was_under_way(tmp_path, log):
    expected, _ = answers(tmp_path / "here", log)
    for file in log.iterdir():
        file.unlink()
    code = (
        "import sys; from pathlib import Path; import test_ray\n"
        "test_ray.answers(Path(sys.argv[1]), Path(sys.argv[2]), test_ray.TWO, pause=0.2)\n"
    )
    path = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run"), str(log)], env=path, cwd=tmp_path)
    while sum(map(len, asked(log).values())) < 16:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    rows, _ = answers(tmp_path / "run", log)
    assert rows == expected
    assert len(sum(asked(log).values(), [])) <= 40 + 6 * 4, "a batch of each worker, and what had not come back"


def test_a_recipe_writes_the_same_shards_whatever_the_engine(tmp_path, monkeypatch, without_ray):
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("known\nunknown\nunsure\nrefuses\n")
    options = ["--prompts", "q.txt", "--teacher", "parrot.Parrot", "--batch_size", "1"]
    assert run_recipe("idk_consensus", [*options, "--out", "here"]) == 0
    assert run_recipe("idk_consensus", [*options, "--out", "ray", "--engine", "ray", "--workers", "2"]) == 0
    shards = [{file.name: file.read_bytes() for file in Path(name, "records").glob("*.parquet")} for name in ("here", "ray")]
    assert shards[0] == shards[1] != {}
    manifests = [json.loads(Path(name, "records/manifest.json").read_text()) for name in ("here", "ray")]
    assert manifests[0]["recipe_hash"] == manifests[1]["recipe_hash"]


def test_rows_are_in_order_whatever_the_order_in_which_batches_come_back(tmp_path, log, without_ray):
    rows, accounts = answers(tmp_path / "here", log)
    theirs, their_accounts = answers(tmp_path / "ray", log, TWO, pause=0.1)  # long enough for the second one to start
    assert theirs == rows and without_seconds(their_accounts) == without_seconds(accounts)
    assert not [file for file in (tmp_path / "ray").iterdir() if file.name.endswith(".batches")]


def test_a_teachers_error_reaches_the_caller_and_what_came_back_before_is_kept(tmp_path, log, without_ray):
    with pytest.raises(TeacherError, match="8 is too much"):
        answers(tmp_path / "run", log, TWO, bad="8")
    before = sum(asked(log).values(), [])
    assert len(before) == 28, "the last seven batches came first"
    rows, _ = answers(tmp_path / "run", log)
    assert len(rows) == 34 and len(sum(asked(log).values(), [])) == 40, "only what is missing"


def test_a_batch_that_failed_has_cost_something_too(tmp_path, log, without_ray):
    with pytest.raises(TeacherError, match="9 is too much"):
        answers(tmp_path / "run", log, TWO, bad="9")
    with Run(tmp_path / "run", quiet=True) as run:
        assert run.spent.usage.requests == len(sum(asked(log).values(), [])) == 29, "28 of whole batches, and one of the failed"


@pytest.mark.parametrize("max_cost", [None, 160.0])
def test_a_result_that_cannot_be_read_back_is_no_row_that_was_not_asked(tmp_path, log, without_ray, monkeypatch, max_cost):
    answers(tmp_path / "run", log, TWO)

    def damaged(items):
        monkeypatch.setattr(StageCache, "get", lambda self, named: None)
        return unpickled(items)

    unpickled = ray_stage._unpickled
    monkeypatch.setattr(ray_stage, "_unpickled", damaged)
    with pytest.raises(RecipeError, match="item 'q0': its result was kept and cannot be read back"):
        answers(tmp_path / "run", log, TWO, max_cost=max_cost)


def test_a_budget_stops_the_workers_and_a_larger_one_goes_on(tmp_path, log, without_ray):
    _, accounts = answers(tmp_path / "run", log, TWO, max_cost=64.0)
    assert accounts["not asked"] == 24 and accounts["total"]["usage"]["cost"] == 64
    rows, accounts = answers(tmp_path / "run", log, TWO)
    assert len(rows) == 34 and accounts["not asked"] == 0 and len(sum(asked(log).values(), [])) == 40


def test_rows_lost_to_workers_are_done_again_on_demand(tmp_path, log, without_ray):
    answers(tmp_path / "run", log, TWO)
    answers(tmp_path / "run", log, TWO, retry_lost=True)
    assert len(sum(asked(log).values(), [])) == 46


def test_what_cannot_be_written_to_disk_is_refused_with_its_item(tmp_path, log, without_ray):
    asks = [Ask("q1", (Message(role="user", content="1"),), lambda: None)]
    with Run(tmp_path / "run", quiet=True, engine=TWO) as run, pytest.raises(RecipeError, match="item 'q1': what it carries"):
        list(generate(run, "ask", asks, Echo(log=log), SAMPLING))


def test_an_engine_without_workers_is_refused():
    with pytest.raises(ConfigError, match="at least 1 worker"):
        RayEngine(workers=0)
