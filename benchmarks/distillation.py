"""Which objective brings a half-depth student nearest to its teacher? Arms that differ in the loss alone, several seeds.

    python -m benchmarks.distillation prepare --data DATA --out runs/distillation
    cd runs/distillation && distill signal --teacher smollm2-135m-instruct --records train.jsonl validation.jsonl test.jsonl \\
        --out signal-exact --kind exact     # and top_k, sampled with the training records alone
    python -m benchmarks.distillation run --out runs/distillation --arms [likelihood,forward_kl] --seeds [0,1,2]
    python -m benchmarks.distillation table --out runs/distillation --split validation   # to choose
    python -m benchmarks.distillation table --out runs/distillation --split test         # once, at the end
    python -m benchmarks.distillation near --out runs/distillation --target runs/near    # then run and table with --out runs/near

DATA holds wikitext2, self_instruct and gsm8k. Teacher: SmolLM2-135M-Instruct. Student: every second of its layers, as cut. Text:
Wikipedia paragraphs, the teacher's own sampled answers to instructions, worked solutions. Every arm sees the same rows in the
same order for a seed and takes the same number of steps; the seconds of its steps stand beside it. What came out:
docs/results.md.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training import quiet_trainer
from distill.objectives import (
    ForwardKL,
    Likelihood,
    Loss,
    Objective,
    Positions,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    Targets,
    TokenObjective,
    TotalVariation,
)
from distill.records import Message, Record, Span, read_records, write_records

TEACHER = "smollm2-135m-instruct"
SIZES = {"train": 110, "validation": 24, "test": 30}  # records of each of the three kinds of text
WORDS = 40  # of a response
JITTER = 1e-6  # a four-thousandth of bfloat16's last bit: it tips some roundings and no more
Split = Literal["validation", "test"]


# Text


def prepare(data: Path, out: Path = Path("runs/distillation"), teacher: str = TEACHER) -> None:
    """Write the records of each split, and the half-depth student."""
    from distill.depth import shrink
    from distill.teachers.base import Sampling
    from distill.teachers.huggingface import HuggingFaceTeacher

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "student").exists():
        shrink(teacher, out / "student")
    count = sum(SIZES.values())
    wikitext, gsm8k = list(_wikitext(data / "wikitext2"))[:count], list(_gsm8k(data / "gsm8k" / "train.jsonl"))[:count]
    prompts = list(_instructions(data / "self_instruct"))[:count]
    answers = HuggingFaceTeacher(model=teacher).generate(prompts, Sampling(max_tokens=72, seed=0))
    written = [
        _record(f"instruction-{number}", prompt, completions[0].text)
        for number, (prompt, completions) in enumerate(zip(prompts, answers, strict=True))
        if completions[0].text.strip()
    ]
    for split in SIZES:
        write_records((one for kind in (wikitext, written, gsm8k) for one in _part(kind, split)), out / f"{split}.jsonl")


def _part(records: list[Record], split: str) -> list[Record]:
    start = 0
    for name, size in SIZES.items():
        if name == split:
            return records[start : start + size]
        start += size
    raise KeyError(split)


def _record(name: str, prompt: tuple[Message, ...], text: str) -> Record:
    """A response cut to so many words; the end of turn is not trained after a cut one."""
    words = text.split(" ")
    cut = " ".join(words[:WORDS])
    spans = (Span(start=0, end=len(cut) - 1, polarity="positive"),) if len(words) > WORDS else ()
    return Record(id=name, group=name, prompt=prompt, response=cut, polarity="positive", spans=spans)


def _ask(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def _wikitext(folder: Path) -> Iterator[Record]:
    lines = (folder / "wikitext2_train_5k.txt").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not line.strip().startswith("=") and len(line.split()) > WORDS:
            yield _record(f"wikitext-{number}", _ask("Write a paragraph of an encyclopedia."), line.strip())


def _instructions(folder: Path) -> Iterator[tuple[Message, ...]]:
    for name in ("seed_tasks.jsonl", "user_oriented_instructions.jsonl"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            given = row["instances"][0]["input"]
            if len(given) < 300:
                yield _ask(row["instruction"] + (f"\n\n{given}" if given else ""))


def _gsm8k(path: Path) -> Iterator[Record]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if len(row["question"]) < 300:
            yield _record(f"gsm8k-{number}", _ask(row["question"]), row["answer"])


# Arms


@dataclass(frozen=True, kw_only=True)
class TrlGeneralizedJSD(TokenObjective):
    """The peer: the very function of TRL's GKD trainer, on the same rows."""

    weight: float = 1.0
    beta: float = 0.5
    positions: ClassVar[Positions] = "all"
    needs_teacher: ClassVar[bool] = True

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        from trl.experimental.gkd import GKDTrainer

        teacher_NV = targets.signal().log_probs_NK
        value_NV = GKDTrainer.generalized_jsd_loss(
            logits_NV[None, :, : teacher_NV.shape[1]].float(), teacher_NV[None], beta=self.beta, reduction="none"
        )
        where_N = targets.where("all")
        return Loss(value_N=value_NV.reshape(len(where_N), -1).sum(1), where_N=where_N)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """objectives by name. teacher: where the signal comes from. steps: a multiple of the common number.
    nudge: unless 0, the seed of normal noise; the student's weights begin 1 + JITTER times it larger. How far do two runs part
    that differ in rounding alone?
    """

    objectives: Mapping[str, Objective]
    teacher: Literal["none", "exact", "top_k", "sampled", "live"] = "exact"
    steps: float = 1.0
    shuffled: bool = False
    nudge: int = 0
    on_policy: Mapping[str, Any] = field(default_factory=dict)


