"""Teach "I don't know": sample every question, label it by consensus, keep what the model knows and deny what it guesses.

    python -m data_recipes.idk_consensus --config configs/recipe/idk_consensus.yaml --prompts questions.jsonl --out runs/idk

One model, which may be the student itself, ends each question in one of three ways:
- unanswerable: the abstention is positive, the wrong sampled answers are negative, the most frequent first;
- answerable: the majority answer is positive; the abstention is negative (against over-refusal); other answers too if asked for;
- uncertain: no record. It is counted, and trained on neither way.

With a student beside the teacher, the teacher's label decides what is positive, and what is negative is the student's own:
- both answerable and the same: the teacher's answer (distillation);
- both answerable, another answer: the teacher's answer, and as the most valuable negative the student's, of which it is sure;
- the teacher answerable, the student not: the teacher's answer; or the abstention where `teach_unknown` is false;
- the teacher unanswerable: the abstention, and what the student says instead as negatives; no record where the student is sure,
  unless `unconfirmed` says to deny it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import distill.consensus
from distill.consensus import ConsensusLabeller, LogProbLabeller, NormalisedMatch, is_abstention, normalise, short_answer
from distill.consensus.adaptive import sample_until_settled
from distill.consensus.base import Answerability, Equivalence, Labeller
from distill.errors import ConfigError
from distill.recipes import Answered, Ask, Item, Question, Run, generate, read_questions
from distill.recipes.asking import prompt_json
from distill.recipes.key import code_version, describe
from distill.records import Polarity, Prompt, Record, make_id
from distill.teachers.base import Completion, Generator, Price, Sampling, Usage

SOURCE = "idk_consensus"
LABELLER = ConsensusLabeller()
SAMPLING = Sampling(n=10, max_tokens=32)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """How labels become records: the options of `build` that need no model."""

    abstention: str
    negatives_per_question: int
    abstention_as_negative: bool
    minority_as_negative: bool
    teach_unknown: bool
    mistake_weight: float
    spare_shared: bool
    unconfirmed: str
    gold: bool
    equivalence: Equivalence


class _Side(NamedTuple):
    """One model on one question: its label with all evidence as JSON, and its answers, the most frequent first."""

    found: dict[str, Any]
    answers: list[_Answer]

    @property
    def label(self) -> str:
        return str(self.found["label"])


class _Answer(NamedTuple):
    """What a cluster says, and the sampled wording that says it."""

    answer: str
    text: str


class _Chosen(NamedTuple):
    text: str
    polarity: Polarity
    role: str
    weight: float = 1.0


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    student: Generator | None = None,
    labeller: Labeller = LABELLER,
    sampling: Sampling = SAMPLING,
    rounds: tuple[int, ...] = (),
    abstention: str = " I don't know.",
    negatives_per_question: int = 2,
    abstention_as_negative: bool = True,
    minority_as_negative: bool = False,
    teach_unknown: bool = True,
    mistake_weight: float = 1.0,
    spare_shared: bool = True,
    unconfirmed: Literal["skip", "deny"] = "skip",
    gold: bool = False,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Sample, label, and emit records; questions with one id share a group.

    Args:
        run: Where results are kept.
        prompts: Questions, as a file or a name (facts:countries, example:NAME, datasets:NAME); accepted answers are optional.
        teacher: The model that is sampled: the student itself, or a teacher whose knowledge the student shall have.
        student: Sampled beside the teacher, so that negatives are what the student says. None: the teacher's own samples.
        labeller: Decides from the samples which questions a model can answer.
        sampling: How to sample; n answers for each question and model.
        rounds: Sample in rounds, such as [4, 3, 3], and stop where the label is settled; replaces sampling.n. Consensus only.
        abstention: What to say where nothing is known. Its leading space counts only where it continues a started answer.
        negatives_per_question: At most so many negative answers for each question.
        abstention_as_negative: Whether an answerable question has the abstention as a negative.
        minority_as_negative: Whether an answerable question has other answers as negatives (the student's, where there is one).
        teach_unknown: Whether the student learns what the teacher knows and it does not; else it learns to abstain there.
        mistake_weight: Weight of a negative that the student is sure of; the other records have weight 1.
        spare_shared: Whether an answer is no negative if the teacher gave it too, however rarely, or if one of the two holds the
            other whole, as "Asia, in the south" holds "Asia".
        unconfirmed: What the student is sure of and the teacher is not: no record, or the abstention with the answer as a
            negative. Measured, about half of such answers are right.
        gold: Label by the accepted answers instead, as an upper bound: answerable where the majority answer is accepted.
        limit: Only the first so many questions.
        batch_size: Questions sampled at a time; changes speed and memory, never the records.
    """
    _check(labeller, sampling, rounds, abstention, negatives_per_question, mistake_weight)
    if student is None and not teach_unknown:
        raise ConfigError("teach_unknown=False needs a student, whose own knowledge is then the limit; give --student")
    source = read_questions(prompts)
    total = run.total(source, limit, of="question")
    if gold and not any(question.answers for question in source):
        raise ConfigError(
            f"{prompts}: gold=True needs accepted answers, and no question has any; column: {source.answers_column!r}"
        )
    draw = replace(sampling, n=sum(rounds)) if rounds else sampling

    def samples(name: str, asks: Iterable[Ask], model: Generator) -> Iterator[Answered]:
        if rounds and isinstance(labeller, ConsensusLabeller):
            model = _InRounds(generator=model, labeller=labeller, rounds=rounds)
        log_probs = isinstance(labeller, LogProbLabeller)
        return generate(run, name, asks, model, draw, batch_size=batch_size, total=total, log_probs=log_probs)

    asks = (Ask(question.id, question.prompt, question) for question in run.take(source, limit=limit))
    told: Iterator[tuple[Question, _Side, _Side | None]]
    if student is None:
        told = ((one.carried, side, None) for one, side in _labels(run, "label", samples("sample", asks, teacher), labeller))
    else:
        known = _labels(run, "label", samples("sample", asks, teacher), labeller)
        again = (Ask(one.id, one.prompt, (one.carried, side)) for one, side in known)
        pairs = _labels(run, "label_student", samples("sample_student", again, student), labeller)
        told = ((*one.carried, side) for one, side in pairs)
    choice = _Choice(
        abstention=abstention,
        negatives_per_question=negatives_per_question,
        abstention_as_negative=abstention_as_negative,
        minority_as_negative=minority_as_negative,
        teach_unknown=teach_unknown,
        mistake_weight=mistake_weight,
        spare_shared=spare_shared,
        unconfirmed=unconfirmed,
        gold=gold,
        equivalence=labeller.equivalence if isinstance(labeller, ConsensusLabeller | LogProbLabeller) else NormalisedMatch(),
    )
    return _records(run, told, choice)


