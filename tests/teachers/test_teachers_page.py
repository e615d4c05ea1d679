"""The reference page on teachers names every one there is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import distill.teachers
from distill.teachers.logits import LogitTeacher

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "teachers.md"


def test_every_teacher_of_distributions_or_states_is_in_the_table() -> None:
    modules = [importlib.import_module(one.name) for one in pkgutil.walk_packages(distill.teachers.__path__, "distill.teachers.")]
    kinds = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    there_are = {kind.__name__ for kind in kinds if issubclass(kind, LogitTeacher) and not inspect.isabstract(kind)}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)) == there_are
