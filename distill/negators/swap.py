"""Wrong variants of a right response: another answer of the same type, another number."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from distill.consensus.base import Equivalence
from distill.consensus.equivalence import NormalisedMatch
from distill.errors import ConfigError
from distill.negators.base import Negation, Negator
from distill.negators.form import is_denial
from distill.records import Prompt, Span


@dataclass(frozen=True, kw_only=True)
class AnswerSwap(Negator):
    """Replaces the answer in a response by others of the same type; every occurrence of it, each with its span.

    pool: all answers of one type (capitals, or currencies, ...). The longest member of the pool that stands in the response, in
    its own spelling and at word boundaries, is what is replaced; without one, []. Never by an answer that `equivalence` calls the
    same. count: how many variants. Whether the new answer is wrong is not known where questions have several right ones. A denial
    is left alone: with another answer it mostly stays true.
    """

    pool: Sequence[str]
    count: int = 1
    equivalence: Equivalence = field(default_factory=NormalisedMatch)

    def __post_init__(self) -> None:
        """Refuse a pool that cannot swap."""
        if len({answer for answer in self.pool if answer.strip()}) < 2:
            raise ConfigError(f"AnswerSwap needs a pool of at least two answers, got {len(self.pool)}")

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """Up to `count` variants, drawn without repetition.

        >>> AnswerSwap(pool=("Paris", "Rome")).negate((), "It is Paris.")[0].text
        'It is Rome.'
        """
        found = self._members.search(response)
        if found is None or is_denial(response):
            return []
        longest = max((match.group() for match in self._members.finditer(response)), key=len)
        others = [answer for answer in dict.fromkeys(self.pool) if answer.strip() and answer != longest]
        self.equivalence.prepare((longest, *others))
        random.Random(f"{seed}\x00{response}").shuffle(others)
        different = (answer for answer in others if not self.equivalence.same(longest, answer))
        return [_replaced(response, longest, answer) for answer, _ in zip(different, range(self.count), strict=False)]

    @cached_property
    def _members(self) -> re.Pattern[str]:
        # Longest first: "New York City" is not "New York" with a rest.
        answers = sorted({answer for answer in self.pool if answer.strip()}, key=lambda answer: (-len(answer), answer))
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, answers)) + r")(?!\w)")


def _replaced(text: str, old: str, new: str) -> Negation:
    """All occurrences of `old` at word boundaries become `new`, with their spans."""
    pieces: list[str] = []
    spans: list[Span] = []
    done = length = 0
    for match in re.finditer(r"(?<!\w)" + re.escape(old) + r"(?!\w)", text):
        before = text[done : match.start()]
        start = length + len(before)
        pieces += [before, new]
        spans.append(Span(start=start, end=start + len(new), polarity="negative"))
        length, done = start + len(new), match.end()
    return Negation(text="".join(pieces) + text[done:], spans=tuple(spans))


@dataclass(frozen=True, kw_only=True)
class NumberChange(Negator):
    """Replaces one number written in digits by another of the same form: as many decimals, separators where there were any.

    relative: the new value is within this share of the old one (never the same), at least 1 in the last place. Which number and
    which value follow from the seed. Numbers within words (B12, H2O) and denials are left alone. Spans cover the new number.
    """

    count: int = 1
    relative: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a range that holds no other number."""
        if not self.relative > 0:
            raise ConfigError(f"relative {self.relative} must be above 0, or no other number is in reach")

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """Up to `count` variants with different values.

        >>> variant = NumberChange().negate((), "Gold has the atomic number 79.")[0]
        >>> variant.text[variant.spans[0].start : variant.spans[0].end].isdigit(), "79" in variant.text
        (True, False)
        """
        numbers = list(_NUMBER.finditer(response))
        if not numbers or is_denial(response):
            return []
        draw = random.Random(f"{seed}\x00{response}")
        found: dict[str, Negation] = {}
        for _ in range(20 * self.count):  # small numbers have few neighbours: then there are fewer variants
            number = draw.choice(numbers)
            new = _other(number.group(), self.relative, draw)
            text = response[: number.start()] + new + response[number.end() :]
            span = Span(start=number.start(), end=number.start() + len(new), polarity="negative")
            found.setdefault(text, Negation(text=text, spans=(span,)))
            if len(found) == self.count:
                break
        return list(found.values())


# A number that is not part of a word, a version or a date with hyphens.
_NUMBER = re.compile(r"(?<![\w.,-])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w-]|[.,]\d)")


def _other(number: str, relative: float, draw: random.Random) -> str:
    """Another number in the same form, not negative."""
    whole, _, decimals = number.replace(",", "").partition(".")
    value = int(whole + decimals)  # in units of the last place
    reach = max(1, round(value * relative))
    low = max(0, value - reach)
    other = draw.randrange(low, value + reach)
    other += other >= value  # skips the value itself
    digits = str(other).rjust(len(decimals) + 1, "0")
    whole, decimals = (digits[: -len(decimals)], digits[-len(decimals) :]) if decimals else (digits, "")
    return (f"{int(whole):,}" if "," in number else whole) + ("." + decimals if decimals else "")
