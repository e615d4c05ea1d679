"""Hidden-state matching: the student's states towards the teacher's, layer by layer.

Shape suffixes: N supervised positions, M selected ones of them, D the teacher's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives.base import Loss, Positions, Targets, check_weight
from distill.objectives.hidden import HiddenObjective
from distill.objectives.log_odds import spread

Distance = Literal["cosine", "mse", "relative_mse"]


def cosine_distance(one_MD: Tensor, other_MD: Tensor) -> Tensor:
    """1 - cos of each row's angle, (M,), float32 (float64 for float64 input), in [0, 2], finite at every vector.

    Computed as |u - v|^2 / 2 of the unit vectors, the same number: it does not cancel where the two nearly agree. A zero vector
    has no direction: its u is 0, so that it is 0 away from another zero, 1/2 from anything else, and gets no gradient.

    >>> cosine_distance(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]])).tolist()
    [1.0, 0.5]
    """
    return 0.5 * (_unit(one_MD) - _unit(other_MD)).square().sum(1)


def _unit(rows_MD: Tensor) -> Tensor:
    rows_MD = rows_MD if rows_MD.dtype == torch.float64 else rows_MD.float()
    # Divided by its largest entry first, a row can neither overflow nor vanish when squared. The factor is held constant: the
    # direction does not depend on it.
    largest_M1 = rows_MD.detach().abs().amax(1, keepdim=True)
    zero_M1 = largest_M1 < torch.finfo(rows_MD.dtype).tiny
    scaled_MD = rows_MD / largest_M1.masked_fill(zero_M1, 1)
    square_M1 = scaled_MD.square().sum(1, keepdim=True).masked_fill(zero_M1, 1)
    return (scaled_MD * square_M1.rsqrt()).masked_fill(zero_M1, 0)


@dataclass(frozen=True, kw_only=True)
class HiddenStateMatching(HiddenObjective):
    """Think as the teacher does: the distance between hidden states of the student and of a live teacher.

    distance: "cosine" is 1 - cos, blind to a state's length. "mse" is the mean over the width of squared differences; a few
    layers and dimensions with large numbers rule it. "relative_mse" divides it by the mean square of the teacher's state, so that
    all layers count alike (a zero state of the teacher counts 0). None of them is in nats.
    layers: which pairs are compared, the loss being their mean. Layer 0 is the embeddings, layer i what i blocks have made of
    them, the last what the LM head reads. "last" compares those; "proportion" each layer i = 1 ... Ls of the student with
    the teacher's layer i Lt / Ls, rounded; else a list of [student's layer, teacher's layer].
    positions: "positive", or also or only where a token is to be avoided.
    projector: train a linear map to the teacher's width, one for each pair, also where the widths are the same; where they differ
    there always is one. It is used in training only and never exported.

    Source: cosine: Sanh et al. 2019 (arXiv:1910.01108), section 2, of the last layer. MSE with a projector for each layer: Jiao
    et al. 2019 (arXiv:1909.10351), eq. 8. Deviations: the latter's map m(i) also compares the embeddings and attention
    matrices; add [0, 0] to a list of pairs for the former; both papers average over all tokens, here over supervised positions.
    """

    weight: float = 1.0
    distance: Distance = "cosine"
    layers: Literal["last", "proportion"] | tuple[tuple[int, int], ...] = "last"
    positions: Positions = "positive"
    projector: bool = False

    def __post_init__(self) -> None:
        check_weight(self.weight, "HiddenStateMatching")
        if isinstance(self.layers, str):
            return
        if not self.layers or any(len(pair) != 2 or min(pair) < 0 for pair in self.layers):
            raise ConfigError(
                f"HiddenStateMatching.layers is {self.layers!r}; expected last, proportion or pairs [student's layer, teacher's "
                f"layer] counted from 0, such as [[15, 30]]"
            )

    @property
    def projects(self) -> bool:
        """Whether there is a projector whatever the widths."""
        return self.projector

    def layer_pairs(self, student_layers: int, teacher_layers: int) -> tuple[tuple[int, int], ...]:
        """(student's layer, teacher's layer) of each pair. Raises ConfigError where one is not there.

        >>> HiddenStateMatching(layers="proportion").layer_pairs(3, 8)
        ((1, 3), (2, 5), (3, 8))
        """
        if teacher_layers == 0:
            raise ConfigError("HiddenStateMatching: this teacher shows no hidden states; use a LiveTeacher, or ForwardKL instead")
        if self.layers == "last":
            return ((student_layers, teacher_layers),)
        if self.layers == "proportion":
            # Half up, by whole numbers: Python's round goes to the even one.
            return tuple(
                (layer, (2 * layer * teacher_layers + student_layers) // (2 * student_layers))
                for layer in range(1, student_layers + 1)
            )
        for own, its in self.layers:
            if own > student_layers or its > teacher_layers:
                raise ConfigError(
                    f"HiddenStateMatching.layers has the pair [{own}, {its}]; the student has layers 0 to {student_layers}, the "
                    f"teacher 0 to {teacher_layers}"
                )
        return tuple((own, its) for own, its in self.layers)

    def __call__(self, student_ND: Tensor, teacher_ND: Tensor, targets: Targets) -> Loss:
        """The distance of the states that predict the tokens at its positions, 0 elsewhere."""
        where_N = targets.where(self.positions)
        row_M = where_N.nonzero().squeeze(1)
        # Rows that are not looked at are not read: whatever they hold, they get gradient 0.
        value_M = self._distance(student_ND[row_M], teacher_ND[row_M].detach())
        return Loss(value_N=spread(value_M, row_M, where_N.shape[0]), where_N=where_N)

    def _distance(self, student_MD: Tensor, teacher_MD: Tensor) -> Tensor:
        if self.distance == "cosine":
            return cosine_distance(student_MD, teacher_MD)
        wide = torch.float64 if student_MD.dtype == torch.float64 else torch.float32
        student_MD, teacher_MD = student_MD.to(wide), teacher_MD.to(wide)
        if self.distance == "mse":
            return (student_MD - teacher_MD).square().mean(1)
        # By its largest entry first, as above: squares of 1e20 do not fit float32, nor do those of 1e-23.
        largest_M1 = teacher_MD.abs().amax(1, keepdim=True)
        zero_M1 = largest_M1 < torch.finfo(wide).tiny
        scale_M1 = largest_M1.masked_fill(zero_M1, 1)
        size_M = (teacher_MD / scale_M1).square().mean(1).masked_fill(zero_M1.squeeze(1), 1)
        error_M = ((student_MD - teacher_MD) / scale_M1).square().mean(1) / size_M
        return error_M.masked_fill(zero_M1.squeeze(1), 0)
