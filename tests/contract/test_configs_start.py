"""Every shipped training config starts with nothing but a student, records and, where it has one, a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distill.cli import main
from distill.cli.configs import shipped_configs

FIT = {name: path for name, path in shipped_configs().items() if "/" not in name}


def write_records(path: Path) -> str:
    """Questions with a right and a wrong answer."""
    lines = []
    for i in range(8):
        common = {"group": f"g{i}", "prompt": [{"role": "user", "content": f"What is the capital of X{i}?"}]}
        lines.append({"id": f"{i}+", "response": f"Paris {i}.", "polarity": "positive", **common})
        lines.append({"id": f"{i}-", "response": f"Nairobi {i}.", "polarity": "negative", **common})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIT)
def test_a_config_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny, records = str(tiny_model_folder("llama")), write_records(tmp_path / "records.jsonl")
    settings = yaml.safe_load(FIT[name].read_text(encoding="utf-8"))
    arguments = [f"--model.student={tiny}", f"--data.train={records}", "--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    arguments += ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    teacher = settings["model"].get("teacher", {}).get("class_path")
    if teacher == "StoredTeacher":
        assert main(["signal", "--teacher", tiny, "--records", records, "--out", str(tmp_path / "signal")]) == 0
        arguments.append(f"--model.teacher.path={tmp_path / 'signal'}")
    elif teacher is not None:
        arguments.append(f"--model.teacher.model={tiny}")
    if "train_layers" in settings["model"]:
        arguments.append("--model.train_layers=1")  # as many as the tiny model can lose
    if "on_policy" in settings.get("data", {}):
        arguments.append("--data.on_policy.max_tokens=4")
    assert main(["fit", "--config", name, *arguments]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
