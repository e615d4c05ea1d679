"""The laws of distill.render: which tokens are trained, up or down, and what is never cut."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toy_tokenizers import SHAPES, assistant, byte_level, sentencepieces, system, user, word_level

from distill.errors import RenderError
from distill.records import Record, Span
from distill.render import Example, Renderer, render
from distill.template import encode_response, end_of_turn, prompt_tokens, response_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = (user("What is the capital of France?"),)
RESPONSES = ("The capital is Paris.", "הבירה היא \u200fיְרוּשָׁלַיִם\u200e.", "مدينة 👨\u200d👩\u200d👧 x")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    tokenizers: dict[str, PreTrainedTokenizerBase] = {shape: byte_level(shape) for shape in SHAPES}
    tokenizers["words"] = word_level()
    return tokenizers | sentencepieces(tmp_path_factory.mktemp("sentencepiece"))


KINDS = (*SHAPES, "words", "llama", "t5", "slow")


def record(response: str = "The capital is Paris.", **fields: object) -> Record:
    return Record(**{"id": "r1", "group": "g1", "prompt": QUESTION, "response": response, "polarity": "positive"} | fields)


def span(start: int, end: int, polarity: str = "positive", weight: float = 1.0) -> Span:
    return Span(start=start, end=end, polarity=polarity, weight=weight)


def response_part(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[float, bool]]:
    """(weight, negative) of the response's tokens."""
    stop = len(example) - len(end_of_turn(tokenizer).ids)
    return list(zip(example.weight, example.negative, strict=True))[example.prompt_length : stop]


