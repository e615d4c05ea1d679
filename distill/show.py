"""What is trained, token by token, on a screen: green is trained up, red down, grey is context.

Records are untrusted: no character of theirs reaches the terminal that could move the cursor, repaint or reorder a line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import RenderError
from distill.records import Record, read_records
from distill.render import Example, Overlong, Renderer, Turns
from distill.template import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GREEN, RED, GREY, RESET = "\x1b[32m", "\x1b[31m", "\x1b[90m", "\x1b[0m"
# First-strong isolate and its end: what a right-to-left token does to the order of its neighbours stays inside.
ISOLATE, END_ISOLATE = "\u2068", "\u2069"
# Stands for a token that holds only a part of a character; the token that completes it shows the character.
PART = "⋯"
_WHITESPACE = {"\n": "↵", "\r": "\\r", "\t": "→"}
# The joiners are format characters too, but Persian and emoji need them and they move nothing.
_HARMLESS_FORMAT = {"\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"}
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_RIGHT_TO_LEFT = {"R", "AL", "AN"}


def show(
    records: Iterable[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    color: bool,
    limit: int | None = None,
    max_tokens: int | None = None,
    turns: Turns = "last",
    overlong: Overlong = "error",
) -> Iterator[str]:
    """The lines of the first `limit` records: a header, the tokens, an empty line.

    With color: tokens in green, red or grey. Without: `[+token]`, `[-token]`, and context as it is, with brackets and
    backslashes of the text escaped by a backslash. A weight other than 1 follows: `[+token*0.5]`. A token that holds only a
    part of a character is `⋯`. A record that cannot be rendered shows the reason in place of its tokens. The other arguments
    are those of `render`.
    """
    renderer = Renderer(tokenizer=tokenizer, max_tokens=max_tokens, turns=turns, overlong=overlong)
    for record in islice(records, limit):
        name = f"{printable(record.id)}  group {printable(record.group)}  {record.polarity}"
        try:
            example = renderer(record)
        except RenderError as error:
            yield f"{name}  not trainable"
            yield f"! {printable(str(error))}"
        else:
            yield f"{name}  {_counts(example)}"
            yield from _tokens(example, token_texts(example.token_ids, tokenizer), color=color)
        yield ""


def show_command(
    records_path: str | Path,
    student: str,
    limit: int | None = 20,
    color: bool = True,
    *,
    max_tokens: int | None = None,
    turns: Turns = "last",
    overlong: Overlong = "error",
) -> Iterator[str]:
    """`show` for a file or folder of records and a student's name or folder; reads no more records than it shows."""
    from distill.models import load_tokenizer

    tokenizer = load_tokenizer(student)
    records = read_records(records_path)
    return show(records, tokenizer, color=color, limit=limit, max_tokens=max_tokens, turns=turns, overlong=overlong)


def printable(text: str) -> str:
    r"""Text that is safe on a terminal: newline and tab as signs, control and bidi-control characters by their code point.

    >>> printable("a\tb\x1b[31m")
    'a→b\\u{1B}[31m'
    """
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character in _WHITESPACE:
        return _WHITESPACE[character]
    if unicodedata.category(character) in _UNPRINTABLE and character not in _HARMLESS_FORMAT:
        return f"\\u{{{ord(character):X}}}"
    return character


def _counts(example: Example) -> str:
    up = sum(weight > 0 and not negative for weight, negative in zip(example.weight, example.negative, strict=True))
    down = sum(weight > 0 and negative for weight, negative in zip(example.weight, example.negative, strict=True))
    return f"{len(example)} tokens, {example.prompt_length} of them prompt, supervised +{up} -{down}"


def _tokens(example: Example, texts: list[str], *, color: bool) -> Iterator[str]:
    """The tokens, in a new line after each newline of the text."""
    line = ""
    for text, weight, negative in _runs(example, texts, merge_supervised=color):
        # Only "\n" begins a new line here; str.splitlines knows eight more, which are shown as signs.
        parts = re.findall(r"[^\n]*\n|[^\n]+", text) or [""]
        for part in parts:
            shown = _isolate(_printable_token(part, escape_brackets=not color)) or PART
            if weight not in (0.0, 1.0):
                shown += f"*{weight:g}"
            if color:
                line += f"{GREY if not weight else RED if negative else GREEN}{shown}{RESET}"
            else:
                line += f"[{'-' if negative else '+'}{shown}]" if weight else shown
            if part.endswith("\n"):
                yield line
                line = ""
    if line:
        yield line


def _runs(example: Example, texts: list[str], *, merge_supervised: bool) -> Iterator[tuple[str, float, bool]]:
    """(text, weight, negative) of neighbours that look the same: a word in one piece is read in its own direction."""

    def look(place: int) -> tuple[float, bool, int]:
        weight, negative = example.weight[place], example.negative[place]
        if not weight:
            return 0.0, False, -1
        return weight, negative, -1 if merge_supervised else place

    for (weight, negative, _), places in groupby(range(len(texts)), key=look):
        yield "".join(texts[place] for place in places), weight, negative


def _printable_token(text: str, *, escape_brackets: bool) -> str:
    if escape_brackets:
        for sign in "\\[]":
            text = text.replace(sign, f"\\{sign}")
    return printable(text)


def _isolate(text: str) -> str:
    strong = [place for place, character in enumerate(text) if unicodedata.bidirectional(character) in _RIGHT_TO_LEFT]
    if not strong:
        return text
    first, last = strong[0], strong[-1] + 1
    return f"{text[:first]}{ISOLATE}{text[first:last]}{END_ISOLATE}{text[last:]}"
