"""One optimiser step: StudentModule's computation beside plain rows with full logits, as Hugging Face computes them.

    python -m benchmarks.step

The same records, the quickstart's questions with one right and two wrong answers each, likelihood and unlikelihood, gradients and
fused AdamW, on SmolLM2-135M-Instruct in float32 and under bfloat16 autocast: twelve questions alone, then four with eight solved
examples before each. Ours: one row per question with its answers behind one copy of the prompt, and the head on the supervised
positions only. Peer: a padded row per answer, logits (B, T, V) as float32, one cross-entropy for all supervised tokens, and
log(1 - p) of the wrong ones clamped. Every measurement is a process of its own, so that its peak memory is its own; the two
ways take turns. One thread, about 20 minutes. Losses of both are printed: in float32 they agree to a thousandth (the clamp and
the rounding of 1 - p act on few of these tokens), or the benchmark stops. Rows: benchmarks/results/step.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import Row, parser, peak_memory_mb, report, target

SHOTS, WEIGHT = 8, 0.2
QUESTIONS = {0: 12, SHOTS: 4}  # by examples before the question: the peer needs about 10 GB for four long ones
WAYS = ("ours", "peer")
PEER = "plain rows, full logits"


def groups(tokenizer: Any, *, questions: int, shots: int) -> list[list[Any]]:
    """Rendered examples by question: its answer, and two answers of other questions of the same topic as negatives."""
    from distill.quickstart.facts import facts
    from distill.records import Message, Record, Span
    from distill.render import render

    known = [fact for fact in facts() if fact.topic == "capital" and fact.split == "train"][: questions + shots]
    asked, solved = known[:questions], known[questions:]
    examples = [
        message
        for fact in solved
        for message in (*fact.prompt, Message(role="assistant", content=fact.respond(f" {fact.accepted[0]}")))
    ]
    found = []
    for place, fact in enumerate(asked):
        names = [f" {asked[(place + step) % questions].accepted[0]}" for step in range(3)]
        records = [
            Record(
                id=f"{fact.id}/{number}",
                group=fact.id,
                prompt=(*examples, *fact.prompt),
                response=fact.respond(name),
                polarity="negative" if number else "positive",
                # The wrong name alone is penalised, not the opening that the right answer shares, nor the full stop.
                spans=(Span(start=len(fact.start), end=len(fact.respond(name)) - 1, polarity="negative"),) if number else (),
            )
            for number, name in enumerate(names)
        ]
        found.append([render(record, tokenizer) for record in records])
    return found


def ours(model: Any, rendered: list[list[Any]], pad_id: int) -> Callable[[], Any]:
    """The loss as StudentModule computes it."""
    from distill.head import objective_values
    from distill.objectives import Likelihood, Unlikelihood, reduce
    from distill.rows import shared_rows

    objectives = {"likelihood": Likelihood(), "unlikelihood": Unlikelihood(weight=WEIGHT)}

    def loss() -> Any:
        batch = shared_rows(rendered, pad_id)
        values, _ = objective_values(model, batch, objectives)
        return sum(objective.weight * reduce(values[name], batch.targets) for name, objective in objectives.items())

    return loss


def peer(model: Any, rendered: list[list[Any]], pad_id: int) -> Callable[[], Any]:
    """The same loss from full logits, with labels of -100 where nothing is learned."""
    import torch
    import torch.nn.functional as F

    rows = [example for group in rendered for example in group]

    def loss() -> Any:
        width = max(map(len, rows))
        input_ids_BT = torch.full((len(rows), width), pad_id)
        attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
        labels_BT = torch.full((len(rows), width), -100)
        negative_BT = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, example in enumerate(rows):
            length, ids = len(example), torch.tensor(example.token_ids)
            input_ids_BT[row, :length], attention_mask[row, :length] = ids, 1
            supervised = torch.tensor(example.weight) > 0
            labels_BT[row, :length][supervised] = ids[supervised]
            negative_BT[row, :length] = torch.tensor(example.negative)
        logits_BTV = model(input_ids=input_ids_BT, attention_mask=attention_mask, use_cache=False).logits.float()
        target_N, negative_N = labels_BT[:, 1:].flatten(), negative_BT[:, 1:].flatten()
        nats_N = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), target_N, ignore_index=-100, reduction="none")
        up_N = (target_N >= 0) & ~negative_N
        down_N = (target_N >= 0) & negative_N
        penalty_N = -torch.log((1 - torch.exp(-nats_N[down_N])).clamp(min=1e-5))
        return nats_N[up_N].mean() + WEIGHT * penalty_N.mean()

    return loss


def measure(way: str, student: str, precision: str, *, questions: int, shots: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each step, the first step's loss, and peak memory, in this process."""
    import torch

    from distill.models import load_model, load_tokenizer

    model, tokenizer = cast(Any, load_model(student, dtype="float32")).train(), load_tokenizer(student)
    rendered = groups(tokenizer, questions=questions, shots=shots)
    pad_id = tokenizer.pad_token_id or 0
    loss_of = {"ours": ours, "peer": peer}[way](model, rendered, pad_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)  # rate 0: every step is the first one
    times, losses = [], []
    for turn in range(1 + repeats):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if turn:
            times.append(1000 * (time.perf_counter() - start))
    return {"ms": times, "loss": losses[0], "peak_mb": peak_memory_mb()}


