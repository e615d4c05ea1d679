"""What every objective on hidden states must obey. The classes are found by walking the package: a new one needs no edit here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor

import distill.objectives
from distill.errors import ConfigError
from distill.objectives import EmbeddingMatching, HiddenObjective, HiddenStateMatching, Loss, Targets, reduce

WIDTH = 6


def concrete_objectives() -> list[HiddenObjective]:
    found: dict[str, type[HiddenObjective]] = {}
    for module in pkgutil.walk_packages(distill.objectives.__path__, "distill.objectives."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, HiddenObjective) and not inspect.isabstract(member):
                found[member.__qualname__] = member
    plain = [found[name]() for name in sorted(found)]
    return plain + [
        HiddenStateMatching(distance="mse"),
        HiddenStateMatching(distance="relative_mse", positions="all"),
        EmbeddingMatching(pooling="last"),
    ]


OBJECTIVES = concrete_objectives()
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def targets_of(lengths: tuple[int, ...] = (5, 4, 6), *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    return Targets(
        token_N=torch.randint(9, (count,), generator=generator),
        weight_N=torch.rand(count, generator=generator, dtype=dtype) + 0.1,
        negative_N=torch.rand(count, generator=generator) < 0.4,
        sequence_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64)),
    )


def states_of(targets: Targets, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """The student's, and the teacher's: equal within a sequence, as embeddings of responses are."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(len(targets.token_N), WIDTH, generator=generator, dtype=torch.float64)
    by_sequence = torch.randn(3, WIDTH, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), by_sequence[targets.sequence_N].to(dtype)


def value_and_gradient(objective: HiddenObjective, student: Tensor, teacher: Tensor, targets: Targets) -> tuple[Loss, Tensor]:
    student = student.detach().requires_grad_()
    loss = objective(student, teacher, targets)
    (gradient,) = torch.autograd.grad(reduce(loss, targets), student)
    return loss, gradient


def test_the_walk_finds_the_objectives_that_the_package_exports() -> None:
    exported = {name for name in distill.objectives.__all__ if inspect.isclass(member := getattr(distill.objectives, name))
                and issubclass(member, HiddenObjective) and not inspect.isabstract(member)}  # fmt: skip
    assert exported and exported == {type(objective).__name__ for objective in OBJECTIVES}


@every_objective
def test_it_is_a_frozen_keyword_only_dataclass_of_weight_one(objective: HiddenObjective) -> None:
    assert objective.weight == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.weight = 2.0  # type: ignore[misc]
    parameters = inspect.signature(type(objective)).parameters.values()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in parameters)


