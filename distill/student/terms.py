"""What one objective adds to the loss of an optimiser step: a sum over a micro-batch's units, not yet divided.

Shape suffixes: N supervised positions, S sequences (responses), D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.objectives import (
    HiddenObjective,
    Loss,
    Objective,
    SequenceLoss,
    SequenceObjective,
    Sequences,
    Targets,
    TokenObjective,
)
from distill.rows import Batch
from distill.teachers.logits import TeacherOutput

Projector = Callable[[int, Tensor], Tensor]
"""(number of the layer pair, the student's states (N, D)) -> states of the teacher's width."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """total: sum of weight x value (a scalar with gradient). units: how many positions, responses or pairs it is over."""

    total: Tensor
    units: Tensor


def is_penalty(objective: Objective) -> bool:
    """Whether it is about negatives alone, so that it rests in a step without positives."""
    if isinstance(objective, SequenceObjective):
        return objective.unit == "negative"
    return isinstance(objective, TokenObjective) and objective.positions == "negative"


def token_term(loss: Loss, targets: Targets) -> Term:
    """Of a TokenObjective's loss."""
    return Term(total=(loss.value_N * targets.weight_N.to(loss.value_N.dtype)).sum(), units=loss.where_N.sum())


def sequence_term(loss: SequenceLoss) -> Term:
    """Of a SequenceObjective's loss."""
    units = torch.tensor(len(loss.value_U), device=loss.value_U.device)
    return Term(total=(loss.value_U * loss.weight_U).sum(), units=units)


def hidden_term(
    objective: HiddenObjective,
    pairs: tuple[tuple[int, int], ...],
    hidden: Mapping[int, Tensor],
    said: TeacherOutput,
    targets: Targets,
    projector: Projector,
) -> Term:
    """Of a HiddenObjective: the mean over its pairs of layers. A teacher that serves embeddings has that of its response at every
    position.
    """
    theirs = said.hidden if said.embedding_SD is None else {0: said.embedding_SD[targets.sequence_N]}
    terms = [
        token_term(objective(projector(number, hidden[own]), theirs[its], targets), targets)
        for number, (own, its) in enumerate(pairs)
    ]
    return Term(total=torch.stack([term.total for term in terms]).mean(), units=terms[0].units)


def sequences_of(batch: Batch, log_prob_N: Tensor) -> Sequences:
    """The batch's responses as wholes. Sums are in float32: a response has at most some thousand tokens."""
    targets, count = batch.targets, len(batch.record_ids)

    def total(value_N: Tensor) -> Tensor:
        return value_N.new_zeros(count).index_add(0, targets.sequence_N, value_N)

    tokens_S = torch.bincount(targets.sequence_N, minlength=count)
    negatives_S = torch.bincount(targets.sequence_N[targets.negative_N], minlength=count)
    # To be said in one part and avoided in another: a response of neither polarity, here as in StepCounts.
    tokens_S = tokens_S.masked_fill((negatives_S > 0) & (negatives_S < tokens_S), 0)
    own_N = targets.own_N
    return Sequences(
        log_prob_S=total(log_prob_N),
        tokens_S=tokens_S,
        weight_S=total(targets.weight_N) / tokens_S.clamp(min=1),
        negative_S=negatives_S > 0,
        prompt_S=batch.prompt_S,
        own_S=torch.zeros_like(tokens_S, dtype=torch.bool) if own_N is None else total(own_N.float()) > 0,
        reference_S=None if targets.reference_N is None else total(targets.reference_N),
    )
