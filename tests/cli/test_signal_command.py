"""`distill signal`: every row accounted for, a stopped run that goes on, options that make no sense."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main
from distill.models import load_tokenizer
from distill.records import Message, Record, write_records
from distill.render import Example
from distill.teachers.signal_source import LocalSource, batches
from distill.teachers.signal_store import SequenceSignal, SignalReader, read_signal_manifest


def ask(name: str) -> tuple[Message, ...]:
    return (Message(role="user", content=f"What is the capital of {name}?"),)


def rows(count: int = 12) -> list[Record]:
    made = []
    for number in range(count):
        polarity, response = ("positive", "negative")[number % 2], "Paris." * (1 + number % 3)
        prompt = ask(f"land {number // 2}")
        made.append(Record(id=f"r{number}", group=f"g{number // 2}", prompt=prompt, response=response, polarity=polarity))  # type: ignore[arg-type]
    return made


@pytest.fixture
def folder(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


def run(folder: str, records: Sequence[Path], out: Path, *arguments: str) -> int:
    return main(
        ["signal", "--teacher", folder, "--records", *map(str, records), "--out", str(out), "--batch_size", "3", *arguments]
    )


def test_every_row_is_stored_or_counted_with_its_reason(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        *rows(),
        Record(id="light", group="x", prompt=ask("X"), response="Paris", polarity="positive", weight=0.0),
        Record(id="long", group="y", prompt=ask("Y"), response="Paris " * 200, polarity="positive"),
    ]
    write_records(records, tmp_path / "r.jsonl")
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s", "--max_tokens", "120") == 0
    manifest = read_signal_manifest(tmp_path / "s")
    assert manifest.rows == 12 and dict(manifest.lost) == {"of weight 0": 1, "that cannot be rendered": 1}
    lost = [json.loads(line) for line in (tmp_path / "s" / "lost.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lost] == ["light", "long"] and "max_tokens is 120" in lost[1]["reason"]
    out = capsys.readouterr().out
    assert "exact, 12 records" in out and "left out 1 record(s) of weight 0" in out and "train with StoredTeacher" in out


def test_several_files_make_one_signal(folder: str, tmp_path: Path) -> None:
    write_records(rows()[:6], tmp_path / "train.jsonl")
    write_records(rows()[6:], tmp_path / "validation")
    assert run(folder, [tmp_path / "train.jsonl", tmp_path / "validation"], tmp_path / "s", "--kind", "token") == 0
    reader = SignalReader(tmp_path / "s")
    assert all(reader.find(f"r{number}") is not None for number in range(12))
    assert len(reader.settings.records) == 2


def test_the_stored_tokens_are_those_that_training_renders(folder: str, tmp_path: Path) -> None:
    from distill.data import RecordDataModule

    write_records(rows(), tmp_path / "r.jsonl")
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s", "--kind", "token") == 0
    data = RecordDataModule(train=str(tmp_path / "r.jsonl"), student=folder, protect="none", protect_tokens=False)
    data.setup("fit")
    store, reader = data.stores["train"], SignalReader(tmp_path / "s")
    for number in range(len(store)):
        view = store.view(number)
        found = reader.find(view.record_id)
        assert found is not None
        assert found.index_P.tolist() == view.weight.nonzero()[0].tolist()
        assert found.token_T.tolist() == view.token_ids[: len(found.token_T)].tolist()


@pytest.mark.parametrize("kind", ["exact", "top_k", "sampled", "token"])
def test_a_stopped_run_goes_on_where_it_stopped(folder: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(rows(), tmp_path / "r.jsonl")
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "whole", "--kind", kind) == 0
    compute, asked = LocalSource.__call__, []

    def stopping(source: LocalSource, examples: Sequence[Any]) -> list[SequenceSignal]:
        asked.append([example.record_id for example in examples])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return compute(source, examples)

    monkeypatch.setattr(LocalSource, "__call__", stopping)
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s", "--kind", kind) == 130
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s", "--kind", kind) == 0
    assert asked[3] == asked[2] and len(asked) == 5  # four batches, one of them twice
    whole, made = (SignalReader(tmp_path / name) for name in ("whole", "s"))
    for number in range(12):
        left, right = whole.find(f"r{number}"), made.find(f"r{number}")
        assert left is not None and right is not None
        for name in {
            "exact": ["hidden"],
            "top_k": ["ids", "log_probs", "rest"],
            "sampled": ["ids", "counts"],
            "token": ["log_prob"],
        }[kind]:
            assert whole.read(left, name).tolist() == made.read(right, name).tolist()


def test_a_finished_signal_is_not_made_again_and_another_one_is_not_mixed_in(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(rows(), tmp_path / "r.jsonl")
    arguments = ([tmp_path / "r.jsonl"], tmp_path / "s", "--kind", "top_k")
    assert run(folder, *arguments, "--k", "3") == 0
    monkeypatch.setattr(LocalSource, "__call__", lambda *_: pytest.fail("the teacher was asked again"))
    assert run(folder, *arguments, "--k", "3") == 0
    assert "finished before" in capsys.readouterr().err
    assert run(folder, *arguments, "--k", "4") == 2
    assert "k is 3 there and 4 now" in capsys.readouterr().err
    write_records(rows(10), tmp_path / "r.jsonl")
    assert run(folder, *arguments, "--k", "3") == 2
    assert "records is" in capsys.readouterr().err


def test_options_that_make_no_sense_are_refused_before_the_work(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(rows(), tmp_path / "r.jsonl")
    common = ["--records", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "s")]
    for arguments, message in (
        (["--teacher", "http://localhost:1/v1"], "needs --teacher_model"),
        (["--teacher", folder, "--teacher_model", "x"], "are for a server"),
        (
            ["--teacher", "http://localhost:1/v1", "--teacher_model", "x", "--student", folder, "--kind", "exact"],
            "a server gives top_k or token",
        ),
        (["--teacher", str(tmp_path / "nothing")], "not found"),
    ):
        assert main(["signal", *arguments, *common]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_an_id_in_two_files_is_refused_before_the_work(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(rows(), tmp_path / "a.jsonl")
    write_records(rows(2), tmp_path / "b.jsonl")
    assert run(folder, [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "s") == 2
    assert "'r0' is used twice" in capsys.readouterr().err


def test_a_teacher_with_another_tokenizer_is_refused(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model_folder: Callable[[str], Path]
) -> None:
    from distill.models import load_model

    write_records(rows(), tmp_path / "r.jsonl")
    tokenizer = load_tokenizer(folder)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    a, b = list(backend["model"]["vocab"])[10:12]
    backend["model"]["vocab"][a], backend["model"]["vocab"][b] = backend["model"]["vocab"][b], backend["model"]["vocab"][a]
    load_model(folder).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "tokenizer.json").write_text(json.dumps(backend))
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s", "--student", str(tmp_path / "student")) == 2
    assert "different vocabularies: 2 ids differ" in capsys.readouterr().err


def test_a_line_tells_how_far_it_is(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.recipes.progress.LINE_EVERY", 0.0)
    write_records(rows(), tmp_path / "r.jsonl")
    assert run(folder, [tmp_path / "r.jsonl"], tmp_path / "s") == 0
    assert "signal: 6/12 rows" in capsys.readouterr().err


def test_batches_hold_every_record_once_and_keep_a_prompt_together() -> None:
    def example(number: int, prompt: int, length: int) -> Example:
        ids = (prompt, *range(length))
        return Example(
            record_id=str(number),
            group="g",
            token_ids=ids,
            prompt_length=1,
            weight=(0.0, *(1.0,) * length),
            negative=(False,) * len(ids),
        )

    examples = [example(number, prompt=number // 3, length=1 + (7 * number) % 11) for number in range(50)]
    made = list(batches(iter(examples), 6, window=4))
    assert sorted(int(one.record_id) for batch in made for one in batch) == list(range(50))
    assert max(map(len, made)) == 6
    apart = sum(len({one.token_ids[0] for one in batch}) for batch in made)
    assert apart <= 17 + 2 * len(made)
