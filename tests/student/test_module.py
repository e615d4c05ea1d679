"""StudentModule: what is trained, how it is reduced, and that a stopped run goes on as if it had not stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from distill.data import RecordDataModule
from distill.errors import ConfigError, ModelError
from distill.objectives import Likelihood, TokenObjective, Unlikelihood
from distill.student.callbacks import MetricsJsonl
from distill.student.metrics import CollapseAlarm
from distill.student.module import LoraSettings, StudentModule, best_precision

ANSWERS = ("Paris", "Nairobi", "Lyon is the one", "the yen")


def write_records(path: Path, *, questions: int = 10, positives: bool = True, name: str = "g") -> str:
    """Questions with one positive and 0 to 3 negatives of unequal lengths."""
    lines = []
    for i in range(questions):
        common = {
            "group": f"{name}{i}",
            "prompt": [{"role": "user", "content": f"What is the capital of {'Xy' * (1 + i % 3)}{i}?"}],
        }
        if positives:
            lines.append({"id": f"{i}+", "response": "I don't know." if i % 2 else "No.", "polarity": "positive", **common})
        lines += [{"id": f"{i}-{k}", "response": ANSWERS[k], "polarity": "negative", **common} for k in range(i % 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


class Recorder(Callback):
    """The gradient of every optimiser step, and the ids of every batch."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.batches: list[tuple[str, ...]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch.record_ids)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def records(tmp_path: Path) -> str:
    return write_records(tmp_path / "records.jsonl")


def objectives(alpha: float = 0.5) -> dict[str, TokenObjective]:
    return {"likelihood": Likelihood(), "unlikelihood": Unlikelihood(weight=alpha)}


def student_of(folder: str, **arguments: Any) -> StudentModule:
    defaults = {"objectives": objectives(), "learning_rate": 3e-3, "schedule": "constant", "weight_decay": 0.0}
    return StudentModule(student=folder, **{**defaults, **arguments})


def data_of(records: str, folder: str, **arguments: Any) -> RecordDataModule:
    return RecordDataModule(
        train=records, student=folder, **{"batch_size": 3, "bucket_window": 8, "protect_tokens": False, **arguments}
    )


def trainer_of(**arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, **quiet, **arguments})


def fit(
    student: StudentModule, data: RecordDataModule, *, ckpt_path: str | None = None, **arguments: Any
) -> tuple[StudentModule, Trainer]:
    trainer = trainer_of(**arguments)
    trainer.fit(student, datamodule=data, ckpt_path=ckpt_path)
    return student, trainer


# What training does


def test_positives_become_likelier_and_negatives_rarer(records: str, llama: str) -> None:
    # First teach the wrong answers, so that there is something to push down.
    wrong = Path(records).with_name("wrong.jsonl")
    wrong.write_text(Path(records).read_text().replace('"negative"', '"positive"'))
    taught, _ = fit(student_of(llama, objectives={"likelihood": Likelihood()}), data_of(str(wrong), llama), max_epochs=15)

    student, trainer = student_of(llama), trainer_of(max_epochs=15)
    student.model = taught.model
    data = data_of(records, llama, validation=write_records(Path(records).with_name("same.jsonl"), name="other"))
    trainer.validate(student, datamodule=data, verbose=False)
    before = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.fit(student, datamodule=data)
    after = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert before["val/p_negative"] > 0.1
    assert after["val/p_negative"] < 0.2 * before["val/p_negative"]
    assert after["val/nats_per_positive"] < 0.7 * before["val/nats_per_positive"]
    assert after["val/loss"] == pytest.approx(after["val/likelihood"] + 0.5 * after["val/unlikelihood"])


