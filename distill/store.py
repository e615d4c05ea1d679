"""Rendered examples in one flat buffer, grouped by question, and what is spared in the negatives among them.

Shape suffixes: E examples, G groups (questions), T tokens of all examples end to end.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from distill.errors import RecordError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.render import Example

Protection = Literal["none", "shared_prefix", "first_difference"]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One example of the store, without copying it. See `render.Example` for the fields."""

    record_id: str
    token_ids: NDArray[np.int32]
    prompt_length: int
    weight: NDArray[np.float32]
    negative: Bools
    prompt: int = 0  # equal numbers where group and prompt are equal
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupSizes:
    """Per group: columns of its longest row, and what `rows.StepCounts` counts, by the names of its fields."""

    length_G: Ints
    counts_G: dict[str, Ints]


class StoreBuilder:
    """Collects examples as they are rendered; nine bytes per token."""

    def __init__(self) -> None:
        self._tokens, self._weights, self._negatives = array("i"), array("f"), array("b")
        self._lengths, self._prompt_lengths, self._group_of = array("q"), array("q"), array("q")
        self._own = array("b")
        self._record_ids: list[str] = []
        self._groups: dict[str, int] = {}
        self._left_out: Counter[str] = Counter()

    @property
    def groups(self) -> list[str]:
        """Names of the groups seen, in order of appearance."""
        return list(self._groups)

    def add(self, example: Example) -> None:
        """Append one example."""
        self._extend(
            example.record_id,
            example.group,
            example.token_ids,
            example.prompt_length,
            example.weight,
            example.negative,
            own=example.own,
        )

    def _places(self) -> Iterator[tuple[str, int, slice]]:
        """Of each example its group, its number, and where its tokens lie."""
        names, start = list(self._groups), 0
        for index, length in enumerate(self._lengths):
            yield names[self._group_of[index]], index, slice(start, start + length)
            start += length

    def _copy(self, source: StoreBuilder, group: str, index: int, place: slice) -> None:
        self._extend(
            source._record_ids[index],
            group,
            source._tokens[place],
            source._prompt_lengths[index],
            source._weights[place],
            source._negatives[place],
            own=bool(source._own[index]),
        )

    def leave_out(self, reason: str) -> None:
        """Count a record that is not trained on; `reason` completes `left out 3 record(s) ...`."""
        self._left_out[reason] += 1

    def split(self, held_out: set[str]) -> tuple[StoreBuilder, StoreBuilder]:
        """Two builders: the groups that are not in `held_out`, and those that are."""
        parts = StoreBuilder(), StoreBuilder()
        parts[0]._left_out = self._left_out
        for group, index, place in self._places():
            parts[group in held_out]._copy(self, group, index, place)
        return parts

    def with_own(self, own: Mapping[str, tuple[str, Sequence[Example]]], *, beside: bool) -> StoreBuilder:
        """A builder with the same groups in the same order, some of which the student answered itself.

        own: for a group here, the name of the group that takes its place (or its own) and that one's examples. beside: they join
        the group's examples rather than take their place.
        """
        builder = StoreBuilder()
        builder._groups = {own[name][0] if name in own else name: index for index, name in enumerate(self._groups)}
        for group, index, place in self._places():
            if beside or group not in own:
                builder._copy(self, group, index, place)
        for _, examples in own.values():
            for example in examples:
                builder.add(example)
        return builder

    def _extend(
        self,
        record_id: str,
        group: str,
        tokens: Iterable[int],
        prompt_length: int,
        weights: Iterable[float],
        negatives: Iterable[int],
        *,
        own: bool,
    ) -> None:
        before = len(self._tokens)
        self._tokens.extend(tokens)
        self._weights.extend(weights)
        self._negatives.extend(negatives)
        self._lengths.append(len(self._tokens) - before)
        self._prompt_lengths.append(prompt_length)
        self._group_of.append(self._groups.setdefault(group, len(self._groups)))
        self._record_ids.append(record_id)
        self._own.append(own)

    def build(
        self, tokenizer: PreTrainedTokenizerBase, *, protect: Protection, protect_tokens: bool
    ) -> tuple[ExampleStore, Counter[str]]:
        """The store after protection, and how many records were left out for which reason.

        An example whose every token is spared is left out, and a group without examples too.
        """
        ends = np.cumsum(np.frombuffer(self._lengths, dtype=np.int64))
        starts = ends - np.frombuffer(self._lengths, dtype=np.int64)
        tokens, weight = np.frombuffer(self._tokens, dtype=np.int32), np.frombuffer(self._weights, dtype=np.float32).copy()
        negative = np.frombuffer(self._negatives, dtype=np.int8).astype(bool)
        group_of, prompt_length = (
            np.frombuffer(self._group_of, dtype=np.int64),
            np.frombuffer(self._prompt_lengths, dtype=np.int64),
        )
        prompt_E = _number_prompts(tokens, starts, prompt_length, group_of)
        if protect_tokens:
            penalised = np.unique(tokens[negative & (weight > 0)])
            weight[negative & np.isin(tokens, penalised[spared_tokens(penalised, tokenizer)])] = 0
        if protect != "none":
            _protect_shared(
                tokens, weight, negative, starts, ends, prompt_length, prompt_E, only_first=protect == "first_difference"
            )
        supervised_E = np.add.reduceat((weight > 0).astype(np.int64), starts)
        left_out = Counter(self._left_out)
        if spared := int((supervised_E == 0).sum()):
            left_out["whose every token is spared by protect or protect_tokens"] += spared
        if not supervised_E.any():
            raise RecordError(
                f"every one of {len(starts)} records is spared by protect or protect_tokens; nothing is left to train"
            )
        # By group, and inside a group by prompt; the order of the file where both are equal.
        kept = np.flatnonzero(supervised_E)
        kept = kept[np.lexsort((prompt_E[kept], group_of[kept]))]
        old_groups, group_E = np.unique(group_of[kept], return_inverse=True)
        names = list(self._groups)
        T = np.concatenate([np.arange(starts[example], ends[example]) for example in kept])
        store = ExampleStore(
            token_T=tokens[T],
            weight_T=weight[T],
            negative_T=negative[T],
            length_E=(ends - starts)[kept],
            prompt_length_E=prompt_length[kept],
            prompt_E=prompt_E[kept],
            group_E=group_E,
            record_ids=[self._record_ids[example] for example in kept],
            groups=[names[group] for group in old_groups],
            own_E=np.frombuffer(self._own, dtype=np.int8).astype(bool)[kept],
        )
        return store, left_out


