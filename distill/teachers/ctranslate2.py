"""A teacher that runs on the processor through CTranslate2: greedy answers, in float32 word for word those of transformers.

Greedy only: CTranslate2 has one stream of random numbers for all requests and no way to set it for one of them, so that a
sample would depend on what was asked before it, and a resumed recipe would not draw what an uninterrupted one draws.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import TeacherError
from distill.models import cache_folder, load_tokenizer, model_identity, resolve
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling
from distill.teachers.drawn_text import check_sampling, completion_of, cut, said
from distill.template import prompt_tokens, stop_token_ids

if TYPE_CHECKING:
    from ctranslate2 import GenerationStepResult
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class CTranslate2Teacher(Generator):
    """A local causal language model as greedy generator, converted once and loaded at its first use.

    model: a hub name, a folder or "smollm2-135m-instruct". compute_type: "float32" says what transformers says in float32;
    "int8" is faster and another model, so it is part of the identity (measured: docs/reference/generators.md). batch_size:
    prompts read together. threads: of the processor.

    Needs the extra `ctranslate2`. Raises TeacherError for a temperature above 0 and for avoid_start.
    """

    model: str
    compute_type: Literal["float32", "int8", "int8_float32", "int16", "bfloat16"] = "float32"
    batch_size: int = 24
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        if min(self.batch_size, self.threads) < 1:
            raise TeacherError(f"batch_size {self.batch_size} and threads {self.threads}: give at least 1 of each")

    @cached_property
    def _loaded(self) -> tuple[Any, PreTrainedTokenizerBase, frozenset[int]]:
        import ctranslate2
        from transformers import GenerationConfig

        source = resolve(self.model)
        tokenizer = load_tokenizer(self.model)
        settings = GenerationConfig.from_pretrained(source) if (Path(source) / "generation_config.json").is_file() else None
        ends = frozenset(stop_token_ids(tokenizer, settings))
        if self.compute_type not in ctranslate2.get_supported_compute_types("cpu"):
            known = ", ".join(sorted(ctranslate2.get_supported_compute_types("cpu")))
            raise TeacherError(f"compute_type {self.compute_type!r}: this processor has {known}")
        folder = _converted(self.model, source)
        generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=self.compute_type, inter_threads=1, intra_threads=self.threads
        )
        return generator, tokenizer, ends

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings and loads the weights itself.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def identity(self) -> Mapping[str, Any]:
        """The model and how it computes."""
        return {"teacher": "ctranslate2", **model_identity(self.model), "compute_type": self.compute_type}

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        """Refuse what it cannot do, before the model is converted."""
        del log_probs  # it has them
        check_sampling(sampling)
        if sampling.temperature != 0:
            raise TeacherError(
                f"CTranslate2Teacher: temperature is {sampling.temperature}, and CTranslate2 cannot draw the same sample twice "
                "(its random numbers have no seed for one request); set temperature 0, or sample with HuggingFaceTeacher"
            )
        if sampling.avoid_start:
            raise TeacherError("CTranslate2Teacher: avoid_start cannot be had of CTranslate2; use HuggingFaceTeacher")
        if find_spec("ctranslate2") is None:
            raise TeacherError("CTranslate2Teacher needs the package ctranslate2: pip install 'distill[ctranslate2]'")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """The greedy answer to each prompt, `sampling.n` times, in order. log_prob is float32's sum, the end of turn included."""
        if not prompts:
            return []
        self.check(sampling)
        tokenizer = self._loaded[1]
        ids = {prompt: tuple(prompt_tokens(prompt, tokenizer)) for prompt in dict.fromkeys(prompts)}
        # Of one length: while prompts in a batch end at different places, CTranslate2 reads the longer ones token by token.
        ordered = sorted(ids, key=lambda prompt: (len(ids[prompt]), ids[prompt]))
        answers: dict[Prompt, Completion] = {}
        start = 0
        while start < len(ordered):
            stop = start + 1
            while stop < min(len(ordered), start + self.batch_size) and len(ids[ordered[stop]]) == len(ids[ordered[start]]):
                stop += 1
            some = ordered[start:stop]
            answers.update(zip(some, self._answers([ids[prompt] for prompt in some], sampling), strict=True))
            start = stop
        return [[answers[prompt]] * sampling.n for prompt in prompts]

    def _answers(self, ids: Sequence[tuple[int, ...]], sampling: Sampling) -> list[Completion]:
        generator, tokenizer, ends = self._loaded
        log_probs = [0.0] * len(ids)
        drawn: list[list[int]] = [[] for _ in ids]

        def step(result: GenerationStepResult) -> bool:
            row = result.batch_id
            drawn[row].append(result.token_id)
            log_probs[row] += result.log_prob
            return bool(sampling.stop) and cut(said(drawn[row], ends, tokenizer), sampling.stop)[1]

        generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(list(one)) for one in ids],
            max_length=sampling.max_tokens,
            sampling_topk=1,
            end_token=sorted(ends),
            include_prompt_in_result=False,
            return_scores=True,  # else the callback is given none
            callback=step,
        )
        completions = []
        for tokens, log_prob in zip(drawn, log_probs, strict=True):
            stopped = cut(said(tokens, ends, tokenizer), sampling.stop)[1] or (bool(tokens) and tokens[-1] in ends)
            finish: Literal["stop", "length"] = "stop" if stopped else "length"
            completions.append(
                completion_of(tokens, ends, tokenizer, stops=sampling.stop, finish=finish, log_prob=min(log_prob, 0.0))
            )
        return completions


def _converted(name: str, source: str) -> Path:
    """The model in CTranslate2's own format, float32; made once from safetensors, whole or not there at all."""
    import ctranslate2.converters

    identity = model_identity(name)
    parent = cache_folder() / "ctranslate2"
    folder = parent / f"{Path(source).name[:40]}-{(identity.get('sha256') or identity['revision'])[:16]}"
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parent) as unfinished:
        work = Path(unfinished) / "model"
        print(f"distill: converting {name} for CTranslate2, once ...", file=sys.stderr, flush=True)
        try:
            ctranslate2.converters.TransformersConverter(source, trust_remote_code=False).convert(str(work))
        except (ValueError, RuntimeError, KeyError) as error:
            raise TeacherError(f"{name}: CTranslate2 cannot convert this model ({error}); use HuggingFaceTeacher") from error
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder
