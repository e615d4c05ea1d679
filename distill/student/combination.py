"""Which settings make sense together: a run is held against these rules before anything is loaded or computed.

A rule yields one message for each thing that makes no sense: what was asked for, why it cannot be, what to do instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.errors import ConfigError
from distill.objectives import HiddenObjective, Objective, SequenceObjective, TokenObjective
from distill.plan import choose_negatives
from distill.rows import StepCounts
from distill.teachers.ema import EmaTeacher
from distill.teachers.logits import LogitTeacher
from distill.teachers.mixture import MixtureTeacher

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from distill.data import RecordDataModule

log = logging.getLogger(__name__)

Objectives = Mapping[str, Objective]


@dataclass(frozen=True, kw_only=True)
class Records:
    """What the training records hold and how they are read. holds: of the first epoch, as of one step. mixed: ids of the records
    whose response is to be said in one part and avoided in another.
    """

    path: str
    holds: StepCounts
    mixed: list[str]
    protect: str
    protect_tokens: bool
    turns: str

    @classmethod
    def of(cls, data: RecordDataModule) -> Records:
        """Those of a data module that has been set up for fit."""
        settings, store = data.hparams, data.stores["train"]
        keep_E = choose_negatives(store, settings["negatives_per_group"], seed=settings["seed"], epoch=0)
        counts = store.group_sizes(keep_E, shared=True).counts_G
        return cls(
            path=settings["train"],
            holds=StepCounts(**{name: int(count_G.sum()) for name, count_G in counts.items()}),
            mixed=store.mixed_responses(),
            **{name: settings[name] for name in ("protect", "protect_tokens", "turns")},
        )


def check_settings(objectives: Objectives, teacher: LogitTeacher | None) -> None:
    """Raises ConfigError for objectives and a teacher that do not fit each other; a model is not needed to tell."""
    _refuse(message for rule in SETTINGS_RULES for message in rule(objectives, teacher))


def check_records(objectives: Objectives, records: Records) -> None:
    """Raises ConfigError for objectives that the training records, or the way they are read, give nothing or half of a thing."""
    _refuse(message for rule in RECORDS_RULES for message in rule(objectives, records))
    for name, one in objectives.items():
        if isinstance(one, TokenObjective | HiddenObjective) and not records.holds.of(one):
            log.warning("objective %s has nothing to do: %s holds no %s tokens", _named(name, one), records.path, one.positions)


def check_trainer(teacher: LogitTeacher | None, trainer: Trainer) -> None:
    """Raises ConfigError for a teacher that cannot live under the trainer's strategy and precision."""
    _refuse(message for rule in TRAINER_RULES for message in rule(teacher, trainer))


def _refuse(messages: Iterator[str]) -> None:
    if found := list(messages):
        raise ConfigError("\n".join(found))


def _named(name: str, objective: Objective) -> str:
    return f"{name!r} ({type(objective).__name__})"


def _reads_signal(objective: Objective) -> bool:
    return objective.needs_teacher and not _reads_cross(objective)


def _reads_cross(objective: Objective) -> bool:
    return isinstance(objective, TokenObjective) and objective.needs_cross


def _parts(teacher: LogitTeacher | None) -> Iterator[LogitTeacher]:
    if isinstance(teacher, MixtureTeacher):
        for part in teacher.teachers:
            yield from _parts(part)
    elif teacher is not None:
        yield teacher


# Objectives and teacher


def _a_teacher_is_missing(objectives: Objectives, teacher: LogitTeacher | None) -> Iterator[str]:
    for name, one in objectives.items():
        if teacher is None and (one.needs_teacher or _reads_cross(one) or isinstance(one, HiddenObjective)):
            yield (
                f"objective {_named(name, one)} compares the student with a teacher, and there is none: set model.teacher, to "
                f"LiveTeacher for example, or train on the records alone with Likelihood"
            )


def _nobody_reads_the_teacher(objectives: Objectives, teacher: LogitTeacher | None) -> Iterator[str]:
    readers = [one for one in objectives.values() if one.needs_teacher or _reads_cross(one) or isinstance(one, HiddenObjective)]
    if teacher is not None and not readers:
        yield (
            f"model.teacher is a {type(teacher).__name__}, and none of the objectives ({', '.join(objectives)}) reads it: leave "
            f"it out, or add an objective that compares with a teacher, such as ForwardKL"
        )


def _the_signal_is_of_a_kind_that_the_objective_cannot_use(objectives: Objectives, teacher: LogitTeacher | None) -> Iterator[str]:
    if teacher is None:
        return
    kind = teacher.kind()
    for name, one in objectives.items():
        if not one.needs_teacher or isinstance(one, HiddenObjective):
            continue
        if kind is None:
            yield (
                f"objective {_named(name, one)} needs a distribution, and {type(teacher).__name__} gives none: use an objective "
                f"on hidden states with it, or a teacher that gives distributions, such as LiveTeacher"
            )
        elif kind not in one.signals:
            yield (
                f"objective {_named(name, one)} is right for {' or '.join(sorted(one.signals))} signals only, and "
                f"{type(teacher).__name__} gives a {kind} one: {_other_signal(one)}"
            )


def _other_signal(objective: Objective) -> str:
    if "dense" in objective.signals:
        return "take a teacher that gives whole distributions (LiveTeacher, or a stored exact signal), or ForwardKL"
    return f"store a signal of the kind {' or '.join(sorted(objective.signals))}"


