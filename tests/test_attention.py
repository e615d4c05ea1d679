"""Attention over short rows: the same numbers as the fused kernel's, only where it is faster, and never in a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from distill.attention import IMPLEMENTATION, LONGEST, short_row_attention, use_short_row_attention
from distill.models import load_model

TRIANGLE = torch.ones(12, 12, dtype=torch.bool).tril()
MASKS: dict[str, Tensor | None] = {
    "causal": None,
    "blocks": (TRIANGLE & (torch.arange(12)[:, None] % 3 != 1))[None, None].logical_or(torch.eye(12, dtype=torch.bool)),
    "additive": torch.zeros(1, 1, 12, 12).masked_fill(~TRIANGLE, torch.finfo(torch.float32).min),
}


def tensors(columns: int = 12, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 4, columns, 8), (2, 2, columns, 8), (2, 2, columns, 8))
    query, key, value = (torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes)
    return query, key, value


@pytest.fixture
def layer() -> nn.Module:
    module = nn.Module()
    module.is_causal = True
    module.num_key_value_groups = 2
    return module


@pytest.mark.parametrize("mask", MASKS)
def test_values_and_gradients_are_the_fused_kernel_s(layer: nn.Module, mask: str) -> None:
    attention_mask = MASKS[mask]
    exact = tensors(dtype=torch.float32)
    expected, _ = sdpa_attention_forward(layer, *exact, attention_mask)
    ours = tensors()
    found, _ = short_row_attention(layer, *ours, attention_mask)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    assert found.dtype == torch.bfloat16
    for a, b in ((expected, found), *((a.grad, b.grad) for a, b in zip(exact, ours, strict=True))):
        assert (a - b).norm() <= 2e-2 * a.norm()


@pytest.mark.parametrize("case", ["float32", "long rows", "no gradient", "one new token"])
def test_everything_else_is_left_to_the_fused_kernel(layer: nn.Module, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    query, key, value = tensors(
        LONGEST + 1 if case == "long rows" else 12, torch.float32 if case == "float32" else torch.bfloat16
    )
    if case == "no gradient":
        query, key, value = query.detach(), key.detach(), value.detach()
    if case == "one new token":
        query = query[:, :, -1:]
    asked = []
    monkeypatch.setattr("distill.attention.sdpa_attention_forward", lambda *args, **named: asked.append(1) or (args[1], None))
    short_row_attention(layer, query, key, value, None)
    assert asked


def test_autocast_decides_as_queries_are_float32_under_it(layer: nn.Module) -> None:
    query, key, value = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = short_row_attention(layer, query, key, value.bfloat16(), None)
    assert found.dtype == torch.bfloat16


def test_a_model_trained_with_it_is_saved_without_it(tiny_model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = load_model(str(tiny_model_folder("llama")))
    use_short_row_attention(model)
    assert model.config._attn_implementation == IMPLEMENTATION
    model.save_pretrained(tmp_path)
    assert IMPLEMENTATION not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_a_model_with_eager_attention_stays_as_it_is() -> None:
    config = SimpleNamespace(_attn_implementation="eager")
    use_short_row_attention(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)))  # type: ignore[arg-type]
    assert config._attn_implementation == "eager"
