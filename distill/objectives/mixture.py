"""A mixture of several teachers' signals, made chunk by chunk.

Shape suffixes: N supervised positions, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.objectives.base import DeferredSignal, TeacherSignal


@dataclass(frozen=True, kw_only=True)
class MixtureSignal(DeferredSignal):
    """log sum of w_i q_i over whole distributions.

    parts: dense signals, deferred or not; where one knows fewer ids than another the mixture is over those that all know,
    renormalised. weights: one for each, summing to 1.
    """

    parts: tuple[TeacherSignal | DeferredSignal, ...]
    weights: tuple[float, ...]

    def select(self, index_M: Tensor) -> MixtureSignal:
        """The signal at some positions (int64 indices into N), in that order; still deferred."""
        return replace(self, parts=tuple(part.select(index_M) for part in self.parts))

    def to(self, device: torch.device | str) -> MixtureSignal:
        """The same signal on `device`."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))

    def materialise(self) -> TeacherSignal:
        """log-probabilities (float32) of the mixture; two distributions are in memory at a time."""
        with torch.no_grad():
            mixed_NV: Tensor | None = None
            for part, weight in zip(self.parts, self.weights, strict=True):
                made = part.materialise() if isinstance(part, DeferredSignal) else part
                weighted_NV = made.log_probs_NK.float() + math.log(weight)
                if mixed_NV is None:
                    mixed_NV = weighted_NV
                else:
                    known = min(mixed_NV.shape[1], weighted_NV.shape[1])
                    mixed_NV = torch.logaddexp(mixed_NV[:, :known], weighted_NV[:, :known])
            assert mixed_NV is not None  # a mixture has at least two parts
            mixed_NV = mixed_NV.log_softmax(1)
        return TeacherSignal(ids_NK=None, log_probs_NK=mixed_NV, rest_N=mixed_NV.new_full(mixed_NV.shape[:1], float("-inf")))
