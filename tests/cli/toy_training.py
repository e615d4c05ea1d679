"""A model of one number and records of eight, to try the command line's rules in milliseconds; run as a script to be killed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset

from distill.objectives.base import TokenObjective


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A nested setting, for interpolation."""

    factor: float = 1.0


class ToyStudent(LightningModule):
    """y = w x.

    Args:
        student: model's name
        lr: learning rate
        note: any text
        objectives: losses by name
        pause: seconds each step sleeps
    """

    def __init__(
        self,
        student: str,
        lr: float = 0.1,
        note: str = "plain",
        objectives: dict[str, TokenObjective] | None = None,
        pause: float = 0.0,
        gain: Gain = Gain(),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.pause, self.objectives, self.student, self.note, self.gain = lr, pause, objectives, student, note, gain
        self.w = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        time.sleep(self.pause)
        if self.pause:
            print("step", self.global_step, flush=True)
        return ((self.w * batch[0] - 1) ** 2).mean()

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val/lr", self.lr)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class ToyRecords(LightningDataModule):
    """Eight numbers.

    Args:
        student: model's name, as the tokenizer needs it
        records: where they lie
    """

    def __init__(self, student: str, records: str = "records.jsonl", rows: int = 8) -> None:
        super().__init__()
        self.student, self.records, self.rows = student, records, rows

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(TensorDataset(torch.ones(self.rows)), batch_size=2)

    val_dataloader = train_dataloader


def run(args: list[str]) -> int:
    """`distill` with the toy classes."""
    from distill.cli.training import train

    return train(args, model_class=ToyStudent, datamodule_class=ToyRecords)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
