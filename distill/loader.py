"""The batches of one epoch for one rank, and where in it training is.

Which group meets which optimiser step is a pure function of (seed, epoch) and the total number of groups per step; how a
step is cut into micro-batches and ranks is a pure function of the rest. So each batch knows the number of supervised
positions in its whole step without communication, and a resumed run goes on at the very batch where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pytorch_lightning import Trainer

from distill.alignment import AlignedTokens
from distill.errors import ConfigError
from distill.plan import EpochPlan, choose_negatives, plan_epoch
from distill.rows import Batch, plain_rows, shared_rows
from distill.store import ExampleStore


class RecordLoader:
    """Iterates over the batches of one epoch for one rank, and remembers where it is.

    Lightning leaves a loader that is not a torch DataLoader alone, so that no sampler is injected under data parallelism:
    the plan already divides every step between the ranks. Plain Python in the training process is enough, since a batch
    is built in well under a millisecond per example. refresh: gives an epoch's own examples, and whether prefix sharing is
    right for them; as many groups as `store` has. aligned: the records in the tokens of a teacher with another tokenizer.
    """

    def __init__(
        self,
        store: ExampleStore,
        *,
        pad_id: int,
        batch_size: int,
        shared: bool = True,
        bucket_window: int = 512,
        negatives_per_group: int | None = None,
        seed: int = 0,
        training: bool = True,
        trainer: Trainer | None = None,
        refresh: Callable[[int], tuple[ExampleStore, bool]] | None = None,
        aligned: AlignedTokens | None = None,
    ) -> None:
        self.store = store
        self._aligned = aligned
        self.shared = shared
        self._refresh = refresh
        self._pad_id = pad_id
        self._batch_size = batch_size
        self._bucket_window = bucket_window
        self._negatives_per_group = negatives_per_group
        self._seed = seed
        self._training = training
        self._trainer = trainer
        self._epoch = 0
        self._yielded = 0
        self._resume: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and negatives come next; with a trainer it is the trainer's."""
        self._epoch = epoch

    @property
    def _world(self) -> int:
        return self._trainer.world_size if self._trainer is not None else 1

    @property
    def _accumulate(self) -> int:
        return self._trainer.accumulate_grad_batches if self._trainer is not None and self._training else 1

    def __len__(self) -> int:
        """Micro-batches per rank and epoch, before Lightning's limit."""
        return -(-len(self.store.groups) // (self._batch_size * self._world))

    def _limit(self) -> int:
        """Micro-batches that Lightning will take from an epoch."""
        if self._trainer is None or not self._training:
            return len(self)
        wanted = self._trainer.limit_train_batches
        return min(len(self), wanted) if isinstance(wanted, int) else int(len(self) * wanted)

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of this rank in `epoch`."""
        trainer = self._trainer
        if trainer is not None and self._training and trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            epoch = 0  # overfitting means the same batches again and again
        keep = choose_negatives(self.store, self._negatives_per_group, seed=self._seed, epoch=epoch)
        return plan_epoch(
            self.store.group_sizes(keep, shared=self.shared),
            keep_E=keep,
            batch_size=self._batch_size,
            accumulate=self._accumulate,
            world=self._world,
            rank=trainer.global_rank if trainer is not None else 0,
            bucket_window=self._bucket_window,
            seed=self._seed if self._training else None,
            epoch=epoch,
            limit=self._limit(),
        )

    def __iter__(self) -> Iterator[Batch]:
        # Nothing is planned before the first batch is asked for: Lightning makes the iterator before it knows the epoch.
        if self._trainer is not None and self._training:
            self._epoch = self._trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        epoch, state, done = self._epoch, self._resume, 0
        self._resume = None
        if self._refresh is not None:
            self.store, self.shared = self._refresh(epoch)
        if state is not None and state["epoch"] == epoch and state["batches"] < state["batches_in_epoch"]:
            # A run stopped while the student was still answering has not begun the epoch that its state names.
            if state["batches"] or self._refresh is None:
                self._check_layout(state)
            done = state["batches"]
        plan = self.plan(epoch)
        for index in range(done, len(plan.groups)):
            self._yielded = index + 1
            yield self.batch(plan, index)
        # An epoch that Lightning limits ends before this point.

    def batch(self, plan: EpochPlan, index: int) -> Batch:
        """The index-th batch of a plan; unsupervised where this rank has no group in it, so that all ranks step together."""
        batch = self._rows(plan, index)
        return batch if self._aligned is None else replace(batch, other=self._aligned.tokens(batch))

    def _rows(self, plan: EpochPlan, index: int) -> Batch:
        groups = plan.groups[index]
        if len(groups):
            views = [self.store.group(group, plan.keep_E) for group in groups]
        else:
            views = [[self.store.unsupervised(0)]]
        in_step = plan.in_step[index]
        if self.shared:
            return shared_rows(views, self._pad_id, in_step=in_step)
        flat = [view for group in views for view in group]
        return plain_rows(flat, self._pad_id, in_step=in_step, prompts=[view.prompt for view in flat])

    def _layout(self) -> dict[str, Any]:
        """What must not change within an epoch for the rest of it to be the same."""
        return {
            "world_size": self._world,
            "batch_size": self._batch_size,
            "accumulate_grad_batches": self._accumulate,
            "bucket_window": self._bucket_window,
            "negatives_per_group": self._negatives_per_group,
            "prefix_sharing": self.shared,
            "seed": self._seed,
            "records": self.store.fingerprint(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Epoch, how many of its batches are done, and the layout (plain JSON types). Lightning puts it into every checkpoint."""
        done = self._yielded
        if self._trainer is not None:
            # A batch that was interrupted halfway was handed out but not learned from; Lightning repeats it.
            done = self._trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return {"epoch": self._epoch, "batches": done, "batches_in_epoch": self._limit(), **self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, if the next epoch asked for is that one and it was left before its end.

        Iterating then raises ConfigError where the rest of the epoch could not be the same.
        """
        self._resume = dict(state)

    def _check_layout(self, state: dict[str, Any]) -> None:
        for name, now in self._layout().items():
            if state[name] != now:
                raise ConfigError(
                    f"the checkpoint was taken in the middle of an epoch with {name} = {state[name]!r}, and it is {now!r} now: "
                    f"the rest of the epoch would repeat or skip questions. Set it back, or resume from a checkpoint taken at "
                    f"the end of an epoch."
                )
