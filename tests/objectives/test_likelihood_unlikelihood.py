"""Laws of likelihood and unlikelihood, against float64 and exact references."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives import Likelihood, Loss, Targets, Unlikelihood, likelihood, reduce, unlikelihood
from distill.objectives.log_odds import log_odds


def reference_unlikelihood(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """-log(1 - p) and its gradient in float64, 1 - p as a sum over the complement, without subtracting from 1."""
    logits = logits_NV.double()
    others = logits.scatter(1, target_N[:, None], float("-inf"))
    total, rest = logits.logsumexp(1), others.logsumexp(1)
    p = (logits.gather(1, target_N[:, None])[:, 0] - total).exp()
    gradient = (-p[:, None] * (others - rest[:, None]).exp()).scatter(1, target_N[:, None], p[:, None])
    odds = logits.gather(1, target_N[:, None])[:, 0] - rest
    return torch.logaddexp(odds, torch.zeros_like(odds)), gradient  # total - rest would cancel where p is small


def gradient_of(function, logits_NV: Tensor, target_N: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    logits_NV = logits_NV.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(logits_NV, target_N).sum(), logits_NV)
    return gradient


def with_probability(p: float, one_minus_p: float, vocabulary: int = 5) -> Tensor:
    """Float64 logits (1, V) whose token 0 has odds p / one_minus_p, the rest spread unevenly."""
    rest = torch.linspace(-1, 1, vocabulary - 1, dtype=torch.float64)
    rest = rest - rest.logsumexp(0)
    return torch.cat([torch.tensor([math.log(p) - math.log(one_minus_p)], dtype=torch.float64), rest])[None]


GRID = [10.0**-k for k in range(1, 13)]
TOKEN_0 = torch.tensor([0])


@pytest.mark.parametrize("small", GRID)
def test_unlikelihood_is_minus_log_one_minus_p_from_1e_12_to_one_minus_1e_12(small: float) -> None:
    rare, sure = with_probability(small, 1 - small), with_probability(1 - small, small)
    assert unlikelihood(rare, TOKEN_0).item() == pytest.approx(-math.log1p(-small), rel=1e-12)
    assert unlikelihood(sure, TOKEN_0).item() == pytest.approx(-math.log(small), rel=1e-12)
    # float32 rounds the logits themselves (up to 27.6 here): half a unit in the last place is 1e-6 of p.
    assert unlikelihood(rare.float(), TOKEN_0).item() == pytest.approx(-math.log1p(-small), rel=3e-6)
    assert unlikelihood(sure.float(), TOKEN_0).item() == pytest.approx(-math.log(small), rel=1e-6)


@pytest.mark.parametrize("one_minus_p", [1e-5, 1e-9, 1e-20, 1e-40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_p_where_published_clamps_make_it_zero(one_minus_p: float, dtype: torch.dtype) -> None:
    logits = with_probability(1.0, one_minus_p).to(dtype)
    gradient = gradient_of(unlikelihood, logits, TOKEN_0)
    assert gradient.dtype == dtype
    assert gradient[0, 0].item() == pytest.approx(1.0, abs=1e-4)
    clamped = gradient_of(lambda z, t: -(1 - z.softmax(1)[:, 0]).clamp(min=1e-5).log(), logits.float(), TOKEN_0)
    assert clamped[0, 0].item() == 0 or one_minus_p == 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [-100, -90, -30, -1, 0, 1, 30, 87, 88, 90, 100, 300])
@pytest.mark.parametrize("offset", [-50, 0, 50])
def test_unlikelihood_and_its_gradient_are_right_at_logit_gaps_to_100_and_beyond(
    dtype: torch.dtype, gap: int, offset: int
) -> None:
    vocabulary = 50
    logits = torch.full((1, vocabulary), float(offset))
    logits[0, 1:] += torch.linspace(-2, 2, vocabulary - 1)
    logits[0, 0] = offset + gap
    logits = logits.to(dtype)  # the reference sees the rounded logits: rounding them is not the loss's doing
    value, gradient = reference_unlikelihood(logits, TOKEN_0)
    torch.testing.assert_close(unlikelihood(logits, TOKEN_0).double(), value, rtol=2e-5, atol=1e-38)
    tolerance = {torch.float32: 3e-5, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(gradient_of(unlikelihood, logits, TOKEN_0).double(), gradient, rtol=tolerance, atol=1e-38)


@pytest.mark.parametrize("function", [likelihood, unlikelihood])
def test_both_pass_a_double_precision_gradient_check(function) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([0, 8, 3, 3, 1, 7])
    assert function(logits, target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z: function(z, target), logits)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), vocabulary=st.integers(2, 300), scale=st.floats(0.1, 40), seed=st.integers(0, 2**31))
def test_likelihood_is_cross_entropy_in_value_and_gradient(rows: int, vocabulary: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * scale
    target = torch.randint(vocabulary, (rows,), generator=generator)

    def cross_entropy(z: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(z, t, reduction="none")

    torch.testing.assert_close(likelihood(logits, target), cross_entropy(logits, target))
    torch.testing.assert_close(gradient_of(likelihood, logits, target), gradient_of(cross_entropy, logits, target))
    torch.testing.assert_close(
        likelihood(logits.float(), target), cross_entropy(logits, target).float(), rtol=1e-5, atol=1e-5 * scale
    )


@settings(max_examples=40, deadline=None)
@given(vocabulary=st.integers(2, 50), scale=st.floats(0.1, 200), seed=st.integers(0, 2**31))
def test_likelihood_and_unlikelihood_are_two_sides_of_one_probability(vocabulary: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, vocabulary, generator=generator) * scale
    target = torch.randint(vocabulary, (8,), generator=generator)
    said, unsaid = likelihood(logits, target), unlikelihood(logits, target)
    assert bool((said >= 0).all()) and bool((unsaid >= 0).all())
    torch.testing.assert_close((-said).exp() + (-unsaid).exp(), torch.ones(8))
    torch.testing.assert_close(unsaid - said, log_odds(logits, target), rtol=1e-4, atol=1e-4)


def test_the_gradient_sums_to_zero_over_the_vocabulary() -> None:
    logits = torch.randn(20, 101, generator=torch.Generator().manual_seed(0)) * 10
    target = torch.arange(20)
    for function in (likelihood, unlikelihood):
        torch.testing.assert_close(gradient_of(function, logits, target).sum(1), torch.zeros(20), rtol=0, atol=1e-6)


def test_many_row_blocks_give_the_values_of_single_rows() -> None:
    """A vocabulary of 50 000 puts 5 rows into a block: 23 rows need several, the last one partly filled."""
    logits = torch.randn(23, 50_000, generator=torch.Generator().manual_seed(0)) * 3
    target = torch.randint(50_000, (23,), generator=torch.Generator().manual_seed(1))
    value, gradient = reference_unlikelihood(logits, target)
    torch.testing.assert_close(unlikelihood(logits, target).double(), value, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(gradient_of(unlikelihood, logits, target).double(), gradient, rtol=1e-4, atol=1e-12)
    alone = torch.cat([unlikelihood(logits[row : row + 1], target[row : row + 1]) for row in range(23)])
    torch.testing.assert_close(unlikelihood(logits, target), alone)


def test_selected_rows_are_those_rows_in_that_order() -> None:
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target, row = torch.tensor([3, 1, 4, 1, 5, 9]), torch.tensor([4, 0, 5])
    torch.testing.assert_close(log_odds(logits, target, row), log_odds(logits, target)[row])
    (some,) = torch.autograd.grad(log_odds(logits, target, row).sum(), logits)
    (every,) = torch.autograd.grad(log_odds(logits, target).sum(), logits)
    torch.testing.assert_close(some[row], every[row])
    assert some[[1, 2, 3]].abs().sum() == 0


def test_logits_that_are_a_view_of_something_else_are_read_right() -> None:
    logits = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6)
    torch.testing.assert_close(unlikelihood(logits.T, target), unlikelihood(logits.T.contiguous(), target))
    torch.testing.assert_close(
        gradient_of(unlikelihood, logits.T, target), gradient_of(unlikelihood, logits.T.contiguous(), target)
    )


def test_a_vocabulary_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 or more"):
        unlikelihood(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))


def test_logits_that_are_not_flat_are_refused_with_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 5\).*\(2, 3\)"):
        unlikelihood(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))


def test_no_positions_give_an_empty_value() -> None:
    assert unlikelihood(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def targets_of(token: list[int], negative: list[bool], weight: list[float] | None = None) -> Targets:
    return Targets(
        token_N=torch.tensor(token),
        weight_N=torch.tensor(weight or [1.0] * len(token)),
        negative_N=torch.tensor(negative),
        sequence_N=torch.zeros(len(token), dtype=torch.int64),
    )


def test_a_margin_spares_tokens_below_it_but_keeps_them_in_the_mean() -> None:
    logits = torch.cat([with_probability(p, 1 - p) for p in (0.05, 0.2, 0.999)]).float()
    targets = targets_of([0, 0, 0], [True, True, True])
    loss = Unlikelihood(margin=0.1)(logits, targets)
    full = unlikelihood(logits, targets.token_N)
    torch.testing.assert_close(loss.value_N, torch.stack([torch.tensor(0.0), full[1], full[2]]))
    torch.testing.assert_close(reduce(loss, targets), (full[1] + full[2]) / 3)


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_a_margin_that_is_no_probability_below_one_is_refused(margin: float) -> None:
    with pytest.raises(ConfigError, match="margin"):
        Unlikelihood(margin=margin)


def test_the_reduction_weighs_positions_and_divides_by_their_number() -> None:
    targets = targets_of([0, 1, 2], [False, False, True], [2.0, 0.5, 9.0])
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    value = likelihood(logits, targets.token_N)
    loss = Likelihood()(logits, targets)
    torch.testing.assert_close(reduce(loss, targets), (2 * value[0] + 0.5 * value[1]) / 2)


def test_micro_batches_reduced_by_the_steps_count_sum_to_the_whole_batch() -> None:
    targets = targets_of(list(range(5)) * 2, [False] * 7 + [True] * 3)
    logits = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    whole = reduce(Likelihood()(logits, targets), targets)
    parts = [
        reduce(Likelihood()(logits[part], targets.select(part)), targets.select(part), count=7)
        for part in torch.arange(10).split([1, 6, 3])
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_count_of_zero_gives_zero_not_nan() -> None:
    loss = Loss(value_N=torch.zeros(2), where_N=torch.tensor([False, False]))
    assert reduce(loss, targets_of([0, 0], [True, True])).item() == 0
    assert reduce(loss, targets_of([0, 0], [True, True]), count=0).item() == 0
