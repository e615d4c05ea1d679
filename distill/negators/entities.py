"""Wrong variants of a response by another thing of the same type: a country for a country, a person for a person, a date."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.judges.base import Judge
from distill.negators.base import Negation, Negator
from distill.negators.form import is_denial
from distill.negators.gazetteer import Entity, Gazetteer, Mention, packaged_gazetteer, read_pools, with_article
from distill.records import Prompt, Span

KINDS = ("country", "capital", "city", "continent", "currency", "element", "language", "weekday", "month")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"(?<!\w)(?:\d{{1,2}} (?:{_MONTHS})(?: \d{{4}})?|(?:{_MONTHS}) \d{{1,2}}(?:, \d{{4}})?|(?:{_MONTHS}) \d{{4}}"
    r"|1[0-9]\d\d|20\d\d)(?!\w|[.,]\d)"
)
_YEARS = 25  # the new year is at most so far away
_TRIES = 200  # candidates that a judge may refuse before a mention is given up
_CAPITALISED = re.compile(r"[^\W\d_a-z][\w’'-]*(?: (?:of|de|van|von|der|la|the)(?= [A-Z]))?(?: [^\W\d_a-z][\w’'-]*)*")


@dataclass(frozen=True, kw_only=True)
class EntitySwap(Negator):
    """Replaces one thing that the response names, wherever it does, by another of the same type.

    kinds: packaged types to look for (`gazetteer.packaged`: countries, capitals, cities of half a million people, ...), the
    earlier ones first where a name has several. pools: a JSON file of types of your own, {"person": ["Ada Lovelace", ...]}; they
    go before the packaged ones. names: names of any type, such as the other records' answers (`capitalised_names`), or a file
    with one a line: a capitalised name that no type knows is swapped with one of as many words. dates: whether years and dates
    are things too.

    What the prompt does not name is swapped rather than what it names, since the answer is what should be wrong. judge: what
    knows some truths (a TruthTable): no swap whose truth it knows to be the response's own. Without one, "Italy borders France"
    may become "Italy borders Austria", and a denial is left alone: with another name it mostly stays true. count: variants.
    """

    kinds: tuple[str, ...] = KINDS
    pools: Path | None = None
    names: Path | tuple[str, ...] = ()
    dates: bool = True
    judge: Judge | None = None
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a number of variants that is none."""
        if self.count < 1:
            raise ConfigError(f"count {self.count}: give at least 1 variant")

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """Up to `count` variants, each with one thing replaced.

        >>> swap = EntitySwap(kinds=("continent",), dates=False)
        >>> variant = swap.negate((), "Peru lies in South America.")[0]
        >>> variant.text.startswith("Peru lies in "), "South America" in variant.text
        (True, False)
        """
        if self.judge is None and is_denial(response):
            return []
        asked = "\n".join(message.content for message in prompt)
        draw = random.Random(f"{seed}\x00{response}")
        mentions = self._mentions(response)
        unasked = [one for one in mentions if normalise(one.entity.name) not in normalise(asked)]
        order = [mentions[i] for i in draw.sample(range(len(mentions)), len(mentions))]
        order.sort(key=lambda one: one not in unasked)
        truth = None if self.judge is None else self.judge.judge(prompt, response).approved
        found: dict[str, Negation] = {}
        for mention in order:
            for name in self._others(mention, f"{asked}\n{response}", draw):
                variant = _swapped(response, [one for one in mentions if one.entity == mention.entity], name)
                if variant.text != response and not self._stays(prompt, variant, truth):
                    found.setdefault(variant.text, variant)
                    break
            if len(found) == self.count:
                break
        while order and len(found) < self.count:  # fewer things than variants: the first thing once more
            before = len(found)
            for name in self._others(order[0], f"{asked}\n{response}", draw):
                variant = _swapped(response, [one for one in mentions if one.entity == order[0].entity], name)
                if variant.text not in found and not self._stays(prompt, variant, truth):
                    found[variant.text] = variant
                    break
            if len(found) == before:
                break
        return list(found.values())

    def _stays(self, prompt: Prompt, variant: Negation, truth: bool | None) -> bool:
        """Whether the judge knows the variant to be as true as the response, which is held true where nothing is known."""
        if self.judge is None:
            return False
        known = self.judge.judge(prompt, variant.text).approved
        # A false response has one opposite only: a variant that is known to be true.
        return known is not True if truth is False else known is True

    def _mentions(self, text: str) -> list[Mention]:
        """All things of the text, the longest first where they overlap: dates, then known types, then other names."""
        found = [_date_mention(match) for match in _DATE.finditer(text)] if self.dates else []
        found += [one for one in self._gazetteer.mentions(text) if not _overlaps(one, found)]
        for name, start, end in _capitalised(text) if self._by_length else ():
            one = Mention(kind="name", entity=Entity(names=(name,)), start=start, end=end)
            if not _overlaps(one, found) and (name in self._known_names or len(name.split()) > 1):
                found.append(one)
        return sorted(found, key=lambda one: one.start)

    def _others(self, mention: Mention, text: str, draw: random.Random) -> Iterator[str]:
        """Names of other things of the mention's type that the text does not name, in random order."""
        if mention.kind == "date":
            yield from (_other_date(mention.entity.name, draw) for _ in range(_TRIES))
            return
        known = normalise(text)
        own = {normalise(name) for name in (*mention.entity.names, *mention.entity.others)}
        if mention.kind == "name":
            pool = [Entity(names=(name,)) for name in self._by_length.get(len(mention.entity.name.split()), ())]
        else:
            pool = list(self._gazetteer.entities[mention.kind])
        for index in draw.sample(range(len(pool)), min(len(pool), _TRIES)):
            spellings = {normalise(name) for name in pool[index].names}
            if not own & spellings and not any(f" {spelling} " in f" {known} " for spelling in spellings):
                yield pool[index].name

    @cached_property
    def _gazetteer(self) -> Gazetteer:
        return packaged_gazetteer(self.kinds) if self.pools is None else Gazetteer.of(self.kinds, read_pools(self.pools))

    @cached_property
    def _known_names(self) -> frozenset[str]:
        if isinstance(self.names, Path):
            try:
                return frozenset(line.strip() for line in self.names.read_text(encoding="utf-8").splitlines() if line.strip())
            except OSError as error:
                raise ConfigError(f"{self.names}: no file of names, one a line ({error})") from error
        return frozenset(self.names)

    @cached_property
    def _by_length(self) -> dict[int, list[str]]:
        lengths: dict[int, list[str]] = {}
        for name in sorted(self._known_names):
            lengths.setdefault(len(name.split()), []).append(name)
        return lengths


