"""A teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import math
import os
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from distill.errors import ConfigError, TeacherError
from distill.records import Prompt
from distill.teachers.base import Chooser, Completion, Failed, Generator, Price, Sampling, Usage
from distill.teachers.server_link import Address, Link, Refused, Unanswered
from distill.teachers.server_probe import Capabilities, Model, Probe
from distill.teachers.server_reply import completions, option_log_probs, read_reply

T = TypeVar("T")
_OURS = {"model", "messages", "n", "seed", "temperature", "top_p", "top_k", "stop", "logprobs", "top_logprobs", "stream"}
_OURS |= {"max_tokens", "max_completion_tokens"}
_STOPS = 4  # more are an error with OpenAI; the rest is cut here
_ROOM_TO_THINK = 256  # tokens


@dataclass(frozen=True, kw_only=True)
class ServerTeacher(Generator, Chooser):
    """A model of an OpenAI-compatible server, as generator and chooser. What the server can do is found out by asking it.

    model: as the server names it. base_url: up to and with /v1; None is the client's own (OPENAI_BASE_URL, else OpenAI's).
    api_key_env: name of the environment variable that holds the key ("" sends none); the key is sent to that server and kept
    nowhere. revision: whatever you know of the weights behind the name; a new text makes new data. extra_body: what every
    request holds beside distill's own parameters, such as {"chat_template_kwargs": {"enable_thinking": false}}; no secret.
    together: ask for all samples of a prompt in one request, so that the prompt is paid for once; then n=20 are not the
    samples of n=10 and of n=10 with skip=10, as they are where each sample is a request with a seed of its own. answers_as: the
    model's name in the answers, where it is another.

    concurrency: requests under way, over all threads. requests_per_minute, tokens_per_minute: limits, 0 for none. timeout:
    seconds for one attempt. max_retries: further attempts after 429, 5xx, a timeout, a lost connection or a broken answer, each
    after a longer random pause, or the one that the server asks for. give_up_after: so many prompts in a row without
    an answer end the run. price: of a million tokens; counted are the tokens that the server reports. None of these changes
    the data.

    Raises ConfigError for an address that is none, or a key that is not set.
    """

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    revision: str = ""
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    together: bool = False
    answers_as: str = ""
    concurrency: int = 8
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    timeout: float = 120.0
    max_retries: int = 6
    give_up_after: int = 8
    price: Price | None = None

    def __post_init__(self) -> None:
        _check_settings(self)
        _check_address(self.base_url, self.api_key_env)
        address = Address(
            **{name.name: getattr(self, name.name) for name in fields(Address)},
        )
        # In __dict__: they are no settings, and the settings are frozen.
        self.__dict__["_link"] = link = Link(address)
        self.__dict__["_probe"] = Probe(link, Model(name=self.model, answers_as=self.answers_as, extra_body=self.extra_body))

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()  # a copy, or a worker, has a line of its own

    @property
    def concurrent(self) -> bool:
        """True: a server answers many at once."""
        return True

    def usage(self) -> Usage:
        """Requests with every attempt and probe, tokens as the server reports them."""
        return self._line.usage()

    def identity(self) -> Mapping[str, Any]:
        """The model's name and what is sent with every request. No address: the same model elsewhere gives the same data."""
        together = {"together": True} if self.together else {}
        revision = {"revision": self.revision} if self.revision else {}
        extra = {"extra_body": json.loads(json.dumps(dict(self.extra_body)))} if self.extra_body else {}
        return {"teacher": "server", "model": self.model, **revision, **extra, **together}

    def capabilities(self) -> Capabilities:
        """Everything that can be asked about the server: some twenty tiny requests, once."""
        return self._line.run(self._asker.everything())

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        """Ask the server whether it can do this. Raises TeacherError with the remedy where not."""
        _check_sampling(sampling)
        self._line.run(self._check(sampling, log_probs))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `Failed` for a prompt that the server does not answer.

        Raises TeacherError for what no prompt would survive: a wrong key, model or parameter, a dead server.
        """
        _check_sampling(sampling)
        if not prompts or not sampling.n:
            return [[] for _ in prompts]
        return self._line.run(self._generate(prompts, sampling))

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        """By the most probable first tokens that the server reports, 20 or 5: -inf for an option that is not among them.

        A prompt that the server does not answer gets -inf for every option. Raises TeacherError as generate does.
        """
        if not prompts:
            return []
        return self._line.run(self._choose(prompts, options))

    # On the event loop

    async def _check(self, sampling: Sampling, log_probs: bool) -> None:
        accepted = await self._asker.accepted()
        where = f"the server at {self._line.where}"
        if self.price is not None and not accepted.counts:
            raise TeacherError(
                f"{where} reports no tokens, so that nothing can be said of cost; leave price out, or take another"
            )
        if accepted.thinks and sampling.max_tokens < _ROOM_TO_THINK:
            raise TeacherError(
                f"{self.model!r} thinks before it answers, and max_tokens={sampling.max_tokens} leaves no room for that. Raise "
                'max_tokens, or switch it off (Qwen3 on vLLM: extra_body {"chat_template_kwargs": {"enable_thinking": false}})'
            )
        if sampling.top_k and not await self._asker.top_k():
            raise TeacherError(f"{where} does not know top_k (it changes nothing there, or is refused); use top_p")
        top, raw = await self._asker.log_probs()
        if log_probs and not top:
            raise TeacherError(
                f"{where} gives no log-probabilities (transformers serve drops them), and this recipe needs them; use vLLM or "
                "llama-server, or a teacher in this process: distill.teachers.huggingface.HuggingFaceTeacher"
            )
        if log_probs and not raw and not _is_plain(sampling):
            raise TeacherError(
                f"{where} gives log-probabilities after temperature; the model's own are needed: sample at temperature 1 with "
                "top_p 1 and top_k 0, or start vLLM with --logprobs-mode raw_logprobs (its default)"
            )
        if sampling.temperature and sampling.n > 1 and await self._asker.seed() == "constant":
            raise TeacherError(
                f"{where} says the same whatever the seed and the temperature: {sampling.n} samples would be one; "
                "set temperature to 0 and n to 1, or look at the server's sampling defaults"
            )

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        plan = await self._plan(sampling)
        frames = [await self._messages(prompt) for prompt in prompts]
        return await _gathered([self._row(prompt, frame, sampling, plan) for prompt, frame in zip(prompts, frames, strict=True)])

    async def _plan(self, sampling: Sampling) -> _Plan:
        if sampling.avoid_start:
            raise TeacherError(
                f"avoid_start={list(sampling.avoid_start)} needs the model's own tokens, which a server does not give away; use "
                "a teacher in this process, such as distill.teachers.huggingface.HuggingFaceTeacher"
            )
        await self._check(sampling, log_probs=False)
        top, raw = await self._asker.log_probs()
        # The same request for all only where nothing is lost by it: with seeds each sample has its own.
        several = sampling.n > 1 and sampling.temperature > 0
        together = several and (self.together or await self._asker.seed() in ("ignored", "refused")) and await self._asker.n()
        return _Plan(together=together, log_probs=top > 0 and (raw or _is_plain(sampling)))

    async def _row(self, prompt: Prompt, frame: _Frame, sampling: Sampling, plan: _Plan) -> list[Completion]:
        n, skip = sampling.n, sampling.skip
        try:
            if not sampling.temperature:  # one answer, however often
                return await self._ask(frame, sampling, plan, 1, sampling.seed) * n
            if plan.together:
                return await self._ask(frame, sampling, plan, n, _seed(sampling.seed, prompt, f"{skip}+{n}"))
            asked = [self._ask(frame, sampling, plan, 1, _seed(sampling.seed, prompt, str(skip + i))) for i in range(n)]
            return [one for several in await _gathered(asked) for one in several]
        except Unanswered as error:
            await self._line.failed(error)
            return Failed(f"no answer from the server ({error.kind})")
        except Refused as error:
            return Failed(self._own_fault(error))

    async def _ask(self, frame: _Frame, sampling: Sampling, plan: _Plan, n: int, seed: int) -> list[Completion]:
        more: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed, **frame.flags}
        more |= {"n": n} if n > 1 else {}
        more |= {"top_k": sampling.top_k} if sampling.top_k else {}
        more |= {"stop": list(sampling.stop[:_STOPS])} if sampling.stop else {}
        more |= {"logprobs": True} if plan.log_probs else {}
        body = await self._asker.body(frame.messages, sampling.max_tokens, **more)

        def read(answer: Mapping[str, Any]) -> list[Completion]:
            reply = read_reply(answer, model=self.answers_as or self.model, n=n)
            return completions(reply._replace(choices=reply.choices[:n]), sampling, log_probs=plan.log_probs)

        return await self._line.ask("/chat/completions", body, read, tokens=frame.tokens + n * sampling.max_tokens)

    async def _choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        top, _ = await self._asker.log_probs()
        if top < 2:
            raise TeacherError(
                f"the server at {self._line.where} gives no log-probabilities to choose by (transformers serve drops them); use "
                "vLLM or llama-server, or a teacher in this process: distill.teachers.huggingface.HuggingFaceTeacher"
            )
        frames = [await self._messages(prompt) for prompt in prompts]
        return await _gathered([self._choice(frame, options, top) for frame in frames])

    async def _choice(self, frame: _Frame, options: Sequence[str], top: int) -> tuple[float, ...]:
        asked: dict[str, Any] = {"temperature": 1, "top_p": 1, "seed": 0, "logprobs": True, "top_logprobs": top, **frame.flags}
        body = await self._asker.body(frame.messages, 1, **asked)

        def read(answer: Mapping[str, Any]) -> tuple[float, ...]:
            return option_log_probs(read_reply(answer, model=self.answers_as or self.model, n=1), options)

        try:
            return await self._line.ask("/chat/completions", body, read, tokens=frame.tokens + 1)
        except Unanswered as error:
            await self._line.failed(error)
        except Refused as error:
            self._own_fault(error)
        return (-math.inf,) * len(options)

    async def _messages(self, prompt: Prompt) -> _Frame:
        """A prompt as the server takes it. Raises TeacherError where it would close the started answer that the prompt ends on."""
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        tokens = sum(len(message.content) for message in prompt) // 3 + 4 * len(prompt)
        if prompt[-1].role != "assistant":
            return _Frame(messages, {}, tokens)
        way = await self._asker.continues()
        if way is None:
            raise TeacherError(
                f"the prompt {prompt[0].content[:60]!r}... ends with the start of an answer, and the server at "
                f"{self._line.where} does not go on with one: it would begin another answer. Ask without it, or use vLLM "
                "(continue_final_message), llama-server, or a teacher in this process"
            )
        flags = {"continue_final_message": True, "add_generation_prompt": False} if way == "flags" else {}
        return _Frame(messages, flags, tokens)

    def _own_fault(self, error: Refused) -> str:
        """The reason why one prompt has no answer. Raises TeacherError where the refusal is about every prompt."""
        if error.status == 200:
            return "stopped by the server's content filter"
        if not error.own and not self._line.ever_succeeded:
            raise TeacherError(
                f"the server at {self._line.where} refuses what is asked of {self.model!r}: {error}; change the setting it names"
            ) from None
        # Without numbers the same refusal of many prompts is one reason, which is counted.
        return f"refused by the server ({re.sub(r'[0-9]+', '#', str(error.said))[:120]})"

    @property
    def _line(self) -> Link:
        link: Link = self.__dict__["_link"]
        return link

    @property
    def _asker(self) -> Probe:
        probe: Probe = self.__dict__["_probe"]
        return probe


class _Plan(NamedTuple):
    """together: all samples of a prompt in one request. log_probs: whether to ask for them."""

    together: bool
    log_probs: bool


class _Frame(NamedTuple):
    """A prompt's messages, what makes the server go on with the last of them, about how many tokens they are."""

    messages: list[dict[str, str]]
    flags: dict[str, Any]
    tokens: int


