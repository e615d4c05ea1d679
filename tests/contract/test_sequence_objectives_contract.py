"""What every objective on whole responses must obey. The classes are found by walking the package."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import distill.objectives
from distill.errors import ConfigError
from distill.objectives import KTO, SequenceLoss, SequenceObjective, Sequences
from distill.rows import StepCounts
from distill.student.terms import sequence_term


def concrete_objectives() -> list[type[SequenceObjective]]:
    found: dict[str, type[SequenceObjective]] = {}
    for module in pkgutil.walk_packages(distill.objectives.__path__, "distill.objectives."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, SequenceObjective) and not inspect.isabstract(member):
                found[member.__qualname__] = member
    return [found[name] for name in sorted(found)]


OBJECTIVES = concrete_objectives()
every_objective = pytest.mark.parametrize("objective_class", OBJECTIVES, ids=lambda c: c.__name__)

# By default KTO's baseline is the mean of the batch, held constant: a response's value depends on the others, by declaration.
# tests/objectives/test_preference.py has that baseline's own laws.
ALONE: dict[type[SequenceObjective], Callable[[], SequenceObjective]] = {KTO: lambda: KTO(baseline="none")}


def alone(objective_class: type[SequenceObjective]) -> SequenceObjective:
    """The objective in a setting where each unit is a function of its own responses."""
    return ALONE.get(objective_class, objective_class)()


def sequences_of(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> Sequences:
    """Prompts with two positives and two negatives, one of each, a positive, a negative; and a response without tokens."""
    generator = torch.Generator().manual_seed(seed)
    count = 9
    return Sequences(
        log_prob_S=-(torch.rand(count, generator=generator, dtype=dtype) * 9 + 0.1),
        tokens_S=torch.tensor([3, 4, 2, 5, 3, 1, 2, 6, 0]),
        weight_S=torch.rand(count, generator=generator, dtype=dtype) + 0.1,
        negative_S=torch.tensor([False, True, False, True, True, False, False, True, False]),
        prompt_S=torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 1]),
        own_S=torch.zeros(count, dtype=torch.bool),
        reference_S=-(torch.rand(count, generator=generator, dtype=dtype) * 9 + 0.1),
    )


def select(sequences: Sequences, index: Tensor) -> Sequences:
    fields = {field.name: getattr(sequences, field.name) for field in dataclasses.fields(sequences)}
    return Sequences(**{name: None if value is None else value[index] for name, value in fields.items()})


def with_log_prob(sequences: Sequences, log_prob_S: Tensor) -> Sequences:
    return dataclasses.replace(sequences, log_prob_S=log_prob_S)


def gradient(objective: SequenceObjective, sequences: Sequences) -> Tensor:
    log_prob_S = sequences.log_prob_S.detach().requires_grad_()
    total = sequence_term(objective(with_log_prob(sequences, log_prob_S))).total
    (result,) = torch.autograd.grad(total, log_prob_S)
    return result


def as_table(loss: SequenceLoss) -> list[tuple[float, float]]:
    return sorted((round(value.item(), 9), round(weight.item(), 9)) for value, weight in zip(loss.value_U, loss.weight_U))


def test_the_walk_finds_the_objectives_that_the_package_exports() -> None:
    exported = {name for name in distill.objectives.__all__ if inspect.isclass(member := getattr(distill.objectives, name))
                and issubclass(member, SequenceObjective) and not inspect.isabstract(member)}  # fmt: skip
    assert {"DPO", "SimPO", "ORPO", "KTO", "NPO", "SimNPO"} <= exported == {c.__name__ for c in OBJECTIVES}


@every_objective
def test_it_is_a_frozen_keyword_only_dataclass_of_weight_one(objective_class: type[SequenceObjective]) -> None:
    objective = objective_class()
    assert objective.weight == 1.0 and objective.unit in ("positive", "negative", "sequence", "pair")
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.weight = 2.0  # type: ignore[misc]
    parameters = inspect.signature(objective_class).parameters.values()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    documentation = inspect.getdoc(objective_class) or ""
    assert "Source: " in documentation and not documentation.startswith(f"{objective_class.__name__}(")


@every_objective
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_hides_polarity_or_is_no_number_is_refused(objective_class: type[SequenceObjective], weight: float) -> None:
    with pytest.raises(ConfigError, match="weight"):
        objective_class(weight=weight)


@every_objective
@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_settings_that_are_no_sensible_numbers_are_refused_by_name(
    objective_class: type[SequenceObjective], number: float
) -> None:
    for field in dataclasses.fields(objective_class):
        if field.type == "float":
            with pytest.raises(ConfigError, match=field.name):
                objective_class(**{field.name: number})


@every_objective
def test_there_is_one_float32_value_and_weight_for_each_unit_that_the_step_counts(
    objective_class: type[SequenceObjective],
) -> None:
    loss = objective_class()(sequences_of())
    counts = StepCounts(positives=1, negatives=1, positive_sequences=4, negative_sequences=4, pairs=5)
    assert len(loss.value_U) == len(loss.weight_U) == counts.of(objective_class())
    assert loss.value_U.dtype == torch.float32 and bool((loss.value_U > 0).all())


@every_objective
def test_the_gradient_is_the_derivative_of_the_value(objective_class: type[SequenceObjective]) -> None:
    sequences, objective = sequences_of(dtype=torch.float64), alone(objective_class)
    log_prob_S = sequences.log_prob_S.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(with_log_prob(sequences, x)).value_U, log_prob_S)


@every_objective
def test_reordering_the_responses_reorders_the_values_and_nothing_else(objective_class: type[SequenceObjective]) -> None:
    sequences, objective = sequences_of(dtype=torch.float64), objective_class()
    order = torch.tensor([5, 0, 8, 3, 7, 1, 6, 2, 4])
    moved = select(sequences, order)
    assert as_table(objective(moved)) == as_table(objective(sequences))
    torch.testing.assert_close(gradient(objective, moved), gradient(objective, sequences)[order])


@every_objective
def test_nothing_leaks_from_one_prompt_to_another(objective_class: type[SequenceObjective]) -> None:
    sequences, objective = sequences_of(dtype=torch.float64), alone(objective_class)
    apart: list[tuple[float, float]] = []
    for prompt in range(4):
        own = (sequences.prompt_S == prompt).nonzero().squeeze(1)
        apart += as_table(objective(select(sequences, own)))
        torch.testing.assert_close(gradient(objective, select(sequences, own)), gradient(objective, sequences)[own])
    assert sorted(apart) == as_table(objective(sequences))


@every_objective
@pytest.mark.parametrize("kept", [[], [0, 2, 5, 6], [1, 3, 4, 7], [6, 7], [8]], ids=["none", "up", "down", "unpaired", "empty"])
def test_missing_kinds_of_responses_are_no_special_case(objective_class: type[SequenceObjective], kept: list[int]) -> None:
    sequences = select(sequences_of(), torch.tensor(kept, dtype=torch.int64))
    objective = objective_class()
    real = sequences.where("all")
    expected = {
        "pair": 0,
        "positive": int((real & ~sequences.negative_S).sum()),
        "negative": int((real & sequences.negative_S).sum()),
        "sequence": int(real.sum()),
    }[objective.unit]
    term, found = sequence_term(objective(sequences)), gradient(objective, sequences)
    assert int(term.units) == expected and bool(found.isfinite().all())
    assert (term.total.item() == 0) == (expected == 0) == (found.abs().sum().item() == 0)


@every_objective
def test_zero_weights_give_zero_with_zero_gradients(objective_class: type[SequenceObjective]) -> None:
    sequences = dataclasses.replace(sequences_of(), weight_S=torch.zeros(9))
    assert sequence_term(objective_class()(sequences)).total.item() == 0
    assert gradient(objective_class(), sequences).abs().sum() == 0


@every_objective
def test_a_response_without_supervised_tokens_takes_no_part(objective_class: type[SequenceObjective]) -> None:
    sequences = sequences_of(dtype=torch.float64)
    assert gradient(objective_class(), sequences)[8] == 0
    assert as_table(objective_class()(select(sequences, torch.arange(8)))) == as_table(objective_class()(sequences))


@every_objective
@pytest.mark.parametrize("low", [-1e4, -1e6])
@pytest.mark.parametrize("swapped", [False, True])
def test_certain_and_impossible_responses_stay_finite(
    objective_class: type[SequenceObjective], low: float, swapped: bool
) -> None:
    """log p = 0 beside -1e4 nats (and less) in float32, the reference saying the same or the opposite."""
    sequences = sequences_of()
    certain_S = torch.arange(9) % 2 == 0
    log_prob_S = torch.where(certain_S ^ swapped, torch.zeros(9), torch.full((9,), low))
    for reference_S in (log_prob_S, log_prob_S.flip(0), torch.zeros(9)):
        case = dataclasses.replace(sequences, log_prob_S=log_prob_S, reference_S=reference_S)
        loss = objective_class()(case)
        assert bool(loss.value_U.isfinite().all()) and bool(gradient(objective_class(), case).isfinite().all())


@every_objective
def test_a_step_against_the_gradient_raises_positives_relative_to_negatives(objective_class: type[SequenceObjective]) -> None:
    sequences = sequences_of(dtype=torch.float64)
    found = gradient(objective_class(), sequences)
    real = sequences.where("all")
    assert bool((found[real & sequences.negative_S] >= 0).all()), "no negative is made more probable"
    assert bool((found[real & ~sequences.negative_S] <= 0).all()), "no positive is made less probable"
    assert found.abs().sum() > 0


@every_objective
def test_one_that_compares_with_a_reference_says_when_there_is_none(objective_class: type[SequenceObjective]) -> None:
    without = dataclasses.replace(sequences_of(), reference_S=None)
    if objective_class.needs_reference:
        with pytest.raises(ConfigError, match="reference"):
            objective_class()(without)
    else:
        assert as_table(objective_class()(without)) == as_table(objective_class()(sequences_of()))


@every_objective
def test_the_responses_are_not_changed_in_place(objective_class: type[SequenceObjective]) -> None:
    sequences = sequences_of()
    gradient(objective_class(), sequences)
    for field in dataclasses.fields(sequences):
        assert torch.equal(getattr(sequences, field.name), getattr(sequences_of(), field.name))
