"""How given responses are scored by a local model: no state meets the head unasked.

Shape suffixes: R rows (responses), T columns, N gathered positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distill.teachers.decoding import Ids, PrefixModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Positions whose logits are in memory at once: 1024 x 49152 in float32 is 200 MB.
_POSITIONS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Nats for each token of a response and for ending the turn after it, and whether each token is the most probable one."""

    log_probs: tuple[float, ...]
    greedy: tuple[bool, ...]
    end_log_prob: float | None


def score_tokens(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    *,
    end: int | None,
    batch_size: int = 24,
    rows: int = 240,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scored]:
    """Score each (prompt, response) pair, in order. Every distinct prompt is read once, then its responses from its cache.

    end: the id that ends a turn. At most `batch_size` prompts and `rows` responses are in memory together.
    """
    wanted: dict[Ids, list[Ids]] = {}
    for prompt, response in dict.fromkeys(zip(prompts, responses, strict=True)):
        wanted.setdefault(prompt, []).append(response)
    # A prompt with more responses than fit is read again for each piece of them; long ones share a piece with long ones.
    ordered = {prompt: sorted(several, key=lambda ids: (-len(ids), ids)) for prompt, several in wanted.items()}
    pieces = [(prompt, some[at : at + rows]) for prompt, some in ordered.items() for at in range(0, len(some), rows)]
    prefix_model = PrefixModel(model, list(wanted), max(map(len, responses), default=0))

    scored: dict[tuple[Ids, Ids], Scored] = {}
    total = sum(len(several) for several in wanted.values())
    for batch in prefix_model.batches([(prompt, len(some)) for prompt, some in pieces], batch_size, rows):
        chosen = [pieces[index] for index in batch]
        scored.update(_score_batch(prefix_model, [prompt for prompt, _ in chosen], [some for _, some in chosen], end))
        if progress is not None:
            progress(len(scored), total)
    return [scored[pair] for pair in zip(prompts, responses, strict=True)]


def score_first_tokens(
    model: PreTrainedModel, prompts: Sequence[Ids], tokens: Sequence[int], *, batch_size: int = 24
) -> list[tuple[float, ...]]:
    """For each prompt the log-probability (nats) of each of the tokens as the response's first; each prompt is read once."""
    distinct = list(dict.fromkeys(prompts))
    prefix_model = PrefixModel(model, distinct, 0)
    found: dict[Ids, tuple[float, ...]] = {}
    for batch in prefix_model.batches([(prompt, 1) for prompt in distinct], batch_size, batch_size):
        chosen = [distinct[index] for index in batch]
        log_probs = prefix_model.prefill(chosen).logits.log_softmax(dim=1)[:, list(tokens)]
        found.update(zip(chosen, map(tuple, log_probs.tolist()), strict=True))
    return [found[prompt] for prompt in prompts]


def _score_batch(
    prefix_model: PrefixModel, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], end: int | None
) -> dict[tuple[Ids, Ids], Scored]:
    pairs = [(row, response) for row, several in enumerate(responses) for response in several]
    width = max(len(response) for _, response in pairs)
    log_probs = torch.zeros(len(pairs), width + 1)
    greedy = torch.zeros(len(pairs), width + 1, dtype=torch.bool)
    # Column t holds the token that column t - 1 predicts: the response, then the end of the turn.
    target = torch.full((len(pairs), width + 1), -1)
    for row, (_, response) in enumerate(pairs):
        ids = (*response, end) if end is not None else response
        target[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    state = prefix_model.prefill(prompts)
    first = state.logits[[row for row, _ in pairs]]
    log_probs[:, 0], greedy[:, 0] = _read(first, target[:, 0])
    state.select([row for row, _ in pairs])
    step = max(1, _POSITIONS_AT_ONCE // len(pairs))
    for at in range(0, width, step):
        stop = min(at + step, width)
        # A response padded on the right needs no mask: no real token comes after its padding.
        ids_RT = target[:, at:stop].clamp(min=0).to(prefix_model.device)
        following = target[:, at + 1 : stop + 1]
        gather = (following >= 0).flatten().nonzero().flatten()
        logits = prefix_model.extend(state, ids_RT, gather)
        values, best = _read(logits, following.flatten()[gather])
        place = (gather // (stop - at), at + 1 + gather % (stop - at))
        log_probs[place], greedy[place] = values, best
    scored = {}
    for row, (index, response) in enumerate(pairs):
        nats: list[float] = log_probs[row].tolist()
        scored[prompts[index], response] = Scored(
            log_probs=tuple(nats[: len(response)]),
            greedy=tuple(greedy[row, : len(response)].tolist()),
            end_log_prob=None if end is None else nats[len(response)],
        )
    return scored


def _read(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each target (nats; without meaning for -1), and whether it is the most probable token."""
    target = target_N.clamp(min=0).to(logits_NV.device)
    log_prob_N = logits_NV.log_softmax(dim=1).gather(1, target[:, None])[:, 0]
    return log_prob_N.cpu(), (logits_NV.argmax(dim=1) == target).cpu()
