"""One table from the summaries of several quickstart runs.

    for s in 0 1 2; do distill quickstart --seed $s --out runs/seed$s; done
    python -m benchmarks.seeds runs/seed0 runs/seed1 runs/seed2

Mean over seeds and a standard error that holds both sources of chance: the questions (all seeds are measured on the same ones, so
averaging does not shrink it) and the seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.quickstart.pipeline import SYSTEMS
from distill.quickstart.report import COLUMNS


def main(folders: Sequence[str]) -> None:
    """Print the table as Markdown."""
    summaries = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    print("| | " + " | ".join(SYSTEMS) + " |\n|---" + "|---" * len(SYSTEMS) + "|")
    for key, title in (*COLUMNS, ("aurc", "AURC p(IDK)"), ("aurc_answer", "AURC answer")):
        cells = []
        for system in SYSTEMS:
            values = [summary[system][key] for summary in summaries]
            errors = [summary[system]["se"][key] for summary in summaries]
            cells.append("-" if None in values else _cell(values, errors))
        print(f"| {title} | " + " | ".join(cells) + " |")
    print("\nseconds: " + ", ".join(str(summary["seconds"]["total"]) for summary in summaries))


def _cell(values: list[float], errors: list[float | None]) -> str:
    questions = float(np.mean([error or 0.0 for error in errors]))
    seeds = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {np.hypot(questions, seeds):.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
