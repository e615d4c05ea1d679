"""Whether two models mean the same by their tokens: which ids may be compared one by one, and whose template was rendered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distill.errors import RenderError, TeacherError
from distill.records import Message, Prompt
from distill.template import end_of_turn, prompt_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_PROBES: tuple[Prompt, ...] = (
    (Message(role="user", content="What is the capital of France?"),),
    (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Hello, how are you?"),
        Message(role="user", content="What is the capital of France?"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class CommonTokens:
    """What two models may be compared on. size: every id below it means the same to both, or nothing to either.

    only_student: whether the student knows tokens from `size` on, which the teacher has never seen. tokens: how many the
    student's tokenizer has.
    """

    size: int
    only_student: bool
    tokens: int

    def within(self, *, student_rows: int, teacher_rows: int) -> CommonTokens:
        """The same, cut to the logits that both models have; said in the log where those are more than the common tokens.

        rows: a model's logits, often more than its tokenizer has tokens, for the sake of a round number.
        """
        size = min(self.size, student_rows, teacher_rows)
        if not size == student_rows == teacher_rows:
            log.info(
                "teacher has %d rows, student %d, the tokenizer %d tokens: compared over the first %d",
                teacher_rows,
                student_rows,
                self.tokens,
                size,
            )
        return replace(self, size=size, only_student=self.only_student or size < self.size)


def common_tokens(
    student: Mapping[str, int], teacher: Mapping[str, int], *, student_name: str, teacher_name: str
) -> CommonTokens:
    """The ids that two tokenizers mean the same by, of the ids of all their tokens, added ones included.

    One may have more tokens than the other after all common ones (an added padding token). Raises TeacherError, naming the first
    id that they disagree on, for any other difference.

    >>> ids = {"a": 0, "b": 1, "<end>": 2}
    >>> common_tokens(ids, ids | {"<pad>": 3}, student_name="s", teacher_name="t")
    CommonTokens(size=3, only_student=False, tokens=3)
    >>> common_tokens(ids, {"a": 0, "b": 2, "<end>": 1}, student_name="s", teacher_name="t")
    Traceback (most recent call last):
    distill.errors.TeacherError: teacher 't' and student 's' have different vocabularies: 2 ids differ, ...
    """
    same = {id for token, id in student.items() if teacher.get(token) == id}
    size = max(same, default=-1) + 1
    own, its = ({id: token for token, id in ids.items()} for ids in (student, teacher))
    # Past the common tokens each may have its own, but neither the same id for two tokens nor the same token under two ids.
    moved = {min(student[token], teacher[token]) for token in student.keys() & teacher.keys() if student[token] != teacher[token]}
    differs = {id for id in (own.keys() | its.keys()) - same if id < size or (id in own and id in its)} | moved
    if differs:
        first = min(differs)
        raise TeacherError(
            f"teacher {teacher_name!r} and student {student_name!r} have different vocabularies: {len(differs)} ids differ, the "
            f"first is {first}, which is {_quoted(its.get(first))} to the teacher and {_quoted(own.get(first))} to the student. "
            f"Their distributions cannot be compared token by token: take a teacher with the student's tokenizer, or an "
            f"objective for another tokenizer (SpanAlignedKL, UniversalLogit)"
        )
    return CommonTokens(size=size, only_student=any(id >= size for id in own), tokens=len(own))


def _quoted(token: str | None) -> str:
    return "no token" if token is None else repr(token)


def compare_templates(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, student_name: str, teacher_name: str
) -> None:
    """Warn where the teacher's own chat template writes a conversation otherwise than the student's, which it will read."""
    if _rendered(student) != _rendered(teacher):
        log.warning(
            "teacher %r reads conversations as student %r renders them, and its own chat template writes them differently: it "
            "may be less sure than in its own form. Give the student's tokenizer the teacher's template if it has no use for its "
            "own",
            teacher_name,
            student_name,
        )


def _rendered(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    found: list[object] = [end_of_turn(tokenizer).ids]
    for messages in _PROBES:
        try:
            found.append(prompt_tokens(messages, tokenizer))
        except RenderError:
            found.append(None)
    return found
