"""What consensus decides about a question, with all it was decided from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill.records import Prompt
from distill.teachers.base import Completion

Label = Literal["answerable", "unanswerable", "uncertain"]


class Equivalence(ABC):
    """Decides whether two answers to one question say the same."""

    @abstractmethod
    def same(self, first: str, second: str) -> bool:
        """True where the two answers are the same answer. Reflexive and symmetric; clustering makes it transitive."""

    def prepare(self, answers: Sequence[str]) -> None:  # noqa: B027 - optional by design: most equivalences have nothing to prepare
        """Told all answers before they are compared in pairs, so that a model can take them as one batch; by default ignored."""

    @property
    def transitive(self) -> bool:
        """True where a ~ b and b ~ c always give a ~ c: then a new sample can never join two clusters."""
        return False


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Samples that say the same: `members` are indices into the samples (ascending), `answer` the most frequent wording."""

    members: tuple[int, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Answerability:
    """A label and its evidence. The largest cluster comes first; agreement is its share of the samples (0 to 1).

    low and high bound the model's chance to give the majority answer (a credible interval of the Beta posterior);
    confidence is what the label was decided from, in [0, 1] (agreement, or exp of a log-probability, ...).
    """

    label: Label
    answer: str | None
    confidence: float
    agreement: float
    low: float
    high: float
    clusters: tuple[Cluster, ...]
    samples: tuple[str, ...]


class Labeller(ABC):
    """Marks a question as answerable, unanswerable or uncertain for the model that wrote the samples."""

    @abstractmethod
    def label(self, prompt: Prompt, samples: Sequence[Completion]) -> Answerability:
        """Label one question from the samples of one model."""
