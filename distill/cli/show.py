"""`distill show`: what is trained, token by token."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distill.cli.arguments import HelpFormatter, count


def show_command(args: Sequence[str]) -> int:
    """Run `distill show ...`."""
    parser = argparse.ArgumentParser(
        prog="distill show",
        description="Print each token of the records: green is trained up, red down, grey is context, with weights other than 1.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("records", metavar="RECORDS", help="a JSONL or Parquet file, or a folder of them")
    parser.add_argument(
        "--student",
        required=True,
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="the model whose tokenizer and chat template are used",
    )
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="records to print; 0 prints all")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="auto: where stdout is a terminal")
    options = parser.parse_args(args)
    from distill import show

    color = sys.stdout.isatty() if options.color == "auto" else options.color == "always"
    for line in show.show_command(options.records, options.student, limit=options.limit or None, color=color):
        print(line)
    return 0
