"""What a teacher can do, over strings and messages: generate, or score. `logits` has the one that serves its distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from distill.records import Prompt


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw completions. Everything in it changes the text, so everything in it is part of a cache key.

    temperature 0 is greedy. max_tokens counts generated tokens, end of turn included. A completion ends before the first of
    `stop`. `avoid_start` lists texts that a completion must not begin with: the first token of each is impossible at the
    first step (used to ask for the best answer of a model that would rather abstain). The seed fixes the draw for each
    prompt on its own: a prompt's samples do not depend on which other prompts share its batch. `skip` is the index of the
    first sample: n=10, then n=10 with skip=10, give the same twenty as n=20 at once.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 64
    seed: int = 0
    skip: int = 0
    stop: tuple[str, ...] = ()
    avoid_start: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One generated response, as the text that follows the prompt exactly (a leading space belongs to it).

    log_prob: nats, sum over generated tokens (the end of turn included where reached) under the model's own distribution at
    temperature 1, before any truncation or ban; None where the backend cannot say. finish: "stop" or "length".
    """

    text: str
    tokens: int
    finish: Literal["stop", "length"]
    log_prob: float | None = None


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """log p of each token of a response given its prompt (nats, text order); `tokens` are their texts, the end of turn excluded.

    greedy: whether each token is the most probable one at its position (empty where the backend cannot say); all True means
    that greedy decoding begins with this response. end_log_prob: nats, of ending the turn right after the response (log_prob +
    end_log_prob is the log-probability of saying this and no more); None where the backend cannot say.
    """

    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]
    greedy: tuple[bool, ...] = ()
    end_log_prob: float | None = None

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole response (nats)."""
        return float(sum(self.log_probs))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a teacher has done since it was made. cost: in the currency of its price, 0 where no price is known.

    >>> Usage(requests=2, cost=0.5) - Usage(requests=1)
    Usage(requests=1, prompt_tokens=0, completion_tokens=0, cost=0.5)
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})

    def __sub__(self, other: Usage) -> Usage:
        return Usage(**{field.name: getattr(self, field.name) - getattr(other, field.name) for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million tokens cost, those that are read (input) and those that are written (output)."""

    input: float = 0.0
    output: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost.

        >>> Price(input=1.0, output=4.0).of(500_000, 250_000)
        1.5
        """
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


class Teacher(ABC):
    """Common to all capabilities: a stable identity, so that a cache knows when the same question has the same answer."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """JSON-able facts that change the output (model, revision or weights hash, precision); no secret, path or concurrency."""

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call it at once and gain by it, as with a server; a model in this process: False."""
        return False

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None where they cost nothing, or nobody said."""
        return None

    def usage(self) -> Usage:
        """What it has done so far, for running accounts; the difference of two readings is the work between them."""
        return Usage()


class Failed(list[Completion]):
    """The empty list of a prompt that got no completions for a reason of its own (too long, filtered), while others got theirs.

    reason: one of few, for they are counted.

    >>> Failed("content filter"), Failed("content filter").reason
    ([], 'content filter')
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class NoChoice(tuple[float, ...]):
    """What a prompt gets from `Chooser.choose` that was not answered at all, while others were: -inf for each option.

    reason: one of few, for they are counted.

    >>> NoChoice("timed out", 2), NoChoice("timed out", 2).reason
    ((-inf, -inf), 'timed out')
    """

    reason: str

    def __new__(cls, reason: str, options: int) -> NoChoice:
        made = super().__new__(cls, (-math.inf,) * options)
        made.reason = reason
        return made


class Generator(Teacher):
    """Writes completions."""

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:  # noqa: B027 - optional: most can do all
        """Refuse, before anything is asked for, what this backend cannot do: a kind of sampling, or log-probabilities if needed.

        A server is probed here. Raises TeacherError with the remedy.
        """

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int] | None:
        """How many tokens it reads for each prompt, for an estimate; None where only asking would tell, as with a server."""
        return None

    def reads(self, sampling: Sampling) -> int:
        """How often it reads a prompt to draw all its samples, for an estimate: once, unless each is a request of its own."""
        return 1

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `Failed`, which is empty, for a prompt that alone got none."""


class Scorer(Teacher):
    """Says how probable given responses are."""

    @abstractmethod
    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]:
        """One TokenScores for each (prompt, response) pair, in order."""


class Chooser(Teacher):
    """Says how probable each of a few given beginnings of a response is: constrained choice, without free text to parse."""

    @abstractmethod
    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """For each prompt the log-probability (nats) that the response begins with each of the options, in their order.

        -inf for an option that the backend does not report among its most probable ones; `NoChoice` for a prompt that alone got
        no answer. Options begin with different tokens,
        else TeacherError.
        """
