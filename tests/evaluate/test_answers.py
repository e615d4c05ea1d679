"""What is asked of a model and what becomes of its words: a scripted model for the rules, a tiny real one for the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import ConfigError
from distill.evaluate.answers import Answer, answer_questions, opened, outcomes, wrong_mass
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Sampling, TokenScores
from distill.teachers.huggingface import HuggingFaceTeacher

IDK = "I don't know."


def ask(text: str) -> Prompt:
    return (Message(role="user", content=text),)


@dataclass(frozen=True)
class Scripted:
    """Says what the script holds for the last message; each character is a token that costs its place in the alphabet."""

    says: dict[str, str] = field(default_factory=dict)
    greedy: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    generated: list[tuple[list[str], tuple[str, ...]]] = field(default_factory=list)
    scored: list[tuple[str, str]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.generated.append(([prompt[-1].content for prompt in prompts], sampling.avoid_start))
        return [[Completion(text=self.says.get(p[-1].content, ""), tokens=1, finish="stop")] * sampling.n for p in prompts]

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]:
        assert all(responses)  # nothing cannot be scored
        self.scored.extend((prompt[-1].content, text) for prompt, text in zip(prompts, responses, strict=True))
        return [
            TokenScores(
                tokens=tuple(text),
                log_probs=tuple(-ord(c) / 100 for c in text),
                greedy=self.greedy.get(prompt[-1].content, (False,) * len(text)),
            )
            for prompt, text in zip(prompts, responses, strict=True)
        ]


def cost(text: str) -> float:
    return -sum(map(ord, text)) / 100


def test_each_question_gets_its_own_answer_with_or_without_an_opening() -> None:
    names = ["Peru", "Chad", "Oman", "Fiji", "Mali"]
    openings = ["The capital is", "", "It is", "", ""]
    model = Scripted({(o or n): f" city of {n}." for n, o in zip(names, openings, strict=True)})
    found = answer_questions(model, [ask(n) for n in names], openings, abstention=IDK)
    assert [one.text for one in found] == [f" city of {n}" for n in names]
    not_idk = -math.log1p(-math.exp(cost("I don't know")))
    wanted = [cost(f" city of {n}") + (0 if opening else not_idk) for n, opening in zip(names, openings, strict=True)]
    assert [one.log_prob for one in found] == pytest.approx(wanted, rel=1e-9)


def test_an_answer_without_an_opening_is_as_probable_as_one_whose_opening_was_sure() -> None:
    """A student that abstains first with .9 and else gives one answer for sure: the answer's own probability is 1, not .1."""

    @dataclass(frozen=True)
    class Abstainer(Scripted):
        def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]:
            share = {"I don't know": 0.9, "Paris": 0.1}
            return [TokenScores(tokens=(text,), log_probs=(math.log(share[text]),)) for text in responses]

    [answer] = answer_questions(Abstainer({"France?": "Paris"}), [ask("France?")], [""], abstention=IDK)
    assert answer.log_prob == pytest.approx(0.0, abs=1e-9)


def test_only_a_question_without_an_opening_has_the_abstention_banned_as_its_start() -> None:
    model = Scripted()
    answer_questions(model, [ask("a"), ask("b"), ask("c")], ["", "It is", ""], abstention=IDK)
    assert sorted(model.generated) == [(["It is"], ()), (["a", "c"], ("I don't know",))]


def test_the_answer_is_scored_after_its_opening_and_the_abstention_after_the_question() -> None:
    model = Scripted({"It is": " Lima", "Chad?": "N'Djamena"})
    answer_questions(model, [ask("Peru?"), ask("Chad?")], ["It is", ""], abstention=IDK)
    assert model.scored[:2] == [("It is", " Lima"), ("Chad?", "N'Djamena")]
    assert model.scored[2:] == [("Peru?", "I don't know"), ("Chad?", "I don't know")]


def test_the_final_stop_of_the_abstention_makes_no_difference() -> None:
    model = Scripted({"Peru?": "Lima"})
    first, second = (answer_questions(model, [ask("Peru?")], [""], abstention=text) for text in ("I don't know.", "I don't know"))
    assert first == second
    assert first[0].idk_log_prob == pytest.approx(cost("I don't know"))


