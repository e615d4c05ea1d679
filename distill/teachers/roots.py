"""What two vocabularies can say of the next text in common: the map of every token of either to a root that both have.

A root is a text that both vocabularies hold and that both tokenizers begin alike. A token that only one side has belongs to
the root of the first token that the other side makes of its text: a teacher that splits digits begins `12` with `1`, so a
student's `12` is in the root `1`. Two more roots: the end of turn, whatever it is called on either side, and "other" for
control tokens and scraps that the other side cannot begin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.template import control_token_ids, end_of_turn, inner_tokens, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.objectives.base import CommonRoots

OTHER, END = 0, 1
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """One side. said: the bytes of each token (None: it says no text); pieces: the tokens, as bytes, that its tokenizer makes
    of each text asked for; controls: ids of control tokens by their own text.
    """

    said: Sequence[bytes | None]
    pieces: Mapping[bytes, tuple[bytes, ...]]
    controls: Mapping[str, int]
    end: int | None


def common_roots(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, student_rows: int, teacher_rows: int
) -> CommonRoots:
    """The roots of two tokenizers. rows: how many logits a model has, often more than its tokenizer has tokens."""
    said = [token_bytes(tokenizer) for tokenizer in (student, teacher)]
    texts = sorted({one for side in said for one in side if one and _text(one) is not None})
    sides = []
    for tokenizer, own in zip((student, teacher), said, strict=True):
        ids = inner_tokens([text for one in texts if (text := _text(one)) is not None], tokenizer)
        pieces = {
            text: tuple(own[token] or b"" if token < len(own) else b"" for token in some)
            for text, some in zip(texts, ids, strict=True)
        }
        names = {str(tokenizer.convert_ids_to_tokens(token)): token for token in _control_ids(tokenizer)}
        ends = end_of_turn(tokenizer)
        end = ends.ids[ends.supervised - 1] if ends.supervised else None
        sides.append(Vocabulary(said=own, pieces=pieces, controls=names, end=end))
    return roots_of(sides[0], sides[1], student_rows=student_rows, teacher_rows=teacher_rows)


def roots_of(student: Vocabulary, teacher: Vocabulary, *, student_rows: int, teacher_rows: int) -> CommonRoots:
    """The roots of two vocabularies whose texts have been cut by both tokenizers."""
    import torch

    from distill.objectives.base import CommonRoots

    roots = _Roots(student, teacher)
    maps = []
    for side, rows in ((student, student_rows), (teacher, teacher_rows)):
        root_V = [OTHER if text is None else roots.of(text) for text in side.said[:rows]]
        for name, token in side.controls.items():
            if token < rows and name in student.controls and name in teacher.controls:
                root_V[token] = roots.control(name)
        if side.end is not None and side.end < rows:
            root_V[side.end] = END
        maps.append(torch.tensor(root_V + [OTHER] * (rows - len(root_V)), dtype=torch.int64))
    return CommonRoots(
        count=roots.count,
        student_V=maps[0],
        teacher_V=maps[1],
        glues_student=_glues(student, teacher, student_rows, teacher_rows),
        glues_teacher=_glues(teacher, student, teacher_rows, student_rows),
    )


class _Roots:
    """Numbers the roots as they are found."""

    def __init__(self, student: Vocabulary, teacher: Vocabulary) -> None:
        self._sides = (student, teacher)
        self._said = [{text for text in side.said if text} for side in self._sides]
        self._numbers: dict[bytes | str, int] = {}
        self._known: dict[bytes, int] = {}

    @property
    def count(self) -> int:
        return 2 + len(self._numbers)

    def control(self, name: str) -> int:
        return self._number(name)

    def of(self, text: bytes) -> int:
        """The root of a token's text. Each step is to a shorter text, so it ends."""
        asked = []
        while text not in self._known:
            following = self._step(text)
            if following in (None, text):
                self._known[text] = OTHER if following is None else self._number(text)
                break
            asked.append(text)
            assert following is not None
            text = following
        for one in asked:
            self._known[one] = self._known[text]
        return self._known[text]

    def _step(self, text: bytes) -> bytes | None:
        """The text itself where it is a root, else a shorter one that both sides begin it with, or None."""
        shared = all(text in said for said in self._said)
        firsts = [side.pieces[text][:1] for side in self._sides if text in side.pieces]
        if not firsts:  # a fragment of a character: no tokenizer can be asked
            first = text[:1]
            if shared or len(text) == 1:
                return text if shared else None
            return first if all(first in said for said in self._said) else None
        if shared and firsts[0] == firsts[1]:
            return text
        prefixes = [first[0] for first in firsts if first and first[0] and text.startswith(first[0])]
        if len(prefixes) < 2:
            return None
        shortest = min(prefixes, key=len)
        return shortest if len(shortest) < len(text) else None

    def _number(self, name: bytes | str) -> int:
        return self._numbers.setdefault(name, 2 + len(self._numbers))


def _glues(own: Vocabulary, other: Vocabulary, own_rows: int, other_rows: int) -> Any:
    """(P, 2): tokens u of `own` and v of `other` whose text together is one token of `own`, and is cut before v by `other`."""
    import torch

    own_ids = _ids(own, own_rows)
    other_ids = _ids(other, other_rows)
    pairs = set()
    for text in own_ids:
        if own.pieces.get(text) != (text,) or len(pieces := other.pieces[text]) < 2 or b"".join(pieces) != text:
            continue
        head, last = text[: -len(pieces[-1])], pieces[-1]
        if head in own_ids and (head not in own.pieces or own.pieces[head] == (head,)):
            pairs |= {(u, v) for u in own_ids[head] for v in other_ids.get(last, ())}
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


def _ids(side: Vocabulary, rows: int) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for token, text in enumerate(side.said[:rows]):
        if text:
            found.setdefault(text, []).append(token)
    return found


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes that each token adds to a text, by id; None for control tokens, the unknown token and ids of no token."""
    names = {token: str(name) for name, token in tokenizer.get_vocab().items()}
    silent = _control_ids(tokenizer)
    added = {token: str(one.content) for token, one in tokenizer.added_tokens_decoder.items()}
    alphabet = _byte_of() if _is_byte_level(tokenizer) else None
    found: list[bytes | None] = []
    for token in range(max(names, default=-1) + 1):
        name = names.get(token)
        if name is None or token in silent:
            found.append(None)
        elif token in added:
            found.append(added[token].encode())
        elif alphabet is not None:
            found.append(bytes(alphabet[c] for c in name) if all(c in alphabet for c in name) else name.encode())
        elif byte := _BYTE.fullmatch(name):
            found.append(bytes([int(byte[1], 16)]))
        else:
            found.append("".join(token_texts([token], tokenizer)).encode() or None)
    return found


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return set(control_token_ids(tokenizer)) | set(tokenizer.all_special_ids)


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.is_fast and '"ByteLevel"' in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])


def _byte_of() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, the rest for characters from U+0100 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def _text(said: bytes) -> str | None:
    """The text of whole characters; None for a fragment of one."""
    try:
        return said.decode()
    except UnicodeDecodeError:
        return None