@pytest.mark.parametrize("sharing", [True, False])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(sharing: bool, records: str, llama: str) -> None:
    found = []
    # Ten questions, eight to a step: the second step is incomplete, and its last batch as well.
    for batch_size, accumulate in ((8, 1), (2, 4), (4, 2), (1, 8)):
        recorder = Recorder()
        data = data_of(records, llama, batch_size=batch_size, bucket_window=10, prefix_sharing=sharing)
        fit(student_of(llama, learning_rate=0.0), data, accumulate_grad_batches=accumulate, callbacks=[recorder])
        found.append(recorder.gradients)
    for other in found[1:]:
        assert len(other) == len(found[0]) == 2
        for ours, theirs in zip(found[0], other, strict=True):
            for name, gradient in ours.items():
                torch.testing.assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_mean_over_all_positions_of_the_step(records: str, llama: str) -> None:
    recorder = Recorder()
    data = data_of(records, llama, batch_size=2, prefix_sharing=False)
    student, _ = fit(student_of(llama, learning_rate=0.0), data, accumulate_grad_batches=5, callbacks=[recorder])
    store = data.stores["train"]
    totals: dict[bool, list[Tensor]] = {True: [], False: []}
    for index in range(len(store)):
        view = store.view(index)
        ids = torch.from_numpy(view.token_ids.astype("int64"))
        log_probs = student.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for place in view.weight.nonzero()[0]:
            log_p = log_probs[place - 1, ids[place]]
            negative = bool(view.negative[place])
            totals[negative].append(-torch.log1p(-log_p.exp()) if negative else -log_p)
    student.zero_grad()
    (torch.stack(totals[False]).mean() + 0.5 * torch.stack(totals[True]).mean()).backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(recorder.gradients[0][name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_limited_epochs_count_only_the_positions_that_are_trained(records: str, llama: str) -> None:
    recorder, whole = Recorder(), Recorder()
    fit(
        student_of(llama, learning_rate=0.0),
        data_of(records, llama, batch_size=2),
        accumulate_grad_batches=2,
        limit_train_batches=3,
        callbacks=[recorder],
    )
    ids = recorder.batches[2]
    kept = Path(records).with_name("kept.jsonl")
    kept.write_text("".join(line + "\n" for line in Path(records).read_text().splitlines() if json.loads(line)["id"] in ids))
    fit(student_of(llama, learning_rate=0.0), data_of(str(kept), llama, batch_size=2), callbacks=[whole])
    assert len(recorder.gradients) == 2
    for name, gradient in whole.gradients[0].items():
        torch.testing.assert_close(recorder.gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("skip", [True, False])
def test_a_step_with_negatives_only_trains_nothing_unless_asked(skip: bool, tmp_path: Path, llama: str) -> None:
    path = write_records(tmp_path / "negatives.jsonl", positives=False)
    recorder = Recorder()
    student = student_of(llama, skip_unpaired_negatives=skip)
    _, trainer = fit(student, data_of(path, llama, batch_size=16), callbacks=[recorder])
    assert any(gradient.any() for gradient in recorder.gradients[0].values()) is not skip
    assert float(trainer.callback_metrics["train/steps_without_positives"]) == 1
    assert "train/likelihood" not in trainer.callback_metrics, "a kind without positions has no mean"


def test_gradients_are_clipped_under_mixed_precision_with_the_fused_optimiser(records: str, llama: str) -> None:
    class Norm(Callback):
        found: list[float] = []

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            if gradients:
                self.found.append(float(torch.stack(gradients).norm()))

    fit(student_of(llama), data_of(records, llama), precision="bf16-mixed", gradient_clip_val=0.01, callbacks=[norm := Norm()])
    assert norm.found and max(norm.found) <= 0.0101


def test_gradient_checkpointing_changes_no_gradient(records: str, llama: str) -> None:
    found = []
    for checkpointing in (False, True):
        recorder = Recorder()
        student = student_of(llama, gradient_checkpointing=checkpointing, learning_rate=0.0)
        fit(student, data_of(records, llama), callbacks=[recorder], max_steps=1)
        assert student.model.is_gradient_checkpointing is checkpointing
        found.append(recorder.gradients[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_a_head_in_chunks_changes_no_gradient(records: str, llama: str) -> None:
    found = []
    for megabytes in (1024, 0):
        recorder = Recorder()
        student = student_of(llama, learning_rate=0.0, head_memory_mb=megabytes)
        fit(student, data_of(records, llama), callbacks=[recorder], max_steps=1)
        found.append(recorder.gradients[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


# What is trained


def changed(student: StudentModule, folder: str) -> set[str]:
    fresh = student_of(folder)
    fresh.configure_model()
    before = dict(fresh.model.named_parameters())
    return {name for name, p in student.model.named_parameters() if name in before and not torch.equal(p, before[name])}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "gpt2", "gpt_neox"])
def test_train_layers_trains_the_topmost_blocks_and_the_final_norm_only(
    family: str, records: str, tiny_model_folder: Callable[[str], Path]
) -> None:
    folder = str(tiny_model_folder(family))
    student, trainer = fit(student_of(folder, train_layers=1), data_of(records, folder), max_steps=2)
    trained = {name for name, p in student.model.named_parameters() if p.requires_grad}
    assert changed(student, folder) <= trained
    assert all(
        ".1." in name or name.endswith(("norm.weight", "ln_f.weight", "ln_f.bias", "final_layer_norm.weight", "norm.bias"))
        for name in trained
    )
    assert any(".1." in name for name in trained) and any(".1." not in name for name in trained)
    in_optimizer = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in student.parameters() if p.requires_grad}


def test_lora_trains_adapters_only_and_saves_nothing_else(records: str, llama: str, tmp_path: Path) -> None:
    student, trainer = fit(student_of(llama, lora=LoraSettings(rank=2)), data_of(records, llama), max_steps=3)
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert any(p.detach().any() for name, p in student.named_parameters() if "lora_B" in name)
    fresh = student_of(llama)
    fresh.configure_model()
    base = {
        name.replace(".base_layer", ""): p for name, p in student.model.get_base_model().named_parameters() if "lora_" not in name
    }
    assert all(torch.equal(p, base[name]) for name, p in fresh.model.named_parameters())
    trainer.save_checkpoint(tmp_path / "adapters.ckpt")
    saved = torch.load(tmp_path / "adapters.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == trained


def test_lora_targets_that_match_nothing_are_an_error_that_lists_the_layers(llama: str) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets = \['nope'\].*q_proj"):
        student_of(llama, lora=LoraSettings(targets=("nope",))).configure_model()


def test_weight_decay_spares_norms_and_biases(records: str, llama: str) -> None:
    _, trainer = fit(student_of(llama, weight_decay=0.1), data_of(records, llama), max_steps=1)
    decayed, spared = trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2} and {p.dim() for p in spared["params"]} == {1}


def test_the_model_is_loaded_once(llama: str) -> None:
    student = student_of(llama)
    student.configure_model()
    model = student.model
    student.configure_model()
    assert student.model is model


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.8536, 0.5, 0.1464]),
    ],
)
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(
    schedule: str, expected: list[float], records: str, llama: str
) -> None:
    class Rates(Callback):
        def __init__(self) -> None:
            self.found: list[float] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.found.append(pl_module._rate)

    student = student_of(llama, schedule=schedule, warmup_steps=2, learning_rate=0.1)
    fit(student, data_of(records, llama, batch_size=2), max_epochs=2, max_steps=6, callbacks=[rates := Rates()])
    assert rates.found == pytest.approx([0.1 * factor for factor in expected], rel=1e-3)


