"""The quickstart's table, plot and summary, from outcomes made up for the purpose."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.evaluate.abstention import Outcomes, measure
from distill.quickstart.report import COLUMNS, plot, report, summarise, table, versions

pytest.importorskip("matplotlib", reason="the plot needs the extra quickstart")

SYSTEMS = ("base", "likelihood_only", "always_idk", "labeller", "student")
# The keys that the project promises for each system in summary.json.
KEYS = {
    "accuracy", "coverage", "accuracy_answered", "hallucination", "over_refusal", "truthful", "idk_invented",
    "auroc", "aurc", "negative_mass", "auroc_answer", "aurc_answer", "n",
}  # fmt: skip


def outcomes(n: int = 30, seed: int = 0, **changes: np.ndarray) -> Outcomes:
    draw = np.random.default_rng(seed)
    right = draw.random(n) < 0.5
    sure = draw.random(n) + 0.3 * right
    values = dict(
        cluster=np.array([f"entity {i // 2}" for i in range(n)]),
        answered=sure > 0.5,
        right=right,
        majority_right=right.copy(),
        p_idk=1 / (1 + sure),
        answer_log_prob=np.log(sure + 0.01),
        confidence=sure,
        negative_mass=draw.random(n),
    )
    return Outcomes(**(values | changes))


def invented(answered: float, n: int = 10) -> Outcomes:
    """Of n questions nobody can answer, the first part of that size is answered."""
    nobody = np.zeros(n, dtype=bool)
    return outcomes(
        n, answered=np.arange(n) < round(answered * n), right=nobody, majority_right=nobody, negative_mass=np.full(n, np.nan)
    )


@pytest.fixture(scope="module")
def systems() -> dict[str, dict[str, Outcomes]]:
    found = {name: {"test": outcomes(seed=i), "invented": invented(0.2 * i)} for i, name in enumerate(SYSTEMS)}
    never = np.zeros(30, dtype=bool)
    found["always_idk"]["test"] = outcomes(answered=never, negative_mass=np.full(30, np.nan))
    return found


@pytest.fixture(scope="module")
def written(
    systems: Mapping[str, Mapping[str, Outcomes]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("report")
    summary = report(systems, out=folder, seconds={"sampling": 2.5, "training": 10.0}, seed=3, settings={"student": "tiny"})
    return summary, folder


def test_every_system_has_every_promised_figure_and_its_standard_error(written: tuple[dict[str, Any], Path]) -> None:
    for name in SYSTEMS:
        figures = written[0][name]
        assert figures.keys() >= KEYS
        assert figures["se"].keys() >= KEYS - {"n"}
        assert (figures["n"], figures["n_invented"]) == (30, 10)


def test_figures_are_those_of_the_metrics(systems: Mapping[str, Mapping[str, Outcomes]]) -> None:
    summary = summarise(systems)
    for name, by_split in systems.items():
        for key, value in measure(by_split["test"]).items():
            assert summary[name][key] is None if math.isnan(value) else summary[name][key] == pytest.approx(value, abs=1e-6)


def test_abstention_on_invented_entities_is_counted_with_its_error(systems: Mapping[str, Mapping[str, Outcomes]]) -> None:
    summary = summarise(systems)
    assert [summary[name]["idk_invented"] for name in SYSTEMS] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    errors = [summary[name]["se"]["idk_invented"] for name in SYSTEMS]
    assert errors[0] == 0 and all(0.05 < error < 0.3 for error in errors[1:])


def test_a_figure_without_meaning_is_null_and_the_file_is_strict_json(written: tuple[dict[str, Any], Path]) -> None:
    summary, folder = written

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads((folder / "summary.json").read_text(), parse_constant=refuse) == json.loads(json.dumps(summary))
    assert summary["always_idk"]["accuracy_answered"] is None
    assert summary["always_idk"]["negative_mass"] is None
    assert summary["always_idk"]["se"]["accuracy_answered"] is None
    assert summary["base"]["accuracy_answered"] is not None


def test_no_invented_questions_leave_no_figure_rather_than_a_zero(systems: dict[str, dict[str, Outcomes]]) -> None:
    nobody = np.zeros(0, dtype=bool)
    empty = dataclasses.replace(
        systems["base"]["invented"].take(np.zeros(0, dtype=np.intp)), answered=nobody, right=nobody, majority_right=nobody
    )
    found = summarise({"base": {"test": systems["base"]["test"], "invented": empty}})["base"]
    assert found["idk_invented"] is found["se"]["idk_invented"] is None and found["n_invented"] == 0


def test_the_summary_says_how_long_with_what_and_from_which_seed(written: tuple[dict[str, Any], Path]) -> None:
    summary = written[0]
    assert summary["seconds"] == {"sampling": 2.5, "training": 10.0, "total": 12.5}
    assert summary["seed"] == 3 and summary["settings"] == {"student": "tiny"}
    assert summary["versions"] == versions() and {"python", "torch", "transformers", "distill"} <= versions().keys()


def test_the_table_shows_each_figure_of_each_system_with_its_error(systems: Mapping[str, Mapping[str, Outcomes]]) -> None:
    summary = summarise(systems)
    header, *rows = table(summary).splitlines()
    assert header.split() == list(SYSTEMS)
    assert [row[: len(title)] for row, (_, title) in zip(rows, COLUMNS, strict=True)] == [title for _, title in COLUMNS]
    student = summary["student"]
    assert f"{student['coverage']:.3f} ± {student['se']['coverage']:.3f}" in rows[1]
    assert rows[2].split().count("-") == 1  # who never answers has no accuracy when answering
    assert len({len(row) for row in (header, *rows)}) == 1


def test_the_table_leaves_out_what_is_no_system(written: tuple[dict[str, Any], Path]) -> None:
    assert table(written[0]).splitlines()[0].split() == list(SYSTEMS)


def test_the_plot_is_a_whole_png(written: tuple[dict[str, Any], Path]) -> None:
    image = (written[1] / "risk-coverage.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n") and image.endswith(b"IEND\xaeB`\x82") and len(image) > 5000


def test_the_report_ends_by_saying_where_everything_is_and_what_to_do_next(
    systems: Mapping[str, Mapping[str, Outcomes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = report(systems, out=tmp_path, seconds={"all": 61.4}, seed=0, settings={})
    said = capsys.readouterr().out
    assert table(summary) in said and "61 seconds" in said
    assert all(str(tmp_path / name) in said for name in ("summary.json", "risk-coverage.png", "export"))


def test_a_student_that_never_answers_can_be_drawn(systems: dict[str, dict[str, Outcomes]], tmp_path: Path) -> None:
    silent = {**systems, "student": systems["always_idk"]}
    plot(silent, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
