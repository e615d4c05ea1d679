"""Links, dates, numbers and names weighted more, or wrapped in markers: where a mistake costs most.

    python -m data_recipes.salient_spans --prompts texts.txt --out runs/salient
    python -m data_recipes.salient_spans --records runs/qa/records --mode markers --out runs/marked

Texts become continuations: the first sentence is asked, the rest is the response. Records keep their prompt, polarity and group.
With weights every token that was trained still is, and what was found counts more; with markers the response says where such a
stretch begins and ends. The text without its markers is the text that went in, always.

Source: masking salient spans, Guu et al. 2020, "REALM" (https://arxiv.org/abs/2002.08909, section 3.4), there names and dates
found by a tagger and by rules; here they are weighted instead of masked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from distill.errors import ConfigError
from distill.recipes import Item, Lost, Run, read_questions
from distill.recipes.asking import prompt_from_json, prompt_json
from distill.recipes.salience import Found, RuleTagger, Tagger, detokenised, sentence_starts, weighted_spans, wrapped
from distill.recipes.shards import Made
from distill.records import Message, Polarity, Prompt, Record, Span, make_id, read_records

SOURCE = "salient_spans"
VERSION = 1  # of the wording and of the rules
TAGGER = RuleTagger()
ASK = "Continue this text:\n\n{}"


def build(
    *,
    run: Run,
    prompts: str | None = None,
    records: Path | None = None,
    mode: Literal["weight", "markers"] = "weight",
    weight: float = 3.0,
    tagger: Tagger = TAGGER,
    opening: str = "<|{kind}|>",
    closing: str = "<|/{kind}|>",
    detokenise: bool = False,
    limit: int | None = None,
) -> Iterator[Record]:
    """Find what is salient in each text or record, and weight it or wrap it.

    Args:
        run: Where results are kept.
        prompts: Texts, one in each row: a .txt file with one a line, .jsonl, .csv, .parquet, or example:dated_texts. Give this or
            records.
        records: A file or folder of records instead, whose responses are treated.
        mode: weight: spans with a larger weight. markers: the response itself is wrapped.
        weight: Factor of what was found, against 1 for the rest.
        tagger: What finds the stretches; RuleTagger(kinds=[link, date]) finds fewer kinds.
        opening: Marker before a stretch; {kind} is link, date, number or name.
        closing: Marker behind it.
        detokenise: Whether texts are those of WikiText, with @-@ and spaces before commas, and are first written as people do.
        limit: Only the first so many texts or records.
    """
    if (prompts is None) == (records is None):
        raise ConfigError("give either --prompts (texts) or --records (records that there are), and set the other one to null")
    if weight < 0 or (mode == "weight" and weight == 1):
        raise ConfigError(f"weight {weight}: give a factor of 0 or more that is not 1, such as 3")
    if mode == "markers" and (not opening or not closing or opening == closing):
        raise ConfigError(f"markers {opening!r} and {closing!r}: give two different ones")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}: give at least 1, or leave it out for all")
    total: int | None = None
    if prompts is not None:
        texts = read_questions(prompts)
        total = min(len(texts), limit or len(texts))
        items = (_text_item(one.id, one.prompt[-1].content, detokenise) for one in run.take(texts, limit=limit))
    else:
        assert records is not None
        there = Made(partial(read_records, records))
        items = (_record_item(record) for record in run.take(there, limit=limit))
    rows = run.map(
        "find",
        items,
        lambda batch: [_found(item.value, tagger, mode, opening, closing) for item in batch],
        key={"version": VERSION, "mode": mode, "opening": opening, "closing": closing},
        batch_size=64,
        total=total,
        keep=False,  # rules are faster than a cache; a tagger that is slow keeps its own
    )
    return _records(run, rows, mode, weight, opening, closing)


def unmarked(text: str, kinds: Iterable[str], opening: str = "<|{kind}|>", closing: str = "<|/{kind}|>") -> str:
    """The text without markers: what a student that learnt them says, as people read it.

    >>> unmarked("born in <|date|>1901<|/date|>", ["date"])
    'born in 1901'
    """
    for kind in kinds:
        text = text.replace(opening.format(kind=kind), "").replace(closing.format(kind=kind), "")
    return text


def _text_item(name: str, text: str, detokenise: bool) -> Item:
    text = detokenised(text.strip()) if detokenise else text.strip()
    starts = sentence_starts(text)
    first = starts[1] if len(starts) > 1 else len(text)
    prompt: Prompt = (Message(role="user", content=ASK.format(text[:first].rstrip())),)
    value = {"prompt": prompt_json(prompt), "response": text[first:], "polarity": "positive", "spans": [], "group": name}
    return Item(name, value)


def _record_item(record: Record) -> Item:
    spans = [asdict(span) for span in record.spans]
    value = {"prompt": prompt_json(record.prompt), "response": record.response, "polarity": record.polarity, "spans": spans}
    return Item(record.id, {**value, "group": record.group, "weight": record.weight, "evidence": dict(record.evidence)})


def _found(value: dict[str, Any], tagger: Tagger, mode: str, opening: str, closing: str) -> Any:
    """The stretches of one response as JSON, or why there is no record to make."""
    text = value["response"]
    if not text:
        return Lost("a text of one sentence")
    found = tagger.find(text)
    if mode == "markers":
        kinds = sorted({one.kind for one in found})
        if unmarked(text, kinds, opening, closing) != text:
            return Lost("a text that holds a marker itself")
        marked, _ = wrapped(text, (), found, _markers(kinds, opening, closing))
        if unmarked(marked, kinds, opening, closing) != text:
            return Lost("markers that cannot be told from the text")
    return [list(one) for one in found]


def _markers(kinds: Iterable[str], opening: str, closing: str) -> dict[str, tuple[str, str]]:
    return {kind: (opening.format(kind=kind), closing.format(kind=kind)) for kind in kinds}


def _records(run: Run, rows: Iterator[Any], mode: str, weight: float, opening: str, closing: str) -> Iterator[Record]:
    for row in rows:
        value, found = row.value, [Found(*one) for one in row.result]
        text, polarity = value["response"], value["polarity"]
        for one in found:
            run.count("stretches", one.kind)
        run.count("code points", "salient", sum(one.end - one.start for one in found))
        run.count("code points", "others", len(text) - sum(one.end - one.start for one in found))
        kinds = sorted({one.kind for one in found})
        base = tuple(Span(**span) for span in value["spans"])
        if mode == "markers":
            text, spans = wrapped(text, base, found, _markers(kinds, opening, closing))
        else:
            whole = base or (Span(start=0, end=len(text), polarity=polarity),)
            spans = weighted_spans(len(text), whole, found, dict.fromkeys(kinds, weight)) if found else base
        yield _record(value, row.id, text, polarity, spans, found)


def _record(
    value: dict[str, Any], name: str, text: str, polarity: Polarity, spans: tuple[Span, ...], found: list[Found]
) -> Record:
    prompt = prompt_from_json(value["prompt"])
    stretches = [{"start": one.start, "end": one.end, "kind": one.kind} for one in found]
    return Record(
        id=make_id(value["group"], polarity, prompt, text, spans=spans, source=f"{SOURCE}:{name}"),
        group=value["group"],
        prompt=prompt,
        response=text,
        polarity=polarity,
        weight=value.get("weight", 1.0),
        spans=spans,
        source=SOURCE,
        # Places are those of the text without markers.
        evidence={**value.get("evidence", {}), "of": name, "salient": stretches},
    )


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
