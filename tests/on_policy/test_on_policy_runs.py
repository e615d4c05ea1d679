"""On-policy training from outside: the shipped configs start on records alone, mistakes are refused, processes agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from distill.data import RecordDataModule
from distill.errors import ConfigError
from distill.judges import ExactMatch
from distill.objectives import Likelihood, Unlikelihood
from distill.on_policy import JudgeMarker, OnPolicy
from distill.student.module import StudentModule
from distill.teachers.decoding import inference

CONFIGS = ("gkd", "minillm", "on_policy_judge", "repetition")
pytestmark = pytest.mark.filterwarnings("ignore")


def write_records(path: Path, questions: int = 8) -> str:
    lines = [
        {
            "id": f"g{i}+",
            "group": f"g{i}",
            "prompt": [{"role": "user", "content": f"Capital of {'Xy' * (1 + i % 3)}{i}?"}],
            "response": "I know." if i % 2 else "No.",
            "polarity": "positive",
        }
        for i in range(questions)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def run(config: str, tmp_path: Path, student: str, *more: str) -> list[dict[str, float]]:
    from distill.cli.configs import config_arguments
    from distill.cli.training import train

    records = write_records(tmp_path / "records.jsonl")
    teacher = [f"--model.teacher.model={student}"] if config in ("gkd", "minillm") else []
    options = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    args = ["fit", "--config", config, f"--model.student={student}", f"--data.train={records}", *teacher, *options]
    train(config_arguments([*args, f"--trainer.default_root_dir={tmp_path / 'run'}", *more]))
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_shipped_config_starts_with_a_student_and_records_alone(config: str, tmp_path: Path, llama: str) -> None:
    lines = run(config, tmp_path, llama, "--data.on_policy.max_tokens=8", "--data.batch_size=4")
    assert len(lines) == 2 and all(line["train/own_generated"] >= 4 for line in lines)
    assert all("train/loss" in line for line in lines)


def test_a_misspelt_setting_of_the_loop_is_refused_with_the_right_one(tmp_path: Path, llama: str) -> None:
    with pytest.raises(ConfigError, match="did you mean every_n_epochs"):
        run("gkd", tmp_path, llama, "--data.on_policy.every_n_epoch=2")
    with pytest.raises(ConfigError, match="did you mean AllNegative"):
        run("gkd", tmp_path, llama, "--data.on_policy.marker=AllNegativ")


def test_a_judge_is_named_on_the_command_line(tmp_path: Path, llama: str) -> None:
    found = run("on_policy_judge", tmp_path, llama, "--data.on_policy.max_tokens=8", "--data.on_policy.marker.judge=ExactMatch")
    assert found[0]["train/own_negative"] == found[0]["train/own_generated"], "a random model says nothing that is accepted"


def test_generation_under_autocast_casts_each_weight_once(llama: str) -> None:
    # Autocast forgets the cast weights in inference mode, and every token would cast them anew.
    from distill.models import load_model

    model = load_model(llama, dtype="float32")
    with inference(model):
        assert torch.is_inference_mode_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16), inference(model):
        assert not torch.is_inference_mode_enabled() and not torch.is_grad_enabled()


class SavedBatches(Callback):
    """What every process was given, on disk, since the processes share nothing else."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        name = f"{trainer.current_epoch}-{batch_idx}-{trainer.global_rank}.json"
        targets = batch.targets
        said = [targets.token_N[targets.sequence_N == place].tolist() for place in range(len(batch.record_ids))]
        Path(self.folder, name).write_text(json.dumps([*zip(batch.record_ids, said, strict=True)]))


@pytest.mark.slow
def test_two_processes_train_on_the_samples_of_one(tmp_path: Path, llama: str) -> None:
    records = write_records(tmp_path / "records.jsonl", questions=9)
    said: dict[int, list[Any]] = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        on_policy = OnPolicy(share=0.6, samples=2, max_tokens=6, marker=JudgeMarker(judge=ExactMatch()))
        objectives = {"up": Likelihood(own_samples=True), "down": Unlikelihood()}
        Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp_spawn" if devices == 2 else "auto",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[SavedBatches(str(folder))],
        ).fit(
            StudentModule(student=llama, objectives=objectives, learning_rate=0.0, schedule="constant"),
            datamodule=RecordDataModule(
                train=records, student=llama, on_policy=on_policy, batch_size=4 // devices, protect_tokens=False
            ),
        )
        said[devices] = [
            sorted(one for file in folder.glob(f"{epoch}-*.json") for one in json.loads(file.read_text())) for epoch in range(2)
        ]
    # A rank without a question in the last batch gets an unsupervised example, which has no token.
    for one, two in zip(said[1], said[2], strict=True):
        assert one == [entry for entry in two if entry[1]]
        assert any("/own/" in entry[0] for entry in one)
