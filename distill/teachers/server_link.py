"""The line to an OpenAI-compatible server: one request at last answered, or the reason why it never will be.

All requests of a teacher run on one event loop in one thread, whatever the number of threads that ask: that holds the limits
over all of them, and Ctrl-C drops open connections at once instead of waiting for their answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from distill.errors import TeacherError
from distill.teachers.base import Usage
from distill.teachers.server_address import Address
from distill.teachers.server_limits import Pace, asked_wait

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from tenacity import RetryCallState

T = TypeVar("T")
FIRST_PAUSE = 0.5  # seconds; the longest of a random pause, doubled with every attempt
LONGEST_PAUSE = 30.0
LONGEST_WAIT = 300.0  # seconds that a server may ask for by Retry-After; more than that ends the run, which can go on later
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_OF_THE_PROMPT = re.compile(
    r"context.?length|context.?window|context size|maximum.{0,20}(length|context)|too (long|large)|too many tokens|exceeds? the"
    r"|content.?(filter|policy|management)|moderation|flagged|safety",
    re.IGNORECASE,
)
_OF_A_SETTING = re.compile(r"max_(completion_|new_)?tokens")  # too large for all, or beside this long prompt: to be found out


class Unanswered(Exception):
    """A request still failed for a passing reason after all its attempts. `kind` is one of few, `detail` what was last seen."""

    def __init__(self, kind: str, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.wait = kind, detail, wait


class Refused(Exception):
    """The server said that it will not answer this request. own: whether its words are about this prompt rather than all."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status, self.said = status, said
        self.own = bool(_OF_THE_PROMPT.search(said)) and not _OF_A_SETTING.search(said)


class NotThere(TeacherError):
    """HTTP 404: no such path, or no such model."""


