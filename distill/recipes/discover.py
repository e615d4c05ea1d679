"""Which recipes there are: whatever lies in data_recipes, read without importing it; one is imported when it is asked for."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from distill.errors import ConfigError


class Entry(NamedTuple):
    """A name to type and what it is, in one line."""

    name: str
    summary: str


def package_name() -> str:
    """`distill.data_recipes` where distill is installed, `data_recipes` in a checkout that is not."""
    for name in ("distill.data_recipes", "data_recipes"):
        if importlib.util.find_spec(name) is not None:
            return name
    raise ConfigError("the recipes are not there; install distill, or run in the root of its checkout")


def list_recipes() -> list[Entry]:
    """Every recipe with the first line of its docstring."""
    package = importlib.import_module(package_name())
    found = []
    for module in pkgutil.iter_modules(package.__path__):
        source = next(Path(folder) / f"{module.name}.py" for folder in package.__path__)
        if source.is_file() and not module.name.startswith("_"):
            summary = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
            found.append(Entry(module.name, summary.partition("\n")[0]))
    return sorted(found)


def load_recipe(name: str) -> ModuleType:
    """The module of a recipe, by its name in data_recipes, its dotted path, or its .py file; it has a `build`.

    Raises ConfigError naming the recipes there are.
    """
    if name.endswith(".py"):
        module = _from_file(Path(name))
    else:
        dotted = name if "." in name else f"{package_name()}.{name}"
        try:
            module = importlib.import_module(dotted)
        except ModuleNotFoundError as error:
            if error.name is None or not (dotted == error.name or dotted.startswith(error.name + ".")):
                raise  # the recipe is there; something that it imports is not
            known = ", ".join(entry.name for entry in list_recipes())
            raise ConfigError(f"no recipe {name!r}; there are: {known}. A dotted module or a .py file also does") from error
    if not callable(vars(module).get("build")):
        raise ConfigError(f"{module.__name__} has no `build(*, run, ...) -> Iterator[Record]`, so it is not a recipe")
    return module


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
