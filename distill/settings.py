"""How settings are read from files and command lines: references across files, no secret saved, one line for a mistake.

jsonargparse and omegaconf are imported inside the functions, so that help comes at once.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PARSER_MODE = "omegaconf+"
"""With `prepare`, the only mode in which `${data.init_args.x}` works across files and follows the command line."""


def prepare() -> None:
    """Set what all parsers share; call it before one is made. `${oc.env:NAME}` is refused from then on."""
    import jsonargparse
    from omegaconf import OmegaConf

    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    OmegaConf.register_resolver("oc.env", _refuse_environment, replace=True)


def parse(
    parser: ArgumentParser,
    arguments: Sequence[str],
    *,
    options: Sequence[str] = (),
    classes: Mapping[str, Iterable[str]] | None = None,
) -> Namespace:
    """What a parser made with exit_on_error=False reads from a command line.

    options: the names that a misspelt one is compared with; by default the parser's own. classes: the same for a class
    name, by the name of what they must be a kind of.
    Raises ConfigError: file and line of a config that is no YAML or holds the mistake, what is wrong, what was probably meant.
    """
    import jsonargparse
    from omegaconf.errors import OmegaConfBaseException

    files = list(_config_files(arguments))
    _check_yaml(files)
    try:
        return parser.parse_args(list(arguments))
    except (jsonargparse.ArgumentError, OmegaConfBaseException) as error:
        known = options or [name for action in parser._actions for name in action.option_strings]
        message = str(error)
        remedy = _remedy(message, known, _of_kind(message, classes or {}))
        raise ConfigError(f"{_place(message, files)}{_without_none(message)}{remedy}") from error


def _refuse_environment(*names: str) -> str:
    raise ValueError(
        f"${{oc.env:{','.join(names)}}} would write the variable's value into every saved config; "
        "put the name of the variable in the config and let the code read it"
    )


def _config_files(arguments: Sequence[str]) -> Iterator[Path]:
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = argument if before in ("--config", "-c") else argument.removeprefix("--config=")
        if (before in ("--config", "-c") or name != argument) and Path(name).is_file():
            yield Path(name)


def _check_yaml(files: Iterable[Path]) -> None:
    import yaml

    for file in files:
        try:
            for _ in yaml.parse(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
                pass
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            raise ConfigError(
                f"{file}{line}: not YAML: {error.problem}; look at the brackets, quotes and indents there"
            ) from error
        except (yaml.YAMLError, ValueError) as error:  # not UTF-8, or a character that YAML has no place for
            raise ConfigError(f"{file}: not YAML in UTF-8 ({error}); is it a config?") from error


def _misspelt(message: str) -> str | None:
    """The whole name of an option that there is not: `model.learning_rte`."""
    if group := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return f"{group[1]}.{group[2]}"
    found = re.search(r"unrecognized arguments: --([\w.]+)", message) or re.search(r"not accept option '([\w.]+)'", message)
    return None if found is None else found[1]


def _place(message: str, files: Iterable[Path]) -> str:
    """`file:line: ` of the last config that holds the misspelt name; nothing where it stood on the command line."""
    name = _misspelt(message)
    nested = re.search(r"Option '(\w+)' is not accepted", message)
    last = nested[1] if nested else (name or "").rpartition(".")[2]
    places = [
        f"{file}:{number}: "
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if last and re.search(rf"\b{re.escape(last)}\s*:", line.partition("#")[0])
    ]
    return places[-1] if places else ""


def _remedy(message: str, options: Sequence[str], classes: Sequence[str]) -> str:
    """What was probably meant, as the end of a sentence."""
    if name := _misspelt(message):
        return _closest(f"--{name}", options)
    if nested := re.search(r"class_path '([\w.]+)': Option '(\w+)' is not accepted", " ".join(message.split())):
        module, _, kind = nested[1].rpartition(".")
        accepted = list(inspect.signature(getattr(importlib.import_module(module), kind)).parameters)
        return _closest(nested[2], accepted) or f"; it accepts {', '.join(accepted)}"
    if wrong := re.search(r"Expected a dot import path string: (\w+)", message):
        there_are = f"; there are: {', '.join(classes)}" if classes else "; --help lists the classes there are"
        return _closest(wrong[1], classes) or there_are
    if missing := re.search(r'key "([\w.]+)":\s+Expected .* Got value: None', message, re.DOTALL):
        return f"; it has no default: give --{missing[1]}, or a --config that sets it (`distill configs` lists the shipped ones)"
    line = " ".join(message.split())
    if within := re.search(r'key "([\w.]+)": .*the following arguments are required: (\w+(?:, \w+)*)', line):
        return f"; give {', '.join(f'--{within[1]}.{name}' for name in within[2].split(', '))}"
    return ""


def _of_kind(message: str, classes: Mapping[str, Iterable[str]]) -> list[str]:
    """The names of the classes that the message is about, or of all."""
    meant = [kind for kind in classes if re.search(rf"\b{kind}'>", message)]
    return sorted({name for kind in meant or classes for name in classes[kind]})


def _without_none(message: str) -> str:
    """The message in one line, without jsonargparse's account of why a class that may be left out is not None either."""
    line = " ".join(message.split())
    of_class = re.search(r"^(.*?: )(?:- .*? - )?Does not validate against any of the Union subtypes .*? Errors: - (.*)", line)
    none = " - Expected a <class 'NoneType'>"
    return f"{of_class[1]}{of_class[2].partition(none)[0]}" if of_class and none in of_class[2] else message


def _closest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