async def _gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; where one raises, the others are dropped and it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _seed(seed: int, prompt: Prompt, sample: str) -> int:
    """31 bits, the same in every process: whoever else is asked, and in which order, changes nothing."""
    turns = [[message.role, message.content] for message in prompt]
    digest = hashlib.sha256(json.dumps([seed, turns, sample]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _is_plain(sampling: Sampling) -> bool:
    return sampling.temperature == 1 and sampling.top_p == 1 and not sampling.top_k


def _check_settings(teacher: ServerTeacher) -> None:
    problems = {
        f"concurrency is {teacher.concurrency}; expected at least 1": teacher.concurrency < 1,
        f"timeout is {teacher.timeout}; expected seconds above 0": not teacher.timeout > 0,
        f"max_retries is {teacher.max_retries}; expected at least 0": teacher.max_retries < 0,
        f"give_up_after is {teacher.give_up_after}; expected at least 1": teacher.give_up_after < 1,
        "requests_per_minute and tokens_per_minute are 0 (no limit) or more": min(
            teacher.requests_per_minute, teacher.tokens_per_minute
        )
        < 0,
        "model is empty; give its name on the server": not teacher.model,
    }
    found = [problem for problem, wrong in problems.items() if wrong]
    ours = sorted(_OURS.intersection(teacher.extra_body))
    if ours:
        found.append(f"extra_body holds {', '.join(ours)}, which distill sets itself (from model and sampling)")
    try:
        json.dumps(dict(teacher.extra_body))
    except (TypeError, ValueError) as error:
        found.append(f"extra_body is no JSON ({error})")
    if found:
        raise ConfigError(f"ServerTeacher: {'; '.join(found)}")


def _check_address(base_url: str | None, api_key_env: str) -> None:
    parts = urlsplit(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url {parts.path or base_url!r} is no server's address; expected something like http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise ConfigError("base_url holds a key or password; put the key into a variable and name that by api_key_env")
    if api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        # Not repeated: it may well be the key.
        raise ConfigError("api_key_env is no name of an environment variable; the key itself belongs into the variable, not here")
    if api_key_env and not os.environ.get(api_key_env) and not _is_local(parts.hostname):
        raise ConfigError(
            f"the environment variable {api_key_env} is not set; put the key for {parts.hostname} into it, name another by "
            'api_key_env, or, for a server without keys, give api_key_env ""'
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_sampling(sampling: Sampling) -> None:
    from distill.teachers.huggingface import _check_sampling as check

    check(sampling)
