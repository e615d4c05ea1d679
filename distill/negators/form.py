"""Whether a text that a model wrote has the form of a negation: a small change, with another number of negating words."""

from __future__ import annotations

import re

from distill.consensus.abstention import is_abstention
from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.negators.base import Negation
from distill.negators.changes import changed_spans

MARKERS = (
    *("not", "no", "never", "cannot", "nobody", "nothing", "none", "without", "neither"),
    *("לא", "אינו", "אינה", "אינם", "אינן", "אין"),
)


def check_form_settings(max_longer: int, max_changed: float) -> None:
    """Refuse settings under which nothing, or anything, would have the form of a negation."""
    if not 0 < max_changed <= 1:
        raise ConfigError(f"max_changed {max_changed} must be in (0, 1]")
    if max_longer < 0:
        raise ConfigError(f"max_longer {max_longer} must be at least 0 words")


def as_negation(
    statement: str,
    reply: str,
    *,
    max_longer: int,
    max_changed: float,
    markers: tuple[str, ...],
) -> Negation | None:
    """The reply as a negation of the statement, in the statement's own outer white space; None where it is refused.

    Refused: blank, the same as the statement after `normalise`, an abstention, more than max_longer words longer or with more
    than max_changed of its words changed (0 to 1), which is a rewrite; with as many of the negating words `markers` as before
    (() for languages without such words). This sees form only, never truth.

    >>> settings = {"max_longer": 4, "max_changed": 0.5, "markers": MARKERS}
    >>> as_negation(" Iron is a metal.", "Iron is not a metal.", **settings).text
    ' Iron is not a metal.'
    >>> as_negation("Iron is a metal.", "Tin is a metal.", **settings) is None
    True
    """
    body, reply = statement.strip(), reply.strip()
    if not reply or normalise(reply) == normalise(body) or is_abstention(reply):
        return None
    if len(reply.split()) > len(body.split()) + max_longer:
        return None
    if markers and _negations(reply, markers) == _negations(body, markers):
        return None  # small models change the subject, or repeat the statement with a preface
    text = statement[: len(statement) - len(statement.lstrip())] + reply
    spans = changed_spans(statement, text)
    changed = sum(len(text[span.start : span.end].split()) for span in spans)
    return Negation(text=text, spans=spans) if changed <= max_changed * len(text.split()) else None


def is_denial(text: str) -> bool:
    """Whether a text has a negating word. Another name or number makes no such text false: neither Oslo nor Rome is in Peru.

    >>> is_denial("Oslo isn't in Peru."), is_denial("Oslo is in Norway.")
    (True, False)
    """
    return _negations(text, MARKERS) > 0


def _negations(text: str, markers: tuple[str, ...]) -> int:
    """How many negating words the text has; "isn't" counts."""
    words = re.findall(r"[\w']+", text.casefold().replace("’", "'"))
    return sum(word in markers or word.endswith("n't") for word in words)