def ending_weights(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[float, ...]:
    return example.weight[len(example) - len(end_of_turn(tokenizer).ids) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("response", RESPONSES)
def test_an_example_is_prompt_response_and_end_of_turn(toys, kind, response):
    tokenizer = toys[kind]
    example = render(record(response), tokenizer)
    prompt, answer = prompt_tokens(QUESTION, tokenizer), response_tokens(response, tokenizer)
    assert example.token_ids == (*prompt, *answer, *end_of_turn(tokenizer).ids)
    assert example.prompt_length == len(prompt)
    assert (example.record_id, example.group) == ("r1", "g1")
    assert len(example.weight) == len(example.negative) == len(example.token_ids)
    assert not any(example.weight[: len(prompt)])


@pytest.mark.parametrize("kind", KINDS)
def test_without_spans_the_whole_response_has_the_records_polarity_and_weight(toys, kind):
    end = end_of_turn(toys[kind])
    positive = render(record(weight=0.25), toys[kind])
    assert set(response_part(positive, toys[kind])) == {(0.25, False)}
    assert ending_weights(positive, toys[kind]) == (0.25,) * end.supervised + (0.0,) * (len(end.ids) - end.supervised)
    negative = render(record(weight=0.25, polarity="negative"), toys[kind])
    assert set(response_part(negative, toys[kind])) == {(0.25, True)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_of_turn_is_never_penalised(toys, kind):
    for spans in ((), (span(0, 21, "negative"),)):
        example = render(record(polarity="negative", spans=spans), toys[kind])
        assert not any(ending_weights(example, toys[kind]))


def test_the_end_of_turn_keeps_its_loss_where_pad_is_eos(toys):
    tokenizer = toys["chatml"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == end_of_turn(tokenizer).ids[0]
    example = render(record(), tokenizer)
    assert example.weight[example.token_ids.index(tokenizer.eos_token_id, example.prompt_length)] == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("response", RESPONSES)
def test_with_spans_exactly_the_tokens_that_overlap_one_are_supervised(toys, kind, response):
    tokenizer = toys[kind]
    _, offsets = encode_response(response, tokenizer)
    for start in range(0, len(response), 2):
        for end in range(start + 1, len(response) + 1, 3):
            example = render(record(response, weight=0.5, spans=(span(start, end, "negative", 0.5),)), tokenizer)
            overlaps = [a < end and b > start for a, b in offsets]
            assert [negative for _, negative in response_part(example, tokenizer)] == overlaps
            assert [weight for weight, _ in response_part(example, tokenizer)] == [0.25 * overlap for overlap in overlaps]


def test_a_span_that_cuts_a_token_supervises_all_of_it():
    tokenizer = byte_level("chatml")
    tokens = tokenizer.convert_ids_to_tokens(response_tokens("The capital", tokenizer))
    assert tokens[-1] == "Ġcapital", "the premise: one token"
    example = render(record("The capital", spans=(span(6, 8),)), tokenizer)
    assert response_part(example, tokenizer)[-1] == (1.0, False)


def test_every_byte_of_a_hebrew_letter_in_a_span_is_supervised():
    tokenizer = byte_level("chatml")
    response = "שָׁ"
    _, offsets = encode_response(response, tokenizer)
    assert len(offsets) > len(response), "the premise: letters of several tokens"
    example = render(record(response, spans=(span(1, 2, "negative"),)), tokenizer)
    assert [negative for _, negative in response_part(example, tokenizer)] == [offset == (1, 2) for offset in offsets]


def test_a_token_that_touches_a_negative_span_is_never_trained_up():
    tokenizer = byte_level("chatml")
    for cut in (6, 8):  # " capital" is one token, [3, 11)
        part = response_part(
            render(record("The capital", spans=(span(0, cut, weight=3.0), span(cut, 11, "negative", 0.5))), tokenizer), tokenizer
        )
        assert (part[0], part[-1]) == ((3.0, False), (0.5, True))
        part = response_part(
            render(record("The capital", spans=(span(0, cut, "negative", 0.5), span(cut, 11, weight=3.0))), tokenizer), tokenizer
        )
        assert (part[0], part[-1]) == ((0.5, True), (0.5, True))
        assert not any(
            ending_weights(render(record("The capital", spans=(span(0, 8, "negative"), span(8, 11))), tokenizer), tokenizer)
        )
    protected = render(record("The capital", spans=(span(0, 8), span(8, 11, "negative", 0.0))), tokenizer)
    assert [weight for weight, _ in response_part(protected, tokenizer)][-1] == 0.0


def test_of_two_spans_of_one_polarity_in_a_token_the_greater_weight_counts():
    tokenizer = byte_level("chatml")
    for polarity in ("positive", "negative"):
        for first, second in ((0.5, 2.0), (2.0, 0.5)):
            spans = (span(0, 7, polarity, first), span(7, 11, polarity, second))
            part = response_part(render(record("The capital", spans=spans), tokenizer), tokenizer)
            assert (part[0], part[-1]) == ((first, polarity == "negative"), (2.0, polarity == "negative"))


@pytest.mark.parametrize(
    ("spans", "polarity", "weight"),
    [
        ((span(0, 21),), "positive", 0.5),
        ((span(0, 3, "negative"), span(4, 21)), "negative", 0.5),
        ((span(0, 20),), "positive", 0.0),
        ((span(0, 20), span(20, 21, "negative")), "positive", 0.0),
        ((span(0, 3), span(20, 21, "negative")), "positive", 0.0),
    ],
)
def test_the_end_of_turn_is_trained_up_where_a_positive_span_reaches_the_end(toys, spans, polarity, weight):
    example = render(record(spans=spans, polarity=polarity, weight=0.5), toys["chatml"])
    assert ending_weights(example, toys["chatml"]) == (weight, 0.0)


@given(st.text(min_size=1, max_size=20), st.data())
def test_any_spans_on_any_text_follow_the_rules(response, data):
    edges = sorted(data.draw(st.sets(st.integers(0, len(response)), min_size=2, max_size=6)))
    polarities = st.sampled_from(["positive", "negative", None])
    drawn = [(a, b, data.draw(polarities), data.draw(st.sampled_from([0.0, 0.5, 1.0]))) for a, b in pairwise(edges)]
    spans = tuple(span(a, b, polarity, weight) for a, b, polarity, weight in drawn if polarity)
    assume(spans)
    expected = []
    for start, end in encode_response(response, SHARED)[1]:
        touching = [s for s in spans if start < s.end and end > s.start]
        downs = [s.weight for s in touching if s.polarity == "negative"]
        ups = [s.weight for s in touching if s.polarity == "positive"]
        expected.append((max(downs or ups or [0.0]), bool(downs)))
    finishes = spans[-1].polarity == "positive" and spans[-1].end == len(response) and not expected[-1][1]
    if finishes or any(weight for weight, _ in expected):
        example = render(record(response, spans=spans), SHARED)
        assert response_part(example, SHARED) == expected
        assert ending_weights(example, SHARED) == (float(finishes), 0.0)
    else:
        with pytest.raises(RenderError, match="'r1'"):
            render(record(response, spans=spans), SHARED)


# What nobody can learn from


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weight": 0.0}, "its weight is 0"),
        ({"response": " ", "polarity": "negative"}, "its response has no tokens"),
        ({"spans": (span(0, 3, weight=0.0),)}, "its spans have weight 0"),
    ],
)
def test_a_record_without_supervised_tokens_is_an_error_that_names_it(toys, fields, reason):
    with pytest.raises(RenderError, match=f"record 'r1': no token is supervised: {reason}"):
        render(record(**fields), toys["words"])


def test_an_error_of_the_template_names_the_record(toys):
    with pytest.raises(RenderError, match="record 'r1': the chat template refuses"):
        render(record(prompt=(system("x"), *QUESTION)), toys["gemma"])


def test_nothing_predicts_the_first_token_so_it_is_never_supervised(toys):
    example = render(record("Paris", prompt=(user(" "),)), toys["words"])
    assert example.prompt_length == 0, "the premise: no bos, and a vocabulary without whitespace"
    assert example.weight[0] == 0.0
    assert example.weight[1:] == (1.0,) * (len(example) - 1)


# Length


def test_only_what_carries_no_loss_is_cut_unasked(toys):
    tokenizer = toys["chatml"]
    whole = render(record(), tokenizer)
    cut = render(record(), tokenizer, max_tokens=len(whole) - 1)
    assert cut.token_ids == whole.token_ids[:-1], "the newline after the end of turn"
    assert sum(cut.weight) == sum(whole.weight)
    spanned = record(spans=(span(0, 3),))
    whole = render(spanned, tokenizer)
    last = max(place for place, weight in enumerate(whole.weight) if weight) + 1
    assert render(spanned, tokenizer, max_tokens=last).weight == whole.weight[:last]
    with pytest.raises(RenderError, match="max_tokens"):
        render(spanned, tokenizer, max_tokens=last - 1)


def test_a_supervised_token_is_never_cut_silently(toys):
    whole = render(record(), toys["chatml"])
    limit = len(whole) - 2
    message = (
        f"record 'r1': {len(whole)} tokens, {len(whole) - 1} up to the last supervised one, but max_tokens is {limit}; raise"
    )
    with pytest.raises(RenderError, match=re.escape(message)):
        render(record(), toys["chatml"], max_tokens=limit)
    with pytest.raises(RenderError):
        render(record(polarity="negative"), toys["chatml"], max_tokens=limit - 1)


def test_a_response_cut_on_request_is_a_prefix_without_its_end_of_turn(toys):
    tokenizer = toys["chatml"]
    whole = render(record(), tokenizer)
    cut = render(record(), tokenizer, max_tokens=whole.prompt_length + 3, overlong="cut_response")
    assert cut.token_ids == whole.token_ids[: whole.prompt_length + 3]
    assert cut.weight == whole.weight[: whole.prompt_length + 3]
    assert end_of_turn(tokenizer).ids[0] not in cut.token_ids[cut.prompt_length :]


@pytest.mark.parametrize("overlong", ["error", "cut_response"])
def test_a_prompt_that_fills_max_tokens_is_an_error_that_names_the_record(toys, overlong):
    with pytest.raises(RenderError, match="record 'r1'.*raise max_tokens"):
        render(record(), toys["chatml"], max_tokens=5, overlong=overlong)


# Turns

TALK = (user("What is it?"), assistant("I don't know."), user("And the capital?"))


@pytest.mark.parametrize("kind", SHAPES)
def test_all_turns_of_a_positive_record_are_trained_up_each_with_its_end(toys, kind):
    tokenizer = toys[kind]
    talk = record("Paris", prompt=TALK, weight=0.5)
    last, every = render(talk, tokenizer), render(talk, tokenizer, turns="all")
    assert every.token_ids == last.token_ids
    assert not any(last.weight[: last.prompt_length])
    trained = [token for token, weight in zip(every.token_ids, every.weight, strict=True) if weight]
    end = end_of_turn(tokenizer)
    ending = tokenizer.decode(end.ids[: end.supervised])
    assert tokenizer.decode(trained).replace(" ", "") == f"Idon'tknow.{ending}Paris{ending}".replace(" ", "")
    assert set(every.weight) == {0.0, 0.5}
    assert not any(every.negative)


def test_earlier_turns_of_a_negative_record_are_context(toys):
    talk = record("Paris", prompt=TALK, polarity="negative")
    assert render(talk, toys["chatml"], turns="all") == render(talk, toys["chatml"])


def test_the_start_of_an_answer_is_context_and_the_response_continues_it(toys):
    tokenizer = toys["chatml"]
    example = render(record(" Paris.", prompt=(*QUESTION, assistant("The capital is"))), tokenizer, turns="all")
    assert tokenizer.decode(example.token_ids).endswith("<|im_start|>assistant\nThe capital is Paris.<|im_end|>\n")
    assert tokenizer.decode(example.token_ids[: example.prompt_length]).endswith("The capital is")
    assert not any(example.weight[: example.prompt_length])


def test_completions_of_a_group_share_the_ids_of_their_prompt(toys):
    for kind in KINDS:
        examples = [render(record(text), toys[kind]) for text in ("Paris", " Paris", "\nParis", "?", "\u200f")]
        assert len({example.token_ids[: example.prompt_length] for example in examples}) == 1


def test_a_renderer_is_render_with_its_arguments_bound(toys):
    renderer = Renderer(tokenizer=toys["chatml"], turns="all")
    talk = record("Paris", prompt=TALK)
    assert renderer(talk) == render(talk, toys["chatml"], turns="all")


def test_two_thousand_short_records_render_in_a_second():
    renderer = Renderer(tokenizer=SHARED)
    records = [record(f"The capital is number {i}.", spans=(span(0, 3, "negative"),)) for i in range(1000)]
    renderer(records[0])
    seconds = []
    for _ in range(3):  # the best of three: other work shares the machine
        start = time.process_time()
        for each in records:
            renderer(each)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


@pytest.mark.slow
def test_the_real_small_model_is_prompted_and_trained_as_its_template_says(smollm2):
    from distill.models import load_tokenizer

    tokenizer = load_tokenizer(str(smollm2))
    example = render(record(), tokenizer)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION[0].content}, {"role": "assistant", "content": "The capital is Paris."}],
        tokenize=False,
    )
    assert tokenizer.decode(example.token_ids) == text
    trained = [token for token, weight in zip(example.token_ids, example.weight, strict=True) if weight]
    assert tokenizer.decode(trained) == "The capital is Paris.<|im_end|>"


SHARED = byte_level("chatml")
