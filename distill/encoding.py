"""How one tokenizer encodes trusted and untrusted text, at the beginning of a sequence and inside one, and which token is where.

Untrusted text is what a person or a model wrote: it never becomes a control token, whatever it spells.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from weakref import proxy

from distill.errors import RenderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Offsets = list[tuple[int, int]]

# A slow tokenizer adds its dummy space before one of these, which is then cut off again.
_ANCHORS = ("\n", "a", ":", "0", ".")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# UTF-8 spends at most four bytes, so at most four byte-level tokens, on one code point.
_LONGEST_CODE_POINT = 4


class Guard:
    """Recognises text that could become one of some control tokens, alone or together with a neighbour's text."""

    def __init__(self, tokens: dict[str, int], unknown: int | None, normalise: Any) -> None:
        # The unknown token is what honest text may become.
        self.ids = frozenset(tokens.values()) - {unknown}
        self._normalise = normalise
        texts = {text for text in tokens if text}
        if normalise is not None:
            texts |= {normalised for text in texts if (normalised := normalise(text))}
        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._heads = {text[:n] for text in texts for n in range(1, len(text))}
        self._tails = {text[-n:] for text in texts for n in range(1, len(text))}
        self._reach = max((len(text) for text in texts), default=0)

    def touches(self, text: str) -> bool:
        """Whether `text` holds a control token's text, or begins or ends with a part of one (`<|im_` before `end|>`)."""
        if self.pattern.search(text) or (self._normalise is not None and self.pattern.search(self._normalise(text))):
            return True
        core = text.strip()
        reach = min(self._reach, len(core) + 1)
        return any(core[-n:] in self._heads or core[:n] in self._tails for n in range(1, reach))

    def harmless(self, text: str) -> str:
        """The text with an x in place of each control token's text, or a single x where that is not enough."""
        twin = self.pattern.sub("x", text)
        return "x" if self.touches(twin) else twin


