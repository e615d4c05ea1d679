"""Questions and answers from documents: written by a teacher, answered again by it, and kept where both answers are the same.

    distill recipe questions --documents wiki.txt --teacher.model TEACHER --out runs/questions

The teacher reads a passage and writes questions with short answers. A pair is kept if its answer stands in the passage, nobody
asked it before, the question can be understood alone, and the teacher, asked its own question with the passage before it, gives
the same answer. The record's prompt is the question (knowledge goes into the weights), or the passage and the question.

Source: round-trip consistency, Alberti et al. 2019 (arXiv:1906.05416), sec. 2. Deviation: one teacher writes and answers, where
they train two models.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Template

from distill.consensus.abstention import is_abstention
from distill.consensus.base import Equivalence
from distill.consensus.equivalence import AnyOf, NormalisedMatch
from distill.consensus.normalisation import normalise, short_answer
from distill.consensus.numbers import NumberMatch
from distill.errors import ConfigError, RecipeError
from distill.judges.passages import Passage, read_passages
from distill.prompt_file import load_prompt_file, nonce, user_message
from distill.recipes import Answered, Ask, Item, Lost, Run, generate
from distill.recipes.endings import kept_text
from distill.recipes.salience import detokenised
from distill.recipes.sources import example_file, find_source
from distill.records import Message, Polarity, Prompt, Record, make_id
from distill.teachers.base import Completion, Generator, Sampling

SOURCE = "questions"
SAMPLING = Sampling(n=1, temperature=0.7, max_tokens=96)
EQUIVALENCE = AnyOf(equivalences=(NormalisedMatch(), NumberMatch()))
NEAR = 0.7  # shared words, as a share of all words of two questions, from which on they ask the same
WRITE, ANSWER = (Path(__file__).with_name(f"questions_{name}.jinja") for name in ("write", "answer"))

RoundTrip = Literal["same", "contains", "none"]


class Pair(NamedTuple):
    """A question with its answer, and the passage that both were read from."""

    question: str
    answer: str
    passage: Passage


def build(
    *,
    run: Run,
    documents: str,
    teacher: Generator,
    columns: tuple[str, ...] = ("text",),
    longest: int = 100,
    shortest: int = 20,
    tokenised: bool = False,
    number: int = 2,
    write_template: Path | None = None,
    answer_template: Path | None = None,
    shots: str | None = "example:question_shots",
    passage_in_prompt: bool = False,
    in_passage: bool = True,
    round_trip: RoundTrip = "same",
    equivalence: Equivalence = EQUIVALENCE,
    student: Generator | None = None,
    only_new: bool = False,
    wrong_as_negative: bool = False,
    sampling: Sampling = SAMPLING,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Write questions, check them, answer them again, and emit one positive record for each pair that holds.

    Args:
        run: Where results are kept.
        documents: A .txt or .md file (a paragraph a line, with headings), a .jsonl or .parquet file, or `example:NAME`.
        teacher: Writes the questions, and answers them.
        columns: Of .jsonl and .parquet, those with the text.
        longest: Words of a passage at most; a longer paragraph gives several, cut between sentences.
        shortest: Words of a passage at least; what is shorter, such as a caption, is left out.
        tokenised: Undo the spaces and marks of WikiText, and leave out passages with unknown words.
        number: Questions asked for in each reply.
        write_template: A Jinja file with the variables passage, number and nonce that asks for questions.
        answer_template: A Jinja file with the variables passage ("" for none), question and nonce that asks one.
        shots: Passages with good pairs that the teacher is shown first, as JSONL with passage and pairs; None: none.
        passage_in_prompt: Whether a record's prompt has the passage (to learn to read) or the question alone (to learn the fact).
        in_passage: Keep only answers that stand in the passage, word for word but for case, accents and punctuation.
        round_trip: Keep only pairs whose second answer is the same by the equivalence, or contains the first one; or keep all.
        equivalence: Whether two answers are the same.
        student: Answers each question without the passage, to tell what is new to it. None: nobody is asked.
        only_new: Leave out what the student knows without the passage.
        wrong_as_negative: Whether what the student says instead, without the passage, is a negative; of an answer that was cut
            off, its whole sentences.
        sampling: How the questions are written; n replies for each passage. Answers are greedy.
        limit: Only the first so many passages.
        batch_size: Prompts at a time; changes speed and memory, never the records.
    """
    if number < 1:
        raise ConfigError(f"number is {number}: ask for at least 1 question in each reply")
    if student is None and (only_new or wrong_as_negative):
        named = "only_new" if only_new else "wrong_as_negative"
        raise ConfigError(f"{named} needs to know what the student says without the passage: give --student")
    if not 1 <= shortest <= longest:
        raise ConfigError(
            f"passages of {shortest} to {longest} words: the shortest has at least 1, and at most as many as the longest"
        )
    passages = Documents(source=documents, columns=columns, longest=longest, shortest=shortest, tokenised=tokenised)
    total = run.total(passages, limit, of="passage")
    if not total:
        raise RecipeError(f"{documents}: no passage of at least {shortest} words in it; lower shortest, or name the columns")
    writer = load_prompt_file(write_template or WRITE, package="data_recipes", name=WRITE.name)
    asker = load_prompt_file(answer_template or ANSWER, package="data_recipes", name=ANSWER.name)
    examples = read_shots(shots)
    asks = (Ask(one.id, _write(writer, examples, one.whole, number), one) for one in run.take(passages, limit=limit))
    replies = generate(run, "write", asks, teacher, sampling, batch_size=batch_size, total=total)
    pairs = _checked(run, replies, in_passage=in_passage, alone=not passage_in_prompt)
    short = Sampling(temperature=0.0, max_tokens=32)
    if round_trip != "none":
        again = (Ask(name, _answer(asker, examples, pair), pair) for name, pair in pairs)
        answers = generate(run, "answer_again", again, teacher, short, batch_size=batch_size)
        pairs = _agreeing(run, answers, equivalence, round_trip)
    if student is None:
        rows: Iterator[tuple[str, Pair, Completion | None]] = ((name, pair, None) for name, pair in pairs)
    else:
        plain = (Ask(name, (_question(asker, "", pair.question),), pair) for name, pair in pairs)
        untold = generate(run, "answer_without", plain, student, short, batch_size=batch_size)
        rows = ((row.id, row.carried, row.completions[0]) for row in untold)
    return _records(
        run,
        rows,
        equivalence=equivalence,
        reader=asker if passage_in_prompt else None,
        only_new=only_new,
        wrong_as_negative=wrong_as_negative,
    )


