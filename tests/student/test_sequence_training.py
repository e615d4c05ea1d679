"""Objectives on whole responses in training: one mean over all responses or pairs of an optimiser step, however it is cut."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from distill.data import RecordDataModule
from distill.models import load_model
from distill.objectives import (
    DPO,
    KTO,
    NPO,
    ORPO,
    UNDIAL,
    Likelihood,
    NegativeSampleReinforcement,
    Objective,
    SimNPO,
    SimPO,
)
from distill.rows import shared_rows
from distill.student.module import LoraSettings, StudentModule
from distill.teachers.base_model import BaseTeacher

ANSWERS = ("Paris", "Nairobi", "Lyon is the one", "the yen")
OBJECTIVES: dict[str, Objective] = {
    "dpo": DPO(beta=0.5),
    "ipo": DPO(loss="ipo"),
    "simpo": SimPO(),
    "orpo": ORPO(),
    "kto": KTO(baseline="none", undesirable=1.5),
    "npo": NPO(beta=0.5),
    "simnpo": SimNPO(beta=0.3),  # at the default the responses of a random model are improbable enough already
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def write_records(path: Path) -> str:
    """Ten questions with one or two positives and 0 to 3 negatives of unequal lengths and weights."""
    lines = []
    for i in range(10):
        common = {"group": f"g{i}", "prompt": [{"role": "user", "content": f"What is the capital of {'Xy' * (1 + i % 3)}{i}?"}]}
        ups = ["I don't know."] if i % 3 else ["No.", "I do not know"]
        lines += [{"id": f"{i}+{k}", "response": up, "polarity": "positive", **common} for k, up in enumerate(ups)]
        lines += [
            {"id": f"{i}-{k}", "response": ANSWERS[k], "polarity": "negative", "weight": 1 / (1 + k), **common}
            for k in range(i % 4)
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


class Recorder(Callback):
    """The gradient of every optimiser step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def records(tmp_path: Path) -> str:
    return write_records(tmp_path / "records.jsonl")


def student_of(folder: str, objective: Objective, **arguments: Any) -> StudentModule:
    """A student that has left its reference: otherwise every log-ratio would be 0."""
    defaults: dict[str, Any] = {"learning_rate": 0.0, "schedule": "constant", "weight_decay": 0.0}
    student = StudentModule(student=folder, objectives={"it": objective}, **{**defaults, **arguments})
    student.configure_model()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return student


def data_of(records: str, folder: str, **arguments: Any) -> RecordDataModule:
    settings = {"batch_size": 8, "bucket_window": 10, "protect": "none", "protect_tokens": False, **arguments}
    return RecordDataModule(train=records, student=folder, **settings)


def fit(student: StudentModule, data: RecordDataModule, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, **quiet, **arguments})
    trainer.fit(student, datamodule=data)
    return trainer


def gradients(student: StudentModule, data: RecordDataModule, **arguments: Any) -> list[dict[str, Tensor]]:
    fit(student, data, callbacks=[recorder := Recorder()], **arguments)
    return recorder.gradients


def assert_same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        size = max(float(gradient.abs().max()) for gradient in one.values())
        assert size > 1e-4
        for name, gradient in one.items():
            torch.testing.assert_close(other[name], gradient, atol=1e-5 * size, rtol=1e-3)


@every_objective
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(name: str, records: str, llama: str) -> None:
    # Ten questions, eight to a step: the second step is incomplete. Some micro-batches have no pair, some no negative.
    found = [
        gradients(student_of(llama, OBJECTIVES[name]), data_of(records, llama, batch_size=size), accumulate_grad_batches=parts)
        for size, parts in ((8, 1), (2, 4), (1, 8))
    ]
    assert len(found[0]) == 2
    for other in found[1:]:
        assert_same(found[0], other)


@every_objective
def test_plain_rows_and_a_head_in_chunks_change_no_gradient(name: str, records: str, llama: str) -> None:
    objective = OBJECTIVES[name]
    expected = gradients(student_of(llama, objective), data_of(records, llama))
    assert_same(expected, gradients(student_of(llama, objective), data_of(records, llama, prefix_sharing=False)))
    assert_same(expected, gradients(student_of(llama, objective, head_memory_mb=0), data_of(records, llama)))


def test_the_gradient_is_that_of_the_mean_over_all_pairs_of_the_step(records: str, llama: str) -> None:
    """Pair by pair with the model's own forward, one response at a time."""
    student, data = student_of(llama, DPO(beta=0.5)), data_of(records, llama, batch_size=2)
    (found,) = gradients(student, data, accumulate_grad_batches=5)
    store, reference = data.stores["train"], load_model(llama, dtype="float32")
    student.zero_grad()
    ratio, weight, up, prompt = [], [], [], []
    for index in range(len(store)):
        view = store.view(index)
        ids, places = torch.from_numpy(view.token_ids.astype("int64")), view.weight.nonzero()[0]
        sums = [
            model(input_ids=ids[None]).logits[0].log_softmax(-1)[places - 1, ids[places]].sum()
            for model in (student.model, reference)
        ]
        ratio.append(sums[0] - sums[1].detach())
        weight.append(float(view.weight[places].mean()))
        up.append(not view.negative[places].any())
        prompt.append(view.token_ids[: view.prompt_length].tolist())
    pairs = [(i, j) for i, j in ((i, j) for i in range(len(up)) for j in range(len(up))) if up[i] and not up[j]]
    pairs = [(i, j) for i, j in pairs if prompt[i] == prompt[j]]
    terms = [-weight[i] * weight[j] * torch.nn.functional.logsigmoid(0.5 * (ratio[i] - ratio[j])) for i, j in pairs]
    assert len(pairs) > 10 and len({weight[j] for _, j in pairs}) == 3
    torch.stack(terms).mean().backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3)


