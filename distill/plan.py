"""Which questions meet in which optimiser step, and which of their negatives take part in an epoch: pure functions.

Shape suffixes: G groups (questions), E examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distill.rows import StepCounts

if TYPE_CHECKING:
    from distill.store import ExampleStore, GroupSizes

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """One rank's micro-batches of one epoch.

    groups: the groups of each micro-batch (empty where this rank has none). in_step: for each micro-batch, what its whole
    optimiser step holds, over all micro-batches and ranks. keep_E: which examples take part in this epoch.
    """

    groups: list[Ints]
    in_step: list[StepCounts]
    keep_E: NDArray[np.bool_]


def choose_negatives(store: ExampleStore, at_most: int | None, *, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which examples take part in an epoch (E,): all, or at most so many wholly negative ones of each group.

    A negative's lot depends on (seed, epoch, its record's id) only, so that adding records to one group changes no other.
    """
    keep_E = np.ones(len(store), dtype=bool)
    if at_most is None:
        return keep_E
    lot_E = _mix(
        store.id_hash_E + _mix(np.array([seed], dtype=np.uint64)) + _mix(np.array([epoch], dtype=np.uint64) + np.uint64(1 << 32))
    )
    negatives = np.flatnonzero(store.positives_E == 0)
    by_group = negatives[np.lexsort((lot_E[negatives], store.group_E[negatives]))]
    _, first, counts = np.unique(store.group_E[by_group], return_index=True, return_counts=True)
    place_in_group = np.arange(len(by_group)) - np.repeat(first, counts)
    keep_E[by_group[place_in_group >= at_most]] = False
    return keep_E


def plan_epoch(
    sizes: GroupSizes,
    *,
    keep_E: NDArray[np.bool_],
    batch_size: int,
    accumulate: int,
    world: int,
    rank: int,
    bucket_window: int,
    seed: int | None,
    epoch: int,
    limit: int,
) -> EpochPlan:
    """The micro-batches of `rank` in `epoch`: shuffled, sorted by length inside windows, cut into steps, steps shuffled.

    The groups of a step depend only on their number per step, batch_size * accumulate * world, so that the same run cut
    differently sees the same steps. The incomplete step comes last, since Lightning counts micro-batches from the epoch's
    start; its groups are of any length. seed None: no shuffling. limit: how many micro-batches Lightning will take.
    """
    micro_size = batch_size * world
    steps = _steps(
        sizes.length_G, micro_size * accumulate, bucket_window, np.random.default_rng([seed, epoch]) if seed is not None else None
    )
    # The groups of one micro-batch over all ranks are neighbours in length; dealt out one by one, each rank gets its share.
    whole = [micro for step in steps for micro in _cut(step, micro_size, accumulate)][:limit]
    step_of = np.arange(len(whole)) // accumulate
    return EpochPlan(groups=[micro[rank::world] for micro in whole], in_step=_step_counts(sizes, whole, step_of), keep_E=keep_E)


def _step_counts(sizes: GroupSizes, whole: list[Ints], step_of: Ints) -> list[StepCounts]:
    totals = {}
    for name, count_G in sizes.counts_G.items():
        of_micro = np.array([count_G[micro].sum() for micro in whole], dtype=np.int64)
        totals[name] = np.bincount(step_of, of_micro).astype(np.int64)[step_of] if len(whole) else of_micro
    return [StepCounts(**{name: int(total[micro]) for name, total in totals.items()}) for micro in range(len(whole))]


def _steps(length_G: Ints, step_size: int, bucket_window: int, random: np.random.Generator | None) -> list[Ints]:
    order = random.permutation(len(length_G)) if random is not None else np.arange(len(length_G))
    window = max(bucket_window // step_size, 1) * step_size
    steps: list[Ints] = []
    incomplete: list[Ints] = []
    for start in range(0, len(order), window):
        block = order[start : start + window]
        block = block[np.argsort(length_G[block], kind="stable")]
        if left := len(block) % step_size:
            cut = len(block) - left if random is None else step_size * int(random.integers(0, len(block) // step_size + 1))
            incomplete.append(block[cut : cut + left])
            block = np.concatenate([block[:cut], block[cut + left :]])
        in_window = block.reshape(-1, step_size)
        steps += list(in_window if random is None else random.permutation(in_window))
    return steps + incomplete


def _cut(step: Ints, micro_size: int, accumulate: int) -> list[Ints]:
    """A step's micro-batches over all ranks: of equal size, or of nearly equal size where the step is incomplete."""
    return np.array_split(step, accumulate if len(step) == micro_size * accumulate else -(-len(step) // micro_size))


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the input changes half of the output's (Steele et al. 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
