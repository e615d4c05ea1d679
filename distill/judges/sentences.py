"""Where the sentences of a text begin and end."""

from __future__ import annotations

import re

# A stop behind one of these, or behind a single letter, ends no sentence.
_ABBREVIATIONS = frozenset(
    ("st", "mt", "dr", "mr", "mrs", "ms", "jr", "sr", "ft", "vs", "prof", "gen", "rev", "hon", "inc", "ltd", "co", "approx")
    + ("ca", "cf", "eg", "ie", "vol", "fig", "lt", "sgt", "capt", "gov", "u.s", "e.g", "i.e")
)
_ENDS = re.compile(r"[.!?]+[\"'”’)\]*_]*(?=\s+\S)|[。！？؟]|\n+")
_LAST_WORD = re.compile(r"[^\s(\"“*]*$")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence in code points, without white space around it; a line ends a sentence.

    >>> text = "Dr. Smith was born in St. Louis. He died in 1914!\\nPaid $3.50."
    >>> [text[start:end] for start, end in sentence_spans(text)]
    ['Dr. Smith was born in St. Louis.', 'He died in 1914!', 'Paid $3.50.']
    """
    found = []
    start = 0
    for end in [*(match.end() for match in _ENDS.finditer(text) if not _abbreviates(text, match)), len(text)]:
        piece = text[start:end]
        inside = piece.strip()
        if inside:
            first = start + len(piece) - len(piece.lstrip())
            found.append((first, first + len(inside)))
        start = end
    return found


def _abbreviates(text: str, match: re.Match[str]) -> bool:
    """Whether the stop belongs to the word before it: "Dr. Smith", "J. Smith", "e.g. this"."""
    if match.group()[0] != ".":
        return False
    word = text[max(match.start() - 20, 0) : match.start()]
    last = _LAST_WORD.search(word)
    name = last.group().casefold() if last else ""
    if name == "no":
        return text[match.end() : match.end() + 2].strip()[:1].isdigit()  # "No. 5", not "She said no. Then ..."
    return name in _ABBREVIATIONS or (len(name) == 1 and name.isalpha() and name != "i")
