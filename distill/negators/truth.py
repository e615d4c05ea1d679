"""Whether a negation is one: negation is not falsity, so the negation of a false statement has to be true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distill.judges.base import Judge, Verdict
from distill.negators.base import Negation, Negator
from distill.records import Prompt

_BATCH = 64  # statements that a negator and a judge are given at a time


def check_negation(
    original_is_true: bool, negation: Negation, judge: Judge, *, prompt: Prompt = (), reference: tuple[str, ...] = ()
) -> bool | None:
    """Whether the negation has the opposite truth of its original, as the judge sees it; None where the judge abstains.

    The judge must judge truth (a fact table, a teacher asked whether a statement is correct), not a match with an answer.
    """
    return is_right(original_is_true, judge.judge(prompt, negation.text, reference))


def is_right(original_is_true: bool, verdict: Verdict) -> bool | None:
    """Whether a verdict on a negation's truth is the opposite of the original's; None where the judge abstained."""
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
    def refused(self) -> int:
        """Statements for which the negator gave nothing."""
        return self.statements - self.negated

    @property
    def coverage(self) -> float | None:
        """Share of the statements for which there was a negation."""
        return self.negated / self.statements if self.statements else None

    @property
    def precision(self) -> float | None:
        """Share of the judged negations whose truth is the opposite of the original's."""
        judged = self.right + self.wrong
        return self.right / judged if judged else None

    @property
    def precision_error(self) -> float | None:
        """Standard error of the precision (binomial); 0 where all were right, or all wrong, which no sample proves."""
        judged = self.right + self.wrong
        return math.sqrt(self.right * self.wrong / judged) / judged if judged else None


def measure_negator(
    negator: Negator,
    statements: Sequence[tuple[str, bool]],
    judge: Judge,
    *,
    prompts: Sequence[Prompt] = (),
    seed: int = 0,
    examples: int = 10,
) -> NegatorReport:
    """Precision and coverage of a negator's best negation on (statement, is it true) pairs.

    prompts: the questions, one for each statement, or none at all. examples: how many (statement, wrong or unjudged negation)
    to keep.
    """
    asked = prompts or [()] * len(statements)
    counts = {True: 0, False: 0, None: 0}
    kept: list[tuple[str, str]] = []
    for at in range(0, len(statements), _BATCH):
        batch = statements[at : at + _BATCH]
        negated = negator.negate_many(asked[at : at + _BATCH], [text for text, _ in batch], seed)
        best = [(index, several[0]) for index, several in enumerate(negated) if several]
        verdicts = judge.judge_many([asked[at + index] for index, _ in best], [negation.text for _, negation in best])
        for (index, negation), verdict in zip(best, verdicts, strict=True):
            found = is_right(batch[index][1], verdict)
            counts[found] += 1
            if not found and len(kept) < examples:
                kept.append((batch[index][0], negation.text))
    return NegatorReport(
        statements=len(statements),
        negated=sum(counts.values()),
        right=counts[True],
        wrong=counts[False],
        unjudged=counts[None],
        examples=tuple(kept),
    )
