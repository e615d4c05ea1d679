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
from distill.objectives.ce_u import CEU
from distill.objectives.cringe import Cringe
from distill.objectives.dpo import DPO
from distill.objectives.embedding import EmbeddingMatching
from distill.objectives.gradient_ascent import GradientAscent
from distill.objectives.hidden import HiddenObjective
from distill.objectives.hidden_states import HiddenStateMatching
from distill.objectives.kto import KTO
from distill.objectives.npo import NPO, SimNPO, TokenNPO
from distill.objectives.nsr import NegativeSampleReinforcement
from distill.objectives.orpo import ORPO
from distill.objectives.repetition import RepetitionUnlikelihood, SequenceUnlikelihood, repeated_ngram_positions
from distill.objectives.simpo import SimPO
from distill.objectives.token_likelihood import Likelihood, likelihood
from distill.objectives.token_unlikelihood import Unlikelihood, unlikelihood
from distill.objectives.undial import UNDIAL

__all__ = [
    "CEU",
    "Cringe",
    "CrossSignal",
    "DeferredSignal",
    "DPO",
    "EmbeddingMatching",
    "GradientAscent",
    "HiddenObjective",
    "HiddenSignal",
    "HiddenStateMatching",
    "KTO",
    "Likelihood",
    "Loss",
    "NegativeSampleReinforcement",
    "NPO",
    "Objective",
    "ORPO",
    "Positions",
    "RepetitionUnlikelihood",
    "SequenceLoss",
    "SequenceObjective",
    "Sequences",
    "SequenceUnlikelihood",
    "SignalKind",
    "SimNPO",
    "SimPO",
    "Targets",
    "TeacherSignal",
    "TokenNPO",
    "TokenObjective",
    "UNDIAL",
    "Unit",
    "Unlikelihood",
    "likelihood",
    "reduce",
    "repeated_ngram_positions",
    "unlikelihood",
]
