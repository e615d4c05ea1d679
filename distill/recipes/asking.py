"""The stages that most recipes are made of: ask a generator, ask a judge. Keys, tokens and lost rows are settled here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.judges.base import Judge, Verdict
from distill.recipes.stage import Item, Lost, Portable, Row
from distill.records import Message, Prompt, Span
from distill.teachers.base import Completion, Failed, Generator, Sampling

if TYPE_CHECKING:
    from distill.recipes.run import Run


class Ask(NamedTuple):
    """One prompt to complete; `carried` comes back with the answer and changes no cache key."""

    id: str
    prompt: Prompt
    carried: Any = None


class Answered(NamedTuple):
    """The completions of one prompt, at least one."""

    id: str
    prompt: Prompt
    completions: tuple[Completion, ...]
    carried: Any = None


class Claim(NamedTuple):
    """One response to judge; `reference` holds the accepted answers where they are known."""

    id: str
    prompt: Prompt
    response: str
    reference: tuple[str, ...] = ()
    carried: Any = None


class Judged(NamedTuple):
    """A claim and its verdict; an abstaining judge has approved None, which is a result and not a lost row."""

    claim: Claim
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Generation(Portable):
    """What a stage that asks a generator does with each batch."""

    generator: Generator
    sampling: Sampling

    def __call__(self, items: list[Item]) -> Sequence[Any]:
        """The completions of each item's prompt as JSON."""
        drawn = self.generator.generate([prompt_from_json(item.value) for item in items], self.sampling)
        return [[_completion_json(one) for one in several] or Lost(_why_none(several)) for several in drawn]


@dataclass(frozen=True, kw_only=True)
class Judging(Portable):
    """What a stage that asks a judge does with each batch."""

    judge: Judge

    def __call__(self, items: list[Item]) -> Sequence[Any]:
        """The verdict on each item's claim as JSON."""
        verdicts = self.judge.judge_many(
            [prompt_from_json(item.value["prompt"]) for item in items],
            [item.value["response"] for item in items],
            [tuple(item.value["reference"]) for item in items],
        )
        return [Lost(verdict.failed) if verdict.failed else asdict(verdict) for verdict in verdicts]


def generate(
    run: Run,
    name: str,
    asks: Iterable[Ask],
    generator: Generator,
    sampling: Sampling,
    *,
    batch_size: int = 8,
    total: int | None = None,
    log_probs: bool = False,
    version: Any = 1,
) -> Iterator[Answered]:
    """A stage that asks a generator; a prompt without any completion is lost, blank completions are the caller's to judge.

    log_probs: whether the caller needs them; a backend that has none is refused before it is asked. version: whatever else
    changes the prompts and is not in them.
    """
    generator.check(sampling, log_probs=log_probs)
    if run.estimate is not None:
        return run.estimate.generation(name, asks, generator, sampling, total=total)

    rows = run.map(
        name,
        (Item(ask.id, prompt_json(ask.prompt), ask.carried) for ask in asks),
        Generation(generator=generator, sampling=sampling),
        key={"version": version, "generator": generator, "sampling": sampling},
        batch_size=batch_size,
        total=total,
        tokens=lambda several: sum(one["tokens"] for one in several),
        asks=generator,
        sampling=sampling,
    )
    return (
        Answered(row.id, prompt_from_json(row.value), tuple(Completion(**one) for one in row.result), row.carried) for row in rows
    )


def judge(
    run: Run,
    name: str,
    claims: Iterable[Claim],
    judge: Judge,
    *,
    batch_size: int = 16,
    total: int | None = None,
    version: Any = 1,
) -> Iterator[Judged]:
    """A stage that asks a judge. Verdicts are counted in the summary as approved, rejected or abstained."""
    if run.estimate is not None:
        return run.estimate.judging(name, claims, judge, total=total)

    def items() -> Iterator[Item]:
        for claim in claims:
            value = {"prompt": prompt_json(claim.prompt), "response": claim.response, "reference": list(claim.reference)}
            yield Item(claim.id, value, claim.carried)

    work, key = Judging(judge=judge), {"version": version, "judge": judge}
    rows = run.map(name, items(), work, key=key, batch_size=batch_size, total=total, asks=judge)

    def judged() -> Iterator[Judged]:
        for row in rows:
            verdict = Verdict(**{**row.result, "spans": tuple(Span(**span) for span in row.result["spans"])})
            run.count(name, {True: "approved", False: "rejected", None: "abstained"}[verdict.approved])
            yield Judged(claim_of(row), verdict)

    return judged()


def claim_of(row: Row) -> Claim:
    """The claim that a judging stage's row was made from."""
    value = row.value
    return Claim(row.id, prompt_from_json(value["prompt"]), value["response"], tuple(value["reference"]), row.carried)


def prompt_json(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as JSON.

    >>> prompt_from_json(prompt_json((Message(role="user", content="Hi"),)))
    (Message(role='user', content='Hi'),)
    """
    return [{"role": message.role, "content": message.content} for message in prompt]


def prompt_from_json(messages: Iterable[Mapping[str, Any]]) -> Prompt:
    """The prompt that `prompt_json` wrote."""
    return tuple(Message(role=message["role"], content=message["content"]) for message in messages)


def _why_none(completions: Sequence[Completion]) -> str:
    return completions.reason if isinstance(completions, Failed) else "no completion came back"


def _completion_json(completion: Completion) -> dict[str, Any]:
    """JSON has no infinities: a log-probability that is not finite is none."""
    finite = completion.log_prob is not None and math.isfinite(completion.log_prob)
    return {**asdict(completion), "log_prob": completion.log_prob if finite else None}
