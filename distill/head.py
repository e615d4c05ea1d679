"""The supervised head: the trunk once, then the LM head on the hidden states that some loss sees and on no others.

The model's own forward runs, whole, with one hook on its output embeddings that swaps the hidden states (B, T, D) for the
gathered ones (1, N, D). So whatever a family does to its logits (soft-capping, scaling) is done, adapters and wrappers
(PEFT, DDP, FSDP2) see an ordinary forward, and no (B, T, V) tensor exists at any moment.

Shape suffixes: B rows, T columns, N supervised positions, C positions of one chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from distill.errors import ModelError
from distill.objectives.base import HiddenSignal, Loss, Targets, TokenObjective
from distill.objectives.log_odds import likelihood_of, log_odds
from distill.rows import Batch

HEAD_MEMORY = 1 << 30

# The in-band check compares two roundings of one number; a forgotten soft-cap or scale differs by far more.
_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True, kw_only=True)
class SupervisedStats:
    """What else a forward pass gives.

    log_prob_N: log p of each supervised token (nats, float32), with gradient if asked for. hidden: (N, D) states of the layers
    that were asked for, by their number.
    """

    log_prob_N: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Passage:
    """What went through the output embeddings, and through the layers that were asked for, during one forward."""

    hidden_ND: Tensor | None = None
    raw_logits: list[Tensor] = field(default_factory=list)
    layers: dict[int, Tensor] = field(default_factory=dict)


def supervised_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Logits (N, V) that predict batch.targets.token_N, as the model itself makes them, in its own dtype.

    Raises ModelError where the model's forward does not call its output embeddings exactly once on (B, T, D).
    """
    logits_NV, _ = _forward(model, batch, keep=None)
    return logits_NV


def objective_values(
    model: PreTrainedModel,
    batch: Batch,
    objectives: Mapping[str, TokenObjective],
    *,
    head_memory: int = HEAD_MEMORY,
    trains_log_prob: bool = False,
    layers: Sequence[int] = (),
) -> tuple[dict[str, Loss], SupervisedStats]:
    """Every objective's unreduced Loss over the batch's N positions, and the statistics of the same logits.

    head_memory: bytes. Where the logits as float32 (4 N V, of the larger vocabulary where a teacher has its own) exceed it,
    they are made, used and dropped chunk by chunk, and made again in the backward pass: the same values and gradients for a
    third more work in the head. A chunk never splits a sequence if an objective needs `whole_sequences`; one such sequence may
    then exceed the budget. A teacher's deferred signal is made once per chunk, for all objectives, where any reads it.
    trains_log_prob: whether log_prob_N carries a gradient. layers: whose hidden states at the N positions are wanted, counted
    as transformers does: 0 the embeddings, L of L blocks what the LM head reads.
    Raises ModelError where the chunked way would not compute what the model's own forward computes; then raise head_memory.
    """
    count = batch.gather_N.shape[0]
    vocabulary = max(model.config.get_text_config().vocab_size, _other_vocabulary(batch.targets))
    # A teacher may be here for its hidden states alone, and its head costs as much as the student's.
    teaches = any(objective.needs_teacher or objective.needs_cross for objective in objectives.values())
    if 4 * count * vocabulary <= head_memory:
        logits_NV, passage = _forward(model, batch, keep=None, layers=layers)
        targets = batch.targets.materialised() if teaches else batch.targets
        losses = {name: objective(logits_NV, targets) for name, objective in objectives.items()}
        log_prob_N = _log_prob(logits_NV, targets, trained=trains_log_prob)
        return losses, SupervisedStats(log_prob_N=log_prob_N, hidden=passage.layers)

    head, config = model.get_output_embeddings(), model.config.get_text_config()
    own_logits, passage = _forward(model, batch, keep=1, layers=layers)
    _check_same(own_logits, _post_process(passage.raw_logits[0], config), model)

    def chunk_values(hidden_CD: Tensor, targets: Targets) -> tuple[list[Tensor], list[Tensor], Tensor]:
        logits_CV = _post_process(head(hidden_CD.unsqueeze(0)), config).squeeze(0)
        targets = targets.materialised() if teaches else targets
        losses = [objective(logits_CV, targets) for objective in objectives.values()]
        log_prob_C = _log_prob(logits_CV, targets, trained=trains_log_prob)
        return [loss.value_N for loss in losses], [loss.where_N for loss in losses], log_prob_C

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
    return losses, SupervisedStats(log_prob_N=torch.cat(log_probs)[back_N], hidden=passage.layers)


