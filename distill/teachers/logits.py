"""A teacher that gives its distribution over tokens to a student in training.

Settings and running state are apart: a LogitTeacher is a frozen dataclass that stands in a config and is checked before anything
is loaded; `start` makes a RunningTeacher of it. Torch is imported for types only: a recipe's help needs none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from distill.objectives.base import CrossSignal, DeferredSignal, SignalKind, TeacherSignal
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """What a teacher says about a batch. signal: its distribution at the N supervised positions. cross: the same in another
    tokenizer's tokens. hidden: (N, D) states by layer. embedding_SD: one vector per response.
    """

    signal: TeacherSignal | DeferredSignal | None = None
    cross: CrossSignal | None = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    embedding_SD: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LiveStudent:
    """The student that a teacher starts for. name: hub name or folder, of its tokenizer too. model: the one in training, with
    its adapters; a teacher may read it and must leave it as it was. adapters_off: a context in which that model computes as it
    did before training; None where it has no adapters. longest_row: columns of the longest row of the run; 0 where unknown.
    """

    name: str
    model: PreTrainedModel
    adapters_off: Callable[[], AbstractContextManager[None]] | None = None
    longest_row: int = 0


class RunningTeacher(ABC):
    """A started teacher. It lives outside the student's modules: in no state_dict, no `parameters()`, no gradient bucket.

    layers, width: how many blocks it has and how wide its hidden states are (or its embedding); 0 where it shows none.
    """

    layers: int = 0
    width: int = 0

    @abstractmethod
    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """What it says about a batch, on the batch's device, without gradient; with the hidden states of `layers`."""

    def after_step(self) -> None:  # noqa: B027  (most teachers do not change)
        """Called after every optimiser step of the student."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for a resumed run to be the same: nothing, for a teacher that does not change."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from `state_dict`."""


class LogitTeacher(ABC):
    """The settings of a teacher that gives distributions; a frozen keyword-only dataclass of plain values.

    reads_new_text: whether it can judge a text that it has not seen before, as on-policy training needs. gives_hidden,
    gives_embedding: whether it shows hidden states, or one vector per response. gives_cross: whether its distributions are over
    a vocabulary of its own.
    """

    reads_new_text: bool = True
    gives_hidden: bool = False
    gives_embedding: bool = False
    gives_cross: bool = False

    @abstractmethod
    def kind(self) -> SignalKind | None:
        """Which signal it will give, told without loading a model; None where it gives none, but hidden states or embeddings."""

    @abstractmethod
    def start(self, student: LiveStudent) -> RunningTeacher:
        """Load what it needs and check that it fits the student.

        Raises TeacherError naming what does not fit: tokenizer, vocabulary, template, precision.
        """
