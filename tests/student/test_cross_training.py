"""A student that learns from a teacher with another tokenizer: the whole way from records to gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from distill.data import RecordDataModule
from distill.errors import ConfigError, RecordError, TeacherError
from distill.objectives import Likelihood, Objective, SpanAlignedKL, UniversalLogit
from distill.on_policy import OnPolicy, Unmarked
from distill.student.module import StudentModule
from distill.teachers.cross import CrossTeacher
from tests.toy_tokenizers import sentencepieces

ANSWERS = ("It is 1987.", "Nairobi, I think", "It is 12 or 79", "the yen 😀", "שלום")


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random Llama with a sentencepiece tokenizer, as a teacher."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("other-llama")
    tokenizer = sentencepieces(tmp_path_factory.mktemp("pieces"))["llama"]
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + (eos_token if m.role == 'assistant' else '\n') }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 5, **sizes))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def records(tmp_path: Path) -> str:
    """Twenty records: ten questions, each with a right answer, some with another right or a wrong one."""
    lines = []
    for i in range(10):
        prompt = [{"role": "user", "content": f"What is {'Xy' * (1 + i % 3)}{i}?"}]
        for k in range(1 + i % 3):
            polarity = "negative" if k == 2 else "positive"
            response = ANSWERS[(i + k) % len(ANSWERS)]
            lines.append({"id": f"{i}/{k}", "group": f"g{i}", "prompt": prompt, "response": response, "polarity": polarity})
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


class Recorder(Callback):
    """Every optimiser step's gradient."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def fit(
    records: str,
    student: str,
    teacher: str,
    objectives: dict[str, Objective],
    *,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[StudentModule, Trainer, Recorder]:
    module = StudentModule(
        student=student,
        objectives=objectives,
        teacher=CrossTeacher(model=teacher),
        **{"learning_rate": 0.0, "schedule": "constant", "weight_decay": 0.0, **(model or {})},
    )
    read = RecordDataModule(
        train=records,
        student=student,
        **{"teacher_tokenizer": teacher, "batch_size": 10, "bucket_window": 10, "protect_tokens": False, **(data or {})},
    )
    recorder = Recorder()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, **quiet, **arguments},
        callbacks=[recorder],
    )
    trainer.fit(module, datamodule=read)
    return module, trainer, recorder


def both() -> dict[str, Objective]:
    return {"spans": SpanAlignedKL(), "shape": UniversalLogit(positions="positive", weight=0.5)}


