"""`distill recipe`: list the recipes there are, or run one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.cli.configs import config_arguments

_HELP = """usage: distill recipe [list | NAME [OPTIONS] | merge OUT FOLDER...]

Turn questions, teachers and judges into records. Without a name: list the recipes.

`distill recipe NAME --help` shows its options, `--preview N` prints N records and writes nothing,
`--dry_run true` checks everything and says what it would ask and cost, and asks and writes nothing,
`--out FOLDER` writes records, manifest and dataset card, and goes on where an earlier start stopped.

`distill recipe merge OUT FOLDER...` makes one run folder of the folders of all `--shard i/n` of a recipe."""


def recipe_command(args: Sequence[str]) -> int:
    """Run `distill recipe ...`."""
    from distill.recipes.discover import list_recipes

    if args and args[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if not args or args[0] == "list":
        recipes = list_recipes()
        width = max((len(recipe.name) for recipe in recipes), default=0)
        for recipe in recipes:
            print(f"{recipe.name:<{width}}  {recipe.summary}")
        return 0
    if args[0] == "merge":
        return _merge(args[1:])
    from distill.recipes.command import run_recipe

    return run_recipe(args[0], config_arguments(args[1:]))


def _merge(args: Sequence[str]) -> int:
    from distill.errors import ConfigError
    from distill.recipes.merge import merge_shards

    if len(args) < 2 or any(word.startswith("-") for word in args):
        raise ConfigError("usage: distill recipe merge OUT FOLDER... (the --out folders of all shards, in any order)")
    out, *folders = map(Path, args)
    manifest = merge_shards(out, folders)
    print(f"{manifest.rows} records of {len(folders)} shards in {out / 'records'}")
    return 0
