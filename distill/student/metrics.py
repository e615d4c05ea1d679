"""What training reports: sums over positions since the last log, made into means in one place and over all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.objectives import Objective
from distill.rows import Batch
from distill.student.terms import Term

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

log = logging.getLogger(__name__)


class StepMetrics:
    """Running sums on the device; nothing is brought to the host before `means`."""

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        self._objectives = objectives
        self._sums: Tensor | None = None
        self._unpaired_steps = 0
        self._seconds = 0.0
        self._since: float | None = None

    def start(self, *, afresh: bool = False) -> None:
        """Let the clock run; afresh: forget all sums first."""
        if afresh:
            self._reset()
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def _reset(self) -> None:
        self._sums, self._unpaired_steps, self._seconds, self._since = None, 0, 0.0, None

    def add(self, batch: Batch, terms: Mapping[str, Term], log_prob_N: Tensor) -> None:
        """Add a micro-batch."""
        targets = batch.targets
        with torch.no_grad():
            negative_N = targets.negative_N
            sums = torch.stack(
                [
                    *(terms[name].total.detach() for name in self._objectives),
                    *(terms[name].units.to(log_prob_N.dtype) for name in self._objectives),
                    -log_prob_N.masked_fill(negative_N, 0).sum(),
                    log_prob_N.exp().masked_fill(~negative_N, 0).sum(),
                    (~negative_N).sum(),
                    negative_N.sum(),
                    batch.real_BT.sum(),
                ]
            )
            # Float64 keeps the sums of a long validation exact; Apple's GPUs do not have it.
            sums = sums.to(torch.float32 if sums.device.type == "mps" else torch.float64)
            self._sums = sums if self._sums is None else self._sums + sums

    def finish_step(self, batch: Batch) -> None:
        """Note that an optimiser step is over; `batch` is any of its micro-batches."""
        self._unpaired_steps += batch.in_step.positives == 0 and batch.in_step.negatives > 0

    def means(self, trainer: Trainer) -> dict[str, float]:
        """Means over the positions of all ranks since the last call, and a fresh start.

        Each objective's name: nats per position, response or pair. loss: their weighted sum. nats_per_positive: -log p of the
        positives, unweighted. p_negative: mean probability of the negatives. tokens_per_second: real tokens, prompts
        included. A kind without positions is left out rather than reported as 0.
        """
        self.pause()
        if self._sums is None:
            return {}
        sums = self._sums if trainer.world_size == 1 else trainer.strategy.reduce(self._sums, reduce_op="sum")
        *values, positive, negative, positives, negatives, tokens = sums.tolist()
        totals, units = values[: len(self._objectives)], values[len(self._objectives) :]
        means = {name: total / count for name, total, count in zip(self._objectives, totals, units, strict=True) if count}
        result = dict(means)
        if means:
            result["loss"] = sum(self._objectives[name].weight * value for name, value in means.items())
        if positives:
            result["nats_per_positive"] = positive / positives
        if negatives:
            result["p_negative"] = negative / negatives
        if self._seconds > 0:
            result["tokens_per_second"] = tokens / self._seconds
        result["steps_without_positives"] = self._unpaired_steps
        self._reset()
        return result


def is_due(trainer: Trainer, batch_idx: int) -> bool:
    """Asked after a micro-batch: whether it ended an optimiser step whose metrics are logged (the last of an epoch always is)."""
    last_of_epoch = batch_idx + 1 == trainer.num_training_batches
    ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or last_of_epoch
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return ends_step and (trainer.global_step % every == 0 or last_of_epoch)


class CollapseAlarm:
    """Warns once when the positives become much less probable than they were when training began.

    A running mean (each value counts 0.2) is compared with the first value: 1.5 times that plus 0.5 nats is a collapse.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._mean = 0.0
        self._warned = False

    def __call__(self, nats_per_positive: float) -> None:
        if self._first is None:
            self._first = self._mean = nats_per_positive
        self._mean += 0.2 * (nats_per_positive - self._mean)
        if not self._warned and not self._mean <= 1.5 * self._first + 0.5:  # "not <=": NaN warns too
            self._warned = True
            log.warning(
                "likelihood collapse: the positives cost %.2f nats per token, and %.2f when training began. Lower the weight of "
                "the unlikelihood objective or the learning rate, add positives, or protect more tokens of the negatives "
                "(data.protect).",
                self._mean,
                self._first,
            )

    def state_dict(self) -> dict[str, float | bool | None]:
        """Plain numbers for a checkpoint."""
        return {"first": self._first, "mean": self._mean, "warned": self._warned}

    def load_state_dict(self, state: Mapping[str, float | bool | None]) -> None:
        """Go on from `state_dict`; an empty one changes nothing."""
        if state:
            self._first, self._mean, self._warned = state["first"], float(state["mean"] or 0.0), bool(state["warned"])