@pytest.mark.parametrize(
    ("written", "proper"),
    [
        (" Lima. It lies on the coast", " Lima"),
        (" Lima", " Lima"),
        ("\n\n  Lima.\nMore", "\n\n  Lima"),
        (' "Lima".', ' "Lima'),
        (" Washington, D.C.", " Washington, D.C."),
        (" ירושלים. היא", " ירושלים"),
    ],
)
def test_the_answer_proper_keeps_the_words_as_they_were_written(written: str, proper: str) -> None:
    found = answer_questions(Scripted({"It is": written}), [ask("x")], ["It is"], abstention=IDK)[0]
    assert found.text == proper
    assert found.log_prob == pytest.approx(cost(proper))


@given(st.text(max_size=12), st.sampled_from(["", "It is"]))
def test_whatever_a_model_writes_the_answer_is_a_beginning_of_it(written: str, opening: str) -> None:
    found = answer_questions(Scripted({"x": written, "It is": written}), [ask("x")], [opening], abstention=IDK)[0]
    assert written.startswith(found.text)
    assert math.isfinite(found.log_prob) and not found.greedy_idk


@pytest.mark.parametrize("nothing", ["", " ", "\n", "...", '"'])
def test_a_model_that_writes_nothing_has_an_empty_answer(nothing: str) -> None:
    found = answer_questions(Scripted({"x": nothing}), [ask("x")], [""], abstention=IDK)[0]
    assert not found.text.strip() and math.isfinite(found.log_prob)


def test_no_questions_have_no_answers() -> None:
    assert answer_questions(Scripted(), [], [], abstention=IDK) == []


def test_the_abstention_counts_as_greedy_only_where_each_of_its_tokens_is() -> None:
    greedy = {"all": (True,) * 3, "last": (True, True, False), "first": (False, True, True), "unknown": ()}
    model = Scripted(dict.fromkeys(greedy, "x"), greedy)
    found = answer_questions(model, [ask(name) for name in greedy], [""] * 4, abstention=IDK)
    assert [one.greedy_idk for one in found] == [True, False, False, False]


@pytest.mark.parametrize("empty", ["", ".", " . "])
def test_an_empty_abstention_is_refused(empty: str) -> None:
    with pytest.raises(ConfigError, match="abstention is empty"):
        answer_questions(Scripted(), [ask("x")], [""], abstention=empty)


def test_prompts_and_openings_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        answer_questions(Scripted({"x": "y"}), [ask("x"), ask("x")], ["It is"], abstention=IDK)


def test_an_opening_is_the_assistants_and_no_opening_changes_nothing() -> None:
    assert opened(ask("x"), "") == ask("x")
    assert opened(ask("x"), "It is") == (*ask("x"), Message(role="assistant", content="It is"))


# Mass on known wrong answers


def test_wrong_mass_adds_up_and_is_unknown_where_no_wrong_answer_is_known() -> None:
    wrong = [["a", "bc"], [], ["d"]]
    found = wrong_mass(Scripted(), [ask("x")] * 3, wrong)
    assert found[0] == pytest.approx(math.exp(cost("a")) + math.exp(cost("bc")))
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(math.exp(cost("d")))


def test_wrong_mass_asks_nothing_where_nothing_is_known() -> None:
    model = Scripted()
    assert all(math.isnan(mass) for mass in wrong_mass(model, [ask("x")] * 2, [[], []]))
    assert model.scored == []


# Arrays for the metrics


