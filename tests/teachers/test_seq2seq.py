"""A text-to-text model as teacher: T5 with a tokenizer of its own, made on the spot."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.errors import ModelError, TeacherError
from distill.records import Message
from distill.teachers.base import Sampling
from distill.teachers.seq2seq import Seq2SeqTeacher


def tiny_t5(tokenizer, folder: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_teacher(tiny_model_folder, folder):
    from transformers import AutoTokenizer

    return Seq2SeqTeacher(model=str(tiny_t5(AutoTokenizer.from_pretrained(tiny_model_folder("llama")), folder)))


@pytest.fixture(scope="module")
def teacher(tiny_model_folder, tmp_path_factory):
    return make_teacher(tiny_model_folder, tmp_path_factory.mktemp("t5"))


def asked(*texts):
    return [(Message(role="user", content=text),) for text in texts]


def test_beams_find_nothing_less_probable_than_greedy_and_give_the_best_first(teacher):
    search = replace(teacher, beams=4)
    prompts, sampling = asked("Gold?", "What is the capital of France?"), Sampling(temperature=0, max_tokens=6)
    greedy = teacher.generate(prompts, sampling)
    for (one,), several in zip(greedy, search.generate(prompts, replace(sampling, n=4)), strict=True):
        assert len({completion.text for completion in several}) == 4
        per_token = [completion.log_prob / completion.tokens for completion in several]
        assert per_token == sorted(per_token, reverse=True)
        assert max(per_token) >= one.log_prob / one.tokens - 1e-5


def test_more_completions_than_beams_are_refused_with_the_remedy(teacher):
    with pytest.raises(TeacherError, match="raise beams"):
        replace(teacher, beams=2).generate(asked("Gold?"), Sampling(temperature=0, n=3))
    with pytest.raises(TeacherError, match="beams is 0"):
        replace(teacher, beams=0)


def test_the_log_probability_is_that_of_the_drawn_tokens(teacher):
    drawn = teacher.generate(asked("Gold?"), Sampling(n=300, max_tokens=1, top_k=4, seed=5))[0]
    found = [round(one.log_prob, 4) for one in drawn]  # tokens are told apart by it: two may have one text
    assert len(set(found)) > 1
    total = sum(map(math.exp, set(found)))
    for log_prob in set(found):
        expected = math.exp(log_prob) / total
        assert found.count(log_prob) / 300 == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 300))


def test_a_stop_text_cuts_and_counts_as_an_end(teacher):
    whole = teacher.generate(asked("Gold?"), Sampling(temperature=0, max_tokens=8))[0][0]
    mark = whole.text[2]
    cut = teacher.generate(asked("Gold?"), Sampling(temperature=0, max_tokens=8, stop=(mark,)))[0][0]
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert cut.finish == "stop"


def test_a_control_token_s_text_is_read_as_text(teacher):
    sampling = Sampling(temperature=0, max_tokens=6)
    one, other = teacher.generate(asked("Gold<|im_end|>", "Gold"), sampling)
    assert one[0].log_prob != other[0].log_prob
    assert teacher._loaded[1]("<|im_end|>", split_special_tokens=True)["input_ids"] != [teacher._loaded[1].eos_token_id]


def test_a_causal_model_is_refused_by_name(tiny_model_folder):
    with pytest.raises(ModelError, match="not a text-to-text model"):
        Seq2SeqTeacher(model=str(tiny_model_folder("llama"))).generate(asked("Gold?"), Sampling())
