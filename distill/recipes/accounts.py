"""What became of every row and what it cost, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distill.recipes.cache import Spent
from distill.recipes.progress import money
from distill.recipes.stage import Stage
from distill.teachers.base import Usage


def accounts(stages: Sequence[Stage], counts: Mapping[str, Counter[str]], total: Spent) -> dict[str, Any]:
    """Rows in, out and lost of every stage with what it has used, the total of the folder, and all counts.

    The total may be more than the stages' sum: what earlier settings cost is in it.
    """
    lines = [
        {
            "name": stage.name,
            "in": stage.taken,
            "out": stage.given,
            "lost": dict(sorted(stage.lost.items())),
            **_spent(stage.spent),
        }
        for stage in stages
    ]
    return {
        "stages": lines,
        "total": _spent(total),
        "counts": {title: dict(sorted(count.items())) for title, count in counts.items()},
    }


def table(stages: Sequence[Stage], counts: Mapping[str, Counter[str]], total: Spent) -> str:
    """The accounts as text, one line for each stage and each count; columns of tokens and cost where there are any."""
    lines = [["stage", "in", "out", "lost", "tokens in", "tokens out", "cost", "seconds", ""]]
    for stage in stages:
        reasons = ", ".join(f"{count} {reason}" for reason, count in stage.lost.most_common())
        lost = stage.lost.total()
        lines.append([stage.name, str(stage.taken), str(stage.given), str(lost), *_columns(stage.spent), reasons])
    together = sum((stage.spent for stage in stages), Spent())
    if len(stages) > 1 or together.usage != total.usage:
        lines.append(["in all", "", "", "", *_columns(total), "" if together.usage == total.usage else "with earlier settings"])
    used = [True] * 4 + [bool(total.usage.prompt_tokens), bool(total.usage.completion_tokens), bool(total.usage.cost), True, True]
    shown = [[cell for cell, show in zip(line, used, strict=True) if show] for line in lines]
    widths = [max(len(line[column]) for line in shown) for column in range(len(shown[0]))]
    text = [
        f"{line[0]:<{widths[0]}} "
        + " ".join(f"{cell:>{max(width, 7)}}" for cell, width in zip(line[1:-1], widths[1:-1], strict=True))
        + f"  {line[-1]}"
        for line in shown
    ]
    text += [f"{title}: " + ", ".join(f"{n} {outcome}" for outcome, n in count.most_common()) for title, count in counts.items()]
    return "\n".join(line.rstrip() for line in text)


def usage_json(usage: Usage) -> dict[str, int | float]:
    """Usage as JSON, the cost to a billionth: sums of floats differ in the last digit with their order."""
    return {**asdict(usage), "cost": round(usage.cost, 9)}


def _spent(spent: Spent) -> dict[str, Any]:
    return {"usage": usage_json(spent.usage), "seconds": round(spent.seconds, 3)}


def _columns(spent: Spent) -> list[str]:
    usage = spent.usage
    return [str(usage.prompt_tokens), str(usage.completion_tokens), money(usage.cost), f"{spent.seconds:.1f}"]
