"""The student's own base as teacher: what it was before training, held against what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distill.teachers.live import Dtype, FrozenModel, said_by
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

if TYPE_CHECKING:
    from torch import Tensor

    from distill.objectives.base import SignalKind
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class BaseTeacher(LogitTeacher):
    """The student as it was before training: a divergence from it keeps what a penalty should not touch.

    dtype: of everything it computes. A student with adapters (lora) is read with them off and costs no memory in float32;
    any other, or another dtype, needs a second, frozen copy.
    """

    dtype: Dtype = "float32"
    gives_hidden = True

    def kind(self) -> SignalKind:
        """The whole distribution."""
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Take the student's adapters off, or load its base once more."""
        if student.adapters_off is not None and self.dtype == "float32":
            return AdaptersOff(student)
        from distill.models import load_model

        model: Any = load_model(student.name, dtype=self.dtype, device="cpu")
        return FrozenModel(model, name=student.name, longest_row=student.longest_row)


class AdaptersOff(RunningTeacher):
    """The student in training, read without its adapters and without dropout."""

    def __init__(self, student: LiveStudent) -> None:
        assert student.adapters_off is not None
        self._model, self._adapters_off = student.model, student.adapters_off
        config = student.model.config.get_text_config()
        self.layers, self.width, self._vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """Its exact distribution at the supervised positions, made when a loss looks at it."""
        from distill.objectives.base import HiddenSignal

        with self._adapters_off():
            said = said_by(self._model, batch, vocabulary=self._vocabulary, layers=layers)
        assert isinstance(said.signal, HiddenSignal)
        # The head is read later, in the midst of the student's own forward: it may have an adapter too.
        logits_of = said.signal.logits_of

        def base_logits_of(hidden_CD: Tensor) -> Tensor:
            with self._adapters_off():
                return logits_of(hidden_CD)

        return replace(said, signal=replace(said.signal, logits_of=base_logits_of))
