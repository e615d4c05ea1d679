"""What one quickstart run is: its settings, the folder that holds no other run, and the time its stages took."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.errors import ConfigError
from distill.quickstart.labels import Recipe
from distill.records.manifest import write_whole


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that changes the quickstart's result.

    Args:
        student: Hub name, folder, or the embedded small model.
        seed: Of the choice of training questions, the samples and the training.
        questions: How many training questions about real things are used.
        validation: How many validation questions; 0 for all.
        test: How many test questions; 0 for all.
        invented: How many test questions about invented things; 0 for all.
        samples: Answers drawn for each question.
        rounds: How the training questions' samples are drawn, stopping where the label is settled; they add up to samples.
        made_up: Training questions about invented things, others than the ones of the test; 0 for none.
        made_up_validation: Such questions that the answering rule is set on; 0 for all.
        recipe: How labels become records.
        config: The training config, by name or path.
        train_args: Further arguments of `distill fit`, such as --trainer.max_epochs=1.
    """

    student: str = "smollm2-135m-instruct"
    seed: int = 0
    questions: int = 220
    validation: int = 0
    test: int = 0
    invented: int = 0
    samples: int = 10
    rounds: tuple[int, ...] = (4, 3, 3)
    made_up: int = 60
    made_up_validation: int = 0
    recipe: Recipe = Recipe()
    config: str = "quickstart"
    train_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in {"questions": 1, "samples": 1, "validation": 0, "test": 0, "invented": 0, "made_up": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a whole number of at least {least}")
        if self.made_up_validation < 0:
            raise ConfigError(f"made_up_validation is {self.made_up_validation}; give a whole number of at least 0")
        if sum(self.rounds) != self.samples:
            raise ConfigError(f"rounds {list(self.rounds)} add up to {sum(self.rounds)}, not to samples = {self.samples}")


def check_folder(settings: Settings, out: Path, *, fresh: bool) -> None:
    """Make the run's folder; ConfigError where it holds a run with other settings, since one folder would then mix two."""
    path = out / "settings.json"
    now = json.loads(json.dumps(dataclasses.asdict(settings)))
    if fresh and out.exists():
        number = 1
        while (aside := out.with_name(f"{out.name}.old{number}")).exists():
            number += 1
        out.rename(aside)
        print(f"the earlier run is now in {aside}")
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
        if changed:
            what = ", ".join(f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in changed)
            raise ConfigError(f"{out} holds a run with other settings ({what}); choose another --out, or start over with --fresh")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=2) + "\n")


class Clock:
    """Seconds by stage, added up over all starts of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; what it took counts also when it is interrupted."""
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
            write_whole(self._path, json.dumps(self.seconds, indent=2) + "\n")
