"""`distill predict` as a user types it: with a checkpoint and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.cli.training import train

pytestmark = pytest.mark.filterwarnings("ignore")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_predict_writes_its_file_with_a_checkpoint_and_without(
    tiny_model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    common = {"group": "fr", "prompt": prompt}
    rows = [
        {"id": "right", "polarity": "positive", "response": "Paris", **common},
        {"id": "wrong", "polarity": "negative", "response": "Lyon is the one", **common},
    ]
    Path("records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    common_options = ["--data.train=records.jsonl", "--trainer.default_root_dir=run", "--trainer.precision=32-true", *quiet]
    student = f"--model.student={tiny_model_folder('llama')}"
    objective = "--model.objectives.say=Likelihood"

    assert train(["predict", student, objective, *common_options]) == 0
    before = lines(Path("run/predictions.jsonl"))
    assert [line["id"] for line in before] == ["right", "wrong"]
    assert not Path("run/metrics.jsonl").exists() and not Path("run/checkpoints").exists()

    steps = ["--model.learning_rate=0.01", "--trainer.max_epochs=5", "--trainer.log_every_n_steps=1"]
    assert train(["fit", student, objective, *common_options, *steps]) == 0
    # The student and its objectives come from the checkpoint.
    options = ["--ckpt_path=run/checkpoints/last.ckpt", "--out=elsewhere/after.jsonl"]
    assert train(["predict", *common_options, *options]) == 0
    after = lines(Path("elsewhere/after.jsonl"))
    assert after[0]["log_prob"] > before[0]["log_prob"] + 1
    assert lines(Path("run/predictions.jsonl")) == before
