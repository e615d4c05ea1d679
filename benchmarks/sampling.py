"""Ten answers to a question: HuggingFaceTeacher beside transformers' `generate` with num_return_sequences=10.

    python -m benchmarks.sampling

24 of the quickstart's questions, ten samples each at temperature 1, at most 32 tokens, on SmolLM2-135M-Instruct in float32 and
bfloat16, one thread; about 15 minutes. Both read the same prompt tokens, sample from the whole distribution, and end a sample
at the model's end of turn; `generate` gets its prompts in batches of `--peer_prompts`, since it keeps a cache of the prompt for
every sample. Both draw from the same distribution but not the same samples, so compare samples per second, here and nowhere
else: a rate from another machine or minute is another rate. Rows: benchmarks/results/sampling.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Row, in_turns, parser, report, target
from distill.models import load_model, load_tokenizer
from distill.recipes.facts import facts
from distill.records import Prompt
from distill.teachers.base import Sampling
from distill.teachers.huggingface import HuggingFaceTeacher
from distill.template import prompt_tokens, stop_token_ids


class Peer:
    """transformers' own way: the prompts padded on the left, each repeated for its samples."""

    def __init__(self, model: Any, tokenizer: Any, *, prompts: int) -> None:
        self.model, self.tokenizer, self.prompts = model, tokenizer, prompts
        self.ends = sorted(stop_token_ids(tokenizer, model.generation_config))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[str]:
        texts = []
        for start in range(0, len(prompts), self.prompts):
            ids = [prompt_tokens(prompt, self.tokenizer) for prompt in prompts[start : start + self.prompts]]
            width = max(map(len, ids))
            input_ids_BT = torch.tensor([[self.ends[0]] * (width - len(one)) + list(one) for one in ids])
            attention_mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
            output = self.model.generate(
                input_ids=input_ids_BT,
                attention_mask=attention_mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,
                num_return_sequences=sampling.n,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=self.ends,
                pad_token_id=self.ends[0],
            )
            texts += self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return texts


def run(
    student: str, *, questions: int, sampling: Sampling, peer_prompts: int, repeats: int, precisions: Sequence[str]
) -> list[Row]:
    """The rows of all precisions."""
    prompts = [fact.prompt for fact in facts() if fact.split == "train"][:questions]
    rows = []
    for precision in precisions:
        model = load_model(student, dtype={"fp32": "float32", "bf16": "bfloat16"}[precision])
        tokenizer = load_tokenizer(student)
        teacher = HuggingFaceTeacher.from_loaded(model, tokenizer, student)
        peer = Peer(model, tokenizer, prompts=peer_prompts)
        samples = len(prompts) * sampling.n
        ours, theirs = (
            statistics.median(times)
            for times in in_turns(
                partial(teacher.generate, prompts, sampling), partial(peer.generate, prompts, sampling), repeats=repeats
            )
        )
        rows.append(
            Row(
                work=f"{len(prompts)} questions x {sampling.n} samples",
                precision=precision,
                ours_ms=ours,
                peer=f"transformers generate, {peer_prompts} prompts at a time",
                peer_ms=theirs,
                ratio=theirs / ours,
                ours_per_second=1000 * samples / ours,
                peer_per_second=1000 * samples / theirs,
            )
        )
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    built = parser(__doc__, "sampling")
    built.add_argument("--student", default="smollm2-135m-instruct", help="model that is sampled")
    built.add_argument("--peer_prompts", type=int, default=8, help="prompts in one call of generate (default: 8)")
    options = built.parse_args(args)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = run(
        options.student,
        questions=2 if options.quick else 24,
        sampling=Sampling(n=10, max_tokens=4 if options.quick else 32),
        peer_prompts=options.peer_prompts,
        repeats=1 if options.quick else options.repeats,
        precisions=("fp32", "bf16"),
    )
    report(rows, target(options, "sampling"))


if __name__ == "__main__":
    main()
