"""Objectives: pure losses on supervised positions, unreduced, float32, in nats."""

from distill.objectives.adaptive import AdaptiveKL
from distill.objectives.base import (
    CommonRoots,
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
from distill.objectives.contrastive import ContrastiveSkewKL
from distill.objectives.cringe import Cringe
from distill.objectives.divergences import Divergence
from distill.objectives.dpo import DPO
from distill.objectives.embedding import EmbeddingMatching
from distill.objectives.gradient_ascent import GradientAscent
from distill.objectives.hidden import HiddenObjective
from distill.objectives.hidden_states import HiddenStateMatching
from distill.objectives.jsd import GeneralizedJSD, JensenShannon
from distill.objectives.kl import ForwardKL, ReverseKL
from distill.objectives.kto import KTO
from distill.objectives.npo import NPO, SimNPO, TokenNPO
from distill.objectives.nsr import NegativeSampleReinforcement
from distill.objectives.orpo import ORPO
from distill.objectives.repetition import RepetitionUnlikelihood, SequenceUnlikelihood, repeated_ngram_positions
from distill.objectives.simpo import SimPO
from distill.objectives.skew import SkewForwardKL, SkewReverseKL
from distill.objectives.span_aligned import SpanAlignedKL
from distill.objectives.token_likelihood import Likelihood, likelihood
from distill.objectives.token_unlikelihood import Unlikelihood, unlikelihood
from distill.objectives.total_variation import TotalVariation
from distill.objectives.undial import UNDIAL
from distill.objectives.universal_logit import UniversalLogit

__all__ = [
    "AdaptiveKL",
    "CEU",
    "CommonRoots",
    "ContrastiveSkewKL",
    "Cringe",
    "CrossSignal",
    "DeferredSignal",
    "Divergence",
    "DPO",
    "EmbeddingMatching",
    "ForwardKL",
    "GeneralizedJSD",
    "GradientAscent",
    "HiddenObjective",
    "HiddenSignal",
    "HiddenStateMatching",
    "JensenShannon",
    "KTO",
    "Likelihood",
    "Loss",
    "NegativeSampleReinforcement",
    "NPO",
    "Objective",
    "ORPO",
    "Positions",
    "RepetitionUnlikelihood",
    "ReverseKL",
    "SequenceLoss",
    "SequenceObjective",
    "Sequences",
    "SequenceUnlikelihood",
    "SignalKind",
    "SimNPO",
    "SimPO",
    "SkewForwardKL",
    "SkewReverseKL",
    "SpanAlignedKL",
    "Targets",
    "TeacherSignal",
    "TokenNPO",
    "TokenObjective",
    "TotalVariation",
    "UNDIAL",
    "Unit",
    "UniversalLogit",
    "Unlikelihood",
    "likelihood",
    "reduce",
    "repeated_ngram_positions",
    "unlikelihood",
]
