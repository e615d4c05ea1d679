"""A teacher that runs beside the student: a frozen model in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

if TYPE_CHECKING:
    from distill.objectives.base import SignalKind
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class LiveTeacher(LogitTeacher):
    """A frozen causal language model in the same process.

    model: a hub name, a folder, a .gguf file or "smollm2-135m-instruct". dtype: of its weights and of everything it computes,
    whatever precision the student trains in: bfloat16 halves memory and time and moves its probabilities by about a percent.
    """

    model: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def kind(self) -> SignalKind:
        """The whole distribution."""
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Load it; it follows the batches to their device."""
        from distill.models import load_model

        model: Any = load_model(self.model, dtype=self.dtype, device="cpu")
        return FrozenModel(model)


class FrozenModel(RunningTeacher):
    """A model in memory as a teacher: eval mode, no gradient, its own precision whatever autocast the student runs under."""

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)
        config = model.config.get_text_config()
        self.layers, self.width = config.num_hidden_layers, config.hidden_size

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """Its exact distribution at the supervised positions, made when a loss looks at it."""
        import torch

        from distill.head import hidden_signal

        self._model.to(batch.gather_N.device)
        vocabulary = self._model.config.get_text_config().vocab_size
        with torch.no_grad(), torch.autocast(batch.gather_N.device.type, enabled=False):
            signal, hidden = hidden_signal(self._model, batch, vocabulary=vocabulary, layers=layers)
        return TeacherOutput(signal=signal, hidden=hidden)
