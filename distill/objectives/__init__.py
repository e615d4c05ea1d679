"""Objectives: pure losses on supervised positions, unreduced, float32, in nats."""

from distill.objectives.base import Loss, Positions, Targets, TeacherSignal, TokenObjective, reduce
from distill.objectives.token_likelihood import Likelihood, likelihood
from distill.objectives.token_unlikelihood import Unlikelihood, unlikelihood

__all__ = [
    "Likelihood",
    "Loss",
    "Positions",
    "Targets",
    "TeacherSignal",
    "TokenObjective",
    "Unlikelihood",
    "likelihood",
    "reduce",
    "unlikelihood",
]
