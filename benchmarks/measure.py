"""How the benchmarks measure: two ways of doing the same work in turns, the median of each, one table, one file of rows."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_STATUS = Path("/proc/self/status")
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. ratio: for times peer_ms / ours_ms, for rates ours / peer; above 1 means that ours is faster.

    Times are medians (milliseconds). The other fields are null where a benchmark does not measure them: peak memory of the
    process (MiB), samples per second. note: what a reader must know before comparing, such as that the two losses differ.
    """

    work: str
    precision: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    ours_peak_mb: float | None = None
    peer_peak_mb: float | None = None
    ours_per_second: float | None = None
    peer_per_second: float | None = None
    note: str | None = None


def in_turns(ours: Work, peer: Work, *, repeats: int, warm_up: int = 1) -> tuple[list[float], list[float]]:
    """Milliseconds of each call. Ours, peer, ours, peer: a machine that slows down meanwhile slows down both."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(warm_up + repeats):
        for work, found in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            work()
            if turn >= warm_up:
                found.append(1000 * (time.perf_counter() - start))
    return times


def compare(work: str, precision: str, ours: Work, peer_name: str, peer: Work, *, repeats: int) -> Row:
    """The row of two ways of doing the same work."""
    ours_ms, peer_ms = (statistics.median(times) for times in in_turns(ours, peer, repeats=repeats))
    return Row(work=work, precision=precision, ours_ms=ours_ms, peer=peer_name, peer_ms=peer_ms, ratio=peer_ms / ours_ms)


def reset_peak_memory(device: str = "cpu") -> bool:
    """Let `peak_memory_mb` count from now on. False where the system cannot (Linux can)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator keeps would hide what is used next
        Path("/proc/self/clear_refs").write_text("5")  # 5: set VmHWM back to VmRSS
    except (OSError, AttributeError):
        return False
    return True


def peak_memory_mb(device: str = "cpu") -> float:
    """Greatest resident memory of this process so far (MiB); of the tensors on the device where that is "cuda"."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / (1 << 20)
    if _STATUS.is_file():  # Linux: unlike ru_maxrss, VmHWM does not start at the size of the process that started this one
        return _status_mb("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def resident_mb(device: str = "cpu") -> float:
    """Memory in use now (MiB), as `peak_memory_mb` counts it. Only where `reset_peak_memory` can."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated() / (1 << 20)
    return _status_mb("VmRSS")


def _status_mb(name: str) -> float:
    return next(int(line.split()[1]) / 1024 for line in _STATUS.read_text().splitlines() if line.startswith(name))


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    built = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    built.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, says nothing; writes no file")
    built.add_argument("--out", type=Path, help=f"file of the rows (default: benchmarks/results/{name}.json; none with --quick)")
    built.add_argument("--repeats", type=int, default=5, help="timed calls of each way (default: 5)")
    built.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    return built


def target(options: argparse.Namespace, name: str) -> Path | None:
    """Where the rows go."""
    out: Path | None = options.out
    return out if out is not None or options.quick else RESULTS / f"{name}.json"


def report(rows: Sequence[Any], out: Path | None) -> None:
    """Print rows (dataclasses of one kind) as a table, and write them as JSON, whole or not at all."""
    dictionaries = [dataclasses.asdict(row) for row in rows]
    names = [name for name in dictionaries[0] if any(row[name] is not None for row in dictionaries)]
    cells = [names, *([_cell(row[name]) for name in names] for row in dictionaries)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if out is not None:
        write(rows, out)


def write(rows: Sequence[Any], out: Path) -> None:
    """Write rows (dataclasses) as JSON, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    os.replace(partial, out)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
