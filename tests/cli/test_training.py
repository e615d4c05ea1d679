"""The traps of Lightning, jsonargparse and omegaconf stay closed (on a toy model: the rules are the command line's)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from toy_training import ToyStudent, run

from distill.cli import training
from distill.errors import ConfigError, DistillError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True, kw_only=True)
class ToyPenalty(TokenObjective):
    """An objective for the parser to find."""

    weight: float = 1.0
    alpha: float = 0.5
    positions: Positions = "all"

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        return Loss(value_N=logits_NV[:, 0].float() * self.alpha, where_N=targets.where("all"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with one config, quiet and on the CPU."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": "run",
        },
        "model": {"student": "gpt", "note": "${model.student} at ${data.records}"},
        "data": {"records": "shards/${model.student}.jsonl"},
    }
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    """The settings that `--print_config` shows."""
    with pytest.raises(SystemExit) as stop:
        run([*args, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def saved() -> dict:
    return yaml.safe_load(Path("run/config.yaml").read_text())


def saved_steps(*, epochs: int) -> int:
    """Optimiser steps of that many epochs of the toy data, counted by a run that saves at its epochs' ends."""
    run(["fit", "--config", "run.yaml", f"--trainer.max_epochs={epochs}", "--trainer.default_root_dir=counted"])
    return weights("counted/checkpoints/last.ckpt")["global_step"]


def weights(path: str = "run/checkpoints/last.ckpt") -> dict:
    return torch.load(path, weights_only=True)


def test_an_interpolation_follows_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "fit", "--config", "run.yaml", "--model.student=llama")
    assert config["data"]["records"] == "shards/llama.jsonl"
    assert config["model"]["note"] == "llama at shards/llama.jsonl"


def test_an_interpolation_follows_a_later_config_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("late.yaml").write_text("model: {student: qwen}\ntrainer: {max_epochs: 3}\n")
    config = printed(capsys, "fit", "--config", "run.yaml", "--config", "late.yaml")
    assert config["data"]["records"] == "shards/qwen.jsonl"
    assert config["trainer"]["max_epochs"] == 3


def test_a_config_may_name_the_file_of_a_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("parts").mkdir()
    Path("parts/model.yaml").write_text("student: neo\nlr: 0.5\n")
    Path("whole.yaml").write_text("model: parts/model.yaml\n")
    config = printed(capsys, "fit", "--config", "whole.yaml", "--model.lr=0.7")
    assert (config["model"]["student"], config["model"]["lr"]) == ("neo", 0.7)


def test_an_environment_variable_is_refused_before_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    with pytest.raises(ConfigError, match="name of the variable") as refusal:
        run(["fit", "--config", "run.yaml", "--model.note=${oc.env:SECRET_KEY}"])
    assert "hunter2" not in str(refusal.value)
    assert not Path("run").exists()


def test_every_default_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "fit", "--model.student=gpt")
    assert config["model"]["lr"] == 0.1
    assert config["trainer"]["default_root_dir"] == "runs/fit"
    assert config["trainer"]["use_distributed_sampler"] is False
    assert config["weights_only"] is True
    assert config["checkpoint"]["save_last"] == "link"
    assert config["checkpoint"]["save_on_exception"] is True
    assert config["checkpoint"]["enable_version_counter"] is False
    assert config["seed_everything"] == 0
    assert "optimizer" not in config  # auto_configure_optimizers would add a second way to set it


def test_help_shows_every_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "learning rate (type: float, default: 0.1)" in text
    assert "default: runs/fit" in text


def test_the_student_is_named_once_and_linked_to_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(training.StudentCLI, "_run_subcommand", lambda self, name: seen.append(self.datamodule.student))
    run(["fit", "--config", "run.yaml", "--model.student=llama"])
    assert seen == ["llama"]


def test_a_misspelt_link_is_an_error(folder: Path) -> None:
    class Misspelt(training.StudentCLI):
        def add_arguments_to_parser(self, parser):
            parser.link_arguments("model.student", "data.studnet")

    from toy_training import ToyRecords

    with pytest.raises(ValueError, match="studnet"):
        Misspelt(model_class=ToyStudent, datamodule_class=ToyRecords, args=["fit", "--config", "run.yaml"])


def test_a_misspelt_key_is_an_error_that_names_the_right_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean --model.objectives"):
        run(["fit", "--config", "run.yaml", "--model.objectivs=1"])
    Path("typo.yaml").write_text("model: {objectivs: 1}\n")
    with pytest.raises(ConfigError, match=r"^typo.yaml:1: .*objectivs.*; did you mean --model.objectives\?"):
        run(["fit", "--config", "run.yaml", "--config", "typo.yaml"])
    Path("broken.yaml").write_text("model: {\nother: 1\n")
    with pytest.raises(ConfigError, match=r"^broken.yaml:\d: not YAML"):
        run(["fit", "--config", "run.yaml", "--config", "broken.yaml"])


def test_what_has_no_default_is_named_with_the_option_that_gives_it(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"give --model.student, or a --config that sets it"):
        run(["fit"])


