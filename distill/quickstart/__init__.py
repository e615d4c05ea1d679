"""The quickstart: a small real model learns, from its own sampled answers, what it does not know."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """`distill quickstart`: parse the arguments and run every stage that is not done yet."""
    from distill.quickstart.pipeline import main as run

    return run(argv)
