"""Objectives: pure losses on supervised positions, unreduced, float32, in nats."""

from distill.objectives.base import (
    CrossSignal,
    DeferredSignal,
    HiddenSignal,
    Loss,
    Objective,
    Positions,
    SequenceLoss,
    SequenceObjective,
    Sequences,
    SignalKind,
    Targets,
    TeacherSignal,
    TokenObjective,
    Unit,
    reduce,
)
from distill.objectives.cringe import Cringe
from distill.objectives.hidden import HiddenObjective
from distill.objectives.npo import TokenNPO
from distill.objectives.repetition import RepetitionUnlikelihood, SequenceUnlikelihood, repeated_ngram_positions
from distill.objectives.token_likelihood import Likelihood, likelihood
from distill.objectives.token_unlikelihood import Unlikelihood, unlikelihood

__all__ = [
    "Cringe",
    "CrossSignal",
    "DeferredSignal",
    "HiddenObjective",
    "HiddenSignal",
    "Likelihood",
    "Loss",
    "Objective",
    "Positions",
    "RepetitionUnlikelihood",
    "SequenceLoss",
    "SequenceObjective",
    "SequenceUnlikelihood",
    "Sequences",
    "SignalKind",
    "Targets",
    "TeacherSignal",
    "TokenNPO",
    "TokenObjective",
    "Unit",
    "Unlikelihood",
    "likelihood",
    "reduce",
    "repeated_ngram_positions",
    "unlikelihood",
]
