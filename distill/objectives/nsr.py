"""Negative-sample reinforcement: the part of a policy gradient that penalises wrong samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, TokenObjective, check_weight
from distill.objectives.log_odds import likelihood_of, over_positions


@dataclass(frozen=True, kw_only=True)
class NegativeSampleReinforcement(TokenObjective):
    """REINFORCE with reward -1 at every negative position: gradient w (d log p), w the importance weight (value: w, no nats).

    The gradient at the token is w (1 - p), -w (1 - p) softmax over the others: gradient ascent, made harmless by where the tokens
    come from: a token that the student hardly says is hardly ever sampled. So the negatives must be the student's own samples.

    importance="none": w = 1, right while the student is the one that sampled, that is for fresh samples of each round.
    importance="reference": w = p / p_reference, for samples drawn by the reference (the student before training): w falls
    with p, and the push fades as unlikelihood's does. It is held at `max_ratio` at most. With `clip`, a token whose ratio has
    fallen below 1 - clip is left alone (PPO's clipping, for a negative advantage).

    A step of negatives only is left out of training by default: set model.skip_unpaired_negatives to false for pure NSR. For
    W-REINFORCE, put `Likelihood(weight=lambda, own_samples=True)` on the approved samples beside it: on fresh samples its
    gradient is that of reward +1.

    Source: Zhu et al. 2025 (arXiv:2506.01347), NSR; lambda = 0.1 in W-REINFORCE. Deviations: the authors' code (on verl) divides
    both parts by the number of all tokens, here each part is a mean over its own: their lambda is lambda P / M here, for P
    positive and M negative tokens a step. Above `max_ratio` the push is held, where dual-clip PPO stops it.
    """

    weight: float = 1.0
    importance: Literal["none", "reference"] = "none"
    max_ratio: float = 3.0
    clip: float | None = None
    positions: ClassVar[Positions] = "negative"
    detached: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "NegativeSampleReinforcement")
        if not (math.isfinite(self.max_ratio) and self.max_ratio >= 1):
            raise ConfigError(f"NegativeSampleReinforcement.max_ratio is {self.max_ratio}; expected a finite ratio >= 1")
        if self.clip is not None and not 0 < self.clip < 1:
            raise ConfigError(f"NegativeSampleReinforcement.clip is {self.clip}; expected 0 < clip < 1, or null for no clipping")
        if self.clip is not None and self.importance == "none":
            raise ConfigError(
                f"NegativeSampleReinforcement.clip is {self.clip} and importance is 'none': without a ratio there is nothing to "
                f"clip. Set importance: reference, or leave clip out"
            )

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """Whether it compares with the log-probabilities at sampling."""
        return self.importance == "reference"

    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """The importance weight at negative positions, 0 elsewhere. Raises ConfigError without a reference it needs."""
        reference_N = targets.reference_N
        if self.needs_reference and reference_N is None:
            raise ConfigError(
                "NegativeSampleReinforcement: importance is 'reference', and targets.reference_N is None; expected log p of each "
                "supervised token when it was sampled, in nats. Add them to the batch, or set importance: none"
            )

        def value_of(odds_M: Tensor, row_M: Tensor) -> Tensor:
            log_prob_M = -likelihood_of(odds_M)
            weight_M = torch.ones_like(log_prob_M)
            if self.needs_reference and reference_N is not None:
                weight_M = self._weight(log_prob_M.detach() - reference_N[row_M].to(log_prob_M.dtype))
            # The bracket is 0 and its gradient that of log p.
            return weight_M + weight_M * (log_prob_M - log_prob_M.detach())

        return over_positions(logits_NV, targets, self.positions, value_of)

    def _weight(self, log_ratio_M: Tensor) -> Tensor:
        # Bounded as a logarithm: its exponential could overflow.
        weight_M = log_ratio_M.clamp(max=math.log(self.max_ratio)).exp()
        if self.clip is None:
            return weight_M
        return weight_M.masked_fill(log_ratio_M < math.log1p(-self.clip), 0)
