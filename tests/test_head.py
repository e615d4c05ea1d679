"""The supervised head equals the dense way (all logits, then gather) in value and gradient, for every family and both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from distill.errors import ModelError
from distill.head import hidden_signal, objective_values, supervised_logits
from distill.objectives import (
    Cringe,
    ForwardKL,
    Likelihood,
    RepetitionUnlikelihood,
    SequenceUnlikelihood,
    Targets,
    TokenObjective,
    Unlikelihood,
    reduce,
)
from distill.rows import Batch, StepCounts

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama tied": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "llama untied": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gemma2 soft-capped": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=3.0)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GROUPED, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "cohere scaled": lambda: CohereForCausalLM(CohereConfig(**GROUPED, logit_scale=0.25)),
    "granite scaled": lambda: GraniteForCausalLM(GraniteConfig(**GROUPED, logits_scaling=8.0)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
OBJECTIVES: dict[str, TokenObjective] = {
    "likelihood": Likelihood(),
    "unlikelihood": Unlikelihood(weight=0.5),
    "repetition": RepetitionUnlikelihood(),
    "sequence": SequenceUnlikelihood(n=2),
    "cringe": Cringe(),
}


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = FAMILIES[family]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.train()


def batch_of(rows: int = 4, columns: int = 12, share: float = 0.5, seed: int = 0) -> Batch:
    """Random rows, right-padded; one sequence per row, a random share of its positions supervised, polarity mixed."""
    generator = torch.Generator().manual_seed(seed)
    length_B = torch.randint(columns // 2, columns + 1, (rows,), generator=generator)
    real_BT = torch.arange(columns) < length_B[:, None]
    supervised_BT = real_BT & (torch.rand(rows, columns, generator=generator) < share)
    gather_N = supervised_BT.flatten().nonzero().squeeze(1)
    count = len(gather_N)
    return Batch(
        input_ids_BT=torch.randint(3, VOCABULARY, (rows, columns), generator=generator) * real_BT,
        position_ids_BT=torch.arange(columns).expand(rows, columns),
        attention_mask=real_BT,
        gather_N=gather_N,
        targets=Targets(
            token_N=torch.randint(3, 7, (count,), generator=generator),
            weight_N=torch.rand(count, generator=generator),
            negative_N=torch.rand(count, generator=generator) < 0.5,
            sequence_N=gather_N // columns,
        ),
        record_ids=tuple(str(row) for row in range(rows)),
        prompt_S=torch.zeros(1, dtype=torch.int64),
        in_step=StepCounts(positives=count, negatives=count),
    )


def dense_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits_BTV = model(
        input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask, position_ids=batch.position_ids_BT, use_cache=False
    ).logits
    return logits_BTV.flatten(0, 1)[batch.gather_N]


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def head_memory_for(positions: int) -> int:
    return positions * 4 * VOCABULARY


@every_family
def test_the_supervised_logits_are_the_dense_ones_in_value_and_gradient(family: str) -> None:
    model, batch = model_of(family), batch_of()
    ours, dense = supervised_logits(model, batch), dense_logits(model, batch)
    assert ours.shape == (len(batch.gather_N), VOCABULARY)
    torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-5)
    own, theirs = gradients(model, ours.square().sum()), gradients(model, dense.square().sum())
    assert own.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


@every_family
@pytest.mark.parametrize("positions", [1, 5])
def test_the_chunked_head_is_the_dense_one_in_value_and_gradient(family: str, positions: int) -> None:
    model, batch = model_of(family), batch_of()
    dense = dense_logits(model, batch)
    expected = sum(o.weight * reduce(o(dense, batch.targets), batch.targets) for o in OBJECTIVES.values())
    losses, stats = objective_values(model, batch, OBJECTIVES, head_memory=head_memory_for(positions))
    value = sum(OBJECTIVES[name].weight * reduce(loss, batch.targets) for name, loss in losses.items())
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    log_prob = dense.log_softmax(1).gather(1, batch.targets.token_N[:, None])[:, 0].detach()
    torch.testing.assert_close(stats.log_prob_N, log_prob, rtol=1e-5, atol=1e-5)
    own, theirs = gradients(model, value), gradients(model, expected)
    assert own.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_every_position_gets_its_own_value_whatever_the_chunks(name: str, interleaved: bool) -> None:
    model, batch = model_of("llama tied"), batch_of()
    if interleaved:
        order = torch.randperm(len(batch.gather_N), generator=torch.Generator().manual_seed(1))
        batch = dataclasses.replace(batch, gather_N=batch.gather_N[order], targets=batch.targets.select(order))
    dense, dense_stats = objective_values(model, batch, {name: OBJECTIVES[name]})
    for positions in (1, 3, 7, 10):
        chunked, stats = objective_values(model, batch, {name: OBJECTIVES[name]}, head_memory=head_memory_for(positions))
        torch.testing.assert_close(chunked[name].value_N, dense[name].value_N, rtol=1e-5, atol=1e-6)
        assert torch.equal(chunked[name].where_N, dense[name].where_N)
        torch.testing.assert_close(stats.log_prob_N, dense_stats.log_prob_N, rtol=1e-5, atol=1e-6)
        assert stats.log_prob_N.dtype == torch.float32 and not stats.log_prob_N.requires_grad


@pytest.mark.parametrize("positions", [1000, 4])
def test_no_logits_are_ever_made_for_unsupervised_positions(positions: int) -> None:
    model, batch = model_of("llama untied"), batch_of(rows=8, columns=64, share=0.1)
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    losses, _ = objective_values(model, batch, {"likelihood": Likelihood()}, head_memory=head_memory_for(positions))
    reduce(losses["likelihood"], batch.targets).backward()
    limit = min(positions, len(batch.gather_N))
    assert seen and all(shape[0] == 1 and shape[1] <= limit for shape in seen)


def test_the_chunked_heads_memory_stays_within_a_few_chunks() -> None:
    """Vocabulary 20 000, over 150 positions: dense logits are 12 MB or more; with chunks of 10 no operation allocates a third."""
    model = LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": 20_000}))
    batch = batch_of(rows=8, columns=64, share=0.5)
    assert len(batch.gather_N) > 150
    with torch.profiler.profile(profile_memory=True) as profile:
        losses, _ = objective_values(model, batch, {"likelihood": Likelihood()}, head_memory=10 * 4 * 20_000)
        reduce(losses["likelihood"], batch.targets).backward()
    assert max(event.cpu_memory_usage for event in profile.events()) <= 150 * 20_000 * 4 / 3


def test_the_hook_is_gone_afterwards_even_when_the_forward_fails() -> None:
    model, batch = model_of("llama tied"), batch_of()
    supervised_logits(model, batch)
    assert model(input_ids=batch.input_ids_BT).logits.shape == (*batch.input_ids_BT.shape, VOCABULARY)
    broken = dataclasses.replace(batch, gather_N=torch.tensor([10_000]))
    with pytest.raises(IndexError):
        supervised_logits(model, broken)
    assert model(input_ids=batch.input_ids_BT).logits.shape == (*batch.input_ids_BT.shape, VOCABULARY)


def test_a_batch_without_supervised_positions_gives_zero_with_finite_gradients() -> None:
    model, batch = model_of("llama tied"), batch_of()
    nothing = torch.tensor([], dtype=torch.int64)
    batch = dataclasses.replace(batch, gather_N=nothing, targets=batch.targets.select(nothing))
    losses, _ = objective_values(model, batch, OBJECTIVES)
    value = sum(reduce(loss, batch.targets) for loss in losses.values())
    assert value.item() == 0
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(model, value).values())


def test_without_objectives_the_statistics_are_still_there() -> None:
    model, batch = model_of("gpt2"), batch_of()
    with torch.no_grad():
        losses, stats = objective_values(model, batch, {}, head_memory=head_memory_for(3))
    assert losses == {}
    expected = -F.cross_entropy(dense_logits(model, batch), batch.targets.token_N, reduction="none")
    torch.testing.assert_close(stats.log_prob_N, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", [1000, 4])
def test_under_bfloat16_autocast_losses_are_float32_and_near_the_float32_ones(positions: int) -> None:
    model, batch = model_of("llama tied"), batch_of()
    exact, _ = objective_values(model, batch, OBJECTIVES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = objective_values(model, batch, OBJECTIVES, head_memory=head_memory_for(positions))
    for name, loss in rounded.items():
        assert loss.value_N.dtype == torch.float32
        torch.testing.assert_close(loss.value_N, exact[name].value_N, rtol=0.1, atol=0.1)
    value = sum(reduce(loss, batch.targets) for loss in rounded.values())
    assert all(g.dtype == torch.float32 for g in gradients(model, value).values())


@pytest.mark.parametrize("positions", [1000, 4])
def test_gradient_checkpointing_of_the_trunk_changes_nothing(positions: int) -> None:
    model, batch = model_of("llama tied"), batch_of()

    def step() -> dict[str, Tensor]:
        losses, _ = objective_values(model, batch, OBJECTIVES, head_memory=head_memory_for(positions))
        return gradients(model, sum(reduce(loss, batch.targets) for loss in losses.values()))

    plain = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = step()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


@pytest.mark.parametrize("modules", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("positions", [1000, 4])
def test_lora_adapters_train_also_on_the_head(modules: list[str], positions: int) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(model_of("llama untied"), peft.LoraConfig(target_modules=modules, r=4, lora_dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    batch = batch_of()
    dense = dense_logits(model, batch)
    expected = gradients(model, reduce(Likelihood()(dense, batch.targets), batch.targets))
    losses, _ = objective_values(model, batch, {"likelihood": Likelihood()}, head_memory=head_memory_for(positions))
    own = gradients(model, reduce(losses["likelihood"], batch.targets))
    assert own.keys() == expected.keys() and any("lora_A" in name for name in own)
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6)


def test_dropout_in_an_adapter_of_the_head_is_not_mistaken_for_another_family() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(model_of("llama untied"), peft.LoraConfig(target_modules=["lm_head"], r=4, lora_dropout=0.5))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=1.0)
    batch = batch_of()
    losses, _ = objective_values(model, batch, {"likelihood": Likelihood()}, head_memory=head_memory_for(4))
    assert reduce(losses["likelihood"], batch.targets).isfinite()


class Doubled(LlamaForCausalLM):
    """A family that does something unknown to its logits."""

    def forward(self, **inputs: object) -> object:  # type: ignore[override]
        output = super().forward(**inputs)
        output.logits = output.logits * 2
        return output


def test_a_family_that_changes_its_logits_in_an_unknown_way_works_dense_and_is_refused_in_chunks() -> None:
    model, batch = Doubled(LlamaConfig(**GROUPED)), batch_of()
    torch.testing.assert_close(supervised_logits(model, batch), dense_logits(model, batch), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"'llama'.*[Rr]aise head_memory"):
        objective_values(model, batch, OBJECTIVES, head_memory=head_memory_for(4))


class Twice(LlamaForCausalLM):
    """A forward that uses its head twice."""

    def forward(self, **inputs: object) -> object:  # type: ignore[override]
        output = super().forward(**inputs)
        self.lm_head(torch.zeros(*inputs["input_ids"].shape, 32))  # type: ignore[attr-defined]
        return output


def test_a_model_that_calls_its_head_more_than_once_is_refused() -> None:
    with pytest.raises(ModelError, match="2 times"):
        supervised_logits(Twice(LlamaConfig(**GROUPED)), batch_of())


def test_a_model_without_a_head_is_refused() -> None:
    model = model_of("llama tied").model
    with pytest.raises(ModelError, match="LM head"):
        supervised_logits(model, batch_of())


def test_the_gradient_reaches_the_trunk_through_supervised_positions_only() -> None:
    """The embeddings of tokens after the last supervised position of every row get no gradient."""
    model, batch = model_of("llama untied"), batch_of(rows=1, columns=12, share=1.0)
    first_three = torch.arange(3)
    batch = dataclasses.replace(
        batch,
        input_ids_BT=torch.arange(10, 22)[None],
        attention_mask=torch.ones(1, 12, dtype=torch.bool),
        gather_N=first_three,
        targets=batch.targets.select(first_three),
    )
    losses, _ = objective_values(model, batch, {"likelihood": Likelihood(), "unlikelihood": Unlikelihood()})
    own = gradients(model, sum(loss.value_N.sum() for loss in losses.values()))
    embedding = own["model.embed_tokens.weight"].abs().sum(1)
    assert bool((embedding[10:13] > 0).all()) and embedding[13:22].sum() == 0


@pytest.mark.parametrize("positions", [1000, 4])
def test_a_teachers_distribution_is_made_only_where_an_objective_reads_it(positions: int) -> None:
    model, batch = model_of("llama tied"), batch_of()
    signal, _ = hidden_signal(model, batch, vocabulary=model.config.vocab_size)
    made: list[int] = []

    def counted(hidden_CD: Tensor) -> Tensor:
        made.append(len(hidden_CD))
        return signal.logits_of(hidden_CD)

    targets = dataclasses.replace(batch.targets, teacher=dataclasses.replace(signal, logits_of=counted))
    batch = dataclasses.replace(batch, targets=targets)
    memory = head_memory_for(positions)
    objective_values(model, batch, {"answer": Likelihood()}, head_memory=memory)
    assert made == []
    objective_values(model, batch, {"answer": Likelihood(), "match": ForwardKL()}, head_memory=memory)
    assert sum(made) == len(batch.gather_N)
