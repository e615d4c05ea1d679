"""A teacher that serves its distribution over tensors, apart from `base`.

jsonargparse resolves the type imports of a module whose classes it shows: here they mean torch, and a recipe's help needs none.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from distill.teachers.base import Teacher

if TYPE_CHECKING:
    from distill.objectives.base import TeacherSignal
    from distill.rows import Batch


class LogitTeacher(Teacher):
    """Serves its next-token distribution at the supervised positions of a batch."""

    @abstractmethod
    def signal(self, batch: Batch) -> TeacherSignal:
        """The distribution at each supervised position, on the batch's device."""
