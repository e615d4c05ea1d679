"""A teacher that runs here: any causal language model that transformers loads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import TeacherError
from distill.models import load_model, load_tokenizer, model_identity
from distill.records import Prompt
from distill.teachers.base import Chooser, Completion, Generator, Sampling, Scorer, TokenScores
from distill.teachers.drawn_text import check_sampling, completion_of, cut, said
from distill.template import end_of_turn, prompt_tokens, response_tokens, stop_token_ids, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.teachers.decoding import Drawn

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class HuggingFaceTeacher(Generator, Scorer, Chooser):
    """A local causal language model as generator, scorer and chooser; loaded at its first use.

    model: a hub name, a folder, a .gguf file or "smollm2-135m-instruct" (see distill.models). dtype: "auto" is bfloat16 where
    the device computes in it natively, else float32; it changes the last digits of every probability, so it is part of the
    identity. device: "auto" is the accelerator where there is one. batch_size: prompts read together; rows: samples or
    responses in memory together; both trade memory for speed and change no more than rounding does. threads: of the
    processor, None leaves torch's own choice.
    """

    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    batch_size: int = 24
    rows: int = 240
    threads: int | None = None

    @classmethod
    def from_loaded(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, *, batch_size: int = 24, rows: int = 240
    ) -> HuggingFaceTeacher:
        """A teacher around a model that is in memory already, a student in training for example; `name` is for its identity.

        The model is used where it is and as it is: its mode (training or eval) is put back after each call.
        """
        teacher = cls(model=name, batch_size=batch_size, rows=rows)
        teacher.__dict__["_loaded"] = (model, tokenizer)
        teacher.__dict__["_in_memory"] = True
        return teacher

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return load_model(self.model, dtype=self.dtype, device=self.device), load_tokenizer(self.model)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded[1] if "_loaded" in self.__dict__ else load_tokenizer(self.model)

    @cached_property
    def _in_memory(self) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings and loads the weights itself, unless they exist in memory only.
        return dict(self.__dict__) if self._in_memory else {field.name: getattr(self, field.name) for field in fields(self)}

    def identity(self) -> Mapping[str, Any]:
        """The model and its precision; for a model in memory a hash of its weights as they are now."""
        if self._in_memory:
            model = self._loaded[0]
            return {"teacher": "huggingface", "model": self.model, "sha256": _weights_digest(model), "dtype": _name(model.dtype)}
        import torch

        from distill.models import preferred_device, preferred_dtype

        device = preferred_device() if self.device == "auto" else torch.device(self.device)
        dtype = _name(preferred_dtype(device)) if self.dtype == "auto" else self.dtype
        return {"teacher": "huggingface", **model_identity(self.model), "dtype": dtype}

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; progress(done, total) counts distinct prompts.

        Raises TeacherError for settings that cannot be sampled with, or a prompt with the response longer than the model reads.
        """
        from distill.teachers.decoding import draw, inference

        check_sampling(sampling)
        if not prompts:
            return []
        model, tokenizer = self._loaded
        ids = self._prompt_ids(prompts, sampling.max_tokens)
        ends = frozenset(stop_token_ids(tokenizer, model.generation_config))
        first_tokens = (response_tokens(text, tokenizer)[:1] for text in sampling.avoid_start)
        stopped = (lambda drawn: cut(said(drawn, ends, tokenizer), sampling.stop)[1]) if sampling.stop else None
        with inference(model, self.threads):
            found = draw(
                model,
                ids,
                sampling,
                ends=ends,
                banned_first=sorted({token for first in first_tokens for token in first}),
                stopped=stopped,
                batch_size=self.batch_size,
                rows=self.rows,
                progress=progress,
            )
        completions: dict[Drawn, Completion] = {}
        for drawn in {one for several in found for one in several}:
            completions[drawn] = completion_of(
                drawn.ids, ends, tokenizer, stops=sampling.stop, finish=drawn.finish, log_prob=drawn.log_prob
            )
        return [[completions[drawn] for drawn in several] for several in found]

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """By the tokenizer alone; the weights are not loaded for it."""
        return [len(prompt_tokens(prompt, self._tokenizer)) for prompt in prompts]

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, progress: Progress | None = None
    ) -> list[TokenScores]:
        """log p of every token of each response, and of ending the turn after it; a prompt with many responses is read once."""
        if len(prompts) != len(responses):
            raise TeacherError(f"score got {len(prompts)} prompts and {len(responses)} responses; expected one response a prompt")
        if not prompts:
            return []
        from distill.teachers.decoding import inference
        from distill.teachers.scoring import score_tokens

        model, tokenizer = self._loaded
        texts = dict.fromkeys(responses)
        tokens = {text: tuple(response_tokens(text, tokenizer)) for text in texts}
        ids = self._prompt_ids(prompts, max(map(len, tokens.values())))
        layout = end_of_turn(tokenizer)
        with inference(model, self.threads):
            scored = score_tokens(
                model,
                ids,
                [tokens[text] for text in responses],
                end=layout.ids[layout.supervised - 1] if layout.supervised else None,
                batch_size=self.batch_size,
                rows=self.rows,
                progress=progress,
            )
        pieces = {text: tuple(token_texts(tokens[text], tokenizer)) for text in texts}
        return [
            TokenScores(tokens=pieces[text], log_probs=one.log_probs, greedy=one.greedy, end_log_prob=one.end_log_prob)
            for text, one in zip(responses, scored, strict=True)
        ]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """For each prompt the log-probability (nats) of each option's first token, as a server reports it.

        Raises TeacherError where two options begin with one token, or an option has none.
        """
        if not prompts:
            return []
        from distill.teachers.decoding import inference
        from distill.teachers.scoring import score_first_tokens

        model, tokenizer = self._loaded
        first = [tuple(response_tokens(option, tokenizer)[:1]) for option in options]
        if not all(first) or len(set(first)) < len(first):
            raise TeacherError(
                f"the options {list(options)} begin with the tokens {[token_texts(one, tokenizer) for one in first]} of "
                f"{self.model!r}; give options that begin with different tokens, such as Yes and No"
            )
        ids = self._prompt_ids(prompts, 1)
        with inference(model, self.threads):
            return score_first_tokens(model, ids, [token for one in first for token in one], batch_size=self.batch_size)

    def _prompt_ids(self, prompts: Sequence[Prompt], longest_response: int) -> list[tuple[int, ...]]:
        model, tokenizer = self._loaded
        known = {prompt: tuple(prompt_tokens(prompt, tokenizer)) for prompt in dict.fromkeys(prompts)}
        limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        for prompt, ids in known.items():
            if limit is not None and len(ids) + longest_response > limit:
                raise TeacherError(
                    f"prompt {prompt[-1].content[:60]!r}...: {len(ids)} tokens and {longest_response} of response pass the "
                    f"{limit} that {self.model!r} reads; shorten it or lower max_tokens"
                )
        return [known[prompt] for prompt in prompts]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _weights_digest(model: PreTrainedModel) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
