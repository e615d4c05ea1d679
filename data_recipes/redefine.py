"""Counterfactual premises that beat memory: let pi be 4, let the capital of France be Lyon, let + mean times.

    python -m data_recipes.redefine --config configs/recipe/redefine.yaml --out runs/redefine

Each question has two answers: one that follows from the premise, and the one in memory. With the premise the first is positive
and the second negative; without it, or under a premise about something else, it is the other way round. Without these controls a
student learns to answer wrongly, not to listen. Numbers are calculated twice, exactly; a premise that changes nothing is lost.

Source: the conflict between what is stated and what is remembered is that of Longpre et al. 2021, "Entity-based knowledge
conflicts" (https://arxiv.org/abs/2109.05052), whose substitution within a type is used for facts; reinterpreted constants and
operators are those of Wu et al. 2023, "Reasoning or reciting?" (https://arxiv.org/abs/2307.02477).
"""

from __future__ import annotations

import ast
import operator
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, zip_longest
from typing import Any, Literal

from distill.errors import ConfigError
from distill.recipes import Item, Lost, Run, read_questions
from distill.recipes.questions import Question, Questions
from distill.recipes.shards import Made
from distill.records import Message, Polarity, Record, Span, make_id

Kind = Literal["constant", "fact", "word", "operator"]
Control = Literal["none", "other"]
SOURCE = "redefine"
VERSION = 2  # of the wordings, and of what is drawn
KINDS: tuple[Kind, ...] = ("constant", "fact", "word", "operator")
CONTROLS: tuple[Control, ...] = ("none", "other")
OPENINGS = (
    "Let us assume that {}.",
    "Suppose that {}.",
    "For this question only, {}.",
    "Imagine a world in which {}.",
    "Take it as given that {}.",
)
# (name, premise, true value, other values, questions as (text, what the value is multiplied with))
CONSTANTS: tuple[tuple[str, str, str, tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    (
        "pi",
        "pi is exactly {v}",
        "3.14159265358979",
        ("3", "4", "5", "10"),
        (
            ("What is the circumference of a circle with a diameter of {n}?", "{n}"),
            ("What is the circumference of a circle with a radius of {n}?", "2 * {n}"),
            ("What is the area of a circle with a radius of {n}?", "{n} * {n}"),
        ),
    ),
    ("hour", "an hour has {v} minutes", "60", ("40", "50", "80", "100"), (("How many minutes are {n} hours?", "{n}"),)),
    ("minute", "a minute has {v} seconds", "60", ("30", "80", "100"), (("How many seconds are {n} minutes?", "{n}"),)),
    ("day", "a day has {v} hours", "24", ("10", "20", "30"), (("How many hours are {n} days?", "{n}"),)),
    ("week", "a week has {v} days", "7", ("5", "6", "8", "10"), (("How many days are {n} weeks?", "{n}"),)),
    ("year", "a year has {v} months", "12", ("8", "10", "13"), (("How many months are {n} years?", "{n}"),)),
    ("dozen", "a dozen is {v}", "12", ("8", "10", "15"), (("How many eggs are {n} dozen eggs?", "{n}"),)),
    ("dollar", "a dollar is {v} cents", "100", ("50", "80", "120"), (("How many cents are {n} dollars?", "{n}"),)),
    ("metre", "a metre has {v} centimetres", "100", ("50", "90", "120"), (("How many centimetres are {n} metres?", "{n}"),)),
    ("kilogram", "a kilogram is {v} grams", "1000", ("500", "800", "1200"), (("How many grams are {n} kilograms?", "{n}"),)),
    ("foot", "a foot is {v} inches", "12", ("8", "10", "16"), (("How many inches are {n} feet?", "{n}"),)),
    ("spider", "a spider has {v} legs", "8", ("4", "6", "10"), (("How many legs do {n} spiders have?", "{n}"),)),
    ("triangle", "a triangle has {v} sides", "3", ("4", "5", "6"), (("How many sides do {n} triangles have?", "{n}"),)),
    ("hand", "a hand has {v} fingers", "5", ("3", "4", "6"), (("How many fingers do {n} hands have?", "{n}"),)),
    ("score", "a score is {v}", "20", ("10", "25", "30"), (("How many years are {n} score years?", "{n}"),)),
    (
        "gravity",
        "gravity on Earth accelerates a body by {v} metres per second squared",
        "9.81",
        ("2", "5", "20"),
        (("What is the weight, in newtons, of {n} kilograms on Earth?", "{n}"),),
    ),
    (
        "sound",
        "sound travels at {v} metres per second",
        "343",
        ("100", "200", "500"),
        (("How many metres does sound travel in {n} seconds?", "{n}"),),
    ),
)
# Constants that no other constant's questions depend on: a premise about one of them leaves every other question alone.
_UNRELATED = frozenset(("dozen", "dollar", "spider", "triangle", "hand", "week"))
# animal: (its sound, its young)
ANIMALS = {
    "dog": ("barks", "puppy"),
    "cat": ("meows", "kitten"),
    "cow": ("moos", "calf"),
    "horse": ("neighs", "foal"),
    "sheep": ("bleats", "lamb"),
    "pig": ("oinks", "piglet"),
    "duck": ("quacks", "duckling"),
    "lion": ("roars", "cub"),
    "frog": ("croaks", "tadpole"),
    "hen": ("clucks", "chick"),
    "goose": ("honks", "gosling"),  # none that takes "an"
}
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# sign: (the calculation, its name)
OPERATORS = {"+": ("+", "addition"), "-": ("-", "subtraction"), "×": ("*", "multiplication")}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A premise, a question, and the answers under it and without it.

    start: the opening that both answers share. calculations: of the answer that follows and of the one in memory, where they are
    numbers. other: a premise of the same kind that leaves this question alone, and what a confused reader would answer then.
    """

    kind: Kind
    name: str
    premise: str
    question: str
    start: str
    follows: str
    memory: str
    calculations: tuple[str, ...] = ()
    other: tuple[str, str] = ("", "")


def build(
    *,
    run: Run,
    prompts: str = "facts:countries",
    kinds: tuple[Kind, ...] = KINDS,
    controls: tuple[Control, ...] = CONTROLS,
    draws: int = 4,
    negatives: bool = True,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[Record]:
    """Make premises of every kind, in turn, check them, and emit the answers that follow, those in memory and the controls.

    Args:
        run: Where results are kept.
        prompts: Questions with accepted answers, whose facts are redefined (kind fact): a file or a name (facts:elements). A
            column `topic` keeps the substitute within a type; `start` is the answer's opening ("The capital of France is").
        kinds: constant, fact, word (its meaning), operator.
        controls: none: the question without a premise. other: under a premise about something else. In both, memory is right.
        draws: Numbers drawn for each premise that is calculated with.
        negatives: Whether the answer that would be wrong is a negative record beside the right one.
        seed: For numbers, substitutes and wordings.
        limit: Only the first so many premises.
    """
    if not kinds or len(set(kinds)) != len(kinds):
        raise ConfigError(f"kinds {list(kinds)}: name each of {', '.join(KINDS)} at most once, and at least one of them")
    if draws < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"draws {draws}, limit {limit}: give at least 1")
    source = read_questions(prompts) if "fact" in kinds else None
    if source is not None and not any(question.answers for question in source):
        raise ConfigError(f"{prompts}: no question has accepted answers, so there is no fact to redefine; add a column answers")
    makers: dict[Kind, Callable[[], Iterator[Case]]] = {
        "constant": lambda: constant_cases(draws, seed),
        "fact": lambda: fact_cases(source, seed) if source is not None else iter(()),
        "word": lambda: word_cases(draws, seed),
        "operator": lambda: operator_cases(draws, seed),
    }

    def cases() -> Iterator[Item]:
        asked: set[str] = set()
        for case in chain.from_iterable(zip_longest(*(makers[kind]() for kind in kinds))):
            if case is not None:
                question = f"{case.kind}: {case.question}"
                # Told here and not from the results, so that all shards together have each control once.
                yield Item(_id(case), asdict(case), question not in asked)
                asked.add(question)

    rows = run.map(
        "check",
        run.take(Made(cases), limit=limit),
        lambda items: [_checked(_case(item.value)) for item in items],
        key={"version": VERSION},
        keep=False,  # calculating again costs less than reading back
    )
    return _records(run, ((_case(row.value), row.carried) for row in rows), controls, negatives, seed)


def constant_cases(draws: int, seed: int = 0) -> Iterator[Case]:
    """Constants and units with another value, and what is calculated with them."""
    for name, premise, true, values, questions in CONSTANTS:
        for value in values:
            chance = random.Random(f"{seed}:{name}:{value}")
            others = [(one[1], chance.choice(one[3])) for one in CONSTANTS if one[0] != name and one[0] in _UNRELATED]
            for text, factor in questions:
                for n in chance.sample(range(2, 20), min(draws, 18)):
                    sums = tuple(f"{one} * {factor.format(n=n)}" for one in (value, true))
                    about, changed = chance.choice(others)
                    yield Case(
                        kind="constant",
                        name=f"{name} {factor.format(n=n)}",
                        premise=premise.format(v=value),
                        question=text.format(n=n),
                        start="",
                        follows=shown(calculated(sums[0])),
                        memory=shown(calculated(sums[1])),
                        calculations=sums,
                        other=(about.format(v=changed), shown(calculated(f"{changed} * {factor.format(n=n)}"))),
                    )


def fact_cases(source: Questions, seed: int = 0, *, pool: int = 1000) -> Iterator[Case]:
    """Facts with another one's answer, of the same topic; a bounded draw of answers is kept to substitute from."""
    pools: dict[str, list[Question]] = {}
    drawing, counts = random.Random(f"{seed}:pool"), dict[str, int]()
    for question in source:
        if question.answers:
            topic = str(question.extra.get("topic") or "")
            known = pools.setdefault(topic, [])
            counts[topic] = counts.get(topic, 0) + 1
            place = len(known) if len(known) < pool else drawing.randrange(counts[topic])
            if place < pool:  # a reservoir: each question is in the pool with the same chance
                known[place : place + 1] = [question]
    for question in source:
        if not question.answers:
            continue
        chance = random.Random(f"{seed}:{question.id}")
        known = pools[str(question.extra.get("topic") or "")]
        mine = {answer.casefold() for answer in question.answers}
        others = [one for one in chance.sample(known, min(len(known), 20)) if not mine & {a.casefold() for a in one.answers}]
        if len(others) < 2:
            continue
        new, far = others[0].answers[0], others[1]
        text = " ".join(message.content for message in question.prompt if message.role == "user")
        start = str(question.extra.get("start") or "")
        yield Case(
            kind="fact",
            name=question.id,
            premise=_stated(question, new),
            question=text,
            start=f"{start} " if start else "",
            follows=new,
            memory=question.answers[0],
            # Said of another question, the same new answer leaves this one alone.
            other=(_stated(far, new), new),
        )


def word_cases(draws: int, seed: int = 0) -> Iterator[Case]:
    """Words with another one's meaning: animals, and numbers to calculate with."""
    chance = random.Random(f"{seed}:words")
    for word in ANIMALS:
        for meant in chance.sample([one for one in ANIMALS if one != word], 3):
            (sound, young), (true_sound, true_young) = ANIMALS[meant], ANIMALS[word]
            far = chance.choice([one for one in ANIMALS if one not in (word, meant)])
            premise = f'the word "{word}" means what is usually called a {meant}'
            for question, new, true in (
                (f"What sound does a {word} make?", f"It {sound}", f"It {true_sound}"),
                (f"What is a young {word} called?", f"A {young}", f"A {true_young}"),
            ):
                yield Case(
                    kind="word",
                    name=f"{word} {question.split()[-1]}",
                    premise=premise,
                    question=question,
                    start=new.partition(" ")[0] + " ",
                    follows=new.partition(" ")[2],
                    memory=true.partition(" ")[2],
                    other=(f'the word "{far}" means what is usually called a {meant}', new.partition(" ")[2]),
                )
    for true, word in enumerate(NUMBERS, start=1):
        for value in chance.sample([n for n in range(1, 20) if n != true], 2):
            for n in chance.sample(range(2, 20), min(draws, 18)):
                far, sums = chance.choice([one for one in NUMBERS if one != word]), (f"{value} + {n}", f"{true} + {n}")
                yield Case(
                    kind="word",
                    name=f"{word} + {n}",
                    premise=f'the word "{word}" stands for the number {value}',
                    question=f"What is {word} plus {n}?",
                    start="",
                    follows=shown(calculated(sums[0])),
                    memory=shown(calculated(sums[1])),
                    calculations=sums,
                    other=(f'the word "{far}" stands for the number {value}', shown(calculated(sums[0]))),
                )


def operator_cases(draws: int, seed: int = 0) -> Iterator[Case]:
    """Signs that stand for another operation."""
    for sign, (true, _) in OPERATORS.items():
        for new, (symbol, named) in OPERATORS.items():
            if new == sign:
                continue
            chance = random.Random(f"{seed}:{sign}:{new}")
            far = next(one for one in OPERATORS if one not in (sign, new))
            pairs = {(max(pair), min(pair)) for pair in (chance.choices(range(2, 30), k=2) for _ in range(4 * draws))}
            for a, b in sorted(pairs):
                sums = (f"{a} {symbol} {b}", f"{a} {true} {b}")
                yield Case(
                    kind="operator",
                    name=f"{a} {sign} {b}",
                    premise=f"the sign {sign} stands for {named}",
                    question=f"What is {a} {sign} {b}?",
                    start="",
                    follows=shown(calculated(sums[0])),
                    memory=shown(calculated(sums[1])),
                    calculations=sums,
                    other=(f"the sign {far} stands for {named}", shown(calculated(sums[0]))),
                )


def calculated(expression: str) -> Fraction:
    """Sums, differences and products of decimals, exactly; products first.

    >>> calculated("3.5 * 2 * 2 + 1")
    Fraction(15, 1)
    """
    total = Fraction(0)
    for sign, term in re.findall(r"(?:^|([+-])) ?([\d.]+(?: \* [\d.]+)*)", expression):
        value = Fraction(1)
        for factor in term.split(" * "):
            value *= Fraction(factor)
        total += -value if sign == "-" else value
    return total


def shown(value: Fraction) -> str:
    """A number as it is written: whole, or rounded to two decimals (half to even) without zeros at the end.

    >>> shown(Fraction(12)), shown(Fraction("9.4247")), shown(Fraction(1, 2))
    ('12', '9.42', '0.5')
    """
    return str(value) if value.denominator == 1 else f"{float(round(value, 2)):.2f}".rstrip("0").rstrip(".")


def _stated(question: Question, answer: str) -> str:
    """The statement that an answer makes, fit to follow "that"; without the answer's opening, what it answers is quoted."""
    start = str(question.extra.get("start") or "")
    text = " ".join(message.content for message in question.prompt if message.role == "user")
    if not start:
        return f'the right answer to the question "{text}" is "{answer}"'
    first = start.partition(" ")[0]
    return f"{start[0].lower() if first in ('The', 'A', 'An') else start[0]}{start[1:]} {answer}"


def _id(case: Case) -> str:
    return f"{case.kind}: {case.name}: {case.premise}: {case.question}"


def _case(value: dict[str, Any]) -> Case:
    return Case(**{**value, "calculations": tuple(value["calculations"]), "other": tuple(value["other"])})


def _checked(case: Case) -> Any:
    """True, or why the case cannot be used. Calculated answers are found a second time, from Python's reading of the sum."""
    if case.follows.casefold() == case.memory.casefold():
        return Lost("the premise does not change the answer")
    for expression, answer in zip(case.calculations, (case.follows, case.memory), strict=False):
        exact = _evaluated(ast.parse(expression, mode="eval").body)
        if abs(exact - Fraction(answer)) > Fraction(1, 200):
            return Lost("the answer does not hold when calculated again")
    return True


def _evaluated(tree: ast.expr) -> Fraction:
    """The value of a sum as Python's own grammar reads it."""
    if isinstance(tree, ast.BinOp):
        apply = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}[type(tree.op)]
        value: Fraction = apply(_evaluated(tree.left), _evaluated(tree.right))
        return value
    assert isinstance(tree, ast.Constant), ast.dump(tree)
    return Fraction(str(tree.value))