def hidden_signal(
    model: PreTrainedModel, batch: Batch, *, vocabulary: int, layers: Sequence[int] = ()
) -> tuple[HiddenSignal, dict[int, Tensor]]:
    """A frozen model as a teacher at the batch's supervised positions: its signal, deferred, and the states of `layers` (N, D).

    vocabulary: how many of its ids the student knows too. The logits are made as the model makes them. Raises ModelError
    they would not be.
    """
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    with torch.no_grad():
        own_logits, passage = _forward(model, batch, keep=1, layers=layers)
    if passage.raw_logits[0].shape[1]:
        _check_same(own_logits, _post_process(passage.raw_logits[0], config), model)
    assert passage.hidden_ND is not None  # _forward has checked it

    def logits_of(hidden_CD: Tensor) -> Tensor:
        # Autocast is the student's: a teacher is as exact as it was loaded.
        with torch.autocast(hidden_CD.device.type, enabled=False):
            return _post_process(head(hidden_CD.unsqueeze(0)), config).squeeze(0)

    return HiddenSignal(hidden_ND=passage.hidden_ND, logits_of=logits_of, vocabulary=vocabulary), passage.layers


def decoder_blocks(model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The transformer blocks, bottom first, and the norms that follow them in the trunk.

    Raises ModelError where the model has no one list of them.
    """
    number = model.config.get_text_config().num_hidden_layers
    trunk = model.get_base_model().base_model if "get_base_model" in dir(model) else model.base_model
    children = list(trunk.children())
    lists = [place for place, child in enumerate(children) if isinstance(child, nn.ModuleList) and len(child) == number]
    if len(lists) != 1:
        raise ModelError(
            f"{type(trunk).__name__} has no one list of its {number} blocks, so single layers cannot be told apart: train_layers "
            f"and losses on hidden states are not possible with it; use lora, and losses on probabilities"
        )
    # A norm has vectors only; rotary embeddings and the like have no parameters at all.
    after = [child for child in children[lists[0] + 1 :] if {parameter.dim() for parameter in child.parameters()} == {1}]
    return list(children[lists[0]].children()), after


def _other_vocabulary(targets: Targets) -> int:
    """How many logits a teacher with another tokenizer makes at a position; they are in memory beside the student's."""
    teacher = None if targets.cross is None else targets.cross.teacher
    return teacher.vocabulary if isinstance(teacher, HiddenSignal) else 0


def _log_prob(logits_NV: Tensor, targets: Targets, *, trained: bool = False) -> Tensor:
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        return -likelihood_of(log_odds(logits_NV, targets.token_N))


def _forward(model: PreTrainedModel, batch: Batch, *, keep: int | None, layers: Sequence[int] = ()) -> tuple[Tensor, _Passage]:
    """The model's own forward on the first `keep` supervised positions (all: None) -> their logits and what passed the head."""
    with _gathering(model, batch, keep, layers) as passage:
        logits = model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        ).logits
    expected = batch.gather_N.shape[0] if keep is None else min(keep, batch.gather_N.shape[0])
    if len(passage.raw_logits) != 1 or logits.shape[:2] != (1, expected):
        raise ModelError(
            f"{type(model).__name__} called its output embeddings {len(passage.raw_logits)} times and returned logits of shape "
            f"{tuple(logits.shape)}; expected one call and (1, {expected}, V). Its forward is not that of a causal language "
            f"model with one LM head; use one loaded by AutoModelForCausalLM"
        )
    return logits.squeeze(0), passage


@contextmanager
def _gathering(model: PreTrainedModel, batch: Batch, keep: int | None, layers: Sequence[int] = ()) -> Iterator[_Passage]:
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
    blocks = decoder_blocks(model)[0] if layers else []
    for layer in layers:
        if not 0 <= layer <= len(blocks):
            raise ModelError(f"layer {layer} of {type(model).__name__}: it has {len(blocks)} blocks; give 0 to {len(blocks)}")
        if layer < len(blocks):
            handles.append(blocks[layer].register_forward_pre_hook(_collect(passage, layer, batch.gather_N), with_kwargs=True))
    try:
        yield passage
        if len(blocks) in layers and passage.hidden_ND is not None:
            passage.layers[len(blocks)] = passage.hidden_ND
    finally:
        for handle in handles:
            handle.remove()


def _collect(passage: _Passage, layer: int, gather_N: Tensor) -> Any:
    def collect(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        hidden_BTD = inputs[0] if inputs else named["hidden_states"]
        passage.layers[layer] = hidden_BTD.flatten(0, 1)[gather_N]

    return collect


def _post_process(logits: Tensor, config: PretrainedConfig) -> Tensor:
    return after_head(logits, config.to_dict())


AFTER_HEAD = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""The settings of a model's configuration that `after_head` reads."""


def after_head(logits: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """What the families do between LM head and logits: Cohere multiplies, Granite divides, Gemma 2 soft-caps."""
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
