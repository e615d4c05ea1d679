"""`transformers serve` with the real small model, without network: it drops much in silence, and has one random state for all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from test_server import ask

from distill.errors import TeacherError
from distill.teachers.base import Sampling
from distill.teachers.huggingface import HuggingFaceTeacher
from distill.teachers.server import ServerTeacher

pytestmark = pytest.mark.slow
PROMPTS = ask("What is the capital of France?", "Name a river in Africa.")


@pytest.fixture(scope="module")
def url(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that is ready (about ten seconds), as a user would start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(smollm2), "--device", "cpu", "--dtype", "float32"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                with urlopen(f"http://localhost:{port}/health", timeout=1):
                    break
            except (URLError, TimeoutError, ConnectionError):
                time.sleep(0.2)
        yield f"http://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def teacher(url: str, smollm2: Path) -> ServerTeacher:
    return ServerTeacher(model=str(smollm2), base_url=url, concurrency=4)


def test_the_server_says_greedily_what_the_model_says_here(teacher: ServerTeacher, smollm2: Path) -> None:
    greedy = Sampling(n=2, temperature=0, max_tokens=10)
    here = HuggingFaceTeacher(model=str(smollm2), dtype="float32").generate(PROMPTS, greedy)
    served = teacher.generate(PROMPTS, greedy)
    assert [[one.text for one in several] for several in served] == [[one.text for one in several] for several in here]
    assert [several[0].finish for several in served] == [several[0].finish for several in here]


def test_it_samples_and_keeps_seeds_whatever_the_concurrency(teacher: ServerTeacher, url: str) -> None:
    # Left to itself it is greedy at any temperature for a model whose own config does not say to sample.
    sampling = Sampling(n=2, max_tokens=6)
    found = teacher.generate(PROMPTS, sampling)
    assert len({one.text for several in found for one in several}) > 2
    assert teacher.generate(PROMPTS[::-1], sampling) == found[::-1]


def test_what_it_drops_in_silence_is_refused_where_it_is_needed(teacher: ServerTeacher, url: str) -> None:
    with pytest.raises(TeacherError, match="gives no log-probabilities .transformers serve drops them."):
        teacher.check(Sampling(max_tokens=4), log_probs=True)
    with pytest.raises(TeacherError, match="no log-probabilities to choose by"):
        teacher.choose(PROMPTS[:1], ["yes", "no"])
    with pytest.raises(TeacherError, match=r"HTTP 400: Server is pinned to"):
        ServerTeacher(model="qwen3", base_url=url).check(Sampling())