def _check(
    labeller: Labeller,
    sampling: Sampling,
    rounds: Sequence[int],
    abstention: str,
    negatives_per_question: int,
    mistake_weight: float,
) -> None:
    """Refuse what makes no sense, before anything is read or sampled."""
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
    if not 0 <= mistake_weight < float("inf"):
        raise ConfigError(f"mistake_weight is {mistake_weight}: give a finite number of at least 0; 1 is as much as any record")
    if not abstention.strip() or not is_abstention(abstention):
        raise ConfigError(f"abstention {abstention!r} is not recognised as one, so evaluation would count it as an answer")


@dataclass(frozen=True, kw_only=True)
class _InRounds(Generator):
    """A generator that stops where the label is settled. The labeller decides how many samples there are, so it is in the key."""

    generator: Generator
    labeller: ConsensusLabeller
    rounds: tuple[int, ...]

    def identity(self) -> Mapping[str, Any]:
        rounds = {"rounds": list(self.rounds), "labeller": describe(self.labeller)}
        return {**self.generator.identity(), **rounds}

    @property
    def concurrent(self) -> bool:
        return self.generator.concurrent

    @property
    def price(self) -> Price | None:
        return self.generator.price

    def usage(self) -> Usage:
        return self.generator.usage()

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        self.generator.check(sampling, log_probs=log_probs)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        drawn = sample_until_settled(self.generator, prompts, sampling, self.labeller, rounds=self.rounds)
        return [list(several) for several in drawn.samples]


