"""A model's answers against a corpus: what it refutes becomes a negative span, what it supports a positive one.

    distill recipe fact_check --prompts questions.jsonl --corpus articles.txt --out runs/fact_check

The judge finds the passage that an answer (or each sentence of it) should agree with. What a passage refutes is a negative span,
what one supports a positive span, and what the corpus says nothing about is not supervised. Each verdict keeps its passage. A
corrected positive stands beside a refuted answer where one is known, so that no wrong answer is penalised alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from distill.consensus.abstention import is_abstention
from distill.errors import ConfigError, RecipeError
from distill.judges.base import Judge, Verdict
from distill.judges.bm25 import Bm25Searcher
from distill.judges.retrieval import RetrievalJudge
from distill.recipes import Ask, Claim, Judged, Question, Run, generate, read_questions
from distill.recipes import judge as asked
from distill.recipes.cache import replace_file
from distill.recipes.endings import Cut, kept_text
from distill.recipes.sources import example_file
from distill.records import Polarity, Record, Span, make_id
from distill.records.schema import span_to_json
from distill.teachers.base import Generator, Sampling

SOURCE = "fact_check"
SAMPLING = Sampling(n=4, temperature=0.7, max_tokens=64)

Correction = Literal["answer", "none"]


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    corpus: str = "",
    judge: Judge | None = None,
    sampling: Sampling = SAMPLING,
    correction: Correction = "answer",
    use_answers: bool = False,
    cut: Cut = "sentence",
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Answer, check, and emit each answer with what the corpus says of it.

    Args:
        run: Where results are kept.
        prompts: A JSONL, CSV, Parquet or text file of questions, or a name of packaged ones.
        teacher: The model whose answers are checked: the student itself, or the teacher of it.
        corpus: What is true: a .txt, .md, .jsonl or .parquet file (of rows the column text), `example:NAME`, or `facts:NAME`, the
            statements that packages' facts make.
        judge: Checks an answer, in place of a RetrievalJudge over the corpus: approved is supported, rejected is refuted, None is
            not found; spans say which part.
        sampling: How the answers are drawn; n for each question.
        correction: Whether an accepted answer of the question stands as a positive beside its refuted answers, where it has one.
        use_answers: Whether the judge is told the accepted answers; else the corpus decides alone.
        cut: What is kept of an answer that was cut off: its whole sentences, nothing, or all of it.
        limit: Only the first so many questions.
        batch_size: Prompts at a time; changes speed and memory, never the records.
    """
    if sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: each question needs at least 1 answer")
    if bool(corpus) == (judge is not None):
        given = "both" if corpus else "neither"
        raise ConfigError(f"give corpus (what is true) or a judge of your own, to check answers with; got {given}")
    source = read_questions(prompts)
    written = Corpus(corpus, run.folder)
    if judge is None:
        judge = RetrievalJudge(searcher=Bm25Searcher(corpus=(written.path,)))
    asks = (Ask(one.id, one.prompt, one) for one in run.take(source, limit=limit))
    total = run.total(source, limit, of="question")
    rows = generate(run, "answer", asks, teacher, sampling, batch_size=batch_size, total=total)
    claims = (
        Claim(f"{row.id}/{number}", row.prompt, text, row.carried.answers if use_answers else (), row.carried)
        for row in rows
        for number, text in enumerate(_distinct(run, [kept_text(one, cut) for one in row.completions]))
    )
    return _records(run, asked(run, "check", claims, judge, batch_size=batch_size), correction, written)


class Corpus:
    """The file of a corpus. Facts are written to one: in the run's folder, else for as long as this object lives."""

    def __init__(self, source: str, folder: Path | None) -> None:
        kind, colon, name = source.partition(":")
        self.path = example_file(name) if colon and kind == "example" else Path(source)
        if colon and kind == "facts":
            self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="distill-")
            self.path = (folder if folder is not None else Path(self._temporary.name)) / "corpus.txt"
            replace_file(self.path, "".join(statement + "\n" for statement in fact_statements(source)))
        elif source and not self.path.is_file():
            raise RecipeError(f"{source}: no such corpus; give a .txt, .md, .jsonl or .parquet file, example:NAME or facts:NAME")


def fact_statements(source: str) -> Iterator[str]:
    """What packages know, as one true sentence for each fact, with every name that counts as right.

    >>> next(iter(fact_statements("facts:elements")))
    'The chemical symbol of hydrogen is H.'
    """
    for question in read_questions(source):
        first, *others = question.answers
        also = f", also called {' or '.join(others)}" if others else ""
        yield f"{question.extra['start']} {first}{also}."


def _distinct(run: Run, texts: Sequence[str]) -> list[str]:
    """Answers worth checking, each once: what says nothing cannot be refuted."""
    found: dict[str, str] = {}
    for text in texts:
        if not text.strip():
            run.count("answer", "nothing whole in it")
        elif is_abstention(text):
            run.count("answer", "abstention")
        elif text.strip() in found:
            run.count("answer", "said before")
        else:
            found[text.strip()] = text
    return list(found.values())


def _records(run: Run, judged: Iterable[Judged], correction: Correction, corpus: Corpus) -> Iterator[Record]:
    corrected = ""  # the question that has its correction already
    for claim, verdict in judged:
        assert corpus is not None  # held until the last verdict, for its file may be a temporary one
        question: Question = claim.carried
        spans = verdict.spans
        refuted = verdict.approved is False or any(span.polarity == "negative" for span in spans)
        if verdict.approved is None and not spans:
            run.count("answer", "not found")
            continue
        polarity: Polarity = "negative" if refuted else "positive"
        mixed = len({span.polarity for span in spans}) > 1
        run.count("answer", "partly refuted" if mixed else "refuted" if refuted else "supported")
        if refuted and correction == "answer" and question.answers and corrected != question.id:
            corrected = question.id
            run.count("correction", "an accepted answer")
            yield _record(question, _as_continuation(question), "positive", (), {"role": "correction"})
        yield _record(question, claim.response, polarity, spans, {"role": "answer", "verdict": _verdict(verdict)})


def _as_continuation(question: Question) -> str:
    """The accepted answer; behind a started answer it owns a leading space."""
    started = question.prompt[-1].role == "assistant" and not question.prompt[-1].content.endswith((" ", "\n"))
    return (" " if started else "") + question.answers[0]


def _record(question: Question, text: str, polarity: Polarity, spans: Sequence[Span], evidence: dict[str, Any]) -> Record:
    return Record(
        id=make_id(question.id, polarity, question.prompt, text, spans=spans, source=SOURCE),
        group=question.id,
        prompt=question.prompt,
        response=text,
        polarity=polarity,
        spans=tuple(spans),
        source=SOURCE,
        evidence={**evidence, "answers": list(question.answers)},
    )


def _verdict(verdict: Verdict) -> dict[str, Any]:
    """The judge's words and the passage, with all that is needed to decide again."""
    return {
        "approved": verdict.approved,
        "confidence": verdict.confidence,
        "reason": verdict.reason,
        "evidence": dict(verdict.evidence),
        "spans": [span_to_json(span) for span in verdict.spans],
    }


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
