"""Which stretches of a response's text two tokenizers both delimit, and a batch's responses in the second one's tokens.

Shape suffixes: N supervised positions of the student, M those of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distill.errors import RecordError, RenderError
from distill.template import encode_response, end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.records import Record
    from distill.render import Example
    from distill.rows import Batch, OtherTokens

Ints = NDArray[np.int64]
Offsets = Sequence[tuple[int, int]]


def common_spans(left: Offsets, right: Offsets) -> tuple[list[int], list[int]]:
    """Number the finest stretches of text that both sides delimit, in text order -> each token's stretch, on either side.

    left, right: the code points [start, end) that each token of a side stands for, as `encode_response` gives them, of one
    text. A place inside a code point that several tokens share is no boundary. A token of no text belongs to the next
    stretch, at the end to the last.

    >>> common_spans([(0, 1), (1, 2), (2, 5)], [(0, 2), (2, 3), (3, 5)])  # 1|2| cm beside 12| |cm
    ([0, 0, 1], [0, 1, 1])
    """
    ours, theirs = _cuts(left), _cuts(right)
    common = sorted(set(ours) & set(theirs))
    return _numbers([ours[place] for place in common], len(left)), _numbers([theirs[place] for place in common], len(right))


def _cuts(offsets: Offsets) -> dict[int, int]:
    """Places where a token ends and the next begins, each with how many tokens end there or before."""
    cuts: dict[int, int] = {}
    last = len(offsets) - 1
    for index, (_, end) in enumerate(offsets):
        if end > 0 and (index == last or offsets[index + 1][0] >= end):
            cuts.setdefault(end, index + 1)
    return cuts


def _numbers(stops: list[int], count: int) -> list[int]:
    """Which stretch each token is in, where stretch k ends before token stops[k]."""
    numbers = np.searchsorted(np.asarray(stops, dtype=np.int64), np.arange(count), side="right")
    return [int(number) for number in np.minimum(numbers, max(len(stops) - 1, 0))]


@dataclass(frozen=True, kw_only=True)
class _Aligned:
    """One response: the teacher's example, and the stretch of every token of either side (-1: of none)."""

    other: Example
    span: Ints
    other_span: Ints


class AlignedTokens:
    """Records in the tokens of a teacher with another tokenizer, found by the record's id.

    The prompt is rendered by each model's own chat template, the response is the same text, and the turn ends as each ends it;
    the two ends are a stretch of their own. name: the teacher's tokenizer, for messages.
    """

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, name: str) -> None:
        self.name = name
        self._student, self._teacher = student, teacher
        self._aligned: dict[str, _Aligned] = {}

    def add(self, record: Record, example: Example, *, again: bool = False) -> None:
        """Render a record for the teacher too; `example` is the student's rendering of it. again: in place of one of that id.

        Raises RenderError where the teacher's template refuses it, RecordError where two different records share an id.
        """
        from distill.render import render

        if record.id in self._aligned and not again:
            raise RecordError(
                f"the id {record.id!r} is used twice, and a teacher with another tokenizer finds its tokens by it; give each "
                f"record its own (`distill records validate` lists them)"
            )
        try:
            other = render(record, self._teacher)
        except RenderError as error:
            raise RenderError(f"for the teacher's tokenizer {self.name!r}: {error}") from error
        tokenizers = (self._student, self._teacher)
        encoded = [encode_response(record.response, tokenizer) for tokenizer in tokenizers]
        numbers = common_spans(encoded[0][1], encoded[1][1])
        end = max((*numbers[0], *numbers[1]), default=-1) + 1
        # A stretch is compared only where both sides learn all of it, and both say what its text is.
        usable, stretches = np.ones(end + 1, dtype=bool), []
        for one, tokenizer, (ids, _), number in zip((example, other), tokenizers, encoded, numbers, strict=True):
            stretch = [*number, *[end] * end_of_turn(tokenizer).supervised]
            learnt = np.zeros(len(stretch), dtype=bool)
            weight = np.asarray(one.weight[one.prompt_length :])[: len(stretch)]
            learnt[: len(weight)] = weight > 0
            learnt[: len(ids)] &= [token != tokenizer.unk_token_id for token in ids]
            usable[np.asarray(stretch, dtype=np.int64)[~learnt]] = False
            usable[np.bincount(np.asarray(stretch, dtype=np.int64), minlength=end + 1) == 0] = False
            stretches.append(stretch)
        own, its = (_of_tokens(one, stretch, usable) for one, stretch in zip((example, other), stretches, strict=True))
        self._aligned[record.id] = _Aligned(other=other, span=own, other_span=its)

    def tokens(self, batch: Batch) -> OtherTokens:
        """The responses of a batch in the teacher's tokens: plain rows, in the order of the batch's sequences.

        A stretch of which some of the student's tokens are not supervised in this batch (protected ones) belongs to none.
        """
        import torch

        from distill.rows import OtherTokens, plain_rows

        sequence_N, place_N = batch.targets.sequence_N.numpy(), batch.token_index_N.numpy()
        span_N = np.full(len(sequence_N), -1, dtype=np.int64)
        others, parts = [], []
        offset = 0
        for sequence, record_id in enumerate(batch.record_ids):
            aligned = self._aligned[record_id]
            own = np.flatnonzero(sequence_N == sequence)
            found = aligned.span[place_N[own]]
            size = int(max(aligned.span.max(initial=-1), aligned.other_span.max(initial=-1))) + 1
            whole = np.bincount(found[found >= 0], minlength=size) == np.bincount(aligned.span[aligned.span >= 0], minlength=size)
            keep = np.append(whole, False)  # a span of -1 reads the last place
            span_N[own] = np.where(keep[found], found + offset, -1)
            # A response that only fills a rank's turn is supervised on neither side.
            weight = aligned.other.weight if len(own) else (0.0,) * len(aligned.other)
            others.append(_Row(aligned.other, weight))
            where = np.flatnonzero(np.asarray(weight))
            parts.append(np.where(keep[aligned.other_span[where]], aligned.other_span[where] + offset, -1))
            offset += size + 1  # the first stretch of a response follows none
        pad = self._teacher.pad_token_id if self._teacher.pad_token_id is not None else self._teacher.eos_token_id
        return OtherTokens(
            name=self.name,
            batch=plain_rows(others, int(pad or 0)),
            span_N=torch.from_numpy(span_N),
            span_M=torch.from_numpy(np.concatenate(parts).astype(np.int64)),
        )


class _Row:
    """An example with other weights."""

    def __init__(self, example: Example, weight: Sequence[float]) -> None:
        self.record_id, self.token_ids, self.prompt_length = example.record_id, example.token_ids, example.prompt_length
        self.weight, self.negative, self.own = weight, example.negative, example.own


def _of_tokens(example: Example, stretch: Sequence[int], usable: NDArray[np.bool_]) -> Ints:
    """The stretch of each token of the example; -1 in prompt and layout, and where the stretch is not usable."""
    after = len(example) - example.prompt_length
    kept = [number if usable[number] else -1 for number in stretch]
    return np.array([-1] * example.prompt_length + [*kept, *[-1] * after][:after], dtype=np.int64)
