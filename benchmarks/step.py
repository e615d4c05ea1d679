"""One optimiser step of a likelihood, an unlikelihood and a KL beside Hugging Face's own loss and TRL's trainers.

    python -m benchmarks.step                      # every row; about 15 minutes on an idle core
    python -m benchmarks.step --only KL --resume   # rows whose work begins with "KL", those in the file left as they are
    python -m benchmarks.step --device cuda

Rows of benchmarks/results/step.json, written after each comparison:

- `LOSS, 20 % supervised` and `LOSS, 100 % supervised`: forward, backward and fused AdamW on the same rows of 160 tokens, all
  but the first 128 or all but the first token supervised. Peak memory is that of the process during a step.
- `..., head and loss`: the same from the trunk's last hidden states on, without optimiser; memory beyond what was in use.
- `LOSS, 4 completions per prompt`: one row for prompt and completions against a row for each (our own, and TRL's).
- `forward and backward, ...`: the peer is the time that the operations of our passes would take at the rate of the best large
  matrix product measured meanwhile; the ratio is the share of that limit.

SmolLM2-135M-Instruct is student and, frozen, teacher; of the KL the student is every second layer of it. float32, and bfloat16
autocast on both sides. Every way is a process of its own, on one thread, and the ways take turns step by step; times are
medians of processor time. Losses and gradient norms are compared first; where they differ, the row's note says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks.measure import Row, parser, report, target, write
from benchmarks.worker import OURS, OURS_PLAIN, Cell, Cost, Loss, Precision, Setting, Way

LOSS_PEERS: dict[Loss, tuple[str, ...]] = {
    "likelihood": ("Hugging Face loss", "TRL SFTTrainer"),
    "unlikelihood": ("clamp of the 2020 code, full logits",),
    "KL": ("TRL GKDTrainer", "TRL DistillationTrainer"),
}
PROMPT, COMPLETION, TEXTS = 128, 32, 3
COMPLETIONS = (1, 2, 4, 8)
LIMIT = "matrix products alone"
# Of the loss and of the norm of its gradient, relative. bfloat16 has 8 bits, and the ways round at different places.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 3e-2}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell in one precision, ours beside others. parts: whether head and loss are measured apart, and the limit reckoned."""

    work: str
    cell: Cell
    precision: Precision
    peers: tuple[str, ...]
    parts: bool


def comparisons(*, quick: bool) -> Iterator[Comparison]:
    """All of them, the most telling first."""
    prompt, completion, texts = (12, 4, 2) if quick else (PROMPT, COMPLETION, TEXTS)
    for precision in get_args(Precision):
        for loss, peers in LOSS_PEERS.items():
            for share, first in (("20", prompt), ("100", 1)):
                cell = Cell(
                    loss=loss, prompts=texts, completions=1, prompt_length=first, completion_length=prompt + completion - first
                )
                yield Comparison(work=f"{loss}, {share} % supervised", cell=cell, precision=precision, peers=peers, parts=True)
    for loss in LOSS_PEERS:
        for precision in get_args(Precision):
            # All of them where training is fastest; float32 and the other losses once, and no more, for the sake of time.
            if precision == "fp32" and loss != "likelihood" and not quick:
                continue
            counts = (2,) if quick else COMPLETIONS if (loss, precision) == ("likelihood", "bf16") else (4,)
            for count in counts:
                cell = Cell(loss=loss, prompts=1, completions=count, prompt_length=prompt, completion_length=completion)
                yield Comparison(
                    work=f"{loss}, {count} completion{'s' * (count > 1)} per prompt",
                    cell=cell,
                    precision=precision,
                    peers=(OURS_PLAIN, LOSS_PEERS[loss][-1]),
                    parts=False,
                )


