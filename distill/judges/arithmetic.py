"""The step verifier: computes each equation of a worked answer, and marks the right and the wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.judges.base import Judge, Verdict
from distill.judges.equations import find_equations
from distill.judges.final_number import FinalNumber
from distill.records import Prompt, Span

NO_EQUATION = "no equation found"


@dataclass(frozen=True, kw_only=True)
class ArithmeticJudge(Judge):
    """Approves a response whose equations are all right, rejects one with a wrong equation, abstains where there is none.

    It computes; it does not know whether a step is the one that was needed. final: "ignore", or "reference": where accepted
    answers are given, the final number must be one of theirs too, and decides where there is no equation.

    Each equation is a span, positive or negative. See `find_equations` for what is read as one: + - x × * ÷ / ^ % $, brackets,
    fractions, separators of thousands, chains, units between, GSM8K's <<48/2=24>>.
    """

    final: Literal["ignore", "reference"] = "ignore"

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Verify the steps; evidence holds each with what it is said to be and what it is.

        >>> verdict = ArithmeticJudge().judge((), "6 x 4 = 24 eggs, 24 - 3 = 20 are left.")
        >>> verdict.approved, [(span.start, span.end, span.polarity) for span in verdict.spans]
        (False, [(0, 10, 'positive'), (17, 28, 'negative')])
        """
        found = find_equations(response)
        steps = [
            {"text": response[one.start : one.end], "computed": one.computed, "stated": one.stated, "right": one.right}
            for one in found
        ]
        spans = tuple(Span(start=one.start, end=one.end, polarity="positive" if one.right else "negative") for one in found)
        evidence: dict[str, object] = {"steps": steps}
        wrong = next((one for one in found if not one.right), None)
        right: bool | None = wrong is None if found else None
        reason = NO_EQUATION if not found else "all equations are right"
        if wrong is not None:
            reason = f"{response[wrong.start : wrong.end]} is wrong: {wrong.computed}, not {wrong.stated}"
        if self.final == "reference" and reference and right is not False:
            ends = FinalNumber().judge(prompt, response, reference)
            evidence["final"] = dict(ends.evidence)
            if ends.approved is not None:
                right, reason = ends.approved, f"{reason}; {ends.reason}"
        return Verdict(approved=right, reason=reason, evidence=evidence, spans=spans)
