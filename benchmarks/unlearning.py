"""Forgetting facts on TOFU (Maini et al. 2024, arXiv:2401.06121): forget quality against model utility, one table.

    python -m benchmarks.unlearning prepare --data DATA/tofu --out runs/unlearning
    for name in full retain90; do   # the model that knows, and the one that never read forget10
        distill fit --config benchmarks/tofu.yaml --data.train runs/unlearning/$name.jsonl \\
            --trainer.default_root_dir runs/unlearning/$name
        distill export --checkpoint runs/unlearning/$name/checkpoints/last.ckpt --out runs/unlearning/$name/export
        python -m benchmarks.unlearning measure --name $name --model runs/unlearning/$name/export
    done
    python -m benchmarks.unlearning run --methods_ [retain_only,gradient_ascent,unlikelihood,npo,simnpo] --seeds [0,1,2]
    python -m benchmarks.unlearning table

The measures follow the benchmark's own code. Probability: exp of the mean log p per token; against the wrong choices where the
question has some (real authors, world facts). ROUGE-L: recall of the greedy answer. Truth ratio: probability of the wrong answers
(geometric mean of the five) over that of the paraphrased right one. Model utility: the harmonic mean of nine numbers, the three
measures on retained facts, real authors and world facts, the truth ratio as max(0, 1 - it). Forget quality: the p-value of a
Kolmogorov-Smirnov test that the truth ratios on the forgotten facts come from the same distribution as the retain model's.
`questions` of each set are measured, the first ones: fewer than the benchmark's make its p-values larger.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import quiet_trainer
from distill.records import Message, Prompt, Record, write_records

SETS = {
    "forget": "forget10_perturbed",
    "retain": "retain_perturbed",
    "authors": "real_authors_perturbed",
    "world": "world_facts_perturbed",
}
CHOICE = ("authors", "world")  # these have wrong choices of the same form, and no paraphrase


def _rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.splitlines()]
    return rows


def _ask(question: str) -> Prompt:
    return (Message(role="system", content="Authors"), Message(role="user", content=question))


def prepare(data: Path, out: Path = Path("runs/unlearning"), retained: int = 400) -> None:
    """Records: full and retain90 to learn from; per seed, forget10 as negatives beside as many retained facts as positives."""
    out.mkdir(parents=True, exist_ok=True)
    facts = {name: _rows(data / f"{name}.json") for name in ("full", "retain90", "forget10")}
    for name in ("full", "retain90"):
        write_records((_record(name, i, row, negative=False) for i, row in enumerate(facts[name])), out / f"{name}.jsonl")
    for seed in range(3):
        kept = random.Random(seed).sample(list(enumerate(facts["retain90"])), retained)
        forget = [_record("forget10", i, row, negative=True) for i, row in enumerate(facts["forget10"])]
        write_records([*forget, *(_record("retain90", i, row, negative=False) for i, row in kept)], out / f"forget-{seed}.jsonl")
    for name, file in SETS.items():
        (out / f"{name}.json").write_text(json.dumps(_rows(data / f"{file}.json")))


def _record(name: str, number: int, row: Mapping[str, Any], *, negative: bool) -> Record:
    return Record(
        id=f"{name}-{number}",
        group=f"{name}-{number}",
        prompt=_ask(row["question"]),
        response=row["answer"],
        polarity="negative" if negative else "positive",
    )


# Methods


def methods() -> dict[str, dict[str, Any]]:
    """What pushes the forgotten facts down; likelihood of retained facts stands beside each, weight 1."""
    from distill.objectives import NPO, GradientAscent, SimNPO, Unlikelihood

    return {
        "retain_only": {},
        "gradient_ascent": {"forget": GradientAscent(weight=1.0)},
        "unlikelihood": {"forget": Unlikelihood(weight=1.0)},
        "npo": {"forget": NPO(weight=1.0, beta=0.1)},
        "simnpo": {"forget": SimNPO(weight=1.0, beta=2.5)},
    }


def run(
    methods_: list[str],
    seeds: list[int],
    out: Path = Path("runs/unlearning"),
    steps: int = 50,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    train_layers: int = 14,
    questions: int = 100,
) -> None:
    """Unlearn and measure, whatever has no result yet."""
    import torch
    from pytorch_lightning import seed_everything

    from distill.data import RecordDataModule
    from distill.objectives import Likelihood
    from distill.student.module import StudentModule

    torch.set_num_threads(1)
    for name in methods_:
        for seed in seeds:
            if _path(out, name, seed).exists():
                continue
            seed_everything(seed, verbose=False)
            student = str(out / "full" / "export")
            module = StudentModule(
                student=student,
                objectives={"keep": Likelihood(), **methods()[name]},
                learning_rate=learning_rate,
                warmup_steps=5,
                weight_decay=0.01,
                train_layers=train_layers,
            )
            data = RecordDataModule(
                train=str(out / f"forget-{seed}.jsonl"),
                student=student,
                batch_size=batch_size,
                bucket_window=64,
                protect="none",
                protect_tokens=False,
                seed=seed,
            )
            trainer = quiet_trainer(out, max_steps=steps, gradient_clip_val=1.0)
            trainer.fit(module, datamodule=data)
            folder = out / "models" / f"{name}-{seed}"
            module.model.save_pretrained(folder)
            for file in Path(student).iterdir():
                if not (folder / file.name).exists():
                    shutil.copy(file, folder)
            measure(f"{name}-{seed}", str(folder), out, questions=questions)
            shutil.rmtree(folder)


def _path(out: Path, name: str, seed: int | None = None) -> Path:
    return out / "measured" / f"{name}{'' if seed is None else f'-{seed}'}.json"


# Measures


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question's three measures."""

    probability: float
    rouge: float
    truth_ratio: float


