"""Recipes, one a file: each has `build(*, run, ...) -> Iterator[Record]`, a first line that says what it makes, and runs alone.

    python -m data_recipes.NAME --preview 3 ...        in a checkout
    distill recipe NAME --preview 3 ...                anywhere; `distill recipe` lists them

A new file here is a new recipe: nothing else has to know of it. docs/how-to/recipes.md shows how to write one.
"""
