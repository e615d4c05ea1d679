"""BaseTeacher: what the student was before training, without a second copy where adapters can be taken off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_live import examples, log_probs

from distill.models import load_model
from distill.rows import plain_rows, shared_rows
from distill.student.reference import adapter_off
from distill.student.trainable import LoraSettings, add_lora
from distill.teachers.base_model import AdaptersOff, BaseTeacher
from distill.teachers.live import Dtype, FrozenModel
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher

Folder = Callable[[str], Path]


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    return BaseTeacher()


def adapted(folder: Path, targets: tuple[str, ...] = ()) -> Any:
    """A model with adapters that have learnt something, in training mode, with dropout."""
    model = add_lora(load_model(str(folder)), LoraSettings(rank=2, targets=targets, dropout=0.5)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    return model


def start(folder: Path, model: Any, dtype: Dtype = "float32") -> RunningTeacher:
    return BaseTeacher(dtype=dtype).start(LiveStudent(name=str(folder), model=model, adapters_off=lambda: adapter_off(model)))


@pytest.mark.parametrize("targets", [(), ("q_proj", "lm_head")], ids=["all but the head", "the head too"])
def test_with_adapters_it_is_the_student_without_them(tiny_model_folder: Folder, targets: tuple[str, ...]) -> None:
    folder = tiny_model_folder("qwen2")
    batch = plain_rows(examples(), pad_id=0)
    model = adapted(folder, targets)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    teacher = start(folder, model)
    assert isinstance(teacher, AdaptersOff)
    said = teacher(batch, layers=[1])
    base = FrozenModel(load_model(str(folder)), name="base")(batch, layers=[1])
    torch.testing.assert_close(log_probs(said), log_probs(base), atol=1e-5, rtol=0)
    torch.testing.assert_close(said.hidden[1], base.hidden[1])
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert [module.training for module in model.modules()] == modes
    with adapter_off(model):
        off = model(input_ids=batch.input_ids_BT).logits
    assert not torch.allclose(model.eval()(input_ids=batch.input_ids_BT).logits, off, atol=1e-2), "the adapters do something"


def test_with_adapters_its_rows_may_share_a_prompt(tiny_model_folder: Folder) -> None:
    folder = tiny_model_folder("llama")
    teacher = start(folder, adapted(folder))
    shared, plain = (teacher(batch) for batch in (shared_rows([examples()], pad_id=0), plain_rows(examples(), pad_id=0)))
    torch.testing.assert_close(log_probs(shared), log_probs(plain), atol=1e-4, rtol=0)


def test_without_adapters_it_is_a_copy_that_training_does_not_move(tiny_model_folder: Folder) -> None:
    folder = tiny_model_folder("llama")
    model: Any = load_model(str(folder))
    teacher = BaseTeacher().start(LiveStudent(name=str(folder), model=model))
    assert isinstance(teacher, FrozenModel)
    batch = plain_rows(examples(), pad_id=0)
    before = log_probs(teacher(batch))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert torch.equal(log_probs(teacher(batch)), before)


def test_another_precision_needs_a_copy_also_with_adapters(tiny_model_folder: Folder) -> None:
    folder = tiny_model_folder("llama")
    teacher = start(folder, adapted(folder), "bfloat16")
    assert isinstance(teacher, FrozenModel)
    assert teacher.model.dtype == torch.bfloat16
