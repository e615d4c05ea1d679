"""Attention over short rows in bfloat16 on the processor: plain matrix products, where torch's fused kernel is slower.

torch 2.13's fused kernel for the CPU takes 17 ms forward and backward for 4 rows of 160 tokens and 9 heads in bfloat16 (12 in
float32); the same as batched matrix products takes 7, up to rows of some 512 tokens. Everything else is left to the fused one.

Shape suffixes: B rows, H heads, K key heads, T columns, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "distill_short_rows"
LONGEST = 512


def use_short_row_attention(model: PreTrainedModel) -> None:
    """Let a model that uses `sdpa` take the faster way where there is one; any other model stays as it is."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)


def short_row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query (B, H, T, E), key and value (B, K, T, E) -> (B, T, H, E).

    attention_mask: bool (True = may be seen) or additive, (B, 1, T, T); None is causal.
    """
    columns = query.shape[2]
    short = (
        columns == key.shape[2] and 1 < columns <= LONGEST and not dropout and not any(named.get(n) is not None for n in _OTHER)
    )
    if not (short and query.device.type == "cpu" and _dtype(query) == torch.bfloat16 and query.requires_grad):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **named
        )
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores_BHTT = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
    if attention_mask is None:
        if is_causal is None:
            is_causal = bool(getattr(module, "is_causal", True))
        attention_mask = torch.ones(columns, columns, dtype=torch.bool).tril() if is_causal else None
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores_BHTT = scores_BHTT.masked_fill(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores_BHTT = scores_BHTT + attention_mask.to(scores_BHTT.dtype)
    weights_BHTT = torch.softmax(scores_BHTT, -1, dtype=torch.float32).to(scores_BHTT.dtype)
    return torch.matmul(weights_BHTT, value).transpose(1, 2).contiguous(), None


def _dtype(query: Tensor) -> torch.dtype:
    """What a matrix product of it computes in: rotated queries are float32 under autocast."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype


_OTHER = ("softcap", "position_bias", "cache")
AttentionInterface.register(IMPLEMENTATION, short_row_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
