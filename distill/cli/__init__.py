"""The `distill` command: which subcommand does what, and what the shell gets back.

Exit codes: 0 done, 2 a mistake in the input or a file that cannot be read or written (one line on stderr; DISTILL_DEBUG=1 shows
the traceback), 130 Ctrl-C, 143 SIGTERM.
Every command is imported only when it is called, so that help comes at once; torch and Lightning take five seconds.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import distill
from distill.errors import ConfigError, DistillError


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand: a line of help, and `module:function` taking the arguments after the name and returning an exit code."""

    help: str
    target: str
    takes_name: bool = False

    def load(self) -> Callable[[Sequence[str]], int | None]:
        """Import the module and return the function."""
        module, _, function = self.target.partition(":")
        loaded: Callable[[Sequence[str]], int | None] = getattr(importlib.import_module(module), function)
        return loaded


_TRAINING = "distill.cli.training:train"
COMMANDS: dict[str, Command] = {
    "quickstart": Command(help="watch a small model learn what it does not know", target="distill.quickstart:main"),
    "fit": Command(help="train a student from records", target=_TRAINING, takes_name=True),
    "validate": Command(help="compute the validation losses of a checkpoint", target=_TRAINING, takes_name=True),
    "test": Command(help="compute the test losses of a checkpoint", target=_TRAINING, takes_name=True),
    "predict": Command(help="log-probabilities of the records' responses", target=_TRAINING, takes_name=True),
    "recipe": Command(help="run a data recipe, or list them", target="distill.cli.recipe:recipe_command"),
    "records": Command(
        help="validate, convert, print, export or upload record files; find overlap", target="distill.cli.records:records_command"
    ),
    "show": Command(help="print what is trained: each token green, red or grey", target="distill.cli.show:show_command"),
    "signal": Command(help="store a teacher's signal on records", target="distill.cli.signal:signal_command"),
    "evaluate": Command(help="abstention and risk-coverage of a model", target="distill.cli.evaluate:evaluate_command"),
    "shrink": Command(help="some blocks of a model -> a shallower student", target="distill.cli.shrink:shrink_command"),
    "export": Command(help="checkpoint -> plain Hugging Face folder", target="distill.cli.export:export_command"),
    "chat": Command(help="talk to an exported student", target="distill.cli.chat:chat_command"),
    "configs": Command(help="list the shipped configs, or print one", target="distill.cli.configs:configs_command"),
}


def usage() -> str:
    """The text of `distill --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: distill COMMAND [ARGUMENTS]",
            "",
            "Turn what a teacher knows, and what nobody should say, into a small student model.",
            "",
            "commands:",
            *lines,
            "",
            "`distill COMMAND --help` explains a command; `distill fit --print_config` prints every setting with its default.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` defaults to the process's own arguments. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"distill {distill.__version__}")
        return 0
    try:
        return _run(arguments)
    except DistillError as error:
        if os.environ.get("DISTILL_DEBUG") == "1":
            raise
        print(f"distill: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distill: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`distill show ... | head`) has left. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # no permission, a full disk, a folder where a file is expected
        if os.environ.get("DISTILL_DEBUG") == "1":
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"distill: error: {where}{error.strerror or error}; DISTILL_DEBUG=1 shows what was tried", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    name = arguments[0]
    command = COMMANDS.get(name)
    if command is None:
        raise ConfigError(f"no command {name!r}; commands: {', '.join(COMMANDS)}")
    return command.load()(arguments if command.takes_name else arguments[1:]) or 0
