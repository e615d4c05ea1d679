"""`distill export`: a checkpoint becomes a plain Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from distill.cli.arguments import HelpFormatter


def export_command(args: Sequence[str]) -> int:
    """Run `distill export ...`."""
    parser = argparse.ArgumentParser(
        prog="distill export",
        description="Write a trained student as a folder that AutoModelForCausalLM loads without distill (LoRA merged, "
        "safetensors, chat template, model card). The folder is reloaded and compared with the student before it takes its name.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="such as runs/NAME/checkpoints/last.ckpt",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="where the model goes; new, or empty",
    )
    parser.add_argument("--rule", type=Path, metavar="FOLDER", help="folder with the abstention.json to ship with the model")
    parser.add_argument("--dtype", choices=("keep", "float32", "bfloat16"), default="keep", help="precision of the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(args)
    from distill.evaluate.rule import AbstentionRule
    from distill.export import export

    rule = None if options.rule is None else AbstentionRule.load(options.rule)
    origin = export(options.checkpoint, options.out, rule=rule, dtype=options.dtype, overwrite=options.overwrite)
    print(f"{options.out}: {origin.dtype}, at most {origin.difference:.2g} nats from the student in any log-probability")
    return 0
