"""From records on disk to loaders of batches: read, render, split by group, protect, refuse what would mislead."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytorch_lightning import LightningDataModule

from distill.alignment import AlignedTokens
from distill.errors import ConfigError, RecordError, RenderError
from distill.loader import RecordLoader
from distill.on_policy import OnPolicy
from distill.on_policy.loop import OnPolicyLoop
from distill.records import read_records
from distill.rows import allows_prefix_sharing
from distill.store import ExampleStore, Protection, StoreBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


class RecordDataModule(LightningDataModule):
    """Records on disk -> training, validation and test batches.

    Args:
        train: path of the training records (JSONL, Parquet, or a folder of shards).
        validation: path of the validation records; None takes `validation_fraction` of the training groups.
        test: path of the test records, read only by `test`; `fit` still refuses to start where it shares a group with them.
        predict: path of the records whose responses `predict` scores; None takes those of `train`. They are scored as they
            are: nothing is spared by `protect` or `protect_tokens`.
        validation_fraction: share of the training groups held out when `validation` is None. The choice depends on the groups'
            names only, so that runs with different seeds are compared on the same questions.
        student: name or folder of the student, whose tokenizer renders the records.
        batch_size: groups (questions) per micro-batch and rank. More is faster and needs more memory.
        max_tokens: longest prompt plus response in tokens; None sets no limit.
        turns: train on the last assistant turn only, or on all of them.
        prefix_sharing: put a question's responses behind one copy of their prompt, where the model allows it. The same, faster.
        bucket_window: groups that are sorted by length together. Larger means less padding and less mixing of lengths.
        negatives_per_group: at most this many negatives per group and epoch, drawn anew each epoch; None takes all.
        protect: which tokens of a negative are spared for the sake of the positives of its group with the same prompt.
            "none": none; "shared_prefix": those before the first token in which it differs from every positive;
            "first_difference": all but that first differing token (or, where `protect_tokens` spares that one, the first one
            after it that is not spared).
        protect_tokens: never penalise punctuation, white space or special tokens (the end of turn among them).
        seed: order of the groups and choice of the negatives.
        teacher_tokenizer: name or folder of a teacher that does not share the student's tokenizer: the records are rendered for
            it too. `distill fit` sets it where model.teacher is a CrossTeacher.
        on_policy: let the student itself answer a share of the questions anew between epochs, and mark what it says. None: no.

    Raises:
        RecordError: two of the paths share a group. RenderError: records that cannot be rendered, named before training starts;
            `predict` leaves those out, and says why in `left_out`.
    """

    def __init__(
        self,
        train: str,
        student: str,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        validation_fraction: float = 0.0,
        batch_size: int = 8,
        max_tokens: int | None = 1024,
        turns: Literal["last", "all"] = "last",
        prefix_sharing: bool = True,
        bucket_window: int = 512,
        negatives_per_group: int | None = None,
        protect: Protection = "shared_prefix",
        protect_tokens: bool = True,
        seed: int = 0,
        teacher_tokenizer: str | None = None,
        on_policy: OnPolicy | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= validation_fraction < 1:
            raise ConfigError(f"validation_fraction is {validation_fraction}; give a share of the groups in [0, 1)")
        if validation is not None and validation_fraction:
            raise ConfigError(
                f"both validation = {validation!r} and validation_fraction = {validation_fraction} are given; keep one"
            )
        for name, value in {"batch_size": batch_size, "bucket_window": bucket_window}.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it counts groups, at least 1")
        if negatives_per_group is not None and negatives_per_group < 0:
            raise ConfigError(f"negatives_per_group is {negatives_per_group}; give a number >= 0, or null for all of them")
        if teacher_tokenizer is not None and turns == "all":
            raise ConfigError(
                f"turns = 'all' and teacher_tokenizer = {teacher_tokenizer!r}: each model's own template writes the earlier "
                f"turns, and where it trims or rewrites them the two have no text in common; set turns to last"
            )
        self.save_hyperparameters(ignore=["on_policy"])  # no plain value; a checkpoint could not be loaded without pickles
        self._train_path, self._validation_path, self._test_path = train, validation, test
        self.predict_path = train if predict is None else predict
        self._validation_fraction = validation_fraction
        self._student = student
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._turns = turns
        self._prefix_sharing = prefix_sharing
        self._bucket_window = bucket_window
        self._negatives_per_group = negatives_per_group
        self._protect: Protection = protect
        self._protect_tokens = protect_tokens
        self._seed = seed
        self.on_policy = on_policy
        self._loop: OnPolicyLoop | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._teacher_tokenizer = teacher_tokenizer
        self._aligned: dict[str, AlignedTokens] = {}  # by path, where a teacher has a tokenizer of its own
        self._training_loader: RecordLoader | None = None
        self._resume: dict[str, Any] | None = None
        self.stores: dict[str, ExampleStore] = {}  # "train", "validation", "test", "predict": read once, whatever the stages
        self.left_out: dict[str, str] = {}  # ids of the records that `predict` cannot score, and why

    def setup(self, stage: str) -> None:
        """Read, render, split and check; called by Lightning on every rank."""
        if stage == "validate" and self._validation_path is None and not self._validation_fraction:
            raise ConfigError("there are no validation records: set data.validation to a path, or data.validation_fraction")
        if stage in ("fit", "validate") and "train" not in self.stores:
            train = self._read(self._train_path)
            if self._validation_path is not None:
                self.stores["validation"] = self._finish("validation", self._read(self._validation_path))
                _refuse_shared_groups(
                    self._train_path, set(train.groups), self._validation_path, set(self.stores["validation"].groups)
                )
            elif self._validation_fraction:
                train, held_out = train.split(_held_out(train.groups, self._validation_fraction))
                self.stores["validation"] = self._finish("validation", held_out)
            if self._test_path is not None:
                test_groups = _groups(self._test_path)
                _refuse_shared_groups(self._train_path, set(train.groups), self._test_path, test_groups)
                if "validation" in self.stores:
                    name = self._validation_path or f"the held-out part of {self._train_path}"
                    _refuse_shared_groups(name, set(self.stores["validation"].groups), self._test_path, test_groups)
            self.stores["train"] = self._finish("train", train)
            if self.on_policy is not None and stage == "fit":
                self._loop = self._start_loop(self.on_policy, train)
        if stage == "test" and "test" not in self.stores:
            if self._test_path is None:
                raise ConfigError("there are no test records: set data.test to a path")
            self.stores["test"] = self._finish("test", self._read(self._test_path))
        if stage == "predict" and "predict" not in self.stores:
            self.stores["predict"] = self._read_to_predict(self.predict_path)

    def train_dataloader(self) -> RecordLoader:
        """One rank's batches of one training epoch; a new order in every epoch."""
        self._training_loader = self._loader("train")
        if self._resume is not None:
            self._training_loader.load_state_dict(self._resume)
        return self._training_loader

    def state_dict(self) -> dict[str, Any]:
        """The training loader's state, and what the student has said; Lightning puts it into every checkpoint.

        Lightning saves the loader's a second time with the loader itself, but does not load that one when something, such as a
        learning rate schedule, has asked for the number of steps before the checkpoint's progress was restored.
        """
        if self._training_loader is None:
            return {}
        state: dict[str, Any] = {"training_loader": self._training_loader.state_dict()}
        if self._loop is not None and self.trainer is not None:
            state["on_policy"] = self._loop.state_dict(self.trainer)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand the state to the training loader, made already or not yet."""
        self._resume = state_dict["training_loader"]
        if self._training_loader is not None:
            self._training_loader.load_state_dict(self._resume)
        if self._loop is not None and "on_policy" in state_dict:
            self._loop.load_state_dict(state_dict["on_policy"])

    def val_dataloader(self) -> RecordLoader | list[RecordLoader]:
        """The validation batches, longest last; an empty list without validation records."""
        return self._loader("validation") if "validation" in self.stores else []

    def test_dataloader(self) -> RecordLoader:
        """The test batches, longest last."""
        return self._loader("test")

    def predict_dataloader(self) -> RecordLoader:
        """The batches to score, longest last."""
        return self._loader("predict")

    def own_metrics(self) -> dict[str, float]:
        """What an on-policy run reports of the student's own samples in this epoch; nothing otherwise."""
        return {} if self._loop is None else self._loop.metrics()

    def _start_loop(self, settings: OnPolicy, builder: StoreBuilder) -> OnPolicyLoop:
        tokenizer, store = self._load_tokenizer(), self.stores["train"]
        if settings.adaptive is not None and "validation" not in self.stores:
            raise ConfigError(
                "on_policy.adaptive follows the validation loss, and there are no validation records: set data.validation or "
                "data.validation_fraction"
            )
        loop = OnPolicyLoop(
            settings,
            path=self._train_path,
            student=self._student,
            tokenizer=tokenizer,
            builder=builder,
            store=store,
            build=lambda own: own.build(tokenizer, protect=self._protect, protect_tokens=self._protect_tokens)[0],
            max_tokens=self._max_tokens,
            aligned=self._aligned.get(self._train_path),
        )
        if settings.prompts is not None:
            for name, path in (("validation", self._validation_path), ("test", self._test_path)):
                others = set(self.stores[name].groups) if name in self.stores else _groups(path) if path else set()
                path = path or f"the held-out part of {self._train_path}"
                _refuse_shared_groups(settings.prompts, set(loop.candidates), path, others)
        return loop

    def _epoch_store(self, epoch: int) -> tuple[ExampleStore, bool]:
        """What the loop gives for an epoch, and whether its rows may share prompts."""
        assert self._loop is not None and self.trainer is not None
        store = self._loop.store(epoch, self.trainer)
        return store, self._shares_prefixes(store)

    def _shares_prefixes(self, store: ExampleStore) -> bool:
        return self._prefix_sharing and allows_prefix_sharing(self._model(), longest=store.longest_row())

    def _loader(self, name: str) -> RecordLoader:
        store, tokenizer = self.stores[name], self._load_tokenizer()
        training = name == "train"
        paths = {"validation": self._validation_path or self._train_path, "test": self._test_path, "train": self._train_path}
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return RecordLoader(
            store,
            pad_id=int(pad_id or 0),
            batch_size=self._batch_size,
            shared=self._shares_prefixes(store),
            bucket_window=self._bucket_window,
            negatives_per_group=self._negatives_per_group if training else None,
            seed=self._seed,
            training=training,
            trainer=self.trainer,
            refresh=self._epoch_store if training and self._loop is not None else None,
            aligned=self._aligned.get(paths.get(name) or ""),  # no loss is asked when a student predicts
        )

    def _model(self) -> Any:
        """The model that the batches are for: `StudentModule.model`."""
        if self.trainer is None:
            raise ConfigError(
                "the data module is not attached to a trainer; pass it as datamodule=, or set prefix_sharing to false"
            )
        return self.trainer.lightning_module.model

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            from distill.models import load_tokenizer

            self._tokenizer = load_tokenizer(self._student)
        return self._tokenizer

    def _read(self, path: str) -> StoreBuilder:
        """Render every record of a file; unrenderable ones are reported together."""
        from distill.render import render

        tokenizer, builder, failures = self._load_tokenizer(), StoreBuilder(), []
        aligned = self._start_alignment(path)
        for record in read_records(Path(path)):
            if record.weight == 0 and not record.spans:
                builder.leave_out("of weight 0")
                continue
            try:
                example = render(record, tokenizer, max_tokens=self._max_tokens, turns=self._turns)
                if aligned is not None:
                    aligned.add(record, example)
                builder.add(example)
            except RenderError as error:
                failures.append(str(error))
        if failures:
            more = f"\n... and {len(failures) - 5} more" if len(failures) > 5 else ""
            raise RenderError(f"{path}: {len(failures)} records cannot be rendered:\n" + "\n".join(failures[:5]) + more)
        if not builder.groups:
            raise RecordError(f"{path}: no record is left to train on or to validate with")
        return builder

    def _start_alignment(self, path: str) -> AlignedTokens | None:
        """Where the records of a file are kept in the teacher's tokens; None where it has the student's."""
        if self._teacher_tokenizer is None:
            return None
        from distill.models import load_tokenizer

        teacher = load_tokenizer(self._teacher_tokenizer)
        self._aligned[path] = AlignedTokens(self._load_tokenizer(), teacher, name=self._teacher_tokenizer)
        return self._aligned[path]

    def _read_to_predict(self, path: str) -> ExampleStore:
        """Render every record that can be rendered; note why the others cannot."""
        from distill.render import render

        tokenizer, builder, seen = self._load_tokenizer(), StoreBuilder(), set()
        for record in read_records(Path(path)):
            if record.id in seen:
                raise RecordError(
                    f"{path}: the id {record.id!r} is used twice, so that its prediction would be ambiguous; give each record "
                    f"its own (`distill records validate` lists them)"
                )
            seen.add(record.id)
            try:
                builder.add(render(record, tokenizer, max_tokens=self._max_tokens, turns=self._turns))
            except RenderError as error:
                reason = "of weight 0" if record.weight == 0 else "that cannot be rendered"
                builder.leave_out(reason)
                self.left_out[record.id] = str(error)
        if not builder.groups:
            first = next(iter(self.left_out.values()))
            raise RecordError(f"{path}: none of {len(seen)} records can be scored; the first: {first}")
        store, left_out = builder.build(tokenizer, protect="none", protect_tokens=False)
        _log_summary("predict", store, left_out)
        return store

    def _finish(self, name: str, builder: StoreBuilder) -> ExampleStore:
        store, left_out = builder.build(self._load_tokenizer(), protect=self._protect, protect_tokens=self._protect_tokens)
        _log_summary(name, store, left_out)
        return store


