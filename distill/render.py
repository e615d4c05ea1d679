"""Which tokens are trained, up or down, and how strongly: a record and a tokenizer become an Example. Decided here only.

`distill show` prints the decision token by token.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill.errors import RenderError
from distill.records import Record
from distill.template import assistant_turns, encode_response, end_of_turn, prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["last", "all"]
Overlong = Literal["error", "cut_response"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One record in tokens: prompt, response, end of turn; not yet shifted.

    token_ids[:prompt_length] is the prompt, the same for all completions of a group. weight: one per token, 0 where nothing
    is learned, never above 0 at index 0 (nothing predicts the first token). negative: one per token, True where the token is
    to be avoided. own: the student itself wrote the response.
    """

    record_id: str
    group: str
    token_ids: tuple[int, ...]
    prompt_length: int
    weight: tuple[float, ...]
    negative: tuple[bool, ...]
    own: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders records for one student. See `render` for the rules and arguments."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None = None
    turns: Turns = "last"
    overlong: Overlong = "error"

    def __call__(self, record: Record) -> Example:
        try:
            return self._render(record)
        except RenderError as error:
            raise RenderError(f"record {record.id!r}: {error}") from error

    def _render(self, record: Record) -> Example:
        earlier: list[tuple[int, int]] = []
        if self.turns == "all" and record.polarity == "positive":
            prompt_ids, earlier = assistant_turns(record.prompt, self.tokenizer)
        else:
            prompt_ids = prompt_tokens(record.prompt, self.tokenizer)
        response_ids, offsets = encode_response(record.response, self.tokenizer)
        end = end_of_turn(self.tokenizer)

        weight = [0.0] * len(prompt_ids)
        for start, stop in earlier:
            weight[start:stop] = [record.weight] * (stop - start)
        response_weight, response_negative, finishes = _supervise(record, offsets)
        weight += response_weight
        weight += [record.weight if finishes else 0.0] * end.supervised + [0.0] * (len(end.ids) - end.supervised)
        negative = [False] * len(prompt_ids) + response_negative + [False] * len(end.ids)
        weight[:1] = [0.0] * len(weight[:1])

        token_ids = [*prompt_ids, *response_ids, *end.ids]
        length = len(token_ids)
        if self.max_tokens is not None and length > self.max_tokens:
            self._check_cut(weight, length)
            length = self.max_tokens
        if not any(weight[:length]):
            raise RenderError(_nothing_left(record, cut=any(weight), max_tokens=self.max_tokens))
        return Example(
            record_id=record.id,
            group=record.group,
            token_ids=tuple(token_ids[:length]),
            prompt_length=min(len(prompt_ids), length),
            weight=tuple(weight[:length]),
            negative=tuple(negative[:length]),
        )

    def _check_cut(self, weight: Sequence[float], length: int) -> None:
        """Only what carries no loss may be cut unasked: the layout after an end of turn, or text after the last span."""
        if self.overlong == "error" and any(weight[self.max_tokens :]):
            last = max(place for place, value in enumerate(weight) if value) + 1
            raise RenderError(
                f"{length} tokens, {last} up to the last supervised one, but max_tokens is {self.max_tokens}; raise max_tokens "
                f'to {last}, shorten the record, or cut the ends of long responses (overlong="cut_response")'
            )


def render(
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int | None = None,
    turns: Turns = "last",
    overlong: Overlong = "error",
) -> Example:
    """The tokens of a record, and what each of them is trained to.

    - Without spans every token of the response has the record's polarity and weight. With spans only tokens that overlap
      one are supervised, with its polarity and its weight times the record's; of several the greatest weight.
    - A token that touches a negative span is never trained up, even where it touches a positive one too: a tokenizer that
      glues the wrong word to its neighbour must not turn the penalty into praise. A negative span of weight 0 thus protects.
    - The end of turn is trained up, with the record's weight, after a positive response without spans, or where a positive
      span reaches the end; it is never penalised.
    - turns="all" also trains up the earlier assistant messages of a positive record, each with its end of turn; those of a
      negative record are context, as is the start of the answer at the end of a prompt.
    - More tokens than max_tokens: what carries no loss is cut from the end; a supervised token is cut only with
      overlong="cut_response", and a cut response's end of turn is cut with it. The prompt is never cut.

    Raises RenderError naming the record: too long, refused by the chat template, or without any supervised token.
    """
    return Renderer(tokenizer=tokenizer, max_tokens=max_tokens, turns=turns, overlong=overlong)(record)


def _supervise(record: Record, offsets: Sequence[tuple[int, int]]) -> tuple[list[float], list[bool], bool]:
    """Weight and polarity of each response token, and whether the end of turn after it is trained up."""
    count = len(offsets)
    if not record.spans:
        is_negative = record.polarity == "negative"
        return [record.weight] * count, [is_negative] * count, not is_negative
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    weight, negative = [0.0] * count, [False] * count
    # Positives first, each polarity by rising weight: what is written later wins.
    for span in sorted(record.spans, key=lambda span: (span.polarity == "negative", span.weight)):
        # Both ends of the offsets never decrease, so the tokens that overlap a span are one run.
        first, stop = bisect_right(ends, span.start), bisect_left(starts, span.end)
        if first < stop:
            weight[first:stop] = [span.weight * record.weight] * (stop - first)
            negative[first:stop] = [span.polarity == "negative"] * (stop - first)
    reaches_end = any(span.polarity == "positive" and span.end >= len(record.response) for span in record.spans)
    return weight, negative, reaches_end and not any(negative[-1:])


def _nothing_left(record: Record, *, cut: bool, max_tokens: int | None) -> str:
    if cut:
        return f"no supervised token is left within max_tokens = {max_tokens}; raise max_tokens or shorten the prompt"
    if record.weight == 0:
        return "no token is supervised: its weight is 0; leave the record out or give it a weight"
    if record.spans:
        return "no token is supervised: its spans have weight 0; leave the record out or correct the spans"
    return "no token is supervised: its response has no tokens; a negative record needs a response to avoid"
