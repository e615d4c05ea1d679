"""What a judge is: a prompt and a response in, a verdict with its own words out; silence is not a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.records import Prompt


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """approved is None where the judge abstained (an unparsable reply included): count it, never guess it.

    confidence: in [0, 1], the judge's own; 1.0 for symbolic judges. reason: the judge's own words or rule.
    """

    approved: bool | None
    confidence: float = 1.0
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Judge(ABC):
    """Tells good responses from bad ones."""

    @abstractmethod
    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Judge one response; `reference` holds the accepted answers where they are known."""

    def judge_many(
        self, prompts: Sequence[Prompt], responses: Sequence[str], references: Sequence[tuple[str, ...]] = ()
    ) -> list[Verdict]:
        """One verdict for each response, in order; references may be left out altogether. One by one, unless a judge batches."""
        accepted = references or [()] * len(responses)
        return [self.judge(*one) for one in zip(prompts, responses, accepted, strict=True)]