def assert_same(found: list[Recorder], *, steps: int = 1) -> None:
    for other in found:
        assert len(other.gradients) == steps
        assert any(gradient.any() for gradient in other.gradients[0].values())
        for name, gradient in found[0].gradients[0].items():
            torch.testing.assert_close(other.gradients[0][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "objective", [SpanAlignedKL(), SpanAlignedKL(kind="reverse"), UniversalLogit(), UniversalLogit(pairing="span")]
)
def test_a_student_comes_closer_to_a_teacher_with_another_tokenizer(
    objective: Objective, records: str, llama: str, other_folder: str
) -> None:
    losses = []
    for epochs in (1, 15):
        _, trainer, _ = fit(records, llama, other_folder, {"cross": objective}, model={"learning_rate": 3e-3}, max_epochs=epochs)
        losses.append(float(trainer.callback_metrics["train/cross"]))
    assert losses[1] < 0.7 * losses[0]


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(records: str, llama: str, other_folder: str) -> None:
    assert_same(
        [
            fit(records, llama, other_folder, both(), data={"batch_size": size}, accumulate_grad_batches=times)[2]
            for size, times in ((10, 1), (3, 4), (1, 10))
        ]
    )


def test_rows_that_share_a_prompt_give_the_gradient_of_plain_rows(records: str, llama: str, other_folder: str) -> None:
    assert_same([fit(records, llama, other_folder, both(), data={"prefix_sharing": shared})[2] for shared in (True, False)])


def test_a_head_in_chunks_gives_the_gradient_of_the_whole(records: str, llama: str, other_folder: str) -> None:
    assert_same([fit(records, llama, other_folder, both(), model={"head_memory_mb": size})[2] for size in (1024, 0)])


def test_protected_tokens_of_a_negative_take_their_stretches_out_and_nothing_breaks(
    records: str, llama: str, other_folder: str
) -> None:
    data = {"protect": "first_difference", "protect_tokens": True}
    module, trainer, recorder = fit(records, llama, other_folder, both() | {"answer": Likelihood()}, data=data)
    assert all(gradient.isfinite().all() for gradient in recorder.gradients[0].values())
    assert "train/spans" in trainer.callback_metrics


def test_what_the_student_says_itself_is_read_by_the_teacher_too(records: str, llama: str, other_folder: str) -> None:
    """GKD with another tokenizer: every response is the student's own, often no whole text."""
    own = OnPolicy(share=1.0, max_tokens=8, marker=Unmarked())
    _, trainer, recorder = fit(
        records,
        llama,
        other_folder,
        {"spans": SpanAlignedKL()},
        data={"on_policy": own},
        model={"learning_rate": 1e-3},
        max_epochs=3,
    )
    assert len(recorder.gradients) == 3 and float(trainer.callback_metrics["train/spans"]) > 0
    assert all(gradient.isfinite().all() for one in recorder.gradients for gradient in one.values())


def test_a_teacher_whose_tokens_the_batch_does_not_hold_is_refused_with_the_setting_to_change(
    records: str, llama: str, other_folder: str
) -> None:
    with pytest.raises(ConfigError, match=r"set data\.teacher_tokenizer to the teacher's model"):
        fit(records, llama, other_folder, both(), data={"teacher_tokenizer": None})
    with pytest.raises(TeacherError, match=r"set data\.teacher_tokenizer to '.*other-llama"):
        fit(records, llama, other_folder, both(), data={"teacher_tokenizer": llama})


def test_turns_of_a_conversation_are_refused_beside_another_tokenizer(records: str, llama: str, other_folder: str) -> None:
    with pytest.raises(ConfigError, match="set turns to last"):
        RecordDataModule(train=records, student=llama, teacher_tokenizer=other_folder, turns="all")


def test_an_id_used_twice_is_refused_since_tokens_are_found_by_it(tmp_path: Path, llama: str, other_folder: str) -> None:
    line = {"id": "a", "group": "g", "prompt": [{"role": "user", "content": "?"}], "response": "x", "polarity": "positive"}
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({**line, "response": response}) + "\n" for response in "xy"))
    with pytest.raises(RecordError, match="'a' is used twice"):
        fit(str(path), llama, other_folder, both())


def test_validation_held_out_of_the_training_file_has_the_teachers_tokens_too(
    records: str, llama: str, other_folder: str
) -> None:
    _, trainer, _ = fit(records, llama, other_folder, both(), data={"validation_fraction": 0.2})
    assert float(trainer.callback_metrics["val/spans"]) > 0


def test_the_command_line_renders_for_the_tokenizer_of_the_teacher_that_it_is_given(
    records: str, llama: str, other_folder: str, tmp_path: Path
) -> None:
    from distill.cli.training import train

    def run(name: str, *settings: str) -> dict[str, float]:
        folder = tmp_path / name
        trainer = [
            "accelerator=cpu",
            "devices=1",
            "max_steps=1",
            "log_every_n_steps=1",
            "precision=32-true",
            f"default_root_dir={folder}",
        ]
        common = [f"--model.student={llama}", f"--data.train={records}", *(f"--trainer.{one}" for one in trainer)]
        assert train(["fit", *common, *settings]) == 0
        metrics: dict[str, float] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        return metrics

    cross = [
        "--model.objectives={match: {class_path: SpanAlignedKL}}",
        "--model.teacher=CrossTeacher",
        f"--model.teacher.init_args.model={other_folder}",
    ]
    assert run("cross", *cross)["train/match"] > 0
    # Another teacher, and none: nothing is rendered twice.
    for name, teacher in (("same", ["--model.teacher=LiveTeacher", f"--model.teacher.init_args.model={llama}"]), ("none", [])):
        match = "ForwardKL" if teacher else "Likelihood"
        assert "train/match" in run(name, f"--model.objectives={{match: {{class_path: {match}}}}}", *teacher)
