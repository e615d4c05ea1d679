"""A command line's options: how they are explained, and values refused in one line where they make no sense."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names each option's default, but for None: what happens then, the option's own text says."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse's `type`."""
    return _whole(text, least=1)


def count(text: str) -> int:
    """A whole number of at least 0, for argparse's `type`."""
    return _whole(text, least=0)


def share(text: str) -> float:
    """A number above 0 and at most 1, for argparse's `type`."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1, got {text!r}")
    return number


def _whole(text: str, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return number
