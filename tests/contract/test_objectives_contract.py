"""What every token objective must obey. The classes are found by walking the package: a new one is tested with no edit here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import distill.objectives
from distill.head import objective_values
from distill.objectives import UNDIAL, Loss, Targets, TeacherSignal, TokenObjective, likelihood, reduce, unlikelihood
from distill.rows import Batch, StepCounts

VOCABULARY = 7


def concrete_objectives() -> list[type[TokenObjective]]:
    found: dict[str, type[TokenObjective]] = {}
    for module in pkgutil.walk_packages(distill.objectives.__path__, "distill.objectives."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, TokenObjective) and not inspect.isabstract(member):
                found[member.__qualname__] = member
    return [found[name] for name in sorted(found)]


OBJECTIVES = concrete_objectives()
every_objective = pytest.mark.parametrize("objective_class", OBJECTIVES, ids=lambda c: c.__name__)


def targets_of(
    lengths: tuple[int, ...] = (9, 6, 8), *, tokens: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Targets:
    """Sequences of few distinct tokens, so that repetition objectives have something to see; polarity mixed inside each."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    teacher_logits = torch.randn(count, VOCABULARY, generator=generator, dtype=dtype)
    return Targets(
        token_N=torch.randint(tokens, (count,), generator=generator),
        weight_N=torch.rand(count, generator=generator, dtype=dtype) + 0.1,
        negative_N=torch.rand(count, generator=generator) < 0.5,
        sequence_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64)),
        teacher=TeacherSignal(
            ids_NK=None,
            log_probs_NK=teacher_logits.log_softmax(1),
            rest_N=torch.full((count,), float("-inf"), dtype=dtype),
        ),
        reference_N=-torch.rand(count, generator=generator, dtype=dtype) * 3,
    )


def logits_of(targets: Targets, *, dtype: torch.dtype = torch.float32, scale: float = 2.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = targets.token_N.shape[0]
    return (torch.randn(count, VOCABULARY, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()


def value_and_gradient(objective: TokenObjective, logits_NV: Tensor, targets: Targets) -> tuple[Loss, Tensor]:
    logits_NV = logits_NV.detach().requires_grad_()
    loss = objective(logits_NV, targets)
    (gradient,) = torch.autograd.grad(reduce(loss, targets), logits_NV)
    return loss, gradient


def test_the_walk_finds_the_objectives_that_the_package_exports() -> None:
    exported = {name for name in distill.objectives.__all__ if inspect.isclass(member := getattr(distill.objectives, name))
                and issubclass(member, TokenObjective) and not inspect.isabstract(member)}  # fmt: skip
    assert exported and exported <= {c.__name__ for c in OBJECTIVES}


@every_objective
def test_it_is_a_frozen_keyword_only_dataclass_of_weight_one(objective_class: type[TokenObjective]) -> None:
    objective = objective_class()
    assert objective.weight == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.weight = 2.0  # type: ignore[misc]
    parameters = inspect.signature(objective_class).parameters.values()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    assert inspect.getdoc(objective_class) and not inspect.getdoc(objective_class).startswith(f"{objective_class.__name__}(")  # type: ignore[union-attr]


@every_objective
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_hides_polarity_or_is_no_number_is_refused(objective_class: type[TokenObjective], weight: float) -> None:
    with pytest.raises(distill.errors.ConfigError, match="weight"):
        objective_class(weight=weight)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_float32_one_per_position_and_zero_where_it_does_not_look(
    objective_class: type[TokenObjective], dtype: torch.dtype
) -> None:
    targets, objective = targets_of(), objective_class()
    loss = objective(logits_of(targets, dtype=dtype), targets)
    assert loss.value_N.dtype == torch.float32 and loss.value_N.shape == targets.token_N.shape
    assert torch.equal(loss.where_N, targets.where(objective.positions))
    assert loss.value_N[~loss.where_N].abs().sum() == 0
    assert loss.value_N[loss.where_N].abs().sum() > 0


@every_objective
def test_the_gradient_is_the_derivative_of_the_value(objective_class: type[TokenObjective]) -> None:
    if objective_class.detached:
        pytest.skip("part of the value is constant for the gradient, by declaration")
    targets, objective = targets_of((5, 4), dtype=torch.float64), objective_class()
    assert torch.autograd.gradcheck(lambda z: objective(z, targets).value_N, logits_of(targets, dtype=torch.float64))


@every_objective
def test_rows_it_does_not_look_at_get_no_gradient(objective_class: type[TokenObjective]) -> None:
    targets, objective = targets_of(), objective_class()
    loss, gradient = value_and_gradient(objective, logits_of(targets), targets)
    assert gradient[~loss.where_N].abs().sum() == 0
    assert gradient[loss.where_N].abs().sum() > 0


@every_objective
def test_the_gradient_sums_to_zero_over_the_vocabulary(objective_class: type[TokenObjective]) -> None:
    """A constant added to all logits changes no probability, so it may change no loss."""
    targets, objective = targets_of(dtype=torch.float64), objective_class()
    _, gradient = value_and_gradient(objective, logits_of(targets, dtype=torch.float64), targets)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient), dtype=torch.float64))


