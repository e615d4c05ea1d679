"""How much a model repeats itself when it goes on with Wikipedia text, before and after training on its own repetitions.

    python -m benchmarks.repetition prepare --data DATA/wikitext2 --out runs/repetition
    python -m benchmarks.repetition measure --model smollm2-135m-instruct --name base
    for seed in 0 1 2; do
        distill fit --config repetition --model.student smollm2-135m-instruct --data.train runs/repetition/train.jsonl \\
            --seed_everything $seed --data.seed $seed --trainer.default_root_dir runs/repetition/run-$seed
        distill export --checkpoint runs/repetition/run-$seed/checkpoints/last.ckpt --out runs/repetition/run-$seed/export
        python -m benchmarks.repetition measure --model runs/repetition/run-$seed/export --name unlikelihood-$seed
    done
    python -m benchmarks.repetition table

Repetition (seq-rep-4 of Welleck et al. 2019, arXiv:1908.04319): 1 - distinct 4-grams / 4-grams of a greedy continuation, mean
over texts. Perplexity: of the true continuation. Trained on texts of wikitext2's training file, measured on its test file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.records import Message, Prompt, Record, Span, read_records, write_records

START, GOLD = 35, 60  # words of a text that are given, and that follow
FILES = {"train": "wikitext2_train_5k.txt", "validation": "valid.txt", "test": "test.txt"}


def prepare(data: Path, out: Path = Path("runs/repetition"), train: int = 320, test: int = 100) -> None:
    """Write the records of each split: a start of a paragraph, and how it really goes on."""
    out.mkdir(parents=True, exist_ok=True)
    for split, name in FILES.items():
        lines = (data / name).read_text(encoding="utf-8").splitlines()
        kept = list(_records(split, lines))[: train if split == "train" else test]
        write_records(kept, out / f"{split}.jsonl")


def _records(split: str, lines: list[str]) -> Iterator[Record]:
    for number, line in enumerate(lines):
        words = line.split()
        if line.strip().startswith("=") or len(words) < START + GOLD:
            continue
        start, gold = " ".join(words[:START]), " " + " ".join(words[START : START + GOLD])
        prompt = (Message(role="user", content="Continue the article."), Message(role="assistant", content=start))
        name = f"{split}-{number}"
        # The text goes on after the cut, so its end is not the end of the turn.
        span = Span(start=0, end=len(gold) - 1, polarity="positive")
        yield Record(id=name, group=name, prompt=prompt, response=gold, polarity="positive", spans=(span,))


def repeated_share(tokens: list[int], n: int = 4) -> float:
    """1 - distinct n-grams / n-grams; 0 for a text shorter than n.

    >>> repeated_share([1, 2, 3, 4, 1, 2, 3, 4])
    0.19999999999999996
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def measure(
    model: str, name: str, out: Path = Path("runs/repetition"), split: str = "test", tokens: int = 80, texts: int = 100
) -> None:
    """Greedy continuations and the true ones' perplexity, kept text by text."""
    import torch

    from distill.models import load_tokenizer
    from distill.teachers.base import Sampling
    from distill.teachers.huggingface import HuggingFaceTeacher

    torch.set_num_threads(1)
    teacher, tokenizer = HuggingFaceTeacher(model=model), load_tokenizer(model)
    records = list(read_records(out / f"{split}.jsonl"))[:texts]
    prompts: list[Prompt] = [record.prompt for record in records]
    written = teacher.generate(prompts, Sampling(temperature=0.0, max_tokens=tokens))
    scores = teacher.score(prompts, [record.response for record in records])
    rows = [
        {
            "repetition": repeated_share(tokenizer(completions[0].text, add_special_tokens=False)["input_ids"]),
            "log_prob": score.log_prob,
            "tokens": len(score.log_probs),
            "text": completions[0].text,
        }
        for completions, score in zip(written, scores, strict=True)
    ]
    path = out / "measured" / f"{split}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{name}: repetition {_repetition(rows):.3f}, perplexity {_perplexity(rows):.2f}", flush=True)


def _repetition(rows: list[dict[str, float]]) -> float:
    return float(np.mean([row["repetition"] for row in rows]))


def _perplexity(rows: list[dict[str, float]]) -> float:
    return math.exp(-sum(row["log_prob"] for row in rows) / sum(row["tokens"] for row in rows))


def table(out: Path = Path("runs/repetition"), split: str = "test", against: str = "base") -> None:
    """Each model's repetition and perplexity, and the change against one of them."""
    found = {
        path.stem.removeprefix(f"{split}-"): json.loads(path.read_text()) for path in (out / "measured").glob(f"{split}-*.json")
    }
    base = found[against]
    print("| model | 4-grams repeated | change | perplexity | change |\n|---|---|---|---|---|")
    for name, rows in sorted(found.items()):
        error = np.std([row["repetition"] for row in rows], ddof=1) / len(rows) ** 0.5
        print(
            f"| {name} | {_repetition(rows):.3f} ± {error:.3f} | {100 * (_repetition(rows) / _repetition(base) - 1):+.0f} % | "
            f"{_perplexity(rows):.2f} | {100 * (_perplexity(rows) / _perplexity(base) - 1):+.1f} % |"
        )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli([prepare, measure, table], as_positional=False, args=sys.argv[1:])
