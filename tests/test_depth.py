"""A shallower student is its teacher with the other blocks skipped, in every family, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from distill.cli import main
from distill.depth import every_second, keep_blocks, shrink
from distill.errors import ConfigError, ExportError, ModelError
from distill.models import load_model, load_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
# Windows shorter than the probes, and patterns that do not survive a renumbering by themselves.
GEMMA: dict[str, Any] = {**GROUPED, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
PATTERN = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
FAMILIES: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": lambda **ends: LlamaConfig(**GROUPED, tie_word_embeddings=True, **ends),
    "qwen2": lambda **ends: Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=2, layer_types=PATTERN[::-1], **ends
    ),
    "qwen3": lambda **ends: Qwen3Config(**GROUPED, head_dim=8, **ends),
    "gemma2": lambda **ends: Gemma2Config(**GEMMA, **ends),
    "gemma3": lambda **ends: Gemma3TextConfig(**GEMMA, layer_types=PATTERN, **ends),
    "gpt2": lambda **ends: GPT2Config(**GPT2, **ends),
    "gpt_neox": lambda **ends: GPTNeoXConfig(**SIZES, **ends),
    "smollm3": lambda **ends: SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 0, 1], **ends),
    "bloom": lambda **ends: BloomConfig(hidden_size=32, n_layer=4, n_head=4, **ends),
}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny_tokenizer) -> Path:
    return written(FAMILIES[request.param], tmp_path / "deep", tiny_tokenizer)


def written(family: Callable[..., PretrainedConfig], out: Path, tokenizer) -> Path:
    from transformers import AutoModelForCausalLM

    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family(vocab_size=len(tokenizer), **ends))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def logits(folder: Path) -> torch.Tensor:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokenizer("The capital of France is Paris. I don't know.")["input_ids"]])).logits


every_family = pytest.mark.parametrize("folder", FAMILIES, indirect=True)


@every_family
def test_with_all_blocks_kept_it_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    assert shrink(str(folder), tmp_path / "out", blocks=range(4)) == (0, 1, 2, 3)
    assert torch.equal(logits(tmp_path / "out"), logits(folder))


@every_family
@pytest.mark.parametrize("blocks", [(0, 2), (1, 3), (3,)], ids=str)
def test_it_is_the_model_with_the_other_blocks_skipped(folder: Path, blocks: tuple[int, ...], tmp_path: Path) -> None:
    # shrink itself compares; that it does is seen in the tests of what it refuses.
    shrink(str(folder), tmp_path / "out", blocks=blocks)
    config = load_model(str(tmp_path / "out")).config
    assert config.num_hidden_layers == len(blocks)
    whole = load_model(str(folder)).config
    for name in ("layer_types", "no_rope_layers"):
        if name in whole.to_dict():
            assert getattr(config, name) == [getattr(whole, name)[block] for block in blocks]


def test_the_student_shares_no_memory_with_its_model(tmp_path: Path, tiny_tokenizer) -> None:
    deep = load_model(str(written(FAMILIES["llama"], tmp_path, tiny_tokenizer)))
    before = [parameter.clone() for parameter in deep.parameters()]
    state = torch.random.get_rng_state()
    shallow = keep_blocks(deep, (0, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    for parameter in shallow.parameters():
        parameter.data.zero_()
    assert all(torch.equal(one, other) for one, other in zip(before, deep.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_keep_their_precision(dtype: torch.dtype, tmp_path: Path, tiny_tokenizer) -> None:
    load_model(str(written(FAMILIES["llama"], tmp_path / "a", tiny_tokenizer)), dtype=dtype).save_pretrained(tmp_path / "b")
    tiny_tokenizer.save_pretrained(tmp_path / "b")
    shrink(str(tmp_path / "b"), tmp_path / "out")
    assert load_model(str(tmp_path / "out")).dtype == dtype


def test_a_family_whose_blocks_depend_on_their_place_is_refused(tmp_path: Path, tiny_tokenizer) -> None:
    scaled = written(
        lambda **ends: GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, **ends), tmp_path / "scaled", tiny_tokenizer
    )
    with pytest.raises(ModelError, match="blocks depend on their place"):
        shrink(str(scaled), tmp_path / "out", blocks=(0, 2))
    local = written(
        lambda **ends: GPTNeoConfig(
            hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=4, **ends
        ),
        tmp_path / "local",
        tiny_tokenizer,
    )
    with pytest.raises(ModelError, match="lists something per block"):
        shrink(str(local), tmp_path / "out", blocks=(0, 2))
    nested = written(
        lambda **ends: OPTConfig(
            hidden_size=32, ffn_dim=64, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=256, **ends
        ),
        tmp_path / "nested",
        tiny_tokenizer,
    )
    with pytest.raises(ModelError, match="no one list of its 4 blocks"):
        shrink(str(nested), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("blocks", [(), (2, 0), (0, 0), (0, 4), (-1, 0)], ids=str)
def test_blocks_that_are_not_there_are_refused(blocks: tuple[int, ...], tmp_path: Path, tiny_tokenizer) -> None:
    with pytest.raises(ConfigError, match="it has 4; give at least one of 0 to 3"):
        shrink(str(written(FAMILIES["llama"], tmp_path / "deep", tiny_tokenizer)), tmp_path / "out", blocks=blocks)


def test_a_folder_that_holds_something_is_left_alone_unless_asked(tmp_path: Path, tiny_tokenizer) -> None:
    deep = str(written(FAMILIES["llama"], tmp_path / "deep", tiny_tokenizer))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ExportError, match="not empty"):
        shrink(deep, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    shrink(deep, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_the_command_shrinks_and_says_what_it_kept(tmp_path: Path, tiny_tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    deep = str(written(FAMILIES["llama"], tmp_path / "deep", tiny_tokenizer))
    assert main(["shrink", "--model", deep, "--out", str(tmp_path / "a")]) == 0
    assert "2 blocks of" in capsys.readouterr().out
    assert main(["shrink", "--model", deep, "--blocks", "0,1,3", "--out", str(tmp_path / "b")]) == 0
    assert load_model(str(tmp_path / "b")).config.num_hidden_layers == 3
    assert "Blocks 0, 1, 3 (counted from 0)" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["shrink", "--model", deep, "--blocks", "0,x", "--out", str(tmp_path / "c")])


def test_every_second_of_thirty_blocks_is_fifteen() -> None:
    assert len(every_second(30)) == 15
    assert every_second(1) == (0,)
