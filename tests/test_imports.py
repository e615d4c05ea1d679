"""Who may import whom, read from the syntax tree of every file: the house rules of the design, enforced."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import distill

ROOT = Path(distill.__file__).parent
FOUNDATION = {"errors"}
# What a part may import of distill at run time (itself and errors always). Types under TYPE_CHECKING are free.
LEFT_COLUMN = {"records", "template", "models", "teachers", "judges", "negators", "consensus", "recipes"}
RULES: dict[str, set[str]] = {
    "settings": set(),
    "attention": set(),
    "records": set(),
    "objectives": set(),
    "models": set(),
    "encoding": set(),
    "template": {"records", "encoding"},
    "prompt_file": {"records", "template"},
    "rows": {"objectives", "records"},
    "render": {"records", "objectives", "template"},
    "show": {"records", "render", "template", "models"},
    "store": {"records", "render", "rows", "template", "objectives"},
    "plan": {"rows", "store"},
    "on_policy": {"records", "render", "store", "template", "teachers", "judges"},
    "alignment": {"records", "render", "rows", "template"},
    "loader": {"alignment", "plan", "rows", "store"},
    "data": {"alignment", "loader", "records", "render", "rows", "store", "plan", "template", "models", "on_policy"},
    "teachers": {"records", "template", "models", "rows", "objectives", "prompt_file", "head"},
    "judges": {"records", "teachers", "consensus", "prompt_file", "template"},
    "negators": {"records", "teachers", "judges", "consensus", "prompt_file", "template"},
    "consensus": {"records", "teachers", "judges", "prompt_file"},
    "recipes": LEFT_COLUMN | {"prompt_file", "settings"},
    "head": {"objectives", "rows"},
    "student": {
        "attention",
        "head",
        "objectives",
        "on_policy",
        "render",
        "rows",
        "teachers",
        "models",
        "data",
        "plan",
        "records",
    },
    "evaluate": {"records", "teachers", "judges", "consensus", "negators", "head", "rows", "objectives"},
    "export": {"records", "models", "template", "evaluate", "student", "teachers", "judges", "consensus"},
    "depth": {"head", "models", "export"},
    "chat": {"records", "teachers", "evaluate", "consensus"},
}
FRONT = {"cli", "quickstart", "__main__"}  # they may import everything; nothing imports them, but for one another
# The heavy packages, and the parts that may import them when they are themselves imported.
TORCH_PARTS = {"attention", "head", "objectives", "rows", "student", "export", "depth", "cli", "quickstart"}
HEAVY = {"torch", "transformers", "pytorch_lightning", "peft", "datasets", "pandas", "matplotlib", "sentence_transformers"}


class Import(NamedTuple):
    """One import statement: the file, the module, whether it runs when the file is imported."""

    file: str
    line: int
    module: str
    at_top: bool


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    """Every import that can run: those under TYPE_CHECKING are left out."""

    def walk(node: ast.AST, at_top: bool) -> Iterator[tuple[ast.AST, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                yield from walk(child, at_top)
            return
        yield node, at_top
        inside = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    name = str(path.relative_to(ROOT))
    for node, at_top in walk(ast.parse(path.read_text(encoding="utf-8")), True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, alias.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            if node.module == "distill":
                for alias in node.names:
                    yield Import(name, node.lineno, f"distill.{alias.name}", at_top)
            else:
                yield Import(name, node.lineno, node.module, at_top)


FILES = sorted(ROOT.rglob("*.py"))


def test_every_part_has_its_rule() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts - set(RULES) - FRONT - FOUNDATION == set(), "say in RULES what the new part may import"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_what_it_may(path: Path) -> None:
    part = part_of(path)
    broken = []
    for found in imports(path):
        top, _, rest = found.module.partition(".")
        assert top not in ("data_recipes", "configs", "tests", "benchmarks"), found
        if top != "distill" or not rest:
            continue
        target = rest.partition(".")[0]
        assert target not in ("data_recipes", "configs") or part in FRONT, found
        if part in FRONT or part == "__init__" or target in (part, *FOUNDATION, "__version__"):
            continue
        if target in FRONT or target not in RULES.get(part, set()):
            broken.append(f"{found.file}:{found.line} imports distill.{target}")
    assert broken == []


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "records"], ids=lambda path: path.name)
def test_records_need_the_standard_library_only(path: Path) -> None:
    at_top = [found for found in imports(path) if found.at_top and found.module.partition(".")[0] != "distill"]
    assert [found for found in at_top if found.module.partition(".")[0] not in sys.stdlib_module_names] == []


def test_objectives_need_torch_only() -> None:
    found = [one for path in FILES if part_of(path) == "objectives" for one in imports(path)]
    foreign = {one.module.partition(".")[0] for one in found} - set(sys.stdlib_module_names)
    assert foreign <= {"torch", "distill"}


def test_the_generation_half_imports_heavy_packages_only_when_it_uses_them() -> None:
    light = [path for path in FILES if part_of(path) not in TORCH_PARTS | {"data", "loader"}]
    # The local teacher's engine is imported by huggingface.py inside its methods.
    engine = {"teachers/decoding.py", "teachers/scoring.py"}
    found = [one for path in light for one in imports(path) if one.at_top and one.module.partition(".")[0] in HEAVY]
    assert [one for one in found if one.file not in engine and not one.file.startswith("teachers/_")] == []


def test_the_left_column_uses_torch_only_in_the_local_teacher() -> None:
    found = [
        one
        for path in FILES
        if part_of(path) in LEFT_COLUMN - {"models", "teachers", "template"}
        for one in imports(path)
        if one.module.partition(".")[0] == "torch"
    ]
    assert found == []
