"""The supervised head: the trunk once, then the LM head on the hidden states that some loss sees and on no others.

The model's own forward runs, whole, with one hook on its output embeddings that swaps the hidden states (B, T, D) for the
gathered ones (1, N, D). So whatever a family does to its logits (soft-capping, scaling) is done, adapters and wrappers
(PEFT, DDP, FSDP2) see an ordinary forward, and no (B, T, V) tensor exists at any moment.

Shape suffixes: B rows, T columns, N supervised positions, C positions of one chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from distill.errors import ModelError
from distill.objectives.base import Loss, Targets, TokenObjective
from distill.objectives.log_odds import likelihood_of, log_odds
from distill.rows import Batch

HEAD_MEMORY = 1 << 30

# The in-band check compares two roundings of one number; a forgotten soft-cap or scale differs by far more.
_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True, kw_only=True)
class SupervisedStats:
    """What a trainer logs: log_prob_N, log p of each supervised token (nats, float32, detached)."""

    log_prob_N: Tensor


@dataclass(kw_only=True)
class _Passage:
    """What went through the output embeddings during one forward."""

    hidden_ND: Tensor | None = None
    raw_logits: list[Tensor] = field(default_factory=list)


def supervised_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Logits (N, V) that predict batch.targets.token_N, as the model itself makes them, in its own dtype.

    Raises ModelError where the model's forward does not call its output embeddings exactly once on (B, T, D).
    """
    logits_NV, _ = _forward(model, batch, keep=None)
    return logits_NV


def objective_values(
    model: PreTrainedModel, batch: Batch, objectives: Mapping[str, TokenObjective], *, head_memory: int = HEAD_MEMORY
) -> tuple[dict[str, Loss], SupervisedStats]:
    """Every objective's unreduced Loss over the batch's N positions, and the statistics of the same logits.

    head_memory: bytes. Where the logits as float32 (4 N V) exceed it, they are made, used and dropped chunk by chunk, and
    made again in the backward pass: the same values and gradients for a third more work in the head. A chunk never splits a
    sequence if an objective needs `whole_sequences`; one such sequence may then exceed the budget.
    Raises ModelError where the chunked way would not compute what the model's own forward computes; then raise head_memory.
    """
    count = batch.gather_N.shape[0]
    vocabulary = model.config.get_text_config().vocab_size
    if 4 * count * vocabulary <= head_memory:
        logits_NV = supervised_logits(model, batch)
        losses = {name: objective(logits_NV, batch.targets) for name, objective in objectives.items()}
        return losses, SupervisedStats(log_prob_N=_log_prob(logits_NV, batch.targets))

    head, config = model.get_output_embeddings(), model.config.get_text_config()
    own_logits, passage = _forward(model, batch, keep=1)
    _check_same(own_logits, _post_process(passage.raw_logits[0], config), model)

    def chunk_values(hidden_CD: Tensor, targets: Targets) -> tuple[list[Tensor], list[Tensor], Tensor]:
        logits_CV = _post_process(head(hidden_CD.unsqueeze(0)), config).squeeze(0)
        losses = [objective(logits_CV, targets) for objective in objectives.values()]
        return [loss.value_N for loss in losses], [loss.where_N for loss in losses], _log_prob(logits_CV, targets)

    assert passage.hidden_ND is not None  # _forward has checked it
    whole_sequences = any(objective.whole_sequences for objective in objectives.values())
    chunks = _chunks(batch.targets.sequence_N, max(1, head_memory // (4 * vocabulary)), whole_sequences)
    parts = [
        checkpoint(chunk_values, passage.hidden_ND[index_C], batch.targets.select(index_C), use_reentrant=False)
        for index_C in chunks
    ]
    back_N = torch.cat(chunks).argsort()
    values, wheres, log_probs = zip(*parts, strict=True)
    losses = {
        name: Loss(
            value_N=torch.cat([part[i] for part in values])[back_N], where_N=torch.cat([part[i] for part in wheres])[back_N]
        )
        for i, name in enumerate(objectives)
    }
    return losses, SupervisedStats(log_prob_N=torch.cat(log_probs)[back_N])


def _log_prob(logits_NV: Tensor, targets: Targets) -> Tensor:
    with torch.no_grad():
        return -likelihood_of(log_odds(logits_NV, targets.token_N))


def _forward(model: PreTrainedModel, batch: Batch, *, keep: int | None) -> tuple[Tensor, _Passage]:
    """The model's own forward on the first `keep` supervised positions (all: None) -> their logits and what passed the head."""
    with _gathering(model, batch, keep) as passage:
        logits = model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        ).logits
    expected = batch.gather_N.shape[0] if keep is None else keep
    if len(passage.raw_logits) != 1 or logits.shape[:2] != (1, expected):
        raise ModelError(
            f"{type(model).__name__} called its output embeddings {len(passage.raw_logits)} times and returned logits of shape "
            f"{tuple(logits.shape)}; expected one call and (1, {expected}, V). Its forward is not that of a causal language "
            f"model with one LM head; use one loaded by AutoModelForCausalLM"
        )
    return logits.squeeze(0), passage


@contextmanager
def _gathering(model: PreTrainedModel, batch: Batch, keep: int | None) -> Iterator[_Passage]:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(model).__name__} has no output embeddings; expected a causal language model with an LM head")
    rows_and_columns, passage = batch.input_ids_BT.shape, _Passage()

    def gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BTD = inputs[0]
        if hidden_BTD.shape[:2] != rows_and_columns:
            raise ModelError(
                f"{type(model).__name__} gave its LM head hidden states of shape {tuple(hidden_BTD.shape)}; expected "
                f"one for each input token, {tuple(rows_and_columns)} and the width. It inserts or drops positions, so that no "
                f"supervised position can be found"
            )
        passage.hidden_ND = hidden_BTD.flatten(0, 1)[batch.gather_N]
        return (passage.hidden_ND[:keep].unsqueeze(0), *inputs[1:])

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passage.raw_logits.append(output)

    handles = [head.register_forward_pre_hook(gather), head.register_forward_hook(remember)]
    try:
        yield passage
    finally:
        for handle in handles:
            handle.remove()