def _match(objective: Objective, *, share: float = 1.0, **more: Any) -> Arm:
    """The divergence alone, or with likelihood beside it."""
    objectives: dict[str, Objective] = {"match": dataclasses.replace(cast(Any, objective), weight=share)}
    if share < 1:
        objectives["answer"] = Likelihood(weight=1 - share)
    return Arm(objectives=objectives, **more)


ARMS: dict[str, Arm] = {
    "none": Arm(objectives={}, steps=0),
    "likelihood": Arm(objectives={"answer": Likelihood()}, teacher="none"),
    "likelihood_same_time": Arm(objectives={"answer": Likelihood()}, teacher="none", steps=2.0),
    "trl_gkd": _match(TrlGeneralizedJSD()),
    "forward_kl": _match(ForwardKL()),
    **{f"forward_kl_nudged_{number}": _match(ForwardKL(), nudge=number) for number in range(1, 5)},
    "forward_kl_live": _match(ForwardKL(), teacher="live"),
    **{f"forward_kl_live_nudged_{number}": _match(ForwardKL(), teacher="live", nudge=number) for number in range(1, 3)},
    "forward_kl_top_64": _match(ForwardKL(), teacher="top_k"),
    "forward_kl_sampled": _match(ForwardKL(), teacher="sampled"),
    "forward_kl_and_likelihood": _match(ForwardKL(), share=0.7),
    "forward_kl_warm": _match(ForwardKL(temperature=2.0)),
    "reverse_kl": _match(ReverseKL()),
    "skew_forward_kl": _match(SkewForwardKL()),
    "skew_reverse_kl": _match(SkewReverseKL()),
    "total_variation": _match(TotalVariation()),
    "forward_kl_shuffled": _match(ForwardKL(), shuffled=True),
    "forward_kl_own_half": _match(ForwardKL(), teacher="live", on_policy={"share": 0.5}),
    "reverse_kl_own_half": _match(ReverseKL(), teacher="live", on_policy={"share": 0.5}),
}


# Training


def run(
    arms: list[str],
    seeds: list[int],
    out: Path = Path("runs/distillation"),
    steps: int = 40,
    batch_size: int = 8,
    learning_rate: float = 3e-4,
    teacher: str = TEACHER,
    precision: Literal["32-true"] | None = None,
) -> None:
    """Train every arm that has no result yet, and measure it on both splits. precision: None is the best of this machine."""
    for name in arms:
        for seed in seeds:
            folder = out / "arms" / f"{name}-{seed}"
            if (folder / "result.json").exists():
                continue
            numbers = {"precision": precision} if precision else {}
            module, seconds = _train(
                ARMS[name], seed, out, steps=steps, batch_size=batch_size, rate=learning_rate, teacher=teacher, **numbers
            )
            found: dict[str, Any] = {"seconds": seconds}
            for split in ("validation", "test"):
                found[split] = _measure(module, teacher, out, split)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "result.json").write_text(json.dumps(found) + "\n")
            print(f"{name}, seed {seed}: {seconds:.0f} s, held-out KL {found['validation']['kl']:.4f}", flush=True)


def near(out: Path, target: Path, steps: int = 160, learning_rate: float = 1e-3, seed: int = 100) -> None:
    """A second place to compare from: the student after a first distillation, beside the same records and signals."""
    from distill.models import load_tokenizer

    module, _ = _train(ARMS["forward_kl"], seed, out, steps=steps, batch_size=8, rate=learning_rate, teacher=TEACHER)
    target.mkdir(parents=True, exist_ok=True)
    module.model.save_pretrained(target / "student")
    load_tokenizer(TEACHER).save_pretrained(target / "student")
    for path in (*out.glob("*.jsonl"), *out.glob("signal-*")):
        (target / path.name).symlink_to(path.resolve())