def measure(name: str, model: str, out: Path = Path("runs/unlearning"), questions: int = 100) -> None:
    """Measure a model on the four sets and keep every question's numbers."""
    import torch

    from distill.teachers.base import Sampling
    from distill.teachers.huggingface import HuggingFaceTeacher

    torch.set_num_threads(1)
    teacher = HuggingFaceTeacher(model=model)
    result: dict[str, list[dict[str, float]]] = {}
    for part in SETS:
        rows = json.loads((out / f"{part}.json").read_text())[:questions]
        prompts = [_ask(row["question"]) for row in rows]
        written = teacher.generate(prompts, Sampling(temperature=0.0, max_tokens=12 if part in CHOICE else 48))
        texts = [[row["answer"], row.get("paraphrased_answer", row["answer"]), *row["perturbed_answer"]] for row in rows]
        flat = [(prompt, text) for prompt, several in zip(prompts, texts, strict=True) for text in several]
        scores = teacher.score([prompt for prompt, _ in flat], [text for _, text in flat])
        means = iter([score.log_prob / max(len(score.log_probs), 1) for score in scores])
        found = []
        for row, several, completions in zip(rows, texts, written, strict=True):
            answer, paraphrased, *wrong = (next(means) for _ in several)
            probability = math.exp(answer)
            if part in CHOICE:
                probability /= sum(math.exp(one) for one in (answer, *wrong))
            question = Question(
                probability=probability,
                rouge=rouge_l_recall(row["answer"], completions[0].text),
                truth_ratio=math.exp(float(np.mean(wrong)) - paraphrased),
            )
            found.append(vars(question))
        result[part] = found
    path = _path(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    print(f"{name}: utility {utility(result):.3f}", flush=True)


def rouge_l_recall(reference: str, said: str) -> float:
    """Longest common subsequence of words over the reference's words (Lin 2004), lower case, letters and digits only.

    >>> rouge_l_recall("The cat sat.", "the cat")
    0.6666666666666666
    """
    left, right = (["".join(c for c in w if c.isalnum()) for w in text.lower().split()] for text in (reference, said))
    row = [0] * (len(right) + 1)
    for word in left:
        before = row
        row = [0]
        for place, other in enumerate(right):
            row.append(before[place] + 1 if word == other else max(row[place], before[place + 1]))
    return row[-1] / max(len(left), 1)


def utility(result: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
    """The benchmark's model utility: harmonic mean of nine means."""
    numbers = []
    for part in ("retain", "authors", "world"):
        rows = result[part]
        numbers += [np.mean([row["probability"] for row in rows]), np.mean([row["rouge"] for row in rows])]
        numbers.append(np.mean([max(0.0, 1 - row["truth_ratio"]) for row in rows]))
    return float(len(numbers) / sum(1 / max(float(number), 1e-12) for number in numbers))


def forget_quality(result: Mapping[str, Any], retain: Mapping[str, Any]) -> float:
    """The p-value of the test that both models' truth ratios on the forgotten facts are of one distribution."""
    from scipy.stats import ks_2samp

    ratios = [[row["truth_ratio"] for row in one["forget"]] for one in (result, retain)]
    return float(ks_2samp(*ratios).pvalue)


def table(out: Path = Path("runs/unlearning")) -> None:
    """One line per model; several seeds as mean and standard error (of the logarithm for forget quality)."""
    retain = json.loads(_path(out, "retain90").read_text())
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "measured").glob("*.json")):
        name = path.stem.rsplit("-", 1)[0] if path.stem[-2] == "-" else path.stem
        groups.setdefault(name, []).append(json.loads(path.read_text()))
    print("| method | log10 forget quality | model utility | p(answer) forget / retain | ROUGE-L forget / retain | seeds |")
    print("|---|---|---|---|---|---|")
    for name, results in groups.items():
        quality = [math.log10(max(forget_quality(one, retain), 1e-300)) for one in results]
        cells = [_pm(quality, 2), _pm([utility(one) for one in results])]
        for key in ("probability", "rouge"):
            means = [[float(np.mean([row[key] for row in one[part]])) for one in results] for part in ("forget", "retain")]
            cells.append(" / ".join(_pm(values) for values in means))
        print(f"| {name} | {' | '.join(cells)} | {len(results)} |")


def _pm(values: Sequence[float], digits: int = 3) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli([prepare, run, measure, table], as_positional=False, args=sys.argv[1:])