@every_objective
def test_training_moves_positives_up_relative_to_negatives(name: str, records: str, llama: str) -> None:
    student = StudentModule(
        student=llama, objectives={"it": OBJECTIVES[name]}, learning_rate=3e-3, schedule="constant", skip_unpaired_negatives=False
    )
    data = data_of(records, llama)
    values = []
    student.log_dict = lambda logged, **_: values.append(logged)
    fit(student, data, max_epochs=6)
    assert values[-1]["train/it"] < values[0]["train/it"]
    before, after = (gap(model, data) for model in (load_model(llama, dtype="float32"), student.model))
    assert after > before + 1


def gap(model: Any, data: RecordDataModule) -> float:
    """Mean nats per token of the positives above the negatives'."""
    from distill.head import objective_values

    store = data.stores["train"]
    batch = shared_rows([[store.view(index) for index in range(len(store))]], 0)
    with torch.no_grad():
        log_prob_N = objective_values(model, batch, {})[1].log_prob_N
    negative_N = batch.targets.negative_N
    return float(log_prob_N[~negative_N].mean() - log_prob_N[negative_N].mean())


# The reference


def references(student: StudentModule, data: RecordDataModule) -> Tensor:
    data.setup("fit")
    store = data.stores["train"]
    batch = shared_rows([[store.view(index) for index in range(len(store))]], 0)
    reference_N = student._with_reference(batch).targets.reference_N
    assert reference_N is not None
    return reference_N


def test_the_frozen_copy_and_the_student_with_its_adapters_off_are_one_reference(records: str, llama: str) -> None:
    data = data_of(records, llama)
    copy, values = references(student_of(llama, DPO()), data), []
    for learning_rate in (0.0, 1e-2):
        adapted = StudentModule(
            student=llama, objectives={"it": DPO()}, lora=LoraSettings(rank=2), learning_rate=learning_rate, schedule="constant"
        )
        trainer = fit(adapted, data_of(records, llama, batch_size=10), max_epochs=2)
        assert "_reference" not in adapted.__dict__, "no second copy is loaded"
        torch.testing.assert_close(references(adapted, data), copy, atol=1e-5, rtol=1e-5)
        values.append(float(trainer.callback_metrics["train/it"]))
    assert values[1] < values[0] - 1e-3, "the student has moved, its reference has not"


def test_a_fresh_adapter_is_its_own_reference(records: str, llama: str) -> None:
    text = Path(records).read_text()
    Path(records).write_text(re.sub(r'"weight": [\d.]+', '"weight": 1.0', text))
    objectives: dict[str, Objective] = {"dpo": DPO(), "kto": KTO(), "npo": NPO(beta=0.5)}
    student = StudentModule(student=llama, objectives=objectives, lora=LoraSettings(rank=2), learning_rate=0.0)
    logged = fit(student, data_of(records, llama)).callback_metrics
    assert float(logged["train/dpo"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(logged["train/kto"]) == pytest.approx(0.5, rel=1e-5)
    assert float(logged["train/npo"]) == pytest.approx(4 * math.log(2), rel=1e-5)


# Steps without positives


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("objective", [NPO(), SimNPO(), NegativeSampleReinforcement()], ids=lambda one: type(one).__name__)
def test_negatives_of_a_step_without_positives_train_nothing_unless_asked(
    objective: Objective, skip: bool, records: str, llama: str
) -> None:
    lines = Path(records).read_text().splitlines(keepends=True)
    Path(records).write_text("".join(line for line in lines if '"negative"' in line))
    (found,) = gradients(
        student_of(llama, objective, skip_unpaired_negatives=skip), data_of(records, llama, batch_size=16), max_steps=1
    )
    assert any(gradient.any() for gradient in found.values()) is not skip


# A negative as a distillation target


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["frozen copy", "adapters off"])
def test_undial_forgets_relative_to_the_students_own_base(lora: LoraSettings | None, records: str, llama: str) -> None:
    student = StudentModule(
        student=llama,
        objectives={"forget": UNDIAL(), "keep": Likelihood(weight=0.1)},
        teacher=BaseTeacher(),
        lora=lora,
        learning_rate=1e-2,
        schedule="constant",
    )
    data = data_of(records, llama)
    trainer = fit(student, data, max_epochs=5)
    assert gap(student.model, data) > gap(load_model(llama, dtype="float32"), data) + 1
    assert math.isfinite(float(trainer.callback_metrics["train/forget"]))
