"""The reference page of objectives runs as it is printed."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "objectives.md"


def test_every_python_block_of_the_page_runs_in_order() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    page = ModuleType("objectives_page")  # dataclasses look their module up by name
    sys.modules[page.__name__] = page
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), page.__dict__)
    finally:
        del sys.modules[page.__name__]


def test_every_exported_objective_is_on_the_page() -> None:
    import distill.objectives

    text = PAGE.read_text(encoding="utf-8")
    missing = [name for name in distill.objectives.__all__ if name[0].isupper() and _is_objective(name) and name not in text]
    assert not missing


def _is_objective(name: str) -> bool:
    import distill.objectives

    member = getattr(distill.objectives, name)
    return isinstance(member, type) and issubclass(member, distill.objectives.Objective) and not inspect.isabstract(member)