def test_an_objective_is_found_by_its_short_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("loss.yaml").write_text("model: {objectives: {wrong: {class_path: ToyPenalty, init_args: {alpha: 0.2}}}}\n")
    config = printed(capsys, "fit", "--config", "run.yaml", "--config", "loss.yaml", "--model.objectives.wrong.weight=2")
    wrong = config["model"]["objectives"]["wrong"]
    assert wrong["class_path"].endswith("ToyPenalty")
    assert (wrong["init_args"]["alpha"], wrong["init_args"]["weight"]) == (0.2, 2.0)


def test_a_misspelt_objective_is_an_error_that_names_the_right_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean ToyPenalty"):
        run(["fit", "--config", "run.yaml", "--model.objectives.wrong=ToyPenlty"])


def test_the_shipped_objectives_are_found_by_their_short_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--model.objectives.a=Likelihood", "--model.objectives.b=Unlikelihood"]
    config = printed(capsys, "fit", "--config", "run.yaml", *names)
    found = [entry["class_path"].rpartition(".")[2] for entry in config["model"]["objectives"].values()]
    assert found == ["Likelihood", "Unlikelihood"]


def test_a_run_folder_holds_config_metrics_and_one_copy_of_the_weights(folder: Path) -> None:
    assert run(["fit", "--config", "run.yaml"]) == 0
    assert saved()["data"]["records"] == "shards/gpt.jsonl"
    checkpoints = Path("run/checkpoints")
    assert sorted(path.name for path in checkpoints.iterdir()) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert (checkpoints / "last.ckpt").is_symlink()
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["val/lr"] == pytest.approx(0.1)
    assert weights()["hyper_parameters"]["note"] == "gpt at shards/gpt.jsonl"


def test_the_last_steps_are_saved_also_where_the_interval_does_not_divide_them(folder: Path) -> None:
    run(["fit", "--config", "run.yaml", "--trainer.max_epochs=2", "--checkpoint.every_n_train_steps=3"])
    steps = weights()["global_step"]
    assert steps % 3 and steps == saved_steps(epochs=2)


def test_resuming_goes_on_and_overwrites_the_saved_config(folder: Path) -> None:
    run(["fit", "--config", "run.yaml"])
    assert run(["fit", "--config", "run.yaml", "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert weights()["global_step"] == 8
    assert saved()["trainer"]["max_epochs"] == 2


def test_the_command_line_wins_over_the_config_over_the_checkpoint_over_the_defaults(folder: Path) -> None:
    run(["fit", "--config", "run.yaml", "--model.lr=0.3", "--model.gain.factor=7", "--model.pause=0.001"])
    quiet = "trainer: {accelerator: cpu, enable_progress_bar: false, default_root_dir: run, max_epochs: 2}"
    Path("again.yaml").write_text(f"model: {{pause: 0.002}}\n{quiet}\n")
    assert run(["fit", "--config", "again.yaml", "--ckpt_path=run/checkpoints/last.ckpt", "--model.lr=0.05"]) == 0
    model = saved()["model"]
    assert model["lr"] == 0.05  # command line
    assert model["pause"] == 0.002  # config file
    assert model["student"] == "gpt" and model["gain"] == {"factor": 7.0}  # checkpoint
    assert model["objectives"] is None  # default


def test_a_checkpoint_named_in_a_config_file_gives_its_settings_too(folder: Path) -> None:
    run(["fit", "--config", "run.yaml", "--model.lr=0.3"])
    Path("again.yaml").write_text("ckpt_path: run/checkpoints/last.ckpt\n")
    assert run(["fit", "--config", "run.yaml", "--config", "again.yaml", "--trainer.max_epochs=2"]) == 0
    assert saved()["model"]["lr"] == 0.3


def test_resuming_from_the_last_of_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint under run/checkpoints"):
        run(["fit", "--config", "run.yaml", "--ckpt_path", "last"])
    with pytest.raises(ConfigError, match="no such file"):
        run(["validate", "--config", "run.yaml", "--ckpt_path", "run/checkpoints/never.ckpt"])


def test_a_new_run_over_an_earlier_one_is_an_error_unless_asked_for(folder: Path) -> None:
    run(["fit", "--config", "run.yaml", "--trainer.max_epochs=2"])
    with pytest.raises(ConfigError, match="--ckpt_path last.*--overwrite"):
        run(["fit", "--config", "run.yaml"])
    assert run(["fit", "--config", "run.yaml", "--overwrite=true"]) == 0
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["epoch=0-step=4.ckpt", "last.ckpt"]


def test_a_checkpoint_that_would_execute_code_is_refused(folder: Path) -> None:
    class Payload:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    torch.save({"hyper_parameters": {"student": Payload()}}, "evil.ckpt")
    with pytest.raises(DistillError, match="evil.ckpt"):
        run(["validate", "--config", "run.yaml", "--ckpt_path=evil.ckpt"])
    assert not Path("executed").exists()


def test_a_setting_that_lightning_refuses_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError):
        run(["fit", "--config", "run.yaml", "--trainer.accelerator=cpu", "--trainer.devices=0"])


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_fit_saves_its_last_step_and_says_so_in_its_exit_code(folder: Path, sent: signal.Signals, code: int) -> None:
    script = Path(__file__).with_name("toy_training.py")
    command = [sys.executable, str(script), "fit", "--config", "run.yaml", "--model.pause=0.05", "--trainer.max_epochs=200"]
    # Where the tests run as a background job SIGINT is ignored, and children inherit that.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 6"):
                break
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert weights()["global_step"] >= 6
