"""Several teachers as one: the weighted mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError, TeacherError
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

if TYPE_CHECKING:
    from distill.objectives.base import SignalKind
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class MixtureTeacher(LogitTeacher):
    """q = sum of w_i q_i over teachers with the student's vocabulary, each of which gives its whole distribution.

    teachers: the parts; each is in memory as it would be alone. weights: one for each, above 0, summing to 1.
    """

    teachers: list[LogitTeacher]
    weights: list[float]

    def __post_init__(self) -> None:
        if len(self.teachers) < 2 or len(self.teachers) != len(self.weights):
            raise ConfigError(
                f"a mixture of {len(self.teachers)} teachers has {len(self.weights)} weights; give at least two teachers and one "
                f"weight for each"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights) or abs(sum(self.weights) - 1) > 1e-6:
            raise ConfigError(f"weights of a mixture are {self.weights}; give numbers above 0 that sum to 1")
        for teacher in self.teachers:
            try:
                is_dense = teacher.kind() == "dense"
            except TeacherError:  # a stored signal that is not here, which an export does not ask; `kind` tells who does
                continue
            if not is_dense or teacher.gives_cross:
                raise ConfigError(
                    f"{type(teacher).__name__} in a mixture: it does not give whole distributions over the student's vocabulary, "
                    f"and probabilities it does not tell cannot be averaged; mix teachers such as LiveTeacher"
                )

    @property
    def reads_new_text(self) -> bool:  # type: ignore[override]
        """Whether all of them do."""
        return all(teacher.reads_new_text for teacher in self.teachers)

    def kind(self) -> SignalKind:
        """The whole distribution. Raises TeacherError where a part's stored signal is not there."""
        for teacher in self.teachers:
            teacher.kind()
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Start all of them."""
        return RunningMixture([teacher.start(student) for teacher in self.teachers], self.weights)


class RunningMixture(RunningTeacher):
    """Started teachers and their weights. It shows no hidden states: theirs have no common space."""

    def __init__(self, parts: Sequence[RunningTeacher], weights: Sequence[float]) -> None:
        self._parts, self._weights = list(parts), list(weights)

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """The mixture at the supervised positions, made when a loss looks at it."""
        from distill.objectives.mixture import MixtureSignal

        signals = []
        for part in self._parts:
            signal = part(batch).signal
            assert signal is not None  # its kind is dense
            signals.append(signal)
        return TeacherOutput(signal=MixtureSignal(parts=tuple(signals), weights=tuple(self._weights)))

    def after_step(self) -> None:
        """Tell all of them."""
        for part in self._parts:
            part.after_step()

    def state_dict(self) -> dict[str, Any]:
        """Of all of them, by their number."""
        return {str(number): part.state_dict() for number, part in enumerate(self._parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        if state and state.keys() != self.state_dict().keys():
            raise TeacherError(
                f"the checkpoint holds the state of {len(state)} mixed teachers, and there are {len(self._parts)}: resume with "
                f"the teachers that the run began with"
            )
        for number, part in enumerate(self._parts):
            part.load_state_dict(state.get(str(number), {}))
