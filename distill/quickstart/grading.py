"""What counts as a right answer to one of the facts, as a model words it."""

from __future__ import annotations

import re

from distill.recipes.facts import Fact, simplify

_REGIONAL = (
    "cfa",
    "west african cfa",
    "central african cfa",
    "west african",
    "central african",
    "east caribbean",
    "cfp",
    "new",
    "oro",
    "soberano",
)


def short_answer(text: str) -> str:
    """The fact at the start of a continuation: up to the first end of sentence, clause or line.

    >>> short_answer(" the real, also known as BRL. It")
    ' the real'
    >>> short_answer(" Washington, D.C.")
    ' Washington'
    """
    return re.split(r"[\n,;:(]|(?<!\bSt)\.(?=\s|$)| which | also | and is | or ", text, maxsplit=1)[0].rstrip(" .\"'*")


def accepts(fact: Fact, answer: str) -> bool:
    """Whether the answer (short or a sentence's end) is right.

    The accepted name must stand in the answer as whole words, with nothing beside it but words that say whose or what it is:
    `Brazilian real` is right for Brazil, `US dollar` is wrong for Canada, `Guinea` is not `Guinea-Bissau`.
    """
    given = simplify(answer)
    if fact.topic == "symbol":
        return answer.strip(" .\"'*`()") in fact.accepted
    if fact.topic == "atomic_number":
        found = re.match(r"\D*?(\d+)(?![\d.]*\d)", answer)
        return found is not None and found.group(1) in fact.accepted
    return any(_same_name(fact, given, simplify(name)) for name in fact.accepted)


def tidy(fact: Fact, text: str) -> str:
    """A sampled answer as the fact alone: no further clause, and for currencies not what the question already said.

    For Brazil ` Brazilian real which is` is ` real`.
    """
    short = short_answer(text)
    if fact.topic != "currency":
        return short
    entity = [*simplify(fact.entity).split(), *(w for phrase in fact.adjectives for w in simplify(phrase).split())]
    words = short.split()
    kept = [w for w in words if not any(_same_stem(simplify(w), e) for e in entity)]
    return " " + " ".join(kept or words)


_FILLER = frozenset(
    (
        "the",
        "city",
        "of",
        "town",
        "continent",
        "country",
        "currency",
        "island",
        "islands",
        "region",
        "republic",
        "official",
        "called",
    )
)
_DIRECTION = frozenset(
    (
        "northern",
        "southern",
        "eastern",
        "western",
        "central",
        "north",
        "south",
        "east",
        "west",
        "southeast",
        "latin",
        "sub",
        "saharan",
    )
)


def _same_name(fact: Fact, given: str, name: str) -> bool:
    found = re.search(rf"(?:^|\s){re.escape(name)}s?(?:\s|$)", given)
    if not name or not found:
        return False
    rest = (given[: found.start()] + " " + given[found.end() :]).split()
    allowed = (
        {w for phrase in (*fact.adjectives, *_REGIONAL) for w in simplify(phrase).split()} if fact.topic == "currency" else set()
    )
    if fact.topic == "continent":
        allowed |= _DIRECTION
    entity = simplify(fact.entity).split()
    return all(w in _FILLER or w in allowed or any(_same_stem(w, e) for e in entity) for w in rest)


def _same_stem(word: str, entity_word: str) -> bool:
    """`brazilian` ~ `brazil`, `thai` ~ `thailand`: a shared beginning of four letters, or of the whole shorter word."""
    shared = min(len(word), len(entity_word), 4)
    return shared >= 3 and word[:shared] == entity_word[:shared]
