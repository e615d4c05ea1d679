"""A teacher that runs here on a GPU through vLLM: the fastest way to sample a large model that fits this machine.

Written to vLLM's published interface (LLM.generate over token ids with a list of SamplingParams) and tested with a stand-in for
it; for a model that is served already, use ServerTeacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import TeacherError
from distill.models import load_tokenizer, model_identity, resolve
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling
from distill.teachers.drawn_text import check_sampling, completion_of
from distill.template import prompt_tokens, stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class VllmTeacher(Generator):
    """A causal language model in vLLM, in this process; loaded at its first use.

    model: a hub name or a folder. dtype: as vLLM takes it; it changes the text, and so does quantization, so both are part of the
    identity. tensor_parallel_size: GPUs that share the weights. gpu_memory_utilization: share of each GPU's memory.
    max_model_len: longest prompt with its response in tokens; None leaves the model's own.

    Each sample is a request with a seed of its own, made from the sampling's seed, the prompt and the sample's number, so that
    samples do not depend on what else is asked; vLLM's prefix cache reads the prompt once all the same. vLLM's own kernels may
    round differently in another batch, so that a token on the edge can differ from one run to the next.

    Needs the package vllm, and a GPU that it supports. Raises TeacherError for avoid_start.
    """

    model: str
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model)

    @cached_property
    def _engine(self) -> Any:
        from vllm import LLM

        return LLM(
            model=resolve(self.model),
            dtype=self.dtype,
            quantization=self.quantization,
            tensor_parallel_size=self.tensor_parallel_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_model_len=self.max_model_len,
            enable_prefix_caching=True,
            trust_remote_code=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings and loads the weights itself.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def identity(self) -> Mapping[str, Any]:
        """The model and how it computes."""
        return {"teacher": "vllm", **model_identity(self.model), "dtype": self.dtype, "quantization": self.quantization}

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        """Refuse what it cannot do, before the model is loaded."""
        del log_probs  # it has them
        check_sampling(sampling)
        if sampling.avoid_start:
            raise TeacherError("VllmTeacher: vLLM bans no first token alone (avoid_start); use HuggingFaceTeacher")
        if find_spec("vllm") is None:
            raise TeacherError("VllmTeacher needs the package vllm (and a GPU that it supports): pip install 'distill[vllm]'")

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """By the tokenizer alone."""
        return [len(prompt_tokens(prompt, self._tokenizer)) for prompt in prompts]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order."""
        if not prompts or not sampling.n:
            return [[] for _ in prompts]
        self.check(sampling)
        from vllm import SamplingParams

        engine, tokenizer = self._engine, self._tokenizer
        ends = frozenset(stop_token_ids(tokenizer, None))
        greedy = sampling.temperature == 0
        numbers = range(1) if greedy else range(sampling.skip, sampling.skip + sampling.n)
        requests, settings = [], []
        for prompt in prompts:
            ids = list(prompt_tokens(prompt, tokenizer))
            for number in numbers:
                requests.append({"prompt_token_ids": ids})
                settings.append(
                    SamplingParams(
                        n=1,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        max_tokens=sampling.max_tokens,
                        seed=None if greedy else _seed(sampling.seed, ids, number),
                        stop=list(sampling.stop) or None,
                        stop_token_ids=sorted(ends),
                        logprobs=0,  # of the drawn token alone
                    )
                )
        answers = engine.generate(requests, settings, use_tqdm=False)
        if len(answers) != len(requests):
            raise TeacherError(f"vLLM gave {len(answers)} answers to {len(requests)} requests")
        found = [self._completion(answer.outputs[0], ends, sampling.stop) for answer in answers]
        each = len(numbers)
        several = [found[at : at + each] for at in range(0, len(found), each)]
        return [one * sampling.n for one in several] if greedy else several

    def _completion(self, output: Any, ends: frozenset[int], stops: Sequence[str]) -> Completion:
        log_prob = None if output.cumulative_logprob is None else min(float(output.cumulative_logprob), 0.0)
        finish: Literal["stop", "length"] = "length" if output.finish_reason == "length" else "stop"
        return completion_of(list(output.token_ids), ends, self._tokenizer, stops=stops, finish=finish, log_prob=log_prob)


def _seed(seed: int, ids: Sequence[int], number: int) -> int:
    """A seed of 63 bits for one sample of one prompt."""
    digest = hashlib.sha256(f"{seed}:{number}:{','.join(map(str, ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
