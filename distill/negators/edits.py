"""Whether two English texts differ by one plain negation: the grammar of a "not", checked in both directions."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

from distill.negators.form import MARKERS, is_denial
from distill.negators.verbs import AUXILIARIES, CONTRACTED, PAST, past, third_person

_PIECES = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_DO = frozenset(("do", "does", "did"))
# Ends that no base has, though its forms, made by the rules for endings alone, would be words: occupie, hous, crosse, starr.
# A few real ones (purr, add, finesse) are refused with them.
_MISSPELT = re.compile(r"(?:..ie|(?:[^su]|ou)s|(?:ss|x|sh|zz)e|([bdgmnprt])\1)$")
# "not" before these denies them alone, and leaves the statement standing.
_FOCUS = frozenset(("only", "just", "even", "some", "merely", "simply"))


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
    if not edits or (is_denial(old) and is_denial(new)):
        return False  # "has no bones" is not denied by "does not have no bones"
    # One stretch: "has" -> "does not have" may come as two edits with a common word between them.
    start, end, new_start, new_end = edits[0][1], edits[-1][2], edits[0][3], edits[-1][4]
    one, other = before[start:end], after[new_start:new_end]
    lead = before[start - 1].casefold() if start else ""
    following = before[end] if end < len(before) else ""
    if following in _FOCUS or (following and following.casefold() in MARKERS):
        return False
    return start > 0 and (_denies(one, other, lead, following) or _denies(other, one, lead, following))


def _denies(old: list[str], new: list[str], lead: str, following: str) -> bool:
    """Whether the stretch `new` denies the stretch `old`; lead and following: the words around both."""
    if not old:
        if new == ["not"]:
            return lead in AUXILIARIES and lead not in _DO  # "does lie" is no plain affirmation
        return new in (["do", "not"], ["don't"]) and lead not in AUXILIARIES and _may_be_base(following)
    if len(old) > 1 or not new:
        return False
    verb = old[0]
    if len(new) == 1:
        return verb in AUXILIARIES and CONTRACTED.get(new[0]) == verb
    form, base = CONTRACTED.get(new[0], new[0] if new[1:2] == ["not"] else ""), new[-1]
    if len(new) != (2 if new[0] in CONTRACTED else 3):
        return False
    return base.isalpha() and form == _is_form(verb, base)


def _may_be_base(word: str) -> bool:
    """Whether "do not" may stand before the word: no third person and no past."""
    return word.isalpha() and word not in PAST and re.search(r"(?:[^s]s|ed)$", word) is None


def _is_form(verb: str, base: str) -> Literal["does", "did"] | None:
    """Which auxiliary a verb's form needs before its base; None where they are no forms of one verb, or the base is misspelt."""
    if _MISSPELT.search(base) or len(base) < 3 and base not in ("do", "go"):
        return None
    if verb == third_person(base):
        return "does"
    return "did" if verb in (past(base), base + base[-1] + "ed") else None
