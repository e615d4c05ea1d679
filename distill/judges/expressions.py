"""Reads arithmetic out of text: numbers, operators and what stands between them, and the exact value of an expression."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

Kind = Literal["number", "op", "(", ")", "=", "%", "currency", "word", "variable", "break"]
Reading = Literal["fraction", "plain", "relative"]
READINGS: tuple[Reading, ...] = ("fraction", "plain", "relative")  # of 20 %: 0.2; 20; a fifth of what it is added to
_VULGAR = {
    "½": Fraction(1, 2),
    "¼": Fraction(1, 4),
    "¾": Fraction(3, 4),
    "⅓": Fraction(1, 3),
    "⅔": Fraction(2, 3),
    "⅛": Fraction(1, 8),
}
_OPERATORS = {"×": "*", "·": "*", "•": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "of": "*"}
_LONGEST_NUMBER, _LARGEST_POWER, _LARGEST_BITS, _DEEPEST = 40, 64, 512, 40
_TOKENS = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+|[½¼¾⅓⅔⅛])"
    r"|(?P<break>[=<>!≤≥≠]=|=>|[<>≈~\n])|(?P<equals>=)|(?P<percent>%)|(?P<currency>[$€£¥¢])"
    r"|(?P<word>(?:[-–]|/\s*)?[^\W\d_][\w'’]*(?:-[^\W\d_]\w*)*)"
    r"|(?P<op>\*\*|[-+−–*×·•/÷^])|(?P<bracket>[()])|(?P<other>\S)"
)


class Token(NamedTuple):
    """A piece of the text; `value` is that of a number."""

    kind: Kind
    text: str
    start: int
    end: int
    value: Fraction = Fraction(0)


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, in order: separators of thousands, signs, fractions and mixed numbers read, % and units not.

    >>> numbers_in("$1,200.50 at -3, 1/2 or 2 1/2 of 10-20")
    [1200.5, -3.0, 0.5, 2.5, 10.0, 20.0]
    """
    tokens = list(tokenise(text))
    values, at = [], 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "number":
            value, used = _number(tokens, at)
            if used == 1 and [one.text for one in tokens[at + 1 : at + 2]] == ["/"] and is_whole(tokens, at, at + 2):
                value, used = value / tokens[at + 2].value, 3
            sign = at - 2 if at and tokens[at - 1].kind == "currency" else at - 1
            attached = sign >= 0 and tokens[sign].text in ("-", "−") and tokens[sign].end + (at - 1 - sign) == token.start
            if attached and (sign == 0 or tokens[sign - 1].kind not in ("number", ")", "%")):
                value = -value
            values.append(float(value))
            at += used
        else:
            at += 1
    return values


def tokenise(text: str) -> Iterator[Token]:
    """What the text is made of; "x" and "of" are operators between numbers, and single letters are variables elsewhere."""
    found = list(_TOKENS.finditer(text))
    for index, match in enumerate(found):
        start, end, piece, group = match.start(), match.end(), match.group(), match.lastgroup
        behind = index + 1
        while behind < len(found) and found[behind].lastgroup == "currency":
            behind += 1
        following = found[behind] if behind < len(found) else None
        before = found[index - 1] if index else None
        opens = following is not None and (following.lastgroup == "number" or following.group() == "(")
        if group == "number" and _is_torn(text, piece, start):
            yield Token("variable", piece, start, end)
        elif group == "number":
            value = _VULGAR[piece] if piece in _VULGAR else Fraction(piece.replace(",", ""))
            yield Token("number", piece, start, end, value)
        elif group == "word" and opens and before is not None and (piece in "xX" or (piece == "of" and _is_part(found, index))):
            yield Token("op", "*", start, end)
        elif group == "word":
            article = piece in ("a", "A") and (before is None or before.end() < start)
            single = len(piece.lstrip("-–/ ")) == 1 and not article
            yield Token("variable" if single else "word", piece, start, end)
        elif group == "op":
            yield Token("op", _OPERATORS.get(piece, piece), start, end)
        elif group == "bracket":
            yield Token("(" if piece == "(" else ")", piece, start, end)
        elif group in ("equals", "percent"):
            yield Token("=" if group == "equals" else "%", piece, start, end)
        elif group == "currency":
            yield Token("word" if piece == "¢" else "currency", piece, start, end)
        else:
            yield Token("break", piece, start, end)


def _is_torn(text: str, piece: str, start: int) -> bool:
    """Whether digits are no number of their own: 007, the end of 12:30 and of 1, 000; or too many to be meant."""
    colon = start >= 2 and re.match(r"\d:", text[start - 2 : start]) is not None
    comma = start >= 2 and len(piece) >= 3 and re.match(r"\d,", text[start - 2 : start]) is not None
    return re.match(r"0\d", piece) is not None or colon or comma or len(piece) > _LONGEST_NUMBER


