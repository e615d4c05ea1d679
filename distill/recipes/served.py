"""`--teacher.base_url http://...` alone means a server: the class that it needs is put in, so that nobody has to name it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from distill.teachers.base import Teacher

SERVER = "distill.teachers.server.ServerTeacher"
_OPTION = ".base_url"


def with_server_classes(build: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """The arguments of a recipe's command with `--NAME ServerTeacher` before those of each teacher that has a `--NAME.base_url`.

    NAME is a parameter of `build` that takes a teacher, or a teacher inside another class, as in `--judge.teacher.base_url`.
    Nothing is put in where the arguments name a class, or where a --config names one that has an address.

    >>> def build(*, teacher: Teacher): ...
    >>> with_server_classes(build, ["--teacher.base_url", "http://localhost:8000/v1"])[:2]
    ['--teacher', 'distill.teachers.server.ServerTeacher']
    """
    out = list(argv)
    for name in dict.fromkeys(_with_address(argv)):
        head, _, inner = name.partition(".")
        named = any(word.partition("=")[0] in (f"--{name}", f"--{name}.class_path") for word in argv)
        if named or (not inner and head not in _teachers(build)) or _has_address(_configured(argv, name)):
            continue
        first = next(place for place, word in enumerate(out) if word.startswith(f"--{name}."))
        out[first:first] = [f"--{name}", SERVER]
    return out


def what_servers_can(teachers: Iterable[Teacher]) -> Iterator[str]:
    """Two lines on each teacher that is behind a server; asks it some twenty tiny requests."""
    from distill.teachers.server import ServerTeacher

    for teacher in teachers:
        if isinstance(teacher, ServerTeacher):
            can, _, cannot = teacher.capabilities().summary().partition("\n")
            yield f"{teacher.model} {can}\n{teacher.model} {cannot}"


def _with_address(argv: Sequence[str]) -> Iterator[str]:
    for word in argv:
        option = word.partition("=")[0]
        if option.startswith("--") and option.endswith(_OPTION):
            yield option[2 : -len(_OPTION)].removesuffix(".init_args")


def _teachers(build: Callable[..., Any]) -> set[str]:
    """The parameters of `build` whose type is a teacher of some kind, or a union with one."""
    return {
        name
        for name, hint in get_type_hints(build).items()
        if any(inspect.isclass(kind) and issubclass(kind, Teacher) for kind in (hint, *get_args(hint)))
    }


def _configured(argv: Sequence[str], name: str) -> str:
    """The class that the last --config naming one gives to this teacher; "" where none does."""
    import yaml

    found = ""
    for before, word in zip(["", *argv], argv, strict=False):
        file = word if before == "--config" else word.removeprefix("--config=")
        if (before != "--config" and file == word) or not Path(file).is_file():
            continue
        try:
            value = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the parser says it better
        for key in name.split("."):
            value = value.get("init_args", value) if isinstance(value, Mapping) and key not in value else value
            value = value.get(key) if isinstance(value, Mapping) else None
        found = str(value["class_path"]) if isinstance(value, Mapping) and "class_path" in value else found
    return found


def _has_address(class_path: str) -> bool:
    module, _, kind = class_path.rpartition(".")
    if not module:
        return "Server" in kind
    try:
        return "base_url" in inspect.signature(getattr(importlib.import_module(module), kind)).parameters
    except (ImportError, AttributeError):
        return False
