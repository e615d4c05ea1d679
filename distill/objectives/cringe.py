"""CRINGE: lower a negative token's logit against what the student would rather say there.

Shape suffixes: N supervised positions, M negative ones, K alternatives, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import spread


@dataclass(frozen=True, kw_only=True)
class Cringe(TokenObjective):
    """Prefer the student's own best alternatives: softplus(z_negative - z_alternative) at every negative position (nats).

    The alternatives are the k largest logits of the position without the negative token. contrast="expectation": the mean
    over them under their own softmax, held constant for the gradient: exactly what sampling one of them gives on average,
    without the noise. contrast="argmax": the largest only (k is then without effect).

    Unlike unlikelihood it moves two logits (or k + 1) and leaves the rest of the distribution alone; its gradient is at most
    1 and fades once the alternatives lead. Like it, it needs right answers beside the wrong ones: the alternative it
    promotes is the student's guess.

    Source: Adolphs et al. 2022 (arXiv:2211.05826), the term for negative tokens; its likelihood term is Likelihood. The paper
    samples one alternative; the default here is the expectation of that. Its training on the classifier's labels over several
    rounds is data, not loss.
    """

    weight: float = 1.0
    k: int = 5
    contrast: Literal["expectation", "argmax"] = "expectation"
    positions: ClassVar[Positions] = "negative"
    detached: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "Cringe")
        if self.k < 1:
            raise ConfigError(f"Cringe.k is {self.k}; expected the number of alternatives, 1 or more")

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """Contrast at negative positions, 0 elsewhere. A vocabulary of one token has no alternative: ValueError."""
        vocabulary = logits_NV.shape[1]
        if vocabulary < 2:
            raise ValueError(f"a vocabulary of {vocabulary} token(s) has no alternative to the negative one; expected 2 or more")
        where_N = targets.where(self.positions)
        row_M = where_N.nonzero().squeeze(1)
        token_M = targets.token_N[row_M]
        count = min(1 if self.contrast == "argmax" else self.k, vocabulary - 1)
        with torch.no_grad():
            # One more than asked for, then the negative token dropped, or the last where it is not among them.
            best_MK = logits_NV[row_M].topk(count + 1, dim=1).indices
            is_negative = (best_MK == token_M.unsqueeze(1)).to(torch.uint8)
            alternative_MK = best_MK.gather(1, is_negative.argsort(dim=1, stable=True)[:, :count])
        dtype = torch.promote_types(logits_NV.dtype, torch.float32)
        negative_M1 = logits_NV[row_M, token_M].to(dtype).unsqueeze(1)
        other_MK = logits_NV[row_M.unsqueeze(1), alternative_MK].to(dtype)
        share_MK = other_MK.detach().softmax(dim=1)
        value_M = -(share_MK * F.logsigmoid(other_MK - negative_M1)).sum(dim=1)
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)
