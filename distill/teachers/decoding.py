"""How completions are drawn from a local model: prompts are prefilled once, and samples that agree so far share one row.

The samples of a prompt form a tree: all start in the prompt's row, two samples that drew the same tokens so far have the same
state, and a row splits only where its samples differ. A finished sample leaves the cache. This computes the distribution of
plain sampling, sample by sample. Shape suffixes: B prompts, R rows of the cache, C samples in a row, T columns, V vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from distill.errors import TeacherError
from distill.teachers.base import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]

# Below this many shared tokens a second forward pass costs more than it saves.
_SHORTEST_SHARED_PREFIX = 4


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One sample: its token ids (the end of turn included), their log-probability in nats, and why it ended."""

    ids: Ids
    log_prob: float
    finish: Literal["stop", "length"]


@dataclass(kw_only=True)
class Prefilled:
    """Prompts in the cache, one row each, padded on the left: logits_BV predict the first token of a response.

    seen_RT: bool, which columns of the cache hold a real token; None where all do. lengths: tokens of each row so far.
    """

    cache: DynamicCache
    logits: Tensor
    seen: Tensor | None
    lengths: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Make the given rows (with repeats) the rows of the cache."""
        if list(rows) == list(range(len(self.lengths))):
            return
        index: Any = torch.tensor(rows, device=self.lengths.device)
        self.cache.reorder_cache(index)
        self.lengths = self.lengths[index]
        self.seen = None if self.seen is None else self.seen[index]


@dataclass(kw_only=True)
class _Row:
    """Samples that are the same so far."""

    samples: list[int]
    ids: Ids = ()
    log_prob: float = 0.0


class PrefixModel:
    """A causal language model that reads prompts once, with what all of them begin with read once for all.

    `prefill` may be called for any batch of the prompts that the object was made for.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Ids], longest_response: int) -> None:
        self.model = model
        self.device = model.device
        self._positions = "position_ids" in inspect.signature(_innermost(model).forward).parameters
        kinds = DynamicCache(config=model.config).layers
        total = max(map(len, prompts), default=0) + longest_response
        # Padding inside the cache is exact only where a mask alone decides what is seen: full attention, or windows that never
        # slide. Elsewhere rows of one length are batched, without any padding.
        self.pads = self._positions and all(
            type(kind) is DynamicLayer or (type(kind) is DynamicSlidingWindowLayer and total < kind.sliding_window)
            for kind in kinds
        )
        continues = all(type(kind) in (DynamicLayer, DynamicSlidingWindowLayer) for kind in kinds)
        shared = _common_prefix(prompts) if continues and len(prompts) > 1 else ()
        self.shared: Ids = shared if len(shared) >= _SHORTEST_SHARED_PREFIX else ()
        self._shared_cache = DynamicCache(config=model.config)
        if self.shared:
            self.forward(self._shared_cache, torch.tensor([self.shared], device=self.device), None, 0, gather=torch.tensor([0]))

    def batches(self, loads: Sequence[tuple[Ids, int]], batch_size: int, rows: int) -> Iterator[list[int]]:
        """Indices of (prompt, number of rows it needs), longest prompt first, in batches that may be padded together."""
        batch: list[int] = []
        needed = 0
        for index in sorted(range(len(loads)), key=lambda i: (-len(loads[i][0]), i)):
            prompt, load = loads[index]
            alike = not batch or self.pads or len(loads[batch[0]][0]) == len(prompt)
            if batch and not (alike and len(batch) < batch_size and needed + load <= rows):
                yield batch
                batch, needed = [], 0
            batch.append(index)
            needed += load
        if batch:
            yield batch

    def prefill(self, prompts: Sequence[Ids]) -> Prefilled:
        """Read some of the prompts."""
        start = len(self.shared)
        suffixes = [prompt[start:] for prompt in prompts]
        width = max(map(len, suffixes))
        pads = torch.tensor([width - len(suffix) for suffix in suffixes], device=self.device)
        ids = torch.tensor([(0,) * (width - len(suffix)) + tuple(suffix) for suffix in suffixes], device=self.device)
        seen = None
        if int(pads.max()):
            columns = torch.arange(width, device=self.device)
            seen = torch.cat([columns.new_ones(len(prompts), start).bool(), columns >= pads[:, None]], dim=1)
        cache = copy.deepcopy(self._shared_cache)
        if start:
            every: Any = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
            cache.reorder_cache(every)
        last = torch.arange(1, len(prompts) + 1, device=self.device) * width - 1
        logits = self.forward(cache, ids, seen, start - pads, gather=last)
        return Prefilled(cache=cache, logits=logits, seen=seen, lengths=start + width - pads)

    def extend(self, state: Prefilled, ids_RT: Tensor, gather: Tensor) -> Tensor:
        """Append columns of tokens to every row; the logits at the gathered places of the flattened (R, T) columns."""
        if state.seen is not None:
            state.seen = torch.cat([state.seen, state.seen.new_ones(ids_RT.shape)], dim=1)
        logits = self.forward(state.cache, ids_RT, state.seen, state.lengths, gather=gather)
        state.lengths = state.lengths + ids_RT.shape[1]
        return logits

    def forward(self, cache: DynamicCache, ids_RT: Tensor, seen: Tensor | None, first: Tensor | int, *, gather: Tensor) -> Tensor:
        """One forward pass over new columns, whose positions begin at `first` in each row; float32 logits (N, V)."""
        rows, width = ids_RT.shape
        positions = torch.arange(width, device=self.device) + torch.as_tensor(first, device=self.device).reshape(-1, 1)
        # Padded columns may come before position 0; any valid one will do there, since nothing sees them.
        extra: dict[str, Any] = {"position_ids": positions.clamp(min=0).expand(rows, width)} if self._positions else {}
        if seen is not None:
            extra["attention_mask"] = seen.long()
        return gathered_logits(self.model, gather, input_ids=ids_RT, past_key_values=cache, use_cache=True, **extra)


