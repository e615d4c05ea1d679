"""Trained linear maps from the student's hidden width to the teacher's; they are used in training only and never exported."""

from __future__ import annotations

from torch import Tensor, nn

from distill.student.terms import Projector


class Projectors(nn.ModuleDict):
    """One list of linear maps for each loss on hidden states, one map per pair of layers; none where widths are equal."""

    def add(self, name: str, pairs: tuple[tuple[int, int], ...], *, student: int, teacher: int) -> None:
        """Make the maps of one objective, if it needs any and has none yet."""
        if student != teacher and name not in self:
            self[name] = nn.ModuleList(nn.Linear(student, teacher, bias=False) for _ in pairs)

    def of(self, name: str) -> Projector:
        """The map that an objective's states pass through."""
        if name not in self:
            return lambda number, hidden_ND: hidden_ND
        maps = self[name]
        return lambda number, hidden_ND: _apply(maps, number, hidden_ND)


def _apply(maps: nn.Module, number: int, hidden_ND: Tensor) -> Tensor:
    assert isinstance(maps, nn.ModuleList)
    projected: Tensor = maps[number](hidden_ND)
    return projected
