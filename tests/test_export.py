"""What leaves distill is the student, loads without distill, and appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import distill.export as exporting
from distill.errors import ExportError
from distill.evaluate.rule import AbstentionRule
from distill.export import Origin, export_model, manifest_hash, read_checkpoint
from distill.models import load_model, load_tokenizer
from distill.objectives import Likelihood
from distill.student.module import StudentModule

ORIGIN = Origin(
    base_model="tiny", objectives={"wrong": {"class_path": "distill.objectives.Unlikelihood", "init_args": {"weight": 0.2}}}
)
RULE = AbstentionRule(bias=0.1, answer=1.0, idk=-0.5, greedy=-1.0, threshold=0.4, abstention="I don't know")


@pytest.fixture(params=["llama", "gpt2"])
def student(request: pytest.FixtureRequest, tiny_model_folder: Callable[[str], Path]):
    """A model (tied embeddings in both families) and its tokenizer."""
    folder = tiny_model_folder(request.param)
    return load_model(str(folder)), load_tokenizer(str(folder))


def logits(model, tokenizer) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer("The capital of France", return_tensors="pt", return_token_type_ids=False)).logits


def test_the_folder_loads_with_plain_transformers_and_gives_the_same_logits(student, tmp_path: Path) -> None:
    model, tokenizer = student
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(again, words), logits(model, tokenizer))
    assert words.chat_template == tokenizer.chat_template
    assert again.generation_config.use_cache
    assert tokenizer.eos_token_id in again.generation_config.eos_token_id


def test_the_folder_holds_safetensors_card_and_origin_and_no_pickle(student, tmp_path: Path) -> None:
    model, tokenizer = student
    export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN, rule=RULE)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "distill.json", "abstention.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".ckpt")) for name in names)
    origin = json.loads((tmp_path / "out" / "distill.json").read_text())
    assert origin["base_model"] == "tiny" and origin["difference"] < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Unlikelihood(weight=0.2)" in card and "0.4" in card
    assert AbstentionRule.load(tmp_path / "out") == RULE


def test_an_adapter_is_merged_and_the_student_keeps_it(student, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = student
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    before = logits(adapted, tokenizer)
    origin = export_model(adapted, tokenizer, tmp_path / "out", origin=ORIGIN)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(again, tokenizer), before, rtol=1e-3, atol=1e-4)
    assert origin.adapter
    assert not any("lora" in name for name in again.state_dict())
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
    torch.testing.assert_close(logits(adapted, tokenizer), before)


def test_an_export_in_bfloat16_leaves_the_student_in_float32(student, tmp_path: Path) -> None:
    model, tokenizer = student
    origin = export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN, dtype="bfloat16")
    assert model.dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16
    assert origin.dtype == "bfloat16" and origin.difference > 0


def test_a_folder_that_does_not_reproduce_the_student_is_refused_and_leaves_nothing(
    student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = student
    write = exporting.write_model

    def damage(damaged, words, folder) -> None:
        norm = next(parameter for name, parameter in damaged.named_parameters() if "norm" in name or "ln" in name)
        norm.data.mul_(1.5)
        write(damaged, words, folder)
        norm.data.div_(1.5)

    monkeypatch.setattr(exporting, "write_model", damage)
    with pytest.raises(ExportError, match="differs from the student by"):
        export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_a_student_with_values_that_are_not_numbers_is_refused(student, tmp_path: Path) -> None:
    model, tokenizer = student
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ExportError, match="inf nats"):
        export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN)


def test_an_existing_folder_is_kept_unless_overwriting_is_asked_for(student, tmp_path: Path) -> None:
    model, tokenizer = student
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ExportError, match="not empty"):
        export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN)
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"
    export_model(model, tokenizer, tmp_path / "out", origin=ORIGIN, overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_checkpoint_that_is_missing_damaged_or_dangerous_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    with pytest.raises(ExportError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "never.ckpt")
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ExportError, match="damaged"):
        read_checkpoint(tmp_path / "torn.ckpt")
    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ExportError, match="could run code"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_the_hash_of_the_records_is_their_manifest_s(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{}\n")
    alone = manifest_hash(tmp_path / "records.jsonl")
    (tmp_path / "manifest.json").write_text('{"rows": 1}')
    assert manifest_hash(tmp_path) == manifest_hash(tmp_path / "records.jsonl") != alone
    with pytest.raises(ExportError, match="no records"):
        manifest_hash(tmp_path / "nothing" / "at.jsonl")


def test_an_exported_folder_names_no_place_on_the_machine_that_trained_it(
    tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_model_folder("llama")
    origin = exporting.export(StudentModule(student=str(folder), objectives={"say": Likelihood()}), tmp_path / "out")
    assert origin.base_model == folder.name
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".md", ".json", ".jinja")]
    assert not any(str(folder.parent) in text for text in texts)