def _train(
    arm: Arm, seed: int, out: Path, *, steps: int, batch_size: int, rate: float, teacher: str, **settings: Any
) -> tuple[Any, float]:
    from pytorch_lightning import seed_everything

    from distill.data import RecordDataModule
    from distill.student.module import StudentModule

    seed_everything(seed, verbose=False)
    module = StudentModule(
        student=str(out / "student"),
        objectives=dict(arm.objectives) or {"answer": Likelihood()},
        teacher=_teacher(arm, out, teacher),
        learning_rate=rate,
        warmup_steps=4,
        weight_decay=0.0,
    )
    if arm.nudge:
        module.configure_model()
        nudge(module.model, arm.nudge)
    options: dict[str, Any] = {}
    if arm.on_policy:
        from distill.on_policy import OnPolicy

        options["on_policy"] = OnPolicy(**arm.on_policy)
    if arm.shuffled:
        _shuffled(out / "train.jsonl", out / f"train-shuffled-{seed}.jsonl", seed)
    data = RecordDataModule(
        train=str(out / (f"train-shuffled-{seed}.jsonl" if arm.shuffled else "train.jsonl")),
        student=str(out / "student"),
        batch_size=batch_size,
        bucket_window=64,
        seed=seed,
        **options,
    )
    count = round(steps * arm.steps)
    if not count:
        module.configure_model()
        return module, 0.0
    trainer = quiet_trainer(out, max_steps=count, gradient_clip_val=1.0, **settings)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    return module, time.perf_counter() - start


def nudge(model: nn.Module, seed: int) -> None:
    """Multiply every weight by 1 + JITTER times normal noise."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + JITTER * torch.randn(weight.shape, generator=noise))


def _teacher(arm: Arm, out: Path, name: str) -> Any:
    from distill.teachers.live import LiveTeacher
    from distill.teachers.stored import StoredTeacher

    if arm.teacher == "none" or not arm.objectives:
        return None
    if arm.teacher == "live" or arm.shuffled:
        return LiveTeacher(model=name)
    return StoredTeacher(path=str(out / f"signal-{arm.teacher}"))


def _shuffled(source: Path, target: Path, seed: int) -> None:
    """The control: each prompt with the response of another record, so that teacher and student read unrelated text."""
    records = list(read_records(source))
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    write_records(
        (
            dataclasses.replace(record, response=records[other].response, spans=records[other].spans)
            for record, other in zip(records, order, strict=True)
        ),
        target,
    )


# Measuring


def _measure(module: Any, teacher: str, out: Path, split: str) -> dict[str, float]:
    """By kind of text and over all: KL to the teacher, top-1 agreement, nats per token of the text."""
    from distill.evaluate.agreement import agreement
    from distill.models import load_tokenizer
    from distill.render import render
    from distill.rows import plain_rows
    from distill.teachers.logits import LiveStudent
    from distill.teachers.stored import StoredTeacher

    tokenizer, student = load_tokenizer(teacher), module.model.eval()
    original = StoredTeacher(path=str(out / "signal-exact")).start(LiveStudent(name=str(out / "student"), model=student))
    kinds: dict[str, list[Any]] = {}
    for record in read_records(out / f"{split}.jsonl"):
        kinds.setdefault(record.id.split("-")[0], []).append(render(record, tokenizer))
    result, weighted, total = {}, np.zeros(4), 0
    for kind, examples in kinds.items():
        rows = sorted(examples, key=len)
        found = agreement(student, original, (plain_rows(rows[i : i + 16], 0) for i in range(0, len(rows), 16)))
        values = np.array([found.kl, found.top_1, found.nats, found.teacher_nats])
        weighted, total = weighted + found.tokens * values, total + found.tokens
        result[f"kl_{kind}"], result[f"nats_{kind}"] = found.kl, found.nats
    names = ("kl", "top_1", "nats", "teacher_nats")
    return {**dict(zip(names, (weighted / total).tolist(), strict=True)), **result}


def table(out: Path = Path("runs/distillation"), split: Split = "validation", against: str = "likelihood") -> None:
    """Mean and standard error over seeds, and the change of KL against one arm, paired by seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((out / "arms").glob("*/result.json")):
        name, seed = path.parent.name.rsplit("-", 1)
        found.setdefault(name, {})[int(seed)] = json.loads(path.read_text())
    print(f"| {split} | KL | change | top-1 | perplexity | seconds | KL wikitext / instruction / gsm8k | seeds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sorted(found, key=list(ARMS).index):
        runs = found[name]
        column = partial(_column, list(runs.values()), split)
        pairs = [runs[s][split]["kl"] / found[against][s][split]["kl"] - 1 for s in runs if s in found.get(against, {})]
        kinds = " / ".join(f"{np.mean(column(f'kl_{kind}')):.3f}" for kind in ("wikitext", "instruction", "gsm8k"))
        seconds = np.mean([one["seconds"] for one in runs.values()])
        print(
            f"| {name} | {_pm(column('kl'))} | {_pm([100 * pair for pair in pairs], 1)} % | {_pm(column('top_1'))} | "
            f"{_pm(np.exp(column('nats')).tolist(), 2)} | {seconds:.0f} | {kinds} | {len(runs)} |"
        )


def _column(runs: list[dict[str, Any]], split: Split, key: str) -> list[float]:
    return [one[split][key] for one in runs]


def _pm(values: list[float], digits: int = 3) -> str:
    if not values:
        return "-"
    spread = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    from jsonargparse import auto_cli

    torch.set_num_threads(1)
    auto_cli([prepare, near, run, table], as_positional=False, args=sys.argv[1:])
