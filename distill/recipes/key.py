"""What goes into a cache key: everything that changes the output, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Set
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
