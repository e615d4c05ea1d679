"""The distances in numbers, and which layer meets which."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill.errors import ConfigError
from distill.objectives import EmbeddingMatching, HiddenStateMatching, Targets
from distill.objectives.hidden_states import cosine_distance


def positives(count: int) -> Targets:
    return Targets(
        token_N=torch.zeros(count, dtype=torch.int64),
        weight_N=torch.ones(count),
        negative_N=torch.zeros(count, dtype=torch.bool),
        sequence_N=torch.zeros(count, dtype=torch.int64),
    )


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 50, 16, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def test_the_cosine_is_torchs_in_value_and_gradient(states) -> None:
    student, teacher = states
    ours = HiddenStateMatching()(student, teacher, positives(50)).value_N
    theirs = F.cosine_embedding_loss(student, teacher, torch.ones(50), reduction="none")
    torch.testing.assert_close(ours, theirs)
    pair = (torch.autograd.grad(value.sum(), student)[0] for value in (ours, theirs))
    torch.testing.assert_close(*pair)


def test_the_mean_squared_error_is_torchs(states) -> None:
    student, teacher = states
    ours = HiddenStateMatching(distance="mse")(student, teacher, positives(50)).value_N
    torch.testing.assert_close(ours.mean(), F.mse_loss(student, teacher))


def test_the_relative_error_is_the_squared_error_in_units_of_the_teachers_size(states) -> None:
    student, teacher = states
    ours = HiddenStateMatching(distance="relative_mse")(student, teacher, positives(50)).value_N
    torch.testing.assert_close(ours, (student - teacher).square().sum(1) / teacher.square().sum(1))
    nothing = HiddenStateMatching(distance="relative_mse")(student * 0, teacher, positives(50)).value_N
    torch.testing.assert_close(nothing, torch.ones(50, dtype=torch.float64))


def test_the_cosine_of_near_equal_states_does_not_cancel() -> None:
    """At an angle of 1e-4 it is 5e-9, which 1 - cos in float32 rounds to 0 or to 6e-8."""
    one = torch.tensor([[1.0, 0.0, 0.0]]).repeat(3, 1)
    other = torch.tensor([[1.0, 1e-4, 0.0]]).repeat(3, 1)
    torch.testing.assert_close(cosine_distance(one, other), torch.full((3,), 5e-9), rtol=1e-3, atol=0)


def test_the_cosine_is_between_0_and_2_and_blind_to_length() -> None:
    one = torch.tensor([[1.0, 2.0]])
    for scale, expected in ((3.0, 0.0), (-3.0, 2.0)):
        torch.testing.assert_close(cosine_distance(one, one * scale), torch.tensor([expected]), rtol=0, atol=1e-6)


def test_subnormal_and_huge_states_have_finite_gradients() -> None:
    for size in (1e-45, 1e-40, 1e-38, 3e38):
        states = torch.full((2, 4), size).requires_grad_()
        value = cosine_distance(states, torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
        assert bool(value.isfinite().all())
        assert bool(torch.autograd.grad(value.sum(), states)[0].isfinite().all())


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "expected"),
    [
        ("last", 15, 30, ((15, 30),)),
        ("proportion", 3, 6, ((1, 2), (2, 4), (3, 6))),
        ("proportion", 2, 2, ((1, 1), (2, 2))),
        ("proportion", 4, 2, ((1, 1), (2, 1), (3, 2), (4, 2))),
        ("proportion", 2, 5, ((1, 3), (2, 5))),
        (((0, 0), (2, 1)), 2, 2, ((0, 0), (2, 1))),
        ([[0, 0], [2, 1]], 2, 2, ((0, 0), (2, 1))),
    ],
)
def test_layers_meet_by_last_by_proportion_or_by_list(layers, student: int, teacher: int, expected) -> None:
    assert HiddenStateMatching(layers=layers).layer_pairs(student, teacher) == expected


@pytest.mark.parametrize("student", range(1, 31))
def test_by_proportion_the_last_layers_meet_and_the_order_is_kept(student: int) -> None:
    pairs = HiddenStateMatching(layers="proportion").layer_pairs(student, 30)
    assert pairs[-1] == (student, 30) and [own for own, _ in pairs] == list(range(1, student + 1))
    assert [its for _, its in pairs] == sorted({its for _, its in pairs})
    assert all(abs(its - own * 30 / student) <= 0.5 for own, its in pairs)


@pytest.mark.parametrize("layers", [(), ((1,),), ((1, 2, 3),), ((-1, 2),)], ids=str)
def test_a_list_that_is_none_of_pairs_is_refused(layers) -> None:
    with pytest.raises(ConfigError, match=r"layers is .*expected last, proportion or pairs"):
        HiddenStateMatching(layers=layers)


def test_a_layer_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"pair \[3, 1\]; the student has layers 0 to 2, the teacher 0 to 4"):
        HiddenStateMatching(layers=((3, 1),)).layer_pairs(2, 4)


def test_a_teacher_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="shows no hidden states"):
        HiddenStateMatching().layer_pairs(2, 0)
    with pytest.raises(ConfigError, match="serves no embeddings"):
        EmbeddingMatching().layer_pairs(2, 4)


def test_a_response_is_pooled_over_its_positive_positions_or_is_its_last_state() -> None:
    targets = Targets(
        token_N=torch.arange(5),
        weight_N=torch.ones(5),
        negative_N=torch.tensor([False, False, True, False, False]),
        sequence_N=torch.tensor([1, 0, 0, 1, 0]),
    )
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0], [1.0, 0.0], [-1.0, 2.0]])
    teacher = torch.tensor([[0.0, 1.0]]).repeat(5, 1)
    # Response 0: the mean of (1, 0) and (-1, 2) is the teacher's direction; response 1 is at right angles to it.
    mean = EmbeddingMatching()(student, teacher, targets).value_N
    torch.testing.assert_close(mean, torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]))
    last = EmbeddingMatching(pooling="last")(student, teacher, targets).value_N
    torch.testing.assert_close(last, torch.tensor([1.0, 1 - 2 / 5**0.5, 0.0, 1.0, 1 - 2 / 5**0.5]))
