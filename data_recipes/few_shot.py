"""Format any questions with answers as k-shot prompts: examples of the same set before each question, never the question itself.

    python -m data_recipes.few_shot --config configs/recipe/few_shot.yaml --prompts questions.jsonl --out runs/few_shot

The examples stand before the question as turns of the conversation (`messages`) or within one user message that a Jinja file
writes (`text`). Their answers are the accepted ones; so is the response, unless a teacher is asked to answer the k-shot prompt.
An example is never the question itself in any spelling, nor one of its group.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Template

from distill.consensus import normalise
from distill.errors import ConfigError
from distill.prompt_file import load_prompt_file, user_message
from distill.recipes import Ask, Item, Lost, Question, Run, generate, read_questions
from distill.recipes.endings import Cut, kept_text
from distill.records import Message, Prompt, Record, make_id
from distill.teachers.base import Generator, Sampling

SOURCE = "few_shot"
SAMPLING = Sampling(temperature=0.0, max_tokens=64)


class Shot(NamedTuple):
    """An example: its place in the pool's file, its question and its answer."""

    id: str
    group: str
    prompt: Prompt
    answer: str

    @property
    def text(self) -> str:
        """What two spellings of one question share."""
        return _text(self.prompt)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How shots and a question become one prompt."""

    style: Literal["messages", "text"]
    template: Template
    separator: str

    def prompt(self, shots: Sequence[Shot], question: Question) -> Prompt:
        """The k-shot prompt. A system message stands first, and once; a started answer stays at the end."""
        system = tuple(message for message in question.prompt if message.role == "system")
        asked = tuple(message for message in question.prompt if message.role != "system")
        if self.style == "messages":
            turns = [message for shot in shots for message in _turns(shot)]
            return (*system, *turns, *asked)
        start = asked[-1:] if asked[-1].role == "assistant" else ()
        values: dict[str, object] = {
            "shots": [{"question": _question(shot.prompt), "answer": _started(shot.prompt) + shot.answer} for shot in shots],
            "question": _question(question.prompt),
            "separator": self.separator,
        }
        return (*system, user_message(self.template, values), *start)


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator | None = None,
    sampling: Sampling = SAMPLING,
    shots: tuple[int, ...] = (4,),
    choice: Literal["random", "fixed"] = "random",
    style: Literal["messages", "text"] = "messages",
    template: Path | None = None,
    separator: str = "\n",
    pool: int = 1000,
    same_answer: bool = True,
    cut: Cut = "sentence",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 16,
) -> Iterator[Record]:
    """Put examples before each question.

    Args:
        run: Where results are kept.
        prompts: Questions with accepted answers, as a file or a name (facts:countries, example:NAME). A column `group` (by
            default the id) names what belongs together; no example is of its question's group.
        teacher: Answers the k-shot prompts. None: the first accepted answer is the response.
        sampling: How the teacher answers; each distinct sample is one record.
        shots: How many examples: [4], or several numbers, such as [0, 1, 4], of which each question draws one.
        choice: Examples drawn anew for each question, or the same ones in the same order for all.
        style: Examples as turns of the conversation, or all in one user message.
        template: For `text`, a Jinja file with the variables shots (each with question and answer), question and separator.
            None is the packaged one.
        separator: For `text`, what stands between two examples.
        pool: Examples are drawn from so many questions, themselves a random draw from the whole set: a bound on memory.
        same_answer: Whether an example may have the question's own answer. With few classes it must, or its absence tells.
        cut: What is kept of a teacher's answer that was cut off: its whole sentences, nothing, or all of it.
        seed: For the pool and the examples.
        limit: Only the first so many questions; examples come from the whole set all the same.
        batch_size: Prompts that the teacher answers at a time.
    """
    if not shots or min(shots) < 0:
        raise ConfigError(f"shots {list(shots)}: give one or more numbers of examples, each at least 0, such as [4] or [0, 1, 4]")
    if pool <= max(shots):
        raise ConfigError(f"pool is {pool}: it must hold more than the {max(shots)} examples of a prompt, the question being one")
    if style == "messages" and template is not None:
        raise ConfigError(f"template {template} is not used with style messages; give --style text")
    layout = Layout(
        style=style,
        template=load_prompt_file(template, package=__package__ or "data_recipes", name="few_shot.jinja"),
        separator=separator,
    )
    source = read_questions(prompts)
    candidates = _pool(source, pool, seed)
    usable = len({shot.group for shot in candidates})
    if usable <= max(shots):
        raise ConfigError(
            f"{prompts}: {max(shots)} examples need {max(shots) + 1} groups of questions with accepted answers, one being the "
            f"question's own; found {usable}. Lower --shots, or add answers (column {source.answers_column!r})"
        )
    drawing = _Drawing(shots=tuple(shots), choice=choice, same_answer=same_answer, seed=seed)
    total = run.total(source, limit, of="question")
    questions = run.take(source, limit=limit)
    shown = _shown(run, questions, candidates, layout, drawing, needs_answer=teacher is None)
    return _records(run, shown, teacher, sampling, cut, batch_size, total)


class Shown(NamedTuple):
    """A question with the prompt that shows it, and what it shows before it."""

    question: Question
    prompt: Prompt
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """Which examples a question gets."""

    shots: tuple[int, ...]
    choice: str
    same_answer: bool
    seed: int

    def draw(self, question: Question, candidates: Sequence[Shot]) -> tuple[int, list[Shot]]:
        """How many were wanted, and those that may be shown: not the question, in any spelling, nor two of one group."""
        draw = random.Random(f"{self.seed}/{question.id}")  # of its own: no other question changes what it is shown
        wanted = draw.choice(self.shots)
        own, answers = _text(question.prompt), {normalise(answer) for answer in question.answers}
        groups = {_group(question)}
        chosen: list[Shot] = []
        for shot in candidates if self.choice == "fixed" else _shuffled(candidates, draw):
            if len(chosen) == wanted:
                break
            if shot.group in groups or shot.text == own or (not self.same_answer and normalise(shot.answer) in answers):
                continue
            groups.add(shot.group)
            chosen.append(shot)
        return wanted, chosen


def _shown(
    run: Run, questions: Iterable[Question], candidates: Sequence[Shot], layout: Layout, drawing: _Drawing, *, needs_answer: bool
) -> Iterator[Shown]:
    """Each question with its examples; a stage, so that what cannot be shown is lost by name."""
    by_id = {shot.id: shot for shot in candidates}

    def choose(items: list[Item]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            question: Question = item.carried
            wanted, chosen = drawing.draw(question, candidates)
            if needs_answer and not question.answers:
                found.append(Lost("no accepted answer"))
            elif len(chosen) < wanted:
                found.append(Lost("too few examples that may stand before it"))
            else:
                found.append([shot.id for shot in chosen])
        return found

    rows = run.map("examples", (Item(question.id, None, question) for question in questions), choose, key={}, keep=False)

    def shown() -> Iterator[Shown]:
        for row in rows:
            shots = tuple(by_id[name] for name in row.result)
            run.count("examples", str(len(shots)))
            yield Shown(row.carried, layout.prompt(shots, row.carried), shots)

    return shown()


def _shuffled(candidates: Sequence[Shot], draw: random.Random) -> Iterator[Shot]:
    left = list(range(len(candidates)))
    while left:
        place = draw.randrange(len(left))
        left[place], left[-1] = left[-1], left[place]
        yield candidates[left.pop()]


def _records(
    run: Run, shown: Iterator[Shown], teacher: Generator | None, sampling: Sampling, cut: Cut, batch_size: int, total: int
) -> Iterator[Record]:
    told: Iterator[tuple[Shown, list[str]]]
    if teacher is None:
        told = ((one, [one.question.answers[0]]) for one in shown)
    else:
        asks = (Ask(one.question.id, one.prompt, one) for one in shown)
        answered = generate(run, "answer", asks, teacher, sampling, batch_size=batch_size, total=total)
        told = (
            (one.carried, [text for text in dict.fromkeys(kept_text(c, cut) for c in one.completions) if text])
            for one in answered
        )
    return _answered(run, told, "accepted" if teacher is None else "teacher")


def _answered(run: Run, told: Iterable[tuple[Shown, list[str]]], origin: str) -> Iterator[Record]:
    for (question, prompt, shots), responses in told:
        if not responses:
            run.count("without a record", "nothing whole in the teacher's answer")
        # Not a leak as such (a few classes share their answers), but worth knowing.
        answers = {normalise(answer) for answer in question.answers}
        if answers:
            found = any(normalise(shot.answer) in answers for shot in shots)
            run.count("an example has the question's answer", "yes" if found else "no")
        evidence: dict[str, Any] = {"shots": [shot.id for shot in shots], "answer_by": origin}
        if question.answers:
            evidence["accepted"] = list(question.answers)
        if question.extra:
            evidence["question"] = dict(question.extra)
        for response in responses:
            yield Record(
                id=make_id(_group(question), "positive", prompt, response, source=SOURCE),
                group=_group(question),
                prompt=prompt,
                response=response,
                polarity="positive",
                source=SOURCE,
                evidence=evidence,
            )


def _pool(source: Iterable[Question], size: int, seed: int) -> list[Shot]:
    """A random draw of `size` questions that have an answer, by a reservoir: one pass, and no more than that in memory."""
    draw, seen = random.Random(f"{seed}/pool"), 0
    kept: list[Shot] = []
    for question in source:
        if not question.answers:
            continue
        shot = Shot(question.id, _group(question), question.prompt, question.answers[0])
        place = draw.randrange(seen + 1)
        seen += 1
        if len(kept) < size:
            kept.append(shot)
        elif place < size:
            kept[place] = shot
    draw.shuffle(kept)
    return kept


def _turns(shot: Shot) -> tuple[Message, ...]:
    """An example as a conversation; where its answer was started, the start is part of it."""
    asked = tuple(message for message in shot.prompt if message.role != "system")
    if asked and asked[-1].role == "assistant":
        asked = asked[:-1]
    return (*asked, Message(role="assistant", content=_started(shot.prompt) + shot.answer))


def _started(prompt: Prompt) -> str:
    """The start of the answer with the space that joins it, or nothing."""
    start = prompt[-1].content if prompt[-1].role == "assistant" else ""
    return start if not start or start[-1].isspace() else start + " "


def _question(prompt: Prompt) -> str:
    asked = [message for message in prompt if message.role != "system"]
    if asked and asked[-1].role == "assistant":
        asked = asked[:-1]
    return "\n".join(message.content for message in asked)


def _text(prompt: Prompt) -> str:
    return normalise(_question(prompt))


def _group(question: Question) -> str:
    return str(question.extra.get("group") or question.id)


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
