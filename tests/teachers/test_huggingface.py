"""Laws of the local teacher: it says what plain generation says, as often as plain sampling says it, and scores what it said."""

from __future__ import annotations

import itertools
import math
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import TINY_FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import TeacherError
from distill.records import Message, Prompt
from distill.teachers.base import Sampling
from distill.teachers.decoding import _common_prefix, _probabilities, draw, inference
from distill.teachers.huggingface import HuggingFaceTeacher
from distill.template import end_of_turn, prompt_tokens, response_tokens

Folder = Callable[[str], Path]


def make_teacher(tiny_model_folder: Folder, folder: Path) -> HuggingFaceTeacher:
    """For the contract tests."""
    return HuggingFaceTeacher(model=str(tiny_model_folder("llama")), dtype="float32")


def ask(text: str, start: str = "") -> Prompt:
    question = (Message(role="system", content="Answer with one word."), Message(role="user", content=text))
    return (*question, Message(role="assistant", content=start)) if start else question


QUESTIONS = (
    ask("What is the capital of France?"),
    ask("Gold?"),
    ask("What is the capital of a country that is far away and that nobody has ever heard of?"),
    ask("What is the currency of Japan?", start="The currency of Japan is"),
    ask("מה בירת ישראל?"),
)


def teacher_of(folder: Path, **options: int) -> HuggingFaceTeacher:
    return HuggingFaceTeacher(model=str(folder), dtype="float32", **options)


