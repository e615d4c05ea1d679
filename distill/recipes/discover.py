"""Which recipes and configs there are: whatever lies in the two folders, read without importing any of it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from distill.errors import ConfigError


class Entry(NamedTuple):
    """A name to type and what it is, in one line."""

    name: str
    summary: str


def package_name(folder: str) -> str:
    """`distill.FOLDER` where the package is installed, the top-level `FOLDER` in a checkout that is not."""
    for name in (f"distill.{folder}", folder):
        if importlib.util.find_spec(name) is not None:
            return name
    raise ConfigError(f"the package {folder} is not there; install distill, or run in the root of its checkout")


def list_recipes() -> list[Entry]:
    """Every recipe with the first line of its docstring."""
    package = importlib.import_module(package_name("data_recipes"))
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
        dotted = name if "." in name else f"{package_name('data_recipes')}.{name}"
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


def list_configs() -> list[Entry]:
    """Every YAML in configs/ as FOLDER/NAME, with the first line of its header."""
    root = resources.files(package_name("configs"))
    return sorted(Entry(name, _header(file)) for name, file in _yaml_files(root, ""))


def config_file(name: str) -> Path:
    """The file of a config: a path, or a name as `list_configs` gives it.

    Raises ConfigError naming the configs there are.
    """
    if Path(name).is_file():
        return Path(name)
    for known, file in _yaml_files(resources.files(package_name("configs")), ""):
        if known == name.removesuffix(".yaml"):
            return Path(str(file))
    raise ConfigError(f"no config {name!r}; there are: {', '.join(entry.name for entry in list_configs())}")


def _yaml_files(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith(("_", ".")):
            found += _yaml_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            found.append((prefix + entry.name.removesuffix(".yaml"), entry))
    return found


def _header(file: Traversable) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
