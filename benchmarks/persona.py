"""How much of a system prompt goes into the weights? Records of the recipe `persona`, a training, instructions not trained on.

    python -m benchmarks.persona --out runs/persona_benchmark

Prompts: Self-Instruct, user-oriented instructions to train on and seed tasks to measure on, those without an input.
words: mean length of a greedy answer. nats: per token of the teacher's own answers (with the system prompt) under each model; the
teacher itself is the floor. Standard errors over instructions. A few minutes of one core.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from distill.data_recipes.persona import build

from distill.cli import main as distill_main
from distill.recipes import Run
from distill.records import Message, Prompt
from distill.teachers.base import Sampling
from distill.teachers.huggingface import HuggingFaceTeacher

SYSTEM = "Answer in one short sentence."


def main(out: Path, data: Path | None = None, student: str = "smollm2-135m-instruct", seed: int = 0, samples: int = 2) -> None:
    """Make the records, train on them, and compare three models on the seed tasks.

    Args:
        out: For the records and the model.
        data: The folder of data sets; by default $DISTILL_DATA.
        student: Teacher and student.
        seed: Of the sampling and the training.
        samples: Answers of the teacher for each instruction.
    """
    folder = (data or Path(os.environ.get("DISTILL_DATA", "../shared/data"))) / "self_instruct"
    out.mkdir(parents=True, exist_ok=True)
    train, test = _instructions(folder / "user_oriented_instructions.jsonl"), _instructions(folder / "seed_tasks.jsonl")
    (out / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in train), encoding="utf-8")
    base = HuggingFaceTeacher(model=student)
    with Run(out / "recipe") as run:
        if not (out / "recipe" / "records").is_dir():
            sampling = Sampling(n=samples, temperature=0.7, max_tokens=96, seed=seed)
            prompts = f"{out / 'prompts.jsonl'}?id="
            run.write_records(build(run=run, prompts=prompts, teacher=base, system=SYSTEM, sampling=sampling))
    if not (out / "export").is_dir():
        with contextlib.redirect_stdout(sys.stderr):
            fit = ["fit", f"--model.student={student}", f"--data.train={out / 'recipe' / 'records'}", "--data.batch_size=8"]
            fit += [f"--trainer.default_root_dir={out}", f"--seed_everything={seed}", "--model.learning_rate=5e-5"]
            fit += [
                "--model.train_layers=15",
                "--model.warmup_steps=5",
                "--trainer.max_epochs=2",
                "--trainer.gradient_clip_val=1.0",
            ]
            assert distill_main([*fit, '--model.objectives={"answer": {"class_path": "Likelihood"}}']) == 0
            checkpoint = max((out / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
            assert distill_main(["export", f"--checkpoint={checkpoint}", f"--out={out / 'export'}"]) == 0
    trained = HuggingFaceTeacher(model=str(out / "export"))
    plain: list[Prompt] = [(Message(role="user", content=text),) for text in test]
    told: list[Prompt] = [(Message(role="system", content=SYSTEM), *prompt) for prompt in plain]
    greedy = Sampling(temperature=0.0, max_tokens=128)
    wanted = [several[0].text for several in base.generate(told, Sampling(temperature=0.7, max_tokens=96, seed=1000 + seed))]
    for name, model, prompts in (("base", base, plain), ("teacher (told)", base, told), ("student (trained)", trained, plain)):
        words = [len(several[0].text.split()) for several in model.generate(prompts, greedy)]
        scored = model.score(prompts, wanted)
        nats = [-one.log_prob / max(len(one.log_probs), 1) for one in scored]
        print(f"{name:<20} {len(test)} instructions, words {_mean(words)}, nats {_mean(nats)}")


def _instructions(path: Path) -> list[str]:
    """Instructions without an input, each once."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(row["instruction"] for row in rows if not row["instances"][0]["input"]))


def _mean(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    error = math.sqrt(sum((one - mean) ** 2 for one in values) / (len(values) - 1) / len(values))
    return f"{mean:.2f} +- {error:.2f}"


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False, args=sys.argv[1:])
