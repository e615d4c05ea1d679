"""What a sentence is about, without a model: its names, numbers and content words, and whether it denies."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from distill.consensus.numbers import read_number

_WORDS = re.compile(
    r"\d+(?:,\d{3})*(?:\.\d+)?"
    r"|\b(?:twen|thir|for|fif|six|seven|eigh|nine)ty-(?:one|two|three|four|five|six|seven|eight|nine)\b"
    r"|[^\W\d_]+(?:['’][^\W\d_]+)?",
    re.IGNORECASE,
)
# fmt: off
_STOP = frozenset(re.findall(r"\w+", """
    a an the this that these those it its he him his she her hers they them their theirs we us our you your i me
    my mine who whom whose which what when where why how is are was were be been being am do does did doing done
    have has had having will would can could shall should may might must and or but if so than then as of at by
    for from in into on onto to with within without about above below over under between among through during
    before after up down out off again there here also too very just only both each all any some such same own
    more most other another own s t d ll re ve m name called known whether because while upon per via one ones get
    got yes yeah indeed certainly definitely absolutely sure however moreover furthermore additionally notably actually
    unfortunately therefore thus hence although though despite
"""))
# fmt: on
_DENIALS = frozenset(("not", "no", "never", "neither", "nor", "none", "nobody", "nothing", "cannot", "without", "isn", "wasn"))
_AFTER_NAME = re.compile(r"\s+(?:is|was|has|had|became|does|did)\b|[.!?\s]*$")
_CONTRACTED = re.compile(r"n['’]t$")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Stems of a text by kind, each in one of them.

    names: capitalised words; openings: first words of sentences, which may be names; subjects: those of them that look like one
    ("Odesa is ..."); numbers: as plain digits ("1,000" and "1000" are one); words: the rest without stop words. denies: whether
    there is an odd number of denials.
    """

    names: frozenset[str]
    openings: frozenset[str]
    subjects: frozenset[str]
    numbers: frozenset[str]
    words: frozenset[str]
    denies: bool

    @property
    def all(self) -> frozenset[str]:
        """Every term."""
        return self.names | self.openings | self.numbers | self.words


@lru_cache(maxsize=65536)
def read_terms(text: str) -> Terms:
    """The terms of one text.

    >>> found = read_terms("In 1,066 the duke of Normandy did not cross the Channel.")
    >>> sorted(found.names), sorted(found.numbers), sorted(found.words), found.denies
    (['channel', 'normandy'], ['1066'], ['cross', 'duk'], True)
    """
    names: set[str] = set()
    openings: set[str] = set()
    subjects: set[str] = set()
    numbers: set[str] = set()
    words: set[str] = set()
    denials = 0
    first = True
    last = 0
    for match in _WORDS.finditer(text):
        first = first or bool(re.search(r"[.!?:\n]", text[last : match.start()]))
        last = match.end()
        piece = match.group()
        folded = fold(piece)
        if _CONTRACTED.search(piece.casefold()) or folded in _DENIALS:
            denials += 1
        elif piece[0].isdigit():
            numbers.add(_plain_number(piece))
        elif folded in _STOP:
            pass
        elif (number := read_number(folded)) is not None and not number[1]:
            numbers.add(f"{number[0]:.12g}")
        elif piece[0].isupper():
            beside = text[match.end() : match.end() + 1]
            kind = names if not (first and piece[1:].islower()) else words if beside == "," else openings
            kind.add(stem(folded))
            if kind is openings and _AFTER_NAME.match(text, match.end()):
                subjects.add(stem(folded))
        else:
            words.add(stem(folded))
        first = False
    return Terms(
        names=frozenset(names),
        openings=frozenset(openings - words - names),
        subjects=frozenset(subjects - words - names),
        numbers=frozenset(numbers),
        words=frozenset(words - names),
        denies=denials % 2 == 1,
    )


def index_terms(text: str) -> list[str]:
    """The stems of a text in order, for a search index: stop words out, numbers as plain digits."""
    found = []
    for piece in _WORDS.findall(text):
        if piece[0].isdigit():
            found.append(_plain_number(piece))
        elif (folded := fold(piece)) not in _STOP:
            found.append(stem(folded))
    return found


@lru_cache(maxsize=65536)
def fold(word: str) -> str:
    """Lower case, without accents and without the possessive.

    >>> fold("Café's")
    'cafe'
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(char))
    return re.sub(r"['’]s?$", "", plain).replace("’", "'")


def stem(word: str) -> str:
    """A word without its commonest English endings: crude, and the same on both sides of a comparison.

    >>> [stem(word) for word in ("cities", "city", "writes", "writing", "boxes", "class", "Laos")]
    ['city', 'city', 'writ', 'writ', 'box', 'class', 'Lao']
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("xes", "ches", "shes", "sses", "zes")) else word[:-1]
    if len(word) > 5 and word.endswith("ing"):
        word = word[:-3]
    elif len(word) > 4 and word.endswith("ed"):
        word = word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _plain_number(text: str) -> str:
    plain = text.replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain.lstrip("0") or "0"
