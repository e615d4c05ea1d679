"""From many preferences between pairs to one strength for each item: the model of Bradley and Terry.

Shape suffixes: N items, M comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.errors import ConfigError
from distill.judges.base import PairJudge, Preference
from distill.judges.choice import logistic
from distill.records import Prompt

_STEPS = 100


class Comparison(NamedTuple):
    """first was compared with second; `won` is first's share of the win: 1 won, 0 lost, 0.5 a tie."""

    first: str
    second: str
    won: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """strengths: nats, mean 0 in each component; P(a beats b) = logistic(strength of a - strength of b).

    errors: the standard error of each strength against the mean of its component. components: items that are linked by
    comparisons; strengths of different components cannot be compared. covariance: of the strengths, for `difference`.
    """

    items: tuple[str, ...]
    strengths: tuple[float, ...]
    errors: tuple[float, ...]
    components: tuple[tuple[str, ...], ...]
    covariance: NDArray[np.float64] = field(repr=False, compare=False)

    def rank(self) -> list[str]:
        """The items, strongest first; ConfigError where no chain of comparisons links them all."""
        if len(self.components) > 1:
            one, other = self.components[0][0], self.components[1][0]
            raise ConfigError(
                f"{len(self.components)} groups of items were never compared with each other ({one!r} and {other!r} are in two "
                "of them): compare some across, or rank each group alone"
            )
        return [self.items[index] for index in sorted(range(len(self.items)), key=lambda index: -self.strengths[index])]

    def difference(self, first: str, second: str) -> tuple[float, float]:
        """first's strength less second's, and its standard error (nats); ConfigError where they cannot be compared."""
        component = next((names for names in self.components if first in names), ())
        if second not in component:
            raise ConfigError(f"{first!r} and {second!r} are not linked by comparisons: compare them, or others that link them")
        one, other = self.items.index(first), self.items.index(second)
        cov = self.covariance
        variance = float(cov[one, one] + cov[other, other] - 2 * cov[one, other])
        return self.strengths[one] - self.strengths[other], math.sqrt(max(variance, 0.0))

    def probability(self, first: str, second: str) -> float:
        """P(first beats second)."""
        return logistic(self.difference(first, second)[0])


def bradley_terry(comparisons: Iterable[Comparison | tuple[str, str, float]], *, spread: float = 3.0) -> Ranking:
    """The strengths that make the comparisons most probable, with a Gaussian prior that keeps them finite.

    comparisons: (first, second, won); a tie counts half a win for each. spread: the prior's standard deviation (nats); without
    it an item that never lost has an infinite strength. inf leaves it out, and is refused where strengths are then infinite.
    Memory grows with the square, time with the cube of the number of items; comparisons of one pair are added up first.

    >>> ranking = bradley_terry([("a", "b", 1), ("a", "b", 1), ("a", "b", 0), ("b", "c", 0.5)], spread=float("inf"))
    >>> ranking.rank()[0], round(ranking.probability("a", "b"), 6)
    ('a', 0.666667)

    Source: Bradley and Terry 1952 (Biometrika 39); a tie as half a win, Davidson 1970 (JASA 65) gives the model with a
    parameter for ties instead. Newton's method, as the negative log-posterior is convex.
    """
    if not spread > 0:
        raise ConfigError(f"spread is {spread}, expected a standard deviation above 0 (nats); inf leaves the prior out")
    names, first_M, second_M, won_M, count_M = _counted(comparisons)
    if not names:
        raise ConfigError("no comparisons: a ranking needs at least one")
    components = _components(len(names), first_M, second_M)
    precision = 0.0 if math.isinf(spread) else spread**-2
    if not precision:
        _check_finite(names, first_M, second_M, won_M, count_M, components)
    strength_N = np.zeros(len(names))
    label_N = np.empty(len(names), dtype=np.int64)
    for label, members in enumerate(components):
        label_N[members] = label
    # The likelihood does not see a constant added to a component's strengths. One added along with its square settles that, and
    # changes nothing else, since the strengths of a component sum to zero all the way.
    same_NN = (label_N[:, None] == label_N[None, :]) / np.bincount(label_N)[label_N][:, None]
    counts = (first_M, second_M, won_M, count_M, precision)
    value = _value(strength_N, *counts)
    for _ in range(_STEPS):
        slope_N, curve_NN = _slope_and_curve(strength_N, *counts)
        step_N = np.linalg.solve(curve_NN + same_NN, slope_N)
        # A full Newton step overshoots where the curve is flat.
        while (new := _value(strength_N - step_N, *counts)) > value + 1e-12 * abs(value):
            step_N /= 2
        strength_N, value = strength_N - step_N, new
        if float(np.abs(step_N).max()) < 1e-11:
            break
    _, curve_NN = _slope_and_curve(strength_N, *counts)
    covariance_NN = np.linalg.inv(curve_NN + same_NN) - same_NN / (1 + precision)
    strength_N -= same_NN @ strength_N
    return Ranking(
        items=tuple(names),
        strengths=tuple(strength_N.tolist()),
        errors=tuple(np.sqrt(np.maximum(np.diag(covariance_NN), 0.0)).tolist()),
        components=tuple(tuple(names[index] for index in members) for members in components),
        covariance=covariance_NN,
    )