class ExampleStore:
    """All examples of one split, grouped; made by StoreBuilder.build and not changed afterwards."""

    def __init__(
        self,
        *,
        token_T: NDArray[np.int32],
        weight_T: NDArray[np.float32],
        negative_T: Bools,
        length_E: Ints,
        prompt_length_E: Ints,
        prompt_E: Ints,
        group_E: Ints,
        record_ids: list[str],
        groups: list[str],
        own_E: Bools | None = None,
    ) -> None:
        self.record_ids, self.groups = record_ids, groups
        self.own_E = np.zeros(len(record_ids), dtype=bool) if own_E is None else own_E
        self.group_E = group_E
        self.id_hash_E = np.array([_hash(record_id.encode()) for record_id in record_ids], dtype=np.uint64)
        self._token_T, self._weight_T, self._negative_T = token_T, weight_T, negative_T
        self._end_E = np.cumsum(length_E)
        self._start_E = self._end_E - length_E
        self._prompt_length_E, self._prompt_E = prompt_length_E, prompt_E
        self._first_G = np.searchsorted(group_E, np.arange(len(groups) + 1))
        supervised_T = weight_T > 0
        self.positives_E = np.add.reduceat((supervised_T & ~negative_T).astype(np.int64), self._start_E)
        self.negatives_E = np.add.reduceat((supervised_T & negative_T).astype(np.int64), self._start_E)
        # Columns that the trunk must see (rows.fed_length): up to the state that predicts the last supervised token.
        column_T = np.arange(len(token_T)) - np.repeat(self._start_E, length_E)
        self._fed_E = np.maximum.reduceat(np.where(supervised_T, column_T, 0), self._start_E)

    def __len__(self) -> int:
        return len(self.record_ids)

    def view(self, example: int) -> ExampleView:
        """One example."""
        start, end = self._start_E[example], self._end_E[example]
        return ExampleView(
            self.record_ids[example],
            self._token_T[start:end],
            int(self._prompt_length_E[example]),
            self._weight_T[start:end],
            self._negative_T[start:end],
            int(self._prompt_E[example]),
            bool(self.own_E[example]),
        )

    def unsupervised(self, example: int) -> ExampleView:
        """One example that no loss sees, for a rank that has nothing to learn while the others step."""
        view = self.view(example)
        return replace(view, weight=np.zeros_like(view.weight))

    def group(self, group: int, keep_E: Bools) -> list[ExampleView]:
        """The kept examples of a group, those with the same prompt side by side."""
        return [self.view(example) for example in range(self._first_G[group], self._first_G[group + 1]) if keep_E[example]]

    def group_sizes(self, keep_E: Bools, *, shared: bool) -> GroupSizes:
        """Sizes of all groups when only some examples are kept."""
        groups = len(self.groups)
        if shared:
            fed_prompt_E = np.minimum(self._prompt_length_E, self._fed_E)
            row_length = np.zeros(int(self._prompt_E.max()) + 1, dtype=np.int64)
            np.maximum.at(row_length, self._prompt_E[keep_E], fed_prompt_E[keep_E])
            np.add.at(row_length, self._prompt_E[keep_E], (self._fed_E - fed_prompt_E)[keep_E])
            length_E = row_length[self._prompt_E]
        else:
            length_E = self._fed_E
        length_G = np.zeros(groups, dtype=np.int64)
        np.maximum.at(length_G, self.group_E[keep_E], length_E[keep_E])
        return GroupSizes(length_G=length_G, counts_G=self._counts(keep_E))

    def _counts(self, keep_E: Bools) -> dict[str, Ints]:
        groups = len(self.groups)
        positive_E, negative_E = (self.positives_E > 0) & keep_E, (self.negatives_E > 0) & keep_E
        whole_positive_E, whole_negative_E = positive_E & ~negative_E, negative_E & ~positive_E
        prompts = int(self._prompt_E.max()) + 1
        group_of_prompt = np.zeros(prompts, dtype=np.int64)
        group_of_prompt[self._prompt_E] = self.group_E
        pairs = np.bincount(self._prompt_E, whole_positive_E, prompts) * np.bincount(self._prompt_E, whole_negative_E, prompts)
        by_group = {
            "positives": np.bincount(self.group_E, self.positives_E * keep_E, groups),
            "negatives": np.bincount(self.group_E, self.negatives_E * keep_E, groups),
            "own_positives": np.bincount(self.group_E, self.positives_E * (keep_E & self.own_E), groups),
            "positive_sequences": np.bincount(self.group_E, whole_positive_E, groups),
            "negative_sequences": np.bincount(self.group_E, whole_negative_E, groups),
            "pairs": np.bincount(group_of_prompt, pairs, groups),
        }
        return {name: count.astype(np.int64) for name, count in by_group.items()}

    def mixed_responses(self) -> list[str]:
        """Ids of the records whose response is to be said in one part and avoided in another."""
        return [self.record_ids[example] for example in np.flatnonzero((self.positives_E > 0) & (self.negatives_E > 0))]

    def longest_row(self) -> int:
        """Columns of the longest prefix-shared row."""
        return int(self.group_sizes(np.ones(len(self), dtype=bool), shared=True).length_G.max())

    def totals(self) -> tuple[int, int]:
        """Supervised positive and negative tokens."""
        return int(self.positives_E.sum()), int(self.negatives_E.sum())

    def groups_without_positives(self) -> int:
        """How many groups have only negatives."""
        return int((np.bincount(self.group_E, self.positives_E, len(self.groups)) == 0).sum())

    def fingerprint(self) -> str:
        """A hash of everything that decides which batches there are."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (
            self._token_T,
            self._weight_T,
            self._negative_T,
            self._end_E,
            self._prompt_length_E,
            self.group_E,
            self.id_hash_E,
            self.own_E,
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def spared_tokens(ids: NDArray[np.int32], tokenizer: PreTrainedTokenizerBase) -> Bools:
    """Which token ids are white space, punctuation or control tokens only: positives need them as much as negatives.

    Categories of Unicode: Z, P, C. Symbols such as + and $ carry meaning, and so do fragments of a character.
    """
    from distill.template import control_token_ids, token_texts

    control = control_token_ids(tokenizer) | set(tokenizer.all_special_ids)
    # One by one: side by side, the fragments of two characters could make a third. A lone fragment has no text and is not spared.
    texts = {token: "".join(token_texts([token], tokenizer)) for token in ids.tolist()}
    return np.array(
        [
            token in control or (text != "" and all(unicodedata.category(char)[0] in "ZPC" for char in text))
            for token, text in texts.items()
        ],
        dtype=bool,
    )


def _number_prompts(tokens: NDArray[np.int32], starts: Ints, prompt_length: Ints, group_of: Ints) -> Ints:
    """(E,): equal numbers where group and prompt tokens are equal."""
    numbers: dict[tuple[int, bytes], int] = {}
    keys = (
        (int(group), tokens[start : start + length].tobytes())
        for group, start, length in zip(group_of, starts, prompt_length, strict=True)
    )
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _protect_shared(
    tokens: NDArray[np.int32],
    weight: NDArray[np.float32],
    negative: Bools,
    starts: Ints,
    ends: Ints,
    prompt_length: Ints,
    prompt_E: Ints,
    *,
    only_first: bool,
) -> None:
    """Zero the weight of negative tokens before (or, only_first, also after) the first one that differs from every positive.

    Worked case: positives `Kuwait City .` and `Kuwait .`, negative `Kuwait Town .` => `Kuwait` is shared, `Town` differs.
    Without a positive of the same prompt nothing is shared, and the first token is the first difference.
    """
    order = np.argsort(prompt_E, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(prompt_E[order])) + 1):
        upward = [e for e in members if ((weight[starts[e] : ends[e]] > 0) & ~negative[starts[e] : ends[e]]).any()]
        for example in members:
            start, end = starts[example], ends[example]
            penalised = np.flatnonzero((weight[start:end] > 0) & negative[start:end])
            if not penalised.size:
                continue
            shared = max(
                (_common_prefix(tokens[start:end], tokens[starts[other] : ends[other]]) for other in upward if other != example),
                default=0,
            )
            spared = penalised < shared
            if only_first:
                spared |= penalised != penalised[np.argmax(~spared)]
            weight[start + penalised[spared]] = 0


def _common_prefix(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if differs.size else length


def _hash(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")
