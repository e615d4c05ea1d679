"""A teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from distill.errors import TeacherError
from distill.records import Prompt
from distill.teachers.base import Chooser, Completion, Failed, Generator, NoChoice, Price, Sampling, Usage
from distill.teachers.drawn_text import check_sampling
from distill.teachers.server_address import Address, check_address, check_settings
from distill.teachers.server_link import Link, Refused, Unanswered
from distill.teachers.server_probe import Capabilities, Model, Probe
from distill.teachers.server_reply import completions, option_log_probs, read_reply

T = TypeVar("T")
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
    an answer end the run. price: of a million tokens; counted are the tokens that the server reports.
    batch_folder: generate by hosted batch files, at their price and in their time (hours); what was submitted is noted in this
    folder, and never submitted again. None of these changes the data.

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
    batch_folder: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_address(self.base_url, self.api_key_env)
        address = Address(
            **{name.name: getattr(self, name.name) for name in fields(Address)},
        )
        # In __dict__: they are no settings, and the settings are frozen.
        self.__dict__["_link"] = link = Link(address)
        self.__dict__["_turn"] = asyncio.Lock()
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
        check_sampling(sampling)
        self._line.run(self._check(sampling, log_probs))

    def reads(self, sampling: Sampling) -> int:
        """At most: once for each sample, where each has a seed and so a request of its own."""
        return 1 if self.together or not sampling.temperature else max(sampling.n, 1)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `Failed` for a prompt that the server does not answer.

        Raises TeacherError for what no prompt would survive: a wrong key, model or parameter, a dead server.
        """
        check_sampling(sampling)
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
        seed = await self._asker.seed() if sampling.temperature else None
        if seed == "constant" and sampling.n > 1:
            raise TeacherError(
                f"{where} says the same whatever the seed and the temperature: {sampling.n} samples would be one; "
                "set temperature to 0 and n to 1, or look at the server's sampling defaults"
            )

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        plan = await self._plan(sampling)
        frames = [await self._messages(prompt) for prompt in prompts]
        asks = [self._asks(prompt, frame, sampling, plan) for prompt, frame in zip(prompts, frames, strict=True)]
        if self.batch_folder is not None:
            return await self._by_batch(asks, sampling, plan)
        return await _gathered(
            [self._row([self._ask(ask, sampling, plan) for ask in several], sampling, plan) for several in asks]
        )

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
        alone = sampling.temperature > 0 and not together and await self._asker.seed() == "alone"
        return _Plan(together=together, alone=alone, log_probs=top > 0 and (raw or _is_plain(sampling)))

    def _asks(self, prompt: Prompt, frame: _Frame, sampling: Sampling, plan: _Plan) -> list[_Ask]:
        """The requests that a prompt's samples need."""
        n, skip = sampling.n, sampling.skip
        if not sampling.temperature:  # one answer, however often
            return [_Ask(frame, 1, sampling.seed)]
        if plan.together:
            return [_Ask(frame, n, _seed(sampling.seed, prompt, f"{skip}+{n}"))]
        return [_Ask(frame, 1, _seed(sampling.seed, prompt, str(skip + place))) for place in range(n)]

    async def _row(
        self, asked: Sequence[Coroutine[Any, Any, list[Completion]]], sampling: Sampling, plan: _Plan
    ) -> list[Completion]:
        """One prompt's completions from its requests; one that fails is missed by the whole prompt."""
        try:
            found = [one for several in await _gathered(asked) for one in several]
        except Unanswered as error:
            if self.batch_folder is None:
                await self._line.failed(error)
            return Failed(f"no answer from the server ({error.kind})")
        except Refused as error:
            return Failed(await self._own_fault(error, self._ask(_NEUTRAL, sampling, plan)))
        return found if sampling.temperature else found * sampling.n

    async def _by_batch(self, asks: Sequence[Sequence[_Ask]], sampling: Sampling, plan: _Plan) -> list[list[Completion]]:
        from distill.teachers.server_batch import Batches

        bodies = [await self._body(ask, sampling, plan) for several in asks for ask in several]
        answers = iter(await Batches(self._line, Path(str(self.batch_folder))).answers(bodies))

        async def read(ask: _Ask, answer: Mapping[str, Any] | Unanswered | Refused) -> list[Completion]:
            if isinstance(answer, Unanswered | Refused):
                raise answer
            return self._read(answer, ask, sampling, plan)

        return [await self._row([read(ask, next(answers)) for ask in several], sampling, plan) for several in asks]

    async def _ask(self, ask: _Ask, sampling: Sampling, plan: _Plan) -> list[Completion]:
        body = await self._body(ask, sampling, plan)
        tokens = ask.frame.tokens + ask.n * sampling.max_tokens
        async with self._alone if plan.alone else contextlib.nullcontext():
            return await self._line.ask(
                "/chat/completions", body, lambda answer: self._read(answer, ask, sampling, plan), tokens=tokens
            )

    def _read(self, answer: Mapping[str, Any], ask: _Ask, sampling: Sampling, plan: _Plan) -> list[Completion]:
        reply = read_reply(answer, model=self.answers_as or self.model, n=ask.n)
        return completions(reply._replace(choices=reply.choices[: ask.n]), sampling, log_probs=plan.log_probs)

    async def _body(self, ask: _Ask, sampling: Sampling, plan: _Plan) -> dict[str, Any]:
        more: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": ask.seed, **ask.frame.flags}
        more |= {"n": ask.n} if ask.n > 1 else {}
        more |= {"top_k": sampling.top_k} if sampling.top_k else {}
        more |= {"stop": list(sampling.stop[:_STOPS])} if sampling.stop else {}
        more |= {"logprobs": True} if plan.log_probs else {}
        return await self._asker.body(ask.frame.messages, sampling.max_tokens, **more)

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
        try:
            return await self._first_token(frame, options, top)
        except Unanswered as error:
            await self._line.failed(error)
            return NoChoice(f"no answer from the server ({error.kind})", len(options))
        except Refused as error:
            return NoChoice(await self._own_fault(error, self._first_token(_NEUTRAL.frame, (), top)), len(options))

    async def _first_token(self, frame: _Frame, options: Sequence[str], top: int) -> tuple[float, ...]:
        asked: dict[str, Any] = {"temperature": 1, "top_p": 1, "seed": 0, "logprobs": True, "top_logprobs": top, **frame.flags}
        body = await self._asker.body(frame.messages, 1, **asked)

        def read(answer: Mapping[str, Any]) -> tuple[float, ...]:
            return option_log_probs(read_reply(answer, model=self.answers_as or self.model, n=1), options)

        return await self._line.ask("/chat/completions", body, read, tokens=frame.tokens + 1)

    async def _messages(self, prompt: Prompt) -> _Frame:
        """A prompt as the server takes it. Raises TeacherError where it would close the started answer that it ends on."""
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

    async def _own_fault(self, error: Refused, neutral: Coroutine[Any, Any, object]) -> str:
        """The reason why one prompt has no answer. Raises TeacherError where the refusal is about every prompt.

        neutral: the same request about nothing in particular, sent where the server's words leave it open.
        """
        try:
            if not error.own:
                await neutral
        except Refused as general:
            raise TeacherError(
                f"the server at {self._line.where} refuses what is asked of {self.model!r}: {general}; change what it names"
            ) from None
        except Unanswered:
            pass
        finally:
            neutral.close()
        if error.status == 200:
            return "stopped by the server's content filter"
        # Without numbers the same refusal of many prompts is one reason, which is counted.
        return f"refused by the server ({re.sub(r'[0-9]+', '#', str(error.said))[:120]})"

    @property
    def _line(self) -> Link:
        link: Link = self.__dict__["_link"]
        return link

    @property
    def _alone(self) -> asyncio.Lock:
        lock: asyncio.Lock = self.__dict__["_turn"]
        return lock

    @property
    def _asker(self) -> Probe:
        probe: Probe = self.__dict__["_probe"]
        return probe


class _Plan(NamedTuple):
    """together: all samples of a prompt in one request. alone: one request at a time. log_probs: whether to ask for them."""

    together: bool
    alone: bool
    log_probs: bool


class _Frame(NamedTuple):
    """A prompt's messages, what makes the server go on with the last of them, about how many tokens they are."""

    messages: list[dict[str, str]]
    flags: dict[str, Any]
    tokens: int


class _Ask(NamedTuple):
    """One request: n samples of a prompt, by one seed."""

    frame: _Frame
    n: int
    seed: int


_NEUTRAL = _Ask(_Frame([{"role": "user", "content": "Hello."}], {}, 8), 1, 0)


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
