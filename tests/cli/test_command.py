"""The `distill` command: help at once, one line for a mistake, the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from distill.cli import COMMANDS, main
from distill.cli.records import TRL_FORMATS
from distill.errors import DistillError

HEAVY = ("torch", "pytorch_lightning", "transformers", "datasets", "peft", "pandas", "pyarrow", "matplotlib")
TRAINING = ("fit", "validate", "test", "predict")


def imported_by(*args: str) -> set[str]:
    """Which heavy packages a command line imports, in a fresh process."""
    code = (
        "import sys\nfrom distill.cli import main\n"
        f"try:\n    main({list(args)!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('IMPORTED', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize("name", [None, *(name for name in COMMANDS if name not in TRAINING)])
def test_help_imports_nothing_heavy(name: str | None) -> None:
    assert imported_by(*([name] if name else []), "--help") == set()


@pytest.mark.parametrize(
    "args",
    [
        ("configs",),
        ("recipe", "list"),
        ("recipe", "idk_consensus", "--help"),
        ("recipe", "negate", "--help"),
        ("--version",),
        ("records", "convert", "--help"),
    ],
)
def test_a_listing_imports_nothing_heavy(args: tuple[str, ...]) -> None:
    assert imported_by(*args) == set()


def test_help_comes_at_once() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "distill", "--help"], capture_output=True, check=True)
        return time.perf_counter() - began

    # .05 s on a free core; the best of five, so that a busy machine does not decide.
    assert min(seconds() for _ in range(5)) < 0.3


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in text and command.help in text


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in TRAINING])
def test_every_command_can_be_loaded(name: str) -> None:
    assert callable(COMMANDS[name].load())


def test_an_unknown_command_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fti"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("distill: error: no command 'fti'") and errors.count("\n") == 1


def test_a_mistake_is_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILL_DEBUG", raising=False)
    assert main(["configs", "show", "no-such-config"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("distill: error: ") and errors.count("\n") == 1 and "Traceback" not in errors


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_DEBUG", "1")
    with pytest.raises(DistillError):
        main(["configs", "show", "no-such-config"])


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.cli.configs.configs_command", interrupted)
    assert main(["configs"]) == 130


def test_a_reader_that_leaves_early_is_no_error() -> None:
    shell = f"{sys.executable} -m distill configs show quickstart; echo code $? >&2"
    with subprocess.Popen(["bash", "-c", f"({shell}) | true"], stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors and "Exception" not in errors


def test_the_formats_in_help_are_those_of_the_library() -> None:
    from distill.records.trl import TRL_FORMATS as library

    assert library == TRL_FORMATS
