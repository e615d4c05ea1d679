"""How messages become the tokens a model is prompted with, and what ends a turn: the one home of chat templates.

Contents are untrusted: a user may type `<|im_end|>`. Such text is encoded as ordinary text, never as the control token. The
template's own text is trusted. Where no content contains a control token's text (nearly always) the whole rendering is
tokenised at once, exactly as `apply_chat_template` does; else the risky contents are tokenised apart from the rest.

A prompt and its response are always tokenised separately, as generation does: all completions of a prompt share its ids.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, proxy

from jinja2 import TemplateError

from distill.errors import RenderError
from distill.records import Message, Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedTokenizerBase

Offsets = list[tuple[int, int]]

# A tokenizer without a chat template sees the contents alone, one below the other, without their roles.
PLAIN_SEPARATOR = "\n"
# Markers around contents come from a private plane, so that no template and hardly any content has them.
_FIRST_MARKER = 0xF0000
# A slow tokenizer adds its dummy space before one of these, which is then cut off again.
_ANCHORS = ("\n", "a", ":", "0", ".")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# UTF-8 spends at most four bytes, so at most four byte-level tokens, on one code point.
_LONGEST_CODE_POINT = 4


@dataclass(frozen=True, kw_only=True)
class EndOfTurn:
    """The ids that follow a finished response: the student learns to predict the first `supervised`, the rest is layout."""

    ids: tuple[int, ...]
    supervised: int


def prompt_tokens(messages: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The exact ids a model is prompted with.

    With a chat template: its rendering, with the header of the assistant's turn, or, where the last message is the
    assistant's, with that message left open (its trailing whitespace kept, even by templates that trim). Without one:
    the contents joined by a newline, after the bos that the tokenizer puts before a text, if it does.

    Raises RenderError where the template refuses the messages, drops the start of the answer, or rewrites a content that
    holds a control token's text.
    """
    facts = _facts(tokenizer)
    _check(messages)
    risky = [index for index, message in enumerate(messages) if facts.guard(message).touches(message.content)]
    if not risky:
        return facts.opening + facts.canonical(facts.write(messages))
    return facts.opening + facts.encode_around(messages, risky)[0]


