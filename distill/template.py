"""How messages become the tokens a model is prompted with, and what ends a turn: the one home of chat templates.

Contents are untrusted: a user may type `<|im_end|>`. Such text is encoded as ordinary text, never as the control token. The
template's own text is trusted. Where no content contains a control token's text (nearly always) the whole rendering is
tokenised at once, exactly as `apply_chat_template` does; else the risky contents are tokenised apart from the rest.

A prompt and its response are always tokenised separately, as generation does: all completions of a prompt share its ids.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from distill.encoding import Encoder, Guard, Offsets
from distill.errors import RenderError
from distill.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

# A tokenizer without a chat template sees the contents alone, one below the other, without their roles.
PLAIN_SEPARATOR = "\n"
# Markers around contents come from a private plane, so that no template and hardly any content has them.
_FIRST_MARKER = 0xF0000


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
        return facts.opening + facts.encoder.canonical(facts.write(messages))
    return facts.opening + facts.encode_around(messages, risky)[0]


def response_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a response as it follows a prompt: no bos, no dummy leading space, no control tokens from its text."""
    facts = _facts(tokenizer)
    return facts.encoder.continuation(text, facts.encoder.own_words)[0]


def inner_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of each of many texts of a vocabulary, as it stands inside a longer text; no control tokens."""
    return _facts(tokenizer).encoder.many(texts)


def response_offsets(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Offsets:
    """The half-open stretch of `text` (code points) that each token stands for.

    Both ends never decrease and every code point is covered. Several tokens may share a code point (byte-level vocabularies);
    whitespace that the vocabulary drops belongs to the token after it.
    """
    facts = _facts(tokenizer)
    own_ids, offsets = facts.encoder.continuation(text, facts.encoder.own_words)
    return facts.encoder.decoded_offsets(text, ids) if offsets is None or own_ids != list(ids) else offsets


def encode_response(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], Offsets]:
    """`response_tokens` and `response_offsets` in one pass."""
    facts = _facts(tokenizer)
    ids, offsets = facts.encoder.continuation(text, facts.encoder.own_words)
    return ids, facts.encoder.decoded_offsets(text, ids) if offsets is None else offsets


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
    ids = {token for token in ends[-1:] if token in facts.encoder.own_words.ids}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    configured = generation_config.eos_token_id if generation_config is not None else None
    if configured is not None:
        ids.update([configured] if isinstance(configured, int) else configured)
    return tuple(sorted(ids))


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that no user's text may become: special tokens, and added ones that the chat template writes."""
    return _facts(tokenizer).encoder.others_words.ids


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds to those before it; "" for one whose code point is completed by a later token."""
    return [text for text, _ in _facts(tokenizer).encoder.pieces(ids)]


def _check(messages: Prompt) -> None:
    if not messages:
        raise RenderError("the prompt has no messages; expected at least one")


class _Facts:
    """What is fixed for one tokenizer: its encoder, and what its chat template does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.size = len(tokenizer)
        self.chat_template = tokenizer.chat_template
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self.encoder = Encoder(tokenizer, written=tokenizer.get_chat_template() if self.chat_template else "")

    def guard(self, message: Message) -> Guard:
        return self.encoder.own_words if message.role == "assistant" else self.encoder.others_words

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
            text = self.encoder.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=generation_prompt
            )
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
        ids: list[int] = []
        offsets: Offsets = []

        def append(new_ids: list[int], new_offsets: Offsets, at: int) -> None:
            ids.extend(new_ids)
            offsets.extend((a + at, b + at) for a, b in new_offsets)

        position = 0
        for index, start, end in cuts:
            if position < start:
                append(*self.encoder.trusted(text[position:start], first=position == 0), position)
            content = text[start:end]
            new_ids, new_offsets = self.encoder.continuation(content, self.guard(messages[index]), first=start == 0)
            append(new_ids, self.encoder.decoded_offsets(content, new_ids) if new_offsets is None else new_offsets, start)
            position = end
        if position < len(text):
            append(*self.encoder.trusted(text[position:], first=position == 0), position)
        if wanted:
            self._check_harmless(messages, wanted, ids)
        return ids, offsets

    def _check_harmless(self, messages: Prompt, risky: set[int], ids: list[int]) -> None:
        """A template may show a part of a content without its markers; the control tokens must be those of a harmless twin."""
        twin = tuple(
            replace(message, content=self.guard(message).harmless(message.content)) if index in risky else message
            for index, message in enumerate(messages)
        )
        control = self.encoder.others_words.ids
        expected = [token for token in self.encoder.canonical(self.write(twin)) if token in control]
        if [token for token in ids if token in control] != expected:
            raise RenderError(
                "the chat template shows only a part of a content that holds a control token's text; remove that text"
            )

    @cached_property
    def opening(self) -> list[int]:
        """What the tokenizer itself puts before a text (bos); nothing with a chat template, which writes its own."""
        if self.chat_template:
            return []
        plain, full = self.encoder.canonical("a"), list(self.encoder.tokenizer("a", add_special_tokens=True)["input_ids"])
        places = range(len(full) - len(plain) + 1)
        return next((full[:at] for at in places if full[at : at + len(plain)] == plain), [])

    @cached_property
    def end_of_turn(self) -> EndOfTurn:
        eos = () if self.eos_token_id is None else (self.eos_token_id,)
        if self.chat_template:
            mark = chr(_FIRST_MARKER)
            conversation = [{"role": "user", "content": "x"}, {"role": "assistant", "content": f"x{mark}"}]
            text = self._apply(conversation, generation_prompt=False)
            ids = self.encoder.trusted(text.rpartition(mark)[2], first=False)[0]
            ends = [place for place, token in enumerate(ids) if token in self.encoder.others_words.ids]
            if ends:
                return EndOfTurn(ids=tuple(ids), supervised=ends[0] + 1)
        return EndOfTurn(ids=eos, supervised=len(eos))


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
