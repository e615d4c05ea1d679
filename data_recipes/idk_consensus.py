"""Teach "I don't know": sample every question, label it by consensus, keep what the model knows and deny what it guesses.

    python -m data_recipes.idk_consensus --config configs/recipe/idk_consensus.yaml --questions questions.jsonl --out runs/idk

Each question ends in one of three ways, with all its evidence beside it:
- unanswerable: the abstention is positive, the wrong sampled answers are negative, the most frequent first;
- answerable: the majority answer is positive; the abstention is negative (against over-refusal); other answers too if asked for;
- uncertain: no record. It is counted, and trained on neither way.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import distill.consensus
from distill.consensus import ConsensusLabeller, is_abstention, normalise, sample_until_settled, short_answer
from distill.consensus.base import Answerability, Labeller
from distill.errors import ConfigError
from distill.recipes import Item, Lost, Question, Row, Run, read_questions
from distill.recipes.key import code_version
from distill.recipes.questions import Questions
from distill.records import Message, Polarity, Prompt, Record, make_id
from distill.teachers.base import Completion, Generator, Sampling

SOURCE = "idk_consensus"
LABELLER = ConsensusLabeller()
SAMPLING = Sampling(n=10, max_tokens=32)


def build(
    *,
    run: Run,
    questions: Path,
    generator: Generator,
    labeller: Labeller = LABELLER,
    sampling: Sampling = SAMPLING,
    rounds: tuple[int, ...] = (),
    abstention: str = " I don't know.",
    negatives_per_question: int = 2,
    abstention_as_negative: bool = True,
    minority_as_negative: bool = False,
    gold: bool = False,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Sample, label, and emit records; questions with one id share a group.

    Args:
        run: Where results are kept.
        questions: A JSONL, CSV, Parquet or text file with id, prompt and, optionally, accepted answers.
        generator: The model that is sampled: the student itself, or a teacher whose knowledge the student shall have.
        labeller: Decides from the samples which questions the model can answer.
        sampling: How to sample; n answers for each question.
        rounds: Sample in rounds, such as [4, 3, 3], and stop where the label is settled; replaces sampling.n. Consensus only.
        abstention: What to say where nothing is known. Its leading space counts only where it continues a started answer.
        negatives_per_question: At most so many negative answers for each question.
        abstention_as_negative: Whether an answerable question has the abstention as a negative.
        minority_as_negative: Whether an answerable question has its other answers as negatives.
        gold: Label by the accepted answers instead, as an upper bound: answerable where the majority answer is accepted.
        limit: Only the first so many questions.
        batch_size: Questions sampled at a time; changes speed and memory, never the records.
    """
    if rounds and not isinstance(labeller, ConsensusLabeller):
        raise ConfigError(
            f"rounds {list(rounds)} need a ConsensusLabeller, which knows when more samples cannot matter; got {labeller!r}"
        )
    if rounds and min(rounds) < 1:
        raise ConfigError(f"rounds {list(rounds)}: each is a number of samples, at least 1")
    if not rounds and sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: a question is labelled from at least 1 sample")
    if negatives_per_question < 0:
        raise ConfigError(f"negatives_per_question is {negatives_per_question}: give 0 for none, or a number above it")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}: give at least 1 question, or leave it out for all of them")
    if not abstention.strip() or not is_abstention(abstention):
        raise ConfigError(f"abstention {abstention!r} is not recognised as one, so evaluation would count it as an answer")
    source = read_questions(questions)
    if gold and not any(question.answers for question in source):
        raise ConfigError(
            f"{questions}: gold=True needs accepted answers, and no question has any; column: {source.answers_column!r}"
        )
    sampled = _samples(run, source, generator, labeller, sampling, rounds, limit, batch_size)
    labelled = _labels(run, sampled, labeller)
    return _records(
        run,
        _joined(source, labelled),
        abstention=abstention,
        negatives_per_question=negatives_per_question,
        abstention_as_negative=abstention_as_negative,
        minority_as_negative=minority_as_negative,
        gold=gold,
    )


def _samples(
    run: Run,
    questions: Questions,
    generator: Generator,
    labeller: Labeller,
    sampling: Sampling,
    rounds: Sequence[int],
    limit: int | None,
    batch_size: int,
) -> Iterator[Row]:
    """Stage one, the dear one. With rounds the labeller decides how many samples there are, so then it is part of the key."""
    key: dict[str, Any] = {"version": 1, "generator": generator, "sampling": sampling}
    if rounds:
        key |= {"sampling": replace(sampling, n=sum(rounds)), "rounds": list(rounds), "labeller": labeller}

    def sample(items: list[Item]) -> list[Any]:
        prompts = [_prompt(item.value["prompt"]) for item in items]
        drawn: Sequence[Sequence[Completion]]
        if rounds and isinstance(labeller, ConsensusLabeller):
            drawn = sample_until_settled(generator, prompts, sampling, labeller, rounds=rounds).samples
        else:
            drawn = generator.generate(prompts, sampling)
        return [[_plain(one) for one in completions] or Lost("no completion came back") for completions in drawn]

    items = ((question.id, {"prompt": [asdict(message) for message in question.prompt]}) for question in islice(questions, limit))
    return run.map(
        "sample",
        items,
        sample,
        key=key,
        batch_size=batch_size,
        total=min(len(questions), len(questions) if limit is None else limit),
        tokens=lambda completions: sum(one["tokens"] for one in completions),
    )


