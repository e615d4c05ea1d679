"""Two processes train as one does: the same gradients, the same metrics, also where one of them has nothing to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from distill.data import RecordDataModule
from distill.objectives import Likelihood, Unlikelihood
from distill.student.callbacks import MetricsJsonl
from distill.student.module import StudentModule


class SavedGradients(Callback):
    """Gradients of every optimiser step, on disk, since the processes share nothing else."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        torch.save(gradients, Path(self.folder, f"{trainer.global_step}-{trainer.global_rank}.pt"))


def write_records(path: Path, questions: int, name: str = "g") -> str:
    lines = []
    for i in range(questions):
        common = {"group": f"{name}{i}", "prompt": [{"role": "user", "content": f"Capital of {'Xy' * (1 + i % 3)}{i}?"}]}
        lines.append({"id": f"{name}{i}+", "response": "I don't know." if i % 2 else "No.", "polarity": "positive", **common})
        lines += [
            {"id": f"{name}{i}-{k}", "response": "Paris is" * k, "polarity": "negative", **common} for k in range(1, 1 + i % 3)
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def run(folder: Path, records: str, validation: str, student: str, **arguments: Any) -> None:
    folder.mkdir()
    batch_size = arguments.pop("batch_size")
    module = StudentModule(
        student=student,
        objectives={"likelihood": Likelihood(), "unlikelihood": Unlikelihood(weight=0.5)},
        learning_rate=0.0,
        schedule="constant",
        train_layers=arguments.pop("train_layers", None),
    )
    data = RecordDataModule(train=records, student=student, validation=validation, batch_size=batch_size, bucket_window=16)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        callbacks=[SavedGradients(str(folder)), MetricsJsonl(str(folder / "metrics.jsonl"))],
        **arguments,
    )
    trainer.fit(module, datamodule=data)


@pytest.mark.slow
@pytest.mark.parametrize("questions", [16, 13], ids=["even", "one process has nothing in the last batch"])
def test_two_processes_have_the_gradients_and_metrics_of_one(
    questions: int, tmp_path: Path, tiny_model_folder: Callable[[str], Path]
) -> None:
    records, validation = write_records(tmp_path / "r.jsonl", questions), write_records(tmp_path / "v.jsonl", 5, name="v")
    student = str(tiny_model_folder("llama"))
    # Six questions to a step: 3 x 2 in one process, 1 x 3 in each of two.
    run(tmp_path / "one", records, validation, student, batch_size=3, accumulate_grad_batches=2, devices=1)
    run(tmp_path / "two", records, validation, student, batch_size=1, accumulate_grad_batches=3, devices=2, strategy="ddp_spawn")
    steps = sorted(tmp_path.glob("one/*.pt"))
    assert len(steps) == 3
    for file in steps:
        one = torch.load(file)
        for rank in (0, 1):
            two = torch.load(tmp_path / "two" / file.name.replace("-0", f"-{rank}"))
            for name, gradient in one.items():
                torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-4)
    lines = [
        [json.loads(line) for line in (tmp_path / which / "metrics.jsonl").read_text().splitlines()] for which in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 4
    for one, two in zip(*lines, strict=True):
        for name in one.keys() - {"seconds", "train/tokens_per_second", "val/tokens_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-4), name
