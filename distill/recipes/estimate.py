"""What a run would ask before it asks: every prompt made and counted, tokens and cost at most, no completion drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Never

from distill.recipes.key import teachers_in
from distill.recipes.progress import money
from distill.records import Prompt
from distill.teachers.base import Chooser, Completion, Generator, Price, Sampling, Scorer, Teacher, TokenScores

CHARACTERS_PER_TOKEN = 4  # of English; other scripts have fewer, so their tokens are underestimated
FRAME = 4  # tokens of a chat template around each message
BATCH = 64  # prompts counted at a time


@dataclass(kw_only=True)
class Asked:
    """What one teacher would be asked by one stage. Tokens written are a bound: every sample as long as it may be."""

    teacher: Teacher
    prompts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    guessed: bool = False  # tokens_in from characters: the tokenizer is not here

    def add(self, prompts: Sequence[Prompt], written: int, *, reads: int = 1) -> None:
        """Count prompts, each read so often, with at most so many tokens written for each."""
        self.prompts += len(prompts)
        self.tokens_out += len(prompts) * written
        generators = [one for one in _with_inner(self.teacher) if isinstance(one, Generator)]
        counted = next((found for one in generators if (found := one.count_tokens(prompts)) is not None), None)
        if counted is None:
            self.guessed = self.guessed or bool(prompts)
            counted = [sum(math.ceil(len(m.content) / CHARACTERS_PER_TOKEN) + FRAME for m in prompt) for prompt in prompts]
        self.tokens_in += sum(counted) * reads

    @property
    def price(self) -> Price | None:
        return self.teacher.price

    @property
    def cost(self) -> float | None:
        """At most; None where no price is known."""
        return None if self.price is None else self.price.of(self.tokens_in, self.tokens_out)


@dataclass(kw_only=True)
class StageEstimate:
    """One stage: how many items reached it, and whether there will be more of them than can be known before."""

    name: str
    items: int = 0
    asked: list[Asked] = field(default_factory=list)
    depends: bool = False
    at_most: int | None = None  # items, where the recipe says so
    written: int = 0  # tokens for each item at most, where that is known


class Estimate:
    """Stands in for the stages that ask: they read their items to the end, count, and yield nothing."""

    def __init__(self) -> None:
        self.stages: list[StageEstimate] = []
        self.failed_within = False  # whether an error came from making the items of a stage
        self._under_way: list[StageEstimate] = []

    def generation(
        self, name: str, asks: Iterable[Any], generator: Generator, sampling: Sampling, *, total: int | None
    ) -> Iterator[Never]:
        """A stage that would ask a generator; `asks` have a prompt each."""
        stage = self._stage(name, total)
        stage.written = sampling.n * sampling.max_tokens
        asked = Asked(teacher=generator)
        stage.asked.append(asked)

        def count(some: list[Any]) -> None:
            asked.add([ask.prompt for ask in some], sampling.n * sampling.max_tokens, reads=_reads(generator, sampling))

        return self._read(stage, asks, count)

    def judging(self, name: str, claims: Iterable[Any], judge: Any, *, total: int | None) -> Iterator[Never]:
        """A stage that would ask a judge: it is asked with teachers that note what they are asked, and say nothing."""
        stage = self._stage(name, total)
        listening, notes = _with_listeners(judge)
        stage.asked += notes

        def count(some: list[Any]) -> None:
            if notes:
                listening.judge_many([c.prompt for c in some], [c.response for c in some], [c.reference for c in some])

        return self._read(stage, claims, count)

    def work(self, name: str, items: Iterable[Any], teachers: Sequence[Teacher], *, total: int | None) -> Iterator[Never]:
        """Any other stage whose work asks teachers: how it asks them is its own, so only its items are counted."""
        stage = self._stage(name, total)
        stage.asked += [Asked(teacher=teacher, guessed=True) for teacher in teachers]
        return self._read(stage, items, lambda some: None)

    def table(self) -> str:
        """The estimate as text, with what it leaves out."""
        if not self.stages:
            return "no stage asks a teacher or a judge"
        lines = [["stage", "teacher", "prompts", "tokens in", "tokens out, at most", "cost, at most", ""]]
        remarks = set()
        for stage in self.stages:
            several: Sequence[Asked | None] = stage.asked or [None]
            for asked in several:
                lines.append(_line(stage, asked))
                remarks |= _remarks(stage, asked)
        known = [asked for stage in self.stages for asked in stage.asked]
        if len(lines) > 2:
            lines.append(["in all", "", *_numbers(known), money(self.cost) if any(a.price for a in known) else "-", ""])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = []
        for line in lines:
            left = [f"{cell:<{width}}" for cell, width in zip(line[:2], widths[:2], strict=True)]
            right = [f"{cell:>{width}}" for cell, width in zip(line[2:6], widths[2:6], strict=True)]
            text.append("  ".join([*left, *right, line[6]]).rstrip())
        return "\n".join([*text, *sorted(remarks)])

    def _stage(self, name: str, total: int | None) -> StageEstimate:
        stage = StageEstimate(name=name, at_most=total)
        self.stages.append(stage)
        return stage

    @property
    def cost(self) -> float:
        """Of what is known, at most."""
        return sum(asked.cost or 0.0 for stage in self.stages for asked in stage.asked)

    def _read(self, stage: StageEstimate, items: Iterable[Any], count: Callable[[list[Any]], None]) -> Iterator[Never]:
        # A stage that begins while another one reads feeds it; one that got nothing was fed by one that was read before.
        for outer in self._under_way:
            outer.depends = True
        earlier = any(other.items or other.depends for other in self.stages if other is not stage)
        self._under_way.append(stage)
        source = iter(items)
        try:
            while some := list(islice(source, BATCH)):
                stage.items += len(some)
                count(some)
        except BaseException:  # Ctrl-C, and a generator that is closed early, too
            self.failed_within = True
            raise
        finally:
            self._under_way.remove(stage)
        stage.depends = stage.depends or (not stage.items and earlier)
        yield from ()


@dataclass(frozen=True, kw_only=True)
class _Listener(Generator, Scorer, Chooser):
    """In a teacher's place: notes what it is asked, answers with empty texts and equal scores."""

    heard: Asked = field(compare=False)

    def identity(self) -> Mapping[str, Any]:
        return self.heard.teacher.identity()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        reads = _reads(self.heard.teacher, sampling)
        self.heard.add(prompts, sampling.n * sampling.max_tokens, reads=reads)
        return [[Completion(text="", tokens=0, finish="stop")] * sampling.n for _ in prompts]

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]:
        self.heard.add(prompts, 0)
        return [TokenScores(tokens=(), log_probs=()) for _ in prompts]

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
        self.heard.add(prompts, 1)
        return [(-math.log(len(options)),) * len(options) for _ in prompts]


