"""`distill recipe`: list the recipes there are, or run one."""

from __future__ import annotations

from collections.abc import Sequence

from distill.cli.configs import config_arguments

_HELP = """usage: distill recipe [list | NAME [OPTIONS]]

Turn questions, teachers and judges into records. Without a name: list the recipes.

`distill recipe NAME --help` shows its options, `--preview N` prints N records and writes nothing,
`--out FOLDER` writes records, manifest and dataset card, and goes on where an earlier start stopped."""


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
    from distill.recipes.command import run_recipe

    return run_recipe(args[0], config_arguments(args[1:]))