_UNKNOWN = "<unk>"


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The passages of a file that are worth asking about, streamed each time it is iterated."""

    source: str
    columns: tuple[str, ...]
    longest: int
    shortest: int
    tokenised: bool

    def __iter__(self) -> Iterator[Passage]:
        kind, colon, name = self.source.partition(":")
        path = example_file(name) if colon and kind == "example" else Path(self.source)
        for passage in read_passages(path, columns=self.columns, words=self.longest):
            if len(passage.text.split()) >= self.shortest and not (self.tokenised and _UNKNOWN in passage.text):
                yield replace(passage, text=self._plain(passage.text), title=self._plain(passage.title))

    def __len__(self) -> int:
        return self._read[0]

    def fingerprint(self) -> str:
        """32 hexadecimal digits that name what all passages say, in their order."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[int, str]:
        """How many passages, and their fingerprint; read once, and not held."""
        number, content = 0, hashlib.sha256()
        for passage in self:
            number += 1
            content.update(json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n")
        return number, content.hexdigest()[:32]

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return detokenised(text) if self.tokenised else text


_PAIR = re.compile(
    r"^\W*(?:Q|Question)\s*\d*\s*[:.)]\s*(?P<question>\S[^\n]*?)\s*\n\s*\W*(?:A|Answer)\s*\d*\s*[:.)]\s*(?P<answer>\S[^\n]*?)\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_POINTING = re.compile(
    r"\b(?:th(?:e|is|at)|above|given|following) (?:passage|text|article|paragraph|excerpt|document|sentence|author)\b|"
    r"\bmentioned\b",
    re.IGNORECASE,
)


def read_pairs(reply: str) -> list[tuple[str, str]]:
    r"""The questions and answers of a reply, in the form `Q: ...` and `A: ...` on two lines; other lines are left out.

    >>> read_pairs("Q: How long is the Nile?\nA: 6,650 km\n\nQ2. Where does it")
    [('How long is the Nile?', '6,650 km')]
    """
    return [(match["question"], match["answer"]) for match in _PAIR.finditer(reply)]


def _checked(run: Run, replies: Iterable[Answered], *, in_passage: bool, alone: bool) -> Iterator[tuple[str, Pair]]:
    """The pairs that can be read from the replies and hold without asking anybody; the others are lost by name."""

    def read(items: list[Item]) -> list[Any]:
        found = ([pair for reply in item.value for pair in read_pairs(reply)] for item in items)
        return [pairs or Lost("no question with an answer could be read in the reply") for pairs in found]

    asked: set[int] = set()  # hashes of all questions kept so far, as a number takes less than its text
    here: list[Pair] = []  # the pairs of the passage at hand

    def check(items: list[Item]) -> list[Any]:
        results: list[Any] = []
        for item in items:
            pair = Pair(*item.value, item.carried)
            if here and here[0].passage != pair.passage:
                here.clear()
            name = hash(normalise(pair.question))
            wrong = _wrong(pair, in_passage=in_passage, alone=alone)
            if not wrong and name in asked:
                wrong = "asked before"
            elif not wrong and any(_near(pair, other) for other in here):
                wrong = "asked before in other words"
            if not wrong:  # a pair that is not kept must not cost a good one with the same question
                asked.add(name)
                here.append(pair)
            results.append(Lost(wrong) if wrong else True)
        return results

    rows = run.map(
        "read",
        (Item(row.id, [one.text for one in row.completions], row.carried) for row in replies),
        read,
        key={"version": 1},
        keep=False,
    )
    items = (Item(f"{row.id}/{n}", pair, row.carried) for row in rows for n, pair in enumerate(row.result, start=1))
    # Not kept: what was asked before depends on all rows before, and telling it costs nothing.
    for row in run.map("check", items, check, key={"version": 1}, keep=False):
        yield row.id, Pair(*row.value, row.carried)


def _wrong(pair: Pair, *, in_passage: bool, alone: bool) -> str:
    """Why a pair is no good, in a few words; "" where nothing is found."""
    question, answer = f" {normalise(pair.question)} ", f" {normalise(pair.answer)} "
    if not pair.question.endswith(("?", "？", "؟")):
        return "no question"
    if is_abstention(pair.answer):
        return "the answer is an abstention"
    if in_passage and answer not in f" {normalise(pair.passage.text)} ":
        return "the answer is not in the passage"
    if answer in question:
        return "the question gives the answer away"
    if alone and _POINTING.search(pair.question):
        return "the question points at the passage"
    return ""


def _near(pair: Pair, other: Pair) -> bool:
    """Whether two pairs of one passage have the same answer and most words of their questions in common."""
    first, second = (set(normalise(one.question).split()) for one in (pair, other))
    same = normalise(pair.answer) == normalise(other.answer)
    return same and len(first & second) >= NEAR * len(first | second)


def _agreeing(run: Run, rows: Iterable[Answered], equivalence: Equivalence, kind: RoundTrip) -> Iterator[tuple[str, Pair]]:
    """The pairs whose question has the same answer when it is asked with the passage; the others are lost by name."""

    def compare(items: list[Item]) -> list[Any]:
        return [
            True
            if _agrees(item.value["answer"], item.value["again"], equivalence, kind)
            else Lost("answered otherwise when asked")
            for item in items
        ]

    items = (Item(row.id, {"answer": row.carried.answer, "again": row.completions[0].text}, row.carried) for row in rows)
    for row in run.map("round_trip", items, compare, key={"version": 1}, keep=False):
        yield row.id, row.carried


def _agrees(answer: str, again: str, equivalence: Equivalence, kind: RoundTrip) -> bool:
    if is_abstention(again):
        return False
    first, second = short_answer(answer), short_answer(again)
    if equivalence.same(first, second):
        return True
    return kind == "contains" and f" {normalise(first)} " in f" {normalise(second)} "


def _records(
    run: Run,
    rows: Iterable[tuple[str, Pair, Completion | None]],
    *,
    equivalence: Equivalence,
    reader: Template | None,
    only_new: bool,
    wrong_as_negative: bool,
) -> Iterator[Record]:
    for name, pair, without in rows:
        evidence: dict[str, Any] = {"passage": pair.passage.whole, "passage_id": pair.passage.id}
        known, instead = False, ""
        if without is not None:
            known = _agrees(pair.answer, without.text, equivalence, "contains")
            run.count("without the passage the student", "knows it" if known else "does not know it")
            evidence |= {"without_passage": without.text, "known": known}
            instead = kept_text(without)  # half a sentence is not yet false, and nobody should learn from its end
            if wrong_as_negative and not known and not instead:
                run.count("no negative", "nothing whole in what the student says")
        if known and only_new:
            continue
        question = Message(role="user", content=pair.question)
        prompt = (question if reader is None else _question(reader, pair.passage.whole, pair.question),)
        texts: list[tuple[str, Polarity]] = [(pair.answer, "positive")]
        if wrong_as_negative and not known and instead and not is_abstention(instead):
            texts.append((instead, "negative"))
        for text, polarity in texts:
            yield Record(
                id=make_id(name, polarity, prompt, text, source=SOURCE),
                group=name,
                prompt=prompt,
                response=text,
                polarity=polarity,
                source=SOURCE,
                evidence={**evidence, "answer": pair.answer},
            )


class Shot(NamedTuple):
    """A passage with good pairs, shown to the teacher before it is asked."""

    passage: str
    pairs: tuple[tuple[str, str], ...]


def read_shots(source: str | None) -> tuple[Shot, ...]:
    """Passages with pairs from JSONL: `{"passage": ..., "pairs": [{"question": ..., "answer": ...}]}`; none for None.

    Raises RecipeError with file and line.
    """
    found = []
    for where, row in () if source is None else find_source(source).rows():
        passage, pairs = row.get("passage"), row.get("pairs")
        good = isinstance(passage, str) and isinstance(pairs, list) and pairs
        if not good or not all(isinstance(pair, dict) and {"question", "answer"} <= set(pair) for pair in pairs):
            found_columns = ", ".join(row) or "none"
            raise RecipeError(
                f"{where}: expected a passage and pairs of question and answer; columns found: {found_columns}. Write "
                '{"passage": "...", "pairs": [{"question": "...", "answer": "..."}]}'
            )
        found.append(Shot(str(passage), tuple((str(pair["question"]), str(pair["answer"])) for pair in pairs)))
    return tuple(found)


def _write(form: Template, shots: Iterable[Shot], passage: str, number: int) -> Prompt:
    """The shots as turns of a conversation, then the passage: a small model follows an example where it ignores a rule."""

    def ask(text: str, count: int) -> Message:
        return user_message(form, {"passage": text, "number": count, "nonce": nonce(text)})

    turns: list[Message] = []
    for shot in shots:
        reply = "\n".join(f"Q: {question}\nA: {answer}" for question, answer in shot.pairs)
        turns += [ask(shot.passage, len(shot.pairs)), Message(role="assistant", content=reply)]
    return (*turns, ask(passage, number))


def _answer(form: Template, shots: Iterable[Shot], pair: Pair) -> Prompt:
    turns: list[Message] = []
    for shot in shots:
        question, answer = shot.pairs[0]
        turns += [_question(form, shot.passage, question), Message(role="assistant", content=answer)]
    return (*turns, _question(form, pair.passage.whole, pair.question))


def _question(form: Template, passage: str, question: str) -> Message:
    return user_message(form, {"passage": passage, "question": question, "nonce": nonce(passage, question)})


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
