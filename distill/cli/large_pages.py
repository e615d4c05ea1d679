"""Large memory pages for training on the processor: a fifth to a third of a step's time otherwise goes into page faults.

The gradients of a step are freed after it, and glibc gives large blocks back to the kernel, which hands them out again page by
page of 4 KiB, each cleared and each with a fault. glibc can ask for pages of 2 MiB instead (`glibc.malloc.hugetlb=1`, since
2.35), but reads that setting only when a process starts. docs/performance.md has what it brings.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
LARGE_PAGES = "glibc.malloc.hugetlb=1"
COMMANDS = ("fit", "quickstart")  # those that train
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def restart_with_large_pages(arguments: Sequence[str]) -> None:
    """Start this very process once more under the setting, where `arguments` train and it can help; else return.

    Whoever sets GLIBC_TUNABLES, to anything or to nothing, is left in peace. So is a debugger, and a machine with an
    accelerator, where this was not measured.
    """
    if not arguments or arguments[0] not in COMMANDS or VARIABLE in os.environ or sys.gettrace() is not None:
        return
    if not sys.executable or not _helps():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: LARGE_PAGES})


def _helps() -> bool:
    """Whether glibc knows the setting, and the kernel gives large pages to those who ask (`always` gives them to all)."""
    try:
        glibc = re.fullmatch(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
        known = glibc is not None and (int(glibc[1]), int(glibc[2])) >= (2, 35)
        return known and "[madvise]" in _KERNEL.read_text() and not any(path.exists() for path in _ACCELERATORS)
    except (AttributeError, ValueError, OSError):  # not Linux, or not glibc
        return False
