"""Local teachers beside one another: how fast each answers and samples, and whether its words are to be trusted.

    python -m benchmarks.generators
    python -m benchmarks.generators --openvino SmolLM2-135M-Instruct.Q4_1.gguf   # needs openvino-genai

Questions on countries and elements (the quickstart's), SmolLM2-135M-Instruct, one thread, processor time. Greedy: tokens a
second, at most 48 for each question; `same` is the share of texts that are those of transformers in float32; `right` the share
whose first line holds an accepted answer, with its standard error. Sampling: ten answers of at most 32 tokens. CTranslate2
samples here through its own interface, for the comparison only: CTranslate2Teacher does not, since no sample could be drawn
twice. OpenVINO reads the GGUF itself and is asked one question at a time. Rows: benchmarks/results/generators.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import parser, report, target
from distill.models import EMBEDDED, load_tokenizer
from distill.recipes.facts import Fact, facts
from distill.records import Prompt
from distill.teachers.base import Sampling
from distill.teachers.ctranslate2 import CTranslate2Teacher
from distill.teachers.huggingface import HuggingFaceTeacher
from distill.template import prompt_tokens

GREEDY = Sampling(temperature=0, max_tokens=48)
TEN = Sampling(n=10, max_tokens=32)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One row. same and right are shares (0 to 1)."""

    backend: str
    greedy_tokens_per_second: float
    same: float
    right: float
    right_error: float
    questions: int
    samples_per_second: float | None = None


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds and the result."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def asked(count: int) -> list[Fact]:
    """Real questions, evenly from all of them."""
    known = [fact for fact in facts() if fact.accepted]
    return known[:: max(1, len(known) // count)][:count]


def right(fact: Fact, text: str) -> bool:
    """Whether an accepted answer is in the text's first line, as words."""
    from distill.recipes.facts import simplify

    line = f" {simplify(text.strip().splitlines()[0] if text.strip() else '')} "
    return any(f" {simplify(answer)} " in line for answer in fact.accepted)


def row(
    name: str, chosen: Sequence[Fact], seconds: float, tokens: int, texts: Sequence[str], reference: Sequence[str]
) -> Backend:
    """The greedy part of a row."""
    share = sum(map(right, chosen, texts)) / len(chosen)
    return Backend(
        backend=name,
        greedy_tokens_per_second=tokens / seconds,
        same=sum(one.strip() == other.strip() for one, other in zip(texts, reference, strict=True)) / len(texts),
        right=share,
        right_error=math.sqrt(share * (1 - share) / len(chosen)),
        questions=len(chosen),
    )


def ct2_samples(teacher: CTranslate2Teacher, prompts: Sequence[Prompt]) -> float:
    """Samples a second by CTranslate2's own sampling; see the module's docstring."""
    generator, tokenizer, ends = teacher._loaded
    tokens = [tokenizer.convert_ids_to_tokens(list(prompt_tokens(prompt, tokenizer))) for prompt in prompts]
    settings: dict[str, Any] = {"sampling_topk": 0, "num_hypotheses": TEN.n, "include_prompt_in_result": False}
    seconds, _ = timed(
        lambda: generator.generate_batch(tokens, max_length=TEN.max_tokens, end_token=sorted(ends), max_batch_size=24, **settings)
    )
    return TEN.n * len(prompts) / seconds


def openvino(gguf: str, prompts: Sequence[Prompt], threads: int) -> tuple[float, int, list[str]]:
    """OpenVINO GenAI's greedy answers."""
    import openvino_genai

    pipe = openvino_genai.LLMPipeline(gguf, "CPU", INFERENCE_NUM_THREADS=threads)
    tokenizer = load_tokenizer(EMBEDDED)
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens, settings.do_sample, settings.apply_chat_template = GREEDY.max_tokens, False, False
    settings.stop_token_ids = {tokenizer.eos_token_id}
    texts = [str(tokenizer.decode(prompt_tokens(prompt, tokenizer))) for prompt in prompts]
    pipe.generate(texts[0], settings)
    seconds, found = timed(lambda: [str(pipe.generate(text, settings)) for text in texts])
    return seconds, sum(len(tokenizer(text)["input_ids"]) + 1 for text in found), found


def main(args: Sequence[str] | None = None) -> None:
    """Measure all of them."""
    options = parser(__doc__, "generators")
    options.add_argument("--questions", type=int, default=240, help="(default: 240)")
    options.add_argument("--sampled", type=int, default=24, help="questions with ten samples each (default: 24)")
    options.add_argument("--openvino", metavar="GGUF", help="the model file for OpenVINO GenAI, which must be installed")
    chosen_options = options.parse_args(args)
    import torch

    threads = chosen_options.threads
    torch.set_num_threads(threads)
    chosen = asked(8 if chosen_options.quick else chosen_options.questions)
    prompts = [fact.prompt for fact in chosen]
    few = prompts[: 2 if chosen_options.quick else chosen_options.sampled]
    rows: list[Backend] = []
    reference: list[str] = []
    teachers: list[tuple[str, Any]] = [
        *(
            (f"transformers {dtype}", HuggingFaceTeacher(model=EMBEDDED, dtype=dtype, threads=threads))
            for dtype in ("float32", "bfloat16")
        ),
        *(
            (f"CTranslate2 {kind}", CTranslate2Teacher(model=EMBEDDED, compute_type=kind, threads=threads))
            for kind in ("float32", "int8")
        ),
    ]
    for name, teacher in teachers:
        teacher.generate(prompts[:1], Sampling(temperature=0, max_tokens=2))
        seconds, found = timed(lambda teacher=teacher: teacher.generate(prompts, GREEDY))
        texts = [several[0].text for several in found]
        reference = reference or texts
        found_row = row(name, chosen, seconds, sum(several[0].tokens for several in found), texts, reference)
        if isinstance(teacher, HuggingFaceTeacher):
            drawn, _ = timed(lambda teacher=teacher: teacher.generate(few, TEN))
            rate = TEN.n * len(few) / drawn
        else:
            rate = ct2_samples(teacher, few)
        rows.append(Backend(**{**vars(found_row), "samples_per_second": rate}))
        print(rows[-1], flush=True)
    if chosen_options.openvino:
        rows.append(row("OpenVINO GenAI, GGUF", chosen, *openvino(chosen_options.openvino, prompts, threads), reference))
    report(rows, target(chosen_options, "generators"))


if __name__ == "__main__":
    main()
