"""Where in a text a mistake costs most: links, dates, numbers and names, and what to do with such stretches.

A tagger finds them; the one here knows the forms of English by rules alone. Another one (spaCy, a token classifier) is one class
with one method. What is found is then weighted, or wrapped in markers.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from distill.records import Span

Kind = Literal["link", "date", "number", "name"]
KINDS: tuple[Kind, ...] = ("link", "date", "number", "name")


class Found(NamedTuple):
    """A stretch [start, end) of a text, in code points, and what it is."""

    start: int
    end: int
    kind: str


class Tagger(ABC):
    """Finds the stretches of a text that matter."""

    @abstractmethod
    def find(self, text: str) -> list[Found]:
        """Stretches in text order that do not overlap; kinds are names of the tagger's own."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan\.|Feb\.|Mar\.|Apr\.|Jun\.|Jul\.|Aug\.|Sept?\.|Oct\.|Nov\.|Dec\.)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>\"]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DATE = re.compile(
    rf"""(?<![\w.,]) (?:
        {_DAY} [ ] {_MONTH} (?: ,? [ ] {_YEAR} )?            # 4 July 1776
      | {_MONTH} [ ] {_DAY} (?! \d | [.,]\d ) (?: ,? [ ] {_YEAR} )?   # July 4, 1776
      | {_MONTH} ,? [ ] {_YEAR}                             # July 1776
      | (?: January|February|April|June|July|August|September|October|November|December )
      | (?<= [iI]n[ ] | [oO]f[ ] | [bB]y[ ] ) (?: March|May )             # elsewhere a verb as often as a month
      | (?: Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday )
      | \d{{4}}-\d\d-\d\d (?: T\d\d:\d\d (?: :\d\d )? Z? )?
      | \d{{1,2}} ([/.]) \d{{1,2}} \1 (?: \d{{4}} | \d\d )
      | {_YEAR} \s? [–-] \s? (?: {_YEAR} | \d\d )          # 1990–95
      | {_YEAR} (?: s | [ ]?(?:BC|AD|BCE|CE)\b )?
      | \d{{1,3}} [ ] (?:BC|AD|BCE|CE)\b | (?:BC|AD) [ ] \d{{1,4}}
      | \d{{1,2}} (?:st|nd|rd|th) (?:[ ]|-) century
      | \d{{1,2}} : \d\d (?: :\d\d )? (?: [ ]? [ap]\.?m\b\.? )?
      | \d{{1,2}} [ ]? [ap]\.?m\b\.?
    ) (?! \w | [.,]\d | [ ]?% )""",
    re.VERBOSE,
)
_UNIT = (
    r"(?:%|(?:ft|feet|foot)[ ]\d{1,2}[ ](?:in|inch|inches)\b|per[ ]cent|percent|°[ ]?[CF]"
    r"|(?:thousand|million|billion|trillion|dozen)\b(?:[ ](?:dollars?|euros|pounds|people|years)\b)?"
    r"|(?:km/h|mph|km2|km²|m2|m²|sq[ ]mi|sq[ ]km|km|cm|mm|nm|mi|kg|mg|lb|lbs|oz|ft|yd|kHz|MHz|GHz|Hz|kW|MW|GW|kB|MB|GB|TB|hp|kn"
    r"|metres?|meters?|kilomet(?:re|er)s?|centimet(?:re|er)s?|millimet(?:re|er)s?|miles?|feet|foot|inch(?:es)?|yards?"
    r"|m|ha|in(?=[),.;])|nautical[ ]miles?|acres?|hectares?"
    r"|grams?|kilograms?|pounds?|ounces?|tons?|tonnes?|lit(?:re|er)s?|gallons?|knots?|degrees?|dollars?|euros?|cents?"
    r"|seconds?|minutes?|hours?|days?|weeks?|months?|years?|people"
    r"|square[ ](?:miles?|kilomet(?:re|er)s?|feet|met(?:re|er)s?))(?![\w]))"
)
_NUMBER = re.compile(
    rf"""(?<![\w]) (?: [$£€¥] \s? )? (?: (?<![\w>.,)]) [-+−] )? \d (?: \d | [.,] (?=\d) | – (?=\d) )*
         (?: (?:st|nd|rd|th)\b | (?: [ -]? {_UNIT} )? ) (?! [A-Za-z])""",
    re.VERBOSE,
)
_WORD = re.compile(r"[^\W\d_][\w]*(?:['’.-](?=\w)[\w]+)*")
_TITLES: frozenset[str] = _words(
    """
    Mr Mrs Ms Dr St Jr Sr Prof Gen Col Lt Sgt Capt Rev Hon Gov Sen Rep Maj Cdr Adm Ft Mt No vs Inc Ltd Co
    """
)
_WITHIN: frozenset[str] = _words(
    """
    of the de la le du des van von der den del della da di al bin ibn y e and for
    """
)
# Words that open a sentence, a title or a clause in capitals without naming anything.
_NO_NAME: frozenset[str] = _words(
    """
    A An The This That These Those There Here He She It They We You I His Her Its Their Our Your My Him Them Us Who Whom
    Whose Which What When Where Why How If Although Though Because Since While Whereas Unless Until As At By For From In
    Into Of On Onto Over Under Upon To Toward Towards With Within Without About Above Across After Against Along Among
    Around Before Behind Below Beneath Beside Besides Between Beyond Despite Down During Except Following Inside Like
    Near Off Out Outside Past Per Plus Through Throughout Up Via And But Or Nor So Yet Both Either Neither Not No Yes
    All Any Each Every Few Many More Most Much Other Others Another Some Several Such Same Own One Two Three Four Five
    Six Seven Eight Nine Ten First Second Third Last Next Later Earlier Then Now Once Today However Therefore Thus Hence
    Moreover Furthermore Nevertheless Nonetheless Meanwhile Instead Additionally Also Finally Eventually Initially
    Originally Subsequently Previously Recently Currently Generally Usually Often Sometimes Only Just Even Still Already
    Again Further Overall Unlike Rather Perhaps Indeed Did Do Does Is Are Was Were Be Been Being Has Have Had Having Can
    Could May Might Must Shall Should Will Would Let According Due Based Given Using Including Together Apart Similarly
    Likewise Consequently Accordingly Afterwards Afterward Soon Shortly Notable Various Numerous Less Least Critics
    Reviewers Fans Scholars Historians Scientists Researchers Authors Writers People Men Women Children
    """
)
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*\s+["'“‘(\[]*$|\n\s*["'“‘(\[]*$|(?:^|\s)["“‘]\s?$|[:;]\s+["“]$""")


@dataclass(frozen=True, kw_only=True)
class RuleTagger(Tagger):
    """Links, dates, numbers with their units, and capitalised names, by rules for English text; no model, no dependency.

    A capitalised word that opens a sentence is a name only where the text has it inside a sentence too, or where a second
    capitalised word follows. Numbers in words, and names in scripts without capitals, are not found.

    >>> text = "In May 2008 Ada Lovelace paid $3.50 for 12 km of wire, see https://example.org."
    >>> [(text[one.start:one.end], one.kind) for one in RuleTagger().find(text)]
    [('May 2008', 'date'), ('Ada Lovelace', 'name'), ('$3.50', 'number'), ('12 km', 'number'), ('https://example.org', 'link')]
    """

    kinds: tuple[Kind, ...] = KINDS

    def find(self, text: str) -> list[Found]:
        """What the rules find; a link goes before a date, a date before a number, a number before a name."""
        found: list[Found] = []
        for kind, stretches in (("link", _links(text)), ("date", _matches(_DATE, text)), ("number", _matches(_NUMBER, text))):
            free = (one for one in stretches if not any(one[0] < other.end and other.start < one[1] for other in found))
            found += [Found(*one, kind) for one in list(free)]
        if "name" in self.kinds:
            found += [Found(*one, "name") for one in _names(text, found)]
        return sorted(one for one in found if one.kind in self.kinds)


def weighted_spans(length: int, base: Sequence[Span], found: Sequence[Found], weights: Mapping[str, float]) -> tuple[Span, ...]:
    """Spans that train what was trained before, with what was found weighted more.

    length: of the response. base: its spans, or the whole of it as one. weights: factors by kind.

    >>> whole = [Span(start=0, end=9, polarity="positive")]
    >>> [(one.start, one.end, one.weight) for one in weighted_spans(9, whole, [Found(3, 5, "date")], {"date": 4.0})]
    [(0, 3, 1.0), (3, 5, 4.0), (5, 9, 1.0)]
    """
    spans = []
    for one in base:
        cuts = {one.start, one.end}
        cuts |= {place for stretch in found for place in (stretch.start, stretch.end) if one.start < place < one.end}
        ordered = sorted(cuts)
        for start, end in zip(ordered, ordered[1:], strict=False):
            kind = next((stretch.kind for stretch in found if stretch.start <= start and end <= stretch.end), None)
            factor = 1.0 if kind is None else weights.get(kind, 1.0)
            spans.append(replace(one, start=start, end=end, weight=one.weight * factor))
    return tuple(spans)


def wrapped(
    text: str, spans: Sequence[Span], found: Sequence[Found], markers: Mapping[str, tuple[str, str]]
) -> tuple[str, tuple[Span, ...]]:
    """The text with each stretch between its kind's markers, and the spans moved to where their text is now.

    A span that held a stretch holds its markers too.

    >>> wrapped("born 1901", (), [Found(5, 9, "date")], {"date": ("<d>", "</d>")})
    ('born <d>1901</d>', ())
    """
    pieces: list[str] = []
    inserted: list[tuple[int, int, bool]] = []  # (place, code points, whether it closes)
    last = 0
    for one in found:
        before, after = markers[one.kind]
        pieces += [text[last : one.start], before, text[one.start : one.end], after]
        inserted += [(one.start, len(before), False), (one.end, len(after), True)]
        last = one.end
    pieces.append(text[last:])

    def moved(place: int) -> int:
        # What closes at a place lies before it, what opens there behind it.
        return place + sum(size for at, size, closes in inserted if at < place or (at == place and closes))

    return "".join(pieces), tuple(replace(span, start=moved(span.start), end=moved(span.end)) for span in spans)


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin, in code points: behind . ! ? and a space, or a line's end, but not behind Dr. or an initial.

    >>> sentence_starts("Dr. Who came. He left! J. S. Bach stayed.")
    [0, 14, 23]
    """
    starts = [0] if text else []
    for match in re.finditer(r"([\w’']*)[.!?][\"'”’)\]]*\s+(?=[\w\"'“‘(\[])|\n+\s*(?=\S)", text):
        word = match[1] or ""
        closes = match[0].lstrip(word).startswith(".")
        if not (closes and (word in _TITLES or (len(word) == 1 and word.isupper()))):
            starts.append(match.end())
    return starts


def detokenised(text: str) -> str:
    """Text of WikiText as people write it: its @-@ joined, its spaces before punctuation taken out.

    >>> detokenised('the 1 @,@ 500 @-@ ton ship " Argo " ( 1901 ) , 25 km / h .')
    'the 1,500-ton ship "Argo" (1901), 25 km/h.'
    """
    text = re.sub(r" @([-,.])@ ", r"\1", text).replace(" / ", "/")
    text = re.sub(r"(?<=\d) : (?=\d\d)", ":", text)
    text = re.sub(r" ([,.;:!?%)\]]|n't\b|'(?:s|t|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r"([(\[$£€]) ", r"\1", text)
    text = re.sub(r'" ([^"]*?) "', r'"\1"', text)
    return re.sub(r"(?<=\d) – (?=\d)", "–", text)


def _matches(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [(match.start(), match.end()) for match in pattern.finditer(text)]


def _links(text: str) -> list[tuple[int, int]]:
    """Links without the punctuation of the sentence around them."""
    found = []
    for match in _LINK.finditer(text):
        link = match[0].rstrip(".,;:!?'")
        while link.endswith(")") and link.count(")") > link.count("("):
            link = link[:-1].rstrip(".,;:!?'")
        found.append((match.start(), match.start() + len(link)))
    return found


def _names(text: str, taken: Sequence[Found]) -> list[tuple[int, int]]:
    """Runs of capitalised words, with small words such as `of` and `van` inside them."""
    words = [word for word in _WORD.finditer(text) if not any(word.start() < one.end and one.start < word.end() for one in taken)]
    starts = set(sentence_starts(text))
    opens = [
        word.start() in starts or bool(_SENTENCE_END.search(text[max(0, word.start() - 8) : word.start()])) for word in words
    ]
    opens = [here and not _after_title(text, word.start()) for here, word in zip(opens, words)]
    inside = {word[0] for word, here in zip(words, opens) if not here and _capital(word[0])}
    found: list[tuple[int, int]] = []
    index = 0
    while index < len(words):
        if not _capital(words[index][0]) or words[index][0] in _NO_NAME:
            index += 1
            continue
        first, last = index, index
        while (following := _following(text, words, last, opens)) is not None:
            last = following
        alone = first == last and opens[first]
        word = words[first][0]
        owner = word[-2:] in ("'s", "’s") and word[:-2] not in _NO_NAME
        if not alone or owner or word in inside or any(letter.isupper() for letter in word[1:]):
            end = words[last].end()
            if text[end : end + 1] == "." and words[last][0] in _TITLES | {"Jr", "Sr"}:
                end += 1
            found.append((words[first].start(), end if not text[:end].endswith(("'s", "’s")) else end - 2))
        index = last + 1
    return found


def _following(text: str, words: Sequence[re.Match[str]], last: int, opens: Sequence[bool]) -> int | None:
    """The next word of the same name, over small words inside it; None where the name ends."""
    small = last + 1
    while small < len(words) and small - last <= 2 and words[small][0] in _WITHIN and _joined(text, words, small):
        small += 1
    if small >= len(words) or not _joined(text, words, small) or opens[small]:
        return None
    # "Paris and London" are two names; "Trinidad and Tobago" is the price of it.
    if any(words[n][0] in ("and", "for", "the", "e", "y") and words[n - 1][0] != "of" for n in range(last + 1, small)):
        return None
    if text[: words[last].end()].endswith(("'s", "’s")):
        return None
    word = words[small][0]
    return small if _capital(word) and (word not in _NO_NAME or word in ("One", "Two", "Three", "First", "Second")) else None


def _joined(text: str, words: Sequence[re.Match[str]], n: int) -> bool:
    """Whether only a space, or the full stop of an initial or a title, lies between a word and the one before it."""
    between = text[words[n - 1].end() : words[n].start()]
    before = words[n - 1][0]
    return between == " " or (
        between in (". ", ".") and (before in _TITLES or (len(before.rsplit(".", 1)[-1]) == 1 and before[-1:].isupper()))
    )


def _after_title(text: str, start: int) -> bool:
    before = re.search(r"(\w+)\. $", text[max(0, start - 8) : start])
    return before is not None and (before[1] in _TITLES or (len(before[1]) == 1 and before[1].isupper()))


def _capital(word: str) -> bool:
    return word[0].isupper() and word != "I"