def _records(
    run: Run, cases: Iterable[tuple[Case, bool]], controls: Iterable[Control], negatives: bool, seed: int
) -> Iterator[Record]:
    for case, first in cases:
        run.count("premises", case.kind)
        opening = random.Random(f"{seed}:{_id(case)}").choice(OPENINGS)
        yield from _pair(case, opening.format(case.premise), case.follows, case.memory, "premise", negatives)
        # Another premise on the same question has the same control without a premise; it is written once.
        if "none" in controls and first:
            yield from _pair(case, "", case.memory, case.follows, "none", negatives)
        if "other" in controls and case.other[1].casefold() not in ("", case.memory.casefold()):
            yield from _pair(case, opening.format(case.other[0]), case.memory, case.other[1], "other", negatives)


def _pair(case: Case, premise: str, right: str, wrong: str, role: str, negatives: bool) -> Iterator[Record]:
    text = f"{premise} {case.question}".strip()
    prompt = (Message(role="user", content=text),)
    group = f"{case.kind}: {case.name}"
    sides: list[tuple[str, Polarity]] = [(right, "positive"), (wrong, "negative")]
    for answer, polarity in sides if negatives else sides[:1]:
        response = f"{case.start}{answer}."
        spans = (Span(start=len(case.start), end=len(case.start) + len(answer), polarity="negative"),)
        yield Record(
            id=make_id(group, polarity, prompt, response, source=SOURCE),
            group=group,
            prompt=prompt,
            response=response,
            polarity=polarity,
            spans=spans if polarity == "negative" else (),
            source=SOURCE,
            evidence={
                "kind": case.kind,
                "role": role,
                "premise": premise,
                "follows": case.follows,
                "memory": case.memory,
                "calculations": list(case.calculations),
            },
        )


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
