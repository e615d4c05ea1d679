"""What a stored teacher costs and what it loses: bytes a token, the error of the forward KL's gradient, the speed of reading.

    python -m benchmarks.signals --text ../shared/data/wikitext2/wikitext2_train_5k.txt

Teacher: --teacher (SmolLM2-135M-Instruct); student: the teacher without one block in its middle, whose divergence from it is
printed. A few hundred tokens of paragraphs; one thread, about 3 minutes. The gradient is that in the student's logits, by
distill's ForwardKL on what StoredTeacher reads back, against the float64 closed form p - q on the live teacher's logits:

- error, error_p90: median and 90th percentile over the positions of |stored - live| / |live|.
- size: the stored gradient's component along the live one, over all positions; 1 where it is unbiased.

Renormalised top-k, the bad example, is the same top-k without the mass of the rest, scaled to sum to 1. A sampled signal has no
other temperature than 1. Reading: random batches of a folder written for it, from the page cache, per token and as MB of signal.
Rows: benchmarks/results/signals.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import parser, report, target
from distill.cli.signal import signal_command
from distill.depth import keep_blocks
from distill.head import decoder_blocks, supervised_logits
from distill.models import load_model, load_tokenizer
from distill.objectives import ForwardKL
from distill.objectives.base import DeferredSignal, Targets, TeacherSignal
from distill.records import Message, Record, read_records, write_records
from distill.render import Example, render
from distill.rows import Batch, plain_rows
from distill.teachers.logits import LiveStudent
from distill.teachers.signal_store import SequenceSignal, SignalReader, SignalSettings, read_signal_manifest
from distill.teachers.signal_writer import SignalWriter
from distill.teachers.stored import StoredSignal, StoredTeacher

# What is stored, and what is renormalised to show why it should not be.
SIGNALS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("exact, float16", ("--kind", "exact"), False),
    ("exact, bfloat16", ("--kind", "exact", "--store_dtype", "bfloat16"), False),
    ("top 64 and rest, float16", ("--kind", "top_k", "--k", "64"), False),
    ("top 64 and rest, float32", ("--kind", "top_k", "--k", "64", "--store_dtype", "float32"), False),
    ("top 64 renormalised", ("--kind", "top_k", "--k", "64"), True),
    ("64 draws", ("--kind", "sampled", "--k", "64"), False),
    ("50 draws", ("--kind", "sampled", "--k", "50"), False),
)


@dataclass(frozen=True, kw_only=True)
class SignalRow:
    """One kind of signal. bytes: per supervised token, everything in the shards; the teacher's head, once a folder, is apart.

    error_1, error_2: median relative error of the gradient at temperature 1 and 2; null where the signal has no such temperature.
    """

    signal: str
    bytes: float
    error_1: float
    error_1_p90: float
    size_1: float
    error_2: float | None
    error_2_p90: float | None
    size_2: float | None


@dataclass(frozen=True, kw_only=True)
class ReadRow:
    """Reading one kind, batches of `sequences` sequences in random order: medians."""

    read: str
    sequences: int
    mb_per_second: float
    microseconds_per_token: float


def paragraphs(text: Path, count: int) -> Iterator[Record]:
    """Paragraphs of 200 to 600 characters, as answers."""
    found = (line.strip() for line in text.read_text(encoding="utf-8").splitlines())
    ask = (Message(role="user", content="Write a paragraph of an encyclopedia."),)
    for number, line in enumerate([line for line in found if 200 <= len(line) <= 600][:count]):
        yield Record(id=f"p{number}", group=f"p{number}", prompt=ask, response=line, polarity="positive")


def gradient(logits_NV: Tensor, signal: TeacherSignal | DeferredSignal, targets: Targets, temperature: float) -> Tensor:
    """Of ForwardKL, in float64."""
    leaf_NV = logits_NV.clone().requires_grad_()
    told = replace(targets, teacher=signal).materialised()
    value_N = ForwardKL(temperature=temperature)(leaf_NV, told).value_N
    return torch.autograd.grad(value_N.sum(), leaf_NV)[0].double()


def true_gradient(logits_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor:
    """T (p - q): the factor T squared of the value, and one over T of the chain rule."""
    return temperature * ((logits_NV.double() / temperature).softmax(1) - (teacher_NV.double() / temperature).softmax(1))


def renormalised(signal: TeacherSignal) -> TeacherSignal:
    """The bad example: the rest's mass is given to the k."""
    return replace(signal, log_probs_NK=signal.log_probs_NK.log_softmax(1), rest_N=torch.full_like(signal.rest_N, -torch.inf))


def errors(found_NV: Tensor, true_NV: Tensor) -> tuple[float, float, float]:
    """Median and 90th percentile of the relative error, and the size along the true gradient."""
    error_N = (found_NV - true_NV).norm(dim=1) / true_NV.norm(dim=1)
    size = (found_NV * true_NV).sum() / true_NV.square().sum()
    return float(error_N.median()), float(error_N.quantile(0.9)), float(size)


