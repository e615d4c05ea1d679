"""Random valid records for property tests, with the scripts and code points that break careless text handling."""

from __future__ import annotations

from hypothesis import strategies as st

from distill.records import Message, Record, Span

SCRIPTS = ("שלום", "مرحبا", "e\u0301", "👩‍👩‍👧", "🇮🇱", "𝔘")
AWKWARD = (*SCRIPTS, "\u2028", "\u0085", "\x00", "\u200f", "\ufeff", "\\", '"', "\n", "\r\n", "\t")
characters = st.characters(exclude_categories=("Cs",))
texts = st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(characters, max_size=4)), max_size=5).map("".join)
full_texts = texts.filter(bool)
finite = st.floats(allow_nan=False, allow_infinity=False)
weights = st.one_of(st.sampled_from([0.0, 1.0, 0.1]), finite.map(abs), st.integers(0, 9))
polarities = st.sampled_from(["positive", "negative"])
messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=full_texts)
prompts = st.lists(messages, min_size=1, max_size=3).map(tuple)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), finite, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def spans_of(draw: st.DrawFn, length: int) -> tuple[Span, ...]:
    """Some stretches of a response that do not overlap."""
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=6)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return tuple(Span(start=a, end=b, polarity=draw(polarities), weight=draw(weights)) for a, b in pairs)


@st.composite
def records(draw: st.DrawFn, prompt: st.SearchStrategy[tuple[Message, ...]] = prompts) -> Record:
    """A valid record; its id may be any text."""
    response = draw(full_texts)
    return Record(
        id=draw(full_texts),
        group=draw(st.sampled_from(["g1", "g2", "קבוצה"])),
        prompt=draw(prompt),
        response=response,
        polarity=draw(polarities),
        weight=draw(weights),
        spans=draw(spans_of(len(response))),
        source=draw(texts),
        evidence=draw(st.dictionaries(texts, json_values, max_size=3)),
    )


def record_lists(prompt: st.SearchStrategy[tuple[Message, ...]] = prompts) -> st.SearchStrategy[list[Record]]:
    """One to six records with ids of their own."""
    return st.lists(records(prompt), min_size=1, max_size=6, unique_by=lambda record: record.id)


def a_record(number: int = 1, **changes: object) -> Record:
    """One small record; two numbers make one group: a positive and a negative of one question."""
    fields: dict[str, object] = {
        "id": f"r{number}",
        "group": f"g{(number + 1) // 2}",
        "prompt": (Message(role="user", content=f"What is the capital of land {(number + 1) // 2}?"),),
        "response": f"City {number}",
        "polarity": "positive" if number % 2 else "negative",
    }
    return Record(**{**fields, **changes})  # type: ignore[arg-type]
