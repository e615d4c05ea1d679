"""The configs that ship with distill: found by short name, listed with their first line, shown in full."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from distill.errors import ConfigError


def shipped_configs() -> dict[str, Path]:
    """Short name (`quickstart`, `model/lora`) -> file, in alphabetical order."""
    root = Path(str(resources.files("distill.configs")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find_config(name: str) -> Path:
    """A path as it stands, or a shipped config's short name. Raises ConfigError naming the shipped ones."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    short = name.removeprefix("configs/").removesuffix(".yaml")
    if short in shipped:
        return shipped[short]
    raise ConfigError(f"config {name!r}: no such file and no shipped config of that name; shipped: {', '.join(shipped)}")


def config_arguments(args: Sequence[str]) -> list[str]:
    """The same arguments, with every `--config NAME` made a path."""
    resolved = []
    follows = False
    for argument in args:
        if follows:
            argument = str(find_config(argument))
        elif argument.startswith("--config="):
            argument = f"--config={find_config(argument.removeprefix('--config='))}"
        follows = argument in ("--config", "-c")
        resolved.append(argument)
    return resolved


def summary(path: Path) -> str:
    """The first comment line of a config: what it shows."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def configs_command(args: Sequence[str]) -> int:
    """`distill configs` and `distill configs show NAME`."""
    parser = argparse.ArgumentParser(prog="distill configs", description="List the shipped configs, or print one.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="each config with the line that says what it shows (what no action does, too)")
    show = actions.add_parser("show", help="print a config, header included")
    show.add_argument("name", metavar="NAME", help="a short name from the list, or a path")
    options = parser.parse_args(args)
    if options.action == "show":
        print(find_config(options.name).read_text(encoding="utf-8"), end="")
        return 0
    configs = shipped_configs()
    width = max((len(name) for name in configs), default=0)
    for name, path in configs.items():
        print(f"{name:<{width}}  {summary(path)}")
    return 0
