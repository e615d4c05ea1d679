"""What the student's trunk sees: padded rows, and which hidden state predicts which supervised token.

Shape suffixes: B rows, T columns, N supervised positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distill.objectives.base import Targets


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch.

    input_ids_BT, position_ids_BT: int64. attention_mask: bool; (B, T) for plain rows (True = real token, right padding), or
    (B, 1, T, T) for prefix-shared rows (True = query row may see key column). gather_N: int64 index into the flattened
    (B*T) hidden states: the state that predicts targets.token_N (the shift is already made; in a prefix-shared row the
    last prompt position predicts the first token of every completion). record_ids: one per sequence, indexed by
    targets.sequence_N. positives_in_step, negatives_in_step: number of supervised positions of that polarity in the whole
    optimiser step this micro-batch belongs to, over all its micro-batches and ranks: the denominators of the losses.
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    attention_mask: Tensor
    gather_N: Tensor
    targets: Targets
    record_ids: tuple[str, ...]
    positives_in_step: int
    negatives_in_step: int
