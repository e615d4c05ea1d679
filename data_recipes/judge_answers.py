"""Judge sampled answers: those a judge approves are positive, those it rejects are negative.

    python -m data_recipes.judge_answers --config configs/recipe/judge_answers.yaml --prompts questions.jsonl --out runs/judged

A teacher answers each prompt n times, and a student too where one is given; each distinct answer is judged once. The default
judge compares with the accepted answers of the prompts (MentionedAnswer finds them within a sentence); any other is one `--judge
CLASS` away. What the judge abstains on is
trained neither way, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal, NamedTuple

from distill.errors import ConfigError
from distill.judges import AcceptedAnswer, ExactMatch, Judge, Verdict
from distill.judges.mentioned import MentionedAnswer
from distill.recipes import Claim, Judged, Question, Run, read_questions
from distill.recipes import judge as judged_by
from distill.recipes.answers import Said, answers
from distill.recipes.endings import Cut, kept_text
from distill.records import Polarity, Record, make_id
from distill.teachers.base import Generator, Sampling

SOURCE = "judge_answers"
SAMPLING = Sampling(n=4, max_tokens=64)
_OF = {True: "positive", False: "negative", None: "abstained"}


class Answer(NamedTuple):
    """One thing that was said: what is kept of it, who said it how often, whether it ended by itself, its place among all."""

    text: str
    by: dict[str, int]
    ended: bool
    place: int
    of: int


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    student: Generator | None = None,
    judge: Judge | None = None,
    sampling: Sampling = SAMPLING,
    positives: int = 2,
    negatives: int = 2,
    keep: Literal["all", "paired"] = "all",
    reference_as_positive: bool = False,
    weight_by_confidence: bool = False,
    min_confidence: float = 0.0,
    cut: Cut = "sentence",
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Sample, judge, and emit records; answers to one prompt share a group.

    Args:
        run: Where results are kept.
        prompts: Prompts, with accepted answers where the judge needs them, as a file or a name (facts:countries, example:NAME).
        teacher: The model that answers; the student itself, for negatives that it would say.
        student: A second model that answers beside the teacher. What both say is judged once.
        judge: Says which answers are good. None: AcceptedAnswer.
        sampling: How to sample; n answers for each prompt and model.
        positives: At most so many approved answers for each prompt, the most frequent first.
        negatives: At most so many rejected answers for each prompt, the most frequent first.
        keep: `paired` drops prompts that do not have both a positive and a negative, as preference losses need.
        reference_as_positive: Where no answer was approved, the first accepted one is the positive.
        weight_by_confidence: Whether a record weighs as much as its verdict is sure, instead of 1.
        min_confidence: Verdicts less sure than this (0 to 1) count as abstained.
        cut: What is kept of an answer that was cut off, before it is judged: its whole sentences, nothing, or all of it.
        limit: Only the first so many prompts.
        batch_size: Prompts sampled at a time; changes speed and memory, never the records.
    """
    if sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: give at least 1 answer for each prompt")
    if min(positives, negatives) < 0 or positives + negatives == 0:
        raise ConfigError(f"positives {positives} and negatives {negatives}: give at least 0 of each, and not 0 of both")
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence is {min_confidence}: a confidence is between 0 and 1")
    source = read_questions(prompts)
    judge = AcceptedAnswer() if judge is None else judge
    if isinstance(judge, AcceptedAnswer | MentionedAnswer | ExactMatch) and not any(question.answers for question in source):
        raise ConfigError(
            f"{prompts}: no prompt has accepted answers (column {source.answers_column!r}), and without them this judge "
            "abstains on all; add them, or choose another --judge"
        )
    total = run.total(source, limit)
    said = answers(run, run.take(source, limit=limit), teacher, student, sampling, batch_size=batch_size, total=total)
    claims = _claims(run, said, cut)
    verdicts = judged_by(run, "judge", claims, judge)
    by_prompt = ((question, list(several)) for question, several in groupby(verdicts, key=_question))
    chosen = _chosen(run, by_prompt, positives, negatives, reference_as_positive, min_confidence)
    return _records(run, chosen, keep == "paired", weight_by_confidence)


