"""Divergences against TRL's functions where TRL has the loss, and against the papers' formulas in float64 where it has not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from distill.errors import ConfigError
from distill.objectives import (
    AdaptiveKL,
    ContrastiveSkewKL,
    Divergence,
    ForwardKL,
    GeneralizedJSD,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    Targets,
    TeacherSignal,
    TotalVariation,
)

POSITIONS, VOCABULARY = 24, 50


def logits(*, seed: int, scale: float = 2.0, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(POSITIONS, vocabulary, generator=generator, dtype=torch.float64) * scale).to(dtype)


STUDENT, TEACHER = logits(seed=0), logits(seed=1)


def dense(teacher_logits: Tensor) -> TeacherSignal:
    return TeacherSignal(
        ids_NK=None, log_probs_NK=teacher_logits.log_softmax(1), rest_N=teacher_logits.new_full((len(teacher_logits),), -math.inf)
    )


def targets_of(signal: TeacherSignal, **changes: Tensor) -> Targets:
    fields = {
        "token_N": torch.arange(POSITIONS),
        "weight_N": torch.ones(POSITIONS),
        "negative_N": torch.arange(POSITIONS) % 3 == 0,
        "sequence_N": torch.arange(POSITIONS) // 6,
    }
    return Targets(**{**fields, **changes}, teacher=signal)


def value_and_gradient(
    objective: Divergence, student: Tensor = STUDENT, signal: TeacherSignal | None = None, **changes: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = student.detach().requires_grad_()
    value_N = objective(leaf, targets_of(dense(TEACHER) if signal is None else signal, **changes)).value_N
    return value_N.detach(), torch.autograd.grad(value_N.sum(), leaf)[0]


def reference(formula: Callable[[Tensor, Tensor], Tensor], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Value and gradient of a formula over (log p, log q), by autograd through log_softmax."""
    leaf = STUDENT.clone().requires_grad_()
    value_N = formula((leaf / temperature).log_softmax(1), (TEACHER / temperature).log_softmax(1))
    return value_N.detach(), torch.autograd.grad(value_N.sum(), leaf)[0]


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(1)


def mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share a + (1 - share) b)"""
    return (share * log_a.exp() + (1 - share) * log_b.exp()).log()


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    m = mixture(q, p, beta)
    return kl(q, m) / (1 - beta) + kl(p, m) / beta


PAPERS: list[tuple[Divergence, Callable[[Tensor, Tensor], Tensor]]] = [
    (ForwardKL(), lambda p, q: kl(q, p)),
    (ReverseKL(), lambda p, q: kl(p, q)),
    (GeneralizedJSD(beta=0.1), lambda p, q: 0.1 * kl(q, mixture(q, p, 0.1)) + 0.9 * kl(p, mixture(q, p, 0.1))),
    (GeneralizedJSD(beta=0.7), lambda p, q: 0.7 * kl(q, mixture(q, p, 0.7)) + 0.3 * kl(p, mixture(q, p, 0.7))),
    (JensenShannon(beta=0.1), lambda p, q: jensen_shannon(p, q, 0.1)),
    (JensenShannon(), lambda p, q: jensen_shannon(p, q, 0.5)),
    (JensenShannon(beta=0.99), lambda p, q: jensen_shannon(p, q, 0.99)),
    (SkewForwardKL(), lambda p, q: kl(q, mixture(q, p, 0.1))),
    (SkewForwardKL(alpha=0.9), lambda p, q: kl(q, mixture(q, p, 0.9))),
    (SkewReverseKL(), lambda p, q: kl(p, mixture(p, q, 0.1))),
    (SkewReverseKL(alpha=0.9), lambda p, q: kl(p, mixture(p, q, 0.9))),
    (TotalVariation(), lambda p, q: (p.exp() - q.exp()).abs().sum(1) / 2),
]


@pytest.mark.parametrize(("objective", "formula"), PAPERS, ids=lambda case: repr(case) if isinstance(case, Divergence) else "")
def test_values_and_gradients_are_those_of_the_papers_formula(
    objective: Divergence, formula: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for ours, papers in zip(value_and_gradient(objective), reference(formula), strict=True):
        torch.testing.assert_close(ours, papers, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("objective", "formula"), PAPERS, ids=lambda case: repr(case) if isinstance(case, Divergence) else "")
def test_float32_and_bfloat16_logits_give_what_float64_gives_up_to_their_own_rounding(
    objective: Divergence, formula: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        student = STUDENT.to(dtype)
        value_N, gradient = value_and_gradient(objective, student, dense(TEACHER.float()))
        exact_N, exact = value_and_gradient(objective, student.double())
        assert value_N.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(value_N.double(), exact_N, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_generalized_jsd_is_trls_gkd_loss_and_its_distillation_loss(beta: float, temperature: float) -> None:
    """Theirs lack the factor temperature squared."""
    value_N, gradient = value_and_gradient(GeneralizedJSD(beta=beta, temperature=temperature))
    leaf = STUDENT.clone().requires_grad_()
    gkd = GKDTrainer.generalized_jsd_loss(
        leaf.unsqueeze(0), TEACHER.unsqueeze(0), beta=beta, temperature=temperature, reduction="sum"
    )
    torch.testing.assert_close(value_N.sum(), temperature**2 * gkd.detach(), rtol=1e-6, atol=1e-6)  # its beta is a tensor
    torch.testing.assert_close(gradient, temperature**2 * torch.autograd.grad(gkd, leaf)[0], rtol=1e-6, atol=1e-6)

    student, identity = STUDENT.float().requires_grad_(), torch.eye(VOCABULARY)
    chunked, _, _ = _chunked_divergence_loss(
        student.unsqueeze(0),
        TEACHER.float().unsqueeze(0),
        identity,
        identity,
        torch.ones(1, POSITIONS),
        beta=beta,
        num_items_in_batch=1,
        temperature=temperature,
    )
    torch.testing.assert_close(value_N.sum().float(), temperature**2 * chunked.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.float(), temperature**2 * torch.autograd.grad(chunked, student)[0], rtol=1e-4, atol=1e-5)


def test_the_published_jsd_vanishes_at_its_ends_and_ours_tends_to_the_two_kls() -> None:
    forward_N, reverse_N = value_and_gradient(ForwardKL())[0], value_and_gradient(ReverseKL())[0]
    near = 1e-7
    for beta, limit_N in ((near, forward_N), (1 - near, reverse_N)):
        published_N, _ = value_and_gradient(GeneralizedJSD(beta=beta))
        ours_N, _ = value_and_gradient(JensenShannon(beta=beta))
        torch.testing.assert_close(published_N, near * limit_N, rtol=1e-4, atol=0)
        torch.testing.assert_close(ours_N, limit_N, rtol=1e-4, atol=0)
    for beta, limit in ((0.0, ForwardKL()), (1.0, ReverseKL())):
        for objective in (GeneralizedJSD(beta=beta), JensenShannon(beta=beta)):
            for at_end, expected in zip(value_and_gradient(objective), value_and_gradient(limit), strict=True):
                assert torch.equal(at_end, expected)


@pytest.mark.parametrize("near", [1e-12, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_jensen_shannon_is_exact_near_its_ends_in_float32(near: float, scale: float) -> None:
    """Its formula divides by beta: done after rounding, 1e-9 would leave nothing of it."""
    student, teacher = logits(seed=2, scale=scale), logits(seed=3, scale=scale)
    for beta in (near, 1 - near):
        objective = JensenShannon(beta=beta)
        value_N, gradient = value_and_gradient(objective, student.float(), dense(teacher.float()))
        exact_N, exact = value_and_gradient(objective, student.float().double(), dense(teacher.float().double()))
        torch.testing.assert_close(value_N.double(), exact_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-3, atol=1e-5)


def test_beta_of_jensen_shannon_is_no_learning_rate() -> None:
    """To second order in the distance all are half the chi-square, and so their gradients have one size; the published not."""
    near = dense(STUDENT + 0.01 * logits(seed=4, scale=1.0))
    ours, published = (
        [value_and_gradient(kind(beta=beta), signal=near)[1].norm().item() for beta in (0.0, 0.01, 0.5, 0.99, 1.0)]
        for kind in (JensenShannon, GeneralizedJSD)
    )
    assert max(ours) / min(ours) == pytest.approx(1, abs=0.02)
    assert max(published) / min(published) == pytest.approx(1 / (0.01 * 0.99), rel=0.03)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5])
def test_a_skew_divergence_is_never_above_minus_log_alpha(alpha: float) -> None:
    signal = dense(100 * TEACHER)
    for objective in (SkewForwardKL(alpha=alpha), SkewReverseKL(alpha=alpha)):
        value_N, _ = value_and_gradient(objective, 100 * STUDENT, signal)
        assert value_N.max() <= -math.log(alpha) + 1e-12 and value_N.max() > -0.9 * math.log(alpha)


def head_weight(p: Tensor, q: Tensor, head_mass: float) -> Tensor:
    """Share of the head's gap, row by row as the paper has it: sort, walk until the mass is reached."""
    weights = []
    for p_V, q_V in zip(p.exp(), q.exp(), strict=True):
        order, head, mass = q_V.argsort(descending=True).tolist(), [], 0.0
        for token in order:
            mass += q_V[token].item()
            if mass > head_mass and head:
                break
            head.append(token)
        gap_V = (q_V - p_V).abs()
        weights.append(gap_V[head].sum() / gap_V.sum())
    return torch.stack(weights).detach()


