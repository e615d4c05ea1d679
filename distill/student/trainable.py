"""Which of a student's parameters are trained: all, the topmost blocks, or low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from distill.errors import ConfigError
from distill.head import decoder_blocks


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685).

    rank: width of the adapters. alpha: their strength; the update is multiplied by alpha / rank. targets: names of the linear
    layers to adapt, such as q_proj; none means all but the head. dropout: share of the adapters' inputs set to 0 in training.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank}; give a whole number >= 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}; give a share in [0, 1)")


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """The model with adapters, everything else frozen. Raises ConfigError without peft, or where no layer has such a name."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ConfigError("lora needs the package peft: pip install 'distill[lora]'") from error
    if model.is_gradient_checkpointing:
        model.enable_input_require_grads()
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        target_modules=list(settings.targets) or "all-linear",
        lora_dropout=settings.dropout,
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        raise ConfigError(
            f"lora.targets = {list(settings.targets)}: {error}. The model's linear layers: {', '.join(linear)}"
        ) from error


def train_top_layers(model: Any, count: int) -> None:
    """Freeze everything but the topmost `count` blocks and the norm after them, in place.

    Raises ModelError where the blocks cannot be told, ConfigError where there are fewer.
    """
    blocks, after = decoder_blocks(model)
    if not 1 <= count <= len(blocks):
        raise ConfigError(f"train_layers is {count}; {type(model).__name__} has {len(blocks)} blocks, so give 1 to {len(blocks)}")
    model.requires_grad_(False)
    for module in (*blocks[len(blocks) - count :], *after):
        module.requires_grad_(True)
