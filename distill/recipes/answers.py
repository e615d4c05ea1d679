"""What a teacher, and a student where one is given, answer to the same questions, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from distill.recipes.asking import Answered, Ask, generate
from distill.recipes.questions import Question
from distill.teachers.base import Completion, Generator, Sampling

if TYPE_CHECKING:
    from distill.recipes.run import Run

Said = Iterator[tuple[Question, dict[str, tuple[Completion, ...]]]]


def answers(
    run: Run,
    questions: Iterable[Question],
    teacher: Generator,
    student: Generator | None,
    sampling: Sampling,
    *,
    batch_size: int,
    total: int,
) -> Said:
    """Each question with its completions by who gave them (`teacher`, `student`), in the stages answer and answer_student."""
    asks = (Ask(question.id, question.prompt, question) for question in questions)
    answered = generate(run, "answer", asks, teacher, sampling, batch_size=batch_size, total=total)
    if student is None:
        return ((one.carried, {"teacher": one.completions}) for one in answered)
    both = (Ask(one.id, one.prompt, (one.carried, one.completions)) for one in answered)
    again: Iterator[Answered] = generate(run, "answer_student", both, student, sampling, batch_size=batch_size)
    return ((one.carried[0], {"teacher": one.carried[1], "student": one.completions}) for one in again)
