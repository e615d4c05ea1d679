"""Rows: padding, prefix sharing and the shift."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill.errors import RenderError
from distill.head import objective_values, supervised_logits
from distill.objectives import Likelihood, Unlikelihood, reduce
from distill.rows import Batch, allows_prefix_sharing, plain_rows, shared_rows

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma", "gemma3")


@dataclass(frozen=True)
class Example:
    record_id: str
    token_ids: tuple[int, ...]
    prompt_length: int
    weight: tuple[float, ...]
    negative: tuple[bool, ...]
    own: bool = False


def example(
    name: str, prompt: list[int], response: list[int], *, negative: bool = False, weight: list[float] | None = None
) -> Example:
    weight = [1.0] * len(response) if weight is None else weight
    ids = (*prompt, *response)
    return Example(name, ids, len(prompt), (0.0,) * len(prompt) + tuple(weight), (negative,) * len(ids))


def three_groups(longest: int = 9) -> list[list[Example]]:
    """Groups of unequal lengths, with unequal weights; the last has two prompts."""
    draw = np.random.default_rng(1)

    def ids(length: int) -> list[int]:
        return draw.integers(5, 300, length).tolist()

    first, second, third, fourth = ids(4), ids(longest // 2), ids(2), ids(3)
    return [
        [example("a", first, ids(3)), example("b", first, ids(2), negative=True), example("c", first, ids(5), negative=True)],
        [example("d", second, ids(longest - longest // 2), weight=[0.5] + [1.0] * (longest - longest // 2 - 1))],
        [
            example("e", third, ids(1)),
            example("f", third, ids(4), negative=True, weight=[0, 2, 0, 0]),
            example("g", fourth, ids(2)),
        ],
    ]


def both_ways(groups: list[list[Example]]) -> tuple[Batch, Batch]:
    """The same examples in the same order, in plain and in shared rows."""
    return plain_rows([one for group in groups for one in group], 0), shared_rows(groups, 0)


@pytest.fixture(scope="module")
def load_tiny(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    from transformers import AutoModelForCausalLM, GemmaConfig

    def load(family: str) -> Any:
        if family == "gemma":
            torch.manual_seed(0)
            sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
            model = AutoModelForCausalLM.from_config(GemmaConfig(vocab_size=400, head_dim=8, num_key_value_heads=2, **sizes))
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.3)
        else:
            model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(family))
        return model.eval()

    return load


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_rows_give_the_same_logits_losses_and_gradients_as_plain_rows(
    family: str, load_tiny: Callable[[str], Any]
) -> None:
    model = load_tiny(family)
    objectives = {"likelihood": Likelihood(), "unlikelihood": Unlikelihood()}
    results: list[tuple[Tensor, list[Tensor], dict[str, Tensor]]] = []
    for batch in both_ways(three_groups()):
        model.zero_grad()
        losses, _ = objective_values(model, batch, objectives)
        total = sum((reduce(loss, batch.targets) for loss in losses.values()), torch.zeros(()))
        total.backward()
        logits = supervised_logits(model, batch).detach()
        results.append(
            (
                logits,
                [loss.value_N.detach() for loss in losses.values()],
                {n: p.grad.clone() for n, p in model.named_parameters()},
            )
        )
    (logits, values, gradients), (shared_logits, shared_values, shared_gradients) = results
    torch.testing.assert_close(shared_logits, logits, atol=1e-4, rtol=1e-4)
    for value, shared_value in zip(values, shared_values, strict=True):
        torch.testing.assert_close(shared_value, value, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            shared_gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_sharing_is_allowed_where_the_model_honours_mask_and_positions(
    family: str, load_tiny: Callable[[str], Any]
) -> None:
    assert allows_prefix_sharing(load_tiny(family), longest=16)


def test_prefix_sharing_is_refused_where_a_window_is_shorter_than_the_longest_row(
    load_tiny: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="distill.rows"):
        assert not allows_prefix_sharing(load_tiny("gemma3"), longest=17)
    assert "sliding_window = 16" in caplog.text


def test_prefix_sharing_is_refused_where_eager_attention_would_add_the_mask_instead_of_obeying_it(
    load_tiny: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = load_tiny("gemma2")
    assert model.config._attn_implementation == "eager"
    with caplog.at_level("INFO", logger="distill.rows"):
        assert not allows_prefix_sharing(model, longest=16)
    assert "plain rows" in caplog.text


def test_prefix_sharing_is_refused_for_a_recurrent_model() -> None:
    from transformers import AutoModelForCausalLM, MambaConfig

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4, expand=1)
    )
    assert not allows_prefix_sharing(model, longest=16)


class _Deaf(nn.Module):
    """A causal model that ignores one of its arguments, as recurrent, ALiBi or flash attention models do."""

    def __init__(self, model: Any, ignored: str) -> None:
        super().__init__()
        self.model, self.config, self.ignored = model, model.config, ignored

    def forward(self, **arguments: Any) -> Any:
        return self.model(**{name: value for name, value in arguments.items() if name != self.ignored})


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
@pytest.mark.parametrize("std", [0.3, 0.02])
def test_prefix_sharing_is_refused_where_the_model_ignores_mask_or_positions(
    ignored: str, std: float, load_tiny: Callable[[str], Any]
) -> None:
    model = load_tiny("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(std / 0.3)
    assert not allows_prefix_sharing(_Deaf(model, ignored), longest=16)


def test_asking_about_prefix_sharing_leaves_the_model_as_it_was(load_tiny: Callable[[str], Any]) -> None:
    model = load_tiny("gpt2").train()
    model.transformer.h[0].eval()
    state = torch.get_rng_state()
    allows_prefix_sharing(model, longest=16)
    assert model.training and not model.transformer.h[0].training and model.transformer.h[1].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@st.composite
def groups_of_examples(draw: st.DrawFn) -> list[list[Example]]:
    tokens = st.integers(1, 9)
    groups = []
    for number in range(draw(st.integers(1, 3))):
        prompts = draw(st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=2))
        group = []
        for place in range(draw(st.integers(1, 4))):
            prompt, response = draw(st.sampled_from(prompts)), draw(st.lists(tokens, min_size=1, max_size=4))
            weight = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(response), max_size=len(response)))
            earlier = (0.0, *draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(prompt) - 1, max_size=len(prompt) - 1)))
            if not any(weight + list(earlier)):
                weight[-1] = 1.0
            ids = (*prompt, *response)
            negative = tuple(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
            group.append(Example(f"{number}.{place}", ids, len(prompt), (*earlier, *weight), negative))
        groups.append(group)
    return groups


@settings(max_examples=150, deadline=None)
@given(groups_of_examples())
def test_each_supervised_token_is_predicted_by_a_state_that_sees_exactly_the_tokens_before_it(
    groups: list[list[Example]],
) -> None:
    by_id = {one.record_id: one for group in groups for one in group}
    for batch in both_ways(groups):
        width = batch.input_ids_BT.shape[1]
        seen: dict[str, list[tuple[int, float, bool]]] = {name: [] for name in by_id}
        mask_BTT = batch.attention_mask[:, 0] if batch.attention_mask.dim() == 4 else None
        for place, token, weight, negative, sequence in zip(
            batch.gather_N.tolist(),
            batch.targets.token_N.tolist(),
            batch.targets.weight_N.tolist(),
            batch.targets.negative_N.tolist(),
            batch.targets.sequence_N.tolist(),
            strict=True,
        ):
            row, column = divmod(place, width)
            if mask_BTT is not None:
                visible = mask_BTT[row, column].nonzero().flatten()
            else:
                visible = batch.attention_mask[row, : column + 1].nonzero().flatten()
            name = batch.record_ids[sequence]
            context = batch.input_ids_BT[row, visible].tolist()
            assert batch.position_ids_BT[row, visible].tolist() == list(range(len(context)))
            assert context == list(by_id[name].token_ids[: len(context)])
            assert token == by_id[name].token_ids[len(context)]
            seen[name].append((len(context), weight, negative))
        for name, one in by_id.items():
            wanted = [(i, w, one.negative[i]) for i, w in enumerate(one.weight) if w > 0]
            assert seen[name] == wanted, "a supervised token is missing, doubled or out of order"


def test_nothing_is_fed_that_predicts_no_supervised_token() -> None:
    one = example("a", [1, 2, 3], [4, 5, 6, 7], weight=[1, 0, 1, 0])
    plain, shared = both_ways([[one]])
    assert plain.input_ids_BT.tolist() == shared.input_ids_BT.tolist() == [[1, 2, 3, 4, 5]]


def test_a_completion_supervised_at_its_first_token_only_costs_no_column() -> None:
    up, down = example("a", [1, 2], [3, 4]), example("b", [1, 2], [9, 9, 9], negative=True, weight=[1, 0, 0])
    assert shared_rows([[up, down]], 0).input_ids_BT.tolist() == [[1, 2, 3]]


def test_examples_of_a_group_with_other_prompts_get_rows_of_their_own() -> None:
    batch = shared_rows([[example("a", [1, 2], [3, 4]), example("b", [1, 5], [3, 4]), example("c", [1, 2], [6])]], 0)
    assert batch.input_ids_BT.shape[0] == 2
    assert batch.record_ids == ("a", "c", "b")


def test_a_padding_column_is_seen_by_nobody_and_sees_something() -> None:
    mask = shared_rows([[example("a", [1, 2, 3, 4], [5, 6])], [example("b", [1], [2])]], 0).attention_mask[1, 0]
    assert not mask[:1, 1:].any(), "the real token sees padding"
    assert mask.any(-1).all(), "a row without a visible key is NaN in softmax"


def test_the_counts_of_a_lone_batch_are_its_own() -> None:
    for batch in both_ways(three_groups()):
        assert batch.in_step.negatives == int(batch.targets.negative_N.sum()) == 8
        assert batch.in_step.positives == int((~batch.targets.negative_N).sum()) == 11


def test_real_columns_are_told_from_padding_in_both_kinds_of_rows() -> None:
    groups = [[example("a", [1, 2, 3, 4], [5, 6])], [example("b", [1], [2, 3])]]
    for batch in both_ways(groups):
        assert batch.real_BT.tolist() == [[True] * 5, [True, True, False, False, False]]


def test_a_supervised_first_token_is_an_error_that_names_the_record() -> None:
    with pytest.raises(RenderError, match="'a'.*token 0"):
        plain_rows([Example("a", (1, 2), 0, (1.0, 1.0), (False, False))], 0)


def test_an_unsupervised_batch_has_no_positions_and_a_gradient_of_zero(load_tiny: Callable[[str], Any]) -> None:
    model = load_tiny("llama")
    for batch in both_ways([[example("a", [1, 2], [3], weight=[0.0])]]):
        model.zero_grad()
        losses, _ = objective_values(model, batch, {"likelihood": Likelihood()})
        reduce(losses["likelihood"], batch.targets, count=7).backward()
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_a_batch_moves_whole_to_another_device() -> None:
    moved = shared_rows(three_groups(), 0).to("meta")
    tensors = [moved.input_ids_BT, moved.position_ids_BT, moved.attention_mask, moved.gather_N, *vars(moved.targets).values()]
    assert {tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)} == {"meta"}


def test_building_a_batch_takes_well_under_a_millisecond_per_example() -> None:
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, 1000, 128).tolist()
    groups = [[example(f"{g}.{c}", prompt, draw.integers(0, 1000, 30).tolist()) for c in range(8)] for g in range(8)]
    seconds = []
    for _ in range(5):
        started = time.process_time()
        shared_rows(groups, 0)
        seconds.append(time.process_time() - started)
    assert min(seconds) / 64 < 1e-3
