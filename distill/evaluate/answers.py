"""What a model would answer, how sure it is, and whether it would rather abstain: three numbers and a text per question.

A question is put twice: as it is, to read the probability that the response begins with the abstention; and with the answer's
opening given, so that a model that would abstain still shows the answer it would have given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distill.consensus import short_answer
from distill.errors import ConfigError
from distill.evaluate.abstention import Outcomes
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Sampling, Scorer, TokenScores

ANSWER = Sampling(n=1, temperature=0.0, max_tokens=12, stop=(". ", ",", ";", "\n"))


class Answerer(Protocol):
    """A model that can both write and score; HuggingFaceTeacher is one."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]: ...
    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]: ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """text: the greedy answer after the opening. log_prob: of that answer given the opening, or without one given that the
    response is not the abstention, so that both mean the same (nats, whole answer, no end of turn).

    idk_log_prob: of the abstention as the response's beginning (nats). greedy_idk: greedy decoding begins with the abstention.
    """

    text: str
    log_prob: float
    idk_log_prob: float
    greedy_idk: bool


def opened(prompt: Prompt, opening: str) -> Prompt:
    """The prompt with the answer's opening given; without an opening, the prompt itself."""
    return (*prompt, Message(role="assistant", content=opening)) if opening else prompt


def answer_questions(
    model: Answerer,
    prompts: Sequence[Prompt],
    openings: Sequence[str],
    *,
    abstention: str,
    sampling: Sampling = ANSWER,
    shorten: Callable[[str], str] | None = None,
) -> list[Answer]:
    """Greedy answers and their signals, in order.

    openings: what each answer starts with (`The capital of Peru is`), or "" for none; then the abstention itself is banned as a
    start, so that the answer is the best one that is not the abstention. abstention: without its final full stop, so that
    "I don't know" and "I don't know that one" count as one. shorten: what of the written text is the answer (a beginning of it,
    as it was written); by default its first sentence.
    """
    beginning = abstention.rstrip(" .")
    if not beginning:
        raise ConfigError("the abstention is empty; give the words that the model was trained to abstain with")
    banned = Sampling(**{**vars(sampling), "avoid_start": (beginning,)})
    written: list[str] = [""] * len(prompts)
    for ban, wanted in ((False, True), (True, False)):
        index = [i for i, opening in enumerate(openings) if bool(opening) == wanted]
        if index:
            drawn = model.generate([opened(prompts[i], openings[i]) for i in index], banned if ban else sampling)
            for i, completions in zip(index, drawn, strict=True):
                written[i] = (shorten or _answer_proper)(completions[0].text)
    started = [opened(prompt, opening) for prompt, opening in zip(prompts, openings, strict=True)]
    silent = [not text.strip() for text in written]  # nothing written: scored as a space would be, and never right
    answers = model.score(started, [" " if empty else text for empty, text in zip(silent, written, strict=True)])
    refusals = model.score(prompts, [beginning] * len(prompts))
    return [
        Answer(
            text=text,
            log_prob=answer.log_prob - (0.0 if opening else _log_not(refusal.log_prob)),
            idk_log_prob=refusal.log_prob,
            greedy_idk=bool(refusal.greedy) and all(refusal.greedy),
        )
        for text, opening, answer, refusal in zip(written, openings, answers, refusals, strict=True)
    ]


def _log_not(log_prob: float) -> float:
    """log(1 - p), bounded where p is 1 to the last digit.

    >>> round(_log_not(math.log(0.75)), 6) == round(math.log(0.25), 6)
    True
    """
    return math.log(max(-math.expm1(log_prob), 1e-9))


def _answer_proper(text: str) -> str:
    """The short answer as it was written, its leading space included, so that scoring it asks about the same tokens."""
    proper = short_answer(text)
    return text[: text.find(proper) + len(proper)] if proper else ""


def wrong_mass(model: Scorer, prompts: Sequence[Prompt], wrong: Sequence[Sequence[str]]) -> list[float]:
    """For each question the probability of all its known wrong answers together; NaN where none are known.

    prompts: with the opening given. wrong: distinct texts, none a beginning of another, so that their probabilities add up.
    """
    pairs = [(prompt, text) for prompt, texts in zip(prompts, wrong, strict=True) for text in texts]
    scores = iter(model.score([prompt for prompt, _ in pairs], [text for _, text in pairs])) if pairs else iter(())
    return [sum(math.exp(next(scores).log_prob) for _ in texts) if texts else float("nan") for texts in wrong]


def signals(answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What an AbstentionRule reads, each of shape (Q,): log p(answer) in nats, p(IDK), greedy IDK."""
    log_prob = np.array([a.log_prob for a in answers], dtype=float)
    p_idk = np.exp(np.array([a.idk_log_prob for a in answers], dtype=float))
    return log_prob, p_idk, np.array([a.greedy_idk for a in answers], dtype=bool)


def outcomes(
    answers: Sequence[Answer],
    *,
    cluster: Sequence[str],
    right: Sequence[bool],
    majority_right: Sequence[bool],
    decide: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    negative_mass: Sequence[float] | None = None,
) -> Outcomes:
    """Arrays for the metrics. decide(answer_log_prob, p_idk, greedy_idk) -> (confidence, answered)."""
    log_prob, p_idk, greedy_idk = signals(answers)
    confidence, answered = decide(log_prob, p_idk, greedy_idk)
    return Outcomes(
        cluster=np.array(cluster, dtype=np.str_),
        answered=answered,
        right=np.array(right, dtype=bool),
        majority_right=np.array(majority_right, dtype=bool),
        p_idk=p_idk,
        answer_log_prob=log_prob,
        confidence=confidence,
        negative_mass=np.full(len(answers), np.nan) if negative_mass is None else np.array(negative_mass, dtype=float),
    )
