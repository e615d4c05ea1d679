import os
import signal
import subprocess
import sys
import time

import pytest

from distill.errors import ConfigError, RecipeError, RecordError
from distill.recipes import Lost, Run
from distill.recipes.stage import Seen

HOLD = "import sys, time; from distill.recipes import Run; run = Run(sys.argv[1]); print('held', flush=True); time.sleep(60)"


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def double(items):
    return [2 * item.value for item in items]


def test_a_folder_has_one_writer_and_a_dead_one_is_no_writer(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(RecipeError, match=f"being written by process {process.pid}; wait for it"):
            Run(tmp_path)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    Run(tmp_path).close()


def test_a_closed_run_lets_the_next_one_in_also_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(tmp_path):
        1 / 0  # noqa: B018 (it is there to raise)
    with Run(tmp_path):
        pass


def test_fresh_sets_results_aside_and_resume_never_refuses_them(tmp_path, capsys):
    with Run(tmp_path, quiet=True) as run:
        list(run.map("ask", [("a", 1)], double, key={}))
    with pytest.raises(RecipeError, match="already holds results"):
        Run(tmp_path, resume="never")
    with Run(tmp_path, fresh=True) as run:
        assert [row.result for row in run.map("ask", [("a", 1)], lambda items: ["new"], key={})] == ["new"]
    assert "stages.old1" in capsys.readouterr().err
    assert len(list((tmp_path / "stages.old1").iterdir())) == 1
    Run(tmp_path / "another", resume="never").close()


def test_counts_are_shown_and_stored(tmp_path):
    with Run(tmp_path, quiet=True) as run:
        list(run.map("ask", [("a", 1)], double, key={}))
        for label in ("uncertain", "answerable", "uncertain"):
            run.count("label", label)
        assert "label: 2 uncertain, 1 answerable" in run.finish()
    assert run.accounts()["counts"] == {"label": {"answerable": 1, "uncertain": 2}}


def test_a_run_without_a_folder_keeps_nothing_and_refuses_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Run(None, quiet=True, max_batch=2) as run:
        sizes = []
        list(run.map("ask", [(str(n), n) for n in range(5)], lambda items: sizes.append(len(items)) or double(items), key={}))
        assert sizes == [2, 2, 1]
        with pytest.raises(RecipeError, match="a preview has no folder"):
            run.write_records([])
    assert not list(tmp_path.iterdir())


def test_where_no_row_became_a_record_the_accounts_are_written_before_the_error(tmp_path, capsys):
    with Run(tmp_path) as run:
        rows = run.map("ask", [("a", 1)], lambda items: [Lost("too hard") for _ in items], key={})
        with pytest.raises(RecordError, match="no records to write"):
            run.write_records(row.result for row in rows)
    assert "1 too hard" in capsys.readouterr().err and "too hard" in (tmp_path / "lost.jsonl").read_text()


MEMORY = """
import sys
from distill.recipes import Lost, Run
import numpy
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024  # MB
def work(items): return [{"text": "x" * 10000, "n": item.value} for item in items]
before = peak()
with Run(sys.argv[1], quiet=True) as run:
    rows = run.map("ask", ((f"q{n}", n) for n in range(6000)), work, key={}, batch_size=16)
    chained = run.map("again", ((row.id, row.result["n"]) for row in rows), work, key={}, batch_size=16)
    assert sum(1 for row in chained) == 6000
    run.finish()
print(peak() - before)
"""


def test_how_many_rows_a_run_takes_is_bounded_by_its_limit_which_is_at_least_one():
    with Run(None, quiet=True) as run:
        assert [run.total("abc", limit) for limit in (None, 2, 9)] == [3, 2, 3]
        with pytest.raises(ConfigError, match="limit is 0: give at least 1 word, or leave it out for all of them"):
            run.total("abc", 0, of="word")


def test_memory_does_not_hold_the_results(tmp_path):
    for _ in ("first", "resumed"):
        start = time.monotonic()
        grown = int(
            subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True).stdout
        )
        size = sum(file.stat().st_size for file in (tmp_path / "stages").iterdir()) / 2**20
        assert size > 110 and grown < 50, (grown, size, time.monotonic() - start)


def test_ids_are_known_again_however_many_there_are_at_8_bytes_each():
    seen = Seen()
    assert all(seen.add(f"q{number}") for number in range(200_000))
    assert len(seen._latest) <= 1 << 16 and seen._older.itemsize == 8
    assert not any(seen.add(f"q{number}") for number in range(0, 200_000, 100))
    assert seen.add("another")
