"""What exactness costs: distill's likelihood, unlikelihood and divergences beside torch's cross-entropy and others' code.

    python -m benchmarks.losses
    python -m benchmarks.losses --only divergences --out benchmarks/results/divergences.json

Forward and backward of each loss over 2048 positions and SmolLM2's vocabulary of 49152, one thread, about 2 minutes. The
divergences, over 1024 positions, from both models' logits to the student's gradient, with the memory that each adds to what
is there before (both models' logits). Then the
gradient of the unlikelihood at the wrong token's own logit where the model is nearly sure of it (its true value is p):
distill's, the clamp's, and the true one in float64.

Peers: `torch.nn.functional.cross_entropy` on the logits as float32, as Hugging Face's losses compute it, and on the logits
as they are; and -log(clamp(1 - p, 1e-5)) over float32 log-probabilities, as in the code of Welleck et al. 2020
(arXiv:1908.04319). For the divergences, TRL's GKDTrainer.generalized_jsd_loss, which computes in the logits' own dtype.
Rows: benchmarks/results/losses.json and losses_gradient.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, Work, compare, parser, peak_memory_mb, report, reset_peak_memory, resident_mb, target
from distill.objectives import (
    Divergence,
    ForwardKL,
    GeneralizedJSD,
    HiddenSignal,
    JensenShannon,
    ReverseKL,
    Targets,
    likelihood,
    unlikelihood,
)

Loss = Callable[[Tensor, Tensor], Tensor]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLAMP = 1e-5


def cross_entropy(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """In the logits' own dtype: bfloat16 results have 8 bits."""
    return F.cross_entropy(logits_NV, target_N, reduction="none")