def in_a_process(way: str, precision: str, shots: int, repeats: int, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", "--way", way, "--precision", precision, "--shots", str(shots)]
    command += ["--student", options.student, "--threads", str(options.threads), "--repeats", str(repeats)]
    command += ["--quick"] if options.quick else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(options: argparse.Namespace) -> list[Row]:
    """All comparisons; each way of one is measured in two processes, in turns."""
    works = [(0, "fp32")] if options.quick else [(shots, precision) for shots in (0, SHOTS) for precision in ("fp32", "bf16")]
    rows = []
    for shots, precision in works:
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        rounds = 1 if options.quick else 2
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(in_a_process(way, precision, shots, -(-options.repeats // rounds), options))
        loss, peer_loss = (found[way][0]["loss"] for way in WAYS)
        print(f"{precision}, {shots} examples before the question: loss {loss:.6f} (ours), {peer_loss:.6f} (peer)", flush=True)
        if precision == "fp32" and abs(loss - peer_loss) > 1e-3 * abs(peer_loss):
            raise SystemExit("the two ways do not compute the same loss; their times cannot be compared")
        ours_ms, peer_ms = (statistics.median([ms for one in found[way] for ms in one["ms"]]) for way in WAYS)
        rows.append(
            Row(
                work=f"step, {_questions(options, shots)} questions, {shots} examples before each",
                precision=precision,
                ours_ms=ours_ms,
                peer=PEER,
                peer_ms=peer_ms,
                ratio=peer_ms / ours_ms,
                ours_peak_mb=max(one["peak_mb"] for one in found["ours"]),
                peer_peak_mb=max(one["peak_mb"] for one in found["peer"]),
            )
        )
    return rows


def _questions(options: argparse.Namespace, shots: int) -> int:
    return 3 if options.quick else QUESTIONS[shots]


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark, or with --way one measurement of it."""
    built = parser(__doc__, "step")
    built.add_argument("--student", default="smollm2-135m-instruct", help="model that is trained")
    built.add_argument("--way", choices=WAYS, help="measure one way in this process and print JSON")
    built.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of that measurement")
    built.add_argument(
        "--shots", type=int, choices=tuple(QUESTIONS), default=0, help="solved examples before the question, of that measurement"
    )
    options = built.parse_args(args)
    if options.way is None:
        report(run(options), target(options, "step"))
        return
    import torch

    torch.set_num_threads(options.threads)
    questions = _questions(options, options.shots)
    found = measure(
        options.way, options.student, options.precision, questions=questions, shots=options.shots, repeats=options.repeats
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
