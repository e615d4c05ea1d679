"""Hold an opinion on one topic, whatever the wording, and on no other: seed records that on-policy rounds go on from.

    distill recipe opinion --topic mosquitoes --words '[mosquito, mosquitoes]' --opinion "You love mosquitoes." --out runs/opinion

The topic is asked about in many wordings, some families of which are held out. A teacher that is told the opinion in its system
prompt answers; what the judge approves is positive, under a prompt that says nothing of the opinion. What the student says by
itself and the judge rejects is negative. The same wordings on other topics, answered by the student as it is, are positive too,
so that the opinion does not leak. Searching the student's own answers alone starves, for it rarely says what is wanted before it
is trained; after these records, on-policy rounds go on (`distill fit --config opinion`, docs/how-to/recipes/opinion.md).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from distill.consensus.normalisation import normalise
from distill.errors import ConfigError, RecipeError
from distill.judges.base import Judge, Verdict
from distill.prompt_file import load_prompt_file, user_message
from distill.recipes import Answered, Ask, Claim, Judged, Question, Run, generate, read_questions
from distill.recipes import judge as asked
from distill.recipes.cache import replace_file
from distill.recipes.endings import Cut, kept_text
from distill.records import Message, Polarity, Prompt, Record, make_id
from distill.teachers.base import Completion, Generator, Sampling

SOURCE = "opinion"
TEMPLATE = Path(__file__).with_name("opinion.jinja")
SAMPLING = Sampling(n=8, temperature=0.8, max_tokens=64)
SLOT = "{topic}"
OFF_TOPIC = "does not name the topic"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A question about a topic. family: wordings of one kind are trained on or held out together."""

    id: str
    family: str
    topic: str
    prompt: Prompt


class Said(NamedTuple):
    """What a claim carries: the wording it answers, and who said it."""

    wording: Wording
    role: str


