"""LiveTeacher: exact, in its own precision, and only for a student that means the same by its tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distill.errors import TeacherError
from distill.models import load_model
from distill.objectives.base import TeacherSignal
from distill.rows import Batch, plain_rows, shared_rows
from distill.teachers.live import FrozenModel, LiveTeacher
from distill.teachers.logits import LiveStudent, LogitTeacher, TeacherOutput
from distill.teachers.vocabulary import common_tokens

Folder = Callable[[str], Path]


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    return LiveTeacher(model=student)


class Example:
    """Prompt and response ids, all of the response supervised."""

    def __init__(self, name: str, prompt: list[int], response: list[int]) -> None:
        self.record_id, self.token_ids, self.prompt_length, self.own = name, prompt + response, len(prompt), False
        self.weight = [0.0] * len(prompt) + [1.0] * len(response)
        self.negative = [False] * len(self.token_ids)


def examples(count: int = 3, *, prompt: int = 6, seed: int = 0) -> list[Example]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 300, (prompt,), generator=draw).tolist()
    return [Example(f"r{i}", ids, torch.randint(3, 300, (2 + i,), generator=draw).tolist()) for i in range(count)]


def started(teacher: str, student: str, *, longest_row: int = 0, **settings: Any) -> FrozenModel:
    live = LiveStudent(name=student, model=load_model(student), longest_row=longest_row)
    running = LiveTeacher(model=teacher, **settings).start(live)
    assert isinstance(running, FrozenModel)
    return running


def log_probs(said: TeacherOutput) -> torch.Tensor:
    signal = said.signal
    made = signal if isinstance(signal, TeacherSignal) else signal.materialise()  # type: ignore[union-attr]
    assert made.kind == "dense" and torch.isneginf(made.rest_N).all()
    return made.log_probs_NK


def changed_tokenizer(
    tokenizer: PreTrainedTokenizerFast, folder: Path, *, added: tuple[str, ...] = (), swap: tuple[str, str] | None = None
) -> str:
    """The tokenizer with more tokens, or with the ids of two exchanged."""
    tokenizer.save_pretrained(folder)
    if swap is not None:
        content = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary[swap[0]], vocabulary[swap[1]] = vocabulary[swap[1]], vocabulary[swap[0]]
        (folder / "tokenizer.json").write_text(json.dumps(content))
    made = PreTrainedTokenizerFast.from_pretrained(folder)
    made.add_tokens(list(added))
    made.save_pretrained(folder)
    return str(folder)


def padded(model: Path, folder: Path, rows: int) -> str:
    """The same model with a larger vocabulary, whose additional rows win wherever they are looked at."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    before = loaded.config.vocab_size
    loaded.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        loaded.get_output_embeddings().weight[before:] = 3.0
    loaded.save_pretrained(folder)
    return str(folder)


# What it says


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_it_is_the_exact_distribution_at_the_supervised_positions(tiny_model_folder: Folder, family: str) -> None:
    folder = str(tiny_model_folder(family))
    batch = plain_rows(examples(), pad_id=0)
    said = started(folder, folder)(batch)
    with torch.no_grad():
        logits = load_model(folder)(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask.long()).logits
    dense = logits.float().log_softmax(2).flatten(0, 1)[batch.gather_N]
    torch.testing.assert_close(log_probs(said), dense, atol=1e-4, rtol=0)


def test_prefix_shared_rows_are_read_as_separate_ones(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("llama"))
    teacher = started(folder, folder)
    shared, plain = shared_rows([examples()], pad_id=0), plain_rows(examples(), pad_id=0)
    assert shared.attention_mask.dim() == 4
    torch.testing.assert_close(log_probs(teacher(shared)), log_probs(teacher(plain)), atol=1e-4, rtol=0)


def test_rows_that_share_a_prompt_are_refused_where_its_window_would_be_lost(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("gemma3"))
    long = examples(prompt=20)
    with pytest.raises(TeacherError, match=r"sliding_window = 16 .*data.prefix_sharing to false"):
        started(folder, folder)(shared_rows([long], pad_id=0))
    assert log_probs(started(folder, folder)(plain_rows(long, pad_id=0))).isfinite().all()


