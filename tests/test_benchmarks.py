"""Each benchmark runs on a small setting, and its rows say what they should; what they measure is measured elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
KEYS = {"work", "precision", "ours_ms", "peer", "peer_ms", "ratio"}
pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="not a source checkout"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Any:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows_of(module: ModuleType, out: Path, *args: str) -> list[dict[str, Any]]:
    module.main(["--quick", "--repeats", "1", "--out", str(out), *args])
    rows = json.loads(out.read_text())
    assert rows
    for row in rows:
        assert set(row) >= KEYS
        assert row["ours_ms"] > 0 and row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    return rows


def test_the_losses_are_compared_in_both_precisions(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    rows = rows_of(benchmark("losses"), tmp_path / "losses.json")
    works = {"likelihood", "unlikelihood", *(work for work, _, _ in benchmark("losses").DIVERGENCES)}
    assert {(row["work"], row["precision"]) for row in rows} == {(work, p) for work in works for p in ("fp32", "bf16")}


def test_our_gradient_is_the_true_one_where_the_clamp_s_is_0(benchmark: Callable[[str], ModuleType]) -> None:
    rows = benchmark("losses").gradients(vocabulary=512)
    for row in rows:
        assert row.ours == pytest.approx(row.truth, rel=1e-2 if row.precision == "bf16" else 1e-6)
    assert all(row.clamped == 0 for row in rows if row.one_minus_p <= 1e-6)
    assert [row.clamped == pytest.approx(row.truth, rel=1e-2) for row in rows if row.one_minus_p == 1e-3] == [True, True]


def test_sampling_is_compared_in_one_run(
    benchmark: Callable[[str], ModuleType], tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = rows_of(benchmark("sampling"), tmp_path / "sampling.json", "--student", str(tiny_model_folder("llama")))
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        assert row["ours_per_second"] == pytest.approx(20_000 / row["ours_ms"])


def test_both_ways_of_a_step_compute_one_loss_and_report_their_memory(
    benchmark: Callable[[str], ModuleType], tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (row,) = rows_of(benchmark("step"), tmp_path / "step.json", "--student", str(tiny_model_folder("llama")))
    assert row["ours_peak_mb"] > 50 and row["peer_peak_mb"] > 50


def test_a_quick_run_writes_no_results_of_its_own(benchmark: Callable[[str], ModuleType]) -> None:
    measure = benchmark("measure")
    assert measure.target(measure.parser("", "losses").parse_args(["--quick"]), "losses") is None
    assert (
        measure.target(measure.parser("", "losses").parse_args([]), "losses") == ROOT / "benchmarks" / "results" / "losses.json"
    )
