"""A student against its teacher on the same rows."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.evaluate.agreement import agreement
from distill.render import Example
from distill.rows import plain_rows
from distill.teachers.live import FrozenModel

VOCABULARY = 11


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    made = LlamaForCausalLM(config).eval()
    torch.nn.init.normal_(made.lm_head.weight, std=1.0)
    return made


def batches(count: int) -> list:
    texts = torch.randint(VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        plain_rows(
            [
                Example(
                    record_id=str(number),
                    group=str(number),
                    token_ids=tuple(text),
                    prompt_length=2,
                    weight=(0, 0, 1, 1, 1, 1),
                    negative=(False,) * 6,
                )
            ],
            0,
        )
        for number, text in enumerate(texts)
    ]


def test_a_model_agrees_with_itself() -> None:
    one = model(0)
    found = agreement(one, FrozenModel(copy.deepcopy(one), name="copy"), batches(3))
    assert found.kl == pytest.approx(0, abs=1e-6) and found.top_1 == 1 and found.tokens == 12
    assert found.nats == pytest.approx(found.teacher_nats)


def test_the_divergence_is_the_mean_over_all_positions_of_all_batches() -> None:
    student, teacher = model(0), model(1)
    found, expected = agreement(student, FrozenModel(teacher, name="teacher"), batches(3)), []
    for batch in batches(3):
        with torch.no_grad():
            own, its = (
                one(input_ids=batch.input_ids_BT).logits[0][batch.gather_N].double().log_softmax(1) for one in (student, teacher)
            )
        expected.append(torch.nn.functional.kl_div(own, its, log_target=True, reduction="none").sum(1))
    assert found.kl == pytest.approx(torch.cat(expected).mean().item(), rel=1e-4) and found.kl > 0.1
