"""What is kept of a completion that was cut off at its largest number of tokens: nobody should learn to stop in mid-sentence."""

from __future__ import annotations

import re
from typing import Literal

from distill.teachers.base import Completion

Cut = Literal["sentence", "drop", "keep"]

_END = re.compile(r"[.!?][\"'”’)\]*_]*(?=\s|$)|[。！？]")


def kept_text(completion: Completion, cut: Cut = "sentence") -> str:
    """The text to train on, "" where there is none.

    A completion that ended by itself is kept as it is, unless it is blank. One that was cut off is kept up to its last whole
    sentence ("sentence"), not at all ("drop"), or as it is ("keep").

    >>> kept_text(Completion(text="Paris. It lies on the", tokens=6, finish="length"))
    'Paris.'
    >>> kept_text(Completion(text="Paris lies on the", tokens=5, finish="length"))
    ''
    >>> kept_text(Completion(text=" Paris", tokens=2, finish="stop"), "drop")
    ' Paris'
    """
    text = completion.text
    if not text.strip():
        return ""
    if completion.finish == "stop" or cut == "keep":
        return text
    if cut == "drop":
        return ""
    ends = [match.end() for match in _END.finditer(text)]
    return text[: ends[-1]] if ends else ""
