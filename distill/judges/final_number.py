"""The number that a worked answer ends with, and the judge that compares it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from distill.consensus.normalisation import short_answer
from distill.consensus.numbers import read_number
from distill.judges.accepted import NO_REFERENCE
from distill.judges.base import Judge, Verdict
from distill.judges.expressions import numbers_in
from distill.records import Prompt

NO_NUMBER = "no number found"
# What announces an answer, strongest first; of several, the last counts: a solution may try twice.
_ANNOUNCED = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"####\s*([^\n]+)",
        r"\\boxed\{([^{}]+)\}",
        r"^\s*(?:A|Answer|Final answer)\s*[:=]\s*([^\n]+)",
        r"\b(?:the|final) answer(?: is|:| =)\s*:?\s*((?:(?!the answer)[^\n])+)",
    )
)


@dataclass(frozen=True, kw_only=True)
class FinalNumber(Judge):
    """Approves a worked answer whose final number is that of an accepted answer; abstains where either has no number.

    relative_tolerance: largest |a - b| / max(|a|, |b|); the default only forgives the rounding of floats.
    """

    relative_tolerance: float = 1e-6

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Compare the final numbers; an accepted answer may be a worked answer too.

        >>> FinalNumber().judge((), "3 x 4 = 12, so she pays $12.00.", ("#### 12",)).approved
        True
        """
        if not reference:
            return Verdict(approved=None, reason=NO_REFERENCE)
        accepted = [value for answer in reference if (value := final_number(answer)) is not None]
        found = final_number(response)
        evidence = {"number": found, "accepted": accepted}
        if found is None or not accepted:
            return Verdict(approved=None, confidence=0.0, reason=NO_NUMBER, evidence=evidence)
        same = any(math.isclose(found, value, rel_tol=self.relative_tolerance, abs_tol=1e-12) for value in accepted)
        return Verdict(
            approved=same, reason="ends with the accepted number" if same else "ends with another number", evidence=evidence
        )


def final_number(text: str) -> float | None:
    """The number after "####", in a box, after "A:" or "the answer is"; where nothing announces it, the last of the text.

    Percent signs and units are left out of account ("50 %" and "50 apples" are 50): the question says what is counted.

    >>> final_number("The answer is 1,200 apples, 3 each."), final_number("So 3 + 4 = 7."), final_number("None.")
    (1200.0, 7.0, None)
    """
    for announced in _ANNOUNCED:
        for found in reversed(announced.findall(text)):
            if numbers := numbers_in(found):
                # "3 + 4 = 7" ends with what it computes; "7 apples for 3 people" begins with it.
                return numbers[-1] if "=" in found else numbers[0]
            if (word := read_number(short_answer(found))) is not None:  # "The answer is twelve."
                return word[0]
    if numbers := numbers_in(text):
        return numbers[-1]
    whole = read_number(short_answer(text))
    return None if whole is None else whole[0]
