"""What every token objective must obey. The classes are found by walking the package: a new one is tested with no edit here.

One that reads a teacher's signal is tested with each kind of signal that it accepts. Those that read another tokenizer's signal
(`needs_cross`) have laws of their own, as their values depend on what lies beside a position.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import pkgutil

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import distill.objectives
from distill.errors import ConfigError
from distill.head import objective_values
from distill.objectives import (
    AdaptiveKL,
    ContrastiveSkewKL,
    Divergence,
    ForwardKL,
    GeneralizedJSD,
    JensenShannon,
    Loss,
    ReverseKL,
    SignalKind,
    SkewForwardKL,
    SkewReverseKL,
    Targets,
    TeacherSignal,
    TokenObjective,
    TotalVariation,
    likelihood,
    reduce,
    unlikelihood,
)
from distill.rows import Batch, StepCounts

VOCABULARY = 7
LISTED = 3


def concrete_objectives() -> list[type[TokenObjective]]:
    found: dict[str, type[TokenObjective]] = {}
    for module in pkgutil.walk_packages(distill.objectives.__path__, "distill.objectives."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, TokenObjective) and not inspect.isabstract(member):
                found[member.__qualname__] = member
    return [found[name] for name in sorted(found)]


# Settings that take another path than the defaults.
VARIANTS: tuple[TokenObjective, ...] = (
    ForwardKL(temperature=2.0),
    ReverseKL(positions="negative"),
    JensenShannon(beta=0.0),
    JensenShannon(beta=0.9, temperature=0.5, positions="positive"),
    GeneralizedJSD(beta=1.0),
    SkewForwardKL(alpha=0.0),
    SkewForwardKL(mean_gap=0.05),
    SkewReverseKL(mean_gap=0.05, temperature=2.0),
    ContrastiveSkewKL(mean_gap=0.05, negative_weight=0.5),
    TotalVariation(temperature=2.0),
)
CLASSES = concrete_objectives()
OBJECTIVES = [one() for one in CLASSES if not one.needs_cross] + list(VARIANTS)
every_class = pytest.mark.parametrize("objective_class", CLASSES, ids=lambda c: c.__name__)


def cases(objectives: list[TokenObjective]) -> list[object]:
    """Each objective with each kind of signal that it accepts, or once where it reads none."""
    made = []
    for objective in objectives:
        settings = [f"{f.name}={getattr(objective, f.name)}" for f in dataclasses.fields(objective)
                    if getattr(objective, f.name) != f.default]  # fmt: skip
        for kind in sorted(objective.signals) if objective.needs_teacher else ["dense"]:
            if kind == "sampled" and "temperature=2.0" in settings:
                continue  # refused
            name = "-".join([type(objective).__name__, *settings, *([kind] if objective.needs_teacher else [])])
            made.append(pytest.param(objective, kind, id=name))
    return made


every_objective = pytest.mark.parametrize(("objective", "kind"), cases(OBJECTIVES))
DIVERGENCES = [objective for objective in OBJECTIVES if isinstance(objective, Divergence)]
every_divergence = pytest.mark.parametrize("objective", DIVERGENCES, ids=repr)


def top_k_of(log_q_NV: Tensor, k: int) -> TeacherSignal:
    """The k most probable tokens and the mass of the others."""
    log_probs_NK, ids_NK = log_q_NV.topk(k, dim=1)
    others_NV = log_q_NV.scatter(1, ids_NK, float("-inf"))
    return TeacherSignal(ids_NK=ids_NK, log_probs_NK=log_probs_NK, rest_N=others_NV.logsumexp(1))


def signal_of(log_q_NV: Tensor, kind: SignalKind, generator: torch.Generator | None = None) -> TeacherSignal:
    """A signal of some kind. The sampled one: 8 draws a row, as weights of the distinct tokens, -inf where there are fewer."""
    if kind == "top_k":
        return top_k_of(log_q_NV, LISTED)
    nothing_N = torch.full(log_q_NV.shape[:1], float("-inf"), dtype=log_q_NV.dtype)
    if kind == "dense":
        return TeacherSignal(ids_NK=None, log_probs_NK=log_q_NV, rest_N=nothing_N)
    drawn = [torch.multinomial(q.exp(), 8, replacement=True, generator=generator) for q in log_q_NV]
    counts_NV = torch.stack([torch.bincount(row, minlength=log_q_NV.shape[1]) for row in drawn]) if drawn else log_q_NV
    weight_NK, ids_NK = (counts_NV.to(log_q_NV.dtype) / 8).topk(log_q_NV.shape[1] - 1, dim=1)
    return TeacherSignal(ids_NK=ids_NK, log_probs_NK=weight_NK.log(), rest_N=nothing_N, sampled=True)


def targets_of(
    lengths: tuple[int, ...] = (9, 6, 8),
    *,
    kind: SignalKind = "dense",
    tokens: int = 3,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
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
        teacher=signal_of(teacher_logits.log_softmax(1), kind, generator),
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
    assert exported and exported <= {c.__name__ for c in CLASSES}


@every_class
def test_it_is_a_frozen_keyword_only_dataclass_of_weight_one(objective_class: type[TokenObjective]) -> None:
    objective = objective_class()
    assert objective.weight == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.weight = 2.0  # type: ignore[misc]
    parameters = inspect.signature(objective_class).parameters.values()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    assert inspect.getdoc(objective_class) and not inspect.getdoc(objective_class).startswith(f"{objective_class.__name__}(")  # type: ignore[union-attr]


@every_class
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_hides_polarity_or_is_no_number_is_refused(objective_class: type[TokenObjective], weight: float) -> None:
    with pytest.raises(distill.errors.ConfigError, match="weight"):
        objective_class(weight=weight)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_float32_one_per_position_and_zero_where_it_does_not_look(
    objective: TokenObjective, kind: SignalKind, dtype: torch.dtype
) -> None:
    targets = targets_of(kind=kind)
    loss = objective(logits_of(targets, dtype=dtype), targets)
    assert loss.value_N.dtype == torch.float32 and loss.value_N.shape == targets.token_N.shape
    assert torch.equal(loss.where_N, targets.where(objective.positions))
    assert loss.value_N[~loss.where_N].abs().sum() == 0
    assert loss.value_N[loss.where_N].abs().sum() > 0


@every_objective
def test_the_gradient_is_the_derivative_of_the_value(objective: TokenObjective, kind: SignalKind) -> None:
    if objective.detached:
        pytest.skip("part of the value is constant for the gradient, by declaration")
    targets = targets_of((5, 4), kind=kind, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: objective(z, targets).value_N, logits_of(targets, dtype=torch.float64))


@every_objective
def test_rows_it_does_not_look_at_get_no_gradient(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind)
    loss, gradient = value_and_gradient(objective, logits_of(targets), targets)
    assert gradient[~loss.where_N].abs().sum() == 0
    assert gradient[loss.where_N].abs().sum() > 0


@every_objective
def test_the_gradient_sums_to_zero_over_the_vocabulary(objective: TokenObjective, kind: SignalKind) -> None:
    """A constant added to all logits changes no probability, so it may change no loss."""
    targets = targets_of(kind=kind, dtype=torch.float64)
    _, gradient = value_and_gradient(objective, logits_of(targets, dtype=torch.float64), targets)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient), dtype=torch.float64))


@every_objective
def test_reordering_the_sequences_reorders_the_values_and_nothing_else(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind, dtype=torch.float64)
    logits_NV = logits_of(targets, dtype=torch.float64)
    order = torch.cat([(targets.sequence_N == sequence).nonzero().squeeze(1) for sequence in (2, 0, 1)])
    loss, gradient = value_and_gradient(objective, logits_NV, targets)
    moved_loss, moved_gradient = value_and_gradient(objective, logits_NV[order], targets.select(order))
    torch.testing.assert_close(moved_loss.value_N, loss.value_N[order])
    torch.testing.assert_close(moved_gradient, gradient[order])


@every_objective
def test_interleaved_sequences_give_the_same_values_as_sequences_one_after_the_other(
    objective: TokenObjective,
    kind: SignalKind,
) -> None:
    targets = targets_of(kind=kind, dtype=torch.float64)
    logits_NV = logits_of(targets, dtype=torch.float64)
    within = torch.cat([torch.arange(length) for length in (9, 6, 8)])
    order = within.argsort(stable=True)  # first tokens of all sequences, then all second ones, ...
    torch.testing.assert_close(
        objective(logits_NV[order], targets.select(order)).value_N, objective(logits_NV, targets).value_N[order]
    )


@every_objective
def test_nothing_leaks_from_one_sequence_to_another(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind, dtype=torch.float64)
    logits_NV = logits_of(targets, dtype=torch.float64)
    together = objective(logits_NV, targets).value_N
    for sequence in range(3):
        own = (targets.sequence_N == sequence).nonzero().squeeze(1)
        torch.testing.assert_close(objective(logits_NV[own], targets.select(own)).value_N, together[own])


@every_objective
def test_no_positions_give_zero_with_finite_gradients(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of((), kind=kind)
    loss, gradient = value_and_gradient(objective, torch.zeros(0, VOCABULARY), targets)
    assert reduce(loss, targets).item() == 0 and gradient.shape == (0, VOCABULARY)


@every_objective
@pytest.mark.parametrize("negative", [True, False])
def test_positions_of_one_polarity_only_are_no_special_case(objective: TokenObjective, kind: SignalKind, negative: bool) -> None:
    targets = targets_of(kind=kind)
    targets = dataclasses.replace(targets, negative_N=torch.full_like(targets.negative_N, negative))
    loss, gradient = value_and_gradient(objective, logits_of(targets), targets)
    looks = objective.positions in ("all", "negative" if negative else "positive")
    # Not "> 0": what gradient ascent minimises is log p.
    assert bool(gradient.isfinite().all()) and (reduce(loss, targets).item() != 0) == looks


@every_objective
def test_zero_weights_give_zero_with_zero_gradients(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind)
    targets = dataclasses.replace(targets, weight_N=torch.zeros_like(targets.weight_N))
    loss, gradient = value_and_gradient(objective, logits_of(targets), targets)
    assert reduce(loss, targets).item() == 0 and gradient.abs().sum() == 0


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extreme", [100.0, 1000.0])
def test_extreme_logits_stay_finite(objective: TokenObjective, kind: SignalKind, dtype: torch.dtype, extreme: float) -> None:
    """Every token in turn at +extreme while all others are at -extreme, and the other way round."""
    targets = targets_of((7, 7, 7, 7), kind=kind)
    hot = torch.arange(28) % VOCABULARY
    for sign in (1.0, -1.0):
        logits_NV = torch.full((28, VOCABULARY), -sign * extreme)
        logits_NV[torch.arange(28), hot] = sign * extreme
        loss, gradient = value_and_gradient(objective, logits_NV.to(dtype), targets)
        assert bool(loss.value_N.isfinite().all()) and bool(gradient.isfinite().all())


@every_objective
def test_a_negative_position_never_receives_likelihood_nor_a_positive_one_unlikelihood(
    objective: TokenObjective,
    kind: SignalKind,
) -> None:
    """One gradient step raises p of no negative token and lowers p of no positive one."""
    if objective.needs_teacher:
        pytest.skip("the teacher, not the token, says what is to go up")
    targets = targets_of(kind=kind, dtype=torch.float64)
    _, gradient = value_and_gradient(objective, logits_of(targets, dtype=torch.float64), targets)
    at_target = gradient.gather(1, targets.token_N.unsqueeze(1)).squeeze(1)
    assert bool((at_target[targets.negative_N] >= 0).all())
    assert bool((at_target[~targets.negative_N] <= 0).all())


@every_objective
def test_chunks_through_the_head_give_the_dense_values_and_gradients(objective: TokenObjective, kind: SignalKind) -> None:
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
    targets = targets_of(kind=kind)
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
        losses, _ = objective_values(model, batch, {"it": objective}, head_memory=head_memory)
        gradient = torch.autograd.grad(reduce(losses["it"], batch.targets), list(model.parameters()))
        results.append((losses["it"].value_N.detach(), *gradient))
    for dense, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, dense, rtol=1e-4, atol=1e-6)


@every_objective
def test_the_logits_are_not_changed_in_place(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind)
    logits_NV = logits_of(targets)
    before = logits_NV.detach().clone()
    value_and_gradient(objective, logits_NV, targets)
    assert torch.equal(logits_NV, before)


@every_objective
def test_accumulating_sequence_by_sequence_gives_the_mean_over_all_positions(objective: TokenObjective, kind: SignalKind) -> None:
    targets = targets_of(kind=kind, dtype=torch.float64)
    logits_NV = logits_of(targets, dtype=torch.float64)
    loss, gradient = value_and_gradient(objective, logits_NV, targets)
    leaf_NV = logits_NV.detach().requires_grad_()
    for sequence in range(3):
        own = (targets.sequence_N == sequence).nonzero().squeeze(1)
        part = targets.select(own)
        reduce(objective(leaf_NV[own], part), part, count=int(loss.where_N.sum())).backward()
    torch.testing.assert_close(leaf_NV.grad, gradient)


def value_at(objective: TokenObjective, logits_NV: Tensor, signal: TeacherSignal) -> tuple[Tensor, Tensor]:
    """Values and gradients, each position alone, with every other position negative."""
    count = logits_NV.shape[0]
    targets = Targets(
        token_N=torch.arange(count) % VOCABULARY,
        weight_N=torch.ones(count, dtype=logits_NV.dtype),
        negative_N=torch.arange(count) % 2 == 0,
        sequence_N=torch.arange(count),
        teacher=signal,
    )
    loss, gradient = value_and_gradient(objective, logits_NV, targets)
    return loss.value_N.detach(), gradient * max(int(loss.where_N.sum()), 1)


def two_models(count: int = 40, *, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """The student's logits and the teacher's log-probabilities, (count, VOCABULARY) each."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, count, VOCABULARY, generator=generator, dtype=dtype) * scale
    return student, teacher.log_softmax(1)


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, 3000])
def test_a_teacher_equal_to_the_student_gives_zero_and_no_gradient(
    objective: Divergence, dtype: torch.dtype, scale: float, vocabulary: int
) -> None:
    logits_NV = torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(0), dtype=dtype) * scale
    logits_NV = logits_NV.clamp(max=30 * scale)
    for kind in sorted(objective.signals - {"sampled"}):
        value_N, gradient = value_at(objective, logits_NV, signal_of(logits_NV.log_softmax(1), kind))
        if objective.temperature != 1 and kind == "top_k":
            continue  # the tempered mass of the rest is not known
        # First order in the rounding where the divergence itself is (total variation), second order where it is not.
        precision = torch.finfo(dtype).eps * (8 + logits_NV.abs().max().item()) * objective.scale  # 8: logs of alpha
        assert value_N.max() <= precision
        # Total variation has a kink there: its gradient is any within the kink's slopes.
        assert isinstance(objective, TotalVariation) or gradient.abs().max() <= 10 * precision


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distance", [0.0, 1e-4, 1e-2])
def test_no_value_is_negative_however_near_the_models_are(objective: Divergence, dtype: torch.dtype, distance: float) -> None:
    student, _ = two_models(200, dtype=torch.float32)
    teacher = (student + distance * torch.randn(student.shape, generator=torch.Generator().manual_seed(1))).log_softmax(1)
    for kind in sorted(objective.signals - {"sampled"}):
        value_N, _ = value_at(objective, student.to(dtype), signal_of(teacher, kind))
        assert value_N.min() >= 0


