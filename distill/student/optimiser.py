"""How a student's weights move: fused AdamW, and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from distill.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]


def adamw(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that take a gradient; matrices decay, norms and biases do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)
    # Fused AdamW could undo the loss scaling of 16-mixed itself, and Lightning then refuses to clip gradients, under
    # bf16-mixed too. Saying that it cannot costs one pass over the gradients under 16-mixed and nothing elsewhere.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def rate_factor(schedule: Schedule, *, warmup_steps: int, total_steps: float) -> Callable[[int], float]:
    """The learning rate at each optimiser step, as a share of its peak.

    total_steps: of the whole run, infinite where it has no end. Raises ConfigError for a schedule that needs one.

    >>> [round(rate_factor("linear", warmup_steps=1, total_steps=5)(step), 2) for step in range(5)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if schedule != "constant" and math.isinf(total_steps):
        raise ConfigError(f"schedule = {schedule!r} ends at the last step, and the run has none: set max_epochs or max_steps")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)  # never a step of size 0
        if schedule == "constant":
            return 1.0
        left = max(0.0, total_steps - step) / max(1.0, total_steps - warmup_steps)
        return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return factor
