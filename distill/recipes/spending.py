"""What a run's teachers have used so far, counted once, and whether that is all they may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from distill.errors import RecipeError
from distill.teachers.base import Teacher, Usage

NOT_ASKED = "not asked: the budget is spent"


class Meter:
    """Reads teachers' counters so that no request is counted twice, whoever reads.

    Where two stages ask one teacher at the same time, their sum is exact; the split between them is by who ended first.
    """

    def __init__(self) -> None:
        self._read: dict[int, tuple[Teacher, Usage]] = {}  # the teacher is held: another one could get its id
        self._lock = threading.Lock()

    def watch(self, teachers: Sequence[Teacher]) -> None:
        """Count from now on; what a teacher did before belongs to no stage."""
        with self._lock:
            for teacher in teachers:
                self._read.setdefault(id(teacher), (teacher, teacher.usage()))

    def since(self, teachers: Sequence[Teacher]) -> Usage:
        """What they have used since anyone last read them."""
        total = Usage()
        with self._lock:
            for teacher in teachers:
                now = teacher.usage()
                total += now - self._read[id(teacher)][1]
                self._read[id(teacher)] = (teacher, now)
        return total

    def counts(self, teachers: Sequence[Teacher]) -> bool:
        """Whether any of them has ever counted anything; one that never did does not count at all."""
        with self._lock:
            return any(self._read[id(teacher)][1] != Usage() for teacher in teachers)


class Budget:
    """What a folder may cost, over all its restarts; None is no limit.

    max_cost: in the currency of the teachers' prices. max_tokens: read and written together. What is under way when the budget
    is reached still ends, so the last batches may go beyond it.
    """

    def __init__(self, *, max_cost: float | None = None, max_tokens: int | None = None, used: Usage | None = None) -> None:
        if max_cost is not None and not 0 < max_cost < float("inf"):
            raise RecipeError(f"max_cost is {max_cost}: give an amount above 0, or leave it out for no limit")
        if max_tokens is not None and max_tokens < 1:
            raise RecipeError(f"max_tokens_total is {max_tokens}: give at least 1 token, or leave it out for no limit")
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self.used = used or Usage()
        self._lock = threading.Lock()

    def add(self, usage: Usage) -> None:
        """Count what a batch has used."""
        with self._lock:
            self.used += usage

    @property
    def tokens(self) -> int:
        """Read and written, so far."""
        return self.used.prompt_tokens + self.used.completion_tokens

    def stops(self, teachers: Sequence[Teacher]) -> bool:
        """Whether these teachers may not be asked again. One without a price goes on when money is what is spent."""
        if self.max_cost is not None and self.used.cost >= self.max_cost and any(one.price is not None for one in teachers):
            return True
        return self.max_tokens is not None and self.tokens >= self.max_tokens and bool(teachers)

    def refuse_unpriced(self, teachers: Sequence[Teacher]) -> None:
        """RecipeError where a limit in money meets a teacher that may be paid for (one behind a server) and has no price."""
        unpriced = [one for one in teachers if one.concurrent and one.price is None]
        if self.max_cost is not None and unpriced:
            raise RecipeError(no_price(unpriced[0]))


def no_price(teacher: Teacher) -> str:
    """What to say of a budget in money that cannot be kept."""
    return (
        f"max_cost needs prices, and {type(teacher).__name__} has none: set its price for a million tokens (input and output; 0 "
        "where it costs nothing), or limit tokens instead with max_tokens_total"
    )


class Busy:
    """A clock that runs while anything is under way, in however many threads."""

    def __init__(self) -> None:
        self._under_way, self._since = 0, 0.0
        self._lock = threading.Lock()

    def start(self) -> None:
        """One more is under way."""
        with self._lock:
            if self._under_way == 0:
                self._since = time.monotonic()
            self._under_way += 1

    def end(self) -> float:
        """One fewer is under way. Returns the seconds since any other ended, or since the first began."""
        with self._lock:
            now = time.monotonic()
            passed, self._since = now - self._since, now
            self._under_way -= 1
            return passed