def test_a_schedule_without_an_end_is_refused(records: str, llama: str) -> None:
    with pytest.raises(ConfigError, match="set max_epochs or max_steps"):
        fit(student_of(llama, schedule="linear"), data_of(records, llama), max_epochs=-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"lora": LoraSettings(), "train_layers": 1}, "keep one"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(arguments: dict[str, Any], message: str, llama: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student_of(llama, **arguments)


def test_more_layers_than_there_are_is_an_error_that_says_how_many(llama: str) -> None:
    with pytest.raises(ConfigError, match="train_layers is 3; LlamaForCausalLM has 2 blocks"):
        student_of(llama, train_layers=3).configure_model()


# Checkpoints


def weights(student: StudentModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("end", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 9}])
def test_a_run_stopped_at_any_step_goes_on_to_bit_equal_weights(
    end: dict[str, int], stop_at: int, records: str, llama: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, **end}
    arguments = {"learning_rate": 1e-2, "schedule": "cosine", "warmup_steps": 1}
    data_arguments = {"batch_size": 2, "negatives_per_group": 1}
    whole, _ = fit(student_of(llama, **arguments), data_of(records, llama, **data_arguments), **settings)

    class Stop(Callback):
        """A kill: nothing runs after the checkpoint."""

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == stop_at:
                raise KeyboardInterrupt

    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(SystemExit):
        fit(
            student_of(llama, **arguments),
            data_of(records, llama, **data_arguments),
            **settings,
            enable_checkpointing=True,
            callbacks=[saver, Stop()],
        )
    recorder = Recorder()
    resumed, trainer = fit(
        student_of(llama, **arguments),
        data_of(records, llama, **data_arguments),
        ckpt_path=str(tmp_path / f"step={stop_at}.ckpt"),
        callbacks=[recorder],
        **settings,
    )
    assert trainer.global_step == 9
    assert len(recorder.gradients) == 9 - stop_at
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


