"""A teacher that runs beside the student: a frozen model in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import TeacherError
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput
from distill.teachers.vocabulary import CommonTokens, common_tokens, compare_templates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distill.objectives.base import SignalKind
    from distill.rows import Batch

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class LiveTeacher(LogitTeacher):
    """A frozen causal language model in the same process, with the student's tokenizer.

    model: a hub name, a folder, a .gguf file or "smollm2-135m-instruct". dtype: of its weights and of everything it computes,
    whatever precision the student trains in: bfloat16 halves memory and moves its distributions by about .015 in total
    variation (SmolLM2-135M), float16 by .002.
    """

    model: str
    dtype: Dtype = "float32"
    gives_hidden = True

    def kind(self) -> SignalKind:
        """The whole distribution."""
        return "dense"

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Compare the tokenizers, then load it; it follows the batches to their device.

        Raises TeacherError where the two do not share their vocabulary; ModelError where there is no such model.
        """
        from distill.models import load_model, load_tokenizer

        own, its = (load_tokenizer(name) for name in (student.name, self.model))
        common = common_tokens(own.get_vocab(), its.get_vocab(), student_name=student.name, teacher_name=self.model)
        compare_templates(own, its, student_name=student.name, teacher_name=self.model)
        model: Any = load_model(self.model, dtype=self.dtype, device="cpu")
        student_rows, teacher_rows = (one.config.get_text_config().vocab_size for one in (student.model, model))
        common = common.within(student_rows=student_rows, teacher_rows=teacher_rows)
        return FrozenModel(model, name=self.model, common=common, longest_row=student.longest_row)


class FrozenModel(RunningTeacher):
    """A model in memory as a teacher: eval mode, no gradient, its own precision whatever autocast the student runs under.

    name: for messages. common: the tokens it shares with the student; None where all are the same. longest_row: columns of the
    longest row that may come.
    """

    def __init__(self, model: Any, *, name: str, common: CommonTokens | None = None, longest_row: int = 0) -> None:
        self.model = model.eval().requires_grad_(False)
        self._name = name
        vocabulary = model.config.get_text_config().vocab_size
        self._common = common or CommonTokens(size=vocabulary, only_student=False, tokens=vocabulary)
        self._longest_row = longest_row
        self._shares_up_to = -1
        config = model.config.get_text_config()
        self.layers, self.width = config.num_hidden_layers, config.hidden_size

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """Its exact distribution at the supervised positions, made when a loss looks at it.

        Raises TeacherError for prefix-shared rows that it would read wrongly, and for tokens that it does not know.
        """
        self.model.to(batch.gather_N.device)
        if self._common.only_student:
            batch = self._of_known_tokens(batch)
        if batch.attention_mask.dim() == 4:
            self._refuse_shared_rows(max(batch.attention_mask.shape[-1], self._longest_row))
        return said_by(self.model, batch, vocabulary=self._common.size, layers=layers)

    def _refuse_shared_rows(self, width: int) -> None:
        import torch

        from distill.rows import prefix_sharing_refusal

        if width <= self._shares_up_to:
            return
        with torch.autocast(self.model.device.type, enabled=False):
            refusal = prefix_sharing_refusal(self.model, longest=width)
        if refusal is not None:
            raise TeacherError(
                f"teacher {self._name!r} would read rows that share a prompt wrongly: {refusal}. Set data.prefix_sharing to "
                f"false, so that each response has a row of its own"
            )
        self._shares_up_to = width

    def _of_known_tokens(self, batch: Batch) -> Batch:
        """The same batch, its padding (which nothing sees) by a token that the teacher has a row for."""
        known = self._common.size
        for ids in (batch.input_ids_BT[batch.real_BT], batch.targets.token_N):
            if ids.numel() and int(ids.max()) >= known:
                raise TeacherError(
                    f"a batch with record {batch.record_ids[0]!r} holds the token {int(ids.max())}, which teacher {self._name!r} "
                    f"does not know (it knows those below {known}): the student's tokenizer has added tokens. Take a teacher "
                    f"that knows them, or leave them out of records and chat template"
                )
        return replace(batch, input_ids_BT=batch.input_ids_BT.where(batch.real_BT, 0))


def said_by(model: PreTrainedModel, batch: Batch, *, vocabulary: int, layers: Sequence[int]) -> TeacherOutput:
    """What a frozen model says about a batch, in the precision of its own weights."""
    import torch

    from distill.head import hidden_signal

    with torch.no_grad(), torch.autocast(batch.gather_N.device.type, enabled=False):
        signal, hidden = hidden_signal(model, batch, vocabulary=vocabulary, layers=layers)
    return TeacherOutput(signal=signal, hidden=hidden)
