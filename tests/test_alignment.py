"""Stretches of text that two tokenizers both delimit: from offsets, and from records rendered twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.alignment import AlignedTokens, common_spans
from distill.errors import RecordError, RenderError
from distill.records import Message, Record, Span
from distill.render import Example, render
from distill.rows import OtherTokens, plain_rows, shared_rows
from distill.template import encode_response, end_of_turn, token_texts
from tests.toy_tokenizers import assistant, byte_level, sentencepieces, system, user, word_level

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = (
    "The atomic number of gold is 79.",
    "1987, 12 and 1 2",
    "  two  spaces at both ends  ",
    "é 😀 שלום ﬁn ½",
    "I don't know.\nReally?",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, PreTrainedTokenizerBase]:
    """Two byte-level vocabularies, and three over sentencepiece: with offsets, with dropped spaces, without offsets."""
    digits = byte_level("llama3", corpus=[f"{number} {number}" for number in range(100)] * 5)
    return {"chatml": byte_level("chatml"), "digits": digits} | sentencepieces(Path(tmp_path_factory.mktemp("pieces")))


def record_of(response: str, **fields: object) -> Record:
    prompt = (user("What is it?"),)
    return Record(**{"id": "a", "group": "g", "prompt": prompt, "response": response, "polarity": "positive", **fields})  # type: ignore[arg-type]


def aligned(
    record: Record, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> tuple[Example, Example, OtherTokens]:
    example = render(record, student)
    tokens = AlignedTokens(student, teacher, name="t")
    tokens.add(record, example)
    return example, render(record, teacher), tokens.tokens(plain_rows([example], 0))


# From offsets


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([(0, 1), (1, 2)], [(0, 2)], ([0, 0], [0])),  # 1|2 beside 12
        ([(0, 2)], [(0, 1), (1, 2)], ([0], [0, 0])),
        ([(0, 3), (3, 5)], [(0, 2), (2, 5)], ([0, 0], [0, 0])),  # int|ern beside in|tern: no common place inside
        ([(0, 1), (0, 1), (1, 2)], [(0, 1), (0, 1), (0, 1), (1, 2)], ([0, 0, 1], [0, 0, 0, 1])),  # bytes of one character
        ([(0, 1), (0, 2), (1, 2)], [(0, 1), (1, 2)], ([0, 0, 0], [0, 0])),  # a token over the parts of two characters
        ([(0, 0), (0, 2), (2, 3)], [(0, 2), (2, 3)], ([0, 0, 1], [0, 1])),  # a token of no text
        ([(0, 2), (2, 2)], [(0, 2)], ([0, 0], [0])),
        ([], [], ([], [])),
    ],
)
def test_stretches_end_where_both_sides_end_a_token(
    left: list[tuple[int, int]], right: list[tuple[int, int]], expected: tuple[list[int], list[int]]
) -> None:
    assert common_spans(left, right) == expected


@given(st.lists(st.integers(1, 12), min_size=1, unique=True), st.lists(st.integers(1, 12), min_size=1, unique=True))
def test_the_partition_is_the_finest_and_symmetric(left: list[int], right: list[int]) -> None:
    sides = []
    for places in (left, right):
        ends = sorted({*places, 13})
        sides.append(list(zip([0, *ends], ends, strict=False)))
    numbers = common_spans(sides[0], sides[1])
    assert common_spans(sides[1], sides[0]) == numbers[::-1]
    common = sorted({end for _, end in sides[0]} & {end for _, end in sides[1]})
    for side, found in zip(sides, numbers, strict=True):
        assert found == [sum(place <= start for place in common) for start, _ in side]


# From texts


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pair", [("chatml", "digits"), ("digits", "llama"), ("llama", "chatml"), ("slow", "chatml")])
def test_both_sides_of_a_stretch_say_the_same_text(
    pair: tuple[str, str], text: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> None:
    encoded = [encode_response(text, tokenizers[name]) for name in pair]
    numbers = common_spans(encoded[0][1], encoded[1][1])
    said = []
    for name, (ids, _), found in zip(pair, encoded, numbers, strict=True):
        texts = token_texts(ids, tokenizers[name])
        said.append(["".join(t for t, number in zip(texts, found, strict=True) if number == k) for k in range(max(found) + 1)])
    assert said[0] == said[1] and "".join(said[0]) == text


def test_digits_that_one_side_splits_and_words_that_the_other_splits_are_one_stretch_each(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    student, teacher = tokenizers["digits"], tokenizers["llama"]
    one, _, found = aligned(record_of("capital is 12"), student, teacher)
    said = []
    for tokens, spans, tokenizer in (
        (one.token_ids[one.prompt_length :], found.span_N, student),
        (found.batch.targets.token_N.tolist(), found.span_M, teacher),
    ):
        pieces: dict[int, list[str]] = {}
        for span, text in zip(spans.tolist(), token_texts([int(token) for token in tokens], tokenizer), strict=True):
            pieces.setdefault(span, []).append(text)
        said.append({"".join(some): len(some) for some in pieces.values()})
    assert (said[0][" 12"], said[1][" 12"]) == (1, 3)
    assert (said[0]["api"], said[1]["api"]) == (3, 1)


@pytest.mark.parametrize("text", TEXTS)
def test_equal_tokenizers_give_a_stretch_to_every_token_of_whole_characters(
    text: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> None:
    _, _, found = aligned(record_of(text), tokenizers["chatml"], tokenizers["chatml"])
    assert found.span_N.tolist() == found.span_M.tolist() and -1 not in found.span_N
    if text.isascii():
        assert found.span_N.tolist() == list(range(len(found.span_N)))


def test_the_ends_of_turn_are_a_stretch_of_their_own(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    student, teacher = byte_level("llama2"), tokenizers["chatml"]
    assert end_of_turn(student).supervised == 2, "this template writes a space before </s>"
    one, other, found = aligned(record_of("Paris"), student, teacher)
    end = int(found.span_M.max())
    assert found.span_N.tolist().count(end) == 2 and found.span_M.tolist().count(end) == 1
    assert found.span_N.tolist()[-2:] == [end, end]


# What is in no stretch


def test_text_that_a_side_only_knows_as_unknown_is_in_no_stretch(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    student, teacher = tokenizers["chatml"], word_level()
    one, other, found = aligned(record_of("France is xyz Paris"), student, teacher)
    texts = token_texts([int(t) for t in found.batch.targets.token_N], teacher)
    assert [span >= 0 for span in found.span_M.tolist()] == [text.strip() != "<unk>" for text in texts]
    assert "<unk>" in "".join(texts)


def test_a_stretch_that_one_side_learns_in_part_is_none(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    text = "gold is 79 now"
    record = record_of(text, spans=(Span(start=8, end=9, polarity="negative"),))  # the 7 of 79
    one, other, found = aligned(record, tokenizers["digits"], tokenizers["llama"])
    # The student's token ` 79` touches the span, the teacher's `9` does not.
    assert set(found.span_N.tolist()) == {-1} and set(found.span_M.tolist()) == {-1}
    whole = record_of(text, spans=(Span(start=7, end=10, polarity="negative"),))
    _, _, found = aligned(whole, tokenizers["digits"], tokenizers["llama"])
    assert -1 not in found.span_N and len(set(found.span_N.tolist())) == 1


def test_tokens_that_a_batch_leaves_out_take_their_stretch_with_them(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    from dataclasses import replace

    record = record_of("gold is 79")
    tokens = AlignedTokens(tokenizers["llama"], tokenizers["digits"], name="t")
    example = render(record, tokenizers["llama"])
    tokens.add(record, example)
    all_spans = tokens.tokens(plain_rows([example], 0)).span_N.tolist()
    shared = next(number for number in all_spans if all_spans.count(number) > 1)
    place = example.prompt_length + all_spans.index(shared)
    less = replace(example, weight=tuple(0.0 if at == place else one for at, one in enumerate(example.weight)))
    found = tokens.tokens(plain_rows([less], 0))
    assert shared not in found.span_N and shared not in found.span_M
    assert len(set(found.span_N.tolist()) - {-1}) == len(set(all_spans)) - 1


def test_a_response_that_is_cut_keeps_the_stretches_before_the_cut(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    record = record_of("The capital of Kenya is Nairobi 12345")
    student, teacher = tokenizers["llama"], tokenizers["digits"]
    whole = render(record, student)
    for length in range(whole.prompt_length + 1, len(whole)):
        cut = render(record, student, max_tokens=length, overlong="cut_response")
        tokens = AlignedTokens(student, teacher, name="t")
        tokens.add(record, cut)
        found = tokens.tokens(plain_rows([cut], 0))
        for number in set(found.span_N.tolist()) - {-1}:
            assert number in found.span_M
        assert set(found.span_M.tolist()) == set(found.span_N.tolist()) | {-1}


# In batches


def test_rows_of_either_kind_hold_the_same_stretches_numbered_apart_by_response(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    student, teacher = tokenizers["digits"], tokenizers["llama"]
    records = [
        record_of("gold is 79", id="a"),
        record_of("Paris", id="b"),
        record_of("12", id="c", prompt=(system("?"), user("!"))),
    ]
    examples, tokens = [render(record, student) for record in records], AlignedTokens(student, teacher, name="t")
    for record, example in zip(records, examples, strict=True):
        tokens.add(record, example)
    plain, shared = tokens.tokens(plain_rows(examples, 0)), tokens.tokens(shared_rows([examples], 0))
    assert plain.span_N.tolist() == shared.span_N.tolist() and plain.span_M.tolist() == shared.span_M.tolist()
    sequence_N, sequence_M = plain_rows(examples, 0).targets.sequence_N, plain.batch.targets.sequence_N
    before = -2
    for number in range(3):
        spans = plain.span_N[sequence_N == number].tolist()
        assert set(spans) == set(plain.span_M[sequence_M == number].tolist())
        assert min(spans) > before + 1, "the first stretch of a response follows none"
        before = max(spans)


def test_a_response_that_only_fills_a_ranks_turn_is_supervised_on_neither_side(
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> None:
    from dataclasses import replace

    example = render(record_of("Paris"), tokenizers["chatml"])
    tokens = AlignedTokens(tokenizers["chatml"], tokenizers["llama"], name="t")
    tokens.add(record_of("Paris"), example)
    found = tokens.tokens(plain_rows([replace(example, weight=(0.0,) * len(example))], 0))
    assert found.span_N.shape == found.span_M.shape == found.batch.gather_N.shape == (0,)


def test_an_id_is_found_once_unless_it_is_said_again(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    tokens = AlignedTokens(tokenizers["chatml"], tokenizers["llama"], name="t")
    first, second = record_of("Paris"), record_of("Nairobi is it")
    tokens.add(first, render(first, tokenizers["chatml"]))
    with pytest.raises(RecordError, match="'a' is used twice"):
        tokens.add(second, render(second, tokenizers["chatml"]))
    tokens.add(second, render(second, tokenizers["chatml"]), again=True)
    found = tokens.tokens(plain_rows([render(second, tokenizers["chatml"])], 0))
    assert "".join(token_texts(found.batch.targets.token_N.tolist()[:-1], tokenizers["llama"])) == "Nairobi is it"


def test_what_the_teachers_template_refuses_is_said_of_the_teacher(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    teacher = byte_level("gemma")
    messages: tuple[Message, ...] = (system("Be brief."), user("?"), assistant("x"), user("!"))
    record = record_of("Paris", prompt=messages)
    with pytest.raises(RenderError, match="for the teacher's tokenizer 'gemma'.*no system role"):
        AlignedTokens(tokenizers["chatml"], teacher, name="gemma").add(record, render(record, tokenizers["chatml"]))
