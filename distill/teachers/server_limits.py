"""When a request to a server may start: evenly spaced under the limits of a minute, later where the server asks for patience."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import Callable, Mapping


class Pace:
    """Spaces the starts of requests; 0 is no limit. Evenly, because servers count by the second what they state by the minute.

    tokens are reserved before a request, for nobody knows how long its answer will be, and settled after it.
    To be used from one event loop.

    >>> pace = Pace(requests_per_minute=120, clock=lambda: 0.0)
    >>> [pace.reserve(10) for _ in range(3)]
    [0.0, 0.5, 1.0]
    >>> pace = Pace(tokens_per_minute=600, clock=lambda: 0.0)
    >>> [pace.reserve(10), pace.settle(10, used=30), pace.reserve(10)]
    [0.0, None, 3.0]
    """

    def __init__(
        self, *, requests_per_minute: float = 0, tokens_per_minute: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._requests_from = self._tokens_from = self._held_until = clock()

    async def turn(self, tokens: int) -> None:
        """Wait until a request of about so many tokens may start."""
        await asyncio.sleep(self.reserve(tokens))
        while (wait := self._held_until - self._clock()) > 0:
            await asyncio.sleep(wait)

    def reserve(self, tokens: int) -> float:
        """Take the next place in the row: seconds from now."""
        now = self._clock()
        start = max(now, self._requests_from, self._tokens_from, self._held_until)
        self._requests_from = start + self._request
        self._tokens_from = start + tokens * self._token
        return start - now

    def settle(self, reserved: int, *, used: int) -> None:
        """Tell what a request really cost."""
        self._tokens_from += (used - reserved) * self._token

    def hold(self, seconds: float) -> None:
        """No request starts for so long: what a server asks of one of them it means for all."""
        self._held_until = max(self._held_until, self._clock() + seconds)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by `retry-after-ms` or `retry-after` (seconds or a date); None where it does not.

    >>> asked_wait({"retry-after-ms": "250", "retry-after": "1"}), asked_wait({"retry-after": "7"}), asked_wait({})
    (0.25, 7.0, None)
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
