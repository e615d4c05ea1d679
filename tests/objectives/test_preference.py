"""Preference losses against TRL 1.16's own functions, against the papers' formulas, and their limits.

TRL's DPO and KTO losses live in `_compute_loss` of the trainers; it is called unbound, on stand-ins for the trainer and for the
model, which answers with given log-probabilities: the arithmetic compared with is TRL's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from distill.errors import ConfigError
from distill.objectives import DPO, KTO, ORPO, SequenceObjective, Sequences, SimPO
from distill.rows import StepCounts, plain_rows
from distill.student.terms import sequences_of

PAIRS, LENGTH = 6, 7


@dataclasses.dataclass(frozen=True)
class Responses:
    """`PAIRS` positives, then as many negatives, pair by pair: log p of each token, 0 outside the mask."""

    token_log_prob: Tensor  # (2 * PAIRS, LENGTH)
    reference: Tensor  # (2 * PAIRS, LENGTH)
    mask: Tensor  # (2 * PAIRS, LENGTH)

    def sequences(self) -> Sequences:
        count = 2 * PAIRS
        return Sequences(
            log_prob_S=self.token_log_prob.sum(1),
            tokens_S=self.mask.sum(1),
            weight_S=torch.ones(count, dtype=self.token_log_prob.dtype),
            negative_S=torch.arange(count) >= PAIRS,
            prompt_S=torch.arange(count) % PAIRS,
            own_S=torch.zeros(count, dtype=torch.bool),
            reference_S=self.reference.sum(1),
        )


@pytest.fixture
def responses() -> Responses:
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (2 * PAIRS, 1), generator=generator)
    draw = [-torch.rand(2 * PAIRS, LENGTH, generator=generator, dtype=torch.float64) * 3 * mask for _ in range(2)]
    return Responses(token_log_prob=draw[0], reference=draw[1], mask=mask)


def trl_trainer(**settings: Any) -> Any:
    """What TRL's loss functions ask of `self`, and no more."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value, unwrap_model=lambda m: m
    )
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def trl_model(responses: Responses) -> Any:
    zeros = torch.zeros_like(responses.token_log_prob)
    outputs = SimpleNamespace(log_probs=responses.token_log_prob, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    return lambda **inputs: outputs


def trl_inputs(responses: Responses) -> dict[str, Tensor]:
    """One prompt token, then the completion."""
    mask = torch.cat([torch.zeros_like(responses.mask[:, :1]), responses.mask], dim=1).long()
    return {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def trl_dpo(responses: Responses, loss: str, beta: float) -> Tensor:
    trainer = trl_trainer(
        beta=beta,
        loss_types=[loss],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        label_smoothing=0.0,
    )
    reference = responses.reference.sum(1)
    inputs = trl_inputs(responses) | {"ref_chosen_logps": reference[:PAIRS], "ref_rejected_logps": reference[PAIRS:]}
    result: Tensor = DPOTrainer._compute_loss(trainer, trl_model(responses), inputs, False)
    return result


def trl_kto(responses: Responses, loss: str, *, kl: float, beta: float, desirable: float, undesirable: float) -> Tensor:
    """kl: what the mismatched completions gave."""
    trainer = trl_trainer(
        beta=beta,
        loss_type=loss,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        calculate_KL=loss == "kto",
        precompute_ref_logps=True,
        _compute_kl_logps=lambda model, batch: torch.full((2 * PAIRS,), kl, dtype=torch.float64),
    )
    inputs = trl_inputs(responses) | {
        "label": torch.arange(2 * PAIRS) < PAIRS,
        "ref_logps": responses.reference.sum(1),
        "ref_KL_logps": torch.zeros(2 * PAIRS, dtype=torch.float64),
    }
    result: Tensor = KTOTrainer._compute_loss(trainer, trl_model(responses), inputs, False)
    return result.mean()


def test_the_peer_is_the_pinned_trl() -> None:
    import trl

    assert trl.__version__.startswith("1.16.")


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo_is_trls(loss: Any, beta: float, responses: Responses) -> None:
    value_P = DPO(beta=beta, loss=loss)(responses.sequences()).value_U
    torch.testing.assert_close(value_P.mean(), trl_dpo(responses, loss, beta))


def test_dpo_with_label_smoothing_is_trls_conservative_form_of_the_log_ratios(responses: Responses) -> None:
    """TRL's CPO has the smoothed sigmoid loss, without reference; given log-ratios it is DPO's."""
    ratio = responses.sequences().log_ratio()
    trainer = trl_trainer(alpha=0.0, loss_type="sigmoid", beta=0.3, label_smoothing=0.2)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, ratio[:PAIRS], ratio[PAIRS:])
    torch.testing.assert_close(DPO(beta=0.3, label_smoothing=0.2)(responses.sequences()).value_U, losses)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.6])
