"""How the live student answers: the questions that are asked, the draw on every process, and what becomes of each sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import RecordError
from distill.on_policy.buffer import OwnResponse
from distill.on_policy.markers import Sample
from distill.on_policy.settings import OnPolicy
from distill.records import Prompt, Record, read_records
from distill.teachers.base import Completion, Sampling

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from transformers import PreTrainedTokenizerBase

SOURCE = "on_policy"


@dataclass(frozen=True, kw_only=True)
class Question:
    """The distinct prompts of a group, and its whole positive responses."""

    group: str
    prompts: tuple[Prompt, ...]
    references: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Drawn:
    """What a draw gave. by_group: marked responses, no group without any. generated: samples. counts: samples of each polarity.
    left_out: reasons, counted.
    """

    by_group: dict[str, list[OwnResponse]] = field(default_factory=dict)
    generated: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def lot(*facts: object) -> bytes:
    """Bytes as good as random that depend on the facts only; sorting by them shuffles."""
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()


def read_questions(path: str, groups: Collection[str]) -> list[Question]:
    """The questions of some groups, in the order of the file. RecordError where one is missing: the file was changed."""
    prompts: dict[str, dict[Prompt, None]] = {}
    references: dict[str, dict[str, None]] = {}
    wanted = set(groups)
    for record in read_records(Path(path)):
        if record.group in wanted:
            prompts.setdefault(record.group, {})[record.prompt] = None
            if record.polarity == "positive" and not record.spans and record.weight > 0:
                references.setdefault(record.group, {})[record.response] = None
    if missing := wanted - prompts.keys():
        raise RecordError(f"{path}: the group {min(missing)!r} is gone; the file was changed while it is trained on, put it back")
    return [
        Question(group=group, prompts=tuple(some), references=tuple(references.get(group, ()))) for group, some in prompts.items()
    ]


def draw(
    questions: Sequence[Question],
    *,
    settings: OnPolicy,
    epoch: int,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> Drawn:
    """The live student's marked responses to the questions, the same on every process.

    Where each process holds the whole model it draws and marks its share, and all are gathered. Where the model is sharded all
    processes draw all samples together, and the first one marks them.
    """
    asked = [(question, number) for question in questions for number in range(len(question.prompts))]
    whole_model = _holds_whole_model(trainer)
    world, rank = trainer.world_size, trainer.global_rank
    mine = asked[rank::world] if whole_model else asked
    seed = int.from_bytes(lot(settings.seed, epoch), "little")
    sampling = Sampling(
        n=settings.samples, temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens, seed=seed
    )
    said = _generate([question.prompts[number] for question, number in mine], sampling, settings.rows, trainer, tokenizer, name)
    found = _mark(mine, said, settings) if whole_model or rank == 0 else []
    if world > 1:
        found = _gather(found, len(asked), world) if whole_model else trainer.strategy.broadcast(found)
    drawn = Drawn(generated=len(asked) * settings.samples)
    for (question, _), outcomes in zip(asked, found, strict=True):
        for outcome in outcomes:
            if isinstance(outcome, str):
                drawn.left_out[outcome] += 1
            else:
                drawn.counts[outcome.record.polarity] += 1
                drawn.by_group.setdefault(question.group, []).append(outcome)
    return drawn


Outcome = OwnResponse | str
"""A marked response, or the reason why the sample was left out."""


def _generate(
    prompts: Sequence[Prompt], sampling: Sampling, rows: int, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, name: str
) -> list[list[Completion]]:
    from distill.teachers.huggingface import HuggingFaceTeacher

    model: Any = trainer.lightning_module.model
    teacher = HuggingFaceTeacher.from_loaded(model, tokenizer, name, rows=rows)
    # The precision of training: under bf16-mixed the student is the model that it is under autocast.
    with _modes_kept(model), trainer.precision_plugin.forward_context():
        return teacher.generate(prompts, sampling)


@contextmanager
def _modes_kept(model: Any) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _mark(asked: Sequence[tuple[Question, int]], said: Sequence[Sequence[Completion]], settings: OnPolicy) -> list[list[Outcome]]:
    """For each prompt, what became of each of its samples."""
    samples = [
        Sample(
            prompt=question.prompts[number],
            response=completion.text,
            finish=completion.finish,
            references=question.references if settings.marker.needs_references else (),
        )
        for (question, number), completions in zip(asked, said, strict=True)
        for completion in completions
    ]
    marks = iter(settings.marker.mark([sample for sample in samples if sample.response]))
    outcomes = iter([_outcome(sample, next(marks)) if sample.response else "empty" for sample in samples])
    found: list[list[Outcome]] = []
    for (question, number), completions in zip(asked, said, strict=True):
        some = [next(outcomes) for _ in completions]
        # The same ids in every epoch: what is kept by id (another tokenizer's tokens) does not grow.
        found.append([_named(one, question.group, f"{number}/{place}") for place, one in enumerate(some)])
    return found


def _outcome(sample: Sample, mark: Any) -> Outcome:
    if mark.polarity is None:
        return mark.reason or "unmarked"
    record = Record(
        id=SOURCE, group=SOURCE, prompt=sample.prompt, response=sample.response, polarity=mark.polarity, source=SOURCE,
        evidence=mark.evidence,
    )  # fmt: skip
    return OwnResponse(record=record, cut=sample.finish == "length")


def _named(outcome: Outcome, group: str, place: str) -> Outcome:
    if isinstance(outcome, str):
        return outcome
    return replace(outcome, record=replace(outcome.record, id=f"{group}/own/{place}", group=group))


def _holds_whole_model(trainer: Trainer) -> bool:
    from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

    # By exact type: DeepSpeed's strategy is a subclass of DDP's and may shard.
    return type(trainer.strategy) is DDPStrategy or isinstance(trainer.strategy, SingleDeviceStrategy)


def _gather(mine: list[list[Outcome]], total: int, world: int) -> list[list[Outcome]]:
    """All processes' outcomes, in the order of the questions."""
    import torch.distributed

    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, mine)
    return [parts[place % world][place // world] for place in range(total)]