def _post_process(logits: Tensor, config: PretrainedConfig) -> Tensor:
    """What the families do between LM head and logits: Cohere multiplies, Granite divides, Gemma 2 soft-caps."""
    settings = config.to_dict()
    if (scale := settings.get("logit_scale")) is not None:
        logits = logits * scale
    if (divisor := settings.get("logits_scaling")) is not None:
        logits = logits / divisor
    if (cap := settings.get("final_logit_softcapping")) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _check_same(own_logits: Tensor, our_logits: Tensor, model: PreTrainedModel) -> None:
    own, ours = own_logits.detach().float(), our_logits.detach().float().reshape(own_logits.shape)
    difference, size = (own - ours).abs().max().item(), own.abs().max().item()
    # "not <=" rather than ">": NaN logits must not pass as equal, nor be blamed on the family.
    if not difference <= _CHECK_TOLERANCE[own_logits.dtype] * max(size, 1e-3) and bool(own.isfinite().all()):
        raise ModelError(
            f"family {model.config.model_type!r}: logits made in chunks differ from the model's own by {difference:.3g} (largest "
            f"logit {size:.3g}): it changes them after its LM head in a way that distill does not know. Raise head_memory above "
            f"4 x supervised positions x vocabulary bytes, so that the model's own forward makes all logits"
        )


def _chunks(sequence_N: Tensor, size: int, whole_sequences: bool) -> list[Tensor]:
    """Index tensors that together are a permutation of 0..N-1, each of at most `size` positions or of one whole sequence."""
    if not whole_sequences:
        return list(torch.arange(sequence_N.shape[0], device=sequence_N.device).split(size))
    lengths: list[int] = []
    for length in torch.unique(sequence_N, return_counts=True)[1].tolist():
        if lengths and lengths[-1] + length <= size:
            lengths[-1] += length
        else:
            lengths.append(length)
    return list(sequence_N.argsort(stable=True).split(lengths))
