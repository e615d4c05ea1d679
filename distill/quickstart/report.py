"""What the quickstart shows at its end: one table, one plot, one summary.json."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.evaluate.abstention import Outcomes, measure, risk_coverage, standard_errors

COLUMNS = (
    ("accuracy", "accuracy"),
    ("coverage", "coverage"),
    ("accuracy_answered", "acc. when answering"),
    ("hallucination", "hallucination"),
    ("over_refusal", "over-refusal"),
    ("truthful", "truthful"),
    ("idk_invented", "IDK on invented"),
    ("auroc", "AUROC p(IDK)"),
    ("auroc_answer", "AUROC answer"),
    ("auroc_confidence", "AUROC confidence"),
    ("aurc_confidence", "AURC confidence"),
    ("negative_mass", "p(known wrong)"),
)


def summarise(systems: Mapping[str, Mapping[str, Outcomes]]) -> dict[str, dict[str, Any]]:
    """Each system's metrics, with `se` holding their standard errors; a metric without meaning is null."""
    summary: dict[str, dict[str, Any]] = {}
    for name, by_split in systems.items():
        test, invented = by_split["test"], by_split["invented"]
        values, errors = measure(test), standard_errors(test)
        abstained = ~invented.answered
        values["idk_invented"] = float(abstained.mean()) if len(abstained) else math.nan
        errors["idk_invented"] = _cluster_error(invented) if len(abstained) else math.nan
        summary[name] = {
            **{key: _plain(value) for key, value in values.items()},
            "n": len(test.right),
            "n_invented": len(abstained),
            "se": {key: _plain(value) for key, value in errors.items()},
        }
    return summary


def report(
    systems: Mapping[str, Mapping[str, Outcomes]],
    *,
    out: Path,
    seconds: Mapping[str, float],
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Print the table, draw risk-coverage.png, write summary.json, and return the summary."""
    summary: dict[str, Any] = summarise(systems)
    print("\n" + table(summary))
    plot(systems, out / "risk-coverage.png")
    summary |= {
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "seed": seed,
        "settings": settings,
        "versions": versions(),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    print(f"\n{sum(seconds.values()):.0f} seconds in all; {out / 'summary.json'}, {out / 'risk-coverage.png'}")
    print(f"talk to the student: distill chat --student {out / 'export'}")
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """Metrics as rows, systems as columns, each figure with its standard error; entries that are no system are left out."""
    names = [name for name, figures in summary.items() if isinstance(figures, Mapping) and "accuracy" in figures]
    width = max(len(title) for _, title in COLUMNS)
    lines = [" " * width + "".join(f"{name:>20}" for name in names)]
    for key, title in COLUMNS:
        cells = []
        for name in names:
            value, error = summary[name][key], summary[name]["se"][key]
            cells.append("-" if value is None else f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else ""))
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def plot(systems: Mapping[str, Mapping[str, Outcomes]], path: Path) -> None:
    """Error rate against coverage for the base, the labeller and the student."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.2), layout="constrained")
    for name, label in (
        ("base", "before: base, by answer probability"),
        ("labeller", "the sampled labeller"),
        ("student", "after: student"),
    ):
        test = systems[name]["test"]
        coverage, risk = risk_coverage(test.confidence, test.right)
        axes.plot(coverage, risk, label=label)
        if name != "base":
            answered = test.answered
            if answered.any():
                axes.plot(answered.mean(), 1 - test.right[answered].mean(), "o", color=axes.lines[-1].get_color())
    axes.set(
        xlabel="coverage (share of questions answered)", ylabel="error rate among those answered", xlim=(0, 1), ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    packages = ("distill", "torch", "transformers", "pytorch-lightning", "datasets", "jsonargparse")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _cluster_error(outcomes: Outcomes) -> float:
    return standard_errors(outcomes)["coverage"]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
