"""Objectives: pure losses on supervised positions, unreduced, float32, in nats."""

from distill.objectives.base import Loss, Positions, Targets, TeacherSignal, TokenObjective, reduce
from distill.objectives.cringe import Cringe
from distill.objectives.npo import TokenNPO
from distill.objectives.repetition import RepetitionUnlikelihood, SequenceUnlikelihood, repeated_ngram_positions
from distill.objectives.token_likelihood import Likelihood, likelihood
from distill.objectives.token_unlikelihood import Unlikelihood, unlikelihood

__all__ = [
    "Cringe",
    "Likelihood",
    "Loss",
    "Positions",
    "RepetitionUnlikelihood",
    "SequenceUnlikelihood",
    "Targets",
    "TeacherSignal",
    "TokenNPO",
    "TokenObjective",
    "Unlikelihood",
    "likelihood",
    "reduce",
    "repeated_ngram_positions",
    "unlikelihood",
]
