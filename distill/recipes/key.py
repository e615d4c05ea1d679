"""What goes into a cache key: everything that changes the output, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.errors import RecipeError
from distill.teachers.base import Teacher


def describe(value: Any) -> Any:
    """Whatever a recipe is configured with -> the JSON that identifies its effect on the data.

    A teacher answers for itself (`identity()`). A dataclass is its class and its compared fields: a field with
    `compare=False`, such as a batch size or a loaded model, does not change the data. A file is the sha256 of its bytes, so
    moving it keeps the cache.

    Raises RecipeError for a value that has no stable description.

    >>> from distill.teachers.base import Sampling
    >>> describe(Sampling(n=2))["n"]
    2
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Teacher):
        return describe(dict(value.identity()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value) if f.compare and f.init}
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Set):
        return sorted((describe(item) for item in value), key=canonical)
    if isinstance(value, Path):
        return {"sha256": hashlib.sha256(value.read_bytes()).hexdigest()} if value.is_file() else str(value)
    raise RecipeError(
        f"{type(value).__module__}.{type(value).__qualname__} cannot be part of a cache key: expected JSON values, a dataclass, "
        "a teacher or a path. Make it a frozen dataclass, or put what identifies it into the key by hand"
    )


def teachers_in(value: Any) -> tuple[Teacher, ...]:
    """Every teacher in a value, each once: inside dataclasses (a judge, a negator), mappings and collections.

    A teacher made of other teachers answers for them: nothing is looked for inside it.
    """
    found: dict[int, Teacher] = {}
    seen: set[int] = set()

    def walk(inner: Any) -> None:
        if id(inner) in seen or inner is None or isinstance(inner, str | bytes | int | float):
            return
        seen.add(id(inner))
        if isinstance(inner, Teacher):
            found[id(inner)] = inner
        for part in () if isinstance(inner, Teacher) else _parts(inner):
            walk(part)

    walk(value)
    return tuple(found.values())


def changes(before: Any, now: Any) -> str:
    """Which settings of a description differ from an earlier one's, at most five.

    >>> changes({"sampling": {"n": 1, "seed": 0}}, {"sampling": {"n": 2, "seed": 0}})
    'changed: sampling.n (1 -> 2)'
    """
    was, is_now = _flat(before), _flat(now)
    missing = object()
    names = [name for name in {**was, **is_now} if was.get(name, missing) != is_now.get(name, missing)]
    return "changed: " + ", ".join(
        f"{name} ({was.get(name, 'not there')!r} -> {is_now.get(name, 'not there')!r})" for name in names[:5]
    )


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values, whatever the order of their keys.

    >>> canonical({"b": 1, "a": (2,)})
    '{"a":[2],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """32 hexadecimal digits that name a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def code_version(*modules: ModuleType) -> str:
    """Names the source of modules and whole packages: for cheap stages whose code, not only settings, decides the result.

    Any edit, even of a comment, changes it; where a result costs hours, put a hand-kept version number into the key instead.
    """
    total = hashlib.sha256()
    for module in modules:
        if module.__file__ is None:
            raise RecipeError(f"{module.__name__} has no source file; put a version number into the key by hand")
        file = Path(module.__file__)
        for source in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            total.update(source.name.encode() + b"\0" + source.read_bytes())
    return total.hexdigest()[:16]


def _parts(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | Set):
        yield from value


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{path}.{key}" if path else key).items()}
    return {path: value}
