"""The loop itself: which questions the student answers in an epoch, anew or with earlier samples, and what the epoch holds."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError, RenderError
from distill.on_policy.buffer import OwnResponse, ReplayBuffer
from distill.on_policy.sampling import draw, lot, read_questions
from distill.on_policy.settings import OnPolicy
from distill.records import read_records
from distill.render import Example, render
from distill.store import ExampleStore, StoreBuilder
from distill.template import response_tokens

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from transformers import PreTrainedTokenizerBase

    from distill.alignment import AlignedTokens

log = logging.getLogger(__name__)
VALIDATION_LOSS = "val/nats_per_positive"


@dataclass(frozen=True, kw_only=True)
class Own:
    """A group of the student's own responses, and the group on disk whose place it takes: itself, where it is one of them."""

    instead_of: str
    group: str
    responses: tuple[OwnResponse, ...]


def own_example(one: OwnResponse, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int | None = None) -> Example:
    """A response of the student's, rendered: marked as its own, and without its end of turn where it was cut off.

    Raises RenderError where no token of the response fits into max_tokens.
    """
    example = render(one.record, tokenizer, max_tokens=max_tokens, overlong="cut_response")
    weight = list(example.weight)
    if one.cut:
        end = example.prompt_length + len(response_tokens(one.record.response, tokenizer))
        weight[end:] = [0.0] * len(weight[end:])
    return replace(example, own=True, weight=tuple(weight))


