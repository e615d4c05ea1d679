"""The schema's laws: what exists is valid, equal records are equal bytes, and every breach has its own message."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from record_strategies import a_record, records

from distill.errors import RecordError
from distill.records import Message, Record, Span, make_group, make_id, record_from_json, record_line, record_to_json

GOOD = record_to_json(a_record(1, response="Paris is it"))
SPAN = {"start": 0, "end": 5, "polarity": "positive"}


def deep(levels: int) -> object:
    return [deep(levels - 1)] if levels else 1


# what to put into a good record, and what the message must contain
BREACHES = {
    "an id of another type": ({"id": 7}, "id: got 7, expected text"),
    "an empty id": ({"id": ""}, "id: got an empty string, expected a name; distill.records.make_id"),
    "an empty group": ({"group": ""}, "group: got an empty string, expected a name; distill.records.make_group"),
    "a prompt of text": ({"prompt": "Hi"}, "prompt: got 'Hi', expected a list; write [{'role': 'user'"),
    "an empty prompt": ({"prompt": []}, "prompt: is empty, expected at least one message with text"),
    "a prompt of empty messages": ({"prompt": [{"role": "user", "content": ""}]}, "prompt: its messages have no text"),
    "a message of text": ({"prompt": ["Hi"]}, "prompt[0]: got 'Hi', expected a message: an object {...} with role, content"),
    "a bad role": ({"prompt": [{"role": "bot", "content": "Hi"}]}, "prompt[0].role: got 'bot', expected 'system' or 'user' or"),
    "a null content": ({"prompt": [{"role": "user", "content": None}]}, "prompt[0].content: got None, expected text"),
    "a message without content": ({"prompt": [{"role": "user"}]}, "prompt[0].content: missing; a message needs role, content"),
    "an unknown message key": ({"prompt": [{"role": "user", "content": "a", "name": "b"}]}, "prompt[0].name: unknown key"),
    "an empty response": ({"response": ""}, "response: got an empty string, expected text to train on; drop the record"),
    "a null response": ({"response": None}, "response: got None, expected text"),
    "half an emoji": ({"response": "ok \ud83d"}, "response: a lone surrogate '\\ud83d' at code point 3 is no character"),
    "half an emoji in the prompt": ({"prompt": [{"role": "user", "content": "\ude00"}]}, "prompt[0].content: a lone surrogate"),
    "a bad polarity": ({"polarity": "good"}, "polarity: got 'good', expected 'positive' or 'negative'"),
    "a polarity that is a number": ({"polarity": -1}, "polarity: got -1, expected 'positive' or 'negative'"),
    "a weight of text": ({"weight": "1"}, "weight: got '1', expected a finite number, 0 or more; write it without quotes"),
    "a weight of true": ({"weight": True}, "weight: got True, expected a finite number"),
    "a NaN weight": ({"weight": float("nan")}, "weight: got nan, expected a finite number, 0 or more; find the division"),
    "an infinite weight": ({"weight": float("inf")}, "weight: got inf, expected a finite number"),
    "a weight past all floats": ({"weight": 10**400}, "weight: got a whole number of 1329 bits, expected a finite number"),
    "a negative weight": ({"weight": -0.5}, "weight: got -0.5, expected a finite number, 0 or more; polarity 'negative' says"),
    "spans of another type": ({"spans": {}}, "spans: got {}, expected a list; write []"),
    "a span past the end": ({"spans": [{**SPAN, "end": 12}]}, "spans[0]: [0, 12) ends past the response (11 code points)"),
    "a reversed span": ({"spans": [{**SPAN, "start": 5, "end": 2}]}, "spans[0]: [5, 2) is reversed; end is one past"),
    "an empty span": ({"spans": [{**SPAN, "start": 5}]}, "spans[0]: [5, 5) is empty; end is one past"),
    "a span before the start": ({"spans": [{**SPAN, "start": -1}]}, "spans[0].start: got -1, expected 0 or more"),
    "a fractional span": ({"spans": [{**SPAN, "end": 5.0}]}, "spans[0].end: got 5.0, expected a whole number of code points"),
    "overlapping spans": ({"spans": [{**SPAN, "start": 4, "end": 9}, SPAN]}, "spans: [0, 5) and [4, 9) overlap; cut one"),
    "a span without polarity": ({"spans": [{"start": 0, "end": 1}]}, "spans[0].polarity: missing; a span needs start, end"),
    "a NaN span weight": ({"spans": [{**SPAN, "weight": float("nan")}]}, "spans[0].weight: got nan, expected a finite number"),
    "a null source": ({"source": None}, "source: got None, expected text"),
    "evidence that is a list": ({"evidence": []}, "evidence: got [], expected an object"),
    "NaN in the evidence": ({"evidence": {"a": [0.5, float("nan")]}}, "evidence.a[1]: got nan, which JSON cannot hold"),
    "a huge number in the evidence": (
        {"evidence": {"a": 2**70}},
        f"evidence.a: got {2**70}, which is past 64 bits; write it as text",
    ),
    "half an emoji in a key": ({"evidence": {"\ud83d": 1}}, "evidence key: a lone surrogate"),
    "deep evidence": (
        {"evidence": {"a": deep(100)}},
        "evidence.a[0][0][0][0][0][0][0][0][0][0]...: nested deeper than 64 levels; flatten it",
    ),
    "an unknown key": ({"polarty": "positive"}, "polarty: unknown key; a record has id, group,"),
}


@pytest.mark.parametrize(("change", "message"), BREACHES.values(), ids=BREACHES.keys())
def test_each_breach_of_the_schema_names_place_field_value_and_remedy(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError) as caught:
        record_from_json({**GOOD, **change}, where="data.jsonl:12")
    assert str(caught.value).startswith(f"data.jsonl:12: {message}")


def test_all_breaches_have_different_messages() -> None:
    said = set()
    for change, _ in BREACHES.values():
        with pytest.raises(RecordError) as caught:
            record_from_json({**GOOD, **change})
        said.add(str(caught.value))
    assert len(said) == len(BREACHES)


@pytest.mark.parametrize("name", ["id", "group", "prompt", "response", "polarity"])
def test_a_missing_key_is_named(name: str) -> None:
    with pytest.raises(RecordError, match=rf"^{name}: missing; a record needs id, group, prompt, response, polarity"):
        record_from_json({key: value for key, value in GOOD.items() if key != name})


def test_an_unknown_key_is_answered_with_the_missing_one() -> None:
    with pytest.raises(RecordError, match="^text: unknown key; .* did you mean 'response'"):
        record_from_json({"text" if key == "response" else key: value for key, value in GOOD.items()})
    with pytest.raises(RecordError, match="^label: unknown key; .* move it into evidence"):
        record_from_json({**GOOD, "label": True})


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    with pytest.raises(RecordError, match="did you mean 'response'"):
        record_from_json({**GOOD, "respones": "x"})


@pytest.mark.parametrize("name", ["weight", "spans", "source", "evidence"])
def test_the_other_keys_may_be_left_out(name: str) -> None:
    assert record_from_json({key: value for key, value in GOOD.items() if key != name}) == record_from_json(GOOD)


def test_a_record_made_in_python_obeys_the_same_rules_and_names_itself() -> None:
    with pytest.raises(RecordError, match=r"spans\[0\]: \[0, 99\) ends past the response .*\(record 'r1'\)$"):
        a_record(1, spans=(Span(start=0, end=99, polarity="positive"),))
    with pytest.raises(RecordError, match=r"prompt\[0\]: got .* expected a Message"):
        a_record(1, prompt=({"role": "user", "content": "Hi"},))
    with pytest.raises(RecordError, match="evidence: got the key 1, expected text"):
        a_record(1, evidence={1: "a"})
    with pytest.raises(RecordError, match=r"evidence.a: got .*\(set\), expected JSON"):
        a_record(1, evidence={"a": {1}})


@settings(max_examples=50, deadline=None)
@given(records())
def test_a_record_is_the_same_after_json_and_its_line_is_one_line_of_utf8(record: Record) -> None:
    line = record_line(record)
    assert "\n" not in line and "\r" not in line
    back = record_from_json(json.loads(line.encode().decode()))
    assert back == record
    assert record_line(back) == line


def test_records_that_say_the_same_are_equal_and_the_same_bytes() -> None:
    spans = [Span(start=2, end=4, polarity="negative"), Span(start=0, end=1, polarity="positive")]
    one = a_record(1, weight=2, spans=spans, evidence={"b": (1, 2), "a": {}}, prompt=list(a_record(1).prompt))
    two = a_record(1, weight=2.0, spans=tuple(reversed(spans)), evidence={"a": {}, "b": [1, 2]})
    assert one == two
    assert hash(one) == hash(two)
    assert record_line(one) == record_line(two)
    assert record_line(a_record(1, weight=-0.0)) == record_line(a_record(1, weight=0))


def test_evidence_changed_after_the_fact_does_not_reach_the_record() -> None:
    votes = {"yes": [1]}
    record = a_record(1, evidence=votes)
    votes["yes"].append(2)
    assert record.evidence == {"yes": [1]}


@pytest.mark.parametrize(
    ("response", "part"),
    [
        ("בירת צרפת היא פריז.", "פריז"),
        ("عاصمة فرنسا هي باريس.", "باريس"),
        ("The flag is 🇫🇷, surely", "🇫🇷"),
        ("Family 👩‍👩‍👧 of three", "👩‍👩‍👧"),
        (unicodedata.normalize("NFD", "Café crème"), unicodedata.normalize("NFD", "crème")),
        ("שָׁלוֹם עֲלֵיכֶם", "עֲלֵיכֶם"),
        ("𝔘𝔫𝔦 code", "code"),
    ],
)
def test_spans_count_code_points_in_every_script(response: str, part: str) -> None:
    start = response.index(part)
    record = a_record(1, response=response, spans=[Span(start=start, end=start + len(part), polarity="negative")])
    (span,) = record_from_json(json.loads(record_line(record))).spans
    assert response[span.start : span.end] == part
    # One more than the code points is refused, however many bytes or UTF-16 units the text has.
    with pytest.raises(RecordError, match="ends past the response"):
        a_record(1, response=response, spans=[Span(start=0, end=len(response) + 1, polarity="negative")])


@settings(max_examples=50, deadline=None)
@given(records())
def test_an_id_is_stable_and_changes_with_the_content_only(record: Record) -> None:
    group, prompt, response, spans = record.group, record.prompt, record.response, record.spans
    assert make_id(group, "positive", prompt, response, spans=spans) == make_id(
        group, "positive", prompt, response, spans=spans[::-1]
    )
    others = {
        make_id(group, "positive", prompt, response),
        make_id(group, "negative", prompt, response),
        make_id(group + "x", "positive", prompt, response),
        make_id(group, "positive", prompt, response + "x"),
        make_id(group, "positive", (*prompt, Message(role="user", content="x")), response),
        make_id(group, "positive", prompt, response, spans=[Span(start=0, end=1, polarity="negative")]),
        make_id(group, "positive", prompt, response, source="x"),
    }
    assert len(others) == 7


def test_text_moved_between_fields_makes_another_id() -> None:
    ask = (Message(role="user", content="ab"),)
    assert make_id("a", "positive", ask, "bc") != make_id("ab", "positive", ask, "c")
    assert make_group((*ask, *ask)) != make_group((Message(role="user", content="abab"),))


def test_naming_records_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'pyarrow', 'datasets', 'transformers', 'numpy', 'pandas'}"
    code = f"import sys, distill.records; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
