"""What a teacher with another tokenizer adds for a student from scratch: likelihood, SpanAlignedKL, UniversalLogit.

    python -m benchmarks.distillation prepare --data DATA --out runs/distillation
    python -m benchmarks.cross_tokenizer run --data DATA --out runs/distillation --arms [likelihood,span,universal] --seeds [0,1]
    python -m benchmarks.cross_tokenizer table --out runs/distillation

Student: a 4-layer Llama of random weights with a sentencepiece tokenizer of 4,096 tokens, trained on wikitext2 and the training
records. Bits per byte of the held-out responses (the end of turn included) need no common tokenizer. The span divergence is
that of SpanAlignedKL, forward, per supervised token of the student, whatever was trained.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.distillation import TEACHER
from benchmarks.training import quiet_trainer
from distill.objectives import Likelihood, Objective, SpanAlignedKL, UniversalLogit
from distill.records import read_records

ARMS: dict[str, dict[str, Objective]] = {
    "likelihood": {"answer": Likelihood()},
    "span": {"answer": Likelihood(weight=0.5), "match": SpanAlignedKL(weight=0.5)},
    "universal": {"answer": Likelihood(weight=0.5), "match": UniversalLogit(weight=0.5)},
}


def run(
    data: Path,
    arms: list[str],
    seeds: list[int],
    out: Path = Path("runs/distillation"),
    steps: int = 60,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    teacher: str = TEACHER,
) -> None:
    """Train and measure whatever has no result yet."""
    from benchmarks.small_student import make

    student = out / "small"
    if not student.exists():
        texts = out / "small.txt"
        said = (record.response for record in read_records(out / "train.jsonl"))
        texts.write_text((data / "wikitext2" / "wikitext2_train_5k.txt").read_text() + "\n".join(said) + "\n")
        make(student, texts)
    for name in arms:
        for seed in seeds:
            path = out / "cross" / f"{name}-{seed}.json"
            if path.exists():
                continue
            found = _train(name, seed, out, steps=steps, batch_size=batch_size, rate=learning_rate, teacher=teacher)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found) + "\n")
            print(f"{name}, seed {seed}: {found}", flush=True)


def _train(name: str, seed: int, out: Path, *, steps: int, batch_size: int, rate: float, teacher: str) -> dict[str, Any]:
    from pytorch_lightning import seed_everything

    from distill.data import RecordDataModule
    from distill.student.module import StudentModule
    from distill.teachers.cross import CrossTeacher

    seed_everything(seed, verbose=False)
    student = str(out / "small")
    crosses = name != "likelihood"

    def module_of(objectives: dict[str, Objective], *, reads: bool) -> StudentModule:
        return StudentModule(
            student=student,
            objectives=objectives,
            teacher=CrossTeacher(model=teacher, dtype="bfloat16") if reads else None,
            learning_rate=rate,
            warmup_steps=5,
        )

    def data_of(*, reads: bool, test: str = "test.jsonl") -> RecordDataModule:
        return RecordDataModule(
            train=str(out / "train.jsonl"),
            test=str(out / test),
            student=student,
            teacher_tokenizer=teacher if reads else None,
            batch_size=batch_size,
            bucket_window=64,
            seed=seed,
        )

    module = module_of(ARMS[name], reads=crosses)
    start = time.perf_counter()
    quiet_trainer(out, max_steps=steps, gradient_clip_val=1.0).fit(module, datamodule=data_of(reads=crosses))
    seconds = time.perf_counter() - start
    measured = module_of({"nats": Likelihood(), "span": SpanAlignedKL(weight=0.0)}, reads=True)
    measured.configure_model()
    measured.model.load_state_dict(module.model.state_dict())
    found: dict[str, Any] = {"seconds": seconds}
    for split in ("validation", "test"):
        records = list(read_records(out / f"{split}.jsonl"))
        values = quiet_trainer(out).test(measured, datamodule=data_of(reads=True, test=f"{split}.jsonl"), verbose=False)[0]
        tokens = _tokens(student, records)
        bytes_ = sum(len(record.response.encode()) for record in records)
        found[split] = {"bits_per_byte": values["test/nats"] * tokens / math.log(2) / bytes_, "span": values["test/span"]}
    return found


def _tokens(student: str, records: list[Any]) -> int:
    """Supervised tokens of the student's."""
    from distill.models import load_tokenizer
    from distill.render import render

    tokenizer = load_tokenizer(student)
    return sum(sum(weight > 0 for weight in render(record, tokenizer).weight) for record in records)


def table(out: Path = Path("runs/distillation"), split: str = "test") -> None:
    """Mean and standard error over seeds."""
    print(f"| {split} | bits per byte | span divergence | seconds | seeds |\n|---|---|---|---|---|")
    for name in ARMS:
        runs = [json.loads(path.read_text()) for path in sorted((out / "cross").glob(f"{name}-*.json"))]
        if not runs:
            continue
        cells = []
        for key in ("bits_per_byte", "span"):
            values = [one[split][key] for one in runs]
            error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{np.mean(values):.3f} ± {error:.3f}")
        print(f"| {name} | {' | '.join(cells)} | {np.mean([one['seconds'] for one in runs]):.0f} | {len(runs)} |")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    torch.set_num_threads(1)
    auto_cli([run, table], as_positional=False, args=sys.argv[1:])
