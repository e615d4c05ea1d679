"""Recipes: prompts in, records out, over hours, without losing a row.

A recipe is one file in data_recipes with `build(*, run, ...) -> Iterator[Record]`. `Run` gives it a folder, a cache, progress and
accounts; `discover` finds it; `command` runs it from a shell.
"""

from distill.recipes.asking import Answered, Ask, Claim, Judged, generate, judge
from distill.recipes.questions import Question, read_questions
from distill.recipes.run import Run
from distill.recipes.stage import Item, Lost, Row

__all__ = [
    "Answered",
    "Ask",
    "Claim",
    "Item",
    "Judged",
    "Lost",
    "Question",
    "Row",
    "Run",
    "generate",
    "judge",
    "read_questions",
]
