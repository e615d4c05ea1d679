"""What is left of an answer when only its wording, not its content, is taken away: case, accents, punctuation, articles, leads.

Multilingual safe: a mark is dropped only where dropping it does not make another letter (Latin and Greek accents, Hebrew
niqqud, Arabic harakat); the breve of Cyrillic short i, Indic vowel signs and Japanese voicing marks stay.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# What may stand before an answer without being part of it. Deliberately few: every lead removed is a chance to merge two answers.
LEADS = (
    r"(?:the |my )?(?:correct |right |final |short )?answer(?: is|:| is:)",
    r"(?:ה)?תשובה(?: ה?נכונה)?(?: היא|:| היא:)",
)
ARTICLES = ("the", "a", "an")  # leading only: "Vitamin A" keeps its A; "La Paz" and "Los Angeles" keep theirs

_MARKS_ARE_OPTIONAL = frozenset({"LATIN", "GREEK", "HEBREW", "ARABIC"})  # first words of Unicode character names

_LEAD = re.compile(r"^\W*(?:" + "|".join(LEADS) + r")\s+(?=\w)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEPT_PUNCTUATION = frozenset("#%")  # C# is not C, 5 % is not 5
_DROPPED = frozenset("'’‘ʼ`´׳״\"“”")  # inside words these join: N'Djamena ~ Ndjamena, צה״ל ~ צהל
_LATIN_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_ABBREVIATIONS = frozenset(
    ("st", "mt", "dr", "mr", "mrs", "ms", "jr", "sr", "ft", "no", "vs", "prof", "gen", "rev", "hon", "inc", "ltd", "co", "approx")
)
_OPENERS = re.compile(r"\s+(?:it|its|the|this|that|these|they|he|she|we|you|in|on|is|a|an|there|however|also)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]*_]*(?=\s+\S)|[。！？]")


@lru_cache(maxsize=65536)
def normalise(text: str) -> str:
    """The answer's content as one comparable string; idempotent, and never empty unless the text is blank.

    NFKC, case folding, accents and niqqud off, punctuation to spaces (kept: the point and the slash between digits, a minus
    before a digit, % and #), thousands separators out, one leading English article and a lead such as "the answer is" out.

    >>> normalise("The answer is: São Tomé.")
    'sao tome'
    >>> normalise("יְרוּשָׁלַיִם") == normalise("ירושלים")
    True
    >>> normalise("1,000.50 %"), normalise("Vitamin A"), normalise("the Port-au-Prince")
    ('1000.50 %', 'vitamin a', 'port au prince')
    """
    while (folded := _fold(text)) != text:
        text = folded
    return text


def short_answer(text: str) -> str:
    """The answer proper of a longer reply: the first sentence of its first line with text, without quotes and emphasis around it.

    A full stop after an initial or a common abbreviation does not end the sentence. The wording is otherwise kept.

    >>> short_answer(" St. John's. It lies on the coast.\\nMore: ...")
    "St. John's"
    >>> short_answer("**Washington, D.C.** It is the capital.")
    'Washington, D.C.'
    """
    line = next((stripped for raw in text.splitlines() if (stripped := raw.strip())), "")
    for end in _SENTENCE_END.finditer(line):
        word = re.split(r"[\s(\"“*]", line[: end.start()])[-1].casefold()
        if word and not (end.group()[0] == "." and _abbreviates(word, line[end.end() :])):
            line = line[: end.start() + ("." in word)]  # "D.C" keeps its last stop
            break
    return _unwrap(line)


def _abbreviates(word: str, rest: str) -> bool:
    """Whether the stop behind `word` belongs to it: in "K. Rowling" and "D.C. area", not in "Vitamin A. The"."""
    if word in _ABBREVIATIONS:
        return True
    if re.fullmatch(r"(?:[^\W\d]\.)*[^\W\d]", word) is None:
        return False
    return _OPENERS.match(rest) is None


def _unwrap(line: str) -> str:
    """Strip a trailing stop, quotes and emphasis that surround the whole answer; an apostrophe or stop inside a name stays."""
    while True:
        stripped = line.strip().strip('*_"“”`«»').strip()
        if stripped.endswith((".", "!", "?", ";", ",", ":")) and not re.search(r"(?:^|[\s.])[^\W\d]\.$", stripped):
            stripped = stripped[:-1]  # "D.C." keeps its last stop, "Paris." does not
        if stripped == line:
            return line
        line = stripped


def _fold(text: str) -> str:
    """One pass of `normalise`."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    lead = _LEAD.match(plain)
    if lead:
        plain = plain[lead.end() :]
    plain = _THOUSANDS.sub("", _strip_marks(plain).translate(_LATIN_LETTERS))
    words = _punctuation_to_spaces(plain).split()
    while len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return " ".join(words) or " ".join(plain.split())  # an answer of punctuation only is that punctuation


def _strip_marks(text: str) -> str:
    """Drop combining marks of Latin, Greek, Hebrew and Arabic letters and invisible format characters; recompose the rest."""
    kept: list[str] = []
    base = " "
    for char in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(char)
        if kind == "Cf" or char == "\u0640":  # direction marks, joiners; the Arabic tatweel only stretches a line
            continue
        if kind != "Mn":
            base = char
        elif unicodedata.name(base, "").partition(" ")[0] in _MARKS_ARE_OPTIONAL and not 0x0653 <= ord(char) <= 0x0655:
            continue  # the exception, Arabic hamza and madda, makes other letters
        kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))


def _punctuation_to_spaces(text: str) -> str:
    """Punctuation becomes a space, except where it carries the content of a number or a name."""
    out: list[str] = []
    for index, char in enumerate(text):
        before = text[index - 1] if index else " "
        after = text[index + 1] if index + 1 < len(text) else " "
        if char in _DROPPED:
            continue
        if not unicodedata.category(char).startswith("P") or char in _KEPT_PUNCTUATION:
            out.append(char)
        elif char in "./,:" and before.isdigit() and after.isdigit():
            out.append(char)  # 3.14, 1/2, 3,5 and 12:30
        elif char == "." and after.isdigit() and not before.isalnum():
            out.append(char)  # .5
        elif char in "-–" and after.isdigit() and not before.isalnum():
            out.append("-")  # a minus
        elif char == "." and before.isalpha() and after.isalpha() and _initials(text, index):
            continue  # u.s.a ~ usa
        else:
            out.append(" ")
    return "".join(out)


def _initials(text: str, index: int) -> bool:
    """True where the stop at `index` stands between single letters, as in U.S.A."""
    return (index < 2 or not text[index - 2].isalnum()) and (index + 2 >= len(text) or not text[index + 2].isalnum())
