"""How often is a solution that `rationales` keeps right, and how many wrong ones have a first wrong step? On recorded solutions.

    python -m benchmarks.rationales --out runs/rationales_gsm8k
    python -m benchmarks.rationales --out runs/rationales_gsm8k --show 30      # marked solutions to read

GSM8K's `example_model_solutions.jsonl` holds solutions of four models to the 1,319 test problems, each marked right or wrong by
its authors. They are replayed as four samples of one teacher, once with the accepted answers and once without, by vote. No knob
is turned here, so that the test split may be read. Half a minute on one core, no model.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from distill.data_recipes.rationales import build

from distill.recipes import Run
from distill.records import Record
from distill.teachers.base import Sampling
from distill.teachers.replay import ReplayTeacher

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def main(out: Path, data: Path | None = None, show: int = 0, vote: float = 0.5, seed: int = 0) -> None:
    """Replay, run the recipe with and without accepted answers, and print what is kept and how much of it is right.

    Args:
        out: Where the replayed solutions go.
        data: The folder of example_model_solutions.jsonl; by default gsm8k in $DISTILL_DATA.
        show: Print so many marked solutions of each kind, drawn by lot, instead.
        vote: The share of the four that must agree where there is no accepted answer.
        seed: Of that lot.
    """
    folder = data or Path(os.environ.get("DISTILL_DATA", "../shared/data")) / "gsm8k"
    solved = [json.loads(line) for line in (folder / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()]
    out.mkdir(parents=True, exist_ok=True)
    replayed = _write_replay(solved, out / "replay.jsonl")
    (out / "plain.jinja").write_text("{{ question }}\n", encoding="utf-8")
    marked = {
        (one["question"].strip(), one[model]["solution"].strip()): one[model]["is_correct"] for one in solved for model in MODELS
    }
    for kind in ("accepted", "vote"):
        problems = out / f"{kind}.jsonl"
        with open(problems, "w", encoding="utf-8") as file:
            for number, one in enumerate(solved):
                row = {"id": str(number), "prompt": one["question"].strip(), "answers": [one["ground_truth"]]}
                file.write(json.dumps(row if kind == "accepted" else {k: v for k, v in row.items() if k != "answers"}) + "\n")
        with Run(None, quiet=True) as run:
            records = list(
                build(
                    run=run,
                    prompts=str(problems),
                    teacher=ReplayTeacher(path=str(replayed)),
                    template=out / "plain.jinja",
                    sampling=Sampling(n=len(MODELS), max_tokens=400),
                    vote=vote,
                    negatives_per_question=len(MODELS),
                )
            )
        if show:
            _show(records, show, seed)
            return
        print(f"\nright by {kind}\n{run.table()}")
        _report(records, marked)


def _write_replay(solved: list[dict[str, Any]], path: Path) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        for one in solved:
            prompt = [{"role": "user", "content": one["question"].strip()}]
            texts = [{"text": one[model]["solution"].strip(), "tokens": 1, "finish": "stop"} for model in MODELS]
            file.write(json.dumps({"prompt": prompt, "completions": texts}) + "\n")
    return path


def _report(records: list[Record], marked: dict[tuple[str, str], bool]) -> None:
    kinds: dict[str, Counter[bool]] = {}
    for record in records:
        outcome = record.evidence["outcome"]
        kinds.setdefault(outcome, Counter())[marked[record.prompt[-1].content, record.response]] += 1
    for outcome, count in sorted(kinds.items()):
        agreed = count[outcome.startswith("right")]
        share = agreed / count.total()
        error = math.sqrt(share * (1 - share) / count.total())
        print(f"{outcome:<32} {count.total():>5} records, {share:.4f} +- {error:.4f} marked so by the authors")


def _show(records: list[Record], number: int, seed: int) -> None:
    for outcome in ("wrong, a step refuted", "wrong, from a departure on", "right, with a wrong step"):
        found = [record for record in records if record.evidence["outcome"] == outcome]
        for record in random.Random(seed).sample(found, min(number, len(found))):
            start = record.spans[0].start if record.spans else 0
            print(f"\n=== {outcome}\n{record.prompt[-1].content}\n--- accepted\n{record.evidence['answers'][0]}\n--- solution")
            print(f"{record.response[:start]}>>>>{record.response[start:]}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False, args=sys.argv[1:])
