"""Whether two English texts differ by one plain negation: the grammar of a "not", checked in both directions."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from distill.negators.verbs import AUXILIARIES, CONTRACTED, past, third_person

_PIECES = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SAME_START = 2  # letters that an irregular past shares with its base at least: strove, strive


def is_plain_negation(old: str, new: str) -> bool:
    """Whether `new` is `old` with one verb denied, or its denial taken back, and every other word and mark as it was.

    A denial: "not" behind an auxiliary (or its contraction), "do not", "does not" or "did not" before the base of a verb, in
    the verb's own tense and number. Which verb it is, and so whether the truth is turned round, is not seen.

    >>> is_plain_negation("The Danube traverses Bratislava.", "The Danube does not traverse Bratislava.")
    True
    >>> is_plain_negation("The Danube traverses Bratislava.", "The Danube did not traverse Bratislava.")
    False
    >>> is_plain_negation("Lyon isn't the capital.", "Lyon is the capital.")
    True
    """
    before, after = ([piece.replace("’", "'") for piece in _PIECES.findall(text)] for text in (old, new))
    edits = [one for one in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if one[0] != "equal"]
    if not edits:
        return False
    # One stretch: "has" -> "does not have" may come as two edits with a common word between them.
    start, end, new_start, new_end = edits[0][1], edits[-1][2], edits[0][3], edits[-1][4]
    one, other = before[start:end], after[new_start:new_end]
    lead = before[start - 1].casefold() if start else ""
    following = before[end] if end < len(before) else ""
    return start > 0 and (_denies(one, other, lead, following) or _denies(other, one, lead, following))


def _denies(old: list[str], new: list[str], lead: str, following: str) -> bool:
    """Whether the stretch `new` denies the stretch `old`; lead and following: the words around both."""
    if not old:
        if new == ["not"]:
            return lead in AUXILIARIES
        return new in (["do", "not"], ["don't"]) and following.isalpha() and lead not in AUXILIARIES
    if len(old) > 1 or not new:
        return False
    verb = old[0]
    if len(new) == 1:
        return verb in AUXILIARIES and CONTRACTED.get(new[0]) == verb
    form, base = CONTRACTED.get(new[0], new[0] if new[1:2] == ["not"] else ""), new[-1]
    if len(new) != (2 if new[0] in CONTRACTED else 3):
        return False
    if form == "does":
        return verb == third_person(base)
    return form == "did" and (verb == past(base) or _is_past(verb, base))


def _is_past(verb: str, base: str) -> bool:
    """Whether a form that `past` does not know may be the base's past: doubled letters, irregular ones."""
    if verb == base or verb.endswith("s") or not base.isalpha() or not verb.isalpha():
        return False
    if verb.endswith("ed"):
        return verb in (base + "d", base + "ed", base + base[-1] + "ed")
    return verb[:_SAME_START] == base[:_SAME_START] and abs(len(verb) - len(base)) <= 2
