"""Which settings make sense together: a run is held against these rules before anything is loaded or computed.

A rule yields one message for each thing that makes no sense: what was asked for, why it cannot be, what to do instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.errors import ConfigError, TeacherError
from distill.objectives import (
    HiddenObjective,
    HiddenStateMatching,
    NegativeSampleReinforcement,
    Objective,
    SequenceObjective,
    TokenObjective,
)
from distill.objectives.divergences import Divergence
from distill.on_policy import AllNegative, OnPolicy, Unmarked
from distill.plan import choose_negatives
from distill.rows import StepCounts
from distill.teachers.base_model import BaseTeacher
from distill.teachers.ema import EmaTeacher
from distill.teachers.logits import LogitTeacher
from distill.teachers.mixture import MixtureTeacher

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from distill.data import RecordDataModule

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a student's settings say. reference: the folder of stored log-probabilities. skip_unpaired_negatives: whether steps
    without positives rest.
    """

    objectives: Mapping[str, Objective]
    teacher: LogitTeacher | None = None
    reference: str | None = None
    skip_unpaired_negatives: bool = True

    def readers(self) -> Iterator[tuple[str, Objective]]:
        """The objectives that compare with a teacher, by how messages call them."""
        for name, one in self.objectives.items():
            if one.needs_teacher or _is_cross(one) or isinstance(one, HiddenObjective):
                yield _called(name, one), one

    def sequences(self) -> Iterator[tuple[str, SequenceObjective]]:
        """The objectives on whole responses, by how messages call them."""
        for name, one in self.objectives.items():
            if isinstance(one, SequenceObjective):
                yield _called(name, one), one


@dataclass(frozen=True, kw_only=True)
class Records:
    """What the training records hold and how they are read. holds: of the first epoch, as of one step. mixed: ids of the records
    whose response is to be said in one part and avoided in another. on_policy: how the student adds its own to them.
    teacher_tokenizer: for which other model they are rendered too.
    """

    path: str
    holds: StepCounts
    mixed: list[str]
    protect: str
    protect_tokens: bool
    turns: str
    on_policy: OnPolicy | None = None
    teacher_tokenizer: str | None = None

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
            on_policy=data.on_policy,
            teacher_tokenizer=settings.get("teacher_tokenizer"),
            **{name: settings[name] for name in ("protect", "protect_tokens", "turns")},
        )


def check_settings(chosen: Chosen) -> None:
    """Raises ConfigError for settings that do not fit each other; no file is read for it but the manifest of a stored signal.

    A signal that is not here is let pass: an export or a prediction asks none. `StudentModule.setup` does not.
    """
    _refuse(message for rule in SETTINGS_RULES for message in rule(chosen))


def check_records(chosen: Chosen, records: Records) -> None:
    """Raises ConfigError for settings to which the training records, or the way they are read, give nothing or half of a thing.

    Warns of what is likely a mistake.
    """
    _refuse(message for rule in RECORDS_RULES for message in rule(chosen, records))
    for name, one in chosen.objectives.items():
        if isinstance(one, TokenObjective | HiddenObjective) and not _is_there(one, records):
            log.warning("objective %s has nothing to do: %s holds no %s tokens", _called(name, one), records.path, one.positions)
    at_rest = [one for one in chosen.objectives.values() if one.weight and not isinstance(one, Divergence | HiddenStateMatching)]
    if not at_rest and all(isinstance(part, BaseTeacher | EmaTeacher) for part in _parts(chosen.teacher)):
        log.warning(
            "the student begins equal to its teacher, where every divergence and its gradient is 0: without dropout nothing will "
            "be learnt. Add an objective that moves it, such as Likelihood"
        )


def check_trainer(chosen: Chosen, trainer: Trainer) -> None:
    """Raises ConfigError for a teacher that cannot live under the trainer's strategy and precision."""
    _refuse(message for rule in TRAINER_RULES for message in rule(chosen, trainer))


def _refuse(messages: Iterable[str]) -> None:
    if found := list(messages):
        raise ConfigError("\n".join(found))


