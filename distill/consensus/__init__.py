"""Consensus: which answers say the same, how far a model agrees with itself, and what it therefore cannot answer."""

from distill.consensus.abstention import ABSTENTIONS, is_abstention
from distill.consensus.adaptive import AdaptiveSamples, sample_until_settled, samples_settled, settled
from distill.consensus.base import Answerability, Cluster, Equivalence, Label, Labeller
from distill.consensus.clustering import clusters
from distill.consensus.embedding import EmbeddingMatch
from distill.consensus.equivalence import AliasMatch, AnyOf, NormalisedMatch
from distill.consensus.judged import JudgeMatch
from distill.consensus.labellers import ConsensusLabeller, LogProbLabeller, penalty, threshold_of
from distill.consensus.normalisation import normalise, short_answer
from distill.consensus.numbers import NumberMatch, read_number
from distill.consensus.posterior import beta_cdf, beta_quantile

__all__ = [
    "ABSTENTIONS",
    "AdaptiveSamples",
    "AliasMatch",
    "Answerability",
    "AnyOf",
    "Cluster",
    "ConsensusLabeller",
    "EmbeddingMatch",
    "Equivalence",
    "JudgeMatch",
    "Label",
    "Labeller",
    "LogProbLabeller",
    "NormalisedMatch",
    "NumberMatch",
    "beta_cdf",
    "beta_quantile",
    "clusters",
    "is_abstention",
    "normalise",
    "penalty",
    "read_number",
    "sample_until_settled",
    "samples_settled",
    "settled",
    "short_answer",
    "threshold_of",
]
