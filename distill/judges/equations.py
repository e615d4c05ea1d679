"""Finds the equations of a text and computes them exactly: what is read as arithmetic, and what is left alone.

She pays 3 pounds x $1.50/pound + $2 = <<3*1.5+2=6.5>>$6.50.   one equation: 3 * 1.5 + 2 = 6.5
2y + 3 = 13, x = 5, 17 / 5 = 3 remainder 2, 2 + 3 = 5 thousand  none: variables, remainders and scales are not computed
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from distill.judges.expressions import READINGS, Reading, Token, compute, tokenise

_SCALES = frozenset(
    ("dozen", "dozens", "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion", "billions", "k")
)
_REMAINDERS = frozenset({"remainder", "rem", "mod", "modulo"})
# A unit may stand between a number and an operator ("3 pounds of rice x $2"); these words begin something else.
_CLAUSE = frozenset(
    ("and", "so", "is", "are", "was", "were", "then", "which", "has", "have", "had", "or", "but", "because", "if", "that")
    + ("equals", "means", "gives", "makes")
)
_UNIT_WORDS = 4
_LONGEST_RUN = 200  # tokens
_FLOAT_DECIMALS = 9  # a number with so many is a program's, and rounded like one: 3.8000000000000003
_MARK = re.compile(r"<<([^<>\n]*)>>")


@dataclass(frozen=True, kw_only=True)
class Equation:
    """A chain of sides that are said to be equal; right: whether they are. start and end are code points of the text.

    computed: the value of the first side that is not what is said to equal it, else of the first; stated: what is said of it.
    """

    start: int
    end: int
    right: bool
    computed: str
    stated: str


def find_equations(text: str) -> list[Equation]:
    """The equations of a text, in order. Those that overlap, as GSM8K's <<48/2=24>> with the text around it, are one.

    A side that is one number with decimals may be rounded to them, or cut to two or more of them.

    >>> [(one.stated, one.right) for one in find_equations("6 x 4 eggs = 24 eggs, so 24/7 = 3.43 and 10% of 50 = 6")]
    [('24', True), ('3.43', True), ('6', False)]
    """
    marked = [(match.start(1), match.group(1)) for match in _MARK.finditer(text)]
    plain = _MARK.sub(lambda match: " " * len(match.group()), text)
    found = [one for start, inside in [(0, plain), *marked] for one in _equations(inside, start)]
    merged: list[Equation] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if merged and one.start < merged[-1].end:
            before = merged[-1]
            worse = one if before.right else before
            merged[-1] = Equation(
                start=before.start,
                end=max(before.end, one.end),
                right=before.right and one.right,
                computed=worse.computed,
                stated=worse.stated,
            )
        else:
            merged.append(one)
    return merged


def _equations(text: str, offset: int) -> Iterator[Equation]:
    tokens = list(tokenise(text))
    for first, last in _runs(tokens):
        run = tokens[first:last]
        after = tokens[last] if last < len(tokens) else None
        before = tokens[first - 1] if first else None
        yield from _chains(run, before, after, offset)


def _runs(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Stretches [first, last) that could be arithmetic and hold an equals sign: no clause, variable or punctuation inside."""
    at = 0
    while at < len(tokens):
        start = at
        while at < len(tokens) and tokens[at].kind not in ("variable", "break"):
            if tokens[at].kind == "word":
                words = _unit(tokens, at)
                if not words or at == start:
                    break
                at += words
            else:
                at += 1
        if start < at <= start + _LONGEST_RUN and any(token.kind == "=" for token in tokens[start:at]):
            yield start, at
        at = max(at, start + 1)


def _unit(tokens: Sequence[Token], at: int) -> int:
    """How many words stand at `at` between a number and an operator or equals sign; 0 where they are no unit."""
    if at == 0 or tokens[at - 1].kind not in ("number", "%", ")"):
        return 0
    words = 0
    while at + words < len(tokens) and tokens[at + words].kind == "word":
        words += 1
    # "1/4 of the tank = ..." is about a part of something, not about 1/4.
    part = tokens[at].text == "of" and (tokens[at - 1].kind == "%" or (at > 1 and tokens[at - 2].text == "/"))
    closes = not part and at + words < len(tokens) and tokens[at + words].kind in ("op", "=", ")")
    clause = any(token.text.casefold() in _CLAUSE for token in tokens[at : at + words])
    return words if closes and words <= _UNIT_WORDS and not clause else 0


