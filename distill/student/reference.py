"""The frozen reference: the student as it was before training, whose log-probabilities some objectives compare with."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from distill.rows import Batch
from distill.student.head import objective_values


def load_reference(student: str) -> PreTrainedModel:
    """A second copy of the student, without gradients and in eval mode; it costs the student's memory once more."""
    from distill.models import load_model

    return load_model(student, dtype="float32").requires_grad_(False)


def with_reference(batch: Batch, reference: PreTrainedModel, *, head_memory: int) -> Batch:
    """The batch with targets.reference_N: log p of each supervised token under the reference (nats, float32)."""
    with torch.no_grad():
        _, stats = objective_values(reference, batch, {}, head_memory=head_memory)
    return replace(batch, targets=replace(batch.targets, reference_N=stats.log_prob_N))
