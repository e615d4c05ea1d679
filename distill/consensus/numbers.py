"""Numbers written in different ways: digits, thousands separators, exponents, fractions, percentages, English words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from distill.consensus.base import Equivalence
from distill.consensus.normalisation import normalise

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PARTS = {"half": 2, "quarter": 4} | {word: value for value, word in enumerate(_ORDINALS, start=3)}
_PARTS |= {word + "s": value for word, value in _PARTS.items()} | {"halves": 2}
_PERCENT = frozenset({"%", "percent", "pct"})
_DIGITS = re.compile(r"([-+]?(?:\d+(?:[.,]\d+)?|\.\d+)(?:e[-+]?\d+)?)(?:/(\d+(?:\.\d+)?))?(?:st|nd|rd|th)?")


@dataclass(frozen=True, kw_only=True)
class NumberMatch(Equivalence):
    """The same number, however written: 12, 12.0, twelve, a dozen; 1,000, 1e3, one thousand; 1/2, half, 50 %.

    relative_tolerance: largest |a - b| / max(|a|, |b|); the default only forgives rounding of floats, so 1999 is not 2000.
    Units must be the same or absent on one side: "12 km" ~ "12", "12 km" is not "12 miles". Words are English; digits any script.
    """

    relative_tolerance: float = 1e-6

    def same(self, first: str, second: str) -> bool:
        """True where both answers are one number, with compatible units.

        >>> NumberMatch().same("twelve", "12.0"), NumberMatch().same("1,000", "1e3"), NumberMatch().same("50 %", "1/2")
        (True, True, True)
        """
        if first == second:
            return True
        one, other = read_number(first), read_number(second)
        if one is None or other is None:
            return False
        if one[1] and other[1] and one[1] != other[1]:
            return False
        return math.isclose(one[0], other[0], rel_tol=self.relative_tolerance)


@lru_cache(maxsize=65536)
def read_number(answer: str) -> tuple[float, str] | None:
    """The value and the unit ("" if none) of an answer that starts with a number; None where it does not. 5 % is 0.05.

    A comma with other than three digits behind it is a decimal comma (3,5); 1.000 is one, not a thousand.

    >>> read_number("two thirds"), read_number("minus 1.5 million people"), read_number("Paris")
    ((0.6666666666666666, ''), (-1500000.0, 'people'), None)
    """
    text = re.sub(r"(?<=\d)\s*⁄\s*(?=\d)", "/", answer.replace("½", " 1/2").replace("¼", " 1/4").replace("¾", " 3/4"))
    words = normalise(text).replace("%", " % ").split()
    negative = bool(words) and words[0] in {"minus", "negative"}
    value, used = _read_words(words[1:] if negative else words)
    if value is None or not math.isfinite(value):
        return None
    rest = words[used + negative :]
    if rest and rest[0] in _PERCENT:
        value, rest = value / 100, rest[1:]
    elif rest[:2] == ["per", "cent"]:
        value, rest = value / 100, rest[2:]
    return (-value if negative else value), " ".join(rest)


def _read_words(words: list[str]) -> tuple[float | None, int]:
    """Value of the longest number that the words start with, and how many words it took."""
    total, group, used, seen = 0.0, 0.0, 0, False
    last = math.inf  # within a group values must fall: "twenty three" is a number, "three twenty" is two
    while used < len(words):
        word = words[used]
        digits = _DIGITS.fullmatch(word)
        if word in _PARTS and (seen or word in {"half", "third", "quarter"}):
            return (total + group if seen else 1.0) / _PARTS[word], used + 1
        if word in _SCALES and (seen or used == 0):
            scale = _SCALES[word]
            if scale == 100:
                group, last = (group or 1.0) * 100, 100
            else:
                total, group, last = total + (group or 1.0) * scale, 0.0, math.inf
        elif word in _WORDS and (not seen or _fits(_WORDS[word], last)):
            group, last = group + _WORDS[word], _WORDS[word]
        elif digits is not None and (not seen or digits.group(2)):
            part = float(digits.group(1).replace(",", "."))
            if digits.group(2):  # "1 1/2": the fraction closes the number
                divisor = float(digits.group(2))
                return (total + group + part / divisor, used + 1) if divisor else (None, 0)
            group, last = part, 0
        elif word == "and" and seen:
            behind = used + 2 if words[used + 1 : used + 2] == ["a"] else used + 1  # "two and a half"
            follower = words[behind] if behind < len(words) else ""
            if follower in _PARTS:
                return total + group + 1 / _PARTS[follower], behind + 1
            if follower not in _WORDS or behind > used + 1:
                break
        else:
            break
        seen, used = True, used + 1
    return (total + group, used) if seen else (None, 0)


def _fits(value: int, last: float) -> bool:
    """Whether a number word may follow one of value `last`: units after tens, anything below a hundred after hundred."""
    return value < 10 <= last < 100 and last % 10 == 0 and last >= 20 or last >= 100
