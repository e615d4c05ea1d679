"""UNDIAL: a negative as a distillation target, the frozen original with that token's logit lowered.

Shape suffixes: N supervised positions, M negative ones, V vocabulary, K tokens that the teacher knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, SignalKind, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import spread


@dataclass(frozen=True, kw_only=True)
class UNDIAL(TokenObjective):
    """Cross-entropy of the student to the teacher's distribution with the negative token's logit lowered by gamma (nats).

    The teacher is the student as it was before training (its frozen copy, or the student itself with its adapters off). Lowering
    a logit divides the token's odds by e^gamma and leaves the proportions of all others as they were, so there is a fixed point
    to arrive at: unlike unlikelihood it neither runs on nor moves the mass to whatever the student prefers by then. A token that
    has become less probable than its target is raised again.

    Source: Dong et al. 2024 (arXiv:2402.10052). Its authors' code tries gamma = 3, 10 and 30 (`su_strength`). Deviations: theirs
    lowers logits, this one log-probabilities, which is the same after normalising; their options to lower only nouns or
    entities are spans of the records here.
    """

    weight: float = 1.0
    gamma: float = 10.0
    positions: ClassVar[Positions] = "negative"
    needs_teacher: ClassVar[bool] = True
    # A token outside the stored candidates could not be lowered within the rest.
    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense"})

    def __post_init__(self) -> None:
        check_weight(self.weight, "UNDIAL")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ConfigError(
                f"UNDIAL.gamma is {self.gamma}; expected by how much a logit is lowered, a finite number > 0 (nats)"
            )

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The cross-entropy at negative positions, 0 elsewhere. Raises ConfigError without a dense teacher."""
        signal = targets.signal()
        if signal.kind != "dense":
            raise ConfigError(
                f"UNDIAL lowers one token of the whole distribution, and the teacher's signal is {signal.kind!r}; use a live "
                f"teacher, or one stored exactly"
            )
        where_N = targets.where(self.positions)
        row_M = where_N.nonzero().squeeze(1)
        dtype = torch.promote_types(logits_NV.dtype, torch.float32)
        with torch.no_grad():
            lowered_MK = signal.log_probs_NK[row_M].to(dtype)
            token_M1 = targets.token_N[row_M].unsqueeze(1)
            # A token that the teacher does not know has no mass to lower.
            by_M1 = torch.where(token_M1 < lowered_MK.shape[1], self.gamma, 0.0).to(dtype)
            target_MK = lowered_MK.scatter_add(1, token_M1.clamp(max=lowered_MK.shape[1] - 1), -by_M1).softmax(1)
        own_MK = logits_NV[row_M].to(dtype).log_softmax(1)[:, : target_MK.shape[1]]
        # 0 times minus infinity is 0 here: a token without mass in the target costs nothing.
        value_M = -torch.where(target_MK > 0, target_MK * own_MK, 0.0).sum(1)
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)