def test_simpo_is_trls(gamma: float, responses: Responses) -> None:
    mean = responses.token_log_prob.sum(1) / responses.mask.sum(1)
    trainer = trl_trainer(alpha=0.0, loss_type="simpo", beta=2.0, simpo_gamma=gamma, label_smoothing=0.0)
    losses, _, _ = CPOTrainer.cpo_loss(trainer, mean[:PAIRS], mean[PAIRS:])
    torch.testing.assert_close(SimPO(beta=2.0, gamma=gamma)(responses.sequences()).value_U, losses)


def test_orpo_is_trls_odds_ratio_term(responses: Responses) -> None:
    """TRL returns lambda x log sigmoid, to be subtracted, in float32."""
    mean = responses.token_log_prob.sum(1) / responses.mask.sum(1)
    terms, *_ = ORPOTrainer.odds_ratio_loss(trl_trainer(beta=1.0), mean[:PAIRS], mean[PAIRS:])
    torch.testing.assert_close(ORPO()(responses.sequences()).value_U.float(), -terms)


def test_kto_without_a_baseline_is_trls_apo_zero_unpaired(responses: Responses) -> None:
    objective = KTO(beta=0.3, desirable=1.5, undesirable=0.5, baseline="none")
    expected = trl_kto(responses, "apo_zero_unpaired", kl=0.0, beta=0.3, desirable=1.5, undesirable=0.5)
    torch.testing.assert_close(objective(responses.sequences()).value_U.mean(), expected)


@pytest.mark.parametrize("shift", [-4.0, 4.0], ids=["mean below zero", "mean above zero"])
def test_kto_is_trls_with_the_batchs_mean_log_ratio_in_place_of_its_kl(shift: float, responses: Responses) -> None:
    responses = dataclasses.replace(responses, token_log_prob=responses.token_log_prob + shift * responses.mask)
    mean = responses.sequences().log_ratio().mean().item()
    assert (mean > 0) == (shift > 0)
    expected = trl_kto(responses, "kto", kl=mean, beta=0.3, desirable=1.5, undesirable=0.5)
    objective = KTO(beta=0.3, desirable=1.5, undesirable=0.5)
    torch.testing.assert_close(objective(responses.sequences()).value_U.mean(), expected)


def test_ktos_baseline_gets_no_gradient(responses: Responses) -> None:
    sequences = responses.sequences()
    log_prob_S = sequences.log_prob_S.requires_grad_()
    shifted = dataclasses.replace(sequences, log_prob_S=log_prob_S, reference_S=sequences.reference_S - 50)  # type: ignore[operator]
    loss = KTO()(shifted)
    one = loss.value_U[0]
    (gradient,) = torch.autograd.grad(one, log_prob_S)
    assert gradient[0] != 0 and gradient[1:].abs().sum() == 0


def test_at_the_reference_dpo_is_log_two_and_kto_a_half(responses: Responses) -> None:
    sequences = responses.sequences()
    sequences = dataclasses.replace(sequences, reference_S=sequences.log_prob_S)
    for value in DPO()(sequences).value_U.tolist():
        assert value == pytest.approx(math.log(2))
    assert KTO()(sequences).value_U.tolist() == pytest.approx([0.5] * 2 * PAIRS)