@every_objective
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_hides_polarity_or_is_no_number_is_refused(objective: HiddenObjective, weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        dataclasses.replace(objective, weight=weight)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_float32_one_per_position_and_zero_where_it_does_not_look(
    objective: HiddenObjective, dtype: torch.dtype
) -> None:
    targets = targets_of(dtype=torch.float32)
    loss = objective(*states_of(targets, dtype=dtype), targets)
    assert loss.value_N.dtype == torch.float32 and loss.value_N.shape == targets.token_N.shape
    assert torch.equal(loss.where_N, targets.where(objective.positions))
    assert loss.value_N[~loss.where_N].abs().sum() == 0
    assert bool((loss.value_N[loss.where_N] > 0).all())
    exact = objective(*(state.double() for state in states_of(targets, dtype=dtype)), targets).value_N
    torch.testing.assert_close(loss.value_N.double(), exact, rtol=1e-5, atol=1e-6)


@every_objective
def test_the_gradient_is_the_derivative_of_the_value(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    assert torch.autograd.gradcheck(lambda states: objective(states, teacher, targets).value_N, student)


@every_objective
def test_the_teacher_gets_no_gradient(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    teacher.requires_grad_()
    objective(student, teacher, targets).value_N.sum().backward()
    assert teacher.grad is None and student.grad is not None


@every_objective
def test_positions_it_does_not_look_at_are_not_even_read(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    elsewhere = ~targets.where(objective.positions)
    with torch.no_grad():
        student[elsewhere], teacher[elsewhere] = float("nan"), float("inf")
    loss, gradient = value_and_gradient(objective, student, teacher, targets)
    assert bool(loss.value_N.isfinite().all()) and gradient[elsewhere].abs().sum() == 0


@every_objective
def test_interleaved_sequences_give_the_same_values_as_sequences_one_after_the_other(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    order = torch.cat([torch.arange(length) for length in (5, 4, 6)]).argsort(stable=True)
    loss, gradient = value_and_gradient(objective, student, teacher, targets)
    moved_loss, moved_gradient = value_and_gradient(objective, student[order], teacher[order], targets.select(order))
    torch.testing.assert_close(moved_loss.value_N, loss.value_N[order])
    torch.testing.assert_close(moved_gradient, gradient[order])


@every_objective
def test_nothing_leaks_from_one_sequence_to_another(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    together = objective(student, teacher, targets).value_N
    for sequence in range(3):
        own = (targets.sequence_N == sequence).nonzero().squeeze(1)
        torch.testing.assert_close(objective(student[own], teacher[own], targets.select(own)).value_N, together[own])


@every_objective
def test_no_positions_give_zero_with_finite_gradients(objective: HiddenObjective) -> None:
    targets = targets_of(())
    loss, gradient = value_and_gradient(objective, torch.zeros(0, WIDTH), torch.zeros(0, WIDTH), targets)
    assert reduce(loss, targets).item() == 0 and gradient.shape == (0, WIDTH)
    negatives = dataclasses.replace(targets_of(), negative_N=torch.ones(15, dtype=torch.bool))
    loss, gradient = value_and_gradient(objective, *states_of(negatives), negatives)
    assert bool(gradient.isfinite().all()) and (reduce(loss, negatives).item() > 0) == (objective.positions == "all")


@every_objective
def test_zero_weights_give_zero_with_zero_gradients(objective: HiddenObjective) -> None:
    targets = targets_of()
    targets = dataclasses.replace(targets, weight_N=torch.zeros_like(targets.weight_N))
    loss, gradient = value_and_gradient(objective, *states_of(targets), targets)
    assert reduce(loss, targets).item() == 0 and gradient.abs().sum() == 0


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_zero_states_give_finite_values_and_gradients(objective: HiddenObjective, dtype: torch.dtype, zero: str) -> None:
    targets = targets_of(dtype=torch.float32)
    student, teacher = states_of(targets, dtype=dtype)
    student = student * 0 if zero != "teacher" else student
    teacher = teacher * 0 if zero != "student" else teacher
    loss, gradient = value_and_gradient(objective, student, teacher, targets)
    assert bool(loss.value_N.isfinite().all()) and bool(gradient.isfinite().all())
    if zero == "both":
        assert loss.value_N.abs().sum() == 0 and gradient.abs().sum() == 0


@every_objective
def test_equal_states_cost_nothing(objective: HiddenObjective) -> None:
    targets = targets_of(dtype=torch.float32)
    _, teacher = states_of(targets, dtype=torch.float32)
    loss, gradient = value_and_gradient(objective, teacher, teacher, targets)
    assert loss.value_N.abs().max() < 1e-12 and gradient.abs().max() < 1e-6


@every_objective
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_the_distance_does_not_depend_on_the_scale_of_both_where_it_claims_so(objective: HiddenObjective, scale: float) -> None:
    if isinstance(objective, HiddenStateMatching) and objective.distance == "mse":
        pytest.skip("the squared error is in the units of the states, squared")
    targets = targets_of(dtype=torch.float32)
    student, teacher = states_of(targets, dtype=torch.float32)
    plain = objective(student, teacher, targets).value_N
    torch.testing.assert_close(objective(student * scale, teacher * scale, targets).value_N, plain)


@every_objective
def test_the_states_are_not_changed_in_place(objective: HiddenObjective) -> None:
    targets = targets_of()
    student, teacher = states_of(targets)
    before = student.detach().clone(), teacher.clone()
    value_and_gradient(objective, student, teacher, targets)
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])