def _chains(run: Sequence[Token], before: Token | None, after: Token | None, offset: int) -> Iterator[Equation]:
    """The chains of equal sides of a run; a side that cannot be computed ends one and begins none."""
    words = {token.text.casefold() for token in [*run, *([after] if after else [])] if token.kind == "word"}
    if words & (_SCALES | _REMAINDERS):
        return
    sides: list[list[Token]] = [[]]
    for token in run:
        if token.kind == "=":
            sides.append([])
        elif token.kind not in ("word", "currency"):
            sides[-1].append(token)
    cents = "cents" in words or "cent" in words or "¢" in words
    sides[0] = _last_expression(sides[0], before)
    if after is not None and after.kind == "variable":
        sides[-1] = []
    else:
        sides[-1] = _first_expression(sides[-1])
    chain: list[list[Token]] = []
    for side in [*sides, []]:
        if not chain and len(side) == 1:
            continue  # "5 friends = 75 + 10": a label
        if side and all(compute(side, reading) is not None for reading in READINGS):
            chain.append(side)
            continue
        if len(chain) > 1 and not _is_whole_division(chain):
            yield _checked(chain, cents, offset)
        chain = []


def _last_expression(side: list[Token], before: Token | None) -> list[Token]:
    """The longest ending that can be computed; "1) 3 + 4" -> "3 + 4". Nothing where it would begin behind an operator."""
    for at in range(len(side)):
        previous = side[at - 1] if at else before
        behind_operator = previous is not None and previous.kind in ("op", "variable", "=", "(")
        attached = at + 1 < len(side) and side[at].end == side[at + 1].start
        opens = previous is None or previous.kind == "break"
        signed = side[at].kind == "op" and not (side[at].text == "-" and attached and opens)
        if not behind_operator and not signed and compute(side[at:], "plain") is not None:
            return side[at:]
    return []


def _first_expression(side: list[Token]) -> list[Token]:
    """The longest beginning that can be computed: "18 (nine each)" -> "18"."""
    for end in range(len(side), 0, -1):
        if compute(side[:end], "plain") is not None:
            return side[:end]
    return []


def _checked(chain: Sequence[list[Token]], cents: bool, offset: int) -> Equation:
    wrong = next((pair for pair in zip(chain, chain[1:]) if not _agree(*pair, cents)), None)
    left, right = wrong or (chain[0], chain[1])
    return Equation(
        start=offset + chain[0][0].start,
        end=offset + chain[-1][-1].end,
        right=wrong is None,
        computed=_shown(compute(left, "plain" if wrong is None else "fraction")),
        stated="".join(token.text for token in right),
    )


def _is_whole_division(chain: Sequence[list[Token]]) -> bool:
    """Whether somewhere a division is said to give a whole number that it is rounded to: 100 stickers / 3 = 33 may be meant."""
    for left, right in zip(chain, chain[1:]):
        one, other = compute(left, "plain"), compute(right, "plain")
        divides = any(token.text == "/" for token in left)
        if divides and len(right) == 1 and right[0].text.isdigit() and one and other and 0 < abs(one - other) < 1:
            return True
    return False


def _agree(left: list[Token], right: list[Token], cents: bool) -> bool:
    """Whether two sides are equal in some reading of their percentages (and cents), or by what is said on the way.

    "3 + 4 = 7 + 1 = 8" is how people keep a running total: its second side counts as 7 for the first equals sign.
    """
    for side in (right[:end] for end in range(len(right), 0, -1)):
        for mine in READINGS:
            for theirs in READINGS:
                one, other = compute(left, mine), compute(side, theirs)
                if one is not None and other is not None and _equal(one, other, left, side, theirs, cents):
                    return True
    return False


def _equal(one: Fraction, other: Fraction, left: list[Token], right: list[Token], reading: Reading, cents: bool) -> bool:
    """Equal; or, where the right side is one number, what rounding to its decimals (cutting, from two on) leaves of the left."""
    numbers = [token.text for token in right if token.kind == "number"]
    decimals = len(numbers[0].partition(".")[2]) if len(numbers) == 1 else 0
    if reading != "plain" and right[-1].kind == "%":
        decimals += 2  # 67 % is 0.67
    slack = Fraction(0) if not decimals else Fraction(1, 10**decimals) / (1 if decimals >= 2 else 2)
    if any(len(token.text.partition(".")[2]) >= _FLOAT_DECIMALS for token in (*left, *right)):
        slack = max(slack, abs(other) / 10**_FLOAT_DECIMALS)
    factors = (Fraction(1), Fraction(100), Fraction(1, 100)) if cents else (Fraction(1),)
    return any(abs(one * factor - other) <= slack for factor in factors)


def _shown(value: Fraction | None) -> str:
    if value is None:
        return "?"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"
