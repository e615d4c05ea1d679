"""What one record is: the only thing that the generation half and the training half share.

A Message, Span or Record that exists is valid: each checks itself when it is made, so nobody else has to. Imports the
standard library only.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar, get_args

from distill.errors import RecordError

Polarity = Literal["positive", "negative"]
Role = Literal["system", "user", "assistant", "tool"]
POLARITIES: tuple[str, ...] = get_args(Polarity)
ROLES: tuple[str, ...] = get_args(Role)
FIELDS: tuple[str, ...] = ("id", "group", "prompt", "response", "polarity", "weight", "spans", "source", "evidence")
REQUIRED: tuple[str, ...] = FIELDS[:5]
MESSAGE_FIELDS: tuple[str, ...] = ("role", "content")
SPAN_FIELDS: tuple[str, ...] = ("start", "end", "polarity", "weight")
EVIDENCE_DEPTH = 64  # deeper nesting is a mistake, and would end in a RecursionError somewhere less clear


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Raises:
        RecordError: an unknown role, or content that is not text.
    """

    role: Role
    content: str

    def __post_init__(self) -> None:
        _check_choice("role", self.role, ROLES)
        _check_text("content", self.content)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A half-open stretch [start, end) of the response, in code points, with its own polarity and weight (finite, >= 0).

    Raises:
        RecordError: an empty, reversed or negative stretch, an unknown polarity, a bad weight.
    """

    start: int
    end: int
    polarity: Polarity
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            place = getattr(self, name)
            if type(place) is not int:
                raise RecordError(f"{name}: got {_shown(place)}, expected a whole number of code points; write it like 12")
        if self.start < 0:
            raise RecordError(f"start: got {self.start}, expected 0 or more; count from the response's first code point")
        if self.start >= self.end:
            kind = "is empty" if self.start == self.end else "is reversed"
            raise RecordError(f"[{self.start}, {self.end}) {kind}; end is one past the last code point, so larger than start")
        _check_choice("polarity", self.polarity, POLARITIES)
        object.__setattr__(self, "weight", _checked_weight(self.weight))


Prompt = tuple[Message, ...]
_Part = TypeVar("_Part", Message, Span)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One response to one prompt, with what the student should do about it.

    `group` names the question: positives and negatives of one question share it. A prompt whose last message is the
    assistant's is a start of the answer that the response continues; the response owns its leading space. Without
    spans the whole response carries the record's polarity and weight; with spans only they are supervised.

    Lists become tuples, spans are put in text order, whole-number weights become floats and evidence becomes plain JSON
    with sorted keys, so that records that say the same are equal and are written as the same bytes.

    Raises:
        RecordError: the first field that breaks the schema, with what was got, what was expected and the remedy.

    >>> ask = (Message(role="user", content="What is the capital of France?"),)
    >>> Record(id="fr-1", group="fr", prompt=ask, response="Paris", polarity="positive").weight
    1.0
    >>> Record(id="fr-2", group="fr", prompt=ask, response="Lyon", polarity="wrong")
    Traceback (most recent call last):
        ...
    distill.errors.RecordError: polarity: got 'wrong', expected 'positive' or 'negative' (record 'fr-2')
    """

    id: str
    group: str
    prompt: Prompt
    response: str
    polarity: Polarity
    weight: float = 1.0
    spans: tuple[Span, ...] = ()
    source: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_name("id", self.id)
        try:
            self._settle()
        except RecordError as error:
            raise RecordError(f"{error} (record {_shown(self.id)})") from None

    def _settle(self) -> None:
        """Check every field and put it into its one canonical form."""
        _check_name("group", self.group)
        _check_choice("polarity", self.polarity, POLARITIES)
        object.__setattr__(self, "prompt", _checked_prompt(self.prompt))
        _check_text("response", self.response)
        if not self.response:
            raise RecordError("response: got an empty string, expected text to train on; drop the record and count it as lost")
        object.__setattr__(self, "weight", _checked_weight(self.weight))
        object.__setattr__(self, "spans", _checked_spans(self.spans, len(self.response)))
        _check_text("source", self.source)
        object.__setattr__(self, "evidence", _checked_evidence(self.evidence))


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as one plain JSON object: every field, in the schema's order.

    >>> ask = (Message(role="user", content="Hi"),)
    >>> record_to_json(Record(id="a", group="g", prompt=ask, response="Yo", polarity="negative"))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'id': 'a', 'group': 'g', 'prompt': [{'role': 'user', 'content': 'Hi'}], 'response': 'Yo', 'polarity': 'negative',
     'weight': 1.0, 'spans': [], 'source': '', 'evidence': {}}
    """
    return {
        "id": record.id,
        "group": record.group,
        "prompt": [{"role": message.role, "content": message.content} for message in record.prompt],
        "response": record.response,
        "polarity": record.polarity,
        "weight": record.weight,
        "spans": [span_to_json(span) for span in record.spans],
        "source": record.source,
        "evidence": dict(record.evidence),
    }


def span_to_json(span: Span) -> dict[str, Any]:
    """One span as a plain JSON object."""
    return {"start": span.start, "end": span.end, "polarity": span.polarity, "weight": span.weight}


def record_from_json(obj: object, where: str = "") -> Record:
    """The record that one parsed JSON object describes; `where` (a file and line) opens the message of every error.

    Raises:
        RecordError: not an object, an unknown or missing key, or a value that breaks the schema.

    >>> record_from_json({"id": "a", "group": "g"}, where="data.jsonl:3")
    Traceback (most recent call last):
        ...
    distill.errors.RecordError: data.jsonl:3: prompt: missing; a record needs id, group, prompt, response, polarity
    """
    try:
        fields = _checked_object("", obj, FIELDS, REQUIRED, what="a record")
        messages, stretches = _listed("prompt", fields["prompt"]), _listed("spans", fields.get("spans", []))
        prompt = tuple(_from_object(f"prompt[{n}]", Message, part, MESSAGE_FIELDS, MESSAGE_FIELDS) for n, part in messages)
        spans = tuple(_from_object(f"spans[{n}]", Span, part, SPAN_FIELDS, SPAN_FIELDS[:3]) for n, part in stretches)
        return Record(**{**fields, "prompt": prompt, "spans": spans})
    except RecordError as error:
        raise RecordError(f"{where}: {error}" if where else str(error)) from None


def record_line(record: Record) -> str:
    r"""The one JSON text of a record, without a newline: schema order, no spare spaces, letters of any script as they are.

    >>> ask = (Message(role="user", content="מה בירת צרפת?"),)
    >>> record_line(Record(id="a", group="g", prompt=ask, response="פריז", polarity="positive"))[:66]
    '{"id":"a","group":"g","prompt":[{"role":"user","content":"מה בירת '
    """
    return json.dumps(record_to_json(record), ensure_ascii=False, separators=(",", ":"))


def make_id(
    group: str, polarity: Polarity, prompt: Prompt, response: str, *, spans: Iterable[Span] = (), source: str = ""
) -> str:
    """A stable id: 20 hexadecimal digits of SHA-256 over what makes this record another one than its neighbours.

    The weight and the evidence are left out: a new threshold or a new verdict does not make it another record.

    >>> ask = (Message(role="user", content="What is the capital of France?"),)
    >>> make_id("fr", "positive", ask, "Paris")
    '749add3087d1afee423a'
    """
    turns = [[message.role, message.content] for message in prompt]
    stretches = [[span.start, span.end, span.polarity] for span in sorted(spans, key=lambda span: span.start)]
    return _digest([group, polarity, turns, response, stretches, source])


def make_group(prompt: Prompt) -> str:
    """A stable name for the question that a prompt asks, where nothing better names it: the same prompt, the same group."""
    return _digest([[message.role, message.content] for message in prompt])


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:20]


def _shown(value: object) -> str:
    """A value short enough for a message; surrogates come out escaped."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise RecordError(f"{name}: got {_shown(value)}, expected text (a JSON string); put it between quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{name}: a lone surrogate {ascii(value[error.start])} at code point {error.start} is no character; "
            "the text was cut inside an emoji or decoded with errors='surrogateescape': decode it again, as UTF-8"
        ) from None