def _is_part(found: Sequence[re.Match[str]], index: int) -> bool:
    """Whether "of" follows a percentage or a fraction: "10% of 50", "1/2 of 8"; "3 of 8" is no product."""
    before = found[index - 1]
    fraction = index >= 3 and found[index - 2].group() == "/" and before.lastgroup == "number"
    return before.lastgroup == "percent" or before.group() in _VULGAR or fraction


class _Failed(Exception):
    """Not an expression."""


def compute(tokens: Sequence[Token], reading: Reading) -> Fraction | None:
    """The exact value of an expression; None for what is none, or too large to be meant."""
    parser = _Parser(tokens, reading)
    try:
        value = parser.sum(0)
    except (_Failed, ZeroDivisionError):
        return None
    return value if parser.at == len(tokens) else None


class _Parser:
    """Sums of products of powers, in the usual order."""

    def __init__(self, tokens: Sequence[Token], reading: Reading) -> None:
        self.tokens, self.reading, self.at = tokens, reading, 0

    def sum(self, depth: int) -> Fraction:
        """a + b - c."""
        value, _ = self.product(depth)
        while (sign := self._operator("+", "-")) is not None:
            term, percent = self.product(depth)
            term = value * term if percent and self.reading == "relative" else term
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def product(self, depth: int) -> tuple[Fraction, bool]:
        """a * b / c, and whether it is one bare percentage."""
        value, percent = self.power(depth)
        while True:
            sign = self._operator("*", "/")
            if sign is None and not (self.at < len(self.tokens) and self.tokens[self.at].kind == "("):
                return value, percent
            factor, _ = self.power(depth)  # 3(4) is a product too
            value, percent = _bounded(value / factor if sign == "/" else value * factor), False

    def power(self, depth: int) -> tuple[Fraction, bool]:
        """a ** b for small whole b."""
        value, percent = self.atom(depth)
        if self._operator("**") is None:
            return value, percent
        exponent, _ = self.power(depth + 1)
        if exponent.denominator != 1 or abs(exponent) > _LARGEST_POWER or value.numerator.bit_length() > 64:
            raise _Failed
        return _bounded(value ** int(exponent)), False

    def atom(self, depth: int) -> tuple[Fraction, bool]:
        """A number, a bracket, or either with a minus."""
        if depth > _DEEPEST or self.at == len(self.tokens):
            raise _Failed
        token = self.tokens[self.at]
        if token.kind == "op" and token.text == "-":
            self.at += 1
            value, percent = self.atom(depth + 1)
            return -value, percent
        if token.kind == "(":
            self.at += 1
            value = self.sum(depth + 1)
            if self.at == len(self.tokens) or self.tokens[self.at].kind != ")":
                raise _Failed
            self.at += 1
        elif token.kind == "number":
            value, used = _number(self.tokens, self.at)
            self.at += used
        else:
            raise _Failed
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "%":
            self.at += 1
            return (value if self.reading == "plain" else value / 100), True
        return _bounded(value), False

    def _operator(self, *signs: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "op" and self.tokens[self.at].text in signs:
            self.at += 1
            return self.tokens[self.at - 1].text
        return None


def _number(tokens: Sequence[Token], at: int) -> tuple[Fraction, int]:
    """The number at `at` and how many tokens it takes: 5, 2 1/2, 2½; 1/3 where it is divided by ("25 / 1/3")."""
    value = tokens[at].value
    gap = at > 0 and tokens[at - 1].text == "/" and tokens[at - 1].end < tokens[at].start
    close = at + 2 < len(tokens) and tokens[at + 1].text == "/" and tokens[at].end + 1 == tokens[at + 2].start
    if gap and close and is_whole(tokens, at, at + 2):
        return value / tokens[at + 2].value, 3
    if value.denominator == 1 and at + 1 < len(tokens) and tokens[at + 1].text in _VULGAR:
        return value + tokens[at + 1].value, 2
    part = at + 3 < len(tokens) and tokens[at + 2].text == "/" and is_whole(tokens, at, at + 1, at + 3)
    if part and tokens[at + 1].value < tokens[at + 3].value:
        return value + tokens[at + 1].value / tokens[at + 3].value, 4
    return value, 1


def is_whole(tokens: Sequence[Token], *places: int) -> bool:
    """Whether whole numbers above zero stand at all of these places."""
    found = [tokens[place] for place in places if place < len(tokens)]
    return len(found) == len(places) and all(token.kind == "number" and token.text.isdigit() and token.value for token in found)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LARGEST_BITS:
        raise _Failed
    return value
