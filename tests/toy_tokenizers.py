"""Tokenizers of every kind, trained on the spot, and chat templates of the shapes in use, each written anew and cut down."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertGenerationTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from distill.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT = (
    "The capital of France is Paris. The capital of Kenya is Nairobi. The currency of Japan is the yen.",
    "I don't know. What is the symbol of iron? The atomic number of gold is 79.",
    "שלום עולם. מה בירת ישראל? ירושלים.",
    "user assistant system model start end You are a helpful assistant. Answer with one word.",
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen 3: thoughts of earlier turns are dropped, and the last answer gets an empty thought.
QWEN = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' %}{% if '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}{% set text = '<think>\n\n</think>\n\n' + text %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Llama 2: the system message goes into the first user message, contents are trimmed, no header for the assistant.
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# name -> template, control tokens (special), bos, eos
SHAPES: dict[str, tuple[str, list[str], str, str]] = {
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>"),
    "qwen": (QWEN, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|endoftext|>", "<|im_end|>"),
    "llama2": (LLAMA2, ["<s>", "</s>"], "<s>", "</s>"),
    "llama3": (LLAMA3, ["<s>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"], "<s>", "<|eot_id|>"),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
}


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def system(content: str) -> Message:
    return Message(role="system", content=content)


def byte_level(
    shape: str, *, add_prefix_space: bool = False, fold_width: bool = False, corpus: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the chat template and control tokens of one shape; pad is eos.

    fold_width: with a normaliser that makes ordinary characters of full-width ones, before non-special tokens are looked for.
    corpus: more text to train on.
    """
    template, control, bos, eos = SHAPES[shape]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    if fold_width:
        backend.normalizer = normalizers.NFKC()
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, special_tokens=control, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([*corpus, *TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=eos)
    if shape == "qwen":
        tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = template
    return tokenizer


def word_level() -> PreTrainedTokenizerFast:
    """Whole words, whitespace dropped, no chat template: a vocabulary that cannot reproduce a text."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


def sentencepieces(folder: Path) -> dict[str, PreTrainedTokenizerBase]:
    """Tokenizers over sentencepiece models: Llama's (fast, bos), T5's (fast, words lose their spaces), one without offsets."""
    for kind, ids in (("bpe", (-1, 1, 2, 0)), ("unigram", (0, -1, 1, 2))):
        (folder / kind).mkdir()
        pad, bos, eos, unk = ids
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT * 3),
            model_prefix=str(folder / kind / "tokenizer"),
            vocab_size=400,
            hard_vocab_limit=False,
            model_type=kind,
            byte_fallback=kind == "bpe",
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            pad_id=pad,
            bos_id=bos,
            eos_id=eos,
            unk_id=unk,
            minloglevel=2,
        )
    slow = BertGenerationTokenizer(
        str(folder / "bpe" / "tokenizer.model"), pad_token="</s>", bos_token="<s>", eos_token="</s>", sep_token="</s>"
    )
    llama = LlamaTokenizer.from_pretrained(str(folder / "bpe"), add_bos_token=True)
    return {"llama": llama, "t5": T5Tokenizer.from_pretrained(str(folder / "unigram")), "slow": slow}