def response_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a response as it follows a prompt: no bos, no dummy leading space, no control tokens from its text."""
    facts = _facts(tokenizer)
    return facts.continuation(text, facts.own_words)[0]


def response_offsets(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Offsets:
    """The half-open stretch of `text` (code points) that each token stands for.

    Both ends never decrease and every code point is covered. Several tokens may share a code point (byte-level vocabularies);
    whitespace that the vocabulary drops belongs to the token after it.
    """
    facts = _facts(tokenizer)
    own_ids, offsets = facts.continuation(text, facts.own_words)
    return facts.decoded_offsets(text, ids) if offsets is None or own_ids != list(ids) else offsets


def encode_response(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], Offsets]:
    """`response_tokens` and `response_offsets` in one pass."""
    facts = _facts(tokenizer)
    ids, offsets = facts.continuation(text, facts.own_words)
    return ids, facts.decoded_offsets(text, ids) if offsets is None else offsets


def assistant_turns(messages: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[tuple[int, int]]]:
    """`prompt_tokens`, and the token range [start, stop) of each finished assistant message with its supervised end of turn.

    Stock templates give an empty assistant mask, so the ranges come from a second rendering with markers around the
    contents, which must equal the first one in all else. The start of the answer, if the prompt ends with one, is no turn.

    Raises RenderError as `prompt_tokens` does, and where the template rewrites or drops an assistant's message.
    """
    facts = _facts(tokenizer)
    _check(messages)
    finished = messages[:-1] if messages[-1].role == "assistant" else messages
    turns = [index for index, message in enumerate(finished) if message.role == "assistant"]
    if not turns:
        return prompt_tokens(messages, tokenizer), []
    risky = [index for index, message in enumerate(messages) if facts.guard(message).touches(message.content)]
    ids, offsets = facts.encode_around(messages, risky)
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    expected = list(facts.end_of_turn.ids[: facts.end_of_turn.supervised])
    shift = len(facts.opening)
    ranges = []
    for index, start, end in facts.contents(messages):
        if index in turns:
            first, stop = bisect_right(ends, start), bisect_left(starts, end)
            if ids[stop : stop + len(expected)] == expected:
                stop += len(expected)
            ranges.append((shift + first, shift + stop))
    if len(ranges) != len(turns):
        raise RenderError(
            f"the chat template shows {len(ranges)} of the {len(turns)} assistant messages of the prompt; "
            'train on the last turn only (turns="last")'
        )
    return facts.opening + ids, ranges


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> EndOfTurn:
    """What follows a finished response.

    With a chat template: what it puts after the last assistant message; supervised up to its first control token (SmolLM2:
    `<|im_end|>` of `<|im_end|>` and a newline). Where that holds no control token, or there is no template: the eos.
    """
    return _facts(tokenizer).end_of_turn


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None) -> tuple[int, ...]:
    """The ids that end a generated response: the end of turn, the tokenizer's eos, and those of the generation config."""
    facts = _facts(tokenizer)
    ends = facts.end_of_turn.ids[: facts.end_of_turn.supervised]
    ids = {token for token in ends[-1:] if token in facts.own_words.ids}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    configured = generation_config.eos_token_id if generation_config is not None else None
    if configured is not None:
        ids.update([configured] if isinstance(configured, int) else configured)
    return tuple(sorted(ids))


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that no user's text may become: special tokens, and added ones that the chat template writes."""
    return _facts(tokenizer).others_words.ids


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds to those before it; "" for one whose code point is completed by a later token."""
    return [text for text, _ in _facts(tokenizer).pieces(ids)]


def _check(messages: Prompt) -> None:
    if not messages:
        raise RenderError("the prompt has no messages; expected at least one")


class _Guard:
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


class _Facts:
    """What is fixed for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # A proxy: the cache must not keep alive the tokenizer that it is keyed by.
        self.tokenizer = cast("PreTrainedTokenizerBase", proxy(tokenizer))
        self.is_fast: bool = tokenizer.is_fast
        self.size = len(tokenizer)
        self.chat_template = tokenizer.chat_template
        self.eos_token_id: int | None = tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder
        special = {str(token.content): id_ for id_, token in added.items() if token.special}
        special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        written = tokenizer.get_chat_template() if self.chat_template else ""
        named = {str(t.content): id_ for id_, t in added.items() if t.content.strip() and t.content in written}
        backend: Tokenizer | None = tokenizer.backend_tokenizer if self.is_fast else None
        # Tokens marked `normalized` are looked for in the normalised text, which a full-width `＜` may reach.
        normalizer = backend.normalizer if backend is not None and any(t.normalized for t in added.values()) else None
        normalise = normalizer.normalize_str if normalizer is not None else None
        # A model's own `<think>` or `<tool_call>` (added, not special) is its to say; in anybody else's text it is text.
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        unknown = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id
        self.own_words = _Guard(special, unknown, normalise)
        self.others_words = _Guard(special | named, unknown, normalise)
        self._backend = backend

    def guard(self, message: Message) -> _Guard:
        return self.own_words if message.role == "assistant" else self.others_words

    # Encoding

    def canonical(self, text: str) -> list[int]:
        """Trusted text from the beginning of a sequence, as the tokenizer does it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def canonical_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        if not self.is_fast:
            ids = self.canonical(text)
            return ids, self.decoded_offsets(text, ids)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoding["input_ids"]), _cover(encoding["offset_mapping"], len(text))

    def continuation(self, text: str, guard: _Guard, first: bool = False) -> tuple[list[int], Offsets | None]:
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

    # Rendering

    def write(self, messages: Prompt, marks: Sequence[tuple[str, str]] | None = None) -> str:
        """The text of the prompt, up to where the response begins; with `marks`, each content stands between its two."""
        contents = [message.content for message in messages]
        if marks is not None:
            contents = [_mark(content, *pair) for content, pair in zip(contents, marks, strict=True)]
        if not self.chat_template:
            return PLAIN_SEPARATOR.join(contents)
        open_ended = messages[-1].role == "assistant"
        stop = _markers(messages, 2 * len(messages) + 1)[-1] if open_ended else ""
        contents[-1] += stop
        conversation = [{"role": m.role, "content": content} for m, content in zip(messages, contents, strict=True)]
        text = self._apply(conversation, generation_prompt=not open_ended)
        if not open_ended:
            return text
        before, found, _ = text.rpartition(stop)
        # Templates may trim the beginning of a content; its end was held by the marker.
        if not found or not before.endswith(contents[-1][: -len(stop)].lstrip()):
            raise RenderError(
                "the chat template changes or drops the start of the answer (the last message, the assistant's); "
                "put it into the response instead"
            )
        return before

    def _apply(self, conversation: list[dict[str, str]], *, generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generation_prompt)
        except (TemplateError, ValueError) as error:
            roles = ", ".join(message["role"] for message in conversation)
            raise RenderError(f"the chat template refuses the messages ({roles}): {error}") from error
        return str(text)

    def contents(self, messages: Prompt) -> list[tuple[int, int, int]]:
        """(message, start, end) of each content in `write(messages)`, in code points, in the order of the text."""
        flat = _markers(messages, 2 * len(messages))
        marks = list(zip(flat[::2], flat[1::2], strict=True))
        text = self.write(messages, marks)
        found, plain, opened = [], [], {}
        length = 0
        for part in re.split(f"([{re.escape(''.join(flat))}])", text):
            if part not in flat or not part:
                plain.append(part)
                length += len(part)
            elif flat.index(part) % 2 == 0:
                opened[flat.index(part) // 2] = length
            elif (index := flat.index(part) // 2) in opened:
                found.append((index, opened.pop(index), length))
        whole = "".join(plain)
        if whole != self.write(messages):
            raise RenderError(
                "the chat template looks into the contents, so that they cannot be told from its own text; "
                "remove control tokens from the messages, and train on the last turn only"
            )
        if self.keeps_space:
            found = [self._with_space(messages[index].content, index, start, end) for index, start, end in found]
        return found

    @staticmethod
    def _with_space(content: str, index: int, start: int, end: int) -> tuple[int, int, int]:
        core = content.strip()
        lead = content.index(core)
        return index, start - lead, end + len(content) - lead - len(core)

    @cached_property
    def keeps_space(self) -> bool:
        """Whether the template keeps the whitespace around a content."""
        probe = (Message(role="user", content="  x  "), Message(role="assistant", content="  y  "))
        closed = (*probe, Message(role="user", content="z"))
        text = self.write(closed)
        return "  x  " in text and "  y  " in text

    def encode_around(self, messages: Prompt, risky: Iterable[int]) -> tuple[list[int], Offsets]:
        """The ids and offsets of `write(messages)`, with the contents of the risky messages as ordinary text."""
        text = self.write(messages)
        wanted = set(risky)
        cuts = [cut for cut in self.contents(messages) if cut[0] in wanted] if wanted else []
        if wanted - {index for index, _, _ in cuts}:
            dropped = [index for index in sorted(wanted) if index not in {cut[0] for cut in cuts}]
            # A message that the template does not show can do no harm; one that it shows in another form could.
            if any(messages[index].content.strip() in text for index in dropped):
                raise RenderError("the chat template rewrites a content that holds a control token's text; remove it")
        ids: list[int] = []
        offsets: Offsets = []

        def append(new_ids: list[int], new_offsets: Offsets, at: int) -> None:
            ids.extend(new_ids)
            offsets.extend((a + at, b + at) for a, b in new_offsets)

        position = 0
        for index, start, end in cuts:
            if position < start:
                append(*self.trusted(text[position:start], first=position == 0), position)
            content = text[start:end]
            new_ids, new_offsets = self.continuation(content, self.guard(messages[index]), first=start == 0)
            append(new_ids, self.decoded_offsets(content, new_ids) if new_offsets is None else new_offsets, start)
            position = end
        if position < len(text):
            append(*self.trusted(text[position:], first=position == 0), position)
        return ids, offsets

    @cached_property
    def opening(self) -> list[int]:
        """What the tokenizer itself puts before a text (bos); nothing with a chat template, which writes its own."""
        if self.chat_template:
            return []
        plain, full = self.canonical("a"), list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        places = range(len(full) - len(plain) + 1)
        return next((full[:at] for at in places if full[at : at + len(plain)] == plain), [])

    @cached_property
    def end_of_turn(self) -> EndOfTurn:
        eos = () if self.eos_token_id is None else (self.eos_token_id,)
        if self.chat_template:
            mark = chr(_FIRST_MARKER)
            conversation = [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"x{mark}"}]
            text = self._apply(conversation, generation_prompt=False)
            ids = self.trusted(text.rpartition(mark)[2], first=False)[0]
            ends = [place for place, token in enumerate(ids) if token in self.others_words.ids]
            if ends:
                return EndOfTurn(ids=tuple(ids), supervised=ends[0] + 1)
        return EndOfTurn(ids=eos, supervised=len(eos))

    # Decoding

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


def _mark(content: str, opening: str, closing: str) -> str:
    """Markers around the content inside its outer whitespace, so that a template that trims still can."""
    core = content.strip()
    at = content.index(core)
    return content[:at] + opening + core + closing + content[at + len(core) :]


def _markers(messages: Prompt, count: int) -> list[str]:
    """`count` characters that occur in no content."""
    taken = {character for message in messages for character in message.content if ord(character) >= _FIRST_MARKER}
    free = (chr(code) for code in range(_FIRST_MARKER, 0x10FFFE) if chr(code) not in taken)
    return [next(free) for _ in range(count)]


_KNOWN: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()


def _facts(tokenizer: PreTrainedTokenizerBase) -> _Facts:
    """The facts of this tokenizer, derived once; again when tokens or another template were added to it."""
    facts = _KNOWN.get(tokenizer)
    if facts is None or facts.size != len(tokenizer) or facts.chat_template != tokenizer.chat_template:
        facts = _KNOWN[tokenizer] = _Facts(tokenizer)
    return facts
