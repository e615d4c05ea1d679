"""The symbolic judge: statements whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from distill.consensus.normalisation import normalise
from distill.judges.base import Judge, Verdict
from distill.records import Prompt


@dataclass(frozen=True, kw_only=True)
class TruthTable(Judge):
    """Approves statements that the table calls true, rejects those it calls false, abstains on all others.

    truth: statement -> whether it is true; compared after `normalise`. A table in which two spellings of one statement disagree
    abstains on them.
    """

    truth: Mapping[str, bool] = field(default_factory=dict)

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Look the response up; prompt and reference are not needed.

        >>> TruthTable(truth={"Iron is a metal.": True}).judge((), "iron is a metal").approved
        True
        """
        known = self._normalised.get(normalise(response), frozenset())
        if len(known) != 1:
            return Verdict(approved=None, reason="the table contradicts itself" if known else "not in the table")
        return Verdict(approved=next(iter(known)), reason="known statement")

    @cached_property
    def _normalised(self) -> dict[str, frozenset[bool]]:
        table: dict[str, frozenset[bool]] = {}
        for statement, true in self.truth.items():
            key = normalise(statement)
            table[key] = table.get(key, frozenset()) | {true}
        return table
