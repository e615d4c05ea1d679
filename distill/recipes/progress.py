"""How a stage shows that it lives: one bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

LINE_EVERY = 10.0  # seconds


class Progress:
    """Rows, rate, time left and tokens of one stage. Rows from the cache count as done, never as speed."""

    def __init__(self, title: str, *, total: int | None = None, stream: IO[str] | None = None, quiet: bool = False) -> None:
        self.title, self.total, self.quiet = title, total, quiet
        self.rows = self.cached = self.tokens = 0
        self._stream = stream if stream is not None else sys.stderr
        self._started = self._spoke = time.monotonic()
        self._bar: Any = None
        if not quiet and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=title, unit=" rows", file=self._stream, dynamic_ncols=True)

    def add(self, rows: int, *, cached: int = 0, tokens: int = 0) -> None:
        """`rows` more are done; `cached` of them cost nothing."""
        self.rows, self.cached, self.tokens = self.rows + rows, self.cached + cached, self.tokens + tokens
        if self._bar is not None:
            self._bar.initial += cached
            self._bar.n += cached
            if self.tokens:
                self._bar.set_postfix_str(f"{self.tokens} tokens", refresh=False)
            self._bar.update(rows - cached)
        elif not self.quiet and time.monotonic() - self._spoke >= LINE_EVERY:
            self._spoke = time.monotonic()
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """The same news in one line of text."""
        seconds, fresh = time.monotonic() - self._started, self.rows - self.cached
        rate = fresh / seconds if seconds > 0 else 0.0
        parts = [f"{self.title}: {self.rows}{'' if self.total is None else f'/{self.total}'} rows"]
        if rate > 0:
            parts.append(f"{rate:.1f} rows/s")
            if self.total is not None:
                parts.append(f"{_duration((self.total - self.rows) / rate)} left")
        if self.tokens:
            parts.append(f"{self.tokens} tokens")
        return ", ".join(parts)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