def gathered_logits(model: PreTrainedModel, gather_N: Tensor, **inputs: Any) -> Tensor:
    """The model's float32 logits (N, V) at places of the flattened (B, T) hidden states; the others never meet the head.

    The states are gathered on their way into the head, so that whatever a family does after it (caps, scales) still happens.
    """

    def gather(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0].flatten(0, -2)
        return (hidden.index_select(0, gather_N.to(hidden.device))[None], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits[0].float()


@contextmanager
def inference(model: PreTrainedModel, threads: int | None = None) -> Iterator[None]:
    """Eval mode, no gradient and a number of threads, for as long as it lasts."""
    training, before = model.training, torch.get_num_threads()
    model.eval()
    if threads is not None:
        torch.set_num_threads(threads)
    # Autocast keeps the cast weights from one step to the next, but not in inference mode: there it would cast them all for every
    # token, which takes longer than float32 does.
    under_autocast = torch.is_autocast_enabled(model.device.type)
    try:
        with torch.no_grad() if under_autocast else torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        model.train(training)


def draw(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    sampling: Sampling,
    *,
    ends: frozenset[int],
    banned_first: Sequence[int] = (),
    stopped: Callable[[Ids], bool] | None = None,
    batch_size: int = 24,
    rows: int = 240,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Drawn]]:
    """`sampling.n` samples for each prompt, in order.

    ends: ids that finish a sample (they belong to it). banned_first: ids that cannot come first. stopped: says whether these ids
    hold a stop text. At most `batch_size` prompts and `rows` samples are in memory together. progress(done, total): prompts.
    """
    distinct = list(dict.fromkeys(prompts))
    prefix_model = PrefixModel(model, distinct, sampling.max_tokens)
    samples = range(sampling.skip, sampling.skip + sampling.n)
    # More samples of one prompt than fit are drawn in pieces; they are the same samples.
    pieces = [samples[at : at + rows] for at in range(0, len(samples), rows)]
    drawn: dict[Ids, list[Drawn]] = {prompt: [] for prompt in distinct}
    done = 0
    for piece in pieces:
        for batch in prefix_model.batches([(prompt, len(piece)) for prompt in distinct], batch_size, rows):
            chosen = [distinct[index] for index in batch]
            found = _draw_batch(prefix_model, chosen, piece, sampling, ends, banned_first, stopped)
            for prompt, new in zip(chosen, found, strict=True):
                drawn[prompt].extend(new)
            done += len(batch) if piece is pieces[-1] else 0
            if progress is not None:
                progress(done, len(distinct))
    return [drawn[prompt] for prompt in prompts]


def _draw_batch(
    prefix_model: PrefixModel,
    prompts: Sequence[Ids],
    samples: range,
    sampling: Sampling,
    ends: frozenset[int],
    banned_first: Sequence[int],
    stopped: Callable[[Ids], bool] | None,
) -> list[list[Drawn]]:
    state = prefix_model.prefill(prompts)
    logits = state.logits
    uniforms = np.concatenate([_uniforms(sampling.seed, prompt, samples, sampling.max_tokens) for prompt in prompts])
    finished: dict[int, Drawn] = {}
    rows = [_Row(samples=list(range(b * len(samples), (b + 1) * len(samples)))) for b in range(len(prompts))]
    for step in range(sampling.max_tokens):
        banned = banned_first if step == 0 else ()
        places, tokens, log_probs = _next_tokens(logits, rows, uniforms[:, step], sampling, banned)
        children: dict[tuple[int, int], _Row] = {}
        for row, sample, token, log_prob in zip(places, _samples(rows), tokens, log_probs, strict=True):
            child = children.get((row, token))
            if child is None:
                parent = rows[row]
                child = children[row, token] = _Row(samples=[], ids=(*parent.ids, token), log_prob=parent.log_prob + log_prob)
            child.samples.append(sample)
        parents, rows = [], []
        for (parent_row, token), child in children.items():
            stop = token in ends or (stopped is not None and stopped(child.ids))
            if stop or step + 1 == sampling.max_tokens:
                result = Drawn(ids=child.ids, log_prob=child.log_prob, finish="stop" if stop else "length")
                finished.update(dict.fromkeys(child.samples, result))
            else:
                parents.append(parent_row)
                rows.append(child)
        if not rows:
            break
        state.select(parents)
        new = torch.tensor([[row.ids[-1]] for row in rows], device=prefix_model.device)
        logits = prefix_model.extend(state, new, torch.arange(len(rows), device=new.device))
    return [[finished[b * len(samples) + s] for s in range(len(samples))] for b in range(len(prompts))]


