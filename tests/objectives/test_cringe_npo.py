"""CRINGE against the paper's sampling, NPO against its formula and its limits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from distill.errors import ConfigError
from distill.objectives import Cringe, Targets, TokenNPO, likelihood


def negatives(token: list[int], reference: list[float] | None = None) -> Targets:
    return Targets(
        token_N=torch.tensor(token),
        weight_N=torch.ones(len(token)),
        negative_N=torch.ones(len(token), dtype=torch.bool),
        sequence_N=torch.zeros(len(token), dtype=torch.int64),
        reference_N=None if reference is None else torch.tensor(reference),
    )


def gradient_of(objective, logits: torch.Tensor, targets: Targets) -> torch.Tensor:  # type: ignore[no-untyped-def]
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(objective(logits, targets).value_N.sum(), logits)[0]


@pytest.mark.parametrize("token", [0, 1, 4])
def test_cringe_is_the_expectation_of_the_papers_sampled_contrast(token: int) -> None:
    """All k outcomes of the sampling, each with its probability, instead of many draws."""
    logits, k = torch.tensor([[3.0, 2.0, 1.0, 0.5, -1.0, -2.0]], dtype=torch.float64), 3
    others = [index for index in range(6) if index != token][:k]
    share = logits[0, others].softmax(0)
    value = sum(share[i] * F.softplus(logits[0, token] - logits[0, other]) for i, other in enumerate(others))
    gradient = torch.zeros(1, 6, dtype=torch.float64)
    for i, other in enumerate(others):
        push = share[i] * torch.sigmoid(logits[0, token] - logits[0, other])
        gradient[0, token] += push
        gradient[0, other] -= push
    loss = Cringe(k=k)(logits, negatives([token]))
    torch.testing.assert_close(loss.value_N[0], value)
    torch.testing.assert_close(gradient_of(Cringe(k=k), logits, negatives([token])), gradient)


def test_cringe_with_one_alternative_is_the_argmax_contrast_and_passes_a_gradient_check() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    targets = negatives([0, 1, 2, 3, 4])
    one, argmax = Cringe(k=1), Cringe(contrast="argmax")
    torch.testing.assert_close(one(logits, targets).value_N, argmax(logits, targets).value_N)
    assert torch.autograd.gradcheck(lambda z: argmax(z, targets).value_N, logits)


def test_cringe_takes_all_other_tokens_where_the_vocabulary_is_smaller_than_k() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    assert Cringe(k=50)(logits, negatives([1])).value_N.item() == pytest.approx(0.6931472)


def test_cringe_never_contrasts_a_token_with_itself() -> None:
    logits = torch.tensor([[10.0, 0.0, 0.0, 0.0]])
    gradient = gradient_of(Cringe(k=1), logits, negatives([0]))
    assert gradient[0, 0] > 0.99 and gradient[0, 1:].sum() == pytest.approx(-gradient[0, 0].item())


def test_npo_at_the_reference_is_two_log_two_over_beta_with_the_gradient_of_gradient_ascent() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = negatives([1, 2, 3, 4])
    targets = dataclasses.replace(targets, reference_N=-likelihood(logits, targets.token_N))
    for beta in (0.1, 1.0):
        value = TokenNPO(beta=beta)(logits, targets).value_N
        torch.testing.assert_close(value, torch.full((4,), 2 / beta * 0.6931471805599453, dtype=torch.float64))
        ascent = gradient_of(
            lambda z, t: dataclasses.replace(TokenNPO()(z, t), value_N=-likelihood(z, t.token_N)), logits, targets
        )
        torch.testing.assert_close(gradient_of(TokenNPO(beta=beta), logits, targets), ascent)


def test_npo_is_bounded_below_and_fades_once_the_token_is_far_less_probable_than_under_the_reference() -> None:
    logits = torch.tensor([[-200.0, 0.0, 0.0]])
    targets = negatives([0], [0.0])
    assert 0 <= TokenNPO(beta=1.0)(logits, targets).value_N.item() < 1e-30
    assert gradient_of(TokenNPO(beta=1.0), logits, targets).abs().max() < 1e-30


def test_npo_equals_the_papers_formula() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = negatives([1, 2, 3, 4], [-0.1, -2.0, -5.0, -30.0])
    p, reference = (-likelihood(logits, targets.token_N)).exp(), targets.reference_N.double().exp()  # type: ignore[union-attr]
    expected = 2 / 0.1 * torch.log(1 + (p / reference) ** 0.1)
    torch.testing.assert_close(TokenNPO(beta=0.1)(logits, targets).value_N, expected, rtol=1e-6, atol=1e-6)


def test_npo_without_a_reference_says_what_to_add() -> None:
    with pytest.raises(ConfigError, match="reference_N"):
        TokenNPO()(torch.zeros(1, 3), negatives([0]))


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="beta"):
        TokenNPO(beta=0.0)
    with pytest.raises(ConfigError, match="k is 0"):
        Cringe(k=0)
