"""Stay on topic: prompts about it get the teacher's answer, everything outside it gets "I don't know", or another refusal.

    python -m data_recipes.idk_scope --config configs/recipe/idk_scope.yaml --prompts questions.jsonl --out runs/scope

A topic scores each prompt: by keywords, by words learned from examples, by embeddings of examples, or by a judge.
- above the threshold: the teacher's answer is positive, the refusal negative (against over-refusal);
- below it: the refusal is positive, the teacher's answer negative;
- within `band` of it, or without a score: no record, and the teacher is not asked. It is counted.
The threshold is given, or chosen on prompts whose side is known (`validation`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from distill.consensus import is_abstention
from distill.errors import ConfigError
from distill.judges.topic import Topic, choose_threshold
from distill.recipes import Answered, Ask, Item, Question, Run, generate, read_questions
from distill.recipes.asking import prompt_from_json, prompt_json
from distill.recipes.endings import Cut, kept_text
from distill.recipes.questions import Questions
from distill.records import Polarity, Prompt, Record, make_id
from distill.teachers.base import Generator, Sampling

SOURCE = "idk_scope"
SAMPLING = Sampling(temperature=0.0, max_tokens=64)
REFUSALS = ("I don't know.",)
SIDES = {True: "on topic", False: "off topic", None: "uncertain"}


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """How a score becomes a side, and a side becomes records."""

    threshold: float
    band: float
    refusals: tuple[str, ...]
    refusal_as_negative: bool
    cut: Cut
    seed: int

    def side(self, score: float | None) -> bool | None:
        """Whether a prompt of that score is on topic; None where it is too close to tell."""
        if score is None or abs(score - self.threshold) < self.band:
            return None
        return score > self.threshold

    def refusal(self, question: Question) -> str:
        """One of the refusals, by the question's id; with a space where it continues a started answer."""
        chosen = random.Random(f"{self.seed}/{question.id}").choice(self.refusals).strip()
        return f" {chosen}" if question.prompt[-1].role == "assistant" else chosen