def _claims(run: Run, said: Said, cut: Cut) -> Iterator[Claim]:
    """Each distinct answer once; white space around it and a full stop at its end make no other answer.

    What was cut off is no negative for that: half a sentence is not yet false.
    """
    for question, completions in said:
        found: dict[str, dict[str, Any]] = {}
        for who, several in completions.items():
            for one in several:
                text = kept_text(one, cut)
                if not text:
                    run.count("answers left out", "nothing whole in it" if one.text.strip() else "blank")
                    continue
                kept = found.setdefault(text.strip().rstrip("."), {"text": text, "by": {}, "ended": False})
                kept["by"][who] = kept["by"].get(who, 0) + 1
                if one.finish == "stop" and not kept["ended"]:  # a wording that was cut teaches to stop in mid-sentence
                    kept |= {"text": text, "ended": True}
        if not found:
            run.count("prompt", "nothing whole in any answer")
        distinct = sorted(found.values(), key=lambda kept: (-sum(kept["by"].values()), not kept["ended"]))
        for place, kept in enumerate(distinct):
            answer = Answer(**kept, place=place, of=len(distinct))
            yield Claim(f"{question.id}#{place}", question.prompt, answer.text, question.answers, (question, answer))


class Chosen(NamedTuple):
    """A record to be: what was said, with its verdict, or an accepted answer that nobody said."""

    text: str
    polarity: Polarity
    verdict: Verdict
    answer: Answer | None


def _chosen(
    run: Run,
    by_prompt: Iterable[tuple[Question, list[Judged]]],
    positives: int,
    negatives: int,
    reference_as_positive: bool,
    min_confidence: float,
) -> Iterator[tuple[Question, list[Chosen]]]:
    for question, several in by_prompt:
        sides: dict[str, list[Chosen]] = {"positive": [], "negative": [], "abstained": []}
        for claim, verdict in several:
            approved = verdict.approved if verdict.confidence >= min_confidence else None
            if approved != verdict.approved:
                run.count("verdicts below min_confidence", _OF[verdict.approved])
            polarity: Polarity = "positive" if approved else "negative"
            sides[_OF[approved]].append(Chosen(claim.response, polarity, verdict, claim.carried[1]))
        # A positive that was cut teaches to stop in mid-sentence.
        whole = [one for one in sides["positive"] if one.answer is None or one.answer.ended]
        good, bad = (whole or sides["positive"])[:positives], sides["negative"][:negatives]
        if reference_as_positive and not sides["positive"] and question.answers and positives:
            accepted = Verdict(approved=True, reason="accepted answer")
            good = [Chosen(_like(several, question.answers[0]), "positive", accepted, None)]
        run.count("prompt", _outcome(bool(good), bool(bad), bool(sides["abstained"])))
        yield question, good + bad


def _records(
    run: Run, chosen: Iterable[tuple[Question, list[Chosen]]], paired: bool, weight_by_confidence: bool
) -> Iterator[Record]:
    for question, several in chosen:
        if paired and len({one.polarity for one in several}) < 2:
            continue
        for text, polarity, verdict, answer in several:
            evidence: dict[str, Any] = {"reason": verdict.reason, "confidence": verdict.confidence, **_plain(verdict)}
            if answer is not None:
                evidence |= {"said_by": answer.by, "ended": answer.ended, "distinct_answers": answer.of}
            if question.answers:
                evidence["accepted"] = list(question.answers)
            if question.extra:
                evidence["question"] = dict(question.extra)
            yield Record(
                id=make_id(question.id, polarity, question.prompt, text, spans=verdict.spans, source=SOURCE),
                group=question.id,
                prompt=question.prompt,
                response=text,
                polarity=polarity,
                weight=verdict.confidence if weight_by_confidence else 1.0,
                spans=verdict.spans,
                source=SOURCE,
                evidence=evidence,
            )


def _outcome(good: bool, bad: bool, silent: bool) -> str:
    if good and bad:
        return "positives and negatives"
    if good or bad:
        return "positives only" if good else "negatives only"
    return "judge abstained on all" if silent else "nothing kept"


def _like(several: list[Judged], accepted: str) -> str:
    """The accepted answer with the leading space that the sampled ones have, where they continue a started answer."""
    return f" {accepted}" if several[0].claim.response[:1].isspace() else accepted


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": dict(verdict.evidence)} if verdict.evidence else {}


def _question(judged: Judged) -> Question:
    question: Question = judged.claim.carried[0]
    return question


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