def _called(name: str, objective: Objective) -> str:
    return f"{name!r} ({type(objective).__name__})"


def _is_cross(objective: Objective) -> bool:
    return isinstance(objective, TokenObjective) and objective.needs_cross


def _is_there(objective: Objective, records: Records) -> bool:
    """Whether there is anything that the objective is about; what the student will say itself is not known."""
    return records.on_policy is not None or records.holds.of(objective) > 0


def _parts(teacher: LogitTeacher | None) -> Iterator[LogitTeacher]:
    if isinstance(teacher, MixtureTeacher):
        for part in teacher.teachers:
            yield from _parts(part)
    elif teacher is not None:
        yield teacher


# Objectives and teacher


def _a_teacher_is_missing(chosen: Chosen) -> Iterator[str]:
    if chosen.teacher is None:
        for called, _ in chosen.readers():
            yield (
                f"objective {called} compares the student with a teacher, and there is none: set model.teacher, to LiveTeacher "
                f"for example, or train on the records alone with Likelihood"
            )


def _nobody_reads_the_teacher(chosen: Chosen) -> Iterator[str]:
    if chosen.teacher is not None and not list(chosen.readers()):
        yield (
            f"model.teacher is a {type(chosen.teacher).__name__}, and none of the objectives ({', '.join(chosen.objectives)}) "
            f"reads it: leave it out, or add an objective that compares with a teacher, such as ForwardKL"
        )


def _the_signal_is_of_a_kind_that_the_objective_cannot_use(chosen: Chosen) -> Iterator[str]:
    wanting = [(called, one) for called, one in chosen.readers() if not isinstance(one, HiddenObjective)]
    if chosen.teacher is None or not wanting:
        return
    try:
        kind, teacher = chosen.teacher.kind(), type(chosen.teacher).__name__
    except TeacherError:  # a stored signal that is not here
        return
    for called, one in wanting:
        if kind is None:
            yield (
                f"objective {called} needs a distribution, and {teacher} gives none: use EmbeddingMatching with it, or a teacher "
                f"that gives distributions, such as LiveTeacher"
            )
        elif kind != "dense" and isinstance(one, Divergence) and one.temperature != 1:
            yield (
                f"objective {called} has temperature {one.temperature}, and {teacher} gives a {kind} signal, which does not say "
                f"how the rest of the mass is spread: set temperature to 1, or store the exact signal (--kind exact)"
            )
        elif kind not in one.signals:
            wanted = " or ".join(sorted(one.signals))
            yield (
                f"objective {called} is right for a {wanted} signal only, and {teacher} gives a {kind} one: use ForwardKL, which "
                f"is right for any, or a teacher that gives a {wanted} one (LiveTeacher gives whole, dense distributions)"
            )


def _tokenizers_are_mixed_up(chosen: Chosen) -> Iterator[str]:
    for called, one in chosen.readers():
        if chosen.teacher is None or isinstance(one, HiddenObjective):
            continue
        teacher = type(chosen.teacher).__name__
        if _is_cross(one) and not chosen.teacher.gives_cross:
            yield (
                f"objective {called} compares across two tokenizers, and {teacher} speaks the student's: use ForwardKL or "
                f"another divergence, which is exact there, or a teacher with a tokenizer of its own"
            )
        elif not _is_cross(one) and chosen.teacher.gives_cross:
            yield (
                f"objective {called} compares token by token, and {teacher} speaks in tokens of its own: use SpanAlignedKL or "
                f"UniversalLogit, or LiveTeacher with a model of the student's family"
            )


def _the_teacher_shows_no_such_states(chosen: Chosen) -> Iterator[str]:
    for called, one in chosen.readers():
        if chosen.teacher is None or not isinstance(one, HiddenObjective):
            continue
        teacher = type(chosen.teacher).__name__
        if one.reads_embedding and not chosen.teacher.gives_embedding:
            yield (
                f"objective {called}: {teacher} serves no embeddings; use EmbeddingTeacher or StoredEmbeddings, or "
                f"HiddenStateMatching if it is a model"
            )
        elif not one.reads_embedding and not chosen.teacher.gives_hidden:
            yield (
                f"objective {called}: {teacher} shows no hidden states; use LiveTeacher, or an objective on what it gives, such "
                f"as ForwardKL or EmbeddingMatching"
            )


