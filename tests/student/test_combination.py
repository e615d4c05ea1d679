"""What makes no sense together is refused at start, with the reason and the alternative; what does make sense is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy
from test_module import data_of, fit, student_of, trainer_of, write_records
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives import (
    EmbeddingMatching,
    ForwardKL,
    HiddenStateMatching,
    Likelihood,
    Loss,
    Objective,
    Positions,
    ReverseKL,
    SequenceLoss,
    SequenceObjective,
    Sequences,
    Targets,
    TokenObjective,
    Unlikelihood,
)
from distill.objectives.base import SignalKind, Unit
from distill.on_policy import AllNegative, OnPolicy
from distill.rows import StepCounts
from distill.student.combination import Chosen, Records, check_records, check_settings, check_trainer
from distill.teachers.base_model import BaseTeacher
from distill.teachers.ema import EmaTeacher
from distill.teachers.embedding import EmbeddingTeacher
from distill.teachers.live import LiveTeacher
from distill.teachers.logits import LogitTeacher
from distill.teachers.mixture import MixtureTeacher


@dataclass(frozen=True, kw_only=True)
class Across(TokenObjective):
    """An objective for another tokenizer."""

    weight: float = 1.0
    needs_cross = True

    @property
    def positions(self) -> Positions:
        return "all"

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OfPairs(SequenceObjective):
    """A preference."""

    weight: float = 1.0
    unit = "pair"

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        chosen_P, rejected_P = sequences.pairs()
        value_U = sequences.log_prob_S[rejected_P] - sequences.log_prob_S[chosen_P]
        return SequenceLoss(value_U=value_U, weight_U=torch.ones_like(value_U))


class OfNegatives(OfPairs):
    """A policy loss on negatives."""

    unit: Unit = "negative"  # type: ignore[misc]


class OfPositives(OfPairs):
    """A policy loss on positives."""

    unit: Unit = "positive"  # type: ignore[misc]


class Foreign(LiveTeacher):
    """A teacher with its own tokenizer."""

    gives_cross = True
    gives_hidden = False


class Sampled(LiveTeacher):
    """A teacher whose signal was sampled and stored."""

    reads_new_text = False
    gives_hidden = False

    def kind(self) -> SignalKind:
        return "sampled"


LIVE = LiveTeacher(model="teacher")


@pytest.mark.parametrize(
    ("objective", "teacher", "message"),
    [
        (ForwardKL(), None, r"'it' \(ForwardKL\) compares the student with a teacher.*set model.teacher"),
        (HiddenStateMatching(), None, r"\(HiddenStateMatching\).*set model.teacher"),
        (Across(), None, r"\(Across\).*set model.teacher"),
        (Likelihood(), LIVE, r"LiveTeacher, and none of the objectives \(it\) reads it: leave it out, or add .*ForwardKL"),
        (
            ReverseKL(),
            Sampled(model="t"),
            r"right for a dense or top_k signal only, and Sampled gives a sampled one: use ForwardKL",
        ),
        (ForwardKL(), EmbeddingTeacher(), r"needs a distribution, and EmbeddingTeacher gives none: use EmbeddingMatching"),
        (Across(), LIVE, r"compares across two tokenizers, and LiveTeacher speaks the student's: use ForwardKL"),
        (ForwardKL(), Foreign(model="t"), r"token by token, and Foreign speaks in tokens of its own: use SpanAlignedKL"),
        (HiddenStateMatching(), EmbeddingTeacher(), r"EmbeddingTeacher shows no hidden states; use LiveTeacher"),
        (HiddenStateMatching(), Sampled(model="t"), r"Sampled shows no hidden states; use LiveTeacher"),
        (EmbeddingMatching(), LIVE, r"LiveTeacher serves no embeddings; use EmbeddingTeacher"),
    ],
)
def test_objectives_and_teachers_that_do_not_fit_are_refused(
    objective: Objective, teacher: LogitTeacher | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(Chosen(objectives={"it": objective}, teacher=teacher))


@pytest.mark.parametrize(
    ("objective", "teacher"),
    [
        (Likelihood(), None),
        (ForwardKL(), LIVE),
        (ForwardKL(), Sampled(model="t")),
        (ForwardKL(), MixtureTeacher(teachers=[LIVE, BaseTeacher()], weights=[0.5, 0.5])),
        (ReverseKL(), EmaTeacher()),
        (Across(), Foreign(model="t")),
        (HiddenStateMatching(), LIVE),
        (EmbeddingMatching(), EmbeddingTeacher()),
    ],
)
def test_objectives_and_teachers_that_fit_are_let_through(objective: Objective, teacher: LogitTeacher | None) -> None:
    check_settings(Chosen(objectives={"it": objective}, teacher=teacher))


def test_a_reference_that_no_objective_reads_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="model.reference is stored, and none .*leave it out, or use one that does, such as DPO"
    ):
        check_settings(Chosen(objectives={"it": Likelihood()}, reference="stored"))


def test_all_that_is_wrong_is_said_at_once() -> None:
    objectives: dict[str, Objective] = {"one": ForwardKL(), "two": HiddenStateMatching()}
    with pytest.raises(ConfigError) as refusal:
        check_settings(Chosen(objectives=objectives))
    assert [line.split("'")[1] for line in str(refusal.value).splitlines()] == ["one", "two"]


# Records


def records_with(**settings: Any) -> Records:
    everything: dict[str, Any] = {
        "path": "r.jsonl",
        "holds": StepCounts(positives=5, negatives=4, positive_sequences=2, negative_sequences=2, pairs=3),
        "mixed": [],
        "protect": "none",
        "protect_tokens": False,
        "turns": "last",
    }
    return Records(**{**everything, **settings})


ONLY_POSITIVES = StepCounts(positives=5, negatives=0, positive_sequences=2)
APART = StepCounts(positives=5, negatives=5, positive_sequences=2, negative_sequences=2, pairs=0)


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (OfPairs(), {"holds": APART}, r"about each pair, and r.jsonl holds none: .*share group and prompt.*Unlikelihood"),
        (OfNegatives(), {"holds": ONLY_POSITIVES}, r"each negative response, and r.jsonl holds none: add negative records"),
        (OfPairs(), {"protect": "shared_prefix"}, r"data.protect = shared_prefix would leave .*set data.protect to none"),
        (OfPairs(), {"protect_tokens": True}, r"data.protect_tokens = true would leave .*data.protect_tokens to false"),
        (OfNegatives(), {"protect": "first_difference"}, r"data.protect = first_difference"),
        (OfPairs(), {"mixed": ["r7"]}, r"1 record\(s\) have spans of both polarities, such as 'r7'"),
        (OfPositives(), {"turns": "all"}, r"data.turns = all adds the earlier turns"),
        (Unlikelihood(), {"holds": ONLY_POSITIVES}, r"none of the objectives 'it' \(Unlikelihood\) has a weight above 0 and any"),
        (Likelihood(weight=0.0), {}, r"none of the objectives 'it' \(Likelihood\)"),
    ],
)
def test_objectives_and_records_that_do_not_fit_are_refused(objective: Objective, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_records(Chosen(objectives={"it": objective}), records_with(**settings))


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (OfPairs(), {}),
        (OfNegatives(), {"holds": APART}),
        (OfPositives(), {"protect": "shared_prefix", "protect_tokens": True}),
        (Unlikelihood(), {"protect": "shared_prefix", "protect_tokens": True, "turns": "all", "mixed": ["r7"]}),
        (OfPairs(), {"holds": ONLY_POSITIVES, "on_policy": OnPolicy(marker=AllNegative(), responses="both")}),
    ],
)
def test_objectives_and_records_that_fit_are_let_through(
    objective: Objective, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check_records(Chosen(objectives={"it": objective}), records_with(**settings))
    assert not caplog.records


def test_an_objective_that_finds_nothing_beside_others_that_do_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    both = Chosen(objectives={"up": Likelihood(), "down": Unlikelihood()})
    check_records(both, records_with(holds=ONLY_POSITIVES))
    assert caplog.messages == ["objective 'down' (Unlikelihood) has nothing to do: r.jsonl holds no negative tokens"]


def test_a_student_that_begins_at_its_teacher_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    check_records(Chosen(objectives={"it": ForwardKL()}, teacher=BaseTeacher()), records_with())
    assert "begins equal to its teacher" in caplog.text
    caplog.clear()
    check_records(Chosen(objectives={"it": ForwardKL(), "up": Likelihood()}, teacher=BaseTeacher()), records_with())
    check_records(Chosen(objectives={"it": ForwardKL()}, teacher=LIVE), records_with())
    assert not caplog.records


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Chosen(objectives={"it": ForwardKL()}, teacher=Sampled(model="t")), "Sampled knows stored ones only: take LiveTeacher"),
        (Chosen(objectives={"it": Likelihood()}, reference="folder"), "model.reference = folder knows stored ones only"),
        (Chosen(objectives={"it": Likelihood()}), "leaves the student's texts unmarked.*Set on_policy.marker"),
    ],
)
def test_on_policy_training_needs_somebody_who_can_judge_new_text(chosen: Chosen, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_records(chosen, records_with(on_policy=OnPolicy()))
    check_records(Chosen(objectives={"it": ForwardKL()}, teacher=LIVE), records_with(on_policy=OnPolicy()))


@pytest.mark.parametrize(
    ("teacher", "tokenizer", "message"),
    [
        (Foreign(model="t"), None, "Foreign reads the records in its own tokens.*set data.teacher_tokenizer"),
        (LIVE, "other", "data.teacher_tokenizer = other renders .*leave it out, or set model.teacher to CrossTeacher"),
    ],
)
def test_records_are_rendered_for_the_teacher_that_reads_them(teacher: LogitTeacher, tokenizer: str | None, message: str) -> None:
    chosen = Chosen(objectives={"it": Likelihood()}, teacher=teacher)
    with pytest.raises(ConfigError, match=message):
        check_records(chosen, records_with(teacher_tokenizer=tokenizer))


# Trainer


def test_a_moving_average_is_refused_where_it_would_not_move_or_not_be_whole() -> None:
    nested = MixtureTeacher(teachers=[LIVE, EmaTeacher()], weights=[0.5, 0.5])
    for teacher in (EmaTeacher(), nested):
        chosen = Chosen(objectives={"it": ForwardKL()}, teacher=teacher)
        with pytest.raises(ConfigError, match="bf16-true weights round away.*bf16-mixed"):
            check_trainer(chosen, trainer_of(precision="bf16-true"))
        check_trainer(chosen, trainer_of(precision="bf16-mixed"))
        sharded: Any = SimpleNamespace(strategy=FSDPStrategy.__new__(FSDPStrategy), precision="32-true")
        with pytest.raises(ConfigError, match="FSDPStrategy cuts them into shards.*ddp"):
            check_trainer(chosen, sharded)


# The whole way


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


def test_a_run_is_refused_before_the_student_is_loaded(llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = write_records(tmp_path / "records.jsonl")
    monkeypatch.setattr("distill.student.module.StudentModule._load_model", lambda self: pytest.fail("loaded"))
    student = student_of(llama, objectives={"it": OfPairs()})
    with pytest.raises(ConfigError, match="data.protect = shared_prefix"):
        fit(student, data_of(records, llama))


def test_preferences_train_on_whole_pairs_and_are_refused_without_any(llama: str, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"protect": "none", "protect_tokens": False}
    records = write_records(tmp_path / "records.jsonl")
    fit(student_of(llama, objectives={"it": OfPairs()}), data_of(records, llama, **whole), max_steps=2)
    with pytest.raises(ConfigError, match="about each pair"):
        fit(student_of(llama, objectives={"it": OfPairs()}), data_of(records, llama, negatives_per_group=0, **whole))
    lines = [json.loads(line) for line in Path(records).read_text().splitlines()]
    for line in lines:
        if line["polarity"] == "negative":
            line["prompt"][0]["content"] += "?"
    apart = tmp_path / "apart.jsonl"
    apart.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="about each pair"):
        fit(student_of(llama, objectives={"it": OfPairs()}), data_of(str(apart), llama, **whole))


def test_a_plain_run_is_told_nothing(llama: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="distill"):
        fit(student_of(llama), data_of(write_records(tmp_path / "records.jsonl"), llama), max_steps=1)
    assert not [record for record in caplog.records if record.name.startswith("distill.student")]