def test_outcomes_hold_each_signal_in_the_order_of_the_questions() -> None:
    answers = [
        Answer(text=" a", log_prob=-1.0, idk_log_prob=math.log(0.25), greedy_idk=True),
        Answer(text=" b", log_prob=-2.0, idk_log_prob=math.log(0.5), greedy_idk=False),
    ]
    seen: list[np.ndarray] = []

    def decide(log_prob: np.ndarray, p_idk: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.extend((log_prob, p_idk, greedy))
        return p_idk * 2, ~greedy

    found = outcomes(answers, cluster=["x", "y"], right=[True, False], majority_right=[False, True], decide=decide)
    assert seen[0].tolist() == found.answer_log_prob.tolist() == [-1.0, -2.0]
    assert found.p_idk.tolist() == pytest.approx([0.25, 0.5]) and found.confidence.tolist() == pytest.approx([0.5, 1.0])
    assert found.answered.tolist() == [False, True] and seen[2].dtype == bool
    assert found.right.tolist() == [True, False] and found.majority_right.tolist() == [False, True]
    assert found.cluster.tolist() == ["x", "y"]
    assert np.isnan(found.negative_mass).all()


def test_outcomes_keep_the_negative_mass_and_what_is_unknown_of_it() -> None:
    answers = [Answer(text="", log_prob=0.0, idk_log_prob=-1.0, greedy_idk=False)] * 2
    always = lambda log_prob, p_idk, greedy: (log_prob, np.ones(2, dtype=bool))  # noqa: E731
    kept = outcomes(
        answers, cluster="ab", right=[True] * 2, majority_right=[True] * 2, decide=always, negative_mass=[0.5, math.nan]
    )
    assert kept.negative_mass[0] == 0.5 and math.isnan(kept.negative_mass[1])


# A real model, if a tiny one


@pytest.fixture(scope="module")
def tiny(tiny_model_folder: Callable[[str], Path]) -> HuggingFaceTeacher:
    from distill.models import load_model, load_tokenizer

    folder = str(tiny_model_folder("llama"))
    return HuggingFaceTeacher.from_loaded(load_model(folder, dtype="float32"), load_tokenizer(folder), "tiny")


QUESTIONS = ["What is the capital of Kenya?", "מה בירת ישראל?", "I", "The atomic number of gold is 79."]
OPENINGS = ["The capital of Kenya is", "", "", "It is"]


@pytest.fixture(scope="module")
def answered(tiny: HuggingFaceTeacher) -> list[Answer]:
    return answer_questions(tiny, [ask(q) for q in QUESTIONS], OPENINGS, abstention=IDK)


def test_the_same_questions_get_the_same_answers_alone_and_in_another_order(
    tiny: HuggingFaceTeacher, answered: list[Answer]
) -> None:
    backwards = answer_questions(tiny, [ask(q) for q in QUESTIONS[::-1]], OPENINGS[::-1], abstention=IDK)[::-1]
    alone = [answer_questions(tiny, [ask(q)], [o], abstention=IDK)[0] for q, o in zip(QUESTIONS, OPENINGS, strict=True)]
    for other in (backwards, alone):
        assert [one.text for one in other] == [one.text for one in answered]
        for name in ("log_prob", "idk_log_prob"):
            assert [getattr(one, name) for one in other] == pytest.approx([getattr(one, name) for one in answered], abs=1e-3)


def test_signals_are_those_that_the_model_itself_reports(tiny: HuggingFaceTeacher, answered: list[Answer]) -> None:
    for question, opening, one in zip(QUESTIONS, OPENINGS, answered, strict=True):
        refusal = tiny.score([ask(question)], ["I don't know"])[0]
        assert one.idk_log_prob == pytest.approx(refusal.log_prob, abs=1e-3)
        assert one.greedy_idk == all(refusal.greedy)
        assert one.log_prob == pytest.approx(
            tiny.score([opened(ask(question), opening)], [one.text or " "])[0].log_prob, abs=1e-3
        )


def test_a_model_that_would_abstain_shows_its_next_best_answer(tiny: HuggingFaceTeacher) -> None:
    # A random model often writes halves of letters, which no text gives back: one question whose words are its tokens is enough.
    questions = [ask(f"What is the symbol of element {n}?") for n in range(20)]
    greedy = [one[0].text for one in tiny.generate(questions, Sampling(temperature=0.0, max_tokens=3))]
    scores = tiny.score(questions, greedy)
    question, words = next(
        (q, t) for q, t, one in zip(questions, greedy, scores, strict=True) if all(one.greedy) and t.strip(" .")
    )
    found = answer_questions(tiny, [question], [""], abstention=words)[0]
    assert found.greedy_idk
    assert found.text.strip() and not found.text.startswith(words)


def test_the_mass_of_all_first_tokens_is_at_most_one(tiny: HuggingFaceTeacher) -> None:
    single = [text for text in "abcdefghijklmnopqrstuvwxyz" if len(tiny.score([ask("x")], [text])[0].tokens) == 1]
    mass = wrong_mass(tiny, [ask("x")], [single])[0]
    parts = [math.exp(tiny.score([ask("x")], [text])[0].log_prob) for text in single]
    assert mass == pytest.approx(sum(parts), rel=1e-3) and 0 < mass <= 1
