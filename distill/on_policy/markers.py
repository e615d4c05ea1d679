"""Markers: what a student's own response is: something to learn from a teacher's signal on, to say, or to avoid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.judges.base import Judge
from distill.records import Polarity, Prompt


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One response of the live student, not empty. references: the accepted answers, where a marker asked for them.

    finish: "length" where the response was cut off at the largest number of tokens.
    """

    prompt: Prompt
    response: str
    finish: Literal["stop", "length"] = "stop"
    references: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a sample is. polarity None leaves it out of training; reason says why in a word or two, for the count."""

    polarity: Polarity | None
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Marker(ABC):
    """Decides the polarity of the student's samples. Final classes are frozen keyword-only dataclasses."""

    @property
    def needs_references(self) -> bool:
        """Whether it wants the accepted answers of each prompt: the whole positive responses of the prompt's group."""
        return False

    @abstractmethod
    def mark(self, samples: Sequence[Sample]) -> list[Mark]:
        """One mark for each sample, in order."""


@dataclass(frozen=True, kw_only=True)
class Unmarked(Marker):
    """Judges nothing: samples are texts for a teacher's signal (ForwardKL, ReverseKL, ...), which says what to learn there.

    They count as positive, and Likelihood does not see them, since it leaves out the student's own words unless told otherwise.
    """

    def mark(self, samples: Sequence[Sample]) -> list[Mark]:
        """All of them positive.

        >>> Unmarked().mark([Sample(prompt=(), response="Paris")])[0].polarity
        'positive'
        """
        return [Mark(polarity="positive", reason="unmarked") for _ in samples]


@dataclass(frozen=True, kw_only=True)
class AllNegative(Marker):
    """Takes every sample as one to avoid, as sequence unlikelihood does against repetition, or a loss that contrasts the
    student's responses with the teacher's (DistiLLM-2).
    """

    def mark(self, samples: Sequence[Sample]) -> list[Mark]:
        """All of them negative.

        >>> AllNegative().mark([Sample(prompt=(), response="the the the")])[0].polarity
        'negative'
        """
        return [Mark(polarity="negative", reason="every sample is negative") for _ in samples]


@dataclass(frozen=True, kw_only=True)
class JudgeMarker(Marker):
    """Asks a judge: approved is positive, rejected negative; where the judge cannot say, the sample is left out and counted.

    references: "positives" gives the judge the whole positive responses of the prompt's group as accepted answers; "none" gives
    it none.
    """

    judge: Judge
    references: Literal["positives", "none"] = "positives"

    @property
    def needs_references(self) -> bool:
        """As the settings say."""
        return self.references == "positives"

    def mark(self, samples: Sequence[Sample]) -> list[Mark]:
        """One call of the judge for all samples.

        >>> from distill.judges import ExactMatch
        >>> found = [Sample(prompt=(), response=text, references=("Paris",)) for text in ("Paris", "Lyon")]
        >>> [mark.polarity for mark in JudgeMarker(judge=ExactMatch()).mark(found)]
        ['positive', 'negative']
        """
        if not samples:
            return []
        verdicts = self.judge.judge_many(
            [sample.prompt for sample in samples],
            [sample.response for sample in samples],
            [sample.references for sample in samples],
        )
        polarity: dict[bool | None, Polarity | None] = {True: "positive", False: "negative", None: None}
        return [
            Mark(polarity=polarity[one.approved], reason=one.reason, evidence={"verdict": one.reason, **one.evidence})
            for one in verdicts
        ]
