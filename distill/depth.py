"""A shallower student: some of a model's transformer blocks, in their order, as a model of its own.

Whatever the family writes down per layer (sliding windows, dense and sparse blocks) moves with its block. The new folder is
reloaded with plain transformers and compared with the model in which the other blocks are skipped, before it takes its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.errors import ConfigError, ModelError
from distill.export import (
    TOLERANCE,
    check_vacant,
    largest_difference,
    log_probs_of_probes,
    reload_and_probe,
    replace_folder,
    write_model,
)
from distill.head import decoder_blocks

# Lists with one entry per block. One that is missing here is found by the comparison, not by a user.
_PER_BLOCK = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "intermediate_size",
    "activation_sparsity_pattern",
    "layer_rope_theta",
)


def every_second(count: int) -> tuple[int, ...]:
    """Blocks 0, 2, 4, ... of `count`: DistilBERT's choice.

    >>> every_second(5)
    (0, 2, 4)

    Source: Sanh et al. 2019 (arXiv:1910.01108), section 3: the student is initialised by "taking one layer out of two".
    """
    return tuple(range(0, count, 2))


def shrink(model: str, out: str | Path, *, blocks: Sequence[int] | None = None, overwrite: bool = False) -> tuple[int, ...]:
    """Write a student made of some blocks of `model` as a plain Hugging Face folder; returns the blocks.

    model: hub name, folder, .gguf file or "smollm2-135m-instruct". blocks: which to keep, counted from 0, rising; None is
    `every_second`. Weights keep their dtype; embeddings, norm, head and tokenizer are the model's own.
    Raises ConfigError for blocks that are not there, ModelError for a family that cannot lose blocks, ExportError where
    `out` holds something.
    """
    from distill.models import load_model, load_tokenizer

    out = Path(out)
    check_vacant(out, overwrite=overwrite)
    deep, tokenizer = load_model(model), load_tokenizer(model)
    kept = every_second(len(decoder_blocks(deep)[0])) if blocks is None else tuple(blocks)
    shallow = keep_blocks(deep, kept)
    with _skipping(deep, kept):
        expected = log_probs_of_probes(deep, tokenizer)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as staging:
        folder = Path(staging, "model")
        write_model(shallow, tokenizer, folder)
        _check_same(expected, reload_and_probe(folder, tokenizer), deep)
        name = Path(model).resolve().name if Path(model).exists() else model
        (folder / "README.md").write_text(_card(name, kept, len(decoder_blocks(deep)[0])), encoding="utf-8")
        replace_folder(folder, out)
    return kept


def keep_blocks(model: PreTrainedModel, blocks: Sequence[int]) -> PreTrainedModel:
    """A new model of the same family with copies of some blocks of `model` and of everything outside the blocks.

    Raises ConfigError unless blocks rise within those there are, ModelError for a family whose blocks cannot be told apart
    or renumbered.
    """
    deep = decoder_blocks(model)[0]
    if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < len(deep):
        raise ConfigError(
            f"blocks {list(blocks)} of {type(model).__name__}: it has {len(deep)}; give at least one of 0 to {len(deep) - 1}, "
            f"rising, none twice"
        )
    shallow = _empty_like(model, blocks, len(deep))
    prefix = next(name for name, module in model.named_modules() if module is deep[0]).removesuffix("0")
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not name.startswith(prefix):
            state[name] = value
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in blocks:
            state[f"{prefix}{blocks.index(int(number))}.{rest}"] = value
    own = shallow.state_dict()
    odd = state.keys() ^ own.keys() or {name for name, value in state.items() if value.shape != own[name].shape}
    if odd:
        raise ModelError(
            f"family {model.config.model_type!r}: with {len(blocks)} of {len(deep)} blocks it has other weights, such as "
            f"{min(odd)}, so its blocks depend on their place; train a student of a config of your own instead"
        )
    shallow.load_state_dict(state)
    return shallow.eval()


def _empty_like(model: PreTrainedModel, blocks: Sequence[int], count: int) -> PreTrainedModel:
    """A model of the same class and dtype, random, with as many blocks as are kept and their per-block settings."""
    config = model.config
    if config.get_text_config() is not config:
        raise ModelError(
            f"family {config.model_type!r} is made of several models; save its language model alone and shrink that one"
        )
    settings = config.to_dict()
    for name in _PER_BLOCK:
        if isinstance(settings.get(name), list) and len(settings[name]) == count:
            settings[name] = [settings[name][block] for block in blocks]
    settings[type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(blocks)
    try:
        fewer = type(config).from_dict(settings)
    except (ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"family {config.model_type!r}: its config lists something per block that distill does not know: {error}. Train a "
            f"student of a config of your own instead"
        ) from error
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten, so nobody's seed should move for them
        shallow: Any = type(model)._from_config(fewer, dtype=model.dtype, attn_implementation=config._attn_implementation)
    shallow.generation_config = model.generation_config
    ready: PreTrainedModel = shallow
    return ready


@contextmanager
def _skipping(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """The model with every other block replaced by the identity: what the student should compute."""

    def identity(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Any) -> Any:
        hidden_BTD = inputs[0] if inputs else named["hidden_states"]
        return (hidden_BTD, *output[1:]) if isinstance(output, tuple) else hidden_BTD

    blocks = decoder_blocks(model)[0]
    handles = [
        block.register_forward_hook(identity, with_kwargs=True) for number, block in enumerate(blocks) if number not in kept
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_same(expected: Sequence[Tensor], found: Sequence[Tensor], model: PreTrainedModel) -> None:
    difference = largest_difference(expected, found)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"family {model.config.model_type!r}: the student differs by {difference:.3g} nats in a log-probability from the "
            f"model with the other blocks skipped (allowed: {TOLERANCE}), so its blocks depend on their place. Keep blocks at "
            f"the same place in the family's pattern, or train a student of a config of your own"
        )


def _card(name: str, kept: Sequence[int], count: int) -> str:
    return f"""# {len(kept)} of the {count} blocks of {name}

Blocks {", ".join(map(str, kept))} (counted from 0) with the embeddings, the final norm and the head of {name}: a student to be
trained, useless before. Made by `distill shrink`.
"""
