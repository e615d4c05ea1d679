"""What a run uses is counted over all its starts, and a budget ends it between two batches."""

import json
from pathlib import Path

import pytest
from remote import Remote

from distill.errors import ConfigError, RecipeError, TeacherError
from distill.recipes import Ask, Lost, Run, generate
from distill.recipes.command import run_recipe
from distill.recipes.spending import NOT_ASKED, Budget
from distill.records import Message
from distill.records.manifest import read_manifest
from distill.teachers.base import Price, Sampling, Usage

SHOUT = str(Path(__file__).parent / "shout.py")
TEXTS = [f"question {number}" for number in range(100)]


def answers(folder, teacher: Remote, *, texts=TEXTS, **options) -> tuple[list[str], Run]:
    """Each answer costs 0.02 and 110 tokens; four are asked together."""
    with Run(folder, quiet=True, **options) as run:
        asks = [Ask(text, (Message(role="user", content=text),)) for text in texts]
        rows = [one.id for one in generate(run, "ask", asks, teacher, Sampling(), batch_size=4)]
        run.finish()
        return rows, run


def test_usage_is_that_of_the_teachers_and_is_summed_over_restarts(tmp_path):
    with pytest.raises(TeacherError):
        answers(tmp_path, Remote(refuses="question 41", delay=0.002))
    rows, _ = answers(tmp_path, again := Remote())
    summary = json.loads((tmp_path / "summary.json").read_text())
    usage = summary["stages"][0]["usage"]
    assert len(rows) == 100 and 20 < len(again.asked) <= 64
    assert usage["requests"] == 104, "the batch that failed was paid for too"
    assert usage == {"requests": 104, "prompt_tokens": 10400, "completion_tokens": 1040, "cost": pytest.approx(2.08)}
    assert summary["total"]["usage"] == usage and summary["stages"][0]["seconds"] > 0
    _, finished = answers(tmp_path, idle := Remote())
    assert idle.asked == [] and finished.accounts()["total"]["usage"] == usage


def test_a_teacher_in_two_stages_is_counted_once(tmp_path):
    teacher = Remote(delay=0.001)
    with Run(tmp_path, quiet=True, workers=4) as run:
        asks = (Ask(text, (Message(role="user", content=text),)) for text in TEXTS)
        first = generate(run, "one", asks, teacher, Sampling(), batch_size=4)
        second = (Ask(one.id, (Message(role="user", content=one.completions[0].text),)) for one in first)
        assert len(list(generate(run, "two", second, teacher, Sampling(), batch_size=4))) == 100
        run.finish()
    total = run.accounts()["total"]["usage"]
    assert total["requests"] == 200 == sum(stage["usage"]["requests"] for stage in run.accounts()["stages"])
    assert "in all" in run.table()


def test_what_a_teacher_did_for_others_is_not_counted():
    teacher = Remote()
    answers(None, teacher)
    _, run = answers(None, teacher, texts=TEXTS[:8])
    assert run.accounts()["total"]["usage"]["requests"] == 8


def test_a_teacher_that_does_not_count_has_the_tokens_of_its_answers():
    class Silent(Remote):
        def usage(self) -> Usage:
            return Usage()

    _, run = answers(None, Silent(price=None))
    assert run.accounts()["total"]["usage"] == {"requests": 0, "prompt_tokens": 0, "completion_tokens": 1000, "cost": 0.0}
    assert "tokens out" in run.table() and "cost" not in run.table()


def test_what_earlier_settings_cost_is_in_the_total_and_in_the_budget(tmp_path):
    answers(tmp_path, Remote(model="first"), texts=TEXTS[:40])
    rows, run = answers(tmp_path, Remote(model="second"), texts=TEXTS[:40], workers=1, max_cost=1.0)
    assert len(rows) == 12, "0.80 was spent, and 0.08 a batch"
    assert run.accounts()["total"]["usage"]["requests"] == 52 and "with earlier settings" in run.table()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_spent_budget_begins_no_batch_counts_what_is_left_and_a_larger_one_goes_on(tmp_path, workers):
    rows, run = answers(tmp_path, teacher := Remote(delay=0.002), workers=workers, max_cost=0.5)
    asked = len(teacher.asked)
    assert 25 < asked <= 28 + 4 * (workers - 1) and len(rows) == asked
    assert run.not_asked == 100 - asked
    lost = [json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in lost} == {NOT_ASKED} and len(lost) == run.not_asked
    again, run = answers(tmp_path, nothing := Remote(), workers=workers, max_cost=0.5)
    assert again == rows and nothing.asked == [] and run.not_asked == len(lost), "spent is spent, also by an earlier start"
    rows, run = answers(tmp_path, more := Remote(), workers=workers, max_cost=50.0)
    assert rows == TEXTS and run.not_asked == 0 and sorted(teacher.asked + more.asked) == sorted(TEXTS)


