"""Trained linear maps from the student's hidden width to the teacher's; they are used in training only and never exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from distill.student.terms import Projector


class Projectors(nn.ModuleDict):
    """One list of linear maps for each loss on hidden states that needs one, one map per pair of layers.

    They are among the StudentModule's parameters: the optimiser trains them, a checkpoint holds them. They are no part of the
    student's own model, so an export does not see them.
    """

    def add(self, name: str, pairs: Sequence[tuple[int, int]], *, student: int, teacher: int, always: bool = False) -> None:
        """Make the maps of one objective, if it has none yet: where the widths `student` and `teacher` differ, or `always`."""
        if (always or student != teacher) and (key := _key(name)) not in self:
            self[key] = nn.ModuleList(nn.Linear(student, teacher, bias=False) for _ in pairs)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Make the maps that a checkpoint's state (of the StudentModule) holds, in its sizes: an export has no teacher to ask."""
        found: dict[str, list[Any]] = {}
        for name, value in state.items():
            if name.startswith("projectors."):
                found.setdefault(name.split(".")[1], []).append(value)
        for key, values in found.items():
            if key not in self:
                width, own_width = values[0].shape
                self[key] = nn.ModuleList(nn.Linear(own_width, width, bias=False) for _ in values)

    def of(self, name: str) -> Projector:
        """The map that an objective's states pass through; the identity where it has none."""
        if (key := _key(name)) not in self:
            return lambda number, hidden_ND: hidden_ND
        maps = self[key]
        assert isinstance(maps, nn.ModuleList)
        return lambda number, hidden_ND: maps[number](hidden_ND)


def _key(name: str) -> str:
    # torch reserves the names of a module's own attributes ("values", "type") and the full stop.
    return f"for_{name.replace('.', '-')}"
