"""`predict`: one line a record, in the file's order, with the log-probability that the model itself gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from distill.data import RecordDataModule
from distill.errors import ConfigError, RecordError
from distill.models import load_model, load_tokenizer
from distill.objectives import Likelihood
from distill.records import read_records
from distill.render import render
from distill.student.module import StudentModule
from distill.student.predictions import PredictionsJsonl

pytestmark = pytest.mark.filterwarnings("ignore")


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


LINES: list[dict[str, Any]] = [
    {"id": "long", "group": "a", "prompt": prompt("What is the capital of Kenya, I ask?"), "response": "Nairobi " * 9},
    {"id": "short", "group": "b", "prompt": prompt("What?"), "response": "No."},
    {"id": "silent", "group": "c", "prompt": prompt("What?"), "response": "Yes.", "weight": 0},
    {"id": "wrong", "group": "a", "prompt": prompt("What is the capital of Kenya, I ask?"), "response": "Nairobi is"},
    {"id": "spanned", "group": "b", "prompt": prompt("What?"), "response": "It is Lyon."},
    {"id": "too long", "group": "d", "prompt": prompt("What?"), "response": "yen " * 200},
    {"id": "hebrew", "group": "e", "prompt": prompt("מה בירת ישראל?"), "response": "ירושלים", "weight": 0.25},
]
NEGATIVE = {"wrong", "spanned"}


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    lines = [{"polarity": "negative" if line["id"] in NEGATIVE else "positive", **line} for line in LINES]
    lines[4]["spans"] = [{"start": 6, "end": 10, "polarity": "negative"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def trainer_of(*callbacks: Any, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **quiet, **arguments)


def predict(records: Path, student: str, out: Path, *, head_memory_mb: int = 64, **arguments: Any) -> list[dict[str, Any]]:
    trainer_arguments = {name: arguments.pop(name) for name in ("limit_predict_batches",) if name in arguments}
    module = StudentModule(student=student, objectives={"likelihood": Likelihood()}, head_memory_mb=head_memory_mb)
    data = RecordDataModule(train=str(records), student=student, **{"max_tokens": 120, "batch_size": 2, **arguments})
    trainer_of(PredictionsJsonl(str(out)), **trainer_arguments).predict(module, datamodule=data, return_predictions=False)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def by_hand(records: Path, student: str) -> dict[str, list[float]]:
    """log p of each supervised token, from the whole model on one record at a time."""
    model, tokenizer = load_model(student, dtype="float32"), load_tokenizer(student)
    found = {}
    for record in read_records(records):
        if record.id in ("silent", "too long"):
            continue
        example = render(record, tokenizer)
        ids = torch.tensor([example.token_ids])
        with torch.no_grad():
            log_probs_TV = model(ids).logits[0].double().log_softmax(-1)
        places = [place for place, weight in enumerate(example.weight) if weight]
        found[record.id] = [float(log_probs_TV[place - 1, example.token_ids[place]]) for place in places]
    return found


@pytest.mark.parametrize("settings", [{}, {"prefix_sharing": False}, {"head_memory_mb": 0}, {"batch_size": 1}], ids=str)
def test_the_log_probability_is_the_whole_model_s_however_it_is_computed(
    settings: dict[str, Any], records: Path, llama: str, tmp_path: Path
) -> None:
    lines = {line["id"]: line for line in predict(records, llama, tmp_path / "out.jsonl", **settings)}
    expected = by_hand(records, llama)
    assert {name for name, line in lines.items() if "left_out" not in line} == set(expected)
    for name, log_probs in expected.items():
        assert lines[name]["tokens"] == len(log_probs)
        assert lines[name]["log_prob"] == pytest.approx(sum(log_probs), abs=1e-3)
        assert lines[name]["mean"] == pytest.approx(sum(log_probs) / len(log_probs), abs=1e-4)


def test_there_is_one_line_a_record_in_the_order_of_the_file(records: Path, llama: str, tmp_path: Path) -> None:
    lines = predict(records, llama, tmp_path / "deep" / "out.jsonl")
    assert [line["id"] for line in lines] == [line["id"] for line in LINES]
    assert [line["group"] for line in lines] == [line["group"] for line in LINES]
    assert [line["polarity"] for line in lines] == ["negative" if line["id"] in NEGATIVE else "positive" for line in LINES]


def test_a_record_that_is_left_out_keeps_its_line_and_its_reason_is_counted(
    records: Path, llama: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        lines = {line["id"]: line for line in predict(records, llama, tmp_path / "out.jsonl")}
    left_out = {name: line["left_out"] for name, line in lines.items() if "left_out" in line}
    assert set(left_out) == {"silent", "too long"}
    assert "weight is 0" in left_out["silent"] and "max_tokens is 120" in left_out["too long"]
    assert (lines["silent"]["log_prob"], lines["silent"]["mean"], lines["silent"]["tokens"]) == (None, None, 0)
    assert "left out 1 record(s) of weight 0" in caplog.text
    assert "left out 1 record(s) that cannot be rendered" in caplog.text


def test_no_token_of_a_negative_is_spared(records: Path, llama: str, tmp_path: Path) -> None:
    # For training, `wrong` begins as the positive of its question does, and punctuation is protected.
    strict = predict(records, llama, tmp_path / "a.jsonl", protect="first_difference", protect_tokens=True)
    free = predict(records, llama, tmp_path / "b.jsonl", protect="none", protect_tokens=False)
    assert strict == free
    assert next(line for line in strict if line["id"] == "wrong")["tokens"] > 1


def test_records_of_their_own_may_be_predicted(records: Path, llama: str, tmp_path: Path) -> None:
    never_read = str(tmp_path / "no such file.jsonl")
    module = StudentModule(student=llama, objectives={"likelihood": Likelihood()})
    data = RecordDataModule(train=never_read, predict=str(records), student=llama, max_tokens=120)
    batches = trainer_of().predict(module, datamodule=data)
    assert batches is not None
    assert {name for batch in batches for name in batch["record_ids"]} == {line["id"] for line in LINES} - {"silent", "too long"}


def test_a_run_that_breaks_leaves_the_earlier_file_as_it_was(
    records: Path, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    predict(records, llama, out)
    before, names = out.read_bytes(), sorted(path.name for path in tmp_path.iterdir())

    def break_down(self: StudentModule, batch: Any, batch_idx: int) -> Any:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(StudentModule, "predict_step", break_down)
        with pytest.raises(RuntimeError, match="out of memory"):
            predict(records, llama, out)
    assert out.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == names

    # Halfway through writing: what is torn has another name, and the next run replaces both.
    with monkeypatch.context() as patch:
        patch.setattr("distill.student.predictions.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            predict(records, llama, out)
    assert out.read_bytes() == before
    predict(records, llama, out)
    assert out.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == names


def test_what_a_limit_cuts_off_is_said_to_be_cut_off(records: Path, llama: str, tmp_path: Path) -> None:
    lines = predict(records, llama, tmp_path / "out.jsonl", batch_size=1, limit_predict_batches=1)
    assert len(lines) == len(LINES)
    assert len({line["group"] for line in lines if "left_out" not in line}) == 1
    assert sum(line.get("left_out") == "beyond limit_predict_batches" for line in lines) in (3, 4)


def test_an_id_that_is_used_twice_is_an_error(records: Path, llama: str, tmp_path: Path) -> None:
    records.write_text(records.read_text() + records.read_text())
    with pytest.raises(RecordError, match="'long' is used twice"):
        predict(records, llama, tmp_path / "out.jsonl")


def test_a_file_without_any_record_to_score_is_an_error(records: Path, llama: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="none of 7 records can be scored; the first: .*max_tokens is 3"):
        predict(records, llama, tmp_path / "out.jsonl", max_tokens=3)
    assert not (tmp_path / "out.jsonl").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(ConfigError, match="--trainer.devices 1"):
        PredictionsJsonl(str(tmp_path / "out.jsonl")).on_predict_start(trainer, StudentModule.__new__(StudentModule))
