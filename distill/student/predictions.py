"""The file that `distill predict` writes: one line of JSON per record, in the order of the records, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.data import RecordDataModule
from distill.errors import ConfigError
from distill.records import Record, read_records
from distill.rows import Batch

log = logging.getLogger(__name__)

FILE_NAME = "predictions.jsonl"


class PredictionsJsonl(Callback):
    """Writes `StudentModule.predict_step`'s log-probabilities when the last batch is done.

    A line: id, group, polarity, log_prob (nats, the sum over the supervised tokens), tokens (how many those are) and mean
    (log_prob / tokens). A record that was left out keeps its line, with log_prob and mean null, tokens 0, and left_out saying
    why. So the file has as many lines as there are records. It appears under its name only when it is whole.

    Args:
        path: the file; its folder is made, and a file that is already there is replaced.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._found: dict[str, tuple[float, int]] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run. ConfigError for several processes, each of which would have a part of the lines only."""
        self._found = {}
        if trainer.world_size > 1:
            raise ConfigError(f"predict runs in one process, and there are {trainer.world_size}: set --trainer.devices 1")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep two numbers a record."""
        columns = (outputs["record_ids"], outputs["log_prob"].tolist(), outputs["tokens"].tolist())
        self._found.update((name, (log_prob, tokens)) for name, log_prob, tokens in zip(*columns, strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the records again for their order, and write."""
        records: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(records, RecordDataModule):
            raise ConfigError(f"{type(self).__name__} needs the records of a RecordDataModule; got {type(records).__name__}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for record in read_records(records.predict_path):
                file.write(json.dumps(self._line(record, records.left_out), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)
        log.info("%s: %d record(s) scored, %d left out", self.path, len(self._found), len(records.left_out))

    def _line(self, record: Record, left_out: dict[str, str]) -> dict[str, Any]:
        line = {"id": record.id, "group": record.group, "polarity": record.polarity}
        if record.id in self._found:
            log_prob, tokens = self._found[record.id]
            return {**line, "log_prob": log_prob, "tokens": tokens, "mean": log_prob / tokens}
        # What was neither scored nor left out is what limit_predict_batches, which fast_dev_run sets too, has cut off.
        why = left_out.get(record.id, "beyond limit_predict_batches")
        return {**line, "log_prob": None, "tokens": 0, "mean": None, "left_out": why}
