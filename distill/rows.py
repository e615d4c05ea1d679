"""What the student's trunk sees: padded rows, and which hidden state predicts which supervised token.

This is the one home of padding, of prefix sharing and of the shift by one. A row holds only what a loss needs: nothing
after the state that predicts the last supervised token is fed to the model (`Paris . <end>`: the state of `.` predicts
`<end>`, so `<end>` itself is a target and never an input).

Shape suffixes: B rows, T columns, N supervised positions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from distill.errors import RenderError
from distill.objectives.base import Objective, SequenceObjective, Targets, TokenObjective
from distill.objectives.hidden import HiddenObjective

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What a whole optimiser step holds, over all its micro-batches and ranks: the denominators of the losses.

    positives, negatives: supervised positions of that polarity. own_positives: those of the positives that lie in responses
    which the student itself wrote. positive_sequences, negative_sequences: responses. pairs: a positive and a negative response
    to one prompt.
    """

    positives: int
    negatives: int
    own_positives: int = 0
    positive_sequences: int = 0
    negative_sequences: int = 0
    pairs: int = 0

    def of(self, objective: Objective) -> int:
        """How many positions or units the objective is averaged over."""
        if isinstance(objective, SequenceObjective):
            by_unit = {
                "positive": self.positive_sequences,
                "negative": self.negative_sequences,
                "sequence": self.positive_sequences + self.negative_sequences,
                "pair": self.pairs,
            }
            return by_unit[objective.unit]
        assert isinstance(objective, TokenObjective | HiddenObjective)
        positives = self.positives if objective.own_samples else self.positives - self.own_positives
        return {"positive": positives, "negative": self.negatives, "all": positives + self.negatives}[objective.positions]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch.

    input_ids_BT, position_ids_BT: int64. attention_mask: bool; (B, T) for plain rows (True = real token, right padding), or
    (B, 1, T, T) for prefix-shared rows (True = query row may see key column). gather_N: int64 index into the flattened
    (B*T) hidden states: the state that predicts targets.token_N (the shift is already made; in a prefix-shared row the
    last prompt position predicts the first token of every completion). record_ids: one per sequence, indexed by
    targets.sequence_N. prompt_S: one per sequence, equal numbers where group and prompt are equal. in_step: what the whole
    optimiser step holds that this micro-batch belongs to. other: the same responses in another tokenizer's tokens, for a
    teacher that reads those.
    """

    input_ids_BT: Tensor
    position_ids_BT: Tensor
    attention_mask: Tensor
    gather_N: Tensor
    targets: Targets
    record_ids: tuple[str, ...]
    prompt_S: Tensor
    in_step: StepCounts
    other: OtherTokens | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.to(device),
            position_ids_BT=self.position_ids_BT.to(device),
            attention_mask=self.attention_mask.to(device),
            gather_N=self.gather_N.to(device),
            targets=self.targets.to(device),
            prompt_S=self.prompt_S.to(device),
            other=None if self.other is None else self.other.to(device),
        )

    @property
    def token_index_N(self) -> Tensor:
        """Which token of its own sequence, prompt included, each supervised position predicts: the key of a stored signal."""
        return self.position_ids_BT.flatten()[self.gather_N] + 1

    @property
    def real_BT(self) -> Tensor:
        """Which columns are tokens rather than padding (bool)."""
        mask = self.attention_mask
        return mask if mask.dim() == 2 else mask[:, 0].diagonal(dim1=-2, dim2=-1)


@dataclass(frozen=True, kw_only=True)
class OtherTokens:
    """The responses of a batch in a teacher's own tokens. name: of the model whose tokenizer it is. batch: rows and supervised
    positions as the teacher reads them, its sequences numbered as the student's. span_N, span_M: which stretch of text,
    delimited by both tokenizers, the student's and the teacher's supervised positions belong to; -1 none.
    """

    name: str
    batch: Batch
    span_N: Tensor
    span_M: Tensor

    def to(self, device: torch.device | str) -> OtherTokens:
        """The same tokens on `device`."""
        return replace(self, batch=self.batch.to(device), span_N=self.span_N.to(device), span_M=self.span_M.to(device))


class SupervisedTokens(Protocol):
    """What a row is built from; `render.Example` and the data module's compact store both look like this.

    token_ids, weight, negative have one entry per token of prompt and response; weight 0 means that no loss sees the token.
    own: the student itself wrote the response.
    """

    @property
    def record_id(self) -> str: ...
    @property
    def token_ids(self) -> ArrayLike: ...
    @property
    def prompt_length(self) -> int: ...
    @property
    def weight(self) -> ArrayLike: ...
    @property
    def negative(self) -> ArrayLike: ...
    @property
    def own(self) -> bool: ...


@dataclass(slots=True)
class _Rows:
    """Rows under construction: one list entry per row, or per sequence where the name says so."""

    tokens: list[NDArray[np.int64]]
    positions: list[NDArray[np.int64]]
    segments: list[NDArray[np.int64]]  # 0 for the prompt, 1, 2, ... for the completions
    row_of: list[int]  # per sequence
    gather: list[NDArray[np.int64]]  # per sequence: columns of its row
    targets: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]]  # per sequence: token, weight, negative
    record_ids: list[str]
    own: list[bool]  # per sequence


def plain_rows(
    examples: Sequence[SupervisedTokens], pad_id: int, *, in_step: StepCounts | None = None, prompts: Sequence[int] | None = None
) -> Batch:
    """One padded row per example.

    prompts: a number per example, equal where group and prompt are; by default examples with the same prompt tokens have the
    same. in_step: by default the batch's own counts.
    """
    rows = _Rows([], [], [], [], [], [], [], [])
    seen: dict[bytes, int] = {}
    for example in examples:
        _append_row(rows, [example], prompt_length=0)
    if prompts is None:
        prompts = [seen.setdefault(_prompt_bytes(example), len(seen)) for example in examples]
    return _collate(rows, pad_id, shared=False, prompts=prompts, in_step=in_step)


def shared_rows(groups: Sequence[Sequence[SupervisedTokens]], pad_id: int, *, in_step: StepCounts | None = None) -> Batch:
    """One row `[prompt, completion 1, ..., completion C]` per distinct prompt of each group.

    A completion sees the prompt and itself, and its positions go on from the prompt's end, so that each computes what it
    would have computed in a row of its own. in_step: by default the batch's own counts.

    >>> from types import SimpleNamespace as Example
    >>> both = {"prompt_length": 2, "own": False}
    >>> yes = Example(record_id="a", token_ids=[5, 6, 1, 9], weight=[0, 0, 1, 1], negative=[False] * 4, **both)
    >>> no = Example(record_id="b", token_ids=[5, 6, 2, 9], weight=[0, 0, 1, 0], negative=[True] * 4, **both)
    >>> batch = shared_rows([[yes, no]], pad_id=0)
    >>> batch.input_ids_BT.tolist()  # the second completion is predicted by the prompt's last state alone
    [[5, 6, 1]]
    >>> batch.gather_N.tolist(), batch.targets.token_N.tolist()
    ([1, 2, 1], [1, 9, 2])
    """
    rows = _Rows([], [], [], [], [], [], [], [])
    for group in groups:
        by_prompt: dict[bytes, list[SupervisedTokens]] = {}
        for example in group:
            by_prompt.setdefault(_prompt_bytes(example), []).append(example)
        for examples in by_prompt.values():
            _append_row(rows, examples, prompt_length=examples[0].prompt_length)
    return _collate(rows, pad_id, shared=True, prompts=rows.row_of, in_step=in_step)


def _prompt_bytes(example: SupervisedTokens) -> bytes:
    return np.asarray(example.token_ids[: example.prompt_length], dtype=np.int64).tobytes()  # type: ignore[index]


def fed_length(weight: NDArray[np.float32], prompt_length: int) -> int:
    """How many leading tokens predict all supervised ones; without any the prompt, at least 1 token."""
    supervised = np.flatnonzero(weight)
    return int(supervised[-1]) if supervised.size else max(prompt_length, 1)


def _append_row(rows: _Rows, examples: Sequence[SupervisedTokens], *, prompt_length: int) -> None:
    row = len(rows.tokens)
    token_lists = [np.asarray(example.token_ids, dtype=np.int64) for example in examples]
    weight_lists = [np.asarray(example.weight, dtype=np.float32) for example in examples]
    fed = [fed_length(weight, example.prompt_length) for weight, example in zip(weight_lists, examples, strict=True)]
    prompt_length = min(prompt_length, max(fed))
    tokens, positions = [token_lists[0][:prompt_length]], [np.arange(prompt_length)]
    segments = [np.zeros(prompt_length, dtype=np.int64)]
    offset = prompt_length
    for segment, (example, ids, weight, end) in enumerate(zip(examples, token_lists, weight_lists, fed, strict=True), start=1):
        where = np.flatnonzero(weight)
        if where.size and where[0] == 0:
            raise RenderError(
                f"record {example.record_id!r}: token 0 is supervised, but no state precedes it; begin with a prompt or BOS"
            )
        # The state one to the left predicts the token; inside the prompt all completions share that state.
        column = where - 1
        rows.gather.append(np.where(column < prompt_length, column, column - prompt_length + offset))
        rows.targets.append((ids[where], weight[where], np.asarray(example.negative, dtype=bool)[where]))
        rows.row_of.append(row)
        rows.record_ids.append(example.record_id)
        rows.own.append(example.own)
        if end > prompt_length:
            tokens.append(ids[prompt_length:end])
            positions.append(np.arange(prompt_length, end))
            segments.append(np.full(end - prompt_length, segment))
            offset += end - prompt_length
    rows.tokens.append(np.concatenate(tokens))
    rows.positions.append(np.concatenate(positions))
    rows.segments.append(np.concatenate(segments))


def _collate(rows: _Rows, pad_id: int, *, shared: bool, prompts: Sequence[int], in_step: StepCounts | None) -> Batch:
    """The only padding there is: right padding to the longest row."""
    width = max(len(tokens) for tokens in rows.tokens)
    input_ids = np.full((len(rows.tokens), width), pad_id, dtype=np.int64)
    position_ids = np.zeros((len(rows.tokens), width), dtype=np.int64)
    segments = np.full((len(rows.tokens), width), -1, dtype=np.int64)
    for row, tokens in enumerate(rows.tokens):
        input_ids[row, : len(tokens)] = tokens
        position_ids[row, : len(tokens)] = rows.positions[row]
        segments[row, : len(tokens)] = rows.segments[row]
    lengths = [len(target[0]) for target in rows.targets]
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    negative, own = np.concatenate([target[2] for target in rows.targets]), np.asarray(rows.own, dtype=bool)
    if in_step is None:
        in_step = _counts(sequence, negative, own, np.asarray(prompts))
    segments_BT = torch.from_numpy(segments)
    return Batch(
        input_ids_BT=torch.from_numpy(input_ids),
        position_ids_BT=torch.from_numpy(position_ids),
        attention_mask=_block_mask(segments_BT) if shared else segments_BT >= 0,
        gather_N=torch.from_numpy(
            np.concatenate([row * width + gather for row, gather in zip(rows.row_of, rows.gather, strict=True)])
        ),
        targets=Targets(
            token_N=torch.from_numpy(np.concatenate([target[0] for target in rows.targets])),
            weight_N=torch.from_numpy(np.concatenate([target[1] for target in rows.targets])),
            negative_N=torch.from_numpy(negative),
            sequence_N=torch.from_numpy(sequence),
            own_N=torch.from_numpy(own[sequence]) if own.any() else None,
        ),
        record_ids=tuple(rows.record_ids),
        prompt_S=torch.as_tensor(prompts, dtype=torch.int64),
        in_step=in_step,
    )


def _counts(
    sequence: NDArray[np.int64], negative: NDArray[np.bool_], own: NDArray[np.bool_], prompts: NDArray[np.int64]
) -> StepCounts:
    """The counts of a batch that is a whole optimiser step. A response of both polarities is no sequence of either."""
    ups, downs = (np.bincount(sequence[chosen], minlength=len(own)) for chosen in (~negative, negative))
    positive_S, negative_S = (ups > 0) & (downs == 0), (downs > 0) & (ups == 0)
    return StepCounts(
        positives=int(ups.sum()),
        negatives=int(downs.sum()),
        own_positives=int(ups[own].sum()),
        positive_sequences=int(positive_S.sum()),
        negative_sequences=int(negative_S.sum()),
        pairs=int((prompts[positive_S][:, None] == prompts[negative_S]).sum()),
    )


def _block_mask(segments_BT: Tensor) -> Tensor:
    """(B, 1, T, T), True where a query may see a key: causal, and the key is the prompt's or the query's own completion's.

    A padding query sees the prompt, since a row without any visible key is NaN in softmax; nobody sees a padding key.
    """
    query, key = segments_BT[:, :, None], segments_BT[:, None, :]
    causal_TT = torch.ones(segments_BT.shape[1], segments_BT.shape[1], dtype=torch.bool).tril()
    return (causal_TT & ((key == 0) | ((key == query) & (key > 0))))[:, None]


@dataclass(frozen=True)
class _ProbeExample:
    record_id: str
    token_ids: list[int]
    prompt_length: int
    weight: list[float]
    negative: list[bool]
    own: bool = False


def allows_prefix_sharing(model: nn.Module, *, longest: int) -> bool:
    """Whether `model` computes the same in prefix-shared rows as in plain rows of up to `longest` tokens; says why not, once."""
    refusal = prefix_sharing_refusal(model, longest=longest)
    if refusal is not None:
        log.info("Prefix sharing is off: %s; using plain rows.", refusal)
    return refusal is None


def prefix_sharing_refusal(model: nn.Module, *, longest: int) -> str | None:
    """Why `model` would not compute the same in prefix-shared rows as in plain rows of up to `longest` tokens; None: it does.

    Two things are asked. The config must have no attention window or chunk shorter than `longest`, since a 4-D mask
    replaces the window. And on a tiny row the model's logits must agree both ways, which finds models that ignore the
    mask (recurrent ones, linear attention, flash attention) or the position ids (positions counted from the mask).
    The model is left as it was: same mode, no gradient, no random numbers drawn.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    for name in ("sliding_window", "attention_chunk_size", "window_size"):
        window = getattr(config, name, None)
        if isinstance(window, int) and window < longest:
            return f"{name} = {window} is shorter than the longest row ({longest} tokens)"
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        error, scale = _probe(model, int(config.vocab_size))
    except _REFUSALS as refusal:
        return f"the model takes no block mask ({str(refusal).splitlines()[0]})"
    finally:
        for module, training in modes:
            module.training = training
    # Float32 agrees to a few units in the last place. SmolLM2-135M in bfloat16 differs by .022 to .033 of the largest logit from
    # rounding alone, and by .30 to .48 where it ignores the mask or the positions.
    exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
    if error <= (1e-5 if exact else 1e-1) * scale:
        return None
    return f"logits change by {error / scale:.1e} of their size under a block mask"


# What models raise that expect a mask of two dimensions, or no position ids.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


def _probe(model: nn.Module, vocabulary: int) -> tuple[float, float]:
    """The greatest difference between the logits of shared and plain rows, and the greatest logit."""
    draw = np.random.default_rng(0)
    prompt, long, short = (draw.integers(0, vocabulary, n).tolist() for n in (6, 5, 4))
    examples = [
        _ProbeExample(
            str(i), prompt + tail, len(prompt), [0.0] * len(prompt) + [1.0] * len(tail), [False] * (len(prompt) + len(tail))
        )
        for i, tail in enumerate((long, short, long[:2] + short))
    ]
    device = next(model.parameters()).device
    logits = []
    with torch.no_grad():
        for batch in (plain_rows(examples, 0).to(device), shared_rows([examples], 0).to(device)):
            output = model(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids_BT,
                use_cache=False,
            )
            logits.append(output.logits.flatten(0, 1)[batch.gather_N].float())
    return float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())
