"""Judges that compare with accepted answers: by the letter, or by an equivalence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.consensus.abstention import is_abstention
from distill.consensus.base import Equivalence
from distill.consensus.equivalence import NormalisedMatch
from distill.consensus.normalisation import short_answer
from distill.judges.base import Judge, Verdict
from distill.records import Prompt

NO_REFERENCE = "no accepted answer is known"


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Judge):
    """Approves a response that is one of the accepted answers to the letter, white space around it aside.

    For content where every character counts: code, formulas, spelling. Abstains where no answer is given.
    """

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Compare with each accepted answer.

        >>> ExactMatch().judge((), " Fe", ("Fe",)).approved, ExactMatch().judge((), "fe", ("Fe",)).approved
        (True, False)
        """
        if not reference:
            return Verdict(approved=None, reason=NO_REFERENCE)
        found = response.strip() in {answer.strip() for answer in reference}
        return Verdict(approved=found, reason="equals an accepted answer" if found else "equals no accepted answer")


@dataclass(frozen=True, kw_only=True)
class AcceptedAnswer(Judge):
    """Approves a response that says the same as one of the accepted answers, by an equivalence (aliases, numbers, ...).

    extract: "short" compares the first sentence (`short_answer`), "whole" the whole response. A response that declines to answer
    is rejected with the reason "abstention": whether that was wise is for the evaluation, not for this judge.
    """

    equivalence: Equivalence = field(default_factory=NormalisedMatch)
    extract: Literal["short", "whole"] = "short"

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Compare with each accepted answer; evidence holds the one that matched.

        >>> AcceptedAnswer().judge((), "The Hague. It lies ...", ("Amsterdam", "Hague")).evidence["matched"]
        'Hague'
        """
        if not reference:
            return Verdict(approved=None, reason=NO_REFERENCE)
        answer = short_answer(response) if self.extract == "short" else response.strip()
        if is_abstention(answer):
            return Verdict(approved=False, reason="abstention", evidence={"answer": answer})
        self.equivalence.prepare((answer, *reference))
        matched = next((accepted for accepted in reference if answer and self.equivalence.same(answer, accepted)), None)
        reason = "says the same as no accepted answer" if matched is None else "says the same as an accepted answer"
        return Verdict(approved=matched is not None, reason=reason, evidence={"answer": answer, "matched": matched})
