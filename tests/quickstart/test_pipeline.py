"""The quickstart from questions to summary, on a tiny random model: complete, done once, and safe against being stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toy_quickstart

import distill.cli
import distill.teachers.huggingface as huggingface
from distill.cli import main
from distill.errors import ConfigError
from distill.evaluate.rule import RULE_FILE, AbstentionRule
from distill.quickstart import pipeline
from distill.quickstart.labels import ABSTENTION, Recipe
from distill.quickstart.pipeline import SYSTEMS, Settings, run_quickstart
from distill.records import read_manifest, read_records

pytest.importorskip("matplotlib", reason="the plot needs the extra quickstart")
pytestmark = pytest.mark.filterwarnings("ignore")

FIGURES = (
    "accuracy", "coverage", "accuracy_answered", "hallucination", "over_refusal", "truthful", "idk_invented",
    "auroc", "aurc", "negative_mass", "auroc_answer", "aurc_answer",
)  # fmt: skip
SHARD = "part-00000-of-00001.parquet"


@dataclass(frozen=True)
class Finished:
    """One whole run: where, with what, and what it returned."""

    out: Path
    settings: Settings
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Callable[[str], Path]) -> Iterator[Path]:
    """The tiny model; while it is in use, the quickstart asks what suits it."""
    folder = tiny_model_folder("llama")
    facts = toy_quickstart.toy_facts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "facts", lambda: facts)
        patch.setattr(pipeline, "SAMPLING", toy_quickstart.SAMPLING)
        yield folder


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("whole") / "quickstart"
    settings = toy_quickstart.settings(model)
    return Finished(out=out, settings=settings, summary=run_quickstart(settings, out))


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Finished:
    """The finished run in a folder of its own, to be changed."""
    shutil.copytree(finished.out, tmp_path / "quickstart", symlinks=True)
    return dataclasses.replace(finished, out=tmp_path / "quickstart")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing expensive from here on: no model is loaded, nothing is trained or exported."""

    def refuse(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt(f"expensive: {args}")

    monkeypatch.setattr(huggingface, "load_model", refuse)
    monkeypatch.setattr(distill.cli, "main", refuse)


def without_seconds(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "seconds"}


# What a run leaves behind


def test_a_run_writes_everything_it_promises(finished: Finished) -> None:
    for name in (
        f"records/{SHARD}", "records/manifest.json", "records/README.md", "config.yaml", "metrics.jsonl",
        "checkpoints/last.ckpt", "export/model.safetensors", f"export/{RULE_FILE}", "export/README.md", "summary.json",
        "risk-coverage.png",
    ):  # fmt: skip
        assert (finished.out / name).stat().st_size > 0, name


def test_the_summary_has_every_figure_of_every_system(finished: Finished) -> None:
    summary = json.loads((finished.out / "summary.json").read_text())
    assert summary == json.loads(json.dumps(finished.summary))
    for name in SYSTEMS:
        assert (summary[name]["n"], summary[name]["n_invented"]) == (8, 4)
        for figure in FIGURES:
            value = summary[name][figure]
            assert value is None or math.isfinite(value), (name, figure)
            assert figure in summary[name]["se"]
    assert summary["seed"] == 0
    assert summary["settings"]["questions"] == 12
    assert set(summary["versions"]) >= {"distill", "torch", "transformers"}
    stages = [name for name in summary["seconds"] if name != "total"]
    assert summary["seconds"]["total"] == pytest.approx(sum(summary["seconds"][name] for name in stages), abs=0.1)
    assert len([name for name in stages if name.startswith("training")]) == 2


def test_what_the_systems_are_shows_in_their_figures(finished: Finished) -> None:
    base, never, student = (finished.summary[name] for name in ("base", "always_idk", "student"))
    assert base["coverage"] == 1 and 0 < base["accuracy"] <= 0.5 and base["idk_invented"] == 0
    assert never["coverage"] == 0 and never["idk_invented"] == 1 and never["hallucination"] == 0
    assert student["accuracy"] + student["hallucination"] == pytest.approx(student["coverage"])


def test_the_export_loads_with_plain_transformers_and_only_its_trained_layers_have_changed(
    finished: Finished, model: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (AutoModelForCausalLM.from_pretrained(folder, dtype="float32") for folder in (model, finished.out / "export"))
    changed = {name for name, weight in before.named_parameters() if not weight.equal(after.get_parameter(name))}
    assert changed and all("layers.1." in name or name == "model.norm.weight" for name in changed)
    tokenizer = AutoTokenizer.from_pretrained(finished.out / "export")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model).chat_template


def test_the_rule_is_stored_with_the_export_and_makes_the_students_decisions(finished: Finished) -> None:
    rule = AbstentionRule.load(finished.out / "export")
    assert rule.abstention == ABSTENTION and 0 <= rule.threshold <= 1


def test_no_question_of_another_split_is_trained_on(finished: Finished) -> None:
    for folder in (finished.out / "records", finished.out / "likelihood_only" / "records"):
        groups = {record.group for record in read_records(folder)}
        assert groups and {group.split("-")[1] for group in groups} <= {"train", "made_up"}
        assert len({group for group in groups if "-train-" in group}) <= 12
    assert {record.polarity for record in read_records(finished.out / "likelihood_only" / "records")} == {"positive"}
    made_up = [record for record in read_records(finished.out / "records") if "-made_up-" in record.group]
    assert len(made_up) == 2 and {record.response for record in made_up} == {ABSTENTION}


def test_each_label_has_its_records(finished: Finished) -> None:
    by_label: dict[str, set[tuple[str, bool]]] = {}
    for record in read_records(finished.out / "records"):
        by_label.setdefault(record.evidence["label"], set()).add((record.polarity, record.response == ABSTENTION))
    assert {("positive", True), ("negative", False)} <= by_label["unanswerable"]
    assert ("positive", False) in by_label["answerable"] and ("positive", True) not in by_label["answerable"]


def test_the_manifest_says_where_the_records_come_from(finished: Finished) -> None:
    manifest = read_manifest(finished.out / "records")
    assert dict(manifest.counts) == Counter(record.polarity for record in read_records(finished.out / "records"))
    assert manifest.recipe == "quickstart" and manifest.seed == 0 and manifest.teacher["sha256"]


def test_metrics_are_lines_of_json_with_both_losses(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert all(math.isfinite(line["train/answer"]) for line in lines) and any("train/avoid" in line for line in lines)


# Doing nothing twice


def test_a_second_call_asks_no_model_and_gives_the_same_summary(copied: Finished, no_model: None) -> None:
    kept = {name: (copied.out / name).read_bytes() for name in (f"records/{SHARD}", f"export/{RULE_FILE}")}
    again = run_quickstart(copied.settings, copied.out)
    assert without_seconds(again) == without_seconds(copied.summary)
    assert again["seconds"]["total"] >= copied.summary["seconds"]["total"]
    assert {name: (copied.out / name).read_bytes() for name in kept} == kept


def test_other_settings_in_the_same_folder_are_refused_by_name(copied: Finished, no_model: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.out.rglob("*")}
    other = dataclasses.replace(copied.settings, seed=7, recipe=Recipe(negatives=1))
    with pytest.raises(ConfigError, match=r"recipe .* seed 0 -> 7.*--fresh") as refusal:
        run_quickstart(other, copied.out)
    assert "questions" not in str(refusal.value)
    assert {path: path.stat().st_mtime_ns for path in copied.out.rglob("*")} == before


def test_a_fresh_start_sets_the_old_run_aside_whole(copied: Finished, no_model: None) -> None:
    files = sorted(str(path.relative_to(copied.out)) for path in copied.out.rglob("*"))
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt, match="expensive"):  # nothing of the old run is used
            run_quickstart(dataclasses.replace(copied.settings, seed=number), copied.out, fresh=True)
        assert json.loads((copied.out / "settings.json").read_text())["seed"] == number
        assert not (copied.out / "export").exists()
    aside = copied.out.with_name("quickstart.old1")
    assert sorted(str(path.relative_to(aside)) for path in aside.rglob("*")) == files
    assert json.loads((copied.out.with_name("quickstart.old2") / "settings.json").read_text())["seed"] == 1


def test_only_what_is_missing_is_done_again(copied: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's training was stopped after its last step: the export is made, and nothing else is asked anew of the base."""
    shutil.rmtree(copied.out / "export")
    weights = (copied.out / "likelihood_only" / "export" / "model.safetensors").stat().st_mtime_ns
    loaded: list[str] = []
    load = huggingface.load_model
    monkeypatch.setattr(huggingface, "load_model", lambda name, **how: (loaded.append(name), load(name, **how))[1])
    again = run_quickstart(copied.settings, copied.out)
    assert without_seconds(again) == without_seconds(copied.summary)
    assert set(loaded) <= {str(copied.out / "export")}
    assert (copied.out / "likelihood_only" / "export" / "model.safetensors").stat().st_mtime_ns == weights


def test_training_goes_on_from_the_newest_whole_checkpoint(finished: Finished, tmp_path: Path) -> None:
    """A kill may leave a torn file, and the link last.ckpt pointing at one that is gone."""
    folder = tmp_path / "checkpoints"
    assert pipeline._newest_checkpoint(tmp_path) is None
    folder.mkdir()
    whole = next(path for path in (finished.out / "checkpoints").glob("*.ckpt") if not path.is_symlink())
    for step, size in ((1, None), (2, None), (3, 1000)):
        file = folder / f"epoch=0-step={step}.ckpt"
        file.write_bytes(whole.read_bytes()[:size])
        os.utime(file, ns=(step * 10**9, step * 10**9))
    (folder / "last.ckpt").symlink_to("epoch=0-step=0.ckpt")
    assert pipeline._newest_checkpoint(tmp_path) == folder / "epoch=0-step=2.ckpt"


# Settings


def test_rounds_that_do_not_add_up_to_the_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"add up to 10, not to samples = 12"):
        Settings(samples=12, rounds=(4, 3, 3))


def test_another_seed_trains_on_other_questions_and_evaluates_on_the_same(model: Path) -> None:
    train = [{fact.id for fact in pipeline.choose("train", 12, seed)} for seed in (0, 1)]
    assert len(train[0]) == len(train[1]) == 12 and train[0] != train[1]
    assert pipeline.choose("test", 8, 0) == pipeline.choose("test", 8, 1)
    assert len(pipeline.choose("train", 0, 0)) == 24
    assert pipeline.choose("train", 12, 0) == pipeline.choose("train", 0, 0)[:12]


def test_every_setting_can_be_given_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Settings, Path, bool]] = []
    monkeypatch.setattr(pipeline, "run_quickstart", lambda settings, out, *, fresh: called.append((settings, out, fresh)))
    line = "--student gpt2 --samples 4 --rounds [2,2] --recipe.negatives 1 --recipe.known_negatives false --made_up 5"
    assert main(["quickstart", "--out", str(tmp_path), "--fresh", *line.split(), "--train_args", "[--trainer.max_epochs=1]"]) == 0
    wanted = Settings(
        student="gpt2",
        samples=4,
        rounds=(2, 2),
        made_up=5,
        recipe=Recipe(negatives=1, known_negatives=False),
        train_args=("--trainer.max_epochs=1",),
    )
    assert called == [(wanted, tmp_path, True)]
    json.dumps(dataclasses.asdict(called[0][0]))  # they are kept with the run


def test_a_wrong_setting_is_one_line_and_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--samples", "5"]) == 2
    assert "not to samples = 5" in capsys.readouterr().err


# Being killed


@pytest.mark.slow
def test_a_run_killed_at_random_moments_of_every_stage_ends_as_if_it_had_not_been(
    finished: Finished, model: Path, tmp_path: Path
) -> None:
    out, chance = tmp_path / "quickstart", random.Random(0)
    command = [sys.executable, toy_quickstart.__file__, str(model), str(out)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    kills = 0
    for stage in (
        "sampling: 4 answers to each validation",
        "training: likelihood_only",
        "training: student",
        "evaluation: student",
    ):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert process.stdout is not None
        for line in process.stdout:
            if stage in line:
                time.sleep(chance.uniform(0, 0.6))
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("records", "likelihood_only/records"):
        assert (out / name / SHARD).read_bytes() == (finished.out / name / SHARD).read_bytes()
    summary = json.loads((out / "summary.json").read_text())
    assert summary.keys() == finished.summary.keys()
    for name in SYSTEMS:
        for figure in FIGURES:
            assert summary[name][figure] == pytest.approx(finished.summary[name][figure], abs=1e-3), (name, figure)