def plain_greedy(teacher: HuggingFaceTeacher, prompt: Prompt, max_tokens: int) -> str:
    """transformers' own generation, one prompt at a time."""
    model, tokenizer = teacher._loaded
    ids = torch.tensor([prompt_tokens(prompt, tokenizer)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_greedy_text_is_that_of_plain_generation(tiny_model_folder: Folder, family: str) -> None:
    teacher = teacher_of(tiny_model_folder(family))
    found = teacher.generate(QUESTIONS, Sampling(temperature=0, max_tokens=24, n=2))
    expected = [plain_greedy(teacher, prompt, 24) for prompt in QUESTIONS]
    assert [[one.text for one in several] for several in found] == [[text, text] for text in expected]
    assert len({*expected}) > 1, "the model says the same to every question, so the test would see no mistake"


@pytest.mark.parametrize("beyond", [-40, -1, 0, 1, 2, 100])
def test_greedy_text_is_plain_generation_s_on_either_side_of_a_sliding_window(tiny_model_folder: Folder, beyond: int) -> None:
    """Prompts that fit into the window with their response are padded together; others never are."""
    model, tokenizer = teacher_of(tiny_model_folder("gemma3"))._loaded
    longest = max(len(prompt_tokens(prompt, tokenizer)) for prompt in QUESTIONS)
    model.config.sliding_window = longest + 8 + beyond
    teacher = HuggingFaceTeacher.from_loaded(model, tokenizer, "windowed")
    found = teacher.generate(QUESTIONS, Sampling(temperature=0, max_tokens=8))
    assert [one[0].text for one in found] == [plain_greedy(teacher, prompt, 8) for prompt in QUESTIONS]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_log_prob_of_a_sample_is_that_of_the_dense_computation(tiny_model_folder: Folder, family: str) -> None:
    teacher = teacher_of(tiny_model_folder(family))
    model, tokenizer = teacher._loaded
    # Ids that are drawn often play the end of turn, so that rows leave the cache at different times.
    ends = frozenset(range(3, 400, 4))
    prompts = [tuple(prompt_tokens(prompt, tokenizer)) for prompt in QUESTIONS]
    with inference(model):
        found = draw(model, prompts, Sampling(n=8, max_tokens=6, temperature=1.3, top_k=9), ends=ends)
    assert {one.finish for several in found for one in several} == {"stop", "length"}
    for prompt, several in zip(prompts, found, strict=True):
        for one in several:
            assert (one.ids[-1] in ends) == (one.finish == "stop")
            assert one.log_prob == pytest.approx(dense_log_prob(teacher, prompt, one.ids), abs=1e-3)


def test_log_prob_of_a_completion_is_the_score_of_its_text_and_of_ending_there(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("gpt2"))
    tokenizer = teacher._loaded[1]
    ids = [tuple(prompt_tokens(prompt, tokenizer)) for prompt in QUESTIONS]
    sampling = Sampling(n=60, max_tokens=2, temperature=2)
    found = teacher.generate(QUESTIONS, sampling)
    with inference(teacher._loaded[0]):
        drawn = draw(teacher._loaded[0], ids, sampling, ends=frozenset({tokenizer.eos_token_id}))
    # Text that is tokenised otherwise than it was drawn has another probability.
    pairs = [
        (prompt, one)
        for prompt, several, raw in zip(QUESTIONS, found, drawn, strict=True)
        for one, same in zip(several, raw, strict=True)
        if tuple(response_tokens(one.text, tokenizer)) == same.ids[: len(same.ids) - (one.finish == "stop")]
    ]
    assert len(pairs) > 50
    assert {one.finish for _, one in pairs} == {"stop", "length"}
    scores = teacher.score([prompt for prompt, _ in pairs], [one.text for _, one in pairs])
    for (_, one), score in zip(pairs, scores, strict=True):
        assert score.end_log_prob is not None
        assert one.log_prob == pytest.approx(score.log_prob + score.end_log_prob * (one.finish == "stop"), abs=1e-3)


def dense_log_prob(teacher: HuggingFaceTeacher, prompt: Sequence[int], answer: Sequence[int]) -> float:
    with torch.no_grad():
        log_probs = teacher._loaded[0](torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(1)
    return sum(float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_scores_equal_the_dense_computation_token_by_token(tiny_model_folder: Folder, family: str) -> None:
    teacher = teacher_of(tiny_model_folder(family), batch_size=2, rows=3)
    model, tokenizer = teacher._loaded
    answers = [
        "Paris",
        " Paris.",
        "I don't know.",
        "",
        "שלום",
        "The capital of France is Paris, the capital of Kenya is Nairobi.",
    ]
    pairs = list(itertools.product(QUESTIONS, answers))
    scores = teacher.score([prompt for prompt, _ in pairs], [text for _, text in pairs])
    for (prompt, text), score in zip(pairs, scores, strict=True):
        start, answer = prompt_tokens(prompt, tokenizer), response_tokens(text, tokenizer)
        with torch.no_grad():
            log_probs = model(torch.tensor([start + answer])).logits[0, len(start) - 1 :].float().log_softmax(1)
        assert score.log_probs == pytest.approx([float(log_probs[t, token]) for t, token in enumerate(answer)], abs=1e-3)
        assert score.greedy == tuple(int(log_probs[t].argmax()) == token for t, token in enumerate(answer))
        assert score.end_log_prob == pytest.approx(float(log_probs[len(answer), end_of_turn(tokenizer).ids[0]]), abs=1e-3)
        assert "".join(score.tokens) == text


def test_long_responses_are_read_in_pieces_with_the_same_scores(
    tiny_model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    answers = ["The capital of France is Paris. " * 3, "Paris"]
    prompts = [QUESTIONS[0]] * 2
    whole = teacher.score(prompts, answers)
    monkeypatch.setattr("distill.teachers.scoring._POSITIONS_AT_ONCE", 7)
    pieces = teacher.score(prompts, answers)
    for one, other in zip(whole, pieces, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert one.end_log_prob == pytest.approx(other.end_log_prob, abs=1e-4)


def chi_square(counts: Counter[int], probabilities: Sequence[float], draws: int) -> tuple[float, int]:
    """The statistic and its degrees of freedom, with rare tokens in one cell so that no expected count is below five."""
    often = [token for token, p in enumerate(probabilities) if p * draws >= 5]
    rest = max(0.0, 1 - sum(probabilities[token] for token in often)) * draws
    value = sum((counts[token] - probabilities[token] * draws) ** 2 / (probabilities[token] * draws) for token in often)
    if rest < 5:
        return value, len(often) - 1
    return value + (draws - sum(counts[token] for token in often) - rest) ** 2 / rest, len(often)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 20}, {"top_p": 0.8}, {"top_k": 50, "top_p": 0.9}]
)
def test_first_tokens_are_drawn_with_exactly_the_probabilities_of_plain_sampling(
    tiny_model_folder: Folder, options: dict[str, float]
) -> None:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    teacher = teacher_of(tiny_model_folder("llama"), rows=1000)
    model, tokenizer = teacher._loaded
    draws = 4000
    sampling = Sampling(n=draws, max_tokens=1, **options)  # type: ignore[arg-type]
    drawn = drawn_ids(teacher, QUESTIONS[0], sampling)
    with torch.no_grad():
        logits = model(torch.tensor([prompt_tokens(QUESTIONS[0], tokenizer)])).logits[:, -1].float()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1.0)))])
    if "top_k" in options:
        warpers.append(TopKLogitsWarper(int(options["top_k"])))
    if "top_p" in options:
        warpers.append(TopPLogitsWarper(options["top_p"]))
    probabilities = warpers(torch.empty(1, 0, dtype=torch.long), logits).softmax(1)[0].tolist()
    counts = Counter(ids[0] for ids in drawn)
    assert all(probabilities[token] > 0 for token in counts), "a token outside the truncation was drawn"
    value, freedom = chi_square(counts, probabilities, draws)
    # Wilson and Hilferty: (value / freedom)^(1/3) is nearly normal; four standard deviations.
    z = ((value / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 4


def drawn_ids(teacher: HuggingFaceTeacher, prompt: Prompt, sampling: Sampling) -> list[tuple[int, ...]]:
    model, tokenizer = teacher._loaded
    with inference(model):
        found = draw(model, [tuple(prompt_tokens(prompt, tokenizer))], sampling, ends=frozenset(), rows=teacher.rows)
    return [one.ids for one in found[0]]


def test_later_tokens_follow_the_distribution_given_the_earlier_ones(tiny_model_folder: Folder) -> None:
    """Rows that split must take the right cache with them: the second token is conditioned on its own first."""
    teacher = teacher_of(tiny_model_folder("gpt2"), rows=1000)
    model, tokenizer = teacher._loaded
    drawn = drawn_ids(teacher, QUESTIONS[0], Sampling(n=6000, max_tokens=3, top_k=4))
    start = prompt_tokens(QUESTIONS[0], tokenizer)
    for head, _ in Counter(ids[:2] for ids in drawn).most_common(3):
        following = Counter(ids[2] for ids in drawn if ids[:2] == head)
        with torch.no_grad():
            logits = model(torch.tensor([start + list(head)])).logits[:, -1]
        probabilities = _probabilities(logits, Sampling(top_k=4))[0].tolist()
        value, freedom = chi_square(following, probabilities, following.total())
        assert freedom >= 1
        assert value < freedom + 4 * math.sqrt(2 * freedom) + 8


def test_samples_depend_on_seed_prompt_and_index_but_not_on_their_company(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    sampling = Sampling(n=6, max_tokens=8, seed=3)
    together = teacher.generate(QUESTIONS, sampling)
    alone = [teacher.generate([prompt], sampling)[0] for prompt in reversed(QUESTIONS)][::-1]
    small = teacher_of(tiny_model_folder("llama"), batch_size=2, rows=5).generate(QUESTIONS, sampling)
    texts = [[one.text for one in several] for several in together]
    assert texts == [[one.text for one in several] for several in alone]
    assert texts == [[one.text for one in several] for several in small]
    other = teacher.generate(QUESTIONS, Sampling(n=6, max_tokens=8, seed=4))
    assert texts != [[one.text for one in several] for several in other]


def test_more_samples_begin_with_the_fewer_and_can_be_asked_for_later(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    twenty = teacher.generate(QUESTIONS[:2], Sampling(n=20, max_tokens=6))
    ten = teacher.generate(QUESTIONS[:2], Sampling(n=10, max_tokens=6))
    rest = teacher.generate(QUESTIONS[:2], Sampling(n=10, skip=10, max_tokens=6))
    assert [[one.text for one in several] for several in twenty] == [
        [one.text for one in (*first, *second)] for first, second in zip(ten, rest, strict=True)
    ]


def test_the_same_prompt_twice_gets_the_same_samples(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    first, second = teacher.generate([QUESTIONS[0], QUESTIONS[0]], Sampling(n=3, max_tokens=4))
    assert first == second


def test_a_completion_never_begins_with_what_is_avoided_and_keeps_its_own_log_prob(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    tokenizer = teacher._loaded[1]
    free = teacher.generate([QUESTIONS[0]], Sampling(temperature=0, max_tokens=4))[0][0]
    banned = teacher.generate([QUESTIONS[0]], Sampling(temperature=0, max_tokens=4, avoid_start=(free.text,)))[0][0]
    assert response_tokens(banned.text, tokenizer)[0] != response_tokens(free.text, tokenizer)[0]
    score = teacher.score([QUESTIONS[0]], [banned.text])[0]
    assert len(score.tokens) + (banned.finish == "stop") == banned.tokens
    assert banned.log_prob == pytest.approx(score.log_prob + (score.end_log_prob or 0) * (banned.finish == "stop"), abs=1e-3)


def test_a_completion_ends_before_the_first_stop_text(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    whole = teacher.generate([QUESTIONS[0]], Sampling(n=8, max_tokens=12))[0]
    stop = next(one.text for one in whole if len(one.text) > 3)[2]
    cut = teacher.generate([QUESTIONS[0]], Sampling(n=8, max_tokens=12, stop=(stop,)))[0]
    assert [one.text for one in cut] == [one.text.partition(stop)[0] for one in whole]
    assert all(one.finish == "stop" for one, full in zip(cut, whole, strict=True) if stop in full.text)
    assert sum(one.tokens for one in cut) < sum(one.tokens for one in whole)


def test_finish_says_whether_the_turn_ended(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("gpt2"))
    found = [one for several in teacher.generate(QUESTIONS, Sampling(n=40, max_tokens=5, temperature=2)) for one in several]
    assert all(one.tokens == 5 for one in found if one.finish == "length")
    assert any(one.tokens < 5 for one in found)
    assert {one.finish for one in found} == {"stop", "length"}


def test_the_head_meets_only_the_positions_that_are_asked_for(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    model = teacher._loaded[0]
    widest: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, out: widest.append(out.numel()))
    teacher.generate(QUESTIONS, Sampling(n=4, max_tokens=3))
    assert max(widest) <= 4 * len(QUESTIONS) * model.config.vocab_size
    widest.clear()
    teacher.score(QUESTIONS, ["Paris"] * len(QUESTIONS))
    tokens = len(response_tokens("Paris", teacher._loaded[1]))
    assert sum(widest) <= (tokens + 1) * (len(QUESTIONS) + 1) * model.config.vocab_size
    handle.remove()


def test_a_prompt_with_many_responses_is_read_once(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    read: list[int] = []
    handle = (
        teacher._loaded[0].get_input_embeddings().register_forward_hook(lambda module, args, out: read.append(args[0].numel()))
    )
    teacher.score([QUESTIONS[2]] * 6, ["a", "b", "c", "d", "e", "f"])
    handle.remove()
    assert sum(read) == len(prompt_tokens(QUESTIONS[2], teacher._loaded[1])) + 6


def test_a_model_in_memory_keeps_its_mode_its_threads_and_its_hooks(tiny_model_folder: Folder) -> None:
    model, tokenizer = teacher_of(tiny_model_folder("llama"))._loaded
    model.train()
    threads = torch.get_num_threads()
    teacher = HuggingFaceTeacher.from_loaded(model, tokenizer, "student")
    before = teacher.identity()
    teacher.generate(QUESTIONS[:1], Sampling(max_tokens=2))
    assert model.training
    assert torch.get_num_threads() == threads
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert teacher.identity() == before
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    assert teacher.identity() != before, "a student that learned is another teacher"


def test_a_worker_gets_the_settings_and_loads_the_weights_itself(tiny_model_folder: Folder) -> None:
    teacher = teacher_of(tiny_model_folder("llama"))
    expected = teacher.generate(QUESTIONS[:1], Sampling(max_tokens=4))
    sent = pickle.dumps(teacher)
    assert len(sent) < 1000
    assert pickle.loads(sent).generate(QUESTIONS[:1], Sampling(max_tokens=4)) == expected


def test_batching_and_threads_are_no_part_of_the_identity_but_precision_is(tiny_model_folder: Folder) -> None:
    folder = tiny_model_folder("llama")
    assert teacher_of(folder, batch_size=1, rows=7, threads=1).identity() == teacher_of(folder).identity()
    assert HuggingFaceTeacher(model=str(folder), dtype="bfloat16").identity() != teacher_of(folder).identity()
    assert str(folder) not in str(teacher_of(folder).identity())


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        (Sampling(temperature=-1), "temperature"),
        (Sampling(temperature=math.nan), "temperature"),
        (Sampling(top_p=0), "top_p"),
        (Sampling(max_tokens=0), "max_tokens"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(n=-1), "n is"),
    ],
)
def test_settings_that_cannot_be_sampled_with_are_refused_by_name(
    tiny_model_folder: Folder, sampling: Sampling, word: str
) -> None:
    with pytest.raises(TeacherError, match=word):
        teacher_of(tiny_model_folder("llama")).generate(QUESTIONS[:1], sampling)


def test_a_prompt_longer_than_the_model_reads_is_an_error_that_shows_it(tiny_model_folder: Folder) -> None:
    with pytest.raises(TeacherError, match="far far.*1024"):
        teacher_of(tiny_model_folder("llama")).generate([ask("far " * 1100)], Sampling())
    with pytest.raises(TeacherError, match="2 prompts and 1 responses"):
        teacher_of(tiny_model_folder("llama")).score(QUESTIONS[:2], ["a"])


def test_progress_counts_every_prompt_once(tiny_model_folder: Folder) -> None:
    seen: list[tuple[int, int]] = []
    teacher = teacher_of(tiny_model_folder("llama"), batch_size=2, rows=4)
    teacher.generate(QUESTIONS, Sampling(n=6, max_tokens=2), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(QUESTIONS), len(QUESTIONS))
    assert seen == sorted(seen)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_common_prefix_is_the_longest_that_leaves_each_prompt_a_token(prompts: list[tuple[int, ...]]) -> None:
    prefix = _common_prefix(prompts)
    assert all(prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) for prompt in prompts)
    longer = [prompt[: len(prefix) + 1] for prompt in prompts]
    assert len({*longer}) > 1 or min(map(len, prompts)) == len(prefix) + 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error_and_never_a_text(tiny_model_folder: Folder, temperature: float) -> None:
    model, tokenizer = teacher_of(tiny_model_folder("llama"))._loaded
    with torch.no_grad():
        next(model.parameters())[7, 0] = math.nan
        model.get_output_embeddings().weight[7, 0] = math.nan
    with pytest.raises(TeacherError, match="not numbers"):
        HuggingFaceTeacher.from_loaded(model, tokenizer, "broken").generate(QUESTIONS, Sampling(temperature=temperature))


@pytest.mark.slow
def test_the_real_model_says_greedily_what_plain_generation_says(smollm2: Path) -> None:
    teacher = HuggingFaceTeacher(model=str(smollm2), dtype="float32")
    countries = ("France", "Kenya", "Japan", "Burkina Faso", "Papua New Guinea", "Chad")
    prompts = [ask(f"What is the capital of {name}?", start=f"The capital of {name} is") for name in countries]
    found = teacher.generate(prompts, Sampling(temperature=0, max_tokens=8))
    assert [one[0].text for one in found] == [plain_greedy(teacher, prompt, 8) for prompt in prompts]
    assert found[0][0].text.startswith(" Paris")


@pytest.mark.slow
def test_ten_samples_each_cost_less_than_half_of_what_plain_generation_takes(smollm2: Path) -> None:
    teacher = HuggingFaceTeacher(model=str(smollm2), threads=1)
    model, tokenizer = teacher._loaded
    countries = ("France", "Kenya", "Japan", "Peru")
    prompts = [ask(f"What is the capital of {name}?", start=f"The capital of {name} is") for name in countries]
    rows = tokenizer.pad(
        {"input_ids": [prompt_tokens(prompt, tokenizer) for prompt in prompts]}, padding_side="left", return_tensors="pt"
    )

    def ours() -> None:
        teacher.generate(prompts, Sampling(n=10, max_tokens=8))

    def plain() -> None:
        with inference(model, 1):
            model.generate(**rows, do_sample=True, top_k=0, max_new_tokens=8, num_return_sequences=10)

    seconds = {}
    ours()
    for work in (ours, plain):
        began = time.process_time()
        work()
        seconds[work.__name__] = time.process_time() - began
    assert seconds["ours"] < 0.5 * seconds["plain"], seconds