@pytest.mark.parametrize("head_mass", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_adaptive_kl_is_the_papers_with_its_weights_held_constant(head_mass: float, scale: float) -> None:
    """Also where the head is longer than the first look at it (a flat teacher over many tokens)."""
    student, teacher = logits(seed=0, vocabulary=300), logits(seed=1, scale=scale, vocabulary=300)
    leaf = student.clone().requires_grad_()
    p, q = leaf.log_softmax(1), teacher.log_softmax(1)
    weight_N = head_weight(p, q, head_mass)
    value_N = weight_N * kl(q, p) + (1 - weight_N) * kl(p, q)
    ours_N, ours = value_and_gradient(AdaptiveKL(head_mass=head_mass), student, dense(teacher))
    torch.testing.assert_close(ours_N, value_N.detach())
    torch.testing.assert_close(ours, torch.autograd.grad(value_N.sum(), leaf)[0])


def test_in_adaptive_kl_the_rest_of_a_top_k_signal_belongs_to_the_tail() -> None:
    """Also where it is the most probable bucket."""
    teacher = logits(seed=1, scale=0.1)
    value_N, _ = value_and_gradient(AdaptiveKL(), signal=top_k(teacher, 2))
    p, q = STUDENT.log_softmax(1), teacher.log_softmax(1)
    ids = q.topk(2, dim=1).indices
    p3, q3 = (
        torch.cat([x.gather(1, ids), x.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)], 1) for x in (p, q)
    )  # fmt: skip
    gap = (q3.exp() - p3.exp()).abs()
    weight_N = gap[:, :2].sum(1) / gap.sum(1)
    torch.testing.assert_close(value_N, weight_N * kl(q3, p3) + (1 - weight_N) * kl(p3, q3))


