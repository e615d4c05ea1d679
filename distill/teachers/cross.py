"""A teacher with a tokenizer of its own, beside the student: it reads the responses in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import TeacherError
from distill.teachers.live import Dtype, said_by
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

if TYPE_CHECKING:
    from distill.objectives.base import CommonRoots, SignalKind
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class CrossTeacher(LogitTeacher):
    """A frozen causal language model in the same process, whose tokenizer is not the student's.

    The records are rendered for it too, by its own chat template: data.teacher_tokenizer must name the same model (`distill fit`
    sees to it). model: a hub name, a folder, a .gguf file or "smollm2-135m-instruct". dtype: of its weights and of everything it
    computes, whatever precision the student trains in.
    """

    model: str
    dtype: Dtype = "float32"
    gives_cross = True

    def kind(self) -> SignalKind:
        """The whole distribution, over its own vocabulary."""
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Load it and find what its vocabulary has in common with the student's, which takes some seconds."""
        from distill.models import load_model, load_tokenizer
        from distill.teachers.roots import common_roots

        model: Any = load_model(self.model, dtype=self.dtype, device="cpu")
        roots = common_roots(
            load_tokenizer(student.name),
            load_tokenizer(self.model),
            student_rows=student.model.config.get_text_config().vocab_size,
            teacher_rows=model.config.get_text_config().vocab_size,
        )
        return RunningCross(model, name=self.model, roots=roots)


class RunningCross(RunningTeacher):
    """A model in memory as a teacher of a student with another tokenizer. It shows no hidden states: they lie at other tokens."""

    def __init__(self, model: Any, *, name: str, roots: CommonRoots) -> None:
        self.model = model.eval().requires_grad_(False)
        self._name, self._roots = name, roots

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """Its exact distribution at its own supervised positions, made when a loss looks at it.

        Raises TeacherError where the batch holds no tokens of its tokenizer, or those of another one.
        """
        from distill.objectives.base import CrossSignal

        other = batch.other
        if other is None or not _same_model(other.name, self._name):
            held = "no tokens of another tokenizer" if other is None else f"the tokens of {other.name!r}"
            raise TeacherError(
                f"teacher {self._name!r} reads responses in its own tokens, and the batch holds {held}: set "
                f"data.teacher_tokenizer to {self._name!r}"
            )
        device = batch.gather_N.device
        self.model.to(device)
        if self._roots.student_V.device != device:
            self._roots = self._roots.to(device)
        vocabulary = self.model.config.get_text_config().vocab_size
        signal = said_by(self.model, other.batch, vocabulary=vocabulary, layers=()).signal
        assert signal is not None  # a model in memory always gives one
        targets = other.batch.targets
        return TeacherOutput(
            cross=CrossSignal(
                teacher=signal,
                token_M=targets.token_N,
                sequence_M=targets.sequence_N,
                span_N=other.span_N,
                span_M=other.span_M,
                roots=self._roots,
            )
        )


def _same_model(left: str, right: str) -> bool:
    from distill.models import resolve

    return left == right or Path(resolve(left)).resolve() == Path(resolve(right)).resolve()