def _check_name(name: str, value: object) -> None:
    _check_text(name, value)
    if not value:
        raise RecordError(f"{name}: got an empty string, expected a name; distill.records.make_{name} makes one from the content")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise RecordError(f"{name}: got {_shown(value)}, expected {expected}")


def _checked_weight(value: object) -> float:
    expected = "expected a finite number, 0 or more"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecordError(f"weight: got {_shown(value)}, {expected}; write it without quotes")
    try:
        weight = float(value)
    except OverflowError:
        weight = math.inf
    if not math.isfinite(weight):
        raise RecordError(f"weight: got {_shown(value)}, {expected}; find the division or logarithm it came from")
    if weight < 0:
        raise RecordError(f"weight: got {_shown(value)}, {expected}; polarity 'negative' says what to avoid, never a sign")
    return weight + 0.0  # -0.0 becomes 0.0, so that equal records are equal bytes


def _checked_prompt(value: object) -> Prompt:
    remedy = "write [{'role': 'user', 'content': ...}]"
    if not isinstance(value, (tuple, list)):
        raise RecordError(f"prompt: got {_shown(value)}, expected a list of messages; {remedy}")
    for n, message in enumerate(value):
        if not isinstance(message, Message):
            raise RecordError(f"prompt[{n}]: got {_shown(message)}, expected a Message; {remedy}")
    if not any(message.content for message in value):
        kind = "its messages have no text" if value else "is empty"
        raise RecordError(f"prompt: {kind}, expected at least one message with text; {remedy}")
    return tuple(value)