@every_divergence
def test_a_top_k_signal_of_all_tokens_is_the_dense_one(objective: Divergence) -> None:
    student, teacher = two_models()
    for dense, top_k in zip(
        value_at(objective, student, signal_of(teacher, "dense")), value_at(objective, student, top_k_of(teacher, VOCABULARY)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(top_k, dense)


@every_divergence
def test_a_top_k_signal_gives_less_the_fewer_tokens_it_lists(objective: Divergence) -> None:
    """Data processing: merging tokens into one bucket loses distance, never gains it."""
    if objective.temperature != 1 or isinstance(objective, AdaptiveKL) or objective.detached:
        pytest.skip("at other temperatures the rest's mass is not known; adaptive weights are no divergence of one kind")
    student, teacher = two_models()
    values = [value_at(objective, student, top_k_of(teacher, k))[0] for k in range(1, VOCABULARY + 1)]
    assert all(bool((fewer <= more + 1e-12).all()) for fewer, more in itertools.pairwise(values))


@every_divergence
def test_columns_that_the_teacher_does_not_have_are_left_out_of_the_student(objective: Divergence) -> None:
    """A padded vocabulary: the student is renormalised on the tokens that both have, and the padding gets no gradient."""
    student, teacher = two_models()
    padded = torch.cat([student, torch.full((len(student), 3), 50.0, dtype=student.dtype)], 1)
    value_N, gradient = value_at(objective, student, signal_of(teacher, "dense"))
    padded_value_N, padded_gradient = value_at(objective, padded, signal_of(teacher, "dense"))
    if objective.detached and not isinstance(objective, AdaptiveKL):
        pytest.skip("an adaptive skew sees the student's own probability of the token, padding included")
    torch.testing.assert_close(padded_value_N, value_N)
    torch.testing.assert_close(padded_gradient[:, :VOCABULARY], gradient)
    assert padded_gradient[:, VOCABULARY:].abs().sum() == 0


@every_divergence
@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_a_temperature_divides_both_logits_and_multiplies_the_value_by_its_scale(
    objective: Divergence, temperature: float
) -> None:
    if objective.detached and not isinstance(objective, AdaptiveKL):
        pytest.skip("an adaptive skew is taken from probabilities at temperature 1")
    student, teacher = two_models()
    tempered, plain = (dataclasses.replace(objective, temperature=t) for t in (temperature, 1.0))
    value_N, gradient = value_at(tempered, student, signal_of(teacher, "dense"))
    expected_N, expected = value_at(
        plain, student / temperature, signal_of((teacher / temperature).log_softmax(1), "dense")
    )  # fmt: skip
    assert tempered.scale == (temperature if isinstance(objective, TotalVariation) else temperature**2)
    torch.testing.assert_close(value_N, tempered.scale * expected_N)
    torch.testing.assert_close(gradient, tempered.scale / temperature * expected)


@every_divergence
def test_the_gradient_keeps_its_size_as_the_temperature_grows(objective: Divergence) -> None:
    student, teacher = two_models(scale=1.0)
    sizes = [
        value_at(dataclasses.replace(objective, temperature=t), student, signal_of(teacher, "dense"))[1].norm().item()
        for t in (30.0, 300.0)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


@every_divergence
def test_a_signal_that_cannot_carry_it_is_refused(objective: Divergence) -> None:
    student, teacher = two_models()
    for kind in {"dense", "top_k", "sampled"} - objective.signals:
        with pytest.raises(ConfigError, match=kind):
            value_at(objective, student, signal_of(teacher, kind, torch.Generator().manual_seed(0)))
    with pytest.raises(ConfigError, match="set model.teacher"):
        value_at(objective, student, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sliced"):
        value_at(objective, student[:, :-1], signal_of(teacher, "dense"))


@every_divergence
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(objective: Divergence, temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        dataclasses.replace(objective, temperature=temperature)


@every_divergence
def test_tokens_that_the_teacher_rules_out_count_exactly_or_are_refused(objective: Divergence) -> None:
    """q = 0: 0 log 0 is 0, no epsilon; only what is truly infinite there raises."""
    student, teacher = two_models()
    ruled_out = (teacher - 5000 * torch.nn.functional.one_hot(torch.arange(40) % VOCABULARY, VOCABULARY)).log_softmax(1)
    exactly = ruled_out.masked_fill(ruled_out < -1000, float("-inf"))
    beta = getattr(objective, "beta", 0.5)
    if isinstance(objective, ReverseKL | AdaptiveKL) or beta == 1:
        with pytest.raises(ValueError, match="infinite"):
            value_at(objective, student, signal_of(exactly, "dense"))
    else:
        expected = value_at(objective, student, signal_of(ruled_out, "dense"))
        for exact, nearly in zip(value_at(objective, student, signal_of(exactly, "dense")), expected, strict=True):
            torch.testing.assert_close(exact, nearly)
    # What neither model can say is no difference.
    barred = student.masked_fill(exactly.isneginf(), float("-inf"))
    value_N, gradient = value_at(objective, barred, signal_of(exactly, "dense"))
    assert bool(value_N.isfinite().all()) and bool(gradient.isfinite().all())


def test_the_pure_functions_are_attributes_of_the_package() -> None:
    assert distill.objectives.likelihood is likelihood and distill.objectives.unlikelihood is unlikelihood
    assert callable(distill.objectives.likelihood) and callable(distill.objectives.unlikelihood)
