"""CE-U: cross-entropy to the student's own distribution without the token that should not be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import over_positions, unlikelihood_of


@dataclass(frozen=True, kw_only=True)
class CEU(TokenObjective):
    """Cross-entropy of the student to itself with the negative token's logit at minus infinity, held constant (nats).

    The target is s, the softmax over all other tokens. The student gives them (1 - p) s, so the cross-entropy is
    -log(1 - p) + H(s), and with s held constant its gradient is p at the token and -p s elsewhere: exactly that of
    Unlikelihood. The value is larger by the entropy of s, which costs a pass over the logits and changes no weight: take
    Unlikelihood to train and this to compare values with the paper's.

    Source: Yang 2025 (arXiv:2503.01224). The paper trains with it alone, without a retain term, and leaves out the first token of
    each answer: give the records spans for that.
    """

    weight: float = 1.0
    positions: ClassVar[Positions] = "negative"
    detached: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "CEU")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The cross-entropy at negative positions, 0 elsewhere."""

        def value_of(odds_M: Tensor, row_M: Tensor) -> Tensor:
            with torch.no_grad():
                others_MV = logits_NV[row_M].to(odds_M.dtype)
                others_MV = others_MV.scatter_(1, targets.token_N[row_M].unsqueeze(1), float("-inf")).softmax(1)
                entropy_M = torch.special.entr(others_MV).sum(1)
            return unlikelihood_of(odds_M) + entropy_M

        return over_positions(logits_NV, targets, self.positions, value_of)