class Encoder:
    """One tokenizer. Holds it weakly, so that a cache of encoders keeps no tokenizer alive.

    own_words: the guard for what the model itself says, whose added tokens that are not special (`<think>`, `<tool_call>`)
    are its to say. others_words: the guard for everybody else's text, which also protects the added tokens in `written`, the
    text of the chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, written: str) -> None:
        self.tokenizer = cast("PreTrainedTokenizerBase", proxy(tokenizer))
        self.is_fast: bool = tokenizer.is_fast
        added = tokenizer.added_tokens_decoder
        special = {str(token.content): id_ for id_, token in added.items() if token.special}
        special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        named = {str(t.content): id_ for id_, t in added.items() if t.content.strip() and t.content in written}
        backend: Tokenizer | None = tokenizer.backend_tokenizer if self.is_fast else None
        # Tokens marked `normalized` are looked for in the normalised text, which a full-width `＜` may reach.
        normalizer = backend.normalizer if backend is not None and any(t.normalized for t in added.values()) else None
        normalise = normalizer.normalize_str if normalizer is not None else None
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        unknown = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id
        self.own_words = Guard(special, unknown, normalise)
        self.others_words = Guard(special | named, unknown, normalise)
        self._backend = backend

    def canonical(self, text: str) -> list[int]:
        """Trusted text from the beginning of a sequence, as the tokenizer does it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def canonical_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        if not self.is_fast:
            ids = self.canonical(text)
            return ids, self.decoded_offsets(text, ids)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoding["input_ids"]), _cover(encoding["offset_mapping"], len(text))

    def continuation(self, text: str, guard: Guard, first: bool = False) -> tuple[list[int], Offsets | None]:
        """Untrusted text, at the beginning of a sequence or (without a dummy space) inside one; offsets where they are free."""
        ids, offsets = self._split(text, first)
        if guard.ids.isdisjoint(ids):
            return ids, offsets
        # The tokenizer splits its special tokens only. Cut the others after their first character, then, if a normaliser
        # still builds one, everywhere: no vocabulary makes a control token of one ordinary character.
        cuts = [match.start() + 1 for match in guard.pattern.finditer(text)]
        for places in (cuts, range(1, len(text))):
            edges = [0, *places, len(text)]
            parts = [self._split(text[a:b], first and a == 0)[0] for a, b in zip(edges, edges[1:], strict=False)]
            ids = [token for part in parts for token in part]
            if guard.ids.isdisjoint(ids):
                return ids, None
        raise RenderError(f"the tokenizer makes a control token of the ordinary text {text[:60]!r}; remove it from the record")

    def many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, each as it stands inside a longer one; not for text that somebody else wrote."""
        if not self.is_fast:
            return [self._split(text, first=False)[0] for text in texts]
        return [encoding.ids for encoding in self._inside.encode_batch_fast(texts, add_special_tokens=False)]

    def trusted(self, text: str, first: bool) -> tuple[list[int], Offsets]:
        """Text of the template, at the beginning of a sequence or inside one."""
        if first:
            return self.canonical_with_offsets(text)
        match = self.others_words.pattern.search(text)
        at = match.start() if match else len(text)
        head, offsets = self._split(text[:at], first=False)
        offsets = self.decoded_offsets(text[:at], head) if offsets is None else offsets
        tail, tail_offsets = self.canonical_with_offsets(text[at:])
        return head + tail, offsets + [(a + at, b + at) for a, b in tail_offsets]

    def _split(self, text: str, first: bool) -> tuple[list[int], Offsets | None]:
        if not text:
            return [], []
        if self.is_fast:
            encoding = (self._at_start if first else self._inside).encode(text, add_special_tokens=False)
            return encoding.ids, _cover(encoding.offsets, len(text))
        if first:
            return self._slow(text), None
        for anchor in _ANCHORS:
            before, together = self._slow(anchor), self._slow(anchor + text)
            if before and together[: len(before)] == before:
                return together[len(before) :], None
        return self._slow(text), None

    def _slow(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @cached_property
    def _inside(self) -> Tokenizer:
        """A private copy of the fast tokenizer that splits special tokens and adds no dummy space before a text."""
        return self._copy(without_dummy_space=True)

    @cached_property
    def _at_start(self) -> Tokenizer:
        return self._copy(without_dummy_space=False)

    def _copy(self, without_dummy_space: bool) -> Tokenizer:
        # A copy, because the flag is state of the shared tokenizer: a thread that set it back in between would let a
        # control token through.
        from tokenizers import Tokenizer

        assert self._backend is not None
        state = json.loads(self._backend.to_str())
        state.update(truncation=None, padding=None, post_processor=None)
        if without_dummy_space:
            state["normalizer"] = _without_dummy_space(state["normalizer"])
            state["pre_tokenizer"] = _without_dummy_space(state["pre_tokenizer"])
        copy = Tokenizer.from_str(json.dumps(state))
        copy.encode_special_tokens = True
        return copy

    def pieces(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """For each token the text it adds, and how many tokens share that text (0 before the one that completes it)."""
        pieces: list[tuple[str, int]] = []
        begin = 0
        for end in range(1, len(ids) + 1):
            text = self._inner_text(list(ids[begin:end]))
            if text.endswith("\N{REPLACEMENT CHARACTER}") and end - begin < _LONGEST_CODE_POINT and end < len(ids):
                pieces.append(("", 0))
            else:
                pieces.append((text, end - begin))
                begin = end
        return pieces

    def _inner_text(self, ids: list[int]) -> str:
        """The text of a few tokens inside a longer text."""
        names = [str(name) for name in self.tokenizer.convert_ids_to_tokens(ids)]
        if all(_BYTE.fullmatch(name) for name in names):
            # Some decoders leave sentencepiece's byte tokens as they are written.
            return bytes(int(name[3:5], 16) for name in names).decode(errors="replace")
        # Decoders strip at both ends and drop a dummy space: an ordinary letter on both sides holds everything in place.
        anchor, left, right = self._anchor
        text = self._text(anchor + ids + anchor)
        return text[left : len(text) - right]

    @cached_property
    def _anchor(self) -> tuple[list[int], int, int]:
        """A token of an ordinary letter, and the lengths of its text at the beginning and at the end of a text."""
        anchor = self.canonical("a")[-1:]
        left = len(self._text(anchor))
        return anchor, left, len(self._text(anchor + anchor)) - left

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def decoded_offsets(self, text: str, ids: Sequence[int]) -> Offsets:
        """Offsets of any ids by decoding them one after another, for tokenizers that give none."""
        offsets: Offsets = []
        decoded = ""
        for piece, shared in self.pieces(ids):
            if shared:
                offsets.extend([(len(decoded), len(decoded) + len(piece))] * shared)
                decoded += piece
        if decoded != text:
            offsets = _align(decoded, text, offsets)
        return _cover(offsets, len(text))


def _cover(offsets: Iterable[tuple[int, int]], length: int) -> Offsets:
    """Offsets without gaps: what the vocabulary drops belongs to the token after it, at the end to the last token."""
    covered: Offsets = []
    start = reached = 0
    for raw_start, raw_end in offsets:
        start = max(start, min(raw_start, reached))
        reached = max(reached, raw_end)
        covered.append((start, reached if raw_end > raw_start else max(start, reached)))
    if covered and reached < length:
        covered[-1] = (covered[-1][0], length)
    return covered


def _align(decoded: str, text: str, offsets: Offsets) -> Offsets:
    """Offsets into `decoded` as offsets into `text`; what a lossy vocabulary replaced is covered whole."""
    blocks = SequenceMatcher(None, decoded, text, autojunk=False).get_opcodes()
    begins = [block[1] for block in blocks]

    def place(position: int, is_end: bool) -> int:
        at = (bisect_left if is_end else bisect_right)(begins, position) - 1
        if at < 0:
            return 0
        tag, a, b, c, d = blocks[at]
        if tag == "equal":
            return c + min(position, b) - a
        return d if is_end else c

    return [(place(a, False), max(place(a, False), place(b, True))) for a, b in offsets]


def _without_dummy_space(step: Any) -> Any:
    """A step of a tokenizer (its JSON) that treats its input as the middle of a text. None: the step is gone."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        kinds = [inner["type"] for inner in step[key]]
        # Where words lose their whitespace first (T5, XLM-R), the dummy space is the only one they have.
        if any(kind in ("WhitespaceSplit", "Whitespace", "BertPreTokenizer") for kind in kinds):
            return step
        return {**step, key: [kept for inner in step[key] if (kept := _without_dummy_space(inner)) is not None]}
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    if step["type"] == "Strip" and "strip_left" in step:
        return {**step, "strip_left": False}
    return step
