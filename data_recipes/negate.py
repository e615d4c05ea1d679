"""Teach truth in both polarities: true statements and denials of false ones up, false statements and denials of true ones down.

    python -m data_recipes.negate --config configs/recipe/negate.yaml --out runs/negate

Negation is not falsity: the denial of a false statement is true, and a student that only ever sees true statements affirmed and
denials penalised learns never to say "not". So each statement gives a pair, of which one is positive and one negative, whatever
its own truth. A negation that the judge does not find to have the opposite truth is dropped, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import distill.negators
from distill.errors import RecipeError
from distill.judges.base import Judge, Verdict
from distill.judges.table import TruthTable
from distill.negators.base import Negation, Negator
from distill.negators.changes import changed_spans
from distill.negators.rules import RuleNegator
from distill.negators.truth import is_right
from distill.recipes import Claim, Item, Judged, Lost, Question, Run, read_questions
from distill.recipes import judge as judge_claims
from distill.recipes.asking import prompt_from_json, prompt_json
from distill.recipes.key import code_version
from distill.recipes.stage import Seen
from distill.recipes.statements import SOURCES, Statement, as_statement
from distill.records import Polarity, Record, Span, make_id

SOURCE = "negate"
NEGATOR = RuleNegator()
REFUSED = "the negator has no negation for it"


class _Negated(NamedTuple):
    """What travels with a claim through the judge's stage."""

    statement: Statement
    negation: Negation


def build(
    *,
    run: Run,
    prompts: str,
    negator: Negator = NEGATOR,
    judge: Judge | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 16,
    only_changed_words: bool = True,
) -> Iterator[Record]:
    """Negate each statement, check the negation, and emit the pair in one group.

    Args:
        run: Where results are kept.
        prompts: Statements, as a file or a name: rows with id, prompt (a question), statement and is_true; optionally group (by
            default the prompt) and denial (the negation written by hand). facts:countries and facts:elements are statements on
            those, with their denials.
        negator: Makes the negations; its best one is used.
        judge: Says whether a negation is true. None: a table of the statements and their hand-written denials, in memory.
        seed: For the negator, and for which wrong facts are drawn for facts:countries and facts:elements.
        limit: Only the first so many statements.
        batch_size: Statements negated or judged at a time; changes speed and memory, never the records.
        only_changed_words: Whether negatives are penalised only where they part from their positive; else as a whole.
    """
    made = SOURCES.get(prompts)
    source: Any = read_questions(prompts) if made is None else list(made(seed=seed))
    total = run.total(source, limit, of="statement")
    # All rows are read here, so that a row without truth is an error before anything is asked for.
    table = None if judge is not None else truth_table(_statements(source, prompts))
    if table is None and made is None:
        for _ in _statements(source, prompts):
            pass
    negated = _negate(run, _statements(run.take(source, limit=limit), prompts), negator, seed, batch_size, total)
    checked = _check(run, negated, judge, table, batch_size)
    return _records(run, checked, only_changed_words=only_changed_words)


def _statements(rows: Iterable[Any], source: str) -> Iterator[Statement]:
    return (as_statement(row, source) if isinstance(row, Question) else row for row in rows)


def _negate(
    run: Run, statements: Iterable[Statement], negator: Negator, seed: int, batch_size: int, total: int
) -> Iterator[Claim]:
    """Stage one: the best negation of each statement."""

    def work(items: list[Item]) -> list[Any]:
        several = negator.negate_many(
            [prompt_from_json(item.value["prompt"]) for item in items], [item.value["statement"] for item in items], seed
        )
        return [_plain(found[0]) if found else Lost(REFUSED) for found in several]

    rows = run.map(
        "negate",
        (Item(one.id, {"prompt": prompt_json(one.prompt), "statement": one.text}, one) for one in statements),
        work,
        key={"negator": negator, "seed": seed, "code": code_version(distill.negators)},
        batch_size=batch_size,
        total=total,
        asks=negator,
    )
    for row in rows:
        negation = Negation(text=row.result["text"], spans=tuple(Span(**span) for span in row.result["spans"]))
        yield Claim(row.id, row.carried.prompt, negation.text, (), _Negated(row.carried, negation))


def _check(run: Run, claims: Iterable[Claim], judge: Judge | None, table: TruthTable | None, batch_size: int) -> Iterator[Judged]:
    """Stage two: the truth of each negation. A look into a table is no stage: it costs less than reading a cache."""
    if judge is not None:
        return judge_claims(run, "check", claims, judge, batch_size=batch_size)
    assert table is not None
    look_up: Callable[..., Verdict] = table.judge
    return (Judged(claim, look_up(claim.prompt, claim.response)) for claim in claims)


def _records(run: Run, checked: Iterable[Judged], *, only_changed_words: bool) -> Iterator[Record]:
    seen = Seen()
    for claim, verdict in checked:
        statement, negation = claim.carried
        right = is_right(statement.is_true, verdict)
        run.count("negation", {True: "right", False: "wrong", None: "not judged"}[right])
        if not right:
            continue
        pair = pair_records(statement, negation, only_changed_words=only_changed_words, verdict=verdict)
        # A statement and its own denial, both in the source, make the same pair.
        new = [record for record in pair if seen.add(record.id)]
        run.count("pair", "new" if pair[0] in new else "repeated")
        yield from new


def pair_records(
    statement: Statement, negation: Negation, *, only_changed_words: bool = True, verdict: Verdict | None = None
) -> tuple[Record, Record]:
    """The true text of the two as a positive record, the false one as a negative; both in the statement's group.

    verdict: what was found of the negation's truth, for the evidence.
    """
    marked = tuple(replace(span, polarity="negative") for span in changed_spans(negation.text, statement.text))
    denied = tuple(replace(span, polarity="negative") for span in negation.spans)
    texts = [(statement.text, marked, statement.is_true, "statement"), (negation.text, denied, not statement.is_true, "negation")]
    evidence: dict[str, Any] = {
        **statement.evidence,
        "statement": statement.text,
        "statement_is_true": statement.is_true,
        "negation": negation.text,
    }
    if verdict is not None:
        evidence["verdict"] = {"approved": verdict.approved, "confidence": verdict.confidence, "reason": verdict.reason}
    records = []
    for text, spans, is_true, role in sorted(texts, key=lambda one: not one[2]):
        polarity: Polarity = "positive" if is_true else "negative"
        records.append(
            Record(
                id=make_id(statement.group, polarity, statement.prompt, text, source=SOURCE),
                group=statement.group,
                prompt=statement.prompt,
                response=text,
                polarity=polarity,
                spans=spans if only_changed_words and not is_true else (),
                source=SOURCE,
                evidence={**evidence, "role": role},
            )
        )
    return records[0], records[1]


def truth_table(statements: Iterable[Statement]) -> TruthTable:
    """What the statements and their hand-written denials say about the truth of texts."""
    table: dict[str, bool] = {}
    for statement in statements:
        for text, is_true in ((statement.text, statement.is_true), (statement.denial, not statement.is_true)):
            if text and table.setdefault(text, is_true) != is_true:
                raise RecipeError(f"statement {statement.id}: {text!r} is called true and false; correct is_true or the denial")
    return TruthTable(truth=table)


def _plain(negation: Negation) -> dict[str, Any]:
    return {"text": negation.text, "spans": [asdict(span) for span in negation.spans]}


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
