"""`distill chat`: talk to a student in a terminal, or pipe questions through it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from distill.cli.arguments import HelpFormatter, positive


def chat_command(args: Sequence[str]) -> int:
    """Run `distill chat ...`; one line in, one reply out. Piped input gets replies only, without prompts."""
    parser = argparse.ArgumentParser(
        prog="distill chat",
        description="Talk to a student. Where it was exported with an abstention rule, it answers only what it is sure of, and "
        "shows how sure. Commands: /threshold T, /reset, /quit.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--student",
        required=True,
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="an exported folder, a hub name, or smollm2-135m-instruct",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=argparse.SUPPRESS,
        metavar="T",
        help="answer from this chance of being right on (default: the exported one)",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="a system message")
    parser.add_argument("--max-tokens", type=positive, default=256, metavar="N", help="longest reply, where there is no rule")
    options = parser.parse_args(args)
    from distill.chat import Chat, converse, load_rule, with_threshold
    from distill.models import load_model, load_tokenizer
    from distill.teachers.huggingface import HuggingFaceTeacher

    rule = load_rule(options.student)
    if "threshold" in options:
        rule = with_threshold(rule, options.threshold)
    # Loaded now, so that a wrong name is known before the first question is typed.
    loaded = load_model(options.student, dtype="float32", device="auto"), load_tokenizer(options.student)
    student = HuggingFaceTeacher.from_loaded(*loaded, options.student)
    chat = Chat(student=student, rule=rule, system=options.system, max_tokens=options.max_tokens)
    for reply in converse(chat, _typed() if sys.stdin.isatty() else sys.stdin):
        print(reply, flush=True)
    return 0


def _typed() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
