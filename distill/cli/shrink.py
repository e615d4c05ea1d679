"""`distill shrink`: some blocks of a model become a student to train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def shrink_command(args: Sequence[str]) -> int:
    """Run `distill shrink ...`."""
    parser = argparse.ArgumentParser(
        prog="distill shrink",
        description="Write some transformer blocks of a model, with its embeddings, head and tokenizer, as a shallower model: a "
        "student to be trained. The folder is reloaded and compared with the model in which the other blocks are skipped.",
    )
    parser.add_argument("--model", required=True, metavar="M", help="hub name, folder, .gguf file or smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the student goes; new, or empty")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep", choices=("every_second",), default="every_second", help="blocks 0, 2, 4, ... (default)")
    which.add_argument("--blocks", type=_numbers, metavar="0,2,4", help="the blocks to keep, counted from 0")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(args)
    from distill.depth import shrink

    kept = shrink(options.model, options.out, blocks=options.blocks, overwrite=options.overwrite)
    print(f"{options.out}: {len(kept)} blocks of {options.model}: {', '.join(map(str, kept))}")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, such as 0,2,4, got {text!r}") from error
