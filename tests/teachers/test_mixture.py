"""MixtureTeacher: the weighted mean of probabilities, never of log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_live import examples, log_probs

from distill.errors import ConfigError, TeacherError
from distill.models import load_model
from distill.objectives.base import SignalKind, TeacherSignal
from distill.objectives.mixture import MixtureSignal
from distill.rows import plain_rows
from distill.teachers.base_model import BaseTeacher
from distill.teachers.ema import EmaTeacher
from distill.teachers.live import LiveTeacher
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher
from distill.teachers.mixture import MixtureTeacher
from distill.teachers.stored import StoredTeacher

Folder = Callable[[str], Path]


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    return MixtureTeacher(teachers=[LiveTeacher(model=student), BaseTeacher(dtype="bfloat16")], weights=[0.25, 0.75])


def started(folder: Path, teacher: LogitTeacher) -> RunningTeacher:
    return teacher.start(LiveStudent(name=str(folder), model=load_model(str(folder))))


def test_it_is_the_weighted_mean_of_the_probabilities(tiny_model_folder: Folder) -> None:
    student, other = tiny_model_folder("llama"), tiny_model_folder("qwen2")
    batch = plain_rows(examples(), pad_id=0)
    parts: list[LogitTeacher] = [LiveTeacher(model=str(student)), LiveTeacher(model=str(other))]
    first, second = (log_probs(started(student, part)(batch)).exp() for part in parts)
    said = started(student, MixtureTeacher(teachers=parts, weights=[0.3, 0.7]))(batch)
    torch.testing.assert_close(log_probs(said).exp(), 0.3 * first + 0.7 * second)
    assert not log_probs(said).requires_grad


def test_a_chunk_of_it_is_made_of_chunks_of_its_parts(tiny_model_folder: Folder) -> None:
    student = tiny_model_folder("llama")
    mixture = MixtureTeacher(teachers=[LiveTeacher(model=str(student)), BaseTeacher(dtype="bfloat16")], weights=[0.5, 0.5])
    signal = started(student, mixture)(plain_rows(examples(), pad_id=0)).signal
    assert isinstance(signal, MixtureSignal)
    index = torch.tensor([3, 0])
    torch.testing.assert_close(
        signal.to("cpu").select(index).materialise().log_probs_NK, signal.materialise().log_probs_NK[index], atol=1e-5, rtol=0
    )


def test_over_the_tokens_that_all_know_where_one_knows_fewer() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    nothing = torch.full((4,), float("-inf"))
    wide, narrow = (TeacherSignal(ids_NK=None, log_probs_NK=logits[:, :count].log_softmax(1), rest_N=nothing) for count in (7, 5))
    for parts in ((wide, narrow), (narrow, wide)):
        mixed = MixtureSignal(parts=parts, weights=(0.5, 0.5)).materialise().log_probs_NK
        expected = wide.log_probs_NK[:, :5].exp() + narrow.log_probs_NK.exp()
        torch.testing.assert_close(mixed.exp(), expected / expected.sum(1, keepdim=True))


def test_what_one_teacher_rules_out_the_mixture_still_allows() -> None:
    nothing = torch.full((1,), float("-inf"))
    parts = tuple(
        TeacherSignal(ids_NK=None, log_probs_NK=torch.tensor([row]).log(), rest_N=nothing) for row in ([1.0, 0.0], [0.0, 1.0])
    )
    mixed = MixtureSignal(parts=parts, weights=(0.25, 0.75)).materialise().log_probs_NK
    torch.testing.assert_close(mixed.exp(), torch.tensor([[0.25, 0.75]]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "2 teachers has 1 weights"),
        ([0.5, 0.6], "sum to 1"),
        ([1.5, -0.5], "above 0"),
        ([1.0, 0.0], "above 0"),
        ([float("nan"), 1.0], "above 0"),
    ],
)
def test_weights_that_make_no_mean_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureTeacher(teachers=[BaseTeacher(), EmaTeacher()], weights=weights)


def test_a_mixture_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        MixtureTeacher(teachers=[BaseTeacher()], weights=[1.0])


def test_parts_that_do_not_tell_all_probabilities_are_refused() -> None:
    class TopK(BaseTeacher):
        def kind(self) -> SignalKind:
            return "top_k"

    class Foreign(BaseTeacher):
        gives_cross = True

    for part in (TopK(), Foreign()):
        with pytest.raises(ConfigError, match=f"{type(part).__name__} in a mixture"):
            MixtureTeacher(teachers=[BaseTeacher(), part], weights=[0.5, 0.5])


def test_it_hands_steps_and_states_to_its_parts(tiny_model_folder: Folder) -> None:
    folder = tiny_model_folder("llama")
    mixture = MixtureTeacher(teachers=[BaseTeacher(), EmaTeacher(decay=0.5)], weights=[0.5, 0.5])
    model = load_model(str(folder))
    running = mixture.start(LiveStudent(name=str(folder), model=model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    running.after_step()
    state = running.state_dict()
    assert (state["0"], state["1"]["updates"]) == ({}, 1)
    again = started(folder, mixture)
    again.load_state_dict(state)
    batch = plain_rows(examples(), pad_id=0)
    assert torch.equal(log_probs(again(batch)), log_probs(running(batch)))
    with pytest.raises(TeacherError, match="state of 1 mixed teachers"):
        again.load_state_dict({"0": {}})


def test_it_reads_new_text_only_if_all_its_parts_do() -> None:
    class Stored(BaseTeacher):
        reads_new_text = False

    assert MixtureTeacher(teachers=[BaseTeacher(), EmaTeacher()], weights=[0.5, 0.5]).reads_new_text
    assert not MixtureTeacher(teachers=[BaseTeacher(), Stored()], weights=[0.5, 0.5]).reads_new_text


def test_a_mixture_whose_stored_part_is_gone_can_be_named_but_not_started(tmp_path: Path) -> None:
    """As an export names it, which asks no teacher."""
    mixture = MixtureTeacher(teachers=[LiveTeacher(model="x"), StoredTeacher(path=str(tmp_path / "gone"))], weights=[0.5, 0.5])
    with pytest.raises(TeacherError, match="holds no signal"):
        mixture.kind()
