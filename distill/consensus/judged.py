"""Equivalence by asking a judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.consensus.base import Equivalence
from distill.consensus.normalisation import normalise
from distill.judges.base import Judge
from distill.records import Message


@dataclass(frozen=True, kw_only=True)
class JudgeMatch(Equivalence):
    """The same where a judge approves each answer with the other as its reference: both ways, so the order cannot matter.

    question: what the judge is told was asked. An abstaining judge (approved None) does not merge, and is counted in
    `abstained`; each pair of wordings is asked once per instance.
    """

    judge: Judge
    question: str = "Do these two answers say the same?"
    _asked: dict[tuple[str, str], bool | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def same(self, first: str, second: str) -> bool:
        """True where both directions are approved."""
        if normalise(first) == normalise(second):
            return True
        return self._approved(first, second) is True and self._approved(second, first) is True

    @property
    def abstained(self) -> int:
        """How many directed questions the judge did not answer readably."""
        return sum(approved is None for approved in self._asked.values())

    def _approved(self, response: str, reference: str) -> bool | None:
        key = (response, reference)
        if key not in self._asked:
            prompt = (Message(role="user", content=self.question),)
            self._asked[key] = self.judge.judge(prompt, response, (reference,)).approved
        return self._asked[key]