def compare(one: Comparison, options: argparse.Namespace) -> list[Row]:
    """Its rows."""
    setting = Setting(
        cell=one.cell,
        precision=one.precision,
        student=options.student,
        source=options.text,
        device=options.device,
        threads=options.threads,
    )
    ways = [Way(name, setting) for name in (OURS, *one.peers)]
    try:
        checks = [way.ask("check") for way in ways]
        steps: list[list[Cost]] = [[] for _ in ways]
        heads: list[list[Cost]] = [[] for _ in ways]
        limits: list[float] = []
        for _ in range(options.repeats):
            for way, costs in zip(ways, steps, strict=True):
                costs.append(way.ask("step"))
            if one.parts:
                limits.append(ways[0].ask("limit"))
                for way, costs in zip(ways, heads, strict=True):
                    costs.append(way.ask("head"))
    finally:
        for way in ways:
            way.close()
    rows = []
    for peer, check, step, head in zip(one.peers, checks[1:], steps[1:], heads[1:], strict=True):
        note = _difference(checks[0], check, TOLERANCES[one.precision])
        rows.append(_row(one.work, one.precision, peer, steps[0], step, note))
        if one.parts:
            rows.append(_row(f"{one.work}, head and loss", one.precision, peer, heads[0], head, note))
    if one.parts:
        ours_ms, limit_ms = statistics.median(cost.passes_ms for cost in steps[0]), 1000 * checks[0][2] / max(limits)
        rows.append(
            Row(
                work=f"forward and backward, {one.work}",
                precision=one.precision,
                ours_ms=ours_ms,
                peer=LIMIT,
                peer_ms=limit_ms,
                ratio=limit_ms / ours_ms,
                note=f"{max(limits) / 1e9:.0f} GF/s",
            )
        )
    return rows


def _row(work: str, precision: str, peer: str, ours: Sequence[Cost], theirs: Sequence[Cost], note: str | None) -> Row:
    ours_ms, peer_ms = (statistics.median(cost.ms for cost in costs) for costs in (ours, theirs))
    peaks = [None if costs[0].peak_mb is None else max(cost.peak_mb or 0 for cost in costs) for costs in (ours, theirs)]
    return Row(
        work=work,
        precision=precision,
        ours_ms=ours_ms,
        peer=peer,
        peer_ms=peer_ms,
        ratio=peer_ms / ours_ms,
        ours_peak_mb=peaks[0],
        peer_peak_mb=peaks[1],
        note=note,
    )


def _difference(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> str | None:
    """What to say where they do not compute the same."""
    said = [
        f"{name} {a:.6g}, theirs {b:.6g}"
        for name, a, b in zip(("loss", "gradient norm"), ours, theirs, strict=False)
        if not abs(a - b) <= tolerance * max(abs(a), abs(b))
    ]
    return "; ".join(said) or None


def run(options: argparse.Namespace, out: Path | None) -> list[Row]:
    """All comparisons that are asked for, each written as soon as it is measured."""
    rows = [Row(**row) for row in json.loads(out.read_text())] if options.resume and out is not None and out.exists() else []
    done = {(row.work, row.precision, row.peer) for row in rows}
    precisions = get_args(Precision) if options.precision is None else (options.precision,)
    every = comparisons(quick=options.quick)
    wanted = [one for one in every if one.work.startswith(options.only) and one.precision in precisions]
    if not wanted:
        raise SystemExit(f"--only {options.only!r}: no work begins so; there are likelihood, unlikelihood and KL")
    for one in wanted:
        if not all((one.work, one.precision, peer) in done for peer in one.peers):
            found = compare(one, options)
            rows = [row for row in rows if (row.work, row.precision) not in {(new.work, new.precision) for new in found}] + found
            report(found, None)
            if out is not None:
                write(rows, out)
    return rows


def default_text() -> Path:
    """Wikipedia's text where the shared data is, else this project's own."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("DISTILL_DATA") or root.parent / "shared" / "data")
    wikipedia = folder / "wikitext2" / "valid.txt"
    return wikipedia if wikipedia.exists() else root / "docs" / "performance.md"


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    built = parser(__doc__, "step")
    built.set_defaults(repeats=3)
    built.add_argument("--student", default="smollm2-135m-instruct", help="model that is trained")
    built.add_argument("--only", default="", metavar="WORK", help="comparisons whose work begins so (default: all)")
    built.add_argument("--precision", choices=get_args(Precision), help="of the step (default: both)")
    built.add_argument("--resume", action="store_true", help="keep the rows that the file has, measure the others")
    built.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models are (default: cpu)")
    built.add_argument("--text", type=Path, default=default_text(), help="file that the batches are cut from")
    options = built.parse_args(args)
    report(run(options, target(options, "step")), None)


if __name__ == "__main__":
    main()
