"""What a server can do, found out by asking it: a parameter that it drops in silence shows in its answer, not in an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from distill.errors import TeacherError
from distill.teachers.server_link import Link, NotThere, Refused, Unanswered
from distill.teachers.server_reply import Reply, read_reply

# The model's own distribution, where the server would else apply what the model's generation_config.json says: vLLM and its
# likes take these parameters, `transformers serve` a whole config as text. Without it, it is greedy at any temperature.
_PARAMETERS = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_CONFIG = {"top_k": 0, "repetition_penalty": 1.0}
_TOPS = (20, 5)  # top_logprobs: what OpenAI and vLLM give at most, and what stricter servers do
_LONG_TOKEN = 12  # characters; sixteen tokens are more in any language with vowels
_COLOURS = ({"role": "user", "content": "Name three colours."},)
_RANDOM = ({"role": "user", "content": "Write a few random words."},)
_STARTED = (*_RANDOM, {"role": "assistant", "content": "One"})

Seed = Literal["honoured", "alone", "ignored", "refused", "constant"]
Plain = Literal["parameters", "generation_config"]
_PLAINS: tuple[Plain | None, ...] = ("parameters", "generation_config", None)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a server was seen to do.

    models: what it lists. n: several completions in one request. log_probs: of generated tokens; top_log_probs: how many at each
    place. raw_log_probs: whether they are the model's own, before temperature. seed: "honoured" also among other requests,
    "alone" only where no other request is under way, "ignored" (dropped), "refused" (an error), "constant" (every seed says the
    same). stop, top_k, json_schema: whether they change the text. plain: how its own sampling defaults, which are the model's
    generation_config.json with most servers, are switched off; None where they cannot be, or there are none. continues: how it
    goes on with an assistant's last message, by vLLM's flags or by itself. prompt_scoring: by which parameter it scores a
    prompt. counts: whether it reports tokens. thinks: whether it reasons before it answers.
    """

    models: tuple[str, ...] = ()
    n: bool = False
    log_probs: bool = False
    top_log_probs: int = 0
    raw_log_probs: bool = False
    seed: Seed = "ignored"
    json_schema: bool = False
    stop: bool = False
    top_k: bool = False
    plain: Plain | None = None
    continues: Literal["flags", "itself"] | None = None
    prompt_scoring: Literal["prompt_logprobs", "echo"] | None = None
    counts: bool = False
    thinks: bool = False

    def summary(self) -> str:
        """What it can and what it cannot, in two lines.

        >>> print(Capabilities(n=True, top_log_probs=20, log_probs=True, seed="alone", counts=True).summary())
        can: n, log_probs, top_log_probs (20), counts, seed (alone)
        cannot: raw_log_probs, json_schema, stop, top_k, plain, continues, prompt_scoring
        """
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("models", "thinks", "seed")}
        can = [f"{name}" if value is True else f"{name} ({value})" for name, value in told.items() if value]
        cannot = [name for name, value in told.items() if not value]
        (can if self.seed in ("honoured", "alone") else cannot).append(f"seed ({self.seed})")
        thinks = "\nthinks before it answers" if self.thinks else ""
        return f"can: {', '.join(can)}\ncannot: {', '.join(cannot) or 'nothing that was asked'}{thinks}"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What the first request settles: which parameters may be sent at all."""

    max_tokens: str
    plain: Plain | None
    seed: bool
    counts: bool
    thinks: bool
    prompt_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """Whom the questions are for: the name it has there, the name its answers carry, what every request holds."""

    name: str
    answers_as: str
    extra_body: Mapping[str, Any]


class Probe:
    """Finds out each thing once, when it is first needed. To be used on the line's event loop."""

    def __init__(self, link: Link, model: Model) -> None:
        self._link, self._model = link, model
        self._found: dict[str, Any] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def accepted(self) -> Accepted:
        """Raises TeacherError, with what the server serves, where the model is not among it."""
        return await self._once("accepted", self._accepted)

    async def models(self) -> tuple[str, ...]:
        return await self._once("models", self._models)

    async def n(self) -> bool:
        return await self._once("n", self._n)

    async def log_probs(self) -> tuple[int, bool]:
        """How many at each place (0: none at all), and whether they are the model's own."""
        return await self._once("log_probs", self._log_probs)

    async def seed(self) -> Seed:
        return await self._once("seed", self._seed)

    async def stop(self) -> bool:
        return await self._once("stop", self._stop)

    async def top_k(self) -> bool:
        return await self._once("top_k", self._top_k)

    async def json_schema(self) -> bool:
        return await self._once("json_schema", self._json_schema)

    async def continues(self) -> Literal["flags", "itself"] | None:
        return await self._once("continues", self._continues)

    async def prompt_scoring(self) -> Literal["prompt_logprobs", "echo"] | None:
        return await self._once("prompt_scoring", self._prompt_scoring)

    async def everything(self) -> Capabilities:
        """About twenty requests of at most 16 tokens each, less those already made."""
        accepted = await self.accepted()
        top, raw = await self.log_probs()
        return Capabilities(
            models=await self.models(),
            n=await self.n(),
            log_probs=top > 0,
            top_log_probs=top,
            raw_log_probs=raw,
            seed=await self.seed(),
            json_schema=await self.json_schema(),
            stop=await self.stop(),
            top_k=await self.top_k(),
            plain=accepted.plain,
            continues=await self.continues(),
            prompt_scoring=await self.prompt_scoring(),
            counts=accepted.counts,
            thinks=accepted.thinks,
        )

    async def body(self, messages: Sequence[Mapping[str, str]], max_tokens: int, **more: Any) -> dict[str, Any]:
        """A request's body, with what this server takes."""
        accepted = await self.accepted()
        if not accepted.seed:
            more.pop("seed", None)
        return self._body(messages, {accepted.max_tokens: max_tokens, **more}, accepted.plain)

    # Each of these asks the least that tells.

    async def _accepted(self) -> Accepted:
        max_tokens, plains, seed = "max_tokens", list(_PLAINS), True
        while True:
            more: dict[str, Any] = {max_tokens: 8, "temperature": 1, "top_p": 1, **({"seed": 1} if seed else {})}
            try:
                reply = await self._send(self._body(_COLOURS, more, plains[0]))
                break
            except NotThere as error:
                raise TeacherError(f"{error}{await self._serves()}") from None
            except Refused as error:
                if max_tokens == "max_tokens" and "max_completion_tokens" in error.said:
                    max_tokens = "max_completion_tokens"
                elif plains[0]:
                    del plains[0]
                elif seed:
                    seed, plains = False, list(_PLAINS)
                else:
                    raise TeacherError(
                        f"the server at {self._link.where} does not answer for model {self._model.name!r}: {error}"
                        f"{await self._serves()}"
                    ) from None
            except Unanswered as error:
                raise TeacherError(
                    f"the server at {self._link.where} does not answer a first question to {self._model.name!r}: {error.detail}"
                ) from None
        return Accepted(
            max_tokens=max_tokens,
            plain=plains[0],
            seed=seed,
            counts=reply.prompt_tokens is not None and reply.completion_tokens is not None,
            thinks=reply.thought,
            prompt_tokens=reply.prompt_tokens,
        )

    async def _models(self) -> tuple[str, ...]:
        def names(reply: Mapping[str, Any]) -> tuple[str, ...]:
            listed = reply.get("data")
            return tuple(str(one.get("id")) for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()

        try:
            return await self._link.ask("/models", None, names, retries=1)
        except (NotThere, Refused, Unanswered):
            return ()  # a server that lists nothing may still answer

    async def _n(self) -> bool:
        reply = await self._try(_RANDOM, 2, temperature=1, n=2)
        return reply is not None and len(reply.choices) >= 2

    async def _log_probs(self) -> tuple[int, bool]:
        for top in _TOPS:
            cold = await self._try(_RANDOM, 2, temperature=1, top_p=1, logprobs=True, top_logprobs=top)
            if cold is not None:
                break
        if cold is None or not cold.choices[0].tokens:
            return 0, False
        given = max(1, len(cold.choices[0].tokens[0].top))
        hot = await self._try(_RANDOM, 2, temperature=2, top_p=1, logprobs=True, top_logprobs=top)
        if hot is None or not hot.choices[0].tokens:
            return given, True
        spreads = []
        for reply in (cold, hot):
            values = sorted(value for value in reply.choices[0].tokens[0].top.values() if value > float("-inf"))
            spreads.append(values[-1] - values[0] if values else 0.0)
        # Temperature 2 halves the distances between the model's own numbers; rounding moves them by a hundredth.
        return given, spreads[1] > 0.75 * spreads[0] - 0.02

    async def _seed(self) -> Seed:
        if not (await self.accepted()).seed:
            return "refused"

        async def said(seed: int, temperature: float, tokens: int) -> str:
            reply = await self._send(await self.body(_RANDOM, tokens, temperature=temperature, top_p=1, seed=seed))
            return reply.choices[0].thought + reply.choices[0].text

        try:
            for temperature, tokens in ((1.0, 8), (1.5, 32)):
                # All at once: a server with one random state for everybody keeps its word only to a lonely request.
                one, two, again, twice = await asyncio.gather(*(said(seed, temperature, tokens) for seed in (1, 2, 1, 2)))
                if (one, two) != (again, twice):
                    alone = [await said(seed, temperature, tokens) for seed in (1, 2, 1)]
                    return "alone" if alone[0] == alone[2] and self._link.address.concurrency > 1 else "ignored"
                if one != two:
                    return "honoured"
        except (Refused, Unanswered):
            return "ignored"
        return "constant" if one else "ignored"  # a model that thinks in secret has said nothing yet

    async def _stop(self) -> bool:
        vowels = ["a", "e", "i", "o"]
        reply = await self._try(_COLOURS, 40, temperature=1, stop=vowels)
        text = "" if reply is None else reply.choices[0].text
        # Some servers leave the stop text, or the token that holds it, at the end.
        return reply is not None and len(text) - min(text.find(vowel) % (len(text) + 1) for vowel in vowels) <= _LONG_TOKEN

    async def _top_k(self) -> bool:
        said = [await self._try(_RANDOM, 12, temperature=1.5, top_p=1, top_k=1, seed=seed) for seed in (1, 2, 3)]
        return (
            None not in said
            and len({reply.choices[0].thought + reply.choices[0].text for reply in said if reply is not None}) == 1
        )

    async def _json_schema(self) -> bool:
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
        form = {"type": "json_schema", "json_schema": {"name": "probe", "strict": True, "schema": schema}}
        reply = await self._try(_COLOURS, 16, temperature=1, response_format=form)
        try:
            return reply is not None and set(json.loads(reply.choices[0].text)) == {"ok"}
        except (ValueError, TypeError):
            return False

    async def _continues(self) -> Literal["flags", "itself"] | None:
        asked = await self._try(_RANDOM, 1, temperature=1)
        if asked is None or asked.prompt_tokens is None:
            return None
        flags = {"continue_final_message": True, "add_generation_prompt": False}
        ways: tuple[tuple[Literal["flags", "itself"], dict[str, Any]], ...] = (("itself", {}), ("flags", flags))
        for way, more in ways:
            started = await self._try(_STARTED, 1, temperature=1, **more)
            # "One" is a token or two. A turn that is closed, with the header of a new one after it, is five or more.
            if started is not None and 0 < (started.prompt_tokens or 0) - asked.prompt_tokens <= 2:
                return way
        return None

    async def _prompt_scoring(self) -> Literal["prompt_logprobs", "echo"] | None:
        chat = {**await self.body(_RANDOM, 1, temperature=1), "prompt_logprobs": 1}
        text = {"model": self._model.name, "prompt": "One two three", "max_tokens": 1, "echo": True, "logprobs": 1}

        def scored(reply: Mapping[str, Any]) -> bool:
            choices = reply.get("choices") or [{}]
            return bool(reply.get("prompt_logprobs") or choices[0].get("prompt_logprobs"))

        def echoed(reply: Mapping[str, Any]) -> bool:
            choices = reply.get("choices") or [{}]
            return len((choices[0].get("logprobs") or {}).get("token_logprobs") or ()) > 1

        try:
            if await self._link.ask("/chat/completions", chat, scored, retries=1):
                return "prompt_logprobs"
        except (Refused, Unanswered):
            pass
        try:
            return "echo" if await self._link.ask("/completions", text, echoed, retries=1) else None
        except (NotThere, Refused, Unanswered):
            return None

    async def _try(self, messages: Sequence[Mapping[str, str]], max_tokens: int, **more: Any) -> Reply | None:
        """The reply; None where the server refuses, or breaks down over it."""
        try:
            return await self._send(await self.body(messages, max_tokens, **more), retries=1)
        except (Refused, Unanswered):
            return None

    async def _send(self, body: Mapping[str, Any], retries: int | None = None) -> Reply:
        def read(reply: Mapping[str, Any]) -> Reply:
            return read_reply(reply, model=self._model.answers_as or self._model.name, n=1)

        return await self._link.ask("/chat/completions", body, read, tokens=100, retries=retries)

    def _body(self, messages: Sequence[Mapping[str, str]], more: dict[str, Any], plain: Plain | None) -> dict[str, Any]:
        defaults: dict[str, Any] = dict(_PARAMETERS) if plain == "parameters" else {}
        if plain == "generation_config":
            top_k = {"top_k": more["top_k"]} if "top_k" in more else {}
            more = {name: value for name, value in more.items() if name != "top_k"}
            config = {**_CONFIG, **top_k, "do_sample": bool(more.get("temperature", 1))}
            defaults["generation_config"] = json.dumps(config)
        return {**defaults, **self._model.extra_body, "model": self._model.name, "messages": list(messages), **more}

    async def _serves(self) -> str:
        models = await self.models()
        return f"; it serves {', '.join(models)}" if models else ""

    async def _once(self, name: str, find: Callable[[], Awaitable[Any]]) -> Any:
        # A lock for each: one probe may need another.
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._found:
                self._found[name] = await find()
            return self._found[name]
