"""Put a system prompt, or a document, into the weights: the teacher answers with it, the student is trained without it.

    distill recipe persona --system "You are a ship's captain. Be brief." --prompts prompts.jsonl --out runs/persona

Context distillation. Every record's prompt is the plain prompt; what the teacher saw besides (the system prompt, and the
document of the row where there is a column of documents) stands in the evidence only.

Source: Askell et al. 2021 (arXiv:2112.00861), sec. 2.3, context distillation of a prompt; Snell et al. 2022 (arXiv:2209.15189),
who distil instructions, demonstrations and scratch-pads so. Askell et al. train on the teacher's distribution, Snell et al. on
its texts; these records hold its texts. Deviation: negatives, the student's answers without the context.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template

from distill.errors import ConfigError, RecipeError
from distill.judges.base import Judge, Verdict
from distill.prompt_file import load_prompt_file, nonce, user_message
from distill.recipes import Answered, Ask, Claim, Question, Run, generate, read_questions
from distill.recipes import judge as asked
from distill.recipes.endings import Cut, kept_text
from distill.records import Message, Polarity, Prompt, Record, make_id
from distill.teachers.base import Completion, Generator, Sampling

SOURCE = "persona"
TEMPLATE = Path(__file__).with_name("persona.jinja")
SAMPLING = Sampling(n=1, temperature=0.7, max_tokens=128)


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    system: str = "",
    template: Path | None = None,
    document_column: str | None = None,
    student: Generator | None = None,
    judge: Judge | None = None,
    sampling: Sampling = SAMPLING,
    cut: Cut = "sentence",
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Ask the teacher with the context, and emit its answers to the prompts without it.

    Args:
        run: Where results are kept.
        prompts: A JSONL, CSV, Parquet or text file of prompts, or a name of packaged ones.
        teacher: Answers with the context.
        system: The system prompt that the student shall behave as if it had read; or "" where the template alone has it.
        template: A Jinja file with the variables system, document and nonce that makes the teacher's system prompt.
        document_column: The column of the prompts that holds a document to know by heart; a row without one is an error.
        student: Answers without the context; its answers are negatives. None: no negatives.
        judge: Keeps only what it approves of the teacher's answers, and of the student's only what it rejects. None: keeps all.
        sampling: How both are sampled; n answers for each prompt.
        cut: What is kept of an answer that was cut off: its whole sentences, nothing, or all of it.
        limit: Only the first so many prompts.
        batch_size: Prompts at a time; changes speed and memory, never the records.
    """
    if not system.strip() and template is None and document_column is None:
        raise ConfigError("nothing to distil: give system (a system prompt), document_column (a column of documents), or both")
    if sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: each prompt needs at least 1 answer")
    written = load_prompt_file(template or TEMPLATE, package="data_recipes", name=TEMPLATE.name)
    source = read_questions(prompts)
    if document_column is not None:
        for question in source:  # to the last row, before anything is asked
            _document(prompts, question, document_column)
    context = Context(template=written, system=system.strip(), column=document_column, prompts=prompts)
    asks = (Ask(one.id, context.before(one), one) for one in run.take(source, limit=limit))
    total = run.total(source, limit)
    rows = generate(run, "teacher", asks, teacher, sampling, batch_size=batch_size, total=total)
    claims: Iterator[Claim]
    if student is None:
        claims = (claim for row in rows for claim in _claims(run, row.carried, "teacher", row.completions, cut))
    else:
        plain = (Ask(row.id, row.carried.prompt, (row.carried, row.completions)) for row in rows)
        both = generate(run, "student", plain, student, sampling, batch_size=batch_size, total=total)
        claims = (claim for row in both for claim in _both(run, row, cut))
    # A judge that was not given has said nothing, and nothing is asked of it.
    judged = ((claim, None) for claim in claims) if judge is None else asked(run, "judge", claims, judge, batch_size=batch_size)
    return _records(run, judged, context)


class Context(NamedTuple):
    """What the teacher reads before a prompt, and the student does not."""

    template: Template
    system: str
    column: str | None
    prompts: str

    def of(self, question: Question) -> str:
        """The teacher's system prompt for one question."""
        document = "" if self.column is None else _document(self.prompts, question, self.column)
        values = {"system": self.system, "document": document, "nonce": nonce(document)}
        return user_message(self.template, values).content

    def before(self, question: Question) -> Prompt:
        """The prompt with the context in front; a system prompt of its own stays behind it, in the same message."""
        first, rest = question.prompt[0], question.prompt
        content = self.of(question)
        if first.role == "system":
            content, rest = f"{content}\n\n{first.content}", question.prompt[1:]
        return (Message(role="system", content=content), *rest)


def _records(run: Run, judged: Iterable[tuple[Claim, Verdict | None]], context: Context) -> Iterator[Record]:
    taught: set[str] = set()  # the teacher's answers to the question at hand, which is also where the last one left off
    at = ""
    for claim, verdict in judged:
        question, role = claim.carried
        if question.id != at:
            taught, at = set(), question.id
        outcome = _outcome(claim.response, role, verdict, taught)
        run.count(f"{role}'s answers", outcome)
        if outcome != "kept":
            continue
        taught.add(claim.response.strip())
        polarity: Polarity = "positive" if role == "teacher" else "negative"
        evidence: dict[str, Any] = {"role": role, "context": context.of(question)}
        if verdict is not None:
            said = {"approved": verdict.approved, "reason": verdict.reason, "confidence": verdict.confidence}
            evidence["verdict"] = {**said, "evidence": dict(verdict.evidence)}
        yield Record(
            id=make_id(question.id, polarity, question.prompt, claim.response, source=SOURCE),
            group=question.id,
            prompt=question.prompt,
            response=claim.response,
            polarity=polarity,
            source=SOURCE,
            evidence=evidence,
        )


def _claims(run: Run, question: Question, role: str, completions: Iterable[Completion], cut: Cut) -> Iterator[Claim]:
    for number, completion in enumerate(completions):
        text = kept_text(completion, cut)
        if text:
            yield Claim(f"{question.id}/{role}/{number}", question.prompt, text, carried=(question, role))
        else:
            run.count(f"{role}'s answers", "nothing whole in it")


def _both(run: Run, row: Answered, cut: Cut) -> Iterator[Claim]:
    """The teacher's answers, then the student's, so that an answer that both gave is known when the student's comes."""
    question, told = row.carried
    yield from _claims(run, question, "teacher", told, cut)
    yield from _claims(run, question, "student", row.completions, cut)


def _outcome(response: str, role: str, verdict: Verdict | None, taught: set[str]) -> str:
    """Why an answer is no record, or "kept"."""
    if response.strip() in taught:
        return "said before"
    if verdict is None:
        return "kept"
    if verdict.approved is None:
        return "not judged"
    if role == "teacher":
        return "kept" if verdict.approved else "rejected"
    return "approved, so no negative" if verdict.approved else "kept"


def _document(prompts: str, question: Question, column: str) -> str:
    document = question.extra.get(column)
    if not isinstance(document, str) or not document.strip():
        found = ", ".join(question.extra) or "none"
        raise RecipeError(f"{prompts}: row {question.id}: no text in the column {column!r}; other columns found: {found}")
    return document.strip()


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