def _checked_spans(value: object, length: int) -> tuple[Span, ...]:
    """The spans in text order; `length` is the response's, in code points."""
    if not isinstance(value, (tuple, list)):
        raise RecordError(f"spans: got {_shown(value)}, expected a list of spans; write [] for the whole response")
    for n, span in enumerate(value):
        if not isinstance(span, Span):
            raise RecordError(f"spans[{n}]: got {_shown(span)}, expected a Span; write Span(start=..., end=..., polarity=...)")
        if span.end > length:
            raise RecordError(
                f"spans[{n}]: [{span.start}, {span.end}) ends past the response ({length} code points); "
                "spans count code points of the response, not tokens or bytes, and not the prompt"
            )
    spans = tuple(sorted(value, key=lambda span: span.start))
    for first, second in pairwise(spans):
        if second.start < first.end:
            raise RecordError(
                f"spans: [{first.start}, {first.end}) and [{second.start}, {second.end}) overlap; "
                "cut one of them so that each code point has one polarity"
            )
    return spans


def _checked_evidence(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"evidence: got {_shown(value)}, expected an object; write {{}} where there is none")
    plain: dict[str, Any] = plain_json("evidence", value) if value else {}
    return plain


def plain_json(where: str, value: object, *, depth: int = EVIDENCE_DEPTH) -> Any:
    """A copy of a JSON value made of dict (sorted keys), list, str, int, float, bool and None only.

    Raises:
        RecordError: what JSON, or another reader of it, cannot hold; `where` names the value.
    """
    if depth == 0:
        raise RecordError(f"{where[:40]}...: nested deeper than {EVIDENCE_DEPTH} levels; flatten it, or store a part as text")
    if isinstance(value, str):
        _check_text(where, value)
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{where}: got {value!r}, which JSON cannot hold; write null, or the reason as text")
        return float(value)
    if isinstance(value, int):
        if value.bit_length() > 64:  # other readers of the same file would round it or stop
            raise RecordError(f"{where}: got {_shown(value)}, which is past 64 bits; write it as text")
        return int(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RecordError(f"{where}: got the key {_shown(key)}, expected text; JSON keys are strings")
            _check_text(f"{where} key", key)
        return {key: plain_json(f"{where}.{key}", value[key], depth=depth - 1) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [plain_json(f"{where}[{n}]", item, depth=depth - 1) for n, item in enumerate(value)]
    raise RecordError(f"{where}: got {_shown(value)} ({type(value).__name__}), expected JSON; store its text or its plain values")


def _checked_object(where: str, obj: object, known: tuple[str, ...], required: tuple[str, ...], what: str) -> dict[str, Any]:
    at = f"{where}." if where else ""
    if not isinstance(obj, dict):
        opening = f"{where}: " if where else ""
        raise RecordError(f"{opening}got {_shown(obj)}, expected {what}: an object {{...}} with {', '.join(required)}")
    for key in obj:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1) or [name for name in required if name not in obj]
            remedy = f"did you mean {near[0]!r}?" if near else "remove it" if where else "move it into evidence"
            raise RecordError(f"{at}{key}: unknown key; {what} has {', '.join(known)}; {remedy}")
    for key in required:
        if key not in obj:
            raise RecordError(f"{at}{key}: missing; {what} needs {', '.join(required)}")
    return obj


def _from_object(where: str, kind: type[_Part], obj: object, known: tuple[str, ...], required: tuple[str, ...]) -> _Part:
    """A Message or Span from its JSON object; `where` is its path in the record."""
    fields = _checked_object(where, obj, known, required, what=f"a {kind.__name__.lower()}")
    try:
        return kind(**fields)
    except RecordError as error:
        text = str(error)
        # "[5, 2) is reversed" is about the span as a whole, "weight: got ..." about one of its fields
        raise RecordError(f"{where}: {text}" if text.startswith("[") else f"{where}.{text}") from None


def _listed(name: str, value: object) -> Iterable[tuple[int, object]]:
    if not isinstance(value, list):
        remedy = "[{'role': 'user', 'content': ...}]" if name == "prompt" else "[] for the whole response"
        raise RecordError(f"{name}: got {_shown(value)}, expected a list; write {remedy}")
    return enumerate(value)
