"""NPO, SimNPO, UNDIAL, CE-U, negative-sample reinforcement and gradient ascent: formulas, authors' forms, and their kinships."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives import (
    CEU,
    NPO,
    UNDIAL,
    GradientAscent,
    Likelihood,
    NegativeSampleReinforcement,
    Sequences,
    SimNPO,
    Targets,
    TeacherSignal,
    TokenNPO,
    TokenObjective,
    Unlikelihood,
    likelihood,
)


def negatives(
    token: list[int], *, reference_N: Tensor | None = None, teacher_logits: Tensor | None = None, negative: bool = True
) -> Targets:
    count = len(token)
    teacher = None
    if teacher_logits is not None:
        log_probs = teacher_logits.log_softmax(1)
        teacher = TeacherSignal(ids_NK=None, log_probs_NK=log_probs, rest_N=log_probs.new_full((count,), float("-inf")))
    return Targets(
        token_N=torch.tensor(token),
        weight_N=torch.ones(count),
        negative_N=torch.full((count,), negative),
        sequence_N=torch.zeros(count, dtype=torch.int64),
        teacher=teacher,
        reference_N=reference_N,
    )


def draw(rows: int, vocabulary: int = 9, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def gradient_of(objective: TokenObjective, logits: Tensor, targets: Targets) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(objective(logits, targets).value_N.sum(), logits)[0]


def responses(log_prob: list[float], tokens: list[int], reference: list[float] | None = None) -> Sequences:
    count = len(log_prob)
    return Sequences(
        log_prob_S=torch.tensor(log_prob, dtype=torch.float64),
        tokens_S=torch.tensor(tokens),
        weight_S=torch.ones(count, dtype=torch.float64),
        negative_S=torch.ones(count, dtype=torch.bool),
        prompt_S=torch.arange(count),
        own_S=torch.zeros(count, dtype=torch.bool),
        reference_S=None if reference is None else torch.tensor(reference, dtype=torch.float64),
    )


def quiet_ascent() -> GradientAscent:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GradientAscent()


# Whole responses


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo_is_the_papers_formula_on_whole_responses(beta: float) -> None:
    """2 / beta x mean log(1 + (p / p_reference)^beta), written with probabilities."""
    sequences = responses([-1.0, -6.0, -2.0], [2, 3, 1], [-2.0, -3.0, -2.0])
    ratio = sequences.log_prob_S.exp() / sequences.reference().exp()
    torch.testing.assert_close(NPO(beta=beta)(sequences).value_U, 2 / beta * torch.log(1 + ratio**beta))


def test_npo_of_one_token_responses_is_token_npo() -> None:
    logits, token = draw(4), [0, 3, 5, 1]
    log_prob = -likelihood(logits, torch.tensor(token))
    reference = log_prob + torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    by_token = TokenNPO(beta=0.3)(logits, negatives(token, reference_N=reference)).value_N
    by_response = NPO(beta=0.3)(responses(log_prob.tolist(), [1] * 4, reference.tolist())).value_U
    torch.testing.assert_close(by_response, by_token)


def test_simnpo_is_the_authors_code_where_the_two_agree() -> None:
    """OPTML-Group/Unlearn-Simple: -log sigmoid(beta (nll / tokens - gamma)) x 2 / beta, at gamma = 0."""
    sequences, beta = responses([-1.0, -6.0, -40.0], [2, 3, 8]), 2.5
    per_token = -sequences.log_prob_S / sequences.tokens_S
    torch.testing.assert_close(SimNPO(beta=beta)(sequences).value_U, -F.logsigmoid(beta * (per_token - 0.0)) * 2 / beta)
    gamma = 0.7  # the paper's is outside beta, the code's inside
    torch.testing.assert_close(
        SimNPO(beta=beta, gamma=gamma)(sequences).value_U, -F.logsigmoid(beta * (per_token - gamma / beta)) * 2 / beta
    )


def test_simnpo_pushes_a_long_response_as_a_short_one_of_the_same_mean() -> None:
    value_U = SimNPO()(responses([-2.0, -20.0], [2, 20])).value_U
    assert value_U[0] == value_U[1]


# UNDIAL


def test_undial_is_cross_entropy_to_the_originals_lowered_logits() -> None:
    """The authors' form: subtract gamma from the target's logit, softmax, F.cross_entropy with that as probabilities."""
    logits, original, token = draw(5), draw(5, seed=1), [0, 3, 5, 1, 8]
    lowered = original.clone()
    lowered[torch.arange(5), torch.tensor(token)] -= 3.0
    expected = F.cross_entropy(logits, lowered.softmax(1), reduction="none")
    loss = UNDIAL(gamma=3.0)(logits, negatives(token, teacher_logits=original))
    torch.testing.assert_close(loss.value_N, expected)


def test_undial_rests_where_the_students_odds_of_the_token_are_the_originals_divided_by_e_to_gamma() -> None:
    original, token = draw(3), [0, 3, 5]
    rest = original.clone()
    rest[torch.arange(3), torch.tensor(token)] -= 2.0
    targets = negatives(token, teacher_logits=original)
    assert gradient_of(UNDIAL(gamma=2.0), rest + 7.0, targets).abs().max() < 1e-12
    assert (gradient_of(UNDIAL(gamma=2.0), original, targets)[torch.arange(3), torch.tensor(token)] > 0).all()


@pytest.mark.parametrize("gamma", [3.0, 200.0])
def test_undial_is_finite_for_a_teacher_without_doubt(gamma: float) -> None:
    """Log-probabilities of 0 and -inf, and -90, which is a probability of 0 in float32: the proportions of the others stay."""
    original = torch.tensor([[0.0, -float("inf"), -float("inf")], [0.0, -100.0, -101.0]])
    logits = torch.tensor([[1e3, -1e3, 0.0], [-1e3, 1e3, 999.0]], requires_grad=True)
    value = UNDIAL(gamma=gamma)(logits, negatives([0, 0], teacher_logits=original)).value_N
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(value.isfinite().all()) and bool(gradient.isfinite().all())
    if gamma == 200:
        assert gradient[1].abs().max() < 1e-6, "the student already says the other two as the original would"


def test_undial_compares_the_tokens_that_both_know_where_the_students_vocabulary_is_padded() -> None:
    logits, original, token = draw(2, 9), draw(2, 6, seed=1), [1, 5]
    loss = UNDIAL()(logits, negatives(token, teacher_logits=original))
    torch.testing.assert_close(loss.value_N, UNDIAL()(logits[:, :6], negatives(token, teacher_logits=original)).value_N)
    assert gradient_of(UNDIAL(), logits, negatives(token, teacher_logits=original))[:, 6:].abs().sum() == 0


def test_undial_without_the_whole_distribution_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="model.teacher"):
        UNDIAL()(draw(1), negatives([0]))
    top = TeacherSignal(
        ids_NK=torch.tensor([[0, 1]]), log_probs_NK=torch.tensor([[-1.0, -1.0]]), rest_N=torch.tensor([math.log(1 - 2 / math.e)])
    )
    with pytest.raises(ConfigError, match="top_k"):
        UNDIAL()(draw(1), dataclasses.replace(negatives([0]), teacher=top))


# CE-U


def test_ce_u_is_the_authors_cross_entropy_to_ones_own_distribution_without_the_token() -> None:
    logits, token = draw(5).requires_grad_(), [0, 3, 5, 1, 8]
    target = logits.detach().clone()
    target[torch.arange(5), torch.tensor(token)] = -float("inf")
    expected = F.cross_entropy(logits, target.softmax(1), reduction="none")
    (its_gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(CEU()(logits, negatives(token)).value_N, expected)
    torch.testing.assert_close(gradient_of(CEU(), logits, negatives(token)), its_gradient)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_ce_u_has_the_gradient_of_unlikelihood(scale: float) -> None:
    logits, targets = (draw(5) * scale).float(), negatives([0, 3, 5, 1, 8])
    assert torch.equal(gradient_of(CEU(), logits, targets), gradient_of(Unlikelihood(), logits, targets))


# Policy gradients


def test_on_policy_reinforcement_of_a_negative_is_gradient_ascent_and_of_a_positive_likelihood() -> None:
    """So W-REINFORCE is Likelihood(weight=lambda, own_samples=True) beside it."""
    logits, token = draw(4), [0, 3, 5, 1]
    below, above = negatives(token), negatives(token, negative=False)
    ascent = gradient_of(quiet_ascent(), logits, below)
    torch.testing.assert_close(gradient_of(NegativeSampleReinforcement(), logits, below), ascent)
    own = dataclasses.replace(above, own_N=torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(gradient_of(Likelihood(own_samples=True), logits, own), -ascent)


def test_reinforcement_with_importance_is_the_derivative_of_the_ratio() -> None:
    logits, token = draw(4), torch.tensor([0, 3, 5, 1])
    reference = -likelihood(logits, token) + torch.tensor([0.5, -0.5, 0.0, 2.0], dtype=torch.float64)
    ratio = NegativeSampleReinforcement(importance="reference")
    targets = negatives(token.tolist(), reference_N=reference)
    inputs = logits.detach().requires_grad_()
    expected = (inputs.log_softmax(1).gather(1, token[:, None]).squeeze(1) - reference).exp()
    torch.testing.assert_close(ratio(logits, targets).value_N, expected.detach())
    torch.testing.assert_close(gradient_of(ratio, logits, targets), torch.autograd.grad(expected.sum(), inputs)[0])


def test_reinforcement_holds_great_ratios_and_leaves_tokens_alone_that_are_rare_enough() -> None:
    logits = torch.zeros(3, 4)
    targets = negatives([0, 1, 2], reference_N=math.log(1 / 4) - torch.tensor([5.0, 0.0, -0.5]))
    plain = NegativeSampleReinforcement(importance="reference")
    assert plain(logits, targets).value_N.tolist() == pytest.approx([3.0, 1.0, math.exp(-0.5)])
    clipped = NegativeSampleReinforcement(importance="reference", clip=0.2)
    assert clipped(logits, targets).value_N.tolist() == pytest.approx([3.0, 1.0, 0.0])
    size = gradient_of(clipped, logits, targets).abs().sum(1)
    assert size[2] == 0 and size[0].item() == pytest.approx(3 * size[1].item())


def test_reinforcement_stays_finite_where_the_sample_was_all_but_impossible() -> None:
    logits = torch.tensor([[1e3, -1e3], [-1e3, 1e3]])
    targets = negatives([0, 0], reference_N=torch.tensor([-1e4, -1e-8]))
    objective = NegativeSampleReinforcement(importance="reference")
    assert bool(objective(logits, targets).value_N.isfinite().all())
    assert bool(gradient_of(objective, logits, targets).isfinite().all())


def test_reinforcement_asks_for_a_reference_only_if_its_importance_does() -> None:
    assert not NegativeSampleReinforcement().needs_reference
    assert NegativeSampleReinforcement(importance="reference").needs_reference
    given = negatives([0], reference_N=torch.tensor([-9.0]))
    assert NegativeSampleReinforcement()(draw(1), given).value_N.tolist() == [1.0], "another objective's reference is not its own"
    with pytest.raises(ConfigError, match="reference_N is None"):
        NegativeSampleReinforcement(importance="reference")(draw(1), negatives([0]))


# The baseline


def test_gradient_ascent_pushes_least_where_the_token_is_surest_and_warns_that_it_destroys_the_model() -> None:
    with pytest.warns(UserWarning, match="destroys the model.*NPO.*Unlikelihood"):
        objective = GradientAscent()
    sure, gone = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[-20.0, 0.0, 0.0]])
    assert gradient_of(objective, sure, negatives([0]))[0, 0] < 1e-6
    assert gradient_of(objective, gone, negatives([0]))[0, 0] == 1
    assert objective(gone, negatives([0])).value_N.item() == pytest.approx(-20 - math.log(2), rel=1e-5)


def test_only_gradient_ascent_goes_on_pushing_what_is_forgotten() -> None:
    """The size of the push at p = e^-40 and p_reference = 1/2, over that at p = p_reference."""

    def push(objective: TokenObjective, logit: float) -> float:
        logits = torch.tensor([[logit, 0.0, 0.0]], dtype=torch.float64)
        targets = negatives([0], reference_N=torch.tensor([-math.log(2)]), teacher_logits=torch.zeros(1, 3, dtype=torch.float64))
        return abs(gradient_of(objective, logits, targets)[0, 0].item())

    fading = [Unlikelihood(), CEU(), TokenNPO(beta=1.0), NegativeSampleReinforcement(importance="reference"), UNDIAL(gamma=20.0)]
    for objective in fading:
        assert push(objective, -40.0) < 1e-6 * push(objective, math.log(2)), objective
    assert push(quiet_ascent(), -40.0) > push(quiet_ascent(), math.log(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NPO(beta=0.0), "beta is 0"),
        (lambda: SimNPO(gamma=-1.0), "gamma is -1"),
        (lambda: UNDIAL(gamma=0.0), "gamma is 0"),
        (lambda: NegativeSampleReinforcement(max_ratio=0.5), "max_ratio is 0.5"),
        (lambda: NegativeSampleReinforcement(importance="reference", clip=1.5), "clip is 1.5"),
        (lambda: NegativeSampleReinforcement(clip=0.2), "nothing to clip"),
    ],
)
def test_settings_without_meaning_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