def test_rows_that_are_kept_are_given_out_also_where_the_budget_is_spent(tmp_path):
    answers(tmp_path, Remote(), texts=TEXTS[60:80])
    rows, run = answers(tmp_path, Remote(), workers=1, max_tokens=20 * 110 + 1)
    assert rows == [*TEXTS[:4], *TEXTS[60:80]] and run.not_asked == 76


def test_money_spent_does_not_stop_a_teacher_that_costs_none(tmp_path):
    here = Remote(model="here", concurrent=False, price=None)
    with Run(tmp_path, quiet=True, workers=1, max_cost=0.3) as run:
        asks = [Ask(text, (Message(role="user", content=text),)) for text in TEXTS]
        paid = list(generate(run, "paid", asks, Remote(), Sampling(), batch_size=4))
        free = list(generate(run, "free", [Ask(one.id, one.prompt) for one in paid], here, Sampling(), batch_size=4))
        assert len(paid) == len(free) == 16
        run.finish()


def test_a_budget_in_money_needs_a_price_where_a_teacher_may_be_paid_for():
    with pytest.raises(RecipeError, match="max_cost needs prices, and Remote has none: set its price .*max_tokens_total"):
        answers(None, Remote(price=None), max_cost=1.0)
    answers(None, Remote(price=Price()), max_cost=1.0)


@pytest.mark.parametrize("options", [{"max_cost": 0.0}, {"max_cost": float("nan")}, {"max_tokens": 0}])
def test_a_budget_of_nothing_is_refused(options):
    with pytest.raises(RecipeError, match="give a"):
        Budget(**options)


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text("".join(json.dumps({"id": text, "prompt": text}) + "\n" for text in TEXTS))
    return ["--prompts", "q.jsonl", "--teacher", "remote.Remote", "--workers", "2"]


def test_the_command_ends_with_3_where_the_budget_is_spent_and_says_how_to_go_on(command, capsys):
    assert run_recipe(SHOUT, [*command, "--max_cost", "0.5", "--out", "run"]) == 3
    out, err = capsys.readouterr()
    manifest = read_manifest("run/records")
    assert 26 <= manifest.rows <= 36 and manifest.lost == {NOT_ASKED: 100 - manifest.rows}
    assert manifest.usage["cost"] == pytest.approx(manifest.rows * 0.02) and manifest.usage["requests"] == manifest.rows
    said = err.splitlines()[-1]
    assert f"{100 - manifest.rows} rows were not asked. Go on with the same command and a larger one: distill recipe" in said
    assert said.count("--max_cost") == 1 and said.split()[-2] == "--max_cost" and float(said.split()[-1]) > 1
    assert "cost" in out and f"{100 - manifest.rows} {NOT_ASKED}" in out
    assert run_recipe(SHOUT, [*command, "--max_cost", "50", "--out", "run"]) == 0
    assert read_manifest("run/records").rows == 100 and read_manifest("run/records").usage["cost"] == pytest.approx(2.0)


def test_a_budget_spent_before_the_first_record_is_no_error_but_the_same_end(command, capsys):
    assert run_recipe(SHOUT, [*command, "--max_tokens_total", "1", "--out", "run", "--teacher.model", "one"]) == 3
    assert run_recipe(SHOUT, [*command, "--max_tokens_total", "1", "--out", "run", "--teacher.model", "two"]) == 3
    assert "100 rows were not asked" in capsys.readouterr().err


def test_the_command_refuses_a_budget_that_nothing_is_counted_against(command):
    for options in (["--teacher.price", "null"], ["--teacher.price", "null", "--teacher.concurrent", "false"]):
        with pytest.raises((ConfigError, RecipeError), match="max_cost needs prices"):
            run_recipe(SHOUT, [*command, *options, "--max_cost", "1", "--out", "run"])
    assert not Path("run/config.yaml").exists()


def test_lost_rows_of_a_budget_are_lost_beside_others(tmp_path):
    with Run(tmp_path, quiet=True, workers=1, max_cost=0.5) as run:
        rows = run.map("ask", [(text, text) for text in TEXTS], lambda items: [Lost("blank")] * len(items), key={}, asks=Remote())
        assert list(rows) == [] and run.finish() and run.not_asked == 0