def capitalised_names(texts: Iterable[str]) -> tuple[str, ...]:
    """The names that some texts hold, by their capitals alone; a sentence's first word counts only where a name goes on.

    >>> capitalised_names(["It was Ada Lovelace.", "The poet Byron"])
    ('Ada Lovelace', 'Byron')
    """
    return tuple(sorted({name for text in texts for name, _, _ in _capitalised(text)}))


def _capitalised(text: str) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of runs of capitalised words, without an article in front."""
    for match in _CAPITALISED.finditer(text):
        start, name = match.start(), match.group()
        opens = re.fullmatch(r"(?:.*[.!?:\"“(]\s*)?", text[:start], flags=re.DOTALL) is not None
        if opens and " " in name and name.split()[0] in {"The", "A", "An", "In", "On", "At", "It", "This", "His", "Her"}:
            start, name = start + name.index(" ") + 1, name.partition(" ")[2]
        elif opens and " " not in name and start + len(name) < len(text.rstrip(" .!?")):
            continue  # any sentence begins with a capital; a name that is the whole answer stays
        yield name, start, start + len(name)


def _swapped(text: str, mentions: list[Mention], name: str) -> Negation:
    """The text with all the mentions called otherwise; an article that a country has or lacks goes with it."""
    pieces: list[str] = []
    spans: list[Span] = []
    done = length = 0
    for mention in mentions:
        start, new = mention.start, name
        if mention.kind == "country":
            article = re.search(r"\b[Tt]he $", text[done:start])
            start -= 4 if article else 0
            new = with_article(name)
        if start == 0 or (text[start].isupper() and not name[:1].isupper() and mention.kind != "date"):
            new = new[0].upper() + new[1:]
        before = text[done:start]
        spans.append(Span(start=length + len(before), end=length + len(before) + len(new), polarity="negative"))
        pieces += [before, new]
        length, done = length + len(before) + len(new), mention.end
    return Negation(text="".join(pieces) + text[done:], spans=tuple(spans))


def _overlaps(one: Mention, others: list[Mention]) -> bool:
    return any(one.start < other.end and other.start < one.end for other in others)


def _date_mention(match: re.Match[str]) -> Mention:
    return Mention(kind="date", entity=Entity(names=(match.group(),)), start=match.start(), end=match.end())


def _other_date(date: str, draw: random.Random) -> str:
    """Another date in the same form: the year where there is one, else the day."""
    if year := re.search(r"\d{4}", date):
        shift = draw.choice([step for step in range(-_YEARS, _YEARS + 1) if step])
        return date[: year.start()] + str(int(year.group()) + shift) + date[year.end() :]
    return re.sub(r"\d{1,2}", lambda day: str(draw.choice([n for n in range(1, 29) if n != int(day.group())])), date)


def with_names(swap: EntitySwap, texts: Iterable[str]) -> EntitySwap:
    """The same swap with the names of the given texts, the other records' answers for example, beside its own."""
    return replace(swap, names=(*sorted(swap._known_names), *capitalised_names(texts)))
