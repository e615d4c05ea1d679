"""Training restarts itself once under glibc's setting for large pages, and only where that can help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.cli import large_pages
from distill.cli.large_pages import LARGE_PAGES, VARIABLE, restart_with_large_pages


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    """A machine where the setting helps; what would be started is collected instead."""
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "execve", lambda path, argv, environment: found.append((argv, environment)))
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "distill", "fit", "--config", "x"])
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "_KERNEL", tmp_path / "enabled")
    monkeypatch.setattr(large_pages, "_ACCELERATORS", (tmp_path / "nvidia",))
    return found


def test_the_same_command_starts_again_with_the_setting(restarts: list[tuple[list[str], dict[str, str]]]) -> None:
    restart_with_large_pages(["fit", "--config", "x"])
    [(argv, environment)] = restarts
    assert argv == [sys.executable, "-m", "distill", "fit", "--config", "x"]
    assert environment == {**os.environ, VARIABLE: LARGE_PAGES}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["records", "validate", "fit"], ["predict"]])
def test_what_does_not_train_starts_once(restarts: list[Any], arguments: list[str]) -> None:
    restart_with_large_pages(arguments)
    assert restarts == []


@pytest.mark.parametrize("value", ["", LARGE_PAGES, "glibc.malloc.check=1"])
def test_a_setting_of_the_users_own_stays(restarts: list[Any], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    restart_with_large_pages(["fit"])
    assert restarts == []


@pytest.mark.parametrize("glibc", ["glibc 2.34", "musl", "", None])
def test_a_libc_that_does_not_know_the_setting_is_left_alone(
    restarts: list[Any], monkeypatch: pytest.MonkeyPatch, glibc: str | None
) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: glibc)
    restart_with_large_pages(["fit"])
    assert restarts == []


@pytest.mark.parametrize("kernel", ["always madvise [never]", "[always] madvise never", None])
def test_a_kernel_that_gives_large_pages_to_all_or_none_changes_nothing(
    restarts: list[Any], tmp_path: Path, kernel: str | None
) -> None:
    (tmp_path / "enabled").unlink()
    if kernel is not None:
        (tmp_path / "enabled").write_text(kernel)
    restart_with_large_pages(["fit"])
    assert restarts == []


def test_an_accelerator_or_a_debugger_is_left_alone(restarts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia").touch()
    restart_with_large_pages(["fit"])
    (tmp_path / "nvidia").unlink()
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    restart_with_large_pages(["fit"])
    assert restarts == []


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_a_real_process_restarts_once_and_keeps_its_arguments_and_exit_code() -> None:
    code = (
        "import os, sys\nfrom distill.cli import large_pages\nlarge_pages._helps = lambda: True\n"
        "print('began', os.getpid())\nsys.stdout.flush()\nlarge_pages.restart_with_large_pages(sys.argv[1:])\n"
        "print('runs', os.getpid(), os.environ['GLIBC_TUNABLES'], sys.argv[1:])\nsys.exit(3)"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run([sys.executable, "-c", code, "fit", "a b"], capture_output=True, text=True, env=environment)
    first, again, last = done.stdout.splitlines()
    assert first == again.strip() and last == f"runs {first.split()[1]} {LARGE_PAGES} ['fit', 'a b']" and done.returncode == 3
