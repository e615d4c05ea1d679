"""The student's own past as teacher: an exponential moving average of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError, TeacherError
from distill.teachers.live import FrozenModel
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher

if TYPE_CHECKING:
    from torch import Tensor

    from distill.objectives.base import SignalKind


@dataclass(frozen=True, kw_only=True)
class EmaTeacher(LogitTeacher):
    """The mean teacher: after every optimiser step each of its weights becomes decay x itself + (1 - decay) x the student's.

    decay: share of the old average that is kept; .999 remembers about a thousand steps. warm_up: begin with less, (1 + t) /
    (10 + t) at the t-th step until that reaches `decay`, so that a student who began at random is soon forgotten. It computes in
    float32; weights that are not trained are the student's own and cost no memory.

    Source: Tarvainen and Valpola 2017 (arXiv:1703.01780), equation 3; the warm-up is TensorFlow's, where they raise the decay
    once by hand (.99, then .999).
    """

    decay: float = 0.999
    warm_up: bool = False
    gives_hidden = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay is {self.decay}; give a share of the average that is kept, in [0, 1)")

    def kind(self) -> SignalKind:
        """The whole distribution."""
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Begin at the student's present weights."""
        return MovingAverage(student, decay=self.decay, warm_up=self.warm_up)


class MovingAverage(FrozenModel):
    """The average of a student in training."""

    def __init__(self, student: LiveStudent, *, decay: float, warm_up: bool) -> None:
        # What is not trained stays what it is, so both models may share it.
        shared = {id(parameter): parameter for parameter in student.model.parameters() if not parameter.requires_grad}
        self._trained = {name: parameter for name, parameter in student.model.named_parameters() if parameter.requires_grad}
        super().__init__(
            copy.deepcopy(student.model, shared), name=f"moving average of {student.name}", longest_row=student.longest_row
        )
        self.model.zero_grad(set_to_none=True)
        self._average = {name: self.model.get_parameter(name) for name in self._trained}
        self._decay, self._warm_up, self._updates = decay, warm_up, 0

    def after_step(self) -> None:
        """Move towards the student's weights."""
        import torch

        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates)) if self._warm_up else self._decay
        trained: list[Tensor] = list(self._trained.values())
        self.model.to(trained[0].device)
        with torch.no_grad():
            torch._foreach_lerp_([*self._average.values()], trained, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averages of the trained weights, and how many steps are in them."""
        return {"updates": self._updates, "averages": {name: average.detach() for name, average in self._average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; an empty one leaves the average where it began. Raises TeacherError for another's."""
        import torch

        if not state:
            return
        averages = state.get("averages", {})
        if {name: average.shape for name, average in averages.items()} != {name: p.shape for name, p in self._average.items()}:
            raise TeacherError(
                f"the checkpoint holds averages of {len(averages)} weights that are not the student's {len(self._average)} "
                f"trained ones: resume with the student, train_layers, lora and teacher that the run began with"
            )
        self._updates = int(state["updates"])
        with torch.no_grad():
            for name, average in self._average.items():
                average.copy_(averages[name])