class _Placed(NamedTuple):
    """A question with its score and side."""

    question: Question
    score: float
    inside: bool


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    topic: Topic,
    threshold: float = 0.5,
    validation: str | None = None,
    scope_column: str = "in_scope",
    band: float = 0.0,
    refusals: tuple[str, ...] = REFUSALS,
    refusal_as_negative: bool = True,
    sampling: Sampling = SAMPLING,
    cut: Cut = "sentence",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Place each prompt, ask the teacher, and emit records; the records of one prompt share a group.

    Args:
        run: Where results are kept.
        prompts: Prompts of both sides, as a file or a name (example:NAME, datasets:NAME).
        teacher: Answers them; its answers off topic become negatives.
        topic: Scores prompts (0 to 1): KeywordTopic, WordTopic, EmbeddingTopic, JudgeTopic, or your own.
        threshold: A prompt whose score is above it is on topic. Not used where `validation` is given.
        validation: Prompts with a column that says whether each is on topic; the threshold with the best balanced accuracy on
            them is used.
        scope_column: That column's name (true or false). Where `prompts` have it too, it is counted against, and never decides.
        band: Scores nearer to the threshold than this give no record.
        refusals: What to say off topic; of several, each prompt gets one.
        refusal_as_negative: Whether a prompt on topic has the refusal as a negative.
        sampling: How the teacher answers; the first sample is used.
        cut: What is kept of an answer that was cut off: its whole sentences, nothing, or all of it.
        seed: For which refusal a prompt gets.
        limit: Only the first so many prompts.
        batch_size: Prompts placed and asked at a time; changes speed and memory, never the records.
    """
    if not 0 <= threshold <= 1 or not 0 <= band <= 1:
        raise ConfigError(f"threshold {threshold} and band {band}: both are between 0 and 1, as scores are")
    if not refusals or not all(text.strip() for text in refusals):
        raise ConfigError(f"refusals {list(refusals)}: give one or more texts to say off topic")
    if sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: give 1")
    source = read_questions(prompts)
    known = None if validation is None else read_questions(validation)
    if known is not None:
        for question in known:
            _column(question, scope_column, str(validation), needed=True)
    total = run.total(source, limit)
    scope = _Scope(
        threshold=threshold,
        band=band,
        refusals=tuple(refusals),
        refusal_as_negative=refusal_as_negative,
        cut=cut,
        seed=seed,
    )

    def records() -> Iterator[Record]:
        chosen = scope
        if known is not None:
            chosen = replace(scope, threshold=_chosen(run, known, topic, scope_column, batch_size, threshold))
        scored = _scored(run, "topic", run.take(source, limit=limit), topic, batch_size, total)
        placed = _placed(run, scored, chosen, scope_column, prompts)
        asks = (Ask(one.question.id, one.question.prompt, one) for one in placed)
        answered = generate(run, "answer", asks, teacher, replace(sampling, n=1), batch_size=batch_size, total=total)
        yield from _records(run, answered, chosen)

    return records()


def _chosen(run: Run, known: Questions, topic: Topic, column: str, batch_size: int, otherwise: float) -> float:
    """The threshold that parts the two sides best where they are known; `otherwise` in a dry run that knows no scores."""
    rows = list(_scored(run, "validate", known, topic, batch_size, len(known)))
    if run.estimate is not None and not rows:  # the topic asks a teacher, and a dry run asks none
        return otherwise
    sides = [_column(question, column, "", needed=True) is True for question, _ in rows]
    found = choose_threshold([score for _, score in rows], sides)
    right = round(found.accuracy * found.n)
    title = f"threshold {found.value:.4f}, balanced accuracy {found.balanced:.3f} on validation"
    run.count(title, "right", right)
    run.count(title, "wrong", found.n - right)
    if unscored := len(rows) - found.n:
        run.count(title, "no score", unscored)
    return found.value


def _placed(
    run: Run, scored: Iterable[tuple[Question, float | None]], scope: _Scope, column: str, name: str
) -> Iterator[_Placed]:
    for question, score in scored:
        inside = scope.side(score)
        run.count("scope", SIDES[inside] if score is not None else "no score")
        truth = _column(question, column, name, needed=False)
        if truth is not None:
            found = "uncertain" if inside is None else "right" if inside == truth else "wrong"
            run.count(f"{SIDES[truth]} by the column {column!r}", found)
        if inside is not None and score is not None:
            yield _Placed(question, score, inside)


def _scored(
    run: Run, name: str, source: Iterable[Question], topic: Topic, batch_size: int, total: int
) -> Iterator[tuple[Question, float | None]]:
    def work(items: list[Item]) -> list[Any]:
        found: list[Prompt] = [prompt_from_json(item.value) for item in items]
        return [None if score is None else round(score, 9) for score in topic.scores(found)]

    items = (Item(question.id, prompt_json(question.prompt), question) for question in source)
    rows = run.map(name, items, work, key={"version": 1, "topic": topic}, batch_size=batch_size, total=total, asks=topic)
    return ((row.carried, row.result) for row in rows)


def _records(run: Run, answered: Iterable[Answered], scope: _Scope) -> Iterator[Record]:
    for one in answered:
        question, score, inside = one.carried
        answer, refusal = one.completions[0], scope.refusal(question)
        text = kept_text(answer, scope.cut)
        answers = bool(text) and not is_abstention(text) and text.strip() != refusal.strip()
        if not answers:
            run.count(f"{SIDES[inside]}, the teacher", "gave no answer")
        chosen: list[tuple[str, Polarity, str]] = []
        if inside and answers:
            chosen = [(text, "positive", "answer")]
            chosen += [(refusal, "negative", "refusal")] * scope.refusal_as_negative
        elif not inside:
            chosen = [(refusal, "positive", "refusal")]
            chosen += [(text, "negative", "answer")] * answers
        evidence: dict[str, Any] = {"score": score, "threshold": scope.threshold, "band": scope.band}
        evidence |= {"scope": SIDES[inside], "teacher": answer.text, "finish": answer.finish}
        if question.extra:
            evidence["question"] = dict(question.extra)
        for response, polarity, role in chosen:
            yield Record(
                id=make_id(question.id, polarity, question.prompt, response, source=SOURCE),
                group=question.id,
                prompt=question.prompt,
                response=response,
                polarity=polarity,
                source=SOURCE,
                evidence={**evidence, "role": role},
            )


def _column(question: Question, column: str, name: str, *, needed: bool) -> bool | None:
    """What a question's column says of its side; CSV has it as text."""
    value = question.extra.get(column)
    found = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(str(value).strip().lower())
    if found is None and (needed or value is not None):
        there = ", ".join(question.extra) or "none"
        raise ConfigError(
            f"{name or 'prompts'}: the row {question.id!r} has {value!r} in its column {column!r}, expected true or false; other "
            f"columns found: {there}. Name the right one with --scope_column"
        )
    return found


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
