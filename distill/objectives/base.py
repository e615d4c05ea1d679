"""What a loss on supervised positions is: pure, unreduced, float32, in nats.

Shape suffixes: N supervised positions, V vocabulary, K stored candidates of a teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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
    """

    token_N: Tensor
    weight_N: Tensor
    negative_N: Tensor
    sequence_N: Tensor
    teacher: TeacherSignal | None = None

    def where(self, positions: Positions) -> Tensor:
        """The positions (bool, (N,)) of one kind."""
        if positions == "all":
            return self.negative_N | ~self.negative_N
        return self.negative_N if positions == "negative" else ~self.negative_N


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Unreduced loss: value_N in nats (float32, 0 outside where_N, not yet multiplied by any weight), where_N bool."""

    value_N: Tensor
    where_N: Tensor


class TokenObjective(ABC):
    """A loss with one value per supervised position.

    Subclasses are frozen keyword-only dataclasses with at least `weight: float = 1.0` (its factor in the sum of objectives).
    The reduction is not theirs: sum(weight_N * value_N) / number of `positions` in the whole optimiser step, times `weight`.
    """

    weight: float
    positions: Positions

    @abstractmethod
    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """Logits (N, V), any float dtype, already shifted and not normalised -> Loss."""
