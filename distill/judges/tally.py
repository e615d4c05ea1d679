"""Counting verdicts, the abstentions among them too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from distill.judges.base import Verdict


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many verdicts of each kind. Abstained verdicts are in no rate; `why` counts their reasons."""

    approved: int
    rejected: int
    abstained: int
    why: tuple[tuple[str, int], ...] = ()

    @property
    def approval(self) -> float | None:
        """Approved share of the verdicts that were given (0 to 1); None where none was."""
        judged = self.approved + self.rejected
        return self.approved / judged if judged else None


def tally(verdicts: Iterable[Verdict]) -> Tally:
    """Count verdicts.

    >>> tally([Verdict(approved=True), Verdict(approved=None, reason="unparsable")])
    Tally(approved=1, rejected=0, abstained=1, why=(('unparsable', 1),))
    """
    given = list(verdicts)
    kinds = Counter(verdict.approved for verdict in given)
    why = Counter(verdict.reason for verdict in given if verdict.approved is None)
    return Tally(approved=kinds[True], rejected=kinds[False], abstained=kinds[None], why=tuple(why.most_common()))
