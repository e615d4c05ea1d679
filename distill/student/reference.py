"""The frozen reference: the student as it was before training, whose log-probabilities some objectives compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from distill.head import objective_values
from distill.rows import Batch


def load_reference(student: str) -> PreTrainedModel:
    """A second copy of the student, without gradients and in eval mode; it costs the student's memory once more."""
    from distill.models import load_model

    return load_model(student, dtype="float32").requires_grad_(False)


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The student as it was before training: its adapters off, its dropout too; both are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        for module, training in modes:
            module.training = training


def with_reference(batch: Batch, reference: PreTrainedModel, *, head_memory: int) -> Batch:
    """The batch with targets.reference_N: log p of each supervised token under the reference (nats, float32)."""
    with torch.no_grad():
        _, stats = objective_values(reference, batch, {}, head_memory=head_memory)
    return replace(batch, targets=replace(batch.targets, reference_N=stats.log_prob_N))
