"""The hidden states that the supervised head hands out are those that transformers counts, whatever wraps the blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_head import FAMILIES, batch_of, dense_logits, gradients, head_memory_for, model_of
from torch import Tensor

from distill.errors import ModelError
from distill.head import objective_values
from distill.objectives import Likelihood, reduce
from distill.rows import Batch


def dense_states(model: Any, batch: Batch) -> dict[int, Tensor]:
    states = model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids_BT,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    return {layer: hidden_BTD.flatten(0, 1)[batch.gather_N] for layer, hidden_BTD in enumerate(states)}


def energy(hidden: dict[int, Tensor]) -> Tensor:
    return torch.stack([(layer + 1) * state.square().mean() for layer, state in hidden.items()]).sum()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recomputed", [False, True], ids=["plain", "gradient checkpointing"])
@pytest.mark.parametrize("positions", [1000, 4])
def test_layers_are_those_of_transformers_in_value_and_gradient(family: str, recomputed: bool, positions: int) -> None:
    model, batch = model_of(family), batch_of()
    expected = dense_states(model, batch)
    # Together with a loss on tokens, as in training.
    answer = reduce(Likelihood()(dense_logits(model, batch), batch.targets), batch.targets)
    theirs = gradients(model, energy(expected) + answer)
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    losses, stats = objective_values(
        model, batch, {"likelihood": Likelihood()}, head_memory=head_memory_for(positions), layers=range(3)
    )
    assert stats.hidden.keys() == {0, 1, 2}
    for layer, state in expected.items():
        torch.testing.assert_close(stats.hidden[layer], state, rtol=1e-5, atol=1e-5)
    own = gradients(model, energy(dict(stats.hidden)) + reduce(losses["likelihood"], batch.targets))
    assert own.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-4 * max(gradient.abs().max().item(), 1e-2))


def test_layers_are_found_below_adapters() -> None:
    peft = pytest.importorskip("peft")
    for family in ("llama tied", "gpt2", "gpt-neox", "gemma3"):
        model, batch = model_of(family), batch_of()
        expected = dense_states(model, batch)
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", r=4, task_type="CAUSAL_LM"))
        _, stats = objective_values(model, batch, {}, layers=(0, 1, 2))
        for layer in range(3):
            torch.testing.assert_close(stats.hidden[layer], expected[layer], rtol=1e-5, atol=1e-5)
        trained = gradients(model, energy(dict(stats.hidden)))
        assert trained and all("lora_" in name for name in trained)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="it has 2 blocks; give 0 to 2"):
        objective_values(model_of("llama tied"), batch_of(), {}, layers=(3,))
