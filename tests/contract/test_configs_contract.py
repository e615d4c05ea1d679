"""Every shipped config: a header that says how to run it, keys that exist, and nothing that repeats a default."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli.configs import config_arguments, shipped_configs

CONFIGS = shipped_configs()
FIT = {name: path for name, path in CONFIGS.items() if "/" not in name}
RECIPES = {name: path for name, path in CONFIGS.items() if name.startswith("recipe/")}


def fit_settings(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    from distill.cli.training import train

    with pytest.raises(SystemExit) as stop:
        train(config_arguments(["fit", *args, "--print_config"]))
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def required(name: str) -> list[str]:
    """What a training config leaves to the command line: student, records, and where it has a teacher, which one."""
    arguments = ["--model.student=x", "--data.train=y"]
    teacher = full_path(yaml.safe_load(FIT[name].read_text(encoding="utf-8"))["model"].get("teacher"))
    if teacher is not None:
        module, _, kind = teacher["class_path"].rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), kind)).parameters.values()
        open_ones = [one.name for one in parameters if one.default is one.empty and one.name not in teacher.get("init_args", {})]
        arguments += [f"--model.teacher.{one}=z" for one in open_ones]
    return arguments


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value); a class with its arguments counts as one value."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and "class_path" not in value and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def repeated_arguments(value: Any) -> list[str]:
    """Arguments of a class that equal its defaults; class_path is a full path here."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return []
    module, _, name = str(value["class_path"]).rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    given = value.get("init_args") or {}
    return [f"{name}.{key}" for key, argument in given.items() if parameters[key].default == argument]


def full_path(value: Any) -> Any:
    """The same with a class's short name (an objective's, a teacher's, a marker's) made a path."""
    from distill.cli.training import _concrete_subclasses
    from distill.objectives import Objective
    from distill.on_policy import Marker
    from distill.teachers.logits import LogitTeacher

    if isinstance(value, Mapping) and "class_path" in value and "." not in value["class_path"]:
        kinds = [kind for base in (Objective, LogitTeacher, Marker) for kind in _concrete_subclasses(base)]
        found = next(kind for kind in kinds if kind.__name__ == value["class_path"])
        return {**value, "class_path": f"{found.__module__}.{found.__qualname__}"}
    return value


def repeats(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    by_default = dict(leaves(defaults))
    same = [key for key, value in leaves(settings) if key in by_default and by_default[key] == value]
    return same + [argument for _, value in leaves(settings) for argument in repeated_arguments(full_path(value))]


def test_configs_are_shipped() -> None:
    assert {"quickstart", "lora"} <= set(FIT) and RECIPES
    assert set(FIT) | set(RECIPES) == set(CONFIGS), "a new folder of configs needs its own contract here"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_header_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    lines = CONFIGS[name].read_text(encoding="utf-8").splitlines()
    header = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    assert len(header) >= 3 and len(header[0]) > 20
    text = "\n".join(header)
    assert "distill fit --config" in text if name in FIT else "distill recipe" in text
    if name in FIT:
        assert "Time" in text and "Expected metrics:" in text


@pytest.mark.parametrize("name", FIT)
def test_every_key_of_a_training_config_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = fit_settings(capsys, "--config", name, *required(name))
    for key, value in leaves(yaml.safe_load(FIT[name].read_text(encoding="utf-8"))):
        found: Any = settings
        for part in key.split("."):
            found = found[part]
        if key not in ("model.student", "data.train") and not isinstance(value, Mapping):
            assert found == value


@pytest.mark.parametrize("name", FIT)
def test_a_training_config_repeats_no_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    defaults = fit_settings(capsys, "--model.student=x", "--data.train=y", "--model.objectives.a=Likelihood")
    assert repeats(yaml.safe_load(FIT[name].read_text(encoding="utf-8")), defaults) == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_a_recipe_s_config_exists_and_repeats_no_default(name: str) -> None:
    from distill.recipes.command import recipe_parser
    from distill.recipes.discover import load_recipe

    recipe = load_recipe(Path(name).name)
    parser = recipe_parser(recipe, "distill recipe")
    parser.exit_on_error = False
    settings = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    # What the config leaves to the command line: its questions, for example.
    parameters = inspect.signature(recipe.build).parameters.values()
    open_ones = [one.name for one in parameters if one.default is one.empty and one.name != "run" and one.name not in settings]
    parser.parse_args([f"--config={RECIPES[name]}", *(f"--{option}=placeholder" for option in open_ones)])
    parser.default_config_files = []  # the shipped config itself: without it the defaults are those of `build`
    assert repeats(settings, parser.get_defaults(skip_validation=True).as_dict()) == []