def _labels(run: Run, name: str, answered: Iterable[Answered], labeller: Labeller) -> Iterator[tuple[Answered, _Side]]:
    """A new threshold labels again and samples nothing; so does any change of the code that labels."""

    def label(items: list[Item]) -> list[Any]:
        return [
            _found(labeller.label(item.carried.prompt, [Completion(**one) for one in item.value["samples"]])) for item in items
        ]

    items = (
        Item(one.id, {"prompt": prompt_json(one.prompt), "samples": [asdict(sample) for sample in one.completions]}, one)
        for one in answered
    )
    key = {"labeller": labeller, "code": code_version(distill.consensus)}
    rows = run.map(name, items, label, key=key, batch_size=1)
    return ((row.carried, _side(row.result, row.carried.completions)) for row in rows)


def _records(run: Run, told: Iterable[tuple[Question, _Side, _Side | None]], choice: _Choice) -> Iterator[Record]:
    for question, teacher, student in told:
        refusal = choice.abstention if question.prompt[-1].role == "assistant" else choice.abstention.lstrip()
        right = bool(teacher.answers) and teacher.found["answer"] is not None and _accepted(teacher.answers[0], question)
        if choice.gold:
            label = "answerable" if right else "unanswerable"
            teacher = teacher._replace(found={**teacher.found, "label": label, "labelled_by": "accepted answers"})
        run.count("label", teacher.label)
        if question.answers:
            run.count(f"{teacher.label}, majority answer against the accepted ones", "right" if right else "wrong")
        evidence = dict(teacher.found)
        if student is None:
            chosen = _alone(teacher, question, refusal, choice)
        else:
            agrees = _agreement(teacher, student, choice.equivalence)
            run.count(f"teacher {teacher.label}, student", agrees)
            evidence |= {"student": student.found, "cell": f"teacher {teacher.label}, student {agrees}"}
            chosen = _together(teacher, student, question, refusal, choice)
        if question.answers:
            evidence["accepted"] = list(question.answers)
        if question.extra:
            evidence["question"] = dict(question.extra)
        for text, polarity, role, weight in chosen:
            if question.answers and polarity == "negative" and role != "abstention":
                found = _accepted(_Answer(short_answer(text), text), question)
                run.count(f"negatives ({role}) against the accepted answers", "right" if found else "wrong")
            yield Record(
                id=make_id(question.id, polarity, question.prompt, text, source=SOURCE),
                group=question.id,
                prompt=question.prompt,
                response=text,
                polarity=polarity,
                weight=weight,
                source=SOURCE,
                evidence={**evidence, "role": role},
            )


def _alone(teacher: _Side, question: Question, refusal: str, choice: _Choice) -> list[_Chosen]:
    """One model's label, and its own samples as negatives."""
    most = choice.negatives_per_question
    if teacher.label == "unanswerable":
        wrong = _never_accepted(teacher.answers, question, choice)[:most]
        return [_Chosen(refusal, "positive", "abstention"), *(_Chosen(one.text, "negative", "wrong") for one in wrong)]
    if teacher.label != "answerable" or not teacher.answers:
        return []
    others: list[_Answer] = []
    if choice.minority_as_negative:
        others = _never_accepted(_unlike(teacher.answers[1:], teacher.answers[:1], choice), question, choice)[:most]
    return [*_known(teacher, refusal, choice), *(_Chosen(one.text, "negative", "minority") for one in others)]


