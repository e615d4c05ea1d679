"""Callbacks of a training run: an append-only file of metrics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.student.metrics import is_due


class MetricsJsonl(Callback):
    """Appends one line of JSON per log and per validation to a file that no restart deletes.

    A line: step (optimiser steps done), epoch, seconds (since the run or its resumption began), and the metrics. A resumed run
    appends, so a step may occur twice, the later line being the one that counts; a torn last line is completed by a newline.

    Args:
        path: the file; its folder is made. Metrics are those of the module's `train/`, `val/` and `test/`.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._began = time.monotonic()
        self._pending: tuple[int, int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder and close a torn line."""
        self._began = time.monotonic()
        if not trainer.is_global_zero:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size:
            with self._path.open("rb+") as file:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Remember that the module logs after this hook, for its callbacks come first."""
        if is_due(trainer, batch_idx):
            self._pending = (trainer.global_step, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write what the step before has logged."""
        self._write_training(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the step before has logged."""
        self._write_training(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the last step has logged."""
        self._write_training(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what the last whole step has logged."""
        self._write_training(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of a validation pass."""
        if not trainer.sanity_checking:
            self._write(trainer, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of a test pass."""
        self._write(trainer, "test/")

    def _write_training(self, trainer: Trainer) -> None:
        if self._pending is not None:
            step, epoch = self._pending
            self._pending = None
            self._write(trainer, "train/", step=step, epoch=epoch)

    def _write(self, trainer: Trainer, prefix: str, step: int | None = None, epoch: int | None = None) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        line = {
            "step": trainer.global_step if step is None else step,
            "epoch": trainer.current_epoch if epoch is None else epoch,
            "seconds": round(time.monotonic() - self._began, 3),
            **metrics,
        }
        # One write of a whole line, opened for appending: a kill leaves at most one torn line at the end.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
