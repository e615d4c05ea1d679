"""What a chat completion says: its texts, how they ended, how probable they were. The form of a reply is known here alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.errors import TeacherError
from distill.teachers.base import Completion, Sampling
from distill.teachers.drawn_text import answer_of, cut
from distill.teachers.server_link import Refused, Unanswered

_DATE = re.compile(r"(-\d{4}-?\d{2}-?\d{2}|@[^/]*|:latest)$")


class Token(NamedTuple):
    """One generated token, its log-probability (nats), and the most probable ones at its place."""

    text: str
    log_prob: float
    top: dict[str, float]


class Choice(NamedTuple):
    """One of a reply's texts. `tokens` is empty where the server gives none; thought: the reasoning that came before the text."""

    text: str
    finish: str
    tokens: tuple[Token, ...]
    thought: str


class Reply(NamedTuple):
    """A whole reply. The counts are None where the server does not say; thought: whether tokens went into reasoning."""

    choices: tuple[Choice, ...]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    thought: bool


def read_reply(reply: Mapping[str, Any], *, model: str, n: int) -> Reply:
    """A reply with n choices or more.

    Raises Unanswered where it is not what a chat completion is, Refused where a content filter cut it, TeacherError where
    another model than the one asked answered.
    """
    try:
        said = str(reply.get("model") or "")
        choices = tuple(_choice(one) for one in sorted(reply["choices"], key=lambda one: one.get("index") or 0))
        usage = reply.get("usage") or {}
        thought = bool((usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))
        read, written = (
            None if (count := usage.get(name)) is None else int(count) for name in ("prompt_tokens", "completion_tokens")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        about = reply.get("error") or repr(error)
        raise Unanswered("broken answer", f"an answer that is no chat completion: {str(about)[:120]}") from None
    if said and not same_model(model, said):
        raise TeacherError(
            f"{model!r} was asked and {said!r} answered: the server serves another model, or another name of it. Give model as "
            "the server has it; where both names are one model, say so: answers_as"
        )
    if any(choice.finish == "content_filter" for choice in choices):
        raise Refused(200, "content filter")
    if any(choice.finish in ("abort", "error") for choice in choices):
        raise Unanswered("broken answer", "an answer that was aborted")
    if len(choices) < n:
        raise Unanswered("broken answer", f"{len(choices)} completions where {n} were asked for")
    return Reply(choices, said, read, written, thought or any(choice.thought for choice in choices))


def same_model(asked: str, said: str) -> bool:
    """Whether a reply's model is the one asked for: the same name but for a folder, a revision or a date.

    >>> same_model("gpt-5-mini", "gpt-5-mini-2026-03-01"), same_model("models/qwen3", "qwen3@main"), same_model("qwen3", "llama")
    (True, True, False)
    """
    names = {_DATE.sub("", name.casefold().rstrip("/")) for name in (asked, said)}
    return len(names) == 1 or len({name.rpartition("/")[2] for name in names}) == 1


def completions(reply: Reply, sampling: Sampling, *, log_probs: bool) -> list[Completion]:
    """The reply's choices as completions: cut before a stop text that the server let through."""
    total = reply.completion_tokens
    made = []
    for place, choice in enumerate(reply.choices):
        counted = len(choice.tokens) or (0 if total is None else len(range(place, total, len(reply.choices))))
        text, _ = cut(choice.text, sampling.stop)
        kept = choice.tokens
        if text != choice.text and not choice.thought:
            kept = tuple(_until(choice.tokens, len(text)))
            counted = len(kept) or counted
        stopped = text != choice.text or choice.finish not in ("length", "max_tokens")
        # That of a thought is in the sum too, and of the answer alone it cannot be said.
        known = log_probs and bool(kept) and not choice.thought
        log_prob = min(0.0, math.fsum(token.log_prob for token in kept)) if known else None
        made.append(Completion(text=text, tokens=counted, finish="stop" if stopped else "length", log_prob=log_prob))
    return made


def option_log_probs(reply: Reply, options: Sequence[str]) -> tuple[float, ...]:
    """The log-probability of the first token of each option; -inf where it is not among the tokens that the server reports.

    An option's first token is the longest reported one that the option begins with.
    Raises TeacherError where two options begin with the same token.
    """
    first = reply.choices[0].tokens[0] if reply.choices[0].tokens else None
    top = {} if first is None else {**first.top, first.text: first.log_prob}
    begins = [max((token for token in top if token and option.startswith(token)), key=len, default=None) for option in options]
    known = [token for token in begins if token is not None]
    if len(set(known)) < len(known):
        twice = next(token for token in known if known.count(token) > 1)
        raise TeacherError(f"two of the options {list(options)} begin with the same token {twice!r}; begin them differently")
    return tuple(-math.inf if token is None else min(0.0, top[token]) for token in begins)


def _choice(choice: Mapping[str, Any]) -> Choice:
    message = choice["message"]
    text = message.get("content")
    text = message.get("refusal") if text is None else text
    listed = (choice.get("logprobs") or {}).get("content") or ()
    text = "" if text is None else str(text)
    end = len(text) - len(answer_of(text))  # of a server that does not take it apart; nobody shall learn it as part of the answer
    thought = str(message.get("reasoning_content") or message.get("reasoning") or "") + text[:end]
    return Choice(text[end:], str(choice.get("finish_reason")), tuple(map(_token, listed)), thought)


def _token(token: Mapping[str, Any]) -> Token:
    top = {str(one["token"]): _number(one["logprob"]) for one in reversed(token.get("top_logprobs") or ())}
    return Token(str(token["token"]), _number(token["logprob"]), top)


def _number(value: Any) -> float:
    """JSON has no -inf; vLLM writes -9999 for it."""
    return -math.inf if value is None or float(value) <= -9999 else float(value)


def _until(tokens: Sequence[Token], length: int) -> Iterator[Token]:
    """The tokens of a text's first characters and the one that goes on from there, which holds the stop text's beginning."""
    read = 0
    for token in tokens:
        yield token
        read += len(token.text)
        if read > length:
            return
