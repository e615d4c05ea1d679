"""A small Llama from scratch with its own sentencepiece tokenizer: a student that shares no token id with any teacher.

    python -m benchmarks.small_student FOLDER TEXT_FILE [--vocab_size 4096 --layers 4 --width 256]

Numbers are one token where the text holds them often enough (digits are not split off), while most teachers split them. The
folder is what `--model.student FOLDER` accepts; its weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaTokenizer

# A turn is a role, its content and </s>, so that </s> is the end of turn; `generation` marks what an assistant says.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'assistant:\\n' }}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['role'] + ': ' + message['content'] + eos_token + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)


def make(
    folder: str | Path,
    texts_path: str | Path,
    *,
    vocab_size: int = 4096,
    layers: int = 4,
    width: int = 256,
    seed: int = 0,
) -> Path:
    """Train the tokenizer on the lines of a text file, make the model, and save both in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(Path(texts_path), vocab_size)
    heads = max(1, width // 64)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts_path: Path, vocab_size: int) -> LlamaTokenizer:
    import sentencepiece
    from transformers import LlamaTokenizer

    # A folder of its own: from_pretrained would rather read the tokenizer.json of an earlier student than the new model.
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            input=str(texts_path),
            model_prefix=str(Path(folder, "tokenizer")),
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            split_digits=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            required_chars="".join(map(chr, range(33, 127))),
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,
            minloglevel=2,
        )
        tokenizer: LlamaTokenizer = LlamaTokenizer.from_pretrained(folder, pad_token="<pad>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("texts")
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    chosen = parser.parse_args(arguments)
    print(make(chosen.folder, chosen.texts, vocab_size=chosen.vocab_size, layers=chosen.layers, width=chosen.width))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