class Link:
    """One line, opened with the first request. Safe to use from several threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._usage = Usage()
        self._failed_in_a_row = 0
        self._answered = False  # whether any server was ever there

    # For the threads that ask

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the line's event loop. An exception here, Ctrl-C too, cancels it there."""
        try:
            loop = self._open()
        except BaseException:
            work.close()
            raise
        waiting = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return waiting.result()
        except BaseException:
            waiting.cancel()
            raise

    def usage(self) -> Usage:
        with self._lock:
            return self._usage

    @property
    def where(self) -> str:
        """The server's host, for messages."""
        url = self.address.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        parts = urlsplit(url)
        return parts.hostname + (f":{parts.port}" if parts.port else "") if parts.hostname else url

    # On the event loop

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[Mapping[str, Any]], T],
        *,
        tokens: int = 0,
        retries: int | None = None,
    ) -> T:
        """What `read` makes of the JSON that answers a POST of `body`, or a GET where there is none.

        read: raises Unanswered for an answer that is worth another try. tokens: about how many it will cost. Raises Refused and
        Unanswered, which may be the prompt's own fault, and TeacherError for what would happen to every request.
        """

        async def once() -> T:
            reply = _json(await self._once(lambda: self._send(path, body), tokens), self._clean)
            self.account(reply, tokens)
            return read(reply)

        return await self._persist(once, retries)

    async def fetch(self, path: str) -> str:
        """The text of a file on the server. Raises as `ask` does."""

        async def once() -> str:
            return await self._once(lambda: self._send(path, None), 0)

        return await self._persist(once, None)

    async def upload(self, name: str, content: bytes) -> str:
        """Put a file of requests on the server: its id there. Raises as `ask` does."""

        async def send() -> str:
            return str((await self._client.files.create(file=(name, content), purpose="batch")).id)

        async def once() -> str:
            return await self._once(send, 0)

        return await self._persist(once, None)

    async def failed(self, error: Unanswered) -> None:
        """Account for a request that was given up. Raises TeacherError where the server is dead rather than the prompt odd."""
        self._failed_in_a_row += 1
        failed, tries = self._failed_in_a_row, self.address.max_retries + 1
        if failed >= self.address.give_up_after:
            raise TeacherError(
                f"{failed} requests in a row failed {tries} times each at {self.where}, the last with "
                f"{error.detail}. What is done is kept: see to the server, or lower concurrency (now "
                f"{self.address.concurrency}), and run the same command again"
            )
        for last in (False, True):
            try:
                # Past the row of waiting requests: if the server is dead, they need not be sent.
                await self._once(lambda: self._send("/models", None), 0)
            except (Refused, NotThere):
                return  # it answers: that is enough
            except Unanswered as sick:
                if last:
                    raise TeacherError(
                        f"the server at {self.where} failed {tries} times ({error.detail}) and does not list its models either "
                        f"({sick.detail}). What is done is kept: see to the server and run the same command again"
                    ) from None
                await asyncio.sleep(FIRST_PAUSE)
            else:
                return

    async def _persist(self, do: Callable[[], Coroutine[Any, Any, T]], retries: int | None) -> T:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        attempts = AsyncRetrying(
            stop=stop_after_attempt(1 + (self.address.max_retries if retries is None else retries)),
            wait=_pause,
            retry=retry_if_exception_type(Unanswered),
            reraise=True,
        )
        # A request keeps its place while it waits for another attempt: a server that fails is asked less, not more.
        async with self._places:
            found: T = await attempts(do)
        self._failed_in_a_row = 0
        return found

    async def _once(self, send: Callable[[], Awaitable[str]], tokens: int) -> str:
        """One attempt, within the limits: what the server sends, or an error that says whether another one may help."""
        import openai

        await self._pace.turn(tokens)
        try:
            with self._lock:
                self._usage += Usage(requests=1)
            async with asyncio.timeout(self.address.timeout):
                text = await send()
        except openai.APIStatusError as error:
            self._answered = True
            raise self._judged(error) from None
        except (openai.APITimeoutError, TimeoutError):
            raise Unanswered("timeout", f"no answer within {self.address.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = self._clean(f"{type(error.__cause__).__name__}: {error.__cause__}")
            if not self._answered and type(error.__cause__).__name__ == "ConnectError":
                raise TeacherError(
                    f"no server answers at {self.where} ({cause}); start it, or correct base_url (it usually ends in /v1)"
                ) from None
            raise Unanswered("connection lost", f"a lost connection ({cause})") from None
        self._answered = True
        return text

    async def _send(self, path: str, body: Mapping[str, Any] | None) -> str:
        import httpx2

        if body is None:
            answer = await self._client.get(path, cast_to=httpx2.Response)
        else:
            answer = await self._client.post(path, body=dict(body), cast_to=httpx2.Response)
        return answer.text

    def account(self, reply: Mapping[str, Any], reserved: int) -> None:
        """Count the tokens that a reply reports."""
        used = reply.get("usage")
        if not isinstance(used, Mapping):
            return
        prompt, completion = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        self._pace.settle(reserved, used=prompt + completion)
        cost = self.address.price.of(prompt, completion) if self.address.price is not None else 0.0
        with self._lock:
            self._usage += Usage(prompt_tokens=prompt, completion_tokens=completion, cost=cost)

    def _judged(self, error: APIStatusError) -> Exception:
        """What an HTTP status means for the run: try again, this prompt's fault, or nothing will ever come."""
        status, said = error.status_code, self.said(error.body)
        if status == 429 and re.search("insufficient_quota|billing|credit", said):
            return TeacherError(f"the server at {self.where} says that the account is used up (HTTP 429: {said})")
        if status in _PASSING:
            wait = asked_wait(error.response.headers)
            if wait is not None and wait > LONGEST_WAIT:
                return TeacherError(
                    f"the server at {self.where} asks to wait {wait:.0f} s (HTTP {status}: {said}); what is done is kept: run "
                    "the same command again then"
                )
            if wait is not None and wait > 0:
                self._pace.hold(wait)
            return Unanswered(f"HTTP {status}", f"HTTP {status}{f': {said}' if said else ''}", wait)
        if status in (400, 413, 422) or (status == 403 and _OF_THE_PROMPT.search(said)):
            return Refused(status, said)
        variable = self.address.api_key_env
        remedy = {
            401: f"put the right key into the environment variable {variable}, or name another by api_key_env",
            403: f"the key in the environment variable {variable} may not do this: take another, or another model",
            404: "base_url usually ends in /v1, and model is one that the server lists there under /models",
            402: "the account is used up",
        }.get(status, "give base_url as the server's final address" if 300 <= status < 400 else "see the server's log")
        kind = NotThere if status == 404 else TeacherError
        return kind(f"the server at {self.where} refused it with HTTP {status}{f': {said}' if said else ''}; {remedy}")

    def said(self, body: object) -> str:
        """The words of an error's body, without the key."""
        inner = body.get("error", body) if isinstance(body, dict) else body
        text = inner.get("message") or inner.get("detail") or json.dumps(inner) if isinstance(inner, dict) else inner
        code = inner.get("code") or inner.get("type") if isinstance(inner, dict) else None
        joined = f"{text if text is not None else ''}{f' ({code})' if isinstance(code, str) else ''}"
        return self._clean(joined)[:300]

    def _clean(self, text: str) -> str:
        """In one line and without the key, also where a server repeats it, or a part of it, in its answer."""
        key = os.environ.get(self.address.api_key_env) if self.address.api_key_env else None
        text = text.replace(key, "***") if key else text
        return re.sub(r"\bsk-[\w*.-]+", "***", " ".join(text.split()))

    # Opening

    def _open(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # a fork takes no threads along
                self._process = os.getpid()
                self._client = self._make_client()
                self._places = asyncio.Semaphore(self.address.concurrency)
                self._pace = Pace(
                    requests_per_minute=self.address.requests_per_minute, tokens_per_minute=self.address.tokens_per_minute
                )
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="teacher's server", daemon=True).start()
            return self._loop

    def _make_client(self) -> AsyncOpenAI:
        try:
            import openai
            import tenacity  # noqa: F401 - asked for here, before anything is sent
        except ImportError as error:
            raise TeacherError(f"a server as teacher needs the package {error.name}: pip install 'distill[server]'") from None
        key = os.environ.get(self.address.api_key_env) if self.address.api_key_env else None
        limits = openai.DEFAULT_CONNECTION_LIMITS
        return openai.AsyncOpenAI(
            base_url=self.address.base_url,
            api_key=key or "none",
            timeout=self.address.timeout,
            max_retries=0,  # every attempt passes the limits and is counted, so they are made here
            # A redirect would carry the key and the prompts to another address.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, limits=limits),
        )


def _json(text: str, clean: Callable[[str], str]) -> Mapping[str, Any]:
    try:
        reply = json.loads(text)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise Unanswered("broken answer", f"an answer that is no JSON object: {clean(text)[:80]!r}")
    return reply


def _pause(state: RetryCallState) -> float:
    """What the server asks for, else a random share of a bound that doubles: what failed together does not come back together."""
    from tenacity import wait_random_exponential

    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Unanswered) and error.wait is not None and error.wait > 0:
        return error.wait
    return wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(state)