def test_an_adaptive_skew_is_one_alpha_per_response_constant_for_the_gradient() -> None:
    """clip(1 - (1 - alpha) m / gap, alpha_min, alpha) of the geometric means; the plain skew divergence otherwise."""
    token_N = (TEACHER - STUDENT).argmax(1)  # where the teacher is ahead
    p, q = (x.log_softmax(1).gather(1, token_N.unsqueeze(1)).squeeze(1).reshape(4, 6).mean(1).exp() for x in (STUDENT, TEACHER))
    gap_S = q - p
    mean_gap = gap_S.sort().values[1].item() * 1.02
    alpha_S = (1 - 0.9 * mean_gap / gap_S).clamp(0.01, 0.1)
    assert len(set(alpha_S.tolist())) > 1 and alpha_S.max() == 0.1  # the test sees more than one
    adaptive = value_and_gradient(SkewForwardKL(mean_gap=mean_gap), token_N=token_N)
    for sequence, alpha in enumerate(alpha_S.tolist()):
        rows = slice(6 * sequence, 6 * sequence + 6)
        for ours, plain in zip(adaptive, value_and_gradient(SkewForwardKL(alpha=alpha), token_N=token_N), strict=True):
            torch.testing.assert_close(ours[rows], plain[rows])


def test_an_adaptive_skew_takes_its_least_alpha_where_there_is_no_gap() -> None:
    token_N = (TEACHER - STUDENT).argmax(1)  # the student is behind everywhere: for the reverse direction no gap
    for ours, plain in zip(
        value_and_gradient(SkewReverseKL(mean_gap=0.1), token_N=token_N),
        value_and_gradient(SkewReverseKL(alpha=0.01), token_N=token_N),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


def test_an_adaptive_skew_reads_the_tokens_probability_from_a_top_k_signal_too() -> None:
    """One that is not listed has its share of the rest."""
    token_N = TEACHER.argsort(1, descending=True)[:, 1]
    listed = value_and_gradient(SkewForwardKL(mean_gap=0.05), signal=top_k(TEACHER, VOCABULARY), token_N=token_N)
    for ours, plain in zip(listed, value_and_gradient(SkewForwardKL(mean_gap=0.05), token_N=token_N), strict=True):
        torch.testing.assert_close(ours, plain)
    value_N, _ = value_and_gradient(SkewForwardKL(mean_gap=0.05), signal=top_k(TEACHER, 1), token_N=token_N)
    assert bool(value_N.isfinite().all())


def test_the_contrastive_form_is_each_skew_divergence_on_its_own_responses() -> None:
    forward, reverse = value_and_gradient(SkewForwardKL()), value_and_gradient(SkewReverseKL())
    negative_N = torch.arange(POSITIONS) % 3 == 0
    both = value_and_gradient(ContrastiveSkewKL(negative_weight=0.5))
    for ours, on_positives, on_negatives in zip(both, forward, reverse, strict=True):
        torch.testing.assert_close(ours[~negative_N], on_positives[~negative_N])
        torch.testing.assert_close(ours[negative_N], 0.5 * on_negatives[negative_N])


def top_k(teacher_logits: Tensor, k: int) -> TeacherSignal:
    log_q = teacher_logits.log_softmax(1)
    log_probs_NK, ids_NK = log_q.topk(k, dim=1)
    return TeacherSignal(
        ids_NK=ids_NK, log_probs_NK=log_probs_NK, rest_N=log_q.scatter(1, ids_NK, -math.inf).logsumexp(1)
    )  # fmt: skip


def test_a_top_k_signal_is_the_divergence_of_the_merged_distributions_by_autograd() -> None:
    signal = top_k(TEACHER, 5)
    assert signal.ids_NK is not None
    leaf = STUDENT.clone().requires_grad_()
    p = leaf.log_softmax(1)
    rest = p.scatter(1, signal.ids_NK, -math.inf).logsumexp(1, keepdim=True)
    p6 = torch.cat([p.gather(1, signal.ids_NK), rest], 1)
    q6 = torch.cat([signal.log_probs_NK, signal.rest_N.unsqueeze(1)], 1)
    for objective, formula in PAPERS:
        value_N = formula(p6, q6)
        ours_N, ours = value_and_gradient(objective, signal=signal)
        torch.testing.assert_close(ours_N, value_N.detach())
        torch.testing.assert_close(ours, torch.autograd.grad(value_N.sum(), leaf, retain_graph=True)[0])


def test_the_rests_gradient_is_spread_by_the_students_own_softmax_exactly_where_its_mass_rounds_away() -> None:
    """The student's rest has mass 1e-30 or so: 1 - sum of the others would be 0, and its logarithm infinite."""
    student = torch.zeros(POSITIONS, VOCABULARY)
    student[:, 0] = 70.0
    student[:, 1:] = logits(seed=5, scale=1.0, vocabulary=VOCABULARY - 1, dtype=torch.float32)
    signal = TeacherSignal(
        ids_NK=torch.zeros(POSITIONS, 1, dtype=torch.int64),
        log_probs_NK=torch.full((POSITIONS, 1), math.log(0.5)),
        rest_N=torch.full((POSITIONS,), math.log(0.5)),
    )
    value_N, gradient = value_and_gradient(ForwardKL(), student, signal)
    log_rest_N = student[:, 1:].double().logsumexp(1) - 70
    torch.testing.assert_close(value_N.double(), math.log(0.5) - log_rest_N / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient[:, 1:], -0.5 * student[:, 1:].softmax(1))


def test_a_tempered_rest_counts_as_equally_probable_tokens() -> None:
    """Exact where they are."""
    teacher = TEACHER.clone()
    ids = teacher.topk(4, dim=1).indices
    flat = teacher.min(1, keepdim=True).values.expand_as(teacher).scatter(1, ids, teacher.gather(1, ids))
    for temperature in (0.5, 3.0):
        objective = ForwardKL(temperature=temperature)
        q = (flat / temperature).log_softmax(1)
        p = (STUDENT / temperature).log_softmax(1)
        p5, q5 = (
            torch.cat([x.gather(1, ids), x.scatter(1, ids, -math.inf).logsumexp(1, keepdim=True)], 1) for x in (p, q)
        )  # fmt: skip
        value_N, _ = value_and_gradient(objective, signal=top_k(flat, 4))
        torch.testing.assert_close(value_N, temperature**2 * kl(q5, p5))


def test_candidates_of_probability_0_belong_to_the_rest() -> None:
    """A row may list fewer than K tokens; what stands in the other columns is no candidate, whatever its id."""
    short, full = top_k(TEACHER, 3), top_k(TEACHER, 5)
    assert full.ids_NK is not None
    padded = TeacherSignal(
        ids_NK=full.ids_NK,
        log_probs_NK=torch.cat([short.log_probs_NK, torch.full((POSITIONS, 2), -math.inf, dtype=torch.float64)], 1),
        rest_N=short.rest_N,
    )
    for objective in (ForwardKL(), ReverseKL(), JensenShannon(), AdaptiveKL(), ForwardKL(temperature=2.0)):
        for ours, plain in zip(
            value_and_gradient(objective, signal=padded), value_and_gradient(objective, signal=short), strict=True
        ):
            torch.testing.assert_close(ours, plain)


def test_the_gradient_of_a_sampled_signal_is_that_of_the_dense_one_on_average() -> None:
    generator, draws, rounds = torch.Generator().manual_seed(0), 10, 3000
    student, q = STUDENT[:1], TEACHER[:1].softmax(1)
    drawn = torch.multinomial(q.expand(rounds, -1), draws, replacement=True, generator=generator)
    weight = torch.zeros(rounds, VOCABULARY, dtype=torch.float64).scatter_add_(
        1, drawn, torch.full(drawn.shape, 1 / draws, dtype=torch.float64)
    )
    best, ids = weight.topk(draws, dim=1)
    signal = TeacherSignal(
        ids_NK=ids, log_probs_NK=best.log(), rest_N=torch.full((rounds,), -math.inf, dtype=torch.float64), sampled=True
    )
    leaf = student.repeat(rounds, 1).requires_grad_()
    targets = Targets(
        token_N=torch.zeros(rounds, dtype=torch.int64),
        weight_N=torch.ones(rounds),
        negative_N=torch.zeros(rounds, dtype=torch.bool),
        sequence_N=torch.zeros(rounds, dtype=torch.int64),
        teacher=signal,
    )
    gradient = torch.autograd.grad(ForwardKL()(leaf, targets).value_N.sum(), leaf)[0]
    torch.testing.assert_close(gradient, student.softmax(1) - weight)  # row by row: the sample in the teacher's place
    error = (gradient.mean(0) - (student.softmax(1) - q)[0]).abs()
    assert bool((error <= 5 * (q[0] * (1 - q[0]) / (draws * rounds)).sqrt() + 1e-9).all())


def test_a_sampled_signal_has_no_other_temperature() -> None:
    signal = top_k(TEACHER, 3)
    sampled = TeacherSignal(ids_NK=signal.ids_NK, log_probs_NK=signal.log_probs_NK, rest_N=signal.rest_N, sampled=True)
    with pytest.raises(ConfigError, match="use temperature 1"):
        value_and_gradient(ForwardKL(temperature=2.0), signal=sampled)


def test_a_second_backward_pass_through_one_graph_gives_the_same_gradient() -> None:
    """The first one scales the gradient in place."""
    leaf = STUDENT.clone().requires_grad_()
    for objective in (ForwardKL(), ContrastiveSkewKL(), ForwardKL(positions="negative")):
        value_N = objective(leaf, targets_of(top_k(TEACHER, 3))).value_N
        first = torch.autograd.grad(value_N.sum(), leaf, retain_graph=True)[0]
        kept = first.clone()
        second = torch.autograd.grad(3 * value_N.sum(), leaf, retain_graph=True)[0]
        assert torch.equal(first, kept)
        torch.testing.assert_close(second, 3 * first)


def test_many_blocks_of_rows_are_one() -> None:
    """A vocabulary so wide that a block holds few rows."""
    student, teacher = (
        torch.randn(7, 40000, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) for seed in (0, 1)
    )
    leaf = student.requires_grad_()
    objective = JensenShannon(positions="positive")
    targets = targets_of(dense(teacher)).select(torch.arange(7))
    value_N = objective(leaf, targets).value_N
    gradient = torch.autograd.grad(value_N.sum(), leaf)[0]
    for row in range(7):
        one = targets.select(torch.tensor([row]))
        row_leaf = student[row : row + 1].detach().requires_grad_()
        alone_N = objective(row_leaf, one).value_N
        torch.testing.assert_close(value_N[row : row + 1], alone_N)
        torch.testing.assert_close(gradient[row : row + 1], torch.autograd.grad(alone_N.sum(), row_leaf)[0])


def test_nothing_is_made_for_the_gradient_where_none_is_wanted() -> None:
    value_N = ForwardKL()(STUDENT, targets_of(dense(TEACHER))).value_N
    with torch.no_grad():
        silent_N = ForwardKL()(STUDENT.clone().requires_grad_(), targets_of(dense(TEACHER))).value_N
    assert not value_N.requires_grad and not silent_N.requires_grad and torch.equal(value_N, silent_N)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SkewForwardKL(alpha=1.0), "alpha"),
        (lambda: SkewReverseKL(alpha=-0.1), "alpha"),
        (lambda: SkewForwardKL(mean_gap=0.0), "mean_gap"),
        (lambda: SkewForwardKL(mean_gap=0.1, alpha_min=0.2), "alpha_min"),
        (lambda: JensenShannon(beta=1.1), "beta"),
        (lambda: GeneralizedJSD(beta=-0.1), "beta"),
        (lambda: AdaptiveKL(head_mass=1.0), "head_mass"),
        (lambda: ContrastiveSkewKL(negative_weight=-1.0), "negative_weight"),
        (lambda: ForwardKL(positions="some"), "positions"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make: Callable[[], Divergence], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
