"""From settings to text: which sampling settings make sense, and what the tokens that a local model drew say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from distill.errors import TeacherError
from distill.teachers.base import Completion, Sampling
from distill.template import response_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_THOUGHT = re.compile(r"(?:.*?</think>|\s*<think>.*)\s*", re.DOTALL)  # without its end: cut off while it thought


def said(ids: Sequence[int], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """What was said: without the end of turn, and without control tokens, which are no text."""
    hidden = ends.union(tokenizer.all_special_ids)
    # Decoders strip a leading space: a letter on both sides holds everything in place.
    letter = response_tokens("a", tokenizer)
    alone, both, whole = (
        str(tokenizer.decode(some, clean_up_tokenization_spaces=False))
        for some in (letter, letter * 2, [*letter, *(token for token in ids if token not in hidden), *letter])
    )
    return whole[len(alone) : len(whole) - (len(both) - len(alone))]


def answer_of(text: str) -> str:
    """What a model says to the reader: a text without the reasoning, between <think> and </think>, that it begins with.

    Reasoning that was cut off has no answer after it.

    >>> answer_of("<think>Easy.</think>Paris."), answer_of("<think>Let me see"), answer_of("Paris.")
    ('Paris.', '', 'Paris.')
    """
    within = _THOUGHT.match(text)
    return text if within is None else text[within.end() :]


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one.

    >>> cut("Paris.\\nQ: And", ["\\n", "."])
    ('Paris', True)
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def completion_of(
    ids: Sequence[int],
    ends: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    stops: Sequence[str],
    finish: Literal["stop", "length"],
    log_prob: float | None,
) -> Completion:
    """The completion that drawn tokens make: cut before a stop text, without reasoning, whose log-probability is no answer's."""
    text = cut(said(ids, ends, tokenizer), stops)[0]
    answer = answer_of(text)
    return Completion(text=answer, tokens=len(ids), finish=finish, log_prob=log_prob if answer == text else None)


def check_sampling(sampling: Sampling) -> None:
    """Raises TeacherError that names each setting out of its range."""
    problems = {
        f"n is {sampling.n}; expected at least 0": sampling.n < 0,
        f"skip is {sampling.skip}; expected at least 0": sampling.skip < 0,
        f"max_tokens is {sampling.max_tokens}; expected at least 1": sampling.max_tokens < 1,
        f"temperature is {sampling.temperature}; expected 0 (greedy) or more": not 0 <= sampling.temperature < float("inf"),
        f"top_p is {sampling.top_p}; expected more than 0 and at most 1": not 0 < sampling.top_p <= 1,
        f"top_k is {sampling.top_k}; expected 0 (all) or more": sampling.top_k < 0,
        "stop holds an empty text, which every completion contains; remove it": "" in sampling.stop,
        "avoid_start holds an empty text, which has no first token; remove it": "" in sampling.avoid_start,
    }
    found = [problem for problem, wrong in problems.items() if wrong]
    if found:
        raise TeacherError(f"these settings cannot be sampled with: {'; '.join(found)}")
