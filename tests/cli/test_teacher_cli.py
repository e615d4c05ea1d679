"""A teacher on the command line and in YAML: by its short name, in one line where it is wrong, and over a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.cli import main
from distill.cli.training import train
from distill.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Callable[[str], Path]) -> Path:
    """A working folder with records and the config of a student beside no teacher yet."""
    monkeypatch.chdir(tmp_path)
    with Path("records.jsonl").open("w") as file:
        for i in range(6):
            prompt = [{"role": "user", "content": f"What is the capital of {'Xy' * (1 + i % 3)}{i}?"}]
            line = {"id": f"r{i}", "group": f"g{i}", "prompt": prompt, "response": "I don't know.", "polarity": "positive"}
            file.write(json.dumps(line) + "\n")
    settings = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "precision": "32-true",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": "run",
            "log_every_n_steps": 1,
        },
        "model": {
            "student": str(tiny_model_folder("llama")),
            "learning_rate": 1e-3,
            "objectives": {"match": {"class_path": "ForwardKL"}},
        },
        "data": {"train": "records.jsonl", "batch_size": 2},
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def saved_teacher() -> Any:
    return yaml.safe_load(Path("run/config.yaml").read_text())["model"]["teacher"]


def weights(path: str = "run/checkpoints/last.ckpt") -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_a_teacher_is_given_by_its_short_name_and_its_settings(folder: Path, tiny_model_folder: Callable[[str], Path]) -> None:
    teacher = str(tiny_model_folder("qwen2"))
    arguments = ["--model.teacher", "LiveTeacher", "--model.teacher.model", teacher, "--model.teacher.dtype", "bfloat16"]
    assert train(["fit", "--config", "run.yaml", *arguments]) == 0
    assert saved_teacher() == {
        "class_path": "distill.teachers.live.LiveTeacher",
        "init_args": {"model": teacher, "dtype": "bfloat16"},
    }
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line["train/match"] > 0 for line in lines)


def test_a_mixture_is_given_in_yaml_by_short_names(folder: Path, tiny_model_folder: Callable[[str], Path]) -> None:
    parts = [
        {"class_path": "LiveTeacher", "init_args": {"model": str(tiny_model_folder("qwen2"))}},
        {"class_path": "EmaTeacher", "init_args": {"decay": 0.5}},
        {"class_path": "BaseTeacher"},
    ]
    mixture = {"class_path": "MixtureTeacher", "init_args": {"teachers": parts, "weights": [0.5, 0.25, 0.25]}}
    Path("teacher.yaml").write_text(yaml.safe_dump({"model": {"teacher": mixture}}))
    assert train(["fit", "--config", "run.yaml", "--config", "teacher.yaml"]) == 0
    names = [part["class_path"].rpartition(".")[2] for part in saved_teacher()["init_args"]["teachers"]]
    assert names == ["LiveTeacher", "EmaTeacher", "BaseTeacher"]


def test_a_resumed_run_finds_its_teacher_in_the_checkpoint(folder: Path, tiny_model_folder: Callable[[str], Path]) -> None:
    teacher = ["--model.teacher", "EmaTeacher", "--model.teacher.decay", "0.5", "--model.objectives.up", "Likelihood"]
    whole = ["--trainer.max_epochs=2", "--model.schedule=constant"]
    train(["fit", "--config", "run.yaml", *teacher, *whole, "--trainer.default_root_dir=whole"])
    train(["fit", "--config", "run.yaml", *teacher, "--model.schedule=constant"])
    # Neither teacher nor objectives are given again: both are the checkpoint's.
    settings = yaml.safe_load(Path("run.yaml").read_text())
    del settings["model"]["objectives"]
    Path("again.yaml").write_text(yaml.safe_dump(settings))
    assert train(["fit", "--config", "again.yaml", *whole, "--ckpt_path", "run/checkpoints/last.ckpt"]) == 0
    resumed, expected = weights(), weights("whole/checkpoints/last.ckpt")
    assert resumed["teacher"]["updates"] == expected["teacher"]["updates"] == 6
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    torch.testing.assert_close(resumed["teacher"], expected["teacher"], atol=0, rtol=0)


def test_export_and_predict_need_no_stored_signal_and_fit_names_it(
    folder: Path, tiny_model_folder: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    student = str(tiny_model_folder("llama"))
    assert main(["signal", "--teacher", student, "--records", "records.jsonl", "--out", "signal"]) == 0
    stored = ["--model.teacher", "StoredTeacher", "--model.teacher.path", "signal", "--model.objectives.up", "Likelihood"]
    assert main(["fit", "--config", "run.yaml", *stored]) == 0
    Path("signal").rename("elsewhere")
    checkpoint = "run/checkpoints/last.ckpt"
    assert main(["export", "--checkpoint", checkpoint, "--out", "out"]) == 0
    assert main(["predict", "--ckpt_path", checkpoint, "--data.train", "records.jsonl", "--out", "out.jsonl"]) == 0
    capsys.readouterr()
    assert main(["fit", "--config", "run.yaml", *stored, "--overwrite", "true"]) == 2
    assert "signal: holds no signal" in capsys.readouterr().err


def test_predict_needs_no_teacher(folder: Path) -> None:
    arguments = ["--model.teacher", "LiveTeacher", "--model.teacher.model", "gone/away/for/ever"]
    assert train(["predict", "--config", "run.yaml", *arguments, "--out", "out.jsonl"]) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["LiveTeachr"], "did you mean LiveTeacher"),
        (["LiveTeacher", "--model.teacher.modle", "x"], "'modle' is not accepted; did you mean model"),
        (["LiveTeacher"], "the following arguments are required: model; give --model.teacher.model$"),
        (["LiveTeacher", "--model.teacher.model", "x", "--model.teacher.dtype", "int8"], "Got value: int8"),
        (["EmaTeacher", "--model.teacher.decay", "2"], "decay is 2"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_right_one(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        train(["fit", "--config", "run.yaml", "--model.teacher", *arguments])
    assert "\n" not in str(refusal.value) and "NoneType" not in str(refusal.value)


def test_an_objective_without_its_teacher_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'match' \(ForwardKL\) compares the student with a teacher"):
        train(["fit", "--config", "run.yaml"])
    assert not Path("run/checkpoints").exists()