def cross_entropy_float(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """As Hugging Face's causal language models compute it."""
    return F.cross_entropy(logits_NV.float(), target_N, reduction="none")


def clamped_unlikelihood(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """One negative candidate per position, as the 2020 code computes it."""
    log_probs_NV = F.log_softmax(logits_NV.float(), dim=-1)
    log_prob_N = log_probs_NV.gather(1, target_N.unsqueeze(1)).squeeze(1)
    return -torch.log((1 - log_prob_N.exp()).clamp(min=CLAMP))


COMPARED: tuple[tuple[str, Loss, str, Loss], ...] = (
    ("likelihood", likelihood, "torch cross_entropy, as float32", cross_entropy_float),
    ("likelihood", likelihood, "torch cross_entropy, as they are", cross_entropy),
    ("unlikelihood", unlikelihood, "clamped at 1e-5 (2020 code)", clamped_unlikelihood),
    ("unlikelihood", unlikelihood, "torch cross_entropy, as float32", cross_entropy_float),
)

# Ours, and beta of TRL's function.
DIVERGENCES: tuple[tuple[str, Divergence, float], ...] = (
    ("forward KL", ForwardKL(), 0.0),
    ("reverse KL", ReverseKL(), 1.0),
    ("JSD of GKD", GeneralizedJSD(), 0.5),
    ("Jensen-Shannon", JensenShannon(), 0.5),
)


@dataclass(frozen=True, kw_only=True)
class GradientRow:
    """d loss / d logit of the wrong token, where its probability is 1 - one_minus_p."""

    precision: str
    one_minus_p: float
    ours: float
    clamped: float
    truth: float


def speed(*, positions: int, vocabulary: int, repeats: int) -> list[Row]:
    """Forward and backward, in turns."""
    draw = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(positions, vocabulary, generator=draw) * 3
    target_N = torch.randint(vocabulary, (positions,), generator=draw)
    rows = []
    for precision, dtype in PRECISIONS.items():
        leaf_NV = logits_NV.to(dtype).requires_grad_()

        def step(loss: Loss, leaf_NV: Tensor = leaf_NV) -> None:
            torch.autograd.grad(loss(leaf_NV, target_N).sum(), leaf_NV)

        for work, ours, name, peer in COMPARED:
            if precision == "fp32" and peer is cross_entropy:
                continue  # the same as float32
            rows.append(compare(work, precision, partial(step, ours), name, partial(step, peer), repeats=repeats))
    return rows


def divergences(*, positions: int, vocabulary: int, repeats: int) -> list[Row]:
    """From both models' logits to the gradient in the student's, in turns."""
    from trl.experimental.gkd import GKDTrainer

    draw = torch.Generator().manual_seed(0)
    teacher_NV = torch.randn(positions, vocabulary, generator=draw) * 3
    student_NV = teacher_NV + torch.randn(positions, vocabulary, generator=draw)
    rows = []
    for precision, dtype in PRECISIONS.items():
        leaf_NV, logits_NV = student_NV.to(dtype).requires_grad_(), teacher_NV.to(dtype)
        signal = HiddenSignal(hidden_ND=torch.empty(0), logits_of=lambda _, made=logits_NV: made, vocabulary=vocabulary)  # type: ignore[misc]
        targets = Targets(
            token_N=torch.zeros(positions, dtype=torch.int64),
            weight_N=torch.ones(positions),
            negative_N=torch.zeros(positions, dtype=torch.bool),
            sequence_N=torch.zeros(positions, dtype=torch.int64),
            teacher=signal,
        )

        def ours(objective: Divergence, leaf_NV: Tensor = leaf_NV, targets: Targets = targets) -> Tensor:
            value = objective(leaf_NV, targets.materialised()).value_N.sum()
            return torch.autograd.grad(value, leaf_NV)[0]

        def peer(beta: float, leaf_NV: Tensor = leaf_NV, logits_NV: Tensor = logits_NV) -> Tensor:
            value = GKDTrainer.generalized_jsd_loss(leaf_NV[None], logits_NV[None], beta=beta, reduction="sum")
            return torch.autograd.grad(value, leaf_NV)[0]

        for work, objective, beta in DIVERGENCES:
            mine, theirs = partial(ours, objective), partial(peer, beta)
            row = compare(work, precision, mine, f"TRL GKD, beta {beta:g}", theirs, repeats=repeats)
            rows.append(replace(row, ours_peak_mb=_added_memory_mb(mine), peer_peak_mb=_added_memory_mb(theirs)))
    return rows


def _added_memory_mb(work: Work) -> float | None:
    """Greatest memory during one call, less what was there before it (MiB); None where the system cannot tell."""
    if not reset_peak_memory():
        return None
    before = resident_mb()
    work()
    return peak_memory_mb() - before


def gradients(*, vocabulary: int, one_minus_p: Sequence[float] = (1e-3, 1e-6, 1e-7, 1e-8, 1e-9)) -> list[GradientRow]:
    """All other logits are 0 and the wrong token's leads by log((V - 1) p / (1 - p)), rounded to the precision."""
    rows = []
    for precision, dtype in PRECISIONS.items():
        for rest in one_minus_p:
            logits_1V = torch.zeros(1, vocabulary)
            logits_1V[0, 0] = math.log((vocabulary - 1) * (1 - rest) / rest)
            logits_1V = logits_1V.to(dtype)
            # p of the rounded logits, in float64: the loss's derivative is p whatever p is.
            odds = logits_1V[0, 0].double() - logits_1V[0, 1:].double().logsumexp(0)
            found = []
            for loss in (unlikelihood, clamped_unlikelihood):
                leaf_1V = logits_1V.clone().requires_grad_()
                found.append(torch.autograd.grad(loss(leaf_1V, torch.tensor([0])).sum(), leaf_1V)[0][0, 0].item())
            rows.append(
                GradientRow(precision=precision, one_minus_p=rest, ours=found[0], clamped=found[1], truth=odds.sigmoid().item())
            )
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    command = parser(__doc__, "losses")
    command.add_argument("--only", choices=["tokens", "divergences", "gradients"], help="this part only (default: all)")
    options = command.parse_args(args)
    torch.set_num_threads(options.threads)
    positions, vocabulary = (64, 512) if options.quick else (2048, 49152)
    out = target(options, "losses")
    print(f"forward and backward, {positions} positions, {vocabulary} tokens, {options.threads} thread(s)")
    rows = []
    if options.only in (None, "tokens"):
        rows += speed(positions=positions, vocabulary=vocabulary, repeats=options.repeats)
    if options.only in (None, "divergences"):
        rows += divergences(positions=positions // 2, vocabulary=vocabulary, repeats=options.repeats)
    if rows:
        report(rows, out)
    if options.only in (None, "gradients"):
        print("\ngradient of the unlikelihood at the wrong token's logit")
        report(gradients(vocabulary=vocabulary), None if out is None else out.with_name(f"{out.stem}_gradient.json"))


if __name__ == "__main__":
    main()
