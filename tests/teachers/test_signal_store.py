"""The format of a stored signal: what a killed run leaves, what a damaged or foreign folder says, what is read."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.errors import TeacherError
from distill.teachers.signal_store import (
    SequenceSignal,
    SignalManifest,
    SignalReader,
    SignalSettings,
    read_signal_manifest,
    tokenizer_digest,
    verify_signal,
)
from distill.teachers.signal_writer import SignalWriter

SETTINGS = SignalSettings(kind="top_k", k=3, vocabulary=400, teacher={"model": "t"}, tokenizer="a", template="b", dtype="float16")


def sequence(number: int) -> SequenceSignal:
    draw = np.random.default_rng(number)
    length, positions = int(draw.integers(4, 9)), 3
    index_P = np.sort(draw.choice(np.arange(1, length), positions, replace=False))
    values = {
        "ids": torch.from_numpy(draw.integers(0, 400, (positions, 3))).to(torch.uint16),
        "log_probs": torch.from_numpy(-draw.random((positions, 3))).half(),
        "rest": torch.from_numpy(-draw.random(positions)).float(),
    }
    return SequenceSignal(record_id=f"r{number}", token_T=draw.integers(0, 400, index_P[-1] + 1), index_P=index_P, values=values)


def batches(count: int = 20, size: int = 4) -> list[list[SequenceSignal]]:
    return [[sequence(number) for number in range(start, start + size)] for start in range(0, count, size)]


def write(folder: Path, todo: Sequence[Sequence[SequenceSignal]], *, finish: bool = True) -> SignalManifest | None:
    with SignalWriter(folder, SETTINGS, shard_bytes=300) as writer:
        for batch in todo:
            writer.add([one for one in batch if not writer.has(one.record_id)])
        return writer.finish(lost={"of weight 0": 2}) if finish else None


def test_what_is_read_is_what_was_written_for_every_record(tmp_path: Path) -> None:
    manifest = write(tmp_path / "s", batches())
    assert manifest is not None and len(manifest.shards) > 2
    assert (manifest.rows, manifest.positions, dict(manifest.lost)) == (20, 60, {"of weight 0": 2})
    assert read_signal_manifest(tmp_path / "s") == manifest == verify_signal(tmp_path / "s")
    reader = SignalReader(tmp_path / "s")
    for number in reversed(range(20)):
        found, expected = reader.find(f"r{number}"), sequence(number)
        assert found is not None
        assert found.token_T.tolist() == expected.token_T.tolist() and found.index_P.tolist() == expected.index_P.tolist()
        for name, value in expected.values.items():
            assert torch.equal(reader.read(found, name), value)
            assert torch.equal(reader.read(found, name, 1, 1), value[1:2])
    assert reader.find("r20") is None and reader.find("") is None


def test_values_of_varying_number_are_found_behind_one_another(tmp_path: Path) -> None:
    settings = replace(SETTINGS, kind="sampled", k=4)
    rows = []
    for number in range(9):
        unique = torch.tensor([1 + number % 3, 2], dtype=torch.uint8)
        values = {
            "unique": unique,
            "ids": torch.arange(int(unique.sum())).to(torch.uint16),
            "counts": torch.full((int(unique.sum()),), number, dtype=torch.uint8),
        }
        rows.append(SequenceSignal(record_id=f"r{number}", token_T=np.arange(4), index_P=np.array([1, 3]), values=values))
    with SignalWriter(tmp_path / "s", settings, shard_bytes=60) as writer:
        for row in rows:
            writer.add([row])
        assert len(writer.finish().shards) > 2
    reader = SignalReader(tmp_path / "s")
    for row in rows:
        found = reader.find(row.record_id)
        assert found is not None
        assert all(torch.equal(reader.read(found, name), value) for name, value in row.values.items())


def test_a_run_that_was_stopped_anywhere_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", batches())
    assert whole is not None
    for stop in range(6):
        folder = tmp_path / f"stopped-{stop}"
        write(folder, batches()[:stop], finish=False)
        (folder / ".part-00009.safetensors.partial").write_bytes(b"half a shard")
        with pytest.raises(TeacherError, match="holds no finished signal .* run the same `distill signal` command again"):
            SignalReader(folder)
        made = write(folder, batches())
        assert made is not None
        assert (made.shards, made.others) == (whole.shards, whole.others)
        assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in (tmp_path / "whole").iterdir())


def test_an_error_keeps_every_batch_that_was_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), SignalWriter(tmp_path / "s", SETTINGS) as writer:
        writer.add(batches()[0])
        raise KeyboardInterrupt
    with SignalWriter(tmp_path / "s", SETTINGS) as writer:
        assert writer.rows == 4 and all(writer.has(f"r{number}") for number in range(4))


def test_a_shard_whose_line_was_lost_and_a_line_whose_shard_was_lost_are_done_again(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", batches())
    assert whole is not None
    write(tmp_path / "s", batches()[:4], finish=False)
    journal = tmp_path / "s" / "unfinished.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) >= 3
    journal.write_text("".join(lines[:-1]) + lines[-1][:20])
    made = write(tmp_path / "s", batches())
    assert made is not None and made.shards == whole.shards
    write(tmp_path / "t", batches()[:4], finish=False)
    (tmp_path / "t" / "part-00000.safetensors").unlink()
    made = write(tmp_path / "t", batches())
    assert made is not None and made.shards == whole.shards


def test_a_folder_with_another_signal_says_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "s", batches()[:2], finish=False)
    with pytest.raises(TeacherError, match="teacher is {'model': 't'} there and {'model': 'u'} now"):
        SignalWriter(tmp_path / "s", replace(SETTINGS, teacher={"model": "u"}))
    write(tmp_path / "s", batches())
    with pytest.raises(TeacherError, match="k is 3 there and 5 now"):
        SignalWriter(tmp_path / "s", replace(SETTINGS, k=5))
    with pytest.raises(TeacherError, match="finished already"):
        SignalWriter(tmp_path / "s", SETTINGS)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").write_text("years of work")
    with pytest.raises(TeacherError, match="thesis.txt"):
        SignalWriter(tmp_path / "t", SETTINGS)


def test_no_two_processes_write_one_folder(tmp_path: Path) -> None:
    with SignalWriter(tmp_path / "s", SETTINGS), pytest.raises(TeacherError, match="being written by another process"):
        SignalWriter(tmp_path / "s", SETTINGS)
    SignalWriter(tmp_path / "s", SETTINGS).__exit__(None, None, None)


def test_an_id_that_comes_twice_and_a_run_without_records_are_refused(tmp_path: Path) -> None:
    with SignalWriter(tmp_path / "s", SETTINGS) as writer:
        with pytest.raises(TeacherError, match="no record has a signal"):
            writer.finish()
        writer.add([sequence(1)])
        with pytest.raises(TeacherError, match="'r1' came twice"):
            writer.add([sequence(1)])


def test_missing_shortened_and_changed_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "s", batches())
    shard = tmp_path / "s" / "part-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    SignalReader(tmp_path / "s")
    with pytest.raises(TeacherError, match="part-00001.safetensors: changed since it was written"):
        verify_signal(tmp_path / "s")
    shard.write_bytes(content[:-1])
    with pytest.raises(TeacherError, match=f"part-00001.safetensors: has {len(content) - 1} bytes; .* {len(content)} bytes"):
        SignalReader(tmp_path / "s")
    shard.unlink()
    with pytest.raises(TeacherError, match="part-00001.safetensors: is missing"):
        SignalReader(tmp_path / "s")


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="make it with `distill signal`"):
        read_signal_manifest(tmp_path)
    for text in ("{", "[]", '{"format": 1}', '{"signal_format": 2}', '{"signal_format": 1, "rows": 3}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(TeacherError, match="manifest.json"):
            read_signal_manifest(tmp_path)


def test_others_may_read_the_files_as_far_as_the_umask_lets_them(tmp_path: Path) -> None:
    write(tmp_path / "s", batches())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "s").iterdir()}
    assert len(modes) == 1


def test_the_digest_of_a_tokenizer_sees_what_it_does_and_not_how_it_was_last_called(tiny_model_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from distill.models import load_tokenizer

    folder = str(tiny_model_folder("llama"))
    tokenizer, other = load_tokenizer(folder), load_tokenizer(folder)
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(other)
    other.add_tokens(["<new>"])
    assert tokenizer_digest(other)[0] != before[0]
    tokenizer.chat_template += " "
    assert tokenizer_digest(tokenizer)[1] != before[1] and tokenizer_digest(tokenizer)[0] == before[0]
    json.dumps(before)
