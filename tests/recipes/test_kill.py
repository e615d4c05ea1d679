import json
import random
import shutil
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
from distill.teachers.base import Teacher
folder, log, workers = sys.argv[1], open(sys.argv[2], "a", buffering=1), int(sys.argv[3])

class Asked(Teacher):
    concurrent = True
    def identity(self):
        return {}

def sample(items):
    time.sleep(0.002 * len(items))
    log.write("".join(item.id + "\\n" for item in items))
    shared = ",".join(item.id for item in items)  # what a batch holds shows in its results, as in bfloat16
    texts = [[f"תשובה {item.value} {shared} {k} " * 20 for k in range(5)] for item in items]
    return [Lost("too long") if item.value % 11 == 0 else {"texts": text} for item, text in zip(items, texts)]

def label(items):
    return [Lost("undecided") if len(item.id) == 2 else item.value["texts"][0][:20] for item in items]

with Run(folder, quiet=True, workers=workers) as run:
    items = ((f"q{n}", n) for n in range(300))
    sampled = run.map("sample", items, sample, key={"version": 1}, asks=Asked(), batch_size=8)
    items = ((row.id, row.result) for row in sampled)
    labelled = run.map("label", items, label, key={"version": 1}, asks=Asked(), batch_size=7)
    ask = (Message(role="user", content="מה?"),)
    run.write_records(
        Record(id=row.id, group=row.id, prompt=ask, response=row.result, polarity="positive", evidence=row.value)
        for row in labelled
    )
"""
ROWS = 300


def start(folder: Path, log: Path, workers: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(log), str(workers)])


def rows_logged(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def everything(folder: Path) -> dict[str, bytes]:
    """The bytes of records, card and lost rows (without the time at which they were written), and the rows of the accounts."""
    created = json.loads((folder / "records" / "manifest.json").read_bytes())["created"].encode()
    files = [*(folder / "records").iterdir(), folder / "lost.jsonl"]
    found = {file.name: file.read_bytes().replace(created, b"") for file in files}
    stages = json.loads((folder / "summary.json").read_bytes())["stages"]
    return found | {stage["name"]: repr([stage["in"], stage["out"], stage["lost"]]).encode() for stage in stages}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, bytes], float, Path]:
    folder = tmp_path_factory.mktemp("whole")
    begun = time.monotonic()
    assert start(folder / "run", folder / "log", 1).wait() == 0
    return everything(folder / "run"), time.monotonic() - begun, folder


@pytest.mark.parametrize("workers", [1, 4])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, whole, workers):
    wanted, seconds, _ = whole
    chance = random.Random(workers)
    log = tmp_path / "log"
    for _ in range(2):  # while sampling: after so many more rows, on a machine of any speed
        done = rows_logged(log) + chance.randint(1, 70)
        process = start(tmp_path / "run", log, workers)
        while rows_logged(log) < done and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for _ in range(2):  # anywhere: while loading, labelling, writing, or after the end
        process = start(tmp_path / "run", log, workers)
        time.sleep(chance.uniform(0.2, 0.95) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "run", log, workers).wait() == 0
    assert everything(tmp_path / "run") == wanted
    # Nothing that was kept is done again: each kill costs the batches that were under way at worst.
    assert ROWS <= rows_logged(log) <= ROWS + 8 * workers * 4


def test_a_finished_run_started_again_changes_nothing_and_computes_nothing(tmp_path, whole):
    shutil.copytree(whole[2], tmp_path, dirs_exist_ok=True)
    assert start(tmp_path / "run", tmp_path / "log", 4).wait() == 0
    assert everything(tmp_path / "run") == whole[0]
    assert rows_logged(tmp_path / "log") == ROWS