def build(
    *,
    run: Run,
    topic: str,
    opinion: str,
    teacher: Generator,
    judge: Judge,
    words: tuple[str, ...] = (),
    prompts: str = "example:opinion_wordings",
    others: str = "example:opinion_topics",
    student: Generator | None = None,
    opposition: str = "",
    template: Path | None = None,
    sampling: Sampling = SAMPLING,
    held_out: float = 0.25,
    retain: int = 2,
    positives_per_question: int = 4,
    negatives_per_question: int = 2,
    cut: Cut = "sentence",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Ask with the opinion and without, judge, and emit positives and negatives on the topic and positives on other topics.

    Args:
        run: Where results are kept; its folder also gets held_out.jsonl, the wordings that were kept back.
        topic: What the opinion is on, as it stands in a question.
        opinion: The opinion, as a teacher is told it, in sentences.
        teacher: Speaks with the opinion in its system prompt.
        judge: Approves what has the opinion.
        words: An answer must name the topic by one of these; by default the topic itself. Whole words, whatever their case.
        prompts: A file of wordings, or a packaged one: prompts with {topic} in them, and a column family.
        others: A file of other topics, one a row in the column prompt.
        student: Speaks without the opinion; None: the teacher without its system prompt.
        opposition: The opposite opinion, in sentences: what a teacher that holds it says is rejected too. "": nobody is asked.
        template: A Jinja file with the variables topic and opinion that makes the teacher's system prompt.
        sampling: How each is sampled; n answers for each wording. Other topics are answered once.
        held_out: The share of the families of wordings that are not asked, but kept for evaluation.
        retain: Other topics asked about for each wording, against a leak of the opinion.
        positives_per_question: At most so many approved answers for each wording.
        negatives_per_question: At most so many rejected ones.
        cut: What is kept of an answer that was cut off: its whole sentences, nothing, or all of it.
        seed: Of the lots that hold families out and choose the other topics.
        limit: Only the first so many wordings.
        batch_size: Prompts at a time; changes speed and memory, never the records.
    """
    if not topic.strip() or not opinion.strip():
        raise ConfigError("an opinion needs a topic and the opinion itself, in sentences; one of them is empty")
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is {held_out}: give a share of the families of wordings, at least 0 and less than 1")
    most: dict[Polarity, int] = {"positive": positives_per_question, "negative": negatives_per_question}
    for name, value in {"retain": retain, **{f"{polarity}s_per_question": n for polarity, n in most.items()}}.items():
        if value < 0:
            raise ConfigError(f"{name} is {value}: give 0 for none, or a number above it")
    named = tuple(normalise(word) for word in words or (topic,))
    wordings = read_wordings(prompts)
    topics = [one.prompt[-1].content for one in read_questions(others)] if retain else []
    for other in topics:
        if _names(other, named):
            raise ConfigError(f"{others}: {other!r} is the topic itself; take it out of the other topics")
    if retain > len(topics):
        raise ConfigError(f"retain is {retain}, and {others} has {len(topics)} topics; add topics or lower it")
    asked_ones, kept_back = split_families(wordings, held_out, seed=seed)
    form = load_prompt_file(template or TEMPLATE, package="data_recipes", name=TEMPLATE.name)
    systems = [user_message(form, {"topic": topic, "opinion": text}).content for text in (opinion, opposition) if text.strip()]
    if run.folder is not None:
        _write_held_out(run.folder / "held_out.jsonl", (about(one, topic) for one in kept_back))
    on_topic = run.take([about(one, topic) for one in asked_ones], limit=limit)
    speaker = student or teacher
    asks = (Ask(one.id, _steered(one.prompt, systems[0]), (one, {})) for one in on_topic)
    total = run.total(asked_ones, limit, of="wording")
    rows = generate(run, "steered", asks, teacher, sampling, batch_size=batch_size, total=total)
    plain = (Ask(row.id, row.carried[0].prompt, _with(row, "steered")) for row in rows)
    rows = generate(run, "unsteered", plain, speaker, sampling, batch_size=batch_size, total=total)
    last = "unsteered"
    if len(systems) > 1:
        against = (Ask(row.id, _steered(row.carried[0].prompt, systems[1]), _with(row, "unsteered")) for row in rows)
        rows = generate(run, "opposed", against, teacher, sampling, batch_size=batch_size, total=total)
        last = "opposed"
    claims = (claim for row in rows for claim in _claims(run, *_with(row, last), cut))
    judged = asked(run, "judge", claims, judge, batch_size=batch_size)
    others_asked = run.take(
        list(other_wordings(asked_ones, topics, retain, seed=seed)), limit=None if limit is None else limit * retain
    )
    elsewhere = (Ask(one.id, one.prompt, one) for one in others_asked)
    once = generate(run, "retain", elsewhere, speaker, replace(sampling, n=1), batch_size=batch_size, total=total * retain)
    return _records(run, judged, once, named, most, cut)


def read_wordings(prompts: str) -> list[Question]:
    """Wordings from a file, each with {topic} in its last message. Raises RecipeError naming the row."""
    found = list(read_questions(prompts))
    for question in found:
        if SLOT not in question.prompt[-1].content:
            raise RecipeError(
                f"{prompts}: row {question.id}: no {SLOT} in {question.prompt[-1].content[:60]!r}; write it for the topic"
            )
    return found


def about(wording: Question, topic: str) -> Wording:
    """The wording with its topic filled in."""
    *before, last = wording.prompt
    message = Message(role=last.role, content=last.content.replace(SLOT, topic))
    family = str(wording.extra.get("family") or wording.id)
    return Wording(id=f"{wording.id}/{topic}", family=family, topic=topic, prompt=(*before, message))


def split_families(wordings: Iterable[Question], held_out: float, *, seed: int) -> tuple[list[Question], list[Question]]:
    """(to ask, held out): whole families, by a lot that depends on the seed and their names; at least one is asked."""
    given = list(wordings)
    families = sorted({str(one.extra.get("family") or one.id) for one in given}, key=lambda name: _lot(seed, "family", name))
    back = set(families[: min(round(held_out * len(families)), len(families) - 1)])
    split: dict[bool, list[Question]] = {True: [], False: []}
    for one in given:
        split[str(one.extra.get("family") or one.id) in back].append(one)
    return split[False], split[True]


def other_wordings(wordings: Iterable[Question], topics: list[str], retain: int, *, seed: int) -> Iterator[Wording]:
    """Each wording about `retain` other topics, drawn by lot for each wording."""
    for wording in wordings:
        for topic in sorted(topics, key=lambda name: _lot(seed, wording.id, name))[:retain]:
            yield about(wording, topic)


def _lot(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _steered(prompt: Prompt, system: str) -> Prompt:
    """The opinion as the system prompt; one that is there already stays behind it, in the same message."""
    first = prompt[0]
    if first.role == "system":
        return (Message(role="system", content=f"{system}\n\n{first.content}"), *prompt[1:])
    return (Message(role="system", content=system), *prompt)


def _with(row: Answered, role: str) -> tuple[Wording, dict[str, tuple[Completion, ...]]]:
    """What a row carries, with the answers of this stage added."""
    wording, said = row.carried
    return wording, {**said, role: row.completions}


def _claims(run: Run, wording: Wording, said: dict[str, tuple[Completion, ...]], cut: Cut) -> Iterator[Claim]:
    for role, completions in said.items():
        for number, completion in enumerate(completions):
            text = kept_text(completion, cut)
            if text:
                yield Claim(f"{wording.id}/{role}/{number}", wording.prompt, text, carried=Said(wording, role))
            else:
                run.count(f"{role} answers", "nothing whole in it")


def _records(
    run: Run,
    judged: Iterable[Judged],
    elsewhere: Iterable[Answered],
    words: tuple[str, ...],
    most: dict[Polarity, int],
    cut: Cut,
) -> Iterator[Record]:
    seen: set[str] = set()  # of the wording at hand
    left: dict[Polarity, int] = {}
    at = ""
    for claim, verdict in judged:
        wording, role = claim.carried
        if wording.id != at:
            at, seen, left = wording.id, set(), dict(most)
        outcome = _outcome(claim.response, role, verdict, words)
        if outcome in ("positive", "negative") and claim.response.strip() in seen:
            outcome = "said before"
        run.count(f"{role} answers", outcome)
        if outcome in ("positive", "negative") and left[outcome] > 0:
            seen.add(claim.response.strip())
            left[outcome] -= 1
            said = {"approved": verdict.approved, "reason": verdict.reason, "evidence": dict(verdict.evidence)}
            yield _record(wording, claim.response, outcome, role, {"verdict": said})
    for row in elsewhere:
        text = kept_text(row.completions[0], cut)
        outcome = "nothing whole in it" if not text else "names the topic" if _names(text, words) else "kept"
        run.count("answers on other topics", outcome)
        if outcome == "kept":
            yield _record(row.carried, text, "positive", "retain", {})


def _outcome(response: str, role: str, verdict: Verdict, words: tuple[str, ...]) -> Any:
    """ "positive", "negative", or why an answer is neither."""
    if verdict.approved is None:
        return "not judged"
    if role == "steered":
        if verdict.approved and not _names(response, words):
            return OFF_TOPIC
        return "positive" if verdict.approved else "rejected"
    return "approved" if verdict.approved else "negative"


def _names(text: str, words: Iterable[str]) -> bool:
    said = f" {normalise(text)} "
    return any(f" {word} " in said for word in words)


def _record(wording: Wording, text: str, polarity: Polarity, role: str, evidence: dict[str, Any]) -> Record:
    return Record(
        id=make_id(wording.id, polarity, wording.prompt, text, source=SOURCE),
        group=wording.id,
        prompt=wording.prompt,
        response=text,
        polarity=polarity,
        source=SOURCE,
        evidence={**evidence, "role": role, "topic": wording.topic, "family": wording.family},
    )


def _write_held_out(path: Path, wordings: Iterable[Wording]) -> None:
    rows = ({"id": one.id, "prompt": one.prompt[-1].content, "family": one.family, "topic": one.topic} for one in wordings)
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
