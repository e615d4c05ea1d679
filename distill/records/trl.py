"""Records to and from the columns of TRL (1.16): unpaired, preference, prompt-completion, messages and stepwise rows.

TRL's columns have no place for ids, groups, weights, spans, sources and evidence. They travel as JSON text in a column whose
name starts with `distill_` (TRL ignores extra columns), so rows that were written here become the same records again. A row
without that column is foreign: its group is made from its prompt and its id from its content. What one side cannot express is
counted in `lost`, by reason, one for each response.

Source: the dataset formats page of TRL's documentation, https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, get_args

from distill.errors import RecordError
from distill.records.schema import (
    ROLES,
    Message,
    Polarity,
    Prompt,
    Record,
    Span,
    make_group,
    make_id,
    record_from_json,
    record_to_json,
)

TrlFormat = Literal["unpaired", "preference", "prompt-completion", "messages", "stepwise"]
TRL_FORMATS: tuple[str, ...] = get_args(TrlFormat)
KEPT, KEPT_CHOSEN, KEPT_REJECTED = "distill_record", "distill_chosen", "distill_rejected"


class _Inexpressible(Exception):
    """One response that the other side has no form for; its text is the reason under which it is counted."""


def to_trl(
    records: Iterable[Record], format: TrlFormat, *, lost: Counter[str], conversational: bool = True
) -> Iterator[dict[str, Any]]:
    """TRL's rows for records, as a stream.

    A prompt that ends in a started answer loses that last message to its completion, which then holds start and response: to
    TRL an assistant's message in the prompt and another one as completion would be two turns. The start is trained there too.

    Arguments:
        lost: counts, by reason, the records that the format cannot express; complete when the stream is.
        conversational: prompts and completions as lists of messages; otherwise as text, for prompts of one user message.
            Stepwise rows are text in any case.

    "preference" pairs each positive with a negative to the same prompt of the same group, the fewer ones repeated, so that each
    is in a pair; the records of a group must come together. "prompt-completion" and "messages" hold positives only. "stepwise"
    holds one step for each span, so nothing but white space may lie outside the spans.

    Raises:
        RecordError: an unknown format, or a group that comes back after another (preference only).

    >>> ask = (Message(role="user", content="What is the capital of France?"),)
    >>> record = Record(id="fr-1", group="fr", prompt=ask, response="Lyon", polarity="negative")
    >>> row = next(to_trl([record], "unpaired", lost=Counter()))
    >>> row["completion"], row["label"]
    ([{'role': 'assistant', 'content': 'Lyon'}], False)
    >>> list(from_trl([row], "unpaired", lost=Counter())) == [record]
    True
    """
    _check_format(format)
    if format == "preference":
        return _to_preference(records, lost, conversational)
    return _to_rows(records, format, lost, conversational)


def from_trl(
    rows: Iterable[Mapping[str, Any]], format: TrlFormat | None = None, *, lost: Counter[str], source: str = ""
) -> Iterator[Record]:
    """Records for TRL's rows, as a stream; the format is the first row's unless given, and prompts may be text or messages.

    A preference row without a prompt shares the common beginning of both sides. Of a stepwise row each step is a span, joined
    by newlines (TRL's own separator); its record is positive where every step is.

    Arguments:
        lost: counts, by reason, the responses that no record can express, and foreign repeats; complete when the stream is.
        source: what to write into foreign records.

    Memory: about 100 bytes for each distinct response, to recognise repeats.

    Raises:
        RecordError: a missing column, a value of the wrong type, or a `distill_` column that tells of another text.
    """
    if format is not None:
        _check_format(format)
    return _from_rows(rows, format, lost, source)


# --- records to rows


def _to_rows(records: Iterable[Record], format: TrlFormat, lost: Counter[str], conversational: bool) -> Iterator[dict[str, Any]]:
    for record in records:
        try:
            yield _row(record, format, conversational)
        except _Inexpressible as reason:
            lost[str(reason)] += 1


def _row(record: Record, format: TrlFormat, conversational: bool) -> dict[str, Any]:
    prompt, start = _without_start(record.prompt)
    if format == "stepwise":
        spans = record.spans or (Span(start=0, end=len(record.response), polarity=record.polarity),)
        steps = _steps(record.response, spans)
        return {
            "prompt": _prompt_column(prompt, conversational=False),
            "completions": [start + steps[0], *steps[1:]],
            "labels": [span.polarity == "positive" for span in spans],
            KEPT: _kept(record, start, response=record.response, polarity=record.polarity),
        }
    if format == "unpaired":
        columns = {"completion": _answer(start + record.response, conversational), "label": record.polarity == "positive"}
        return {"prompt": _prompt_column(prompt, conversational), **columns, KEPT: _kept(record, start)}
    if record.polarity == "negative":
        raise _Inexpressible(f"a negative response has no place in {format} rows")
    if format == "messages":
        messages = [*_prompt_column(prompt, True), *_answer(start + record.response, True)]
        return {"messages": messages, KEPT: _kept(record, start)}
    completion = _answer(start + record.response, conversational)
    return {"prompt": _prompt_column(prompt, conversational), "completion": completion, KEPT: _kept(record, start)}


def _to_preference(records: Iterable[Record], lost: Counter[str], conversational: bool) -> Iterator[dict[str, Any]]:
    done: set[bytes] = set()
    for group, members in groupby(records, key=lambda record: record.group):
        mark = _mark(group)
        if mark in done:
            raise RecordError(
                f"group {group!r} comes back after other groups, and its pairs would be incomplete; sort the records first: "
                "sorted(records, key=lambda record: record.group)"
            )
        done.add(mark)
        by_prompt: dict[Prompt, dict[str, list[tuple[int, Record]]]] = {}
        for place, record in enumerate(members):
            by_prompt.setdefault(record.prompt, {"positive": [], "negative": []})[record.polarity].append((place, record))
        for full_prompt, sides in by_prompt.items():
            positives, negatives = sides["positive"], sides["negative"]
            if not positives or not negatives:
                missing = "negative" if positives else "positive"
                lost[f"no {missing} response to the same prompt in its group"] += len(positives) + len(negatives)
                continue
            prompt, start = _without_start(full_prompt)
            try:
                column = _prompt_column(prompt, conversational)
            except _Inexpressible as reason:
                lost[str(reason)] += len(positives) + len(negatives)
                continue
            for n in range(max(len(positives), len(negatives))):
                (first, chosen), (second, rejected) = positives[n % len(positives)], negatives[n % len(negatives)]
                yield {
                    "prompt": column,
                    "chosen": _answer(start + chosen.response, conversational),
                    "rejected": _answer(start + rejected.response, conversational),
                    KEPT_CHOSEN: _kept(chosen, start, place=first),
                    KEPT_REJECTED: _kept(rejected, start, place=second),
                }


def _without_start(prompt: Prompt) -> tuple[Prompt, str]:
    """A prompt without the started answer it may end in, and that start."""
    return (prompt[:-1], prompt[-1].content) if prompt[-1].role == "assistant" else (prompt, "")


def _prompt_column(prompt: Prompt, conversational: bool) -> Any:
    if not prompt:
        raise _Inexpressible("a prompt of nothing but a started answer")
    if conversational:
        if prompt[-1].role not in ("user", "tool"):
            raise _Inexpressible(f"a prompt that ends with the {prompt[-1].role} (TRL wants a user or a tool)")
        return [{"role": message.role, "content": message.content} for message in prompt]
    if len(prompt) > 1 or prompt[0].role != "user":
        raise _Inexpressible("a prompt that is not one user message cannot be plain text")
    return prompt[0].content


def _answer(text: str, conversational: bool) -> Any:
    return [{"role": "assistant", "content": text}] if conversational else text


def _steps(response: str, spans: Sequence[Span]) -> list[str]:
    places = [0, *(place for span in spans for place in (span.start, span.end)), len(response)]
    between = [response[start:end] for start, end in zip(places[::2], places[1::2], strict=True)]
    if any(gap.strip() for gap in between):
        raise _Inexpressible("text outside its spans belongs to no step")
    return [response[span.start : span.end] for span in spans]


def _kept(record: Record, start: str, **more: Any) -> str:
    """What TRL's columns cannot say of a record, as JSON text; `check` recognises a row whose text was changed since."""
    kept = {name: value for name, value in record_to_json(record).items() if name not in ("prompt", "response", "polarity")}
    return json.dumps({**kept, "start": len(start), **more, "check": _check(record)}, ensure_ascii=False, separators=(",", ":"))


def _check(record: Record) -> str:
    return make_id(record.group, record.polarity, record.prompt, record.response, spans=record.spans, source=record.source)


# --- rows to records


def _from_rows(rows: Iterable[Mapping[str, Any]], format: TrlFormat | None, lost: Counter[str], source: str) -> Iterator[Record]:
    reader = _Reader(lost, source)
    waiting: list[tuple[int, Record]] = []  # of one group's pairs: (place in the group, record)
    for number, row in enumerate(rows, start=1):
        format = format or _format_of(row, number)
        try:
            found = reader.read(row, format)
        except RecordError as error:
            raise RecordError(f"row {number}: {error}") from None
        if waiting and any(record.group != waiting[0][1].group for _, record in found):
            yield from _in_order(waiting)
        if format == "preference" and found:
            waiting.extend(found)
        else:
            yield from (record for _, record in found)
    yield from _in_order(waiting)


def _in_order(waiting: list[tuple[int, Record]]) -> Iterator[Record]:
    yield from (record for _, record in sorted(waiting, key=lambda found: found[0]))
    waiting.clear()


class _Reader:
    """Reads rows one by one, and remembers what it has given out."""

    def __init__(self, lost: Counter[str], source: str) -> None:
        self._lost, self._source = lost, source
        self._given: set[bytes] = set()

    def read(self, row: Mapping[str, Any], format: TrlFormat) -> list[tuple[int, Record]]:
        """The new records of one row, each with its place in its group where the row says it."""
        if format == "preference":
            return self._pair(row)
        try:
            if format == "stepwise":
                return self._new(*_from_steps(row, self._source), of_pair=False)
            if format == "messages":
                messages = _messages(_column(row, "messages"), "messages")
                prompt, response = messages[:-1], _only_answer(messages[-1:])
                polarity: Polarity = "positive"
            else:
                prompt, response = _prompt(row), _response(row, "completion")
                polarity = _polarity(row) if format == "unpaired" else "positive"
            return self._new(*_from_kept_or_foreign(row, KEPT, prompt, response, polarity, self._source), of_pair=False)
        except _Inexpressible as reason:
            self._lost[str(reason)] += 1
            return []

    def _pair(self, row: Mapping[str, Any]) -> list[tuple[int, Record]]:
        try:
            row = row if row.get("prompt") is not None else _with_prompt(row)
            prompt = _prompt(row)
            if KEPT_CHOSEN not in row and _column(row, "chosen") == _column(row, "rejected"):
                raise _Inexpressible("chosen and rejected are the same")
        except _Inexpressible as reason:
            self._lost[str(reason)] += 2
            return []
        found: list[tuple[int, Record]] = []
        for name, kept, polarity in _SIDES:
            try:
                response = _response(row, name)
                found += self._new(*_from_kept_or_foreign(row, kept, prompt, response, polarity, self._source), of_pair=True)
            except _Inexpressible as reason:
                self._lost[str(reason)] += 1
        return found

    def _new(self, record: Record, place: int | None, *, of_pair: bool) -> list[tuple[int, Record]]:
        """The record, unless it was given out before; only what to_trl itself repeated, to make pairs, is not counted as lost."""
        mark = _mark(record.id)
        if mark not in self._given:
            self._given.add(mark)
            return [(place or 0, record)]
        if place is None or not of_pair:
            self._lost["the same response to the same prompt, once more"] += 1
        return []


def _from_kept_or_foreign(
    row: Mapping[str, Any], column: str, prompt: Prompt, response: str, polarity: Polarity, source: str
) -> tuple[Record, int | None]:
    """One record and its place in its group (None for a foreign row)."""
    if not response:
        raise _Inexpressible("an empty response")
    kept = _kept_of(row, column)
    if kept is None:
        group = make_group(prompt)
        name = make_id(group, polarity, prompt, response, source=source)
        return Record(id=name, group=group, prompt=prompt, response=response, polarity=polarity, source=source), None
    start = kept.pop("start")
    if start:
        prompt, response = (*prompt, Message(role="assistant", content=response[:start])), response[start:]
    return _restored(kept, column, prompt, response, polarity)


def _from_steps(row: Mapping[str, Any], source: str) -> tuple[Record, int | None]:
    prompt, steps, labels = _prompt(row), _column(row, "completions"), _column(row, "labels")
    for name, value, kind in (("completions", steps, str), ("labels", labels, bool)):
        if not isinstance(value, (list, tuple)) or any(not isinstance(item, kind) for item in value):
            raise RecordError(f"{name}: got {value!r:.60}, expected a list of {kind.__name__}")
    if len(steps) != len(labels):
        raise RecordError(f"labels: got {len(labels)} for {len(steps)} completions, expected one for each step")
    kept = _kept_of(row, KEPT)
    if kept is not None:
        start, response, polarity = kept.pop("start"), kept.pop("response", ""), kept.pop("polarity", None)
        if start:
            prompt = (*prompt, Message(role="assistant", content="".join(steps[:1])[:start]))
        record, place = _restored(kept, KEPT, prompt, response, polarity)
        written = _row(record, "stepwise", conversational=False)
        if (written["completions"], written["labels"]) != (list(steps), list(labels)):
            raise RecordError(_CHANGED.format(KEPT))
        return record, place
    if not steps or any(not step for step in steps):
        raise _Inexpressible("an empty step" if steps else "an empty response")
    spans, place = [], 0
    for step, label in zip(steps, labels, strict=True):
        spans.append(Span(start=place, end=place + len(step), polarity="positive" if label else "negative"))
        place += len(step) + 1
    response, group = "\n".join(steps), make_group(prompt)
    whole: Polarity = "positive" if all(labels) else "negative"
    name = make_id(group, whole, prompt, response, spans=spans, source=source)
    return Record(id=name, group=group, prompt=prompt, response=response, polarity=whole, spans=tuple(spans), source=source), None


_SIDES: tuple[tuple[str, str, Polarity], ...] = (
    ("chosen", KEPT_CHOSEN, "positive"),
    ("rejected", KEPT_REJECTED, "negative"),
)
_REMOVE = "remove the distill_ columns to convert the row as it stands"
_CHANGED = f"{{}}: tells of another text than the row holds; {_REMOVE}"


def _kept_of(row: Mapping[str, Any], column: str) -> dict[str, Any] | None:
    """The content of a distill_ column; None where the row is foreign."""
    text = row.get(column)
    if text is None:
        return None
    try:
        kept = json.loads(text)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{column}: not JSON text ({error}); {_REMOVE}") from None
    whole = isinstance(kept, dict) and type(kept.get("start")) is type(kept.get("place", 0)) is int
    if not whole or not isinstance(kept.get("check"), str):
        raise RecordError(f"{column}: not written by to_trl; {_REMOVE}")
    return kept


def _restored(kept: dict[str, Any], column: str, prompt: Prompt, response: str, polarity: Any) -> tuple[Record, int]:
    check, place = kept.pop("check"), kept.pop("place", 0)
    turns = [{"role": message.role, "content": message.content} for message in prompt]
    record = record_from_json({**kept, "prompt": turns, "response": response, "polarity": polarity}, column)
    if _check(record) != check:
        raise RecordError(_CHANGED.format(column))
    return record, place


# --- columns


def _format_of(row: Mapping[str, Any], number: int) -> TrlFormat:
    names = {name for name, value in row.items() if value is not None}
    if "messages" in names:
        return "messages"
    if "completions" in names:
        return "stepwise"
    if {"chosen", "rejected"} <= names:
        return "preference"
    if "completion" in names:
        return "unpaired" if "label" in names else "prompt-completion"
    raise RecordError(
        f"row {number}: columns {', '.join(sorted(names)) or '(none)'} are none of TRL's formats ({', '.join(TRL_FORMATS)}); "
        "rename the columns; rows of `text` alone have no response to train on"
    )


def _check_format(format: str) -> None:
    if format not in TRL_FORMATS:
        raise RecordError(f"format: got {format!r}, expected one of {', '.join(TRL_FORMATS)}")


def _column(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None:
        raise RecordError(f"{name}: missing, expected in every row; the row has {', '.join(row) or 'no columns'}")
    return value


def _prompt(row: Mapping[str, Any]) -> Prompt:
    value = _column(row, "prompt")
    prompt = (Message(role="user", content=value),) if isinstance(value, str) else _messages(value, "prompt")
    if not any(message.content for message in prompt):
        raise _Inexpressible("an empty prompt")
    return prompt


def _response(row: Mapping[str, Any], name: str) -> str:
    value = _column(row, name)
    return value if isinstance(value, str) else _only_answer(_messages(value, name))


def _only_answer(messages: Prompt) -> str:
    if len(messages) != 1:
        raise _Inexpressible("a response of several messages" if messages else "an empty response")
    if messages[0].role != "assistant":
        raise _Inexpressible(f"a response by the {messages[0].role}, not the assistant")
    return messages[0].content


def _messages(value: object, name: str) -> Prompt:
    if not isinstance(value, (list, tuple)):
        raise RecordError(f"{name}: got {value!r:.60}, expected text or a list of messages")
    messages = []
    for n, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise RecordError(f"{name}[{n}]: got {message!r:.60}, expected a message with role and content")
        filled = {key: part for key, part in message.items() if part is not None and part != []}
        extra = sorted(filled.keys() - {"role", "content"})
        if extra:
            raise _Inexpressible(f"a message with {extra[0]}")
        if filled.get("role") not in ROLES:
            raise _Inexpressible(f"a message with the role {filled.get('role')!r}")
        if not isinstance(filled.get("content"), str):
            raise _Inexpressible("a message whose content is not text")
        messages.append(Message(role=filled["role"], content=filled["content"]))
    return tuple(messages)


def _polarity(row: Mapping[str, Any]) -> Polarity:
    label = _column(row, "label")
    if not isinstance(label, bool):
        raise RecordError(f"label: got {label!r:.60}, expected true or false; say which of its values is the good one")
    return "positive" if label else "negative"


def _with_prompt(row: Mapping[str, Any]) -> dict[str, Any]:
    """A preference row with the prompt that both sides begin with; a space before the first difference belongs to the sides."""
    chosen, rejected = _column(row, "chosen"), _column(row, "rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(chosen, str) and shared and chosen[shared - 1] == " ":
        shared -= 1
    if not shared:
        raise _Inexpressible("no prompt: chosen and rejected begin differently")
    return {**row, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _mark(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
