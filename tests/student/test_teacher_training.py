"""A student beside a teacher: the teacher stays outside, the run can be stopped anywhere, and what is compared is exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from test_module import Recorder, data_of, fit, student_of, trainer_of, weights, write_records
from torch import Tensor

from distill.errors import ConfigError, TeacherError
from distill.objectives import HiddenObjective, Likelihood, Loss, Objective, Positions, Targets, TokenObjective
from distill.student.module import LoraSettings, StudentModule
from distill.teachers.base_model import BaseTeacher
from distill.teachers.ema import EmaTeacher
from distill.teachers.live import FrozenModel, LiveTeacher
from distill.teachers.logits import LogitTeacher
from distill.teachers.mixture import MixtureTeacher


@dataclass(frozen=True, kw_only=True)
class Match(TokenObjective):
    """Cross-entropy against the teacher's distribution, on all positions."""

    weight: float = 1.0
    needs_teacher = True
    signals = frozenset({"dense"})

    @property
    def positions(self) -> Positions:
        return "all"

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        teacher_NV = targets.signal().log_probs_NK
        value_N = -(teacher_NV.exp() * logits_NV.float().log_softmax(1)).sum(1)
        return Loss(value_N=value_N, where_N=targets.where("all"))


@dataclass(frozen=True, kw_only=True)
class Near(HiddenObjective):
    """Squared distance of the last states."""

    weight: float = 1.0

    @property
    def positions(self) -> Positions:
        return "all"

    def layer_pairs(self, student_layers: int, teacher_layers: int) -> tuple[tuple[int, int], ...]:
        return ((student_layers, teacher_layers), (1, 1))

    def __call__(self, student_ND: Tensor, teacher_ND: Tensor, targets: Targets) -> Loss:
        return Loss(value_N=(student_ND - teacher_ND).float().square().mean(1), where_N=targets.where("all"))


def matching(teacher: LogitTeacher, folder: str, **arguments: Any) -> StudentModule:
    objectives: dict[str, Objective] = {"match": Match(), "answer": Likelihood(weight=0.5)}
    student = student_of(folder, **{"objectives": objectives, "teacher": teacher, **arguments})
    torch.manual_seed(0)  # adapters begin at random
    return student


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def qwen(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("qwen2"))


@pytest.fixture
def records(tmp_path: Path) -> str:
    return write_records(tmp_path / "records.jsonl")


class NeverStarted(LiveTeacher):
    """A teacher that must not be needed."""

    def start(self, student: Any) -> Any:
        raise AssertionError("started")