def test_every_positive_is_paired_with_every_negative_and_weights_multiply() -> None:
    sequences = Sequences(
        log_prob_S=torch.tensor([-1.0, -2.0, -3.0, -4.0]),
        tokens_S=torch.tensor([1, 1, 1, 1]),
        weight_S=torch.tensor([1.0, 0.5, 0.5, 0.25]),
        negative_S=torch.tensor([False, False, True, True]),
        prompt_S=torch.zeros(4, dtype=torch.int64),
        own_S=torch.zeros(4, dtype=torch.bool),
        reference_S=torch.zeros(4),
    )
    for objective in (DPO(), SimPO(), ORPO()):
        assert objective(sequences).weight_U.tolist() == [0.5, 0.25, 0.25, 0.125]


def test_label_smoothing_gives_the_margin_a_finite_optimum() -> None:
    """(1 - s) sigmoid(-m) = s sigmoid(m) at m = log((1 - s) / s)."""
    margin = torch.tensor(math.log(0.9 / 0.1), dtype=torch.float64, requires_grad=True)
    log_prob_S = torch.stack([margin, margin * 0])
    sequences = Sequences(
        log_prob_S=log_prob_S,
        tokens_S=torch.tensor([1, 1]),
        weight_S=torch.ones(2, dtype=torch.float64),
        negative_S=torch.tensor([False, True]),
        prompt_S=torch.zeros(2, dtype=torch.int64),
        own_S=torch.zeros(2, dtype=torch.bool),
        reference_S=torch.zeros(2, dtype=torch.float64),
    )
    (gradient,) = torch.autograd.grad(DPO(beta=1.0, label_smoothing=0.1)(sequences).value_U.sum(), margin)
    assert abs(gradient.item()) < 1e-12


@pytest.mark.parametrize("surplus", [1e-3, 1e-8, 1e-20, 1e-37])
def test_orpos_odds_are_exact_where_p_rounds_to_one(surplus: float) -> None:
    """log P = -e: the odds are 1/e, and their gradient times e is 1, long after 1 - P has rounded to 0."""
    log_prob_S = torch.tensor([-surplus, -2.0], requires_grad=True)
    sequences = Sequences(
        log_prob_S=log_prob_S,
        tokens_S=torch.tensor([1, 1]),
        weight_S=torch.ones(2),
        negative_S=torch.tensor([True, False]),
        prompt_S=torch.zeros(2, dtype=torch.int64),
        own_S=torch.zeros(2, dtype=torch.bool),
    )
    value = ORPO()(sequences).value_U.sum()
    good = math.log(math.exp(-2) / (1 - math.exp(-2)))
    assert value.item() == pytest.approx(math.log1p(math.exp(-math.log(surplus) - good)), rel=1e-3)
    (gradient,) = torch.autograd.grad(value, log_prob_S)
    assert gradient[0].item() * surplus == pytest.approx(1, rel=0.01)


def test_a_response_of_both_polarities_is_a_sequence_of_neither() -> None:
    def example(name: str, tokens: list[int], negative: list[bool]) -> Any:
        return SimpleNamespace(
            record_id=name,
            token_ids=[5, 6, *tokens],
            prompt_length=2,
            weight=[0, 0, 1, 1],
            negative=[False, False, *negative],
            own=False,
        )

    batch = plain_rows(
        [example("up", [1, 2], [False, False]), example("mixed", [3, 2], [True, False]), example("down", [4, 2], [True, True])], 0
    )
    sequences = sequences_of(batch, torch.zeros(6))
    assert sequences.where("positive").tolist() == [True, False, False]
    assert sequences.where("negative").tolist() == [False, False, True]
    assert [index.tolist() for index in sequences.pairs()] == [[0], [2]]
    counts = batch.in_step
    assert counts == StepCounts(positives=3, negatives=3, positive_sequences=1, negative_sequences=1, pairs=1)
    assert int(sequences.where("all").sum()) == counts.positive_sequences + counts.negative_sequences


@pytest.mark.parametrize(
    ("objective", "arguments", "message"),
    [
        (DPO, {"beta": 0.0}, "beta is 0"),
        (DPO, {"label_smoothing": 0.5}, "label_smoothing is 0.5"),
        (DPO, {"loss": "ipo", "label_smoothing": 0.1}, "finite optimum already"),
        (SimPO, {"beta": 0.0}, "beta is 0"),
        (KTO, {"beta": 0.0}, "beta is 0"),
    ],
)
def test_settings_without_meaning_are_refused(
    objective: type[SequenceObjective], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        objective(**arguments)
