"""Which samples say the same: connected components of an equivalence, over distinct wordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from distill.consensus.base import Cluster, Equivalence


def clusters(answers: Sequence[str], equivalence: Equivalence) -> tuple[Cluster, ...]:
    """Group the answers so that each is in exactly one cluster; largest first, ties by first appearance.

    The clusters are the connected components of `equivalence.same`, so the order of the answers never changes the grouping.
    The equivalence is asked only about distinct wordings, and not about pairs already joined.

    >>> from distill.consensus import NormalisedMatch
    >>> clusters(["Lyon", "Paris", "paris.", "Paris"], NormalisedMatch())
    (Cluster(members=(1, 2, 3), answer='Paris'), Cluster(members=(0,), answer='Lyon'))
    """
    counts = Counter(answers)
    wordings = list(counts)  # in order of first appearance
    parent = list(range(len(wordings)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    equivalence.prepare(wordings)
    for first, second in combinations(range(len(wordings)), 2):
        low, high = sorted((root(first), root(second)))
        if low != high and equivalence.same(wordings[first], wordings[second]):
            parent[high] = low
    of_wording = {wording: root(index) for index, wording in enumerate(wordings)}
    members: dict[int, list[int]] = {}
    for index, answer in enumerate(answers):
        members.setdefault(of_wording[answer], []).append(index)
    # Counts tie by first appearance: max() keeps the first of equals, and sorted() is stable over dicts in insertion order.
    found = [
        Cluster(members=tuple(indices), answer=max((answers[i] for i in indices), key=lambda wording: counts[wording]))
        for indices in members.values()
    ]
    return tuple(sorted(found, key=lambda cluster: -len(cluster.members)))
