"""EmaTeacher: the average of the student's trained weights, and nothing of its own besides."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_live import examples, log_probs

from distill.errors import ConfigError, TeacherError
from distill.models import load_model
from distill.rows import plain_rows
from distill.student.trainable import LoraSettings, add_lora, train_top_layers
from distill.teachers.ema import EmaTeacher, MovingAverage
from distill.teachers.logits import LiveStudent, LogitTeacher

Folder = Callable[[str], Path]


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    return EmaTeacher(decay=0.9)


def step(model: Any, number: int) -> None:
    """Change every trained weight a little."""
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)


def start(model: Any, **settings: Any) -> MovingAverage:
    running = EmaTeacher(**settings).start(LiveStudent(name="student", model=model))
    assert isinstance(running, MovingAverage)
    return running


@pytest.mark.parametrize("warm_up", [False, True])
def test_each_weight_is_the_moving_average_of_the_students(tiny_model_folder: Folder, warm_up: bool) -> None:
    model: Any = load_model(str(tiny_model_folder("llama")))
    teacher = start(model, decay=0.4, warm_up=warm_up)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for number in range(1, 6):
        step(model, number)
        teacher.after_step()
        decay = min(0.4, (1 + number) / (10 + number)) if warm_up else 0.4
        expected = {name: decay * expected[name] + (1 - decay) * p.detach() for name, p in model.named_parameters()}
    for name, parameter in teacher.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_it_begins_as_the_student_and_then_lags_behind(tiny_model_folder: Folder) -> None:
    model: Any = load_model(str(tiny_model_folder("llama")))
    teacher, batch = start(model, decay=0.9), plain_rows(examples(), pad_id=0)
    first = log_probs(teacher(batch))
    step(model, 1)
    assert torch.equal(log_probs(teacher(batch)), first)
    teacher.after_step()
    assert not torch.equal(log_probs(teacher(batch)), first)


@pytest.mark.parametrize("how", ["top layer", "lora"])
def test_weights_that_are_not_trained_are_the_students_own(tiny_model_folder: Folder, how: str) -> None:
    model: Any = load_model(str(tiny_model_folder("llama")))
    if how == "lora":
        model = add_lora(model, LoraSettings(rank=2))
    else:
        train_top_layers(model, 1)
    teacher = start(model)
    for name, parameter in model.named_parameters():
        same = teacher.model.get_parameter(name) is parameter
        assert same is not parameter.requires_grad, name
    step(model, 1)
    teacher.after_step()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(teacher.state_dict()["averages"]) == trained
    assert log_probs(teacher(plain_rows(examples(), pad_id=0))).isfinite().all()


def test_a_saved_average_goes_on_to_the_bit(tiny_model_folder: Folder) -> None:
    model: Any = load_model(str(tiny_model_folder("llama")))
    teacher = start(model, decay=0.9, warm_up=True)
    step(model, 1)
    teacher.after_step()
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    file.seek(0)
    again = start(model, decay=0.9, warm_up=True)
    again.load_state_dict(torch.load(file, weights_only=True))
    for number in (2, 3):
        step(model, number)
        teacher.after_step()
        again.after_step()
    for name, parameter in teacher.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), parameter), name


def test_the_average_of_another_student_is_refused(tiny_model_folder: Folder) -> None:
    model: Any = load_model(str(tiny_model_folder("llama")))
    state = start(model).state_dict()
    train_top_layers(model, 1)
    with pytest.raises(TeacherError, match="not the student's .* trained ones: resume with the student, train_layers"):
        start(model).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="decay is"):
        EmaTeacher(decay=decay)