def compare(teacher: str, text: Path, *, count: int, skip: int | None, folder: Path) -> list[SignalRow]:
    """Store each kind, read it back, and compare gradients."""
    write_records(paragraphs(text, count), folder / "records.jsonl")
    tokenizer, model = load_tokenizer(teacher), load_model(teacher, dtype="float32")
    examples = [render(record, tokenizer) for record in read_records(folder / "records.jsonl")]
    batch = plain_rows(examples, 0)
    blocks = len(decoder_blocks(model)[0])
    left_out = blocks // 2 if skip is None else skip
    shallow = keep_blocks(model, [block for block in range(blocks) if block != left_out])
    with torch.inference_mode():
        teacher_NV, logits_NV = (supervised_logits(one, batch).float() for one in (model, shallow))
    del model
    divergence = ForwardKL()(logits_NV, replace(batch.targets, teacher=_dense(teacher_NV))).value_N.mean()
    print(f"{len(logits_NV)} tokens; the student, without block {left_out}, is {divergence:.3f} nats a token from the teacher")
    student = LiveStudent(name=teacher, model=shallow)
    rows = []
    for name, arguments, bad in SIGNALS:
        out = folder / "-".join(arguments[1::2])
        signal_command(["--teacher", teacher, "--records", str(folder / "records.jsonl"), "--out", str(out), *arguments])
        signal = StoredTeacher(path=str(out)).start(student)(batch).signal
        assert signal is not None
        if bad:
            assert isinstance(signal, TeacherSignal)
            signal = renormalised(signal)
        found = {
            temperature: errors(
                gradient(logits_NV, signal, batch.targets, temperature), true_gradient(logits_NV, teacher_NV, temperature)
            )
            for temperature in (1.0, 2.0)
            if temperature == 1 or not (isinstance(signal, TeacherSignal) and signal.sampled)
        }
        warmer = found.get(2.0, (None, None, None))
        manifest = read_signal_manifest(out)
        rows.append(
            SignalRow(
                signal=name,
                bytes=manifest.bytes / manifest.positions,
                error_1=found[1.0][0],
                error_1_p90=found[1.0][1],
                size_1=found[1.0][2],
                error_2=warmer[0],
                error_2_p90=warmer[1],
                size_2=warmer[2],
            )
        )
    return rows


def _dense(logits_NV: Tensor) -> TeacherSignal:
    rest_N = torch.full((len(logits_NV),), -torch.inf)
    return TeacherSignal(ids_NK=None, log_probs_NK=logits_NV.log_softmax(1), rest_N=rest_N)


def reading(*, records: int, positions: int, width: int, k: int, repeats: int, folder: Path) -> list[ReadRow]:
    """Folders of random numbers in the stored forms, read in random batches."""
    rows = []
    for kind in ("exact", "top_k"):
        settings = SignalSettings(
            kind=kind,  # type: ignore[arg-type]
            k=k,
            dtype="float16",
            vocabulary=49152,
            teacher={"model": "random"},
            tokenizer="",
            template="",
        )
        examples = [_example(number, positions) for number in range(records)]
        with SignalWriter(folder / f"read-{kind}", settings) as writer:
            for example in examples:
                writer.add([_random(example, kind, width, k)])
            writer.finish(head={"weight": torch.zeros(1, width)} if kind == "exact" else None)
        size = width * 2 if kind == "exact" else k * 4 + 4
        for sequences in (8, 32):
            teacher, times = StoredSignal(SignalReader(folder / f"read-{kind}")), []
            draw = np.random.default_rng(0)
            for _ in range(20 * repeats):
                chosen = [examples[number] for number in draw.choice(records, sequences, replace=False)]
                batch: Batch = plain_rows(chosen, 0)
                start = time.perf_counter()
                teacher(batch)
                times.append(time.perf_counter() - start)
            tokens, seconds = sequences * positions, statistics.median(times)
            name = "exact, float16" if kind == "exact" else f"top {k} and rest, float16"
            rows.append(
                ReadRow(
                    read=name,
                    sequences=sequences,
                    mb_per_second=tokens * size / seconds / 1e6,
                    microseconds_per_token=1e6 * seconds / tokens,
                )
            )
    return rows


def _example(number: int, positions: int) -> Example:
    ids = tuple(np.random.default_rng(number).integers(0, 49152, 2 * positions).tolist())
    weight = (0.0,) * positions + (1.0,) * positions
    return Example(
        record_id=f"r{number}", group="g", token_ids=ids, prompt_length=positions, weight=weight, negative=(False,) * len(ids)
    )


def _random(example: Example, kind: str, width: int, k: int) -> SequenceSignal:
    positions = example.prompt_length
    if kind == "exact":
        values = {"hidden": torch.randn(positions, width).half()}
    else:
        ids = torch.randint(49152, (positions, k)).to(torch.uint16)
        values = {"ids": ids, "log_probs": -torch.rand(positions, k).half(), "rest": -torch.rand(positions)}
    token_T, index_P = np.asarray(example.token_ids, dtype=np.int64), np.arange(positions, 2 * positions)
    return SequenceSignal(record_id=example.record_id, token_T=token_T, index_P=index_P, values=values)


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser(__doc__, "signals")
    options.add_argument("--text", type=Path, required=True, help="a text file with a paragraph a line")
    options.add_argument("--teacher", default="smollm2-135m-instruct", help="default: smollm2-135m-instruct")
    options.add_argument("--paragraphs", type=int, default=6, help="how many (default: 6)")
    options.add_argument("--skip", type=int, help="the block that the student lacks (default: the middle one)")
    chosen = options.parse_args(args)
    torch.set_num_threads(chosen.threads)
    out = target(chosen, "signals")
    with tempfile.TemporaryDirectory() as folder:
        count = 1 if chosen.quick else chosen.paragraphs
        report(compare(chosen.teacher, chosen.text, count=count, skip=chosen.skip, folder=Path(folder)), out)
        print()
        size = (
            {"records": 40, "positions": 16, "width": 8, "k": 8}
            if chosen.quick
            else {"records": 2000, "positions": 100, "width": 576, "k": 64}
        )
        read = reading(**size, repeats=chosen.repeats, folder=Path(folder))
        report(read, None if out is None else out.with_name(f"{out.stem}_read.json"))


if __name__ == "__main__":
    main()
