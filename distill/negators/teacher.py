"""A teacher as negator, from a few examples; what it writes is checked before it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from jinja2 import Template

from distill.errors import TeacherError
from distill.negators.base import Negation, Negator
from distill.negators.form import MARKERS, as_negation, check_form_settings
from distill.prompt_file import load_prompt_file, user_message
from distill.records import Prompt
from distill.teachers.base import Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class TeacherNegator(Negator):
    """Asks a teacher to negate, and keeps only replies that change a little of the statement.

    template: a Jinja file with the variable statement; None is the packaged one with four examples. Refused: blank, the same as
    the statement after `normalise`, an abstention, more than max_longer words longer, or with more than max_changed of its words
    changed (0 to 1): a rewrite, not a negation; or with as many of the negating words `markers` as before (give () for languages
    or styles without such words). This sees form only; truth is for `check_negation` and a judge.
    """

    generator: Generator
    template: Path | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=64))
    max_longer: int = 4
    max_changed: float = 0.5
    markers: tuple[str, ...] = MARKERS

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        check_form_settings(self.max_longer, self.max_changed)

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """The accepted replies to one statement; `negate_many` is faster for more."""
        return self.negate_many([prompt], [response], seed)[0]

    def negate_many(self, prompts: Sequence[Prompt], responses: Sequence[str], seed: int = 0) -> list[list[Negation]]:
        """The accepted replies to each statement, different ones only, from one call of the teacher."""
        del prompts  # a statement is negated on its own; a template that wants the question would need another negator
        asked = [(user_message(self._template, {"statement": response.strip()}),) for response in responses]
        replies = self.generator.generate(asked, replace(self.sampling, seed=self.sampling.seed + seed))
        if len(replies) != len(asked):
            raise TeacherError(f"the teacher gave {len(replies)} replies to {len(asked)} statements")
        return [
            [
                negation
                for text in dict.fromkeys(_first_line(completion.text) for completion in completions)
                if (negation := self.accepted(response, text)) is not None
            ]
            for response, completions in zip(responses, replies, strict=True)
        ]

    def accepted(self, statement: str, reply: str) -> Negation | None:
        """The reply as a negation of the statement; None where its form is refused."""
        return as_negation(statement, reply, max_longer=self.max_longer, max_changed=self.max_changed, markers=self.markers)

    @cached_property
    def _template(self) -> Template:
        return load_prompt_file(self.template, package="distill.negators", name="teacher.jinja")


def _first_line(reply: str) -> str:
    """The first line with text, without the label that the examples may have taught to repeat, and without quotes."""
    line = next((stripped for raw in reply.splitlines() if (stripped := raw.strip())), "")
    return line.removeprefix("Rewritten:").strip().strip('"“”').strip()
