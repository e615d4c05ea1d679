"""What a loss on supervised positions is: pure, unreduced, float32, in nats.

Shape suffixes: N supervised positions, V vocabulary, K stored candidates of a teacher.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from distill.errors import ConfigError

Positions = Literal["positive", "negative", "all"]


@dataclass(frozen=True, kw_only=True)
class TeacherSignal:
    """A teacher's next-token distribution at each supervised position; K = V with rest = -inf is the exact case.

    ids_NK: token ids (int64); log_probs_NK: their log-probabilities (nats); rest_N: log of the mass outside K (nats).
    """

    ids_NK: Tensor
    log_probs_NK: Tensor
    rest_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What each supervised position should (or should not) predict. Already shifted: row n of the logits predicts token_N[n].

    token_N: int64 token ids. weight_N: float32, >= 0. negative_N: bool, True where the token is to be avoided.
    sequence_N: int64, which response of the batch the position belongs to (0, 1, ...), in text order within a sequence.
    reference_N: float32 log p of the token under a frozen reference model (nats), where an objective compares with one.
    """

    token_N: Tensor
    weight_N: Tensor
    negative_N: Tensor
    sequence_N: Tensor
    teacher: TeacherSignal | None = None
    reference_N: Tensor | None = None

    def where(self, positions: Positions) -> Tensor:
        """The positions (bool, (N,)) of one kind."""
        if positions == "all":
            return self.negative_N | ~self.negative_N
        return self.negative_N if positions == "negative" else ~self.negative_N

    def select(self, index_M: Tensor) -> Targets:
        """The same targets at some positions only (int64 indices into N), in that order."""
        teacher = self.teacher
        if teacher is not None:
            teacher = replace(
                teacher,
                ids_NK=teacher.ids_NK[index_M],
                log_probs_NK=teacher.log_probs_NK[index_M],
                rest_N=teacher.rest_N[index_M],
            )
        return replace(
            self,
            token_N=self.token_N[index_M],
            weight_N=self.weight_N[index_M],
            negative_N=self.negative_N[index_M],
            sequence_N=self.sequence_N[index_M],
            teacher=teacher,
            reference_N=None if self.reference_N is None else self.reference_N[index_M],
        )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Unreduced loss: value_N in nats (float32, 0 outside where_N, not yet multiplied by any weight), where_N bool."""

    value_N: Tensor
    where_N: Tensor


class TokenObjective(ABC):
    """A loss with one value per supervised position.

    Subclasses are frozen keyword-only dataclasses with at least `weight: float = 1.0` (its factor in the sum of objectives).
    The reduction is not theirs: sum(weight_N * value_N) / number of `positions` in the whole optimiser step, times `weight`.
    `whole_sequences`: a value depends on other positions of its own sequence, so the chunked head never splits a sequence.
    `detached`: part of the value is held constant for the gradient (the weights of a sampling scheme), so that the gradient
    is deliberately not the value's derivative. `needs_reference`: it reads targets.reference_N.
    """

    weight: float
    positions: ClassVar[Positions]
    whole_sequences: ClassVar[bool] = False
    detached: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """Logits (N, V), any float dtype, already shifted and not normalised -> Loss."""


def reduce(loss: Loss, targets: Targets, *, count: int | None = None) -> Tensor:
    """The one reduction: sum(weight_N * value_N) / count, a scalar in nats per position.

    count: the loss's positions in the whole optimiser step, over all micro-batches and ranks; left out, those of this loss.
    A count of 0 gives 0, with gradient 0, never 0/0.

    >>> import torch
    >>> targets = Targets(token_N=torch.tensor([0, 0]), weight_N=torch.tensor([1.0, 0.5]),
    ...                   negative_N=torch.tensor([False, False]), sequence_N=torch.tensor([0, 0]))
    >>> reduce(Loss(value_N=torch.tensor([2.0, 4.0]), where_N=torch.tensor([True, True])), targets)
    tensor(2.)
    """
    total = (loss.value_N * targets.weight_N.to(loss.value_N.dtype)).sum()
    return total / max(int(loss.where_N.sum()) if count is None else count, 1)


def check_weight(weight: float, name: str) -> None:
    """Raises ConfigError unless the weight is finite and not negative: polarity is a word, never the sign of a number."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(
            f"{name}.weight is {weight}; expected a finite number >= 0. To push a token down, give it negative polarity and an "
            f"objective of negative positions (Unlikelihood), not a negative weight"
        )
