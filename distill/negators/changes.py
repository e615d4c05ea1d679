"""What differs between two texts, in whole words."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from distill.records import Polarity, Span

_PIECES = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def changed_spans(old: str, new: str, *, polarity: Polarity = "negative") -> tuple[Span, ...]:
    """The words of `new` that are not in `old`, as spans of `new` (code points, white space at their ends excluded).

    Where words were only taken out, the word behind the gap is marked (at the end, the one before it): a model that writes from
    left to right departs from the old text there, and there alone can be taught to or not to. Equal texts give ().

    >>> [(span.start, span.end) for span in changed_spans("Iron is a metal.", "Iron is not a metal.")]
    [(8, 11)]
    >>> new = "Iron is a metal."
    >>> [new[span.start : span.end] for span in changed_spans("Iron is not a metal.", new)]
    ['a']
    """
    before = [match.group() for match in _PIECES.finditer(old)]
    pieces = list(_PIECES.finditer(new))
    after = [match.group() for match in pieces]
    spans = []
    for kind, _, _, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal" or not pieces:
            continue
        if start == end:
            start, end = (start, start + 1) if start < len(pieces) else (start - 1, start)
        spans.append((pieces[start].start(), pieces[end - 1].end()))
    return tuple(Span(start=start, end=end, polarity=polarity) for start, end in _merged(spans))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, overlapping and touching ones as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(set(spans)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
