"""The Trainer of the benchmarks: as the shipped configs train, without files, bars and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_OFF = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")


def quiet_trainer(folder: Path, **settings: Any) -> Trainer:
    """In the best precision of this machine, or that of the settings, which are the Trainer's own."""
    from pytorch_lightning import Trainer

    from distill.student.module import best_precision

    settings = {"precision": best_precision(), "default_root_dir": str(folder), **dict.fromkeys(_OFF, False), **settings}
    return Trainer(**settings)