class OnPolicyLoop:
    """Keeps the buffer, draws new samples when an epoch is due, and builds the epoch's store.

    path: the training records. builder, store: what they gave, before and after protection. build: protects and packs a builder.
    aligned: told of the student's responses too, where a teacher with another tokenizer reads them.
    Everything an epoch needs is in `state_dict`, so that a run stopped inside one goes on without drawing again.
    """

    def __init__(
        self,
        settings: OnPolicy,
        *,
        path: str,
        student: str,
        tokenizer: PreTrainedTokenizerBase,
        builder: StoreBuilder,
        store: ExampleStore,
        build: Callable[[StoreBuilder], ExampleStore],
        max_tokens: int | None,
        aligned: AlignedTokens | None = None,
    ) -> None:
        self._aligned = aligned
        self._settings, self._path, self._student, self._tokenizer = settings, path, student, tokenizer
        self._builder, self._store, self._build, self._max_tokens = builder, store, build, max_tokens
        self._candidates = store.groups if settings.prompts is None else _group_names(settings.prompts)
        self._buffer = ReplayBuffer(settings.buffer_size)
        self._epoch: int | None = None
        self._own: tuple[Own, ...] = ()
        self._share = settings.share if settings.adaptive is None else settings.adaptive.start
        self._reference: float | None = None  # the validation loss that the next ones are compared with
        self._validation: float | None = None  # the last one compared
        self._last_seen: float | None = None  # by the run that was stopped: Lightning's own metrics are in no checkpoint
        self._built: ExampleStore | None = None
        self._metrics: dict[str, float] = {}
        highest = settings.share if settings.adaptive is None else 1.0
        if settings.prompts is not None and round(highest * len(store.groups)) > len(self._candidates):
            raise ConfigError(
                f"on_policy takes up to {round(highest * len(store.groups))} of {len(store.groups)} questions, but "
                f"{settings.prompts} has {len(self._candidates)}; lower on_policy.share or add prompts"
            )
        needed = round(settings.share * len(store.groups)) * settings.samples
        if settings.every_n_epochs > 1 and settings.buffer_size < needed:
            raise ConfigError(
                f"on_policy.buffer_size is {settings.buffer_size}, and one epoch has {needed} samples: between two draws "
                f"(every_n_epochs = {settings.every_n_epochs}) the buffer must hold them; raise it or set every_n_epochs to 1"
            )

    @property
    def candidates(self) -> list[str]:
        """Names of the groups that the student may be asked about."""
        return list(self._candidates)

    def store(self, epoch: int, trainer: Trainer) -> ExampleStore:
        """The examples of an epoch; the student is asked once for each epoch that is due. All processes call it together."""
        if self._epoch != epoch:
            self._advance(epoch, trainer)
            self._epoch, self._built = epoch, None
        if self._built is None:
            self._built, in_use, responses = self._assemble()
            self._metrics |= {
                "own_share": in_use / len(self._store.groups),
                "own_responses": responses,
                "own_fallbacks": len(self._own) - in_use,
            }
        return self._built

    def metrics(self) -> dict[str, float]:
        """Of the epoch's own samples, as plain numbers.

        own_share: of the questions, answered by the student. own_responses: in use. own_generated, own_positive, own_negative,
        own_left_out: samples of the last draw. own_fallbacks: questions whose samples were all left out. own_seconds: what the
        draw took, the judge included. own_buffer: responses kept.
        """
        return dict(self._metrics)

    # Which questions

    def _advance(self, epoch: int, trainer: Trainer) -> None:
        settings = self._settings
        self._follow_validation(trainer)
        wanted = round(self._share * len(self._store.groups))
        due = epoch % settings.every_n_epochs == 0
        fresh = wanted if due else 0
        if due and settings.adaptive is not None:
            fresh = round(wanted * settings.adaptive.fresh_share(_done(trainer)))
        by_lot = sorted(self._candidates, key=lambda group: lot(settings.seed, epoch, group))
        # Replay takes any of the buffer by lot; between two draws it is the last one that counts.
        order = by_lot if settings.adaptive is not None else list(self._buffer)[::-1]
        # Taken out of the buffer before new samples push them out of it.
        again = {group: self._buffer[group] for group in [one for one in order if one in self._buffer][: wanted - fresh]}
        fresh = wanted - len(again) if due else 0
        asked = [group for group in by_lot if group not in again][:fresh]
        new = self._ask(asked, epoch, trainer)
        places = self._places([*again, *asked], epoch)
        self._own = tuple(
            Own(instead_of=place, group=group, responses=again.get(group) or new.get(group, ()))
            for group, place in places.items()
        )

    def _ask(self, groups: Sequence[str], epoch: int, trainer: Trainer) -> dict[str, tuple[OwnResponse, ...]]:
        settings = self._settings
        self._metrics = {"own_generated": 0, "own_positive": 0, "own_negative": 0, "own_left_out": 0, "own_seconds": 0.0}
        if groups:
            began = time.perf_counter()
            questions = read_questions(settings.prompts or self._path, groups)
            drawn = draw(
                questions, settings=settings, epoch=epoch, trainer=trainer, tokenizer=self._tokenizer, name=self._student
            )
            self._metrics = {
                "own_generated": drawn.generated,
                "own_positive": drawn.counts["positive"],
                "own_negative": drawn.counts["negative"],
                "own_left_out": drawn.left_out.total(),
                "own_seconds": time.perf_counter() - began,
            }
            if trainer.is_global_zero:
                _report(epoch, len(groups), self._metrics, drawn.left_out.most_common(3))
            found = {group: tuple(drawn.by_group[group]) for group in groups if group in drawn.by_group}
            for group, responses in found.items():
                self._buffer.add(group, responses)
        else:
            found = {}
        self._metrics["own_buffer"] = len(self._buffer)
        return found

    def _places(self, groups: Sequence[str], epoch: int) -> dict[str, str]:
        """Which group on disk each of the student's groups takes the place of: itself where it is one."""
        on_disk = set(self._store.groups)
        asked = set(groups)
        free = sorted(
            (name for name in self._store.groups if name not in asked),
            key=lambda name: lot(self._settings.seed, epoch, "place", name),
        )
        others = iter(free)
        return {group: group if group in on_disk else next(others) for group in groups}

    def _follow_validation(self, trainer: Trainer) -> None:
        adaptive, loss = self._settings.adaptive, self._validation_loss(trainer)
        if adaptive is None or loss is None or loss == self._validation:
            return
        self._validation = loss
        if self._reference is None:
            self._reference = loss
        elif loss >= self._reference + adaptive.tolerance:
            self._reference, self._share = loss, min(1.0, self._share + adaptive.step)

    def _validation_loss(self, trainer: Trainer) -> float | None:
        found = trainer.callback_metrics.get(VALIDATION_LOSS)
        return self._last_seen if found is None else float(found)

    # What the epoch holds

    def _assemble(self) -> tuple[ExampleStore, int, int]:
        """The store, and how many groups and responses of the student's are in it."""
        if not self._own:
            return self._store, 0, 0
        examples = {own.instead_of: (own.group, some) for own in self._own if (some := self._render(own))}
        while True:
            store = self._build(self._builder.with_own(examples, beside=self._settings.responses == "both"))
            names = set(store.groups)
            # Protection may spare every token of a negative; its group must not vanish, or the epoch would be shorter.
            kept = {place: own for place, own in examples.items() if own[0] in names}
            if len(kept) == len(examples):
                return store, len(kept), int(store.own_E.sum())
            examples = kept

    def _render(self, own: Own) -> list[Example]:
        found = []
        for one in own.responses:
            try:
                example = own_example(one, self._tokenizer, max_tokens=self._max_tokens)
                if self._aligned is not None:
                    self._aligned.add(one.record, example, again=True)
                found.append(example)
            except RenderError as error:
                log.info("a response of the student's is left out: %s", error)
        return found

    # Checkpoints

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """Plain JSON types: the buffer, the epoch's choice, the share and the validation losses that set it."""
        in_buffer = {group: self._buffer[group] for group in self._buffer}
        return {
            "epoch": self._epoch,
            "buffer": self._buffer.state_dict(),
            "own": [
                [
                    own.instead_of,
                    own.group,
                    None if in_buffer.get(own.group) == own.responses else [one.to_json() for one in own.responses],
                ]
                for own in self._own
            ],
            "share": self._share,
            "reference": self._reference,
            "validation": self._validation,
            "last_seen": self._validation_loss(trainer),
            "metrics": dict(self._metrics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._buffer.load_state_dict(state["buffer"])
        self._own = tuple(
            Own(
                instead_of=instead_of,
                group=group,
                responses=self._buffer[group] if responses is None else tuple(map(OwnResponse.from_json, responses)),
            )
            for instead_of, group, responses in state["own"]
        )
        self._epoch, self._built = state["epoch"], None
        self._share, self._reference, self._validation = state["share"], state["reference"], state["validation"]
        self._last_seen = state["last_seen"]
        self._metrics = dict(state["metrics"])


def _done(trainer: Trainer) -> float:
    total = trainer.estimated_stepping_batches
    if math.isinf(total):
        raise ConfigError(
            "on_policy.adaptive draws fewer samples towards the end of the run, and it has none: set max_epochs or max_steps"
        )
    return min(1.0, trainer.global_step / max(total, 1))


def _group_names(path: str) -> list[str]:
    return list(dict.fromkeys(record.group for record in read_records(Path(path))))


def _report(epoch: int, questions: int, metrics: dict[str, float], reasons: list[tuple[str, int]]) -> None:
    why = f" ({', '.join(f'{count} {reason}' for reason, count in reasons)})" if reasons else ""
    log.info(
        "epoch %d: the student answered %d questions in %.1f s: %d samples, %d positive, %d negative, %d left out%s",
        epoch,
        questions,
        metrics["own_seconds"],
        metrics["own_generated"],
        metrics["own_positive"],
        metrics["own_negative"],
        metrics["own_left_out"],
        why,
    )