@every_objective
def test_reordering_the_sequences_reorders_the_values_and_nothing_else(objective_class: type[TokenObjective]) -> None:
    targets, objective = targets_of(dtype=torch.float64), objective_class()
    logits_NV = logits_of(targets, dtype=torch.float64)
    order = torch.cat([(targets.sequence_N == sequence).nonzero().squeeze(1) for sequence in (2, 0, 1)])
    loss, gradient = value_and_gradient(objective, logits_NV, targets)
    moved_loss, moved_gradient = value_and_gradient(objective, logits_NV[order], targets.select(order))
    torch.testing.assert_close(moved_loss.value_N, loss.value_N[order])
    torch.testing.assert_close(moved_gradient, gradient[order])


@every_objective
def test_interleaved_sequences_give_the_same_values_as_sequences_one_after_the_other(
    objective_class: type[TokenObjective],
) -> None:
    targets, objective = targets_of(dtype=torch.float64), objective_class()
    logits_NV = logits_of(targets, dtype=torch.float64)
    within = torch.cat([torch.arange(length) for length in (9, 6, 8)])
    order = within.argsort(stable=True)  # first tokens of all sequences, then all second ones, ...
    torch.testing.assert_close(
        objective(logits_NV[order], targets.select(order)).value_N, objective(logits_NV, targets).value_N[order]
    )


@every_objective
def test_nothing_leaks_from_one_sequence_to_another(objective_class: type[TokenObjective]) -> None:
    targets, objective = targets_of(dtype=torch.float64), objective_class()
    logits_NV = logits_of(targets, dtype=torch.float64)
    together = objective(logits_NV, targets).value_N
    for sequence in range(3):
        own = (targets.sequence_N == sequence).nonzero().squeeze(1)
        torch.testing.assert_close(objective(logits_NV[own], targets.select(own)).value_N, together[own])


@every_objective
def test_no_positions_give_zero_with_finite_gradients(objective_class: type[TokenObjective]) -> None:
    targets = targets_of(())
    loss, gradient = value_and_gradient(objective_class(), torch.zeros(0, VOCABULARY), targets)
    assert reduce(loss, targets).item() == 0 and gradient.shape == (0, VOCABULARY)


@every_objective
@pytest.mark.parametrize("negative", [True, False])
def test_positions_of_one_polarity_only_are_no_special_case(objective_class: type[TokenObjective], negative: bool) -> None:
    targets = targets_of()
    targets = dataclasses.replace(targets, negative_N=torch.full_like(targets.negative_N, negative))
    loss, gradient = value_and_gradient(objective_class(), logits_of(targets), targets)
    looks = objective_class.positions in ("all", "negative" if negative else "positive")
    # Not "> 0": what gradient ascent minimises is log p.
    assert bool(gradient.isfinite().all()) and (reduce(loss, targets).item() != 0) == looks