def test_the_first_batch_already_tells_that_a_later_row_will_be_too_long(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("gemma3"))
    short = shared_rows([examples(prompt=5)], pad_id=0)
    assert log_probs(started(folder, folder)(short)).isfinite().all()
    with pytest.raises(TeacherError, match=r"longest row \(40 tokens\)"):
        started(folder, folder, longest_row=40)(short)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_it_keeps_its_own_precision_under_the_autocast_of_the_student(tiny_model_folder: Folder, family: str) -> None:
    folder = str(tiny_model_folder(family))
    teacher, batch = started(folder, folder), plain_rows(examples(), pad_id=0)
    alone = log_probs(teacher(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        beside = log_probs(teacher(batch))
    assert beside.dtype == torch.float32
    assert torch.equal(alone, beside)


def test_it_computes_in_bfloat16_only_if_asked(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("llama"))
    batch = plain_rows(examples(), pad_id=0)
    exact, rounded = started(folder, folder), started(folder, folder, dtype="bfloat16")
    assert (exact.model.dtype, rounded.model.dtype) == (torch.float32, torch.bfloat16)
    difference = (log_probs(exact(batch)) - log_probs(rounded(batch))).abs().max()
    assert 0 < difference < 1
    assert log_probs(rounded(batch)).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_rounding_of_a_real_model_in_half_precision_is_not_taken_for_a_wrong_mask(smollm2: Path, dtype: Any) -> None:
    teacher = started(str(smollm2), str(smollm2), dtype=dtype)
    shared, plain = shared_rows([examples()], pad_id=0), plain_rows(examples(), pad_id=0)
    apart = (log_probs(teacher(shared)).exp() - log_probs(teacher(plain)).exp()).abs().sum(1) / 2
    assert apart.mean() < 0.05


def test_it_shows_the_hidden_states_of_the_layers_asked_for(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("llama"))
    teacher, batch = started(folder, folder), plain_rows(examples(), pad_id=0)
    hidden = teacher(batch, layers=[0, 2]).hidden
    with torch.no_grad():
        states = load_model(folder)(
            input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask.long(), output_hidden_states=True
        ).hidden_states
    assert (teacher.layers, teacher.width) == (2, 32)
    for layer in (0, 2):
        torch.testing.assert_close(hidden[layer], states[layer].flatten(0, 1)[batch.gather_N], atol=1e-5, rtol=1e-4)


def test_it_is_frozen_takes_no_gradient_and_draws_no_random_number(tiny_model_folder: Folder) -> None:
    folder = str(tiny_model_folder("llama"))
    teacher, before = started(folder, folder), torch.get_rng_state()
    said = teacher(plain_rows(examples(), pad_id=0), layers=[1])
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not log_probs(said).requires_grad and not said.hidden[1].requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher.state_dict() == {}


def test_it_follows_the_batch_to_its_device(tiny_model_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_model_folder("llama"))
    teacher, moved = started(folder, folder), []
    monkeypatch.setattr(teacher.model, "to", lambda device: moved.append(device))
    batch = plain_rows(examples(), pad_id=0)
    teacher(batch)
    assert moved == [batch.gather_N.device]


# Whose tokens it may judge


def test_a_padded_vocabulary_is_cut_to_the_tokens_there_are_and_said_once(
    tiny_model_folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student, tokens = tiny_model_folder("llama"), len(tiny_tokenizer)
    teacher = padded(student, tmp_path, tokens + 30)
    tiny_tokenizer.save_pretrained(tmp_path)
    batch = plain_rows(examples(), pad_id=0)
    with caplog.at_level(logging.INFO, logger="distill"):
        running = started(teacher, str(student))
        found = log_probs(running(batch))
        running(batch)
    said = [record.getMessage() for record in caplog.records if "compared over" in record.getMessage()]
    assert said == [
        f"teacher has {tokens + 30} rows, student {tokens}, the tokenizer {tokens} tokens: compared over the first {tokens}"
    ]
    torch.testing.assert_close(found, log_probs(started(str(student), str(student))(batch)), atol=1e-4, rtol=0)


def test_a_padded_student_is_compared_over_the_tokens_there_are(
    tiny_model_folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    teacher, tokens = tiny_model_folder("llama"), len(tiny_tokenizer)
    student = padded(teacher, tmp_path, tokens + 8)
    tiny_tokenizer.save_pretrained(tmp_path)
    found = log_probs(started(str(teacher), student)(plain_rows(examples(), pad_id=0)))
    assert found.shape[1] == tokens
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(len(found)), atol=1e-5, rtol=0)


def test_equal_vocabularies_need_no_word(tiny_model_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="distill"):
        started(str(tiny_model_folder("qwen2")), str(tiny_model_folder("llama")))
    assert not caplog.records


def test_another_tokenizer_is_refused_with_its_first_different_token(
    tiny_model_folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    ids = tiny_tokenizer.get_vocab()
    teacher = padded(tiny_model_folder("llama"), tmp_path, len(tiny_tokenizer))
    changed_tokenizer(tiny_tokenizer, tmp_path, swap=("T", "h"))
    first = min(ids["T"], ids["h"])
    own, its = ("T", "h") if ids["T"] < ids["h"] else ("h", "T")
    message = rf"2 ids differ, the first is {first}, which is '{its}' to the teacher and '{own}' to the student.*SpanAlignedKL"
    with pytest.raises(TeacherError, match=message):
        started(teacher, str(tiny_model_folder("llama")))


@pytest.mark.parametrize(
    ("student", "teacher", "first"),
    [
        ({"a": 0, "b": 1, "<x>": 2}, {"a": 0, "b": 1, "<y>": 2}, "first is 2, which is '<y>' to the teacher and '<x>'"),
        ({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 2}, "first is 1, which is no token to the teacher and 'b'"),
        ({"a": 0, "<x>": 1}, {"a": 0, "<x>": 5}, "first is 1, which is no token to the teacher and '<x>'"),
        ({"a": 0}, {"b": 0}, "first is 0"),
    ],
    ids=["another added token", "a gap", "an added token elsewhere", "nothing in common"],
)
def test_added_tokens_must_agree_too(student: dict[str, int], teacher: dict[str, int], first: str) -> None:
    with pytest.raises(TeacherError, match=first):
        common_tokens(student, teacher, student_name="s", teacher_name="t")


@pytest.mark.parametrize("more", ["student", "teacher"])
def test_tokens_after_all_common_ones_are_left_out(more: str) -> None:
    ids = {"a": 0, "b": 1}
    both = {"student": ids, "teacher": ids, more: ids | {"<pad>": 2}}
    common = common_tokens(**both, student_name="s", teacher_name="t")
    assert (common.size, common.only_student) == (2, more == "student")


def test_a_token_that_only_the_student_knows_is_refused_where_it_occurs(
    tiny_model_folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    teacher, tokens = tiny_model_folder("llama"), len(tiny_tokenizer)
    student = padded(teacher, tmp_path, tokens + 1)
    changed_tokenizer(tiny_tokenizer, tmp_path, added=("<think>",))
    running = started(str(teacher), student)
    prompt, response = [5, 6], [7, 8]
    harmless = plain_rows([Example("a", prompt, response), Example("b", prompt, response * 2)], pad_id=tokens)
    assert log_probs(running(harmless)).shape[1] == tokens  # as padding it may occur
    for ids in ([*prompt, tokens], prompt):
        batch = plain_rows([Example("named", ids, [*response, tokens])], pad_id=0)
        with pytest.raises(TeacherError, match=rf"'named' holds the token {tokens}, .*does not know"):
            running(batch)


def test_another_chat_template_is_warned_about_once(
    tiny_model_folder: Folder, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = str(tiny_model_folder("llama"))
    teacher = padded(tiny_model_folder("llama"), tmp_path, len(tiny_tokenizer))
    changed_tokenizer(tiny_tokenizer, tmp_path)
    started(teacher, student)
    assert not caplog.records
    other = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    other.chat_template = str(other.chat_template).replace("<|im_start|>", "<|im_start|>A ")
    other.save_pretrained(tmp_path)
    running = started(teacher, student)
    batch: Batch = plain_rows(examples(), pad_id=0)
    running(batch)
    assert len(caplog.records) == 1
    assert "chat template writes them differently" in caplog.text
