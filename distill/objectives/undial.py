"""UNDIAL: a negative as a distillation target, the frozen original with that token's logit lowered.

Shape suffixes: N supervised positions, M negative ones, B those of one block, V vocabulary, C tokens that both models know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, SignalKind, Targets, TokenObjective, check_weight
from distill.objectives.divergences import Block, Kernel, divergence, infinite_where
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
        """The cross-entropy at negative positions, 0 elsewhere, over the tokens that both models know.

        Raises ConfigError without a dense teacher, ValueError where the student gives probability 0 to what it should say.
        """
        signal = targets.signal()
        if signal.kind != "dense":
            raise ConfigError(
                f"UNDIAL lowers one token of the whole distribution, and the teacher's signal is {signal.kind!r}; use a live "
                f"teacher, or one stored exactly"
            )
        where_N = targets.where(self.positions)
        row_M = where_N.nonzero().squeeze(1)
        value_M = divergence(logits_NV, signal, [(row_M, self._kernel(targets.token_N[row_M]))], temperature=1.0, scale=1.0)
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)

    def _kernel(self, token_M: Tensor) -> Kernel:
        def to_lowered(block: Block) -> tuple[Tensor, Tensor]:
            """-sum r log p and g = -r."""
            # Lowered as a logarithm: the token's probability may be all there is in float32.
            by_B1 = block.log_q_BC.new_full((len(block.log_q_BC), 1), -self.gamma)
            r_BC = block.log_q_BC.scatter_add(1, token_M[block.row].unsqueeze(1), by_B1).softmax(1)
            value_B = -(r_BC * block.log_p_BC).sum(1)
            return infinite_where(value_B, block.log_p_BC, r_BC), r_BC.neg_()

        return to_lowered