@pytest.mark.parametrize("end", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("validation", [False, True])
def test_a_run_resumed_from_a_checkpoint_of_an_epochs_end_is_the_long_run(
    end: dict[str, int], validation: bool, records: str, llama: str, tmp_path: Path
) -> None:
    def data() -> RecordDataModule:
        more = {"validation": write_records(tmp_path / "v.jsonl", name="v", questions=3)} if validation else {}
        return data_of(records, llama, **more)

    saver = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=not validation)
    whole, _ = fit(student_of(llama), data(), **end, enable_checkpointing=True, callbacks=[saver])
    for epoch in (0, 1):
        resumed, trainer = fit(student_of(llama), data(), ckpt_path=str(tmp_path / f"epoch={epoch}.ckpt"), **end)
        assert trainer.global_step == 12
        for name, value in weights(whole).items():
            assert torch.equal(weights(resumed)[name], value), name


def test_a_run_interrupted_inside_a_batch_repeats_that_batch(records: str, llama: str, tmp_path: Path) -> None:
    class Break(Callback):
        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "broken.ckpt")
                raise KeyboardInterrupt

    whole, _ = fit(student_of(llama), data_of(records, llama, batch_size=2))
    with pytest.raises(SystemExit):
        fit(student_of(llama), data_of(records, llama, batch_size=2), callbacks=[Break()])
    resumed, trainer = fit(student_of(llama), data_of(records, llama, batch_size=2), ckpt_path=str(tmp_path / "broken.ckpt"))
    assert trainer.global_step == 5
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


@pytest.mark.parametrize("steps", [3, 4, 5, 6])
@pytest.mark.parametrize("settings", [{"max_epochs": -1, "max_steps": 12}, {"max_epochs": 3}])
def test_a_run_ended_by_max_steps_and_prolonged_is_the_long_run(
    settings: dict[str, Any], steps: int, records: str, llama: str, tmp_path: Path
) -> None:
    whole, _ = fit(student_of(llama), data_of(records, llama), **settings)
    _, trainer = fit(student_of(llama), data_of(records, llama), **{**settings, "max_steps": steps})
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed, trainer = fit(student_of(llama), data_of(records, llama), ckpt_path=str(tmp_path / "end.ckpt"), **settings)
    assert trainer.global_step == 12
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_a_checkpoint_in_the_middle_of_an_epoch_refuses_another_batch_size(records: str, llama: str, tmp_path: Path) -> None:
    _, trainer = fit(student_of(llama), data_of(records, llama, batch_size=2), max_epochs=3, max_steps=2)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    with pytest.raises(ConfigError, match="batch_size = 2, and it is 4 now"):
        fit(student_of(llama), data_of(records, llama, batch_size=4), max_epochs=3, ckpt_path=str(tmp_path / "middle.ckpt"))