class Losses(Callback):
    """The loss of every batch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(float(outputs["loss"]))


# Outside


def test_a_student_comes_nearer_to_its_teacher(records: str, llama: str, qwen: str) -> None:
    student = matching(LiveTeacher(model=qwen), llama, objectives={"match": Match()})
    fit(student, data_of(records, llama, batch_size=10), max_epochs=30, callbacks=[losses := Losses()])
    assert losses.found[-1] < 0.8 * losses.found[0]


def test_a_teacher_is_in_no_state_no_parameter_list_and_no_checkpoint(
    records: str, llama: str, qwen: str, tmp_path: Path
) -> None:
    alone, without = fit(student_of(llama), data_of(records, llama), max_steps=2)
    student, trainer = fit(matching(LiveTeacher(model=qwen), llama), data_of(records, llama), max_steps=2)
    teacher = student._running_teacher
    assert isinstance(teacher, FrozenModel)
    assert student.state_dict().keys() == alone.state_dict().keys()
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in alone.named_parameters()]
    assert not any(teacher.model is module for module in student.modules())
    assert student.model.training and not any(module.training for module in teacher.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    for name, one in (("with", trainer), ("without", without)):
        one.save_checkpoint(tmp_path / name)
    checkpoint, plain = (torch.load(tmp_path / name, weights_only=True) for name in ("with", "without"))
    assert checkpoint["state_dict"].keys() == plain["state_dict"].keys()
    assert checkpoint["teacher"] == {}


def test_a_teacher_is_not_started_by_predict(records: str, llama: str) -> None:
    student, trainer = matching(NeverStarted(model=llama), llama), trainer_of()
    assert trainer.predict(student, datamodule=data_of(records, llama))
    hidden = matching(NeverStarted(model=llama), llama, objectives={"near": Near()})
    assert trainer_of().predict(hidden, datamodule=data_of(records, llama))


@pytest.mark.parametrize("how", ["fit", "validate", "test"])
def test_a_teacher_is_started_before_the_first_batch(how: str, records: str, llama: str) -> None:
    class NoBatch(Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            raise AssertionError("a batch came first")

        on_validation_batch_start = on_test_batch_start = on_train_batch_start

    student = matching(NeverStarted(model=llama), llama)
    more = {"validate": {"validation_fraction": 0.3}, "test": {"test": records}}
    data = data_of(records, llama, **more.get(how, {}))
    trainer = trainer_of(callbacks=[NoBatch()])
    with pytest.raises(AssertionError, match="started"):
        getattr(trainer, how)(student, datamodule=data)


def test_validation_measures_the_distance_to_the_teacher(records: str, llama: str, qwen: str) -> None:
    trainer = trainer_of()
    trainer.validate(matching(LiveTeacher(model=qwen), llama), datamodule=data_of(records, llama, validation_fraction=0.3))
    assert float(trainer.callback_metrics["val/match"]) > 0


# Exact


def gradients(teacher: LogitTeacher, records: str, llama: str, **arguments: Any) -> dict[str, Tensor]:
    recorder = Recorder()
    settings = {name: arguments.pop(name) for name in ("objectives", "head_memory_mb", "lora") if name in arguments}
    trainer = {name: arguments.pop(name) for name in ("accumulate_grad_batches", "precision") if name in arguments}
    fit(
        matching(teacher, llama, learning_rate=0.0, **settings),
        data_of(records, llama, **{"batch_size": 10, **arguments}),
        max_steps=1,
        callbacks=[recorder],
        **trainer,
    )
    return recorder.gradients[0]


@pytest.mark.parametrize(
    "changed",
    [{"prefix_sharing": False}, {"head_memory_mb": 0}, {"batch_size": 2, "accumulate_grad_batches": 5}],
    ids=["rows of their own", "a head in chunks", "accumulation"],
)
@pytest.mark.parametrize("mixed", [False, True], ids=["one teacher", "a mixture"])
def test_the_gradient_does_not_depend_on_how_it_is_computed(
    changed: dict[str, Any], mixed: bool, records: str, llama: str, qwen: str
) -> None:
    teacher: LogitTeacher = LiveTeacher(model=qwen)
    if mixed:
        teacher = MixtureTeacher(teachers=[teacher, BaseTeacher()], weights=[0.5, 0.5])
    expected, found = gradients(teacher, records, llama), gradients(teacher, records, llama, **changed)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_teacher_computes_in_float32_beside_a_student_in_bfloat16(records: str, llama: str, qwen: str) -> None:
    seen: list[torch.dtype] = []

    class Look(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            running = pl_module._running_teacher

            def note(module: Any, inputs: Any, output: Tensor) -> None:
                seen.append(output.dtype)

            running.model.get_output_embeddings().register_forward_hook(note)
            running.model.model.layers[0].mlp.down_proj.register_forward_hook(note)

    fit(
        matching(LiveTeacher(model=qwen), llama), data_of(records, llama), precision="bf16-mixed", callbacks=[Look()], max_steps=1
    )
    assert set(seen) == {torch.float32}


def test_the_base_of_an_adapted_student_is_the_student_with_its_adapters_off(records: str, llama: str) -> None:
    lora = LoraSettings(rank=2, dropout=0.0)
    student = matching(BaseTeacher(), llama, lora=lora, learning_rate=1e-2)
    _, trainer = fit(student, data_of(records, llama), max_steps=3)
    assert "model" not in vars(student._running_teacher), "no second copy"
    copy = matching(LiveTeacher(model=llama), llama, lora=lora, learning_rate=1e-2)
    fit(copy, data_of(records, llama), max_steps=3)
    for name, value in weights(student).items():
        torch.testing.assert_close(weights(copy)[name], value, atol=1e-5, rtol=1e-4)


def test_a_teacher_that_would_misread_shared_rows_stops_the_run_before_its_first_step(
    records: str, llama: str, tiny_model_folder: Callable[[str], Path]
) -> None:
    gemma = str(tiny_model_folder("gemma3"))
    with pytest.raises(TeacherError, match=r"data.prefix_sharing to false"):
        fit(matching(LiveTeacher(model=gemma), llama), data_of(records, llama), callbacks=[recorder := Recorder()])
    assert not recorder.gradients
    fit(matching(LiveTeacher(model=gemma), llama), data_of(records, llama, prefix_sharing=False), max_steps=1)


# Stopped and gone on


@pytest.mark.parametrize("kind", ["live", "ema", "mixture", "ema of adapters"])
@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_run_with_a_teacher_stopped_mid_epoch_goes_on_to_bit_equal_weights(
    kind: str, stop_at: int, records: str, llama: str, qwen: str, tmp_path: Path
) -> None:
    teachers: dict[str, LogitTeacher] = {
        "live": LiveTeacher(model=qwen),
        "ema": EmaTeacher(decay=0.8, warm_up=True),
        "mixture": MixtureTeacher(teachers=[LiveTeacher(model=qwen), EmaTeacher(decay=0.8)], weights=[0.5, 0.5]),
        "ema of adapters": EmaTeacher(decay=0.8),
    }
    more = {"lora": LoraSettings(rank=2)} if kind == "ema of adapters" else {}

    def student() -> StudentModule:
        return matching(teachers[kind], llama, learning_rate=1e-2, **more)

    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 2}
    whole, _ = fit(student(), data_of(records, llama, batch_size=2), **settings)

    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == stop_at:
                raise KeyboardInterrupt

    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(SystemExit):
        fit(student(), data_of(records, llama, batch_size=2), **settings, enable_checkpointing=True, callbacks=[saver, Stop()])
    path = str(tmp_path / f"step={stop_at}.ckpt")
    resumed, trainer = fit(student(), data_of(records, llama, batch_size=2), ckpt_path=path, **settings)
    assert trainer.global_step == 6
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name
    ours, theirs = (one._running_teacher.state_dict() for one in (whole, resumed))  # type: ignore[union-attr]
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_a_moving_average_counts_optimiser_steps_not_batches(records: str, llama: str) -> None:
    student, trainer = fit(
        matching(EmaTeacher(), llama), data_of(records, llama, batch_size=2), accumulate_grad_batches=2, max_epochs=1
    )
    assert student._running_teacher is not None
    assert student._running_teacher.state_dict()["updates"] == trainer.global_step == 3


def test_a_checkpoint_rebuilds_the_teacher_from_plain_settings(records: str, llama: str, qwen: str, tmp_path: Path) -> None:
    teacher = MixtureTeacher(
        teachers=[LiveTeacher(model=qwen, dtype="bfloat16"), EmaTeacher(decay=0.5), BaseTeacher()], weights=[0.5, 0.25, 0.25]
    )
    _, trainer = fit(matching(teacher, llama), data_of(records, llama), max_steps=1)
    trainer.save_checkpoint(path := tmp_path / "last.ckpt")
    json.dumps(torch.load(path, weights_only=True)["hyper_parameters"])
    assert StudentModule.load_from_checkpoint(path).teacher == teacher


def test_a_checkpoint_loads_without_its_teacher_projectors_included(
    records: str, llama: str, tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    gone = tmp_path / "teacher"
    wide(tiny_model_folder("llama"), gone)
    student = matching(LiveTeacher(model=str(gone)), llama, objectives={"near": Near(), "answer": Likelihood()})
    before_and_after = [
        p.shape for name, p in fit(student, data_of(records, llama), max_steps=2)[0].projectors.named_parameters()
    ]
    assert before_and_after == [torch.Size([48, 32])] * 2
    student.trainer.save_checkpoint(path := tmp_path / "last.ckpt")
    shutil.rmtree(gone)
    loaded = StudentModule.load_from_checkpoint(path)
    for name, value in weights(student).items():
        assert torch.equal(weights(loaded)[name], value), name
    assert trainer_of().predict(loaded, datamodule=data_of(records, llama))


def wide(like: Path, folder: Path) -> None:
    """A random model of another width with the same tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(like, folder)
    config = AutoConfig.from_pretrained(like)
    config.hidden_size = 48
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


