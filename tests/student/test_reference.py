"""The frozen reference: what the student was, beside what it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from distill.data import RecordDataModule
from distill.models import load_model
from distill.objectives import Likelihood, TokenNPO, Unlikelihood
from distill.records import Message, Record, write_records
from distill.student.module import StudentModule

BETA = 0.5


@pytest.fixture
def records(tmp_path: Path) -> str:
    rows = []
    for name in ("France", "Kenya", "Japan"):
        ask = (Message(role="user", content=f"What is the capital of {name}?"),)
        rows.append(Record(id=f"{name}+", group=name, prompt=ask, response="I don't know.", polarity="positive"))
        rows.append(Record(id=f"{name}-", group=name, prompt=ask, response="Lyon", polarity="negative"))
    write_records(rows, tmp_path / "records.jsonl")
    return str(tmp_path / "records.jsonl")


def trained(folder: str, records: str, *, head_memory: int = 1 << 30) -> tuple[StudentModule, Trainer, list[float]]:
    """Two steps of forgetting, and the value of the objective before each."""
    student = StudentModule(
        student=folder,
        objectives={"keep": Likelihood(), "forget": TokenNPO(beta=BETA)},
        learning_rate=1e-2,
        schedule="constant",
    )
    student._head_memory = head_memory
    values: list[float] = []
    log_dict = student.log_dict
    student.log_dict = lambda logged, **options: (values.append(logged["train/forget"]), log_dict(logged, **options))[1]
    trainer = Trainer(
        max_steps=2,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(student, datamodule=RecordDataModule(train=records, student=folder, protect="none", batch_size=3))
    return student, trainer, values


@pytest.mark.parametrize("head_memory", [1 << 30, 4000], ids=["whole", "chunks"])
def test_the_first_step_compares_the_student_with_itself_and_the_second_with_what_it_was(
    records: str, tiny_model_folder: Callable[[str], Path], head_memory: int
) -> None:
    folder = str(tiny_model_folder("llama"))
    _, _, values = trained(folder, records, head_memory=head_memory)
    assert values[0] == pytest.approx(2 / BETA * math.log(2), rel=1e-5)
    assert values[1] < values[0]


def test_the_reference_is_frozen_and_part_of_no_checkpoint(
    records: str, tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(tiny_model_folder("llama"))
    student, trainer, _ = trained(folder, records)
    reference, before = student.__dict__["_reference"], load_model(folder, dtype="float32")
    assert all(torch.equal(now, then) for now, then in zip(reference.parameters(), before.parameters(), strict=True))
    own = {id(parameter) for parameter in student.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in reference.parameters())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert names and all(name.startswith("model.") for name in names)


def test_only_a_loss_that_needs_the_reference_loads_it(
    records: str, tiny_model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.student.module.load_reference", lambda name: pytest.fail("a second copy was loaded"))
    folder = str(tiny_model_folder("llama"))
    StudentModule(student=folder, objectives={"forget": TokenNPO()}).configure_model()  # as an export does
    student = StudentModule(student=folder, objectives={"avoid": Unlikelihood()})
    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(student, datamodule=RecordDataModule(train=records, student=folder))