def _tokenizers_are_mixed_up(objectives: Objectives, teacher: LogitTeacher | None) -> Iterator[str]:
    if teacher is None:
        return
    for name, one in objectives.items():
        if _reads_cross(one) and not teacher.gives_cross:
            yield (
                f"objective {_named(name, one)} compares two tokenizers, and {type(teacher).__name__} speaks the student's: "
                f"use ForwardKL or another divergence, which is exact there, or a teacher with a tokenizer of its own"
            )
        elif _reads_signal(one) and teacher.gives_cross and not isinstance(one, HiddenObjective):
            yield (
                f"objective {_named(name, one)} compares token by token, and {type(teacher).__name__} speaks its own tokens: use "
                f"SpanAlignedKL or UniversalLogit, or LiveTeacher with a model of the student's family"
            )


def _the_teacher_shows_no_hidden_states(objectives: Objectives, teacher: LogitTeacher | None) -> Iterator[str]:
    for name, one in objectives.items():
        if teacher is not None and isinstance(one, HiddenObjective) and not teacher.gives_hidden:
            yield (
                f"objective {_named(name, one)} compares hidden states, and {type(teacher).__name__} shows none: take "
                f"LiveTeacher, or an objective on distributions, such as ForwardKL"
            )


SETTINGS_RULES = (
    _a_teacher_is_missing,
    _nobody_reads_the_teacher,
    _the_signal_is_of_a_kind_that_the_objective_cannot_use,
    _tokenizers_are_mixed_up,
    _the_teacher_shows_no_hidden_states,
)


# Objectives and records


def _whole_responses(objectives: Objectives) -> Iterator[tuple[str, SequenceObjective]]:
    return ((_named(name, one), one) for name, one in objectives.items() if isinstance(one, SequenceObjective))


def _there_are_no_such_responses(objectives: Objectives, records: Records) -> Iterator[str]:
    remedy = {
        "pair": "positives and negatives must share group and prompt; without such pairs use an objective on each alone, such as "
        "Likelihood with Unlikelihood",
        "positive": "add positive records, or use an objective on negatives",
        "negative": "add negative records (`distill recipe` makes some), or train with Likelihood alone",
        "sequence": "add records whose whole response is positive or negative",
    }
    for named, one in _whole_responses(objectives):
        if not records.holds.of(one):
            unit = {"pair": "pair", "sequence": "whole response"}.get(one.unit, f"{one.unit} response")
            yield f"objective {named} is about each {unit}, and {records.path} holds none: {remedy[one.unit]}"


def _a_negative_is_protected_in_part(objectives: Objectives, records: Records) -> Iterator[str]:
    settings = [f"data.protect = {records.protect}"] if records.protect != "none" else []
    settings += ["data.protect_tokens = true"] if records.protect_tokens else []
    for named, one in _whole_responses(objectives):
        if settings and one.unit != "positive" and records.holds.negative_sequences:
            yield (
                f"objective {named} compares whole responses, and {' and '.join(settings)} would leave tokens of the negatives "
                f"out of their sums: set data.protect to none and data.protect_tokens to false, or use an objective on tokens "
                f"(Unlikelihood, TokenNPO), which such protection is for"
            )


def _a_response_has_two_polarities(objectives: Objectives, records: Records) -> Iterator[str]:
    for named, _ in _whole_responses(objectives):
        if records.mixed:
            yield (
                f"objective {named} takes a response for good or bad as a whole, and {len(records.mixed)} record(s) have spans "
                f"of both polarities, such as {records.mixed[0]!r}: use objectives on tokens for them (Likelihood, Unlikelihood) "
                f"or split the records"
            )


def _a_response_is_several_turns(objectives: Objectives, records: Records) -> Iterator[str]:
    for named, _ in _whole_responses(objectives):
        if records.turns == "all":
            yield (
                f"objective {named} compares responses, and data.turns = all adds the earlier turns of the conversation to them, "
                f"which are the same in all: set data.turns to last, or use objectives on tokens"
            )


def _nothing_is_to_be_learnt(objectives: Objectives, records: Records) -> Iterator[str]:
    if not any(one.weight and records.holds.of(one) for one in objectives.values()):
        names = ", ".join(_named(name, one) for name, one in objectives.items())
        yield (
            f"none of the objectives {names} has a weight above 0 and anything in {records.path} to be about: change the "
            f"objectives, their weights or the records"
        )


RECORDS_RULES = (
    _there_are_no_such_responses,
    _a_negative_is_protected_in_part,
    _a_response_has_two_polarities,
    _a_response_is_several_turns,
    _nothing_is_to_be_learnt,
)


# Teacher and trainer


def _an_average_of_sharded_weights(teacher: LogitTeacher | None, trainer: Trainer) -> Iterator[str]:
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    sharded = isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy)
    if sharded and any(isinstance(part, EmaTeacher) for part in _parts(teacher)):
        yield (
            f"EmaTeacher averages whole weights, and {type(trainer.strategy).__name__} cuts them into shards: train with "
            f"trainer.strategy = ddp, or take BaseTeacher"
        )


def _an_average_of_half_precision(teacher: LogitTeacher | None, trainer: Trainer) -> Iterator[str]:
    if trainer.precision in ("bf16-true", "16-true") and any(isinstance(part, EmaTeacher) for part in _parts(teacher)):
        yield (
            f"EmaTeacher moves by small steps, which {trainer.precision} weights round away: train with trainer.precision = "
            f"bf16-mixed or 32-true"
        )


TRAINER_RULES = (_an_average_of_sharded_weights, _an_average_of_half_precision)
