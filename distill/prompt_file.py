"""Prompts that live in files: Jinja, rendered without side effects, with a fence for untrusted text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distill.errors import ConfigError
from distill.records import Message


def load_prompt_file(path: Path | None, *, package: str, name: str) -> Template:
    """The template at `path`, or the packaged one where path is None. A variable that the caller does not give is an error.

    Raises ConfigError for a file that is missing, or is no Jinja.
    """
    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: no such template; give a Jinja file, or none for the packaged {name}")
    text = files(package).joinpath(name).read_text(encoding="utf-8") if path is None else path.read_text(encoding="utf-8")
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise ConfigError(f"{path or name}: not a Jinja template ({error})") from error


def user_message(template: Template, values: Mapping[str, object]) -> Message:
    """The rendered template as one user message, without white space around it.

    Raises ConfigError where the template needs a variable that there is not.
    """
    try:
        return Message(role="user", content=template.render(values).strip())
    except TemplateError as error:
        raise ConfigError(f"the template cannot be rendered: {error}; its variables are: {', '.join(values)}") from error


def nonce(*parts: str) -> str:
    """A fence around untrusted texts: 16 hexadecimal digits that depend on all of them.

    Nobody can write a text that contains the hash of itself, so no text closes its own fence; and since nothing is random, the
    same question makes the same prompt, which a cache finds again.

    >>> nonce("a", "b") != nonce("ab")
    True
    """
    return hashlib.sha256("\x00".join((str(len(parts)), *parts)).encode()).hexdigest()[:16]
