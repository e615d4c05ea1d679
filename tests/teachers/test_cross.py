"""What two vocabularies have in common, and a teacher that reads in its own tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.alignment import AlignedTokens
from distill.errors import TeacherError
from distill.head import objective_values
from distill.models import load_model, load_tokenizer
from distill.objectives import CommonRoots, HiddenSignal, SpanAlignedKL
from distill.records import Record
from distill.render import render
from distill.rows import Batch, shared_rows
from distill.teachers.cross import CrossTeacher
from distill.teachers.logits import LiveStudent, LogitTeacher
from distill.teachers.roots import END, OTHER, common_roots, token_bytes
from distill.template import end_of_turn, response_tokens
from tests.toy_tokenizers import byte_level, sentencepieces, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    tokenizer = byte_level("qwen")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossTeacher(model=str(folder))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, PreTrainedTokenizerBase]:
    """A vocabulary with numbers up to 99, one of the same family without, and three over sentencepiece."""
    numbers = byte_level("llama3", corpus=[f"{number} {number}" for number in range(100)] * 5)
    byte_levels = {"numbers": numbers, "wide": numbers, "chatml": byte_level("chatml"), "qwen": byte_level("qwen")}
    return byte_levels | sentencepieces(Path(tmp_path_factory.mktemp("pieces")))


def roots_of(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> CommonRoots:
    return common_roots(student, teacher, student_rows=len(student), teacher_rows=len(teacher))


def token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    (found,) = response_tokens(text, tokenizer)
    return found


# The texts of tokens


@pytest.mark.parametrize("name", ["numbers", "qwen", "llama", "slow"])
@pytest.mark.parametrize("text", ["The atomic number of gold is 79.", "  é 😀 שלום\n½", "x  y"])
def test_the_bytes_of_the_tokens_of_a_text_are_the_texts_bytes(
    name: str, text: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> None:
    said = token_bytes(tokenizers[name])
    ids = response_tokens(text, tokenizers[name])
    if tokenizers[name].unk_token_id not in ids:
        assert b"".join(said[one] or b"" for one in ids) == text.encode()
    assert all(said[one] is None for one in tokenizers[name].all_special_ids)


def test_an_added_token_that_is_no_control_token_says_its_own_text(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = byte_level("chatml")
    tokenizer.add_tokens(["<think>"])
    assert token_bytes(tokenizer)[tokenizer.convert_tokens_to_ids("<think>")] == b"<think>"  # type: ignore[index]


# Roots


def test_equal_tokenizers_have_every_token_for_its_own_root_and_nothing_to_merge(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    for name in ("numbers", "qwen"):
        roots = roots_of(tokenizers[name], tokenizers[name])
        assert torch.equal(roots.student_V, roots.teacher_V)
        assert len(set(roots.student_V.tolist())) == len(tokenizers[name]) and OTHER not in roots.student_V
        assert roots.glues_student.shape == roots.glues_teacher.shape == (0, 2)


def test_a_number_belongs_to_the_digit_that_the_other_side_begins_it_with(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    student, teacher = tokenizers["numbers"], tokenizers["chatml"]
    roots = roots_of(student, teacher)
    one, forty_five = token(student, "4"), token(student, "45")
    assert roots.student_V[one] == roots.student_V[forty_five] == roots.teacher_V[token(teacher, "4")] > END
    assert roots.student_V[token(student, "5")] != roots.student_V[one]
    glues = roots.glues_student.tolist()
    assert [one, token(teacher, "5")] in glues, "after the student's 4 no digit can follow: it would have said 45"
    assert glues == sorted(glues)


def test_every_root_is_a_prefix_of_its_tokens_and_both_sides_hold_it(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    for names in (("numbers", "chatml"), ("chatml", "llama"), ("llama", "numbers"), ("slow", "chatml")):
        student, teacher = (tokenizers[name] for name in names)
        roots = roots_of(student, teacher)
        members: list[dict[int, list[bytes]]] = []
        for tokenizer, root_V in ((student, roots.student_V), (teacher, roots.teacher_V)):
            found: dict[int, list[bytes]] = {}
            for text, root in zip(token_bytes(tokenizer), root_V.tolist(), strict=True):
                if text is not None and root > END:
                    found.setdefault(root, []).append(text)
            members.append(found)
        assert members[0].keys() == members[1].keys()
        assert int(max(roots.student_V.max(), roots.teacher_V.max())) < roots.count
        for root, texts in members[0].items():
            shortest = min([*texts, *members[1][root]], key=len)
            assert shortest in texts and shortest in members[1][root]
            assert all(text.startswith(shortest) for text in [*texts, *members[1][root]])


def test_the_ends_of_turn_meet_in_one_root_and_other_control_tokens_by_their_text(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    student, teacher = tokenizers["qwen"], tokenizers["llama"]
    roots = roots_of(student, teacher)
    assert roots.student_V[end_of_turn(student).ids[0]] == roots.teacher_V[end_of_turn(teacher).ids[-1]] == END
    assert roots.student_V[student.convert_tokens_to_ids("<|im_start|>")] == OTHER
    teacher = tokenizers["chatml"]
    roots = roots_of(student, teacher)
    start = [tokenizer.convert_tokens_to_ids("<|im_start|>") for tokenizer in (student, teacher)]
    assert roots.student_V[start[0]] == roots.teacher_V[start[1]] > END


def test_logits_of_no_token_belong_to_the_others(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    student, teacher = tokenizers["numbers"], tokenizers["llama"]
    roots = common_roots(student, teacher, student_rows=len(student) + 3, teacher_rows=len(teacher) + 7)
    assert roots.student_V[-3:].tolist() == [OTHER] * 3 and roots.teacher_V[-7:].tolist() == [OTHER] * 7
    assert (len(roots.student_V), len(roots.teacher_V)) == (len(student) + 3, len(teacher) + 7)


# The teacher


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> Callable[[str], str]:
    """`folders(name)`: a tiny random Llama with that tokenizer and some logits of no token."""
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                rows = 2000 if name == "wide" else len(tokenizers[name]) + 4
                model = LlamaForCausalLM(LlamaConfig(vocab_size=rows, **sizes))
            made[name] = str(tmp_path_factory.mktemp(name))
            model.save_pretrained(made[name])
            tokenizers[name].save_pretrained(made[name])
        return made[name]

    return folder


def batch_of(student: str, teacher: str) -> Batch:
    tokenizers = load_tokenizer(student), load_tokenizer(teacher)
    records = [
        Record(id=text, group="g", prompt=(user("What is it?"),), response=text, polarity="positive")
        for text in ("gold 45", "é 😀")
    ]
    aligned, examples = AlignedTokens(*tokenizers, name=teacher), []
    for record in records:
        examples.append(render(record, tokenizers[0]))
        aligned.add(record, examples[-1])
    batch = shared_rows([examples], 0)
    return dataclasses.replace(batch, other=aligned.tokens(batch))


def test_it_says_of_its_own_tokens_what_the_model_alone_says(folders: Callable[[str], str]) -> None:
    student, teacher = folders("numbers"), folders("chatml")
    running = CrossTeacher(model=teacher).start(LiveStudent(name=student, model=load_model(student)))
    batch = batch_of(student, teacher)
    said = running(batch)
    assert said.signal is None and said.cross is not None and isinstance(said.cross.teacher, HiddenSignal)
    log_probs = said.cross.teacher.materialise().log_probs_NK
    model, tokenizer = load_model(teacher), load_tokenizer(teacher)
    expected = []
    for text in batch.record_ids:
        example = render(Record(id=text, group="g", prompt=(user("What is it?"),), response=text, polarity="positive"), tokenizer)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.token_ids])).logits[0]
        places = [place for place, weight in enumerate(example.weight) if weight]
        expected.append(logits[[place - 1 for place in places]].log_softmax(1))
    torch.testing.assert_close(log_probs, torch.cat(expected), atol=1e-5, rtol=1e-4)
    assert not log_probs.requires_grad
    assert said.cross.roots is not None and said.cross.roots.student_V.shape == (len(load_tokenizer(student)) + 4,)


def test_a_batch_without_its_tokens_is_refused_with_the_setting_to_change(folders: Callable[[str], str]) -> None:
    student, teacher = folders("numbers"), folders("chatml")
    running = CrossTeacher(model=teacher).start(LiveStudent(name=student, model=load_model(student)))
    batch = batch_of(student, folders("llama"))
    for other in (batch, dataclasses.replace(batch, other=None)):
        with pytest.raises(TeacherError, match="set data.teacher_tokenizer to"):
            running(other)


def test_the_same_folder_under_another_name_is_the_same_model(
    folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = folders("numbers"), folders("chatml")
    monkeypatch.chdir(Path(teacher).parent)
    running = CrossTeacher(model=Path(teacher).name).start(LiveStudent(name=student, model=load_model(student)))
    assert running(batch_of(student, teacher)).cross is not None


def test_a_teachers_larger_vocabulary_counts_for_the_memory_of_a_chunk(
    folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = folders("chatml"), folders("wide")
    model = load_model(student)
    batch = batch_of(student, teacher)
    said = CrossTeacher(model=teacher).start(LiveStudent(name=student, model=model))(batch)
    batch = dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, cross=said.cross))
    made: list[int] = []
    materialise = HiddenSignal.materialise

    def count(signal: HiddenSignal) -> Any:
        made.append(len(signal.hidden_ND))
        return materialise(signal)

    monkeypatch.setattr(HiddenSignal, "materialise", count)
    student_bytes = 4 * len(batch.gather_N) * model.config.vocab_size
    objective_values(model, batch, {"spans": SpanAlignedKL()}, head_memory=student_bytes + 1)
    assert len(made) == len(batch.record_ids) == 2 and max(made) < len(batch.gather_N)


def test_its_settings_say_what_it_gives_without_loading_anything() -> None:
    teacher = CrossTeacher(model="nowhere")
    assert (teacher.kind(), teacher.gives_cross, teacher.gives_hidden, teacher.reads_new_text) == ("dense", True, False, True)


@pytest.mark.slow
def test_smollm2_and_a_sentencepiece_student_begin_nearly_every_stretch_with_one_root(
    smollm2: Path, tokenizers: Mapping[str, PreTrainedTokenizerBase], shared_data: Path
) -> None:
    from distill.alignment import common_spans
    from distill.template import encode_response

    student, teacher = tokenizers["llama"], load_tokenizer(str(smollm2))
    roots = roots_of(student, teacher)
    text = (shared_data / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if len(line) > 100][:40]
    same, total = 0, 0
    for line in lines:
        (ids, offsets), (its_ids, its_offsets) = (encode_response(line, one) for one in (student, teacher))
        numbers, its_numbers = common_spans(offsets, its_offsets)
        for number in range(max(numbers) + 1):
            begins = roots.student_V[ids[numbers.index(number)]], roots.teacher_V[its_ids[its_numbers.index(number)]]
            same, total = same + int(begins[0] == begins[1]), total + 1
    assert total > 1000 and same / total > 0.98