def _samples(rows: Sequence[_Row]) -> Iterator[int]:
    for row in rows:
        yield from row.samples


def _next_tokens(
    logits_RV: Tensor, rows: Sequence[_Row], uniform_S: np.ndarray, sampling: Sampling, banned: Sequence[int]
) -> tuple[list[int], list[int], list[float]]:
    """For each sample, row by row: its row, its next token, and that token's log-probability under the untouched model (nats)."""
    places = [row for row, content in enumerate(rows) for _ in content.samples]
    place_S = torch.tensor(places, device=logits_RV.device)
    # log_softmax, not logsumexp: on a processor the latter takes ten times as long.
    log_probs_RV = logits_RV.log_softmax(dim=1)
    if bool(log_probs_RV[:, 0].isnan().any()):
        raise TeacherError(
            "the model's logits are not numbers, so nothing can be drawn from them; its weights may be damaged or its training "
            'diverged, or float16 overflowed: try dtype="float32"'
        )
    wanted = logits_RV
    if banned:
        wanted = logits_RV.index_fill(1, torch.tensor(list(banned), device=logits_RV.device), -torch.inf)
    if sampling.temperature == 0:
        token_S = wanted.argmax(dim=1)[place_S]
    else:
        # Inverse transform: the first token whose cumulative probability passes the sample's own uniform number. Rows of
        # uniforms, one row per row of logits, let one searchsorted do it without copying the logits for each sample.
        uniform_RC = np.zeros((len(rows), max(len(row.samples) for row in rows)))
        columns = [column for row in rows for column in range(len(row.samples))]
        uniform_RC[places, columns] = uniform_S[[sample for row in rows for sample in row.samples]]
        cumulative = torch.cumsum(_probabilities(wanted, sampling), dim=1)
        aims = torch.from_numpy(uniform_RC).to(logits_RV) * cumulative[:, -1:]
        # Rounding must not carry an aim up to the whole mass, where only tokens of probability zero are left.
        aims = torch.minimum(aims, torch.nextafter(cumulative[:, -1:], torch.zeros_like(cumulative[:, -1:])))
        found_RC = torch.searchsorted(cumulative, aims, right=True)
        token_S = found_RC[place_S, torch.tensor(columns, device=logits_RV.device)]
    return places, token_S.tolist(), log_probs_RV[place_S, token_S].tolist()


def _probabilities(logits_RV: Tensor, sampling: Sampling) -> Tensor:
    """What to draw from: temperature, then the top k, then the smallest set that holds top_p of what is left.

    >>> _probabilities(torch.tensor([[2.0, 1.0, 0.0, -9.0]]), Sampling(top_k=2)).round(decimals=2)
    tensor([[0.7300, 0.2700, 0.0000, 0.0000]])
    """
    scaled = logits_RV / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[1]:
        smallest = scaled.topk(sampling.top_k, dim=1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    probabilities = scaled.softmax(dim=1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
        # A token stays while the mass before it is short of top_p: the first always does.
        outside = ordered.cumsum(dim=1) - ordered >= sampling.top_p
        probabilities = probabilities.masked_fill(outside.scatter(1, order, outside), 0.0)
        probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    return probabilities


def _uniforms(seed: int, prompt: Ids, samples: range, steps: int) -> np.ndarray:
    """Uniform numbers (samples, steps) that depend on the seed, the prompt's tokens and the sample's index, on nothing else."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt))}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    streams = (np.random.Generator(np.random.Philox(key=key, counter=[0, 0, sample, 0])) for sample in samples)
    return np.stack([stream.random(steps) for stream in streams])


def _common_prefix(prompts: Sequence[Ids]) -> Ids:
    """What all prompts begin with, short of the last token of the shortest: it has to be read to predict anything."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    for place in range(limit):
        if first[place] != last[place]:
            return first[:place]
    return first[: max(limit, 0)]


def _innermost(model: torch.nn.Module) -> torch.nn.Module:
    """The model under wrappers (PEFT), whose forward names the arguments it takes."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model