def _nobody_reads_the_reference(chosen: Chosen) -> Iterator[str]:
    if chosen.reference is not None and not any(one.needs_reference for one in chosen.objectives.values()):
        yield (
            f"model.reference is {chosen.reference}, and none of the objectives ({', '.join(chosen.objectives)}) compares with a "
            f"reference: leave it out, or use one that does, such as DPO or NPO"
        )


SETTINGS_RULES = (
    _a_teacher_is_missing,
    _nobody_reads_the_teacher,
    _the_signal_is_of_a_kind_that_the_objective_cannot_use,
    _tokenizers_are_mixed_up,
    _the_teacher_shows_no_such_states,
    _nobody_reads_the_reference,
)


# Objectives and records


def _there_are_no_such_responses(chosen: Chosen, records: Records) -> Iterator[str]:
    remedy = {
        "pair": "positives and negatives must share group and prompt; without such pairs use an objective on each alone, such as "
        "Likelihood with Unlikelihood",
        "positive": "add positive records, or use an objective on negatives",
        "negative": "add negative records (`distill recipe` makes some), or train with Likelihood alone",
        "sequence": "add records whose whole response is positive or negative",
    }
    for called, one in chosen.sequences():
        if not _is_there(one, records):
            unit = {"pair": "pair", "sequence": "whole response"}.get(one.unit, f"{one.unit} response")
            yield f"objective {called} is about each {unit}, and {records.path} holds none: {remedy[one.unit]}"


def _a_negative_is_protected_in_part(chosen: Chosen, records: Records) -> Iterator[str]:
    settings = [f"data.protect = {records.protect}"] if records.protect != "none" else []
    settings += ["data.protect_tokens = true"] if records.protect_tokens else []
    negatives = records.holds.negative_sequences or records.on_policy is not None
    for called, one in chosen.sequences():
        if settings and negatives and one.unit != "positive":
            yield (
                f"objective {called} compares whole responses, and {' and '.join(settings)} would leave tokens of the negatives "
                f"out of their sums: set data.protect to none and data.protect_tokens to false, or use an objective on tokens "
                f"(Unlikelihood, TokenNPO), which such protection is for"
            )


def _a_response_has_two_polarities(chosen: Chosen, records: Records) -> Iterator[str]:
    for called, _ in chosen.sequences():
        if records.mixed:
            yield (
                f"objective {called} takes a response for good or bad as a whole, and {len(records.mixed)} record(s) have spans "
                f"of both polarities, such as {records.mixed[0]!r}: use objectives on tokens for them (Likelihood, "
                f"Unlikelihood), or split the records"
            )


def _a_response_is_several_turns(chosen: Chosen, records: Records) -> Iterator[str]:
    for called, _ in chosen.sequences():
        if records.turns == "all":
            yield (
                f"objective {called} compares responses, and data.turns = all adds the earlier turns of the conversation to "
                f"them, which are the same in all: set data.turns to last, or use objectives on tokens"
            )


def _nothing_is_to_be_learnt(chosen: Chosen, records: Records) -> Iterator[str]:
    if not any(one.weight and _is_there(one, records) for one in chosen.objectives.values()):
        names = ", ".join(_called(name, one) for name, one in chosen.objectives.items())
        yield (
            f"none of the objectives {names} has a weight above 0 and anything in {records.path} to be about: change the "
            f"objectives, their weights or the records"
        )