def _together(teacher: _Side, student: _Side, question: Question, refusal: str, choice: _Choice) -> list[_Chosen]:
    """The teacher's label decides what is right; what is wrong is what the student says instead."""
    if teacher.label == "uncertain" or (teacher.label == "answerable" and not teacher.answers):
        return []
    knows = teacher.label == "answerable"
    if not knows and student.label == "answerable" and choice.unconfirmed == "skip":
        return []
    # What the teacher says now and then may be right, or the same in other words.
    given = teacher.answers if choice.spare_shared else teacher.answers[:1] if knows else []
    instead = _unlike(student.answers, given, choice)
    sure = student.answers[:1] if student.label == "answerable" else []
    mistakes = _never_accepted([one for one in sure if one in instead], question, choice)
    guesses = _never_accepted([one for one in instead if one not in sure], question, choice)
    if knows and not choice.teach_unknown and student.label != "answerable":
        if student.label == "uncertain":
            return []
        chosen = [_Chosen(refusal, "positive", "abstention")]
    elif knows:
        chosen = _known(teacher, refusal, choice)
        guesses = guesses if choice.minority_as_negative else []
    else:
        chosen = [_Chosen(refusal, "positive", "abstention")]
    wrong = [_Chosen(one.text, "negative", "mistake", choice.mistake_weight) for one in mistakes]
    wrong += [_Chosen(one.text, "negative", "wrong") for one in guesses]
    return chosen + wrong[: choice.negatives_per_question]


def _known(teacher: _Side, refusal: str, choice: _Choice) -> list[_Chosen]:
    answer = [_Chosen(teacher.answers[0].text, "positive", "majority")]
    return answer + [_Chosen(refusal, "negative", "abstention")] * choice.abstention_as_negative


def _agreement(teacher: _Side, student: _Side, equivalence: Equivalence) -> str:
    """The student's column of the table; where both answer, whether they say the same."""
    if not (teacher.label == student.label == "answerable" and teacher.answers and student.answers):
        return student.label
    same = equivalence.same(teacher.answers[0].answer, student.answers[0].answer)
    return "answerable (the same answer)" if same else "answerable (another answer)"


def _answers(clusters: Iterable[Mapping[str, Any]], samples: Sequence[Completion]) -> list[_Answer]:
    """One sampled text for each cluster that answers, the largest first: its most frequent exact wording, of equals the shortest.

    Texts that ended by themselves go before texts cut at max_tokens, which would teach the student to stop in mid-sentence.
    """
    found = []
    for cluster in clusters:
        if not cluster["answer"].strip() or is_abstention(cluster["answer"]):
            continue
        members = [samples[index] for index in cluster["members"]]
        whole = [one.text for one in members if one.finish == "stop"] or [one.text for one in members]
        counts = Counter(whole)
        found.append(_Answer(cluster["answer"], min(counts, key=lambda text: (-counts[text], len(text)))))
    return found


def _unlike(answers: Sequence[_Answer], given: Sequence[_Answer], choice: _Choice) -> list[_Answer]:
    """Those that say something else than each of `given`.

    With spare_shared an answer that holds another one whole is none of them: "Asia, in the south of it" is not against "Asia".
    """

    def alike(one: str, other: str) -> bool:
        return choice.equivalence.same(one, other) or (choice.spare_shared and (_holds(one, other) or _holds(other, one)))

    return [one for one in answers if not any(alike(one.answer, other.answer) for other in given)]


def _holds(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as whole words."""
    return f" {normalise(answer)} " in f" {normalise(text)} "


def _never_accepted(answers: Sequence[_Answer], question: Question, choice: _Choice) -> list[_Answer]:
    """With gold labels an accepted answer may be among the samples; nobody should be taught to avoid it."""
    return [one for one in answers if not (choice.gold and _accepted(one, question))]


def _accepted(answer: _Answer, question: Question) -> bool:
    return normalise(short_answer(answer.text)) in {normalise(accepted) for accepted in question.answers}


def _side(found: Mapping[str, Any], samples: Sequence[Completion]) -> _Side:
    return _Side({**found, "samples": [sample.text for sample in samples]}, _answers(found["clusters"], samples))


def _found(found: Answerability) -> dict[str, Any]:
    """An Answerability as JSON, without the samples, which the stage before keeps."""
    clusters = [
        {"answer": cluster.answer, "count": len(cluster.members), "members": list(cluster.members)} for cluster in found.clusters
    ]
    numbers = {name: getattr(found, name) for name in ("confidence", "agreement", "low", "high")}
    return {"label": found.label, "answer": found.answer, **numbers, "clusters": clusters}


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