def _held_out(groups: list[str], fraction: float) -> set[str]:
    """The groups with the smallest hashes: as good as random, the same for every seed and every order of the file."""
    by_hash = sorted(groups, key=lambda group: hashlib.blake2b(group.encode(), digest_size=8).digest())
    count = max(1, round(fraction * len(groups)))
    if count >= len(groups):
        raise ConfigError(f"validation_fraction = {fraction} of {len(groups)} groups leaves no group to train on; add records")
    return set(by_hash[:count])


def _groups(path: str) -> set[str]:
    return {record.group for record in read_records(Path(path))}


def _refuse_shared_groups(left_path: str, left: set[str], right_path: str, right: set[str]) -> None:
    shared = sorted(left & right)
    if shared:
        raise RecordError(
            f"{left_path} and {right_path} share {len(shared)} group(s), such as {shared[0]!r}: a student would be measured on "
            "questions it was trained on. Split by group, so that all records of one question are in one file."
        )


def _log_summary(name: str, store: ExampleStore, left_out: Counter[str]) -> None:
    positives, negatives = store.totals()
    log.info(
        "%s: %d questions, %d records, %d positive and %d negative tokens",
        name,
        len(store.groups),
        len(store),
        positives,
        negatives,
    )
    for reason, count in sorted(left_out.items()):
        log.info("%s: left out %d record(s) %s", name, count, reason)
    unpaired = store.groups_without_positives()
    if unpaired and name != "predict":
        log.warning(
            "%s: %d question(s) have negatives and no positive: a penalty alone only promotes the next wrong answer",
            name,
            unpaired,
        )