def _what_the_student_says_was_never_stored(chosen: Chosen, records: Records) -> Iterator[str]:
    if records.on_policy is None:
        return
    if chosen.teacher is not None and not chosen.teacher.reads_new_text:
        yield (
            f"data.on_policy trains on texts that the student is yet to write, and {type(chosen.teacher).__name__} knows stored "
            f"ones only: take LiveTeacher, or leave on_policy out"
        )
    if chosen.reference is not None:
        yield (
            f"data.on_policy trains on texts that the student is yet to write, and model.reference = {chosen.reference} knows "
            f"stored ones only: leave reference out, so that a copy of the student is asked, or leave on_policy out"
        )
    for name, one in chosen.objectives.items():
        if isinstance(one, NegativeSampleReinforcement) and one.needs_reference:
            yield (
                f"objective {_called(name, one)} weighs samples that the student before training drew, and data.on_policy draws "
                f"them from the student in training: set importance to none"
            )


def _nobody_says_what_the_students_texts_are_worth(chosen: Chosen, records: Records) -> Iterator[str]:
    if records.on_policy is not None and isinstance(records.on_policy.marker, Unmarked) and not list(chosen.readers()):
        yield (
            "data.on_policy leaves the student's texts unmarked, and no objective compares them with a teacher: the student "
            "would learn to say what it says. Set on_policy.marker (JudgeMarker, AllNegative), or a teacher and ForwardKL"
        )


def _nobody_looks_at_what_the_student_says(chosen: Chosen, records: Records) -> Iterator[str]:
    if records.on_policy is None or not isinstance(records.on_policy.marker, AllNegative):
        return
    about: set[str] = set()
    for one in chosen.objectives.values():
        assert isinstance(one, TokenObjective | SequenceObjective | HiddenObjective)
        about.add(one.unit if isinstance(one, SequenceObjective) else one.positions)
    if about <= {"positive"}:
        yield (
            f"data.on_policy makes the student's texts negative (AllNegative), and none of the objectives "
            f"({', '.join(chosen.objectives)}) is about negatives: add one, such as SequenceUnlikelihood, or leave on_policy out"
        )


def _records_are_rendered_for_another_teacher(chosen: Chosen, records: Records) -> Iterator[str]:
    crosses = chosen.teacher is not None and chosen.teacher.gives_cross
    if crosses and records.teacher_tokenizer is None:
        yield (
            f"{type(chosen.teacher).__name__} reads the records in its own tokens, and they are rendered for the student alone: "
            f"set data.teacher_tokenizer to the teacher's model"
        )
    if not crosses and records.teacher_tokenizer is not None:
        yield (
            f"data.teacher_tokenizer = {records.teacher_tokenizer} renders the records for a teacher with its own tokenizer, "
            f"and there is none: leave it out, or set model.teacher to CrossTeacher"
        )


RECORDS_RULES = (
    _there_are_no_such_responses,
    _a_negative_is_protected_in_part,
    _a_response_has_two_polarities,
    _a_response_is_several_turns,
    _nothing_is_to_be_learnt,
    _what_the_student_says_was_never_stored,
    _nobody_says_what_the_students_texts_are_worth,
    _nobody_looks_at_what_the_student_says,
    _records_are_rendered_for_another_teacher,
)


# Teacher and trainer


def _an_average_of_sharded_weights(chosen: Chosen, trainer: Trainer) -> Iterator[str]:
    from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

    sharded = isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy)
    if sharded and any(isinstance(part, EmaTeacher) for part in _parts(chosen.teacher)):
        yield (
            f"EmaTeacher averages whole weights, and {type(trainer.strategy).__name__} cuts them into shards: train with "
            f"trainer.strategy = ddp, or take BaseTeacher"
        )


def _an_average_of_half_precision(chosen: Chosen, trainer: Trainer) -> Iterator[str]:
    if trainer.precision in ("bf16-true", "16-true") and any(isinstance(part, EmaTeacher) for part in _parts(chosen.teacher)):
        yield (
            f"EmaTeacher moves by small steps, which {trainer.precision} weights round away: train with trainer.precision = "
            f"bf16-mixed or 32-true"
        )


TRAINER_RULES = (_an_average_of_sharded_weights, _an_average_of_half_precision)