def rank(
    judge: PairJudge,
    prompt: Prompt,
    responses: Sequence[str],
    *,
    abstained: Literal["tie", "drop"] = "tie",
    spread: float = 3.0,
) -> tuple[Ranking, list[Preference]]:
    """Compare each two different responses to one prompt and rank them; also the preferences, in the order of `combinations`.

    abstained: a pair on which the judge abstained is a tie, or is left out (then some may not be linked any more).
    """
    pairs = list(combinations(dict.fromkeys(responses), 2))
    found = judge.compare_many([prompt] * len(pairs), [one for one, _ in pairs], [other for _, other in pairs])
    shares = {"first": 1.0, "second": 0.0, None: 0.5}
    comparisons = [
        Comparison(*pair, shares[preference.preferred])
        for pair, preference in zip(pairs, found, strict=True)
        if preference.preferred is not None or abstained == "tie"
    ]
    return bradley_terry(comparisons, spread=spread), found


def _counted(
    comparisons: Iterable[Comparison | tuple[str, str, float]],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Names in order of appearance, and for each pair its two indices, the first's wins and the number of comparisons."""
    number: dict[str, int] = {}
    total: dict[tuple[int, int], list[float]] = {}
    for first, second, won in comparisons:
        if first == second or not 0 <= won <= 1:
            raise ConfigError(f"comparison ({first!r}, {second!r}, {won}): expected two different items and a share in [0, 1]")
        one, other = number.setdefault(first, len(number)), number.setdefault(second, len(number))
        sums = total.setdefault((min(one, other), max(one, other)), [0.0, 0.0])
        sums[0] += won if one < other else 1 - won
        sums[1] += 1
    pairs = np.array(list(total), dtype=np.int64).reshape(-1, 2)
    sums_M2 = np.array(list(total.values()), dtype=np.float64).reshape(-1, 2)
    return list(number), pairs[:, 0], pairs[:, 1], sums_M2[:, 0], sums_M2[:, 1]


def _value(
    strength_N: NDArray[np.float64],
    first_M: NDArray[np.int64],
    second_M: NDArray[np.int64],
    won_M: NDArray[np.float64],
    count_M: NDArray[np.float64],
    precision: float,
) -> float:
    """The negative log-posterior, a constant left out."""
    gap_M = strength_N[first_M] - strength_N[second_M]
    return float((count_M * np.logaddexp(0.0, gap_M) - won_M * gap_M).sum() + precision / 2 * (strength_N**2).sum())


def _slope_and_curve(
    strength_N: NDArray[np.float64],
    first_M: NDArray[np.int64],
    second_M: NDArray[np.int64],
    won_M: NDArray[np.float64],
    count_M: NDArray[np.float64],
    precision: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradient and Hessian of the negative log-posterior."""
    gap_M = strength_N[first_M] - strength_N[second_M]
    expected_M = 0.5 * (1 + np.tanh(gap_M / 2))
    surplus_M = count_M * expected_M - won_M
    weight_M = count_M * expected_M * (1 - expected_M)
    size = len(strength_N)
    slope_N = np.bincount(first_M, surplus_M, size) - np.bincount(second_M, surplus_M, size) + precision * strength_N
    curve_NN = np.zeros((size, size))
    curve_NN[first_M, second_M] = curve_NN[second_M, first_M] = -weight_M
    np.fill_diagonal(curve_NN, np.bincount(first_M, weight_M, size) + np.bincount(second_M, weight_M, size) + precision)
    return slope_N, curve_NN


def _components(size: int, first_M: NDArray[np.int64], second_M: NDArray[np.int64]) -> list[list[int]]:
    """Indices that are linked, each list ascending, the lists by their first index."""
    parent = list(range(size))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in zip(first_M.tolist(), second_M.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    found: dict[int, list[int]] = {}
    for index in range(size):
        found.setdefault(root(index), []).append(index)
    return list(found.values())


def _check_finite(
    names: Sequence[str],
    first_M: NDArray[np.int64],
    second_M: NDArray[np.int64],
    won_M: NDArray[np.float64],
    count_M: NDArray[np.float64],
    components: Sequence[Sequence[int]],
) -> None:
    """Without a prior the strengths exist only where, within each component, every item beats every other along some chain."""
    beats: dict[int, set[int]] = {index: set() for index in range(len(names))}
    for one, other, won, count in zip(first_M.tolist(), second_M.tolist(), won_M.tolist(), count_M.tolist(), strict=True):
        if won > 0:
            beats[one].add(other)
        if won < count:
            beats[other].add(one)
    beaten: dict[int, set[int]] = {index: set() for index in beats}
    for one, losers in beats.items():
        for other in losers:
            beaten[other].add(one)
    for members in components:
        for edges in (beats, beaten):
            reached, waiting = {members[0]}, [members[0]]
            while waiting:
                new = edges[waiting.pop()] - reached
                reached |= new
                waiting.extend(new)
            if missing := sorted(set(members) - reached):
                raise ConfigError(
                    f"{names[missing[0]]!r} has only wins or only losses against the group of {names[members[0]]!r}: its "
                    "strength is infinite without a prior; give a finite spread"
                )