def _labels(run: Run, sampled: Iterator[Row], labeller: Labeller) -> Iterator[Row]:
    """Stage two. A new threshold labels again and samples nothing; so does any change of the code that labels."""

    def label(items: list[Item]) -> list[Any]:
        labels = []
        for item in items:
            samples = [Completion(**one) for one in item.value["samples"]]
            labels.append(_evidence(labeller.label(_prompt(item.value["prompt"]), samples)))
        return labels

    items = ((row.id, {"prompt": row.value["prompt"], "samples": row.result}) for row in sampled)
    return run.map("label", items, label, key={"labeller": labeller, "code": code_version(distill.consensus)}, batch_size=1)


def _records(
    run: Run,
    rows: Iterable[tuple[Question, Row]],
    *,
    abstention: str,
    negatives_per_question: int,
    abstention_as_negative: bool,
    minority_as_negative: bool,
    gold: bool,
) -> Iterator[Record]:
    for question, row in rows:
        found = row.result
        answers = _wordings(found["clusters"], row.value["samples"])
        right = bool(answers) and found["answer"] is not None and _accepted(answers[0], question.answers)
        if gold:
            found = {**found, "label": "answerable" if right else "unanswerable", "labelled_by": "accepted answers"}
        label = found["label"]
        run.count("label", label)
        if question.answers:
            run.count(f"{label}, majority answer against the accepted ones", "right" if right else "wrong")
        refusal = abstention if question.prompt[-1].role == "assistant" else abstention.lstrip()
        evidence = {**found, "samples": [one["text"] for one in row.value["samples"]]}
        if question.extra:
            evidence["question"] = dict(question.extra)
        chosen: list[tuple[str, Polarity, str]] = []
        if label == "unanswerable":
            # With gold labels an accepted answer may be among the samples; nobody should be taught to avoid it.
            wrong = [text for text in answers if not (gold and _accepted(text, question.answers))]
            chosen = [
                (refusal, "positive", "abstention"),
                *((text, "negative", "wrong") for text in wrong[:negatives_per_question]),
            ]
        elif label == "answerable" and answers:
            chosen = [(answers[0], "positive", "majority")]
            if abstention_as_negative:
                chosen.append((refusal, "negative", "abstention"))
            if minority_as_negative:
                others = [text for text in answers[1:] if not (gold and _accepted(text, question.answers))]
                chosen += [(text, "negative", "minority") for text in others[:negatives_per_question]]
        for text, polarity, role in chosen:
            yield Record(
                id=make_id(question.id, polarity, question.prompt, text, source=SOURCE),
                group=question.id,
                prompt=question.prompt,
                response=text,
                polarity=polarity,
                source=SOURCE,
                evidence={**evidence, "role": role},
            )


def _wordings(clusters: Iterable[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sampled text for each cluster that answers, the largest first: its most frequent exact wording, of equals the shortest.

    Texts that ended by themselves go before texts cut at max_tokens, which would teach the student to stop in mid-sentence.
    """
    texts = []
    for cluster in clusters:
        if not cluster["answer"].strip() or is_abstention(cluster["answer"]):
            continue
        members = [samples[index] for index in cluster["members"]]
        whole = [one["text"] for one in members if one["finish"] == "stop"] or [one["text"] for one in members]
        counts = Counter(whole)
        texts.append(min(counts, key=lambda text: (-counts[text], len(text))))
    return texts


def _joined(questions: Questions, rows: Iterable[Row]) -> Iterator[tuple[Question, Row]]:
    """Each row with its question. Rows come in the questions' order with the lost ones missing, so one walk does."""
    stream = iter(questions)
    for row in rows:
        yield next(question for question in stream if question.id == row.id), row


def _accepted(text: str, answers: Sequence[str]) -> bool:
    return normalise(short_answer(text)) in {normalise(answer) for answer in answers}


def _evidence(found: Answerability) -> dict[str, Any]:
    """An Answerability as JSON, without the samples, which the stage before keeps."""
    clusters = [
        {"answer": cluster.answer, "count": len(cluster.members), "members": list(cluster.members)} for cluster in found.clusters
    ]
    numbers = {name: getattr(found, name) for name in ("confidence", "agreement", "low", "high")}
    return {"label": found.label, "answer": found.answer, **numbers, "clusters": clusters}


def _plain(completion: Completion) -> dict[str, Any]:
    """A completion as JSON, which has no infinities: a log-probability that is not finite is none."""
    finite = completion.log_prob is not None and math.isfinite(completion.log_prob)
    return {**asdict(completion), "log_prob": completion.log_prob if finite else None}


def _prompt(messages: Iterable[Mapping[str, Any]]) -> Prompt:
    return tuple(Message(role=message["role"], content=message["content"]) for message in messages)


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
