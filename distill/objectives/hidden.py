"""What a loss on hidden states is: the student's against the teacher's, at supervised positions.

Shape suffixes: N supervised positions, D the teacher's width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from distill.objectives.base import Loss, Objective, Positions, Targets


class HiddenObjective(Objective):
    """A loss with one value per supervised position, of one hidden state of the student's and one of the teacher's.

    Layers are counted as transformers counts hidden states: 0 is the embeddings, L of L blocks what the LM head reads.
    Where the widths differ (or `projects` says so) the student's states pass through a trained linear projector first.
    reads_embedding: the teacher's is no layer's state but the embedding of the whole response.
    """

    reads_embedding: ClassVar[bool] = False

    @property
    @abstractmethod
    def positions(self) -> Positions:
        """Which positions it is about."""

    @property
    def projects(self) -> bool:
        """Whether the student's states are projected also where the widths are equal."""
        return False

    @property
    def own_samples(self) -> bool:
        """Whether it looks at responses that the student itself wrote."""
        return True

    @abstractmethod
    def layer_pairs(self, student_layers: int, teacher_layers: int) -> tuple[tuple[int, int], ...]:
        """(student's layer, teacher's layer) for each pair that is compared; the loss is the mean over them."""

    @abstractmethod
    def __call__(self, student_ND: Tensor, teacher_ND: Tensor, targets: Targets) -> Loss:
        """Hidden states of one pair of layers, projected already -> Loss."""
