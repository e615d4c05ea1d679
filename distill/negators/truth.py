"""Whether a negation is one: negation is not falsity, so the negation of a false statement has to be true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distill.judges.base import Judge
from distill.negators.base import Negation, Negator
from distill.records import Prompt


def check_negation(
    original_is_true: bool, negation: Negation, judge: Judge, *, prompt: Prompt = (), reference: tuple[str, ...] = ()
) -> bool | None:
    """Whether the negation has the opposite truth of its original, as the judge sees it; None where the judge abstains.

    The judge must judge truth (a fact table, a teacher asked whether a statement is correct), not a match with an answer.
    """
    verdict = judge.judge(prompt, negation.text, reference)
    return None if verdict.approved is None else verdict.approved != original_is_true


@dataclass(frozen=True, kw_only=True)
class NegatorReport:
    """How a negator did on statements of known truth. unjudged: negations that the judge abstained on; they are in no rate."""

    statements: int
    negated: int
    right: int
    wrong: int
    unjudged: int
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def coverage(self) -> float | None:
        """Share of the statements for which there was a negation."""
        return self.negated / self.statements if self.statements else None

    @property
    def precision(self) -> float | None:
        """Share of the judged negations whose truth is the opposite of the original's."""
        judged = self.right + self.wrong
        return self.right / judged if judged else None


def measure_negator(
    negator: Negator, statements: Iterable[tuple[str, bool]], judge: Judge, *, seed: int = 0, examples: int = 10
) -> NegatorReport:
    """Precision and coverage of a negator's best negation on (statement, is it true) pairs.

    examples: how many (statement, wrong or unjudged negation) to keep.
    """
    counts = {True: 0, False: 0, None: 0}
    total = 0
    kept: list[tuple[str, str]] = []
    for statement, is_true in statements:
        total += 1
        negations = negator.negate((), statement, seed)
        if not negations:
            continue
        found = check_negation(is_true, negations[0], judge)
        counts[found] += 1
        if not found and len(kept) < examples:
            kept.append((statement, negations[0].text))
    return NegatorReport(
        statements=total,
        negated=sum(counts.values()),
        right=counts[True],
        wrong=counts[False],
        unjudged=counts[None],
        examples=tuple(kept),
    )