def test_a_checkpoint_loads_without_pickles_and_rebuilds_the_student_and_its_objectives(
    records: str, llama: str, tmp_path: Path
) -> None:
    objectives_given: dict[str, TokenObjective] = {"up": Likelihood(weight=2.0), "down": Unlikelihood(weight=0.3, margin=0.1)}
    student = student_of(llama, objectives=objectives_given, train_layers=1)
    _, trainer = fit(student, data_of(records, llama), max_steps=2)
    trainer.save_checkpoint(path := tmp_path / "last.ckpt")
    content = torch.load(path, weights_only=True)
    json.dumps(content["hyper_parameters"])
    assert set(content["state_dict"]) == {name for name, p in student.named_parameters() if p.requires_grad}
    loaded = StudentModule.load_from_checkpoint(path)
    assert loaded.objectives == objectives_given
    for name, value in weights(student).items():
        assert torch.equal(weights(loaded)[name], value), name


def test_a_checkpoint_of_another_student_is_refused(records: str, llama: str, tmp_path: Path) -> None:
    _, trainer = fit(student_of(llama, train_layers=1), data_of(records, llama), max_steps=1, max_epochs=3)
    trainer.save_checkpoint(path := tmp_path / "one.ckpt")
    with pytest.raises(ModelError, match="trained weights are missing"):
        fit(student_of(llama, train_layers=2), data_of(records, llama), ckpt_path=str(path))
    with pytest.raises(ModelError, match="does not fit"):
        StudentModule.load_from_checkpoint(path, train_layers=2)


# What is reported


def test_metrics_are_appended_as_json_lines_over_restarts(records: str, llama: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    data = data_of(records, llama, validation_fraction=0.2, batch_size=2)
    fit(student_of(llama), data, callbacks=[MetricsJsonl(str(path))])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], "train/loss" in line, "val/loss" in line) for line in lines] == [
        *((step, True, False) for step in (1, 2, 3, 4)),
        (4, False, True),
    ]
    training = lines[0]
    assert training["train/loss"] == pytest.approx(training["train/likelihood"] + 0.5 * training["train/unlikelihood"], rel=1e-5)
    assert training["train/likelihood"] == pytest.approx(training["train/nats_per_positive"], rel=1e-5)
    assert training["train/tokens_per_second"] > 0 and 0 < training["train/p_negative"] < 1
    assert training["train/learning_rate"] == pytest.approx(3e-3)
    with path.open("a") as file:
        file.write('{"torn')
    fit(student_of(llama), data_of(records, llama), callbacks=[MetricsJsonl(str(path))], max_steps=1)
    appended = path.read_text().splitlines()[len(lines) :]
    assert appended[0] == '{"torn' and json.loads(appended[1])["step"] == 1


def test_logged_means_are_over_all_positions_since_the_last_log(records: str, llama: str, tmp_path: Path) -> None:
    def lines(name: str, **arguments: Any) -> list[dict[str, float]]:
        fit(
            student_of(llama, learning_rate=0.0),
            data_of(records, llama, batch_size=2),
            callbacks=[MetricsJsonl(str(tmp_path / name))],
            **arguments,
        )
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    often, seldom = lines("often", log_every_n_steps=1), lines("seldom", log_every_n_steps=5)
    assert (len(often), len(seldom)) == (5, 1)
    accumulated = lines("accumulated", log_every_n_steps=1, accumulate_grad_batches=5)
    for name in ("train/likelihood", "train/unlikelihood", "train/p_negative"):
        assert seldom[0][name] == pytest.approx(accumulated[0][name], rel=1e-5)
        assert (
            min(line[name] for line in often if name in line)
            <= seldom[0][name]
            <= max(line[name] for line in often if name in line)
        )


def test_a_collapse_of_the_likelihood_is_warned_about_once_with_what_to_turn(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseAlarm()
    for value in [2.0, 1.5, 3.0, 2.5]:
        alarm(value)
    assert not caplog.records, "noise is no collapse"
    resumed = CollapseAlarm()
    resumed.load_state_dict(json.loads(json.dumps(alarm.state_dict())))
    for _ in range(20):
        resumed(6.0)
    assert len(caplog.records) == 1
    assert all(word in caplog.text for word in ("likelihood collapse", "unlikelihood", "add positives", "protect"))


def test_best_precision_is_one_that_the_trainer_takes() -> None:
    assert trainer_of(precision=best_precision()).precision in ("bf16-mixed", "32-true")