def _with_listeners(judge: Any) -> tuple[Any, list[Asked]]:
    """The judge with a listener in the place of each of its teachers, and what they will have heard."""
    heard: dict[int, Asked] = {id(teacher): Asked(teacher=teacher) for teacher in teachers_in(judge)}

    def replaced(value: Any) -> Any:
        if isinstance(value, Teacher):
            return _Listener(heard=heard[id(value)])
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
            inside = {name: replaced(inner) for name, inner in fields.items() if teachers_in(inner)}
            return dataclasses.replace(value, **inside) if inside else value
        if isinstance(value, list | tuple):
            return type(value)(replaced(one) for one in value)
        if isinstance(value, Mapping):
            return {name: replaced(one) for name, one in value.items()}
        return value

    return (replaced(judge) if heard else judge), list(heard.values())


def _with_inner(teacher: Teacher) -> tuple[Teacher, ...]:
    """A teacher, and those that it is made of."""
    made_of: Any = teacher
    fields = dataclasses.fields(made_of) if dataclasses.is_dataclass(made_of) else ()
    return (teacher, *teachers_in({one.name: getattr(teacher, one.name, None) for one in fields}))


def _reads(teacher: Teacher, sampling: Sampling) -> int:
    """How often each prompt is read, and so paid for, to draw all its samples."""
    return max((one.reads(sampling) for one in _with_inner(teacher) if isinstance(one, Generator)), default=1)


def _line(stage: StageEstimate, asked: Asked | None) -> list[str]:
    name = "" if asked is None else _name(asked.teacher)
    if stage.depends:
        most = "" if stage.at_most is None else f"; at most {stage.at_most:,} items"
        most += f", {stage.at_most * stage.written:,} tokens out" if stage.at_most and stage.written else ""
        rest = f"and more: depends on earlier results{most}" if stage.items else f"depends on earlier results{most}"
    else:
        rest = ""
    if asked is None:
        return [stage.name, "asks no teacher", f"{stage.items:,} items", "", "", "", rest]
    if not asked.prompts and (stage.items or stage.depends):
        asks = f"{stage.items:,} items; how they are asked is not known" if stage.items else rest
        return [stage.name, name, "?", "?", "?", "?" if asked.price else "-", asks]
    cost = "-" if asked.cost is None else money(asked.cost)
    return [stage.name, name, *_numbers([asked]), cost, rest]


def _numbers(known: Sequence[Asked]) -> list[str]:
    about = "~" if any(asked.guessed and asked.prompts for asked in known) else ""
    return [
        f"{sum(asked.prompts for asked in known):,}",
        f"{about}{sum(asked.tokens_in for asked in known):,}",
        f"{sum(asked.tokens_out for asked in known):,}",
    ]


def _remarks(stage: StageEstimate, asked: Asked | None) -> set[str]:
    found = set()
    if asked is not None and asked.guessed and asked.prompts:
        found.add(
            f"~ characters / {CHARACTERS_PER_TOKEN} and {FRAME} for each message: the tokenizer is not here; scripts other than "
            "Latin have more tokens"
        )
    if asked is not None and asked.price is None:
        found.add("- a teacher without a price")
    if asked is not None and not asked.prompts and (stage.items or stage.depends):
        found.add("? not known before earlier stages have answered, and in no sum")
    return found


def _name(teacher: Teacher) -> str:
    model = teacher.identity().get("model", "")
    return str(model).rpartition("/")[2][-40:] or type(teacher).__name__
