import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Two chained stages with losses in both, slow enough to be hit anywhere: while loading, sampling, labelling or writing.
SCRIPT = """
import sys, time
from distill.recipes import Lost, Run
from distill.records import Message, Record
folder, log = sys.argv[1], open(sys.argv[2], "a", buffering=1)

def sample(items):
    time.sleep(0.002 * len(items))
    log.write("".join(item.id + "\\n" for item in items))
    shared = ",".join(item.id for item in items)  # what a batch holds shows in its results, as in bfloat16
    texts = [[f"תשובה {item.value} {shared} {k} " * 20 for k in range(5)] for item in items]
    return [Lost("too long") if item.value % 11 == 0 else {"texts": text} for item, text in zip(items, texts)]

def label(items):
    return [Lost("undecided") if len(item.id) == 2 else item.value["texts"][0][:20] for item in items]

with Run(folder, quiet=True) as run:
    sampled = run.map("sample", ((f"q{n}", n) for n in range(300)), sample, key={"version": 1}, batch_size=8)
    labelled = run.map("label", ((row.id, row.result) for row in sampled), label, key={"version": 1}, batch_size=7)
    ask = (Message(role="user", content="מה?"),)
    run.write_records(
        Record(id=row.id, group=row.id, prompt=ask, response=row.result, polarity="positive", evidence=row.value)
        for row in labelled
    )
"""
ROWS = 300


def start(folder: Path, log: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(log)])


def rows_logged(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def everything(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, without the time at which manifest and card were written."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    created = json.loads((folder / "records" / "manifest.json").read_bytes())["created"].encode()
    return {str(file.relative_to(folder)): file.read_bytes().replace(created, b"") for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, bytes], float]:
    folder = tmp_path_factory.mktemp("whole")
    begun = time.monotonic()
    assert start(folder / "run", folder / "log").wait() == 0
    return everything(folder / "run"), time.monotonic() - begun


@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, whole, seed):
    wanted, seconds = whole
    chance = random.Random(seed)
    log = tmp_path / "log"
    for _ in range(4):  # while sampling: after so many more rows, on a machine of any speed
        done = rows_logged(log) + chance.randint(1, 60)
        process = start(tmp_path / "run", log)
        while rows_logged(log) < done and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for _ in range(2):  # anywhere: while loading, labelling, writing, or after the end
        process = start(tmp_path / "run", log)
        time.sleep(chance.uniform(0.2, 0.95) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "run", log).wait() == 0
    assert everything(tmp_path / "run") == wanted
    # Nothing that was kept is done again: each kill costs one batch of 8 at worst.
    assert ROWS <= len((tmp_path / "log").read_text().split()) <= ROWS + 8 * 6


def test_a_finished_run_started_again_changes_nothing_and_computes_nothing(tmp_path, whole):
    for _ in range(2):
        assert start(tmp_path / "run", tmp_path / "log").wait() == 0
        assert everything(tmp_path / "run") == whole[0]
    assert len((tmp_path / "log").read_text().split()) == ROWS
