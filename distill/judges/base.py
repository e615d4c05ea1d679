"""What a judge is: a prompt and a response in, a verdict with its own words out; silence is not a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.records import Prompt, Span


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """approved is None where the judge abstained (an unparsable reply included): count it, never guess it.

    confidence: in [0, 1], the judge's own; 1.0 for symbolic judges. reason: the judge's own words or rule. spans: the stretches
    of the response that the judge told apart (a refuted claim, a wrong step), each with its polarity; empty where it judged
    the response as a whole. failed: why the judge could not be asked, if it could not: that is no abstention, and a recipe
    counts the row as lost, to be tried again.
    """

    approved: bool | None
    confidence: float = 1.0
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    failed: str = ""


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


@dataclass(frozen=True, kw_only=True)
class Preference:
    """preferred is None where the judge abstained or contradicted itself when the order was changed: counted, never guessed.

    failed: as of a Verdict.
    """

    preferred: Literal["first", "second"] | None
    confidence: float = 1.0
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""


class PairJudge(ABC):
    """Says which of two responses to one prompt is better."""

    @abstractmethod
    def compare(self, prompt: Prompt, first: str, second: str) -> Preference:
        """Compare two responses."""

    def compare_many(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """One preference for each pair, in order; one by one, unless a judge batches."""
        return [self.compare(*one) for one in zip(prompts, firsts, seconds, strict=True)]
