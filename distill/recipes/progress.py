"""How a stage shows that it lives: one bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

LINE_EVERY = 10.0  # seconds


class Progress:
    """Rows, rate, time left, tokens and cost of one stage. Rows from the cache count as done, never as speed.

    spent: what the stage has cost before this start, in the currency of its teachers' prices; None where nothing has a price.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        stream: IO[str] | None = None,
        quiet: bool = False,
        spent: float | None = None,
    ) -> None:
        self.title, self.total, self.quiet = title, total, quiet
        self.rows = self.cached = self.tokens = 0
        self.cost = 0.0
        self._spent = spent
        self._stream = stream if stream is not None else sys.stderr
        self._started = self._spoke = time.monotonic()
        self._bar: Any = None
        if not quiet and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit=" rows", file=self._stream, dynamic_ncols=True)

    def add(self, rows: int, *, cached: int = 0, tokens: int = 0, cost: float = 0.0) -> None:
        """`rows` more are done; `cached` of them cost nothing."""
        self.rows, self.cached = self.rows + rows, self.cached + cached
        self.tokens, self.cost = self.tokens + tokens, self.cost + cost
        if self._bar is not None:
            self._bar.initial += cached
            self._bar.n += cached
            self._bar.set_postfix_str(", ".join(self._news()), refresh=False)
            self._bar.update(rows - cached)
        elif not self.quiet and time.monotonic() - self._spoke >= LINE_EVERY:
            self._spoke = time.monotonic()
            print(self.line(), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A line of text beside the bar."""
        if self._bar is not None:
            self._bar.write(f"{self.title}: {text}", file=self._stream)
        elif not self.quiet:
            print(f"{self.title}: {text}", file=self._stream, flush=True)

    def line(self) -> str:
        """The same news in one line of text."""
        rate = self._rate()
        parts = [f"{self.title}: {self.rows}{'' if self.total is None else f'/{self.total}'} rows"]
        if rate > 0:
            parts.append(f"{rate:.1f} rows/s")
            if self.total is not None:
                parts.append(f"{_duration((self.total - self.rows) / rate)} left")
        return ", ".join([*parts, *self._news()])

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()

    def _rate(self) -> float:
        """Rows a second, those of the cache apart."""
        seconds = time.monotonic() - self._started
        return (self.rows - self.cached) / seconds if seconds > 0 else 0.0

    def _news(self) -> list[str]:
        """Tokens and cost, where there are any."""
        seconds = time.monotonic() - self._started
        news = []
        if self.tokens:
            news.append(f"{self.tokens} tokens" + (f" ({self.tokens / seconds:.0f}/s)" if seconds > 0 else ""))
        if self._spent is not None:
            news.append(f"cost {money(self._spent + self.cost)}")
            fresh = self.rows - self.cached
            if self.total is not None and self.cost and self.rows < self.total:
                news[-1] += f" of about {money(self._spent + self.cost + self.cost / fresh * (self.total - self.rows))}"
        return news


def money(amount: float) -> str:
    """An amount in whatever currency the prices are in.

    >>> money(3.1), money(0.00042)
    ('3.10', '0.0004')
    """
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.4f}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
