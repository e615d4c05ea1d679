"""What exactness costs: distill's likelihood and unlikelihood beside torch's cross-entropy and the clamped loss of 2020.

    python -m benchmarks.losses

Forward and backward of each loss over 2048 positions and SmolLM2's vocabulary of 49152, one thread, about 2 minutes. Then the
gradient of the unlikelihood at the wrong token's own logit where the model is nearly sure of it (its true value is p):
distill's, the clamp's, and the true one in float64.

Peers: `torch.nn.functional.cross_entropy` on the logits as float32, as Hugging Face's losses compute it, and on the logits
as they are; and -log(clamp(1 - p, 1e-5)) over float32 log-probabilities, as in the code of Welleck et al. 2020
(arXiv:1908.04319). Rows: benchmarks/results/losses.json and losses_gradient.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, compare, parser, report, target
from distill.objectives import likelihood, unlikelihood

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
    options = parser(__doc__, "losses").parse_args(args)
    torch.set_num_threads(options.threads)
    positions, vocabulary = (64, 512) if options.quick else (2048, 49152)
    out = target(options, "losses")
    print(f"forward and backward, {positions} positions, {vocabulary} tokens, {options.threads} thread(s)")
    report(speed(positions=positions, vocabulary=vocabulary, repeats=options.repeats), out)
    print("\ngradient of the unlikelihood at the wrong token's logit")
    report(gradients(vocabulary=vocabulary), None if out is None else out.with_name(f"{out.stem}_gradient.json"))


if __name__ == "__main__":
    main()