@every_objective
def test_zero_weights_give_zero_with_zero_gradients(objective_class: type[TokenObjective]) -> None:
    targets = targets_of()
    targets = dataclasses.replace(targets, weight_N=torch.zeros_like(targets.weight_N))
    loss, gradient = value_and_gradient(objective_class(), logits_of(targets), targets)
    assert reduce(loss, targets).item() == 0 and gradient.abs().sum() == 0


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extreme", [100.0, 1000.0])
def test_extreme_logits_stay_finite(objective_class: type[TokenObjective], dtype: torch.dtype, extreme: float) -> None:
    """Every token in turn at +extreme while all others are at -extreme, and the other way round."""
    targets = targets_of((7, 7, 7, 7))
    hot = torch.arange(28) % VOCABULARY
    for sign in (1.0, -1.0):
        logits_NV = torch.full((28, VOCABULARY), -sign * extreme)
        logits_NV[torch.arange(28), hot] = sign * extreme
        loss, gradient = value_and_gradient(objective_class(), logits_NV.to(dtype), targets)
        assert bool(loss.value_N.isfinite().all()) and bool(gradient.isfinite().all())


@every_objective
def test_a_negative_position_never_receives_likelihood_nor_a_positive_one_unlikelihood(
    objective_class: type[TokenObjective],
) -> None:
    """One gradient step raises p of no negative token and lowers p of no positive one."""
    if objective_class is UNDIAL:
        pytest.skip("its target is a probability that a token can be above or below")
    targets, objective = targets_of(dtype=torch.float64), objective_class()
    _, gradient = value_and_gradient(objective, logits_of(targets, dtype=torch.float64), targets)
    at_target = gradient.gather(1, targets.token_N.unsqueeze(1)).squeeze(1)
    assert bool((at_target[targets.negative_N] >= 0).all())
    assert bool((at_target[~targets.negative_N] <= 0).all())


@every_objective
def test_chunks_through_the_head_give_the_dense_values_and_gradients(objective_class: type[TokenObjective]) -> None:
    """Positions of all sequences interleaved, chunks of 4: whole sequences stay together only if the objective asks."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    torch.nn.init.normal_(model.lm_head.weight, std=1.0)
    targets = targets_of()
    order = torch.cat([torch.arange(length) for length in (9, 6, 8)]).argsort(stable=True)
    batch = Batch(
        input_ids_BT=torch.randint(VOCABULARY, (3, 9)),
        position_ids_BT=torch.arange(9).expand(3, 9),
        attention_mask=torch.ones(3, 9, dtype=torch.bool),
        gather_N=(torch.arange(27).reshape(3, 9)[torch.arange(9) < torch.tensor([[9], [6], [8]])])[order],
        targets=targets.select(order),
        record_ids=("a", "b", "c"),
        prompt_S=torch.arange(3),
        in_step=StepCounts(positives=1, negatives=1),
    )
    results = []
    for head_memory in (1 << 30, 4 * 4 * VOCABULARY):
        losses, _ = objective_values(model, batch, {"it": objective_class()}, head_memory=head_memory)
        gradient = torch.autograd.grad(reduce(losses["it"], batch.targets), list(model.parameters()))
        results.append((losses["it"].value_N.detach(), *gradient))
    for dense, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, dense, rtol=1e-4, atol=1e-6)


@every_objective
def test_the_logits_are_not_changed_in_place(objective_class: type[TokenObjective]) -> None:
    targets = targets_of()
    logits_NV = logits_of(targets)
    before = logits_NV.detach().clone()
    value_and_gradient(objective_class(), logits_NV, targets)
    assert torch.equal(logits_NV, before)


def test_the_pure_functions_are_attributes_of_the_package() -> None:
    assert distill.objectives.likelihood is likelihood and distill.objectives.unlikelihood is unlikelihood
    assert callable(distill.objectives.likelihood) and callable(distill.objectives.unlikelihood)
