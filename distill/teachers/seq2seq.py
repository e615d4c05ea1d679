"""A text-to-text teacher that runs here: any encoder with a decoder (T5, BART, ...) that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import TeacherError
from distill.models import load_seq2seq_model, load_tokenizer, model_identity
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Seq2SeqTeacher(Generator):
    """A local text-to-text model as generator; loaded at its first use, from safetensors only, without remote code.

    Its input is the contents of the prompt's messages, joined by a newline: such models know no chat. model: a hub name or a
    folder. beams: at temperature 0, how many hypotheses a beam search keeps (1: greedy); `sampling.n` completions are then the
    n best ones. dtype, device: as in HuggingFaceTeacher, but float32 by default: T5 loses words in half precision.
    batch_size: prompts read together; changes no more than rounding does.
    """

    model: str
    beams: int = 1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse a search without hypotheses."""
        if self.beams < 1:
            raise TeacherError(f"beams is {self.beams}; give 1 for greedy decoding, or more for a beam search")

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_seq2seq_model(self.model, dtype=self.dtype, device=self.device), load_tokenizer(self.model)

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings and loads the weights itself.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def identity(self) -> Mapping[str, Any]:
        """The model, its precision and its search."""
        import torch

        from distill.models import preferred_device, preferred_dtype

        device = preferred_device() if self.device == "auto" else torch.device(self.device)
        dtype = str(preferred_dtype(device)).removeprefix("torch.") if self.dtype == "auto" else self.dtype
        return {"teacher": "seq2seq", **model_identity(self.model), "dtype": dtype, "beams": self.beams}

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        """Refuse more completions than the beam search has hypotheses."""
        wanted = sampling.n + sampling.skip
        if sampling.temperature == 0 and 1 < self.beams < wanted:
            raise TeacherError(f"{wanted} completions are asked of {self.beams} beams; raise beams, or sample with a temperature")
        if sampling.temperature < 0 or sampling.n < 1 or sampling.max_tokens < 1:
            raise TeacherError(f"{sampling}: temperature must be >= 0, n and max_tokens at least 1")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt; one prompt's do not depend on the others of its batch."""
        self.check(sampling)
        texts = list(dict.fromkeys("\n".join(message.content for message in prompt) for prompt in prompts))
        found: dict[str, list[Completion]] = {}
        for at in range(0, len(texts), self.batch_size):
            batch = texts[at : at + self.batch_size]
            found.update(zip(batch, self._generate(batch, sampling), strict=True))
        return [list(found["\n".join(message.content for message in prompt)]) for prompt in prompts]

    def _generate(self, texts: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        import torch

        model, tokenizer = self._loaded
        # A control token's text stays text.
        read = tokenizer(list(texts), return_tensors="pt", padding=True, split_special_tokens=True).to(model.device)
        inputs = {name: read[name] for name in ("input_ids", "attention_mask")}
        greedy, best = sampling.temperature == 0, sampling.n + sampling.skip
        rows = 1 if greedy and self.beams == 1 else best if greedy else sampling.n
        settings: dict[str, Any] = {"num_beams": self.beams, "num_return_sequences": rows} if greedy and self.beams > 1 else {}
        if not settings:
            inputs = {name: value.repeat_interleave(rows, dim=0) for name, value in inputs.items()}
            settings = {"num_beams": 1, "logits_processor": self._processors(texts, rows, sampling)}
        first = [tokenizer(text, add_special_tokens=False)["input_ids"][:1] for text in sampling.avoid_start]
        if banned := sorted({token for ids in first for token in ids}):
            settings["begin_suppress_tokens"] = banned
        with torch.inference_mode():
            written = model.generate(  # type: ignore[operator]
                **inputs, do_sample=False, max_new_tokens=sampling.max_tokens, **settings
            )
            completions = self._completions(inputs, written, sampling)
        several = [completions[at : at + rows] for at in range(0, len(completions), rows)]
        if greedy:
            return [some * sampling.n if self.beams == 1 else some[sampling.skip :] for some in several]
        return several

    def _processors(self, texts: Sequence[str], rows: int, sampling: Sampling) -> Any:
        """What makes greedy decoding a draw: temperature, cuts, and Gumbel noise of each row's own stream."""
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        if sampling.temperature == 0:
            return LogitsProcessorList()
        chain: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
        if sampling.top_k:
            chain.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            chain.append(TopPLogitsWarper(sampling.top_p))
        seeds = [_seed(sampling.seed, text, sampling.skip + index) for text in texts for index in range(rows)]
        return LogitsProcessorList([*chain, _gumbel(seeds)])

    def _completions(self, inputs: Mapping[str, Tensor], written: Tensor, sampling: Sampling) -> list[Completion]:
        """Texts with their log-probabilities, from one pass over what was written: the same for every way to search."""
        import torch

        model, tokenizer = self._loaded
        ends = _ids(model.generation_config.eos_token_id) | _ids(tokenizer.eos_token_id)
        each = len(written) // len(inputs["input_ids"])
        rows = {name: value.repeat_interleave(each, dim=0) for name, value in inputs.items()}
        logits = model(**rows, decoder_input_ids=written[:, :-1]).logits.float()
        log_probs = torch.log_softmax(logits, dim=-1).gather(2, written[:, 1:, None])[:, :, 0]
        found = []
        for row, scores in zip(written[:, 1:].tolist(), log_probs.tolist(), strict=True):
            stop = next((place + 1 for place, token in enumerate(row) if token in ends), None)
            ids = row[:stop]
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            places = [place for mark in sampling.stop if (place := text.find(mark)) >= 0]
            found.append(
                Completion(
                    text=text[: min(places)] if places else text,
                    tokens=len(ids),
                    finish="length" if stop is None and not places else "stop",
                    log_prob=sum(scores[: len(ids)]),
                )
            )
        return found


def _ids(token: int | list[int] | None) -> set[int]:
    return set() if token is None else {token} if isinstance(token, int) else set(token)


def _seed(seed: int, text: str, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}:{text}".encode()).digest()[:8], "big")


def _gumbel(seeds: Sequence[int]) -> Any:
    """A logits processor: the largest of logits plus Gumbel noise is a draw from their softmax, row by row."""
    import numpy as np
    import torch

    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]

    def add(input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([stream.gumbel(size=scores.shape[-1]) for stream in streams])
        return scores + torch.from_numpy(noise).to(scores)

    return add