# Together


def test_an_objective_that_needs_a_teacher_is_refused_without_one(llama: str) -> None:
    with pytest.raises(ConfigError, match=r"'match' \(Match\) compares the student with a teacher.*set model.teacher"):
        student_of(llama, objectives={"match": Match()})


class SavedGradients(Callback):
    """Gradients of every optimiser step, on disk, since the processes share nothing else."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        buckets = [name for name, _ in trainer.strategy.model.named_parameters()]
        torch.save(
            {"gradients": gradients, "buckets": buckets}, Path(self.folder, f"{trainer.global_step}-{trainer.global_rank}")
        )


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_beside_a_mean_teacher(
    records: str, llama: str, qwen: str, tmp_path: Path
) -> None:
    mixture = MixtureTeacher(teachers=[LiveTeacher(model=qwen), EmaTeacher(decay=0.5)], weights=[0.5, 0.5])
    for name, batch_size, devices in (("one", 4, {"devices": 1}), ("two", 2, {"devices": 2, "strategy": "ddp_spawn"})):
        (tmp_path / name).mkdir()
        trainer = trainer_of(callbacks=[SavedGradients(str(tmp_path / name))], use_distributed_sampler=False, **devices)
        student = matching(mixture, llama, learning_rate=1e-2)
        trainer.fit(student, datamodule=data_of(records, llama, batch_size=batch_size))
    steps = sorted(tmp_path.glob("one/*"))
    assert len(steps) == 3
    for file in steps:
        one = torch.load(file)
        for rank in (0, 1):
            two = torch.load(tmp_path / "two" / file.name.replace("-0", f"-{rank}"))
            assert len(two["buckets"]) == len(one["gradients"]), "the teacher is in no bucket"
            for name, gradient in one["gradients"].items():
                torch.testing.assert_close(two["gradients"][name], gradient, atol=1e-5, rtol=1e-3)
