"""A teacher as judge: what it is asked, and how strictly its reply is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from jinja2 import Template

from distill.errors import ConfigError, TeacherError
from distill.judges.base import Judge, Verdict
from distill.prompt_file import load_prompt_file, nonce, user_message
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Failed, Generator, Sampling

VERDICTS = {"APPROVED": True, "REJECTED": False}
UNPARSABLE = "unparsable reply"


@dataclass(frozen=True, kw_only=True)
class TeacherJudge(Judge):
    """Asks a teacher whether a response is right; only a reply that is exactly APPROVED or REJECTED counts.

    template: a Jinja file with the variables question, response, reference (a list) and nonce; None is the packaged one. What is
    judged stands between two lines of a nonce that it cannot contain. Any other reply is approved = None, with its words kept as
    evidence; count those with `tally`.

    confidence is the teacher's probability of its reply where it reports one, else 1.
    """

    generator: Generator
    template: Path | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=8))

    def __post_init__(self) -> None:
        """Refuse a sampling with several draws, whose votes nobody would count."""
        if self.sampling.n != 1:
            raise ConfigError(f"TeacherJudge reads one reply for each question; sampling.n is {self.sampling.n}, set it to 1")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Judge one response; `judge_many` is faster for more."""
        return self.judge_many([prompt], [response], [reference])[0]

    def judge_many(
        self, prompts: Sequence[Prompt], responses: Sequence[str], references: Sequence[tuple[str, ...]] = ()
    ) -> list[Verdict]:
        """Judge all responses in one call of the teacher."""
        accepted = references or [()] * len(responses)
        asked = [(self.ask(*one),) for one in zip(prompts, responses, accepted, strict=True)]
        replies = self.generator.generate(asked, self.sampling)
        if len(replies) != len(asked):
            raise TeacherError(f"the teacher gave {len(replies)} replies to {len(asked)} questions")
        return [read_verdict(completions) for completions in replies]

    def ask(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Message:
        """The message that the teacher sees."""
        question = "\n".join(message.content for message in prompt)
        fence = nonce(question, response, *reference)
        values = {"question": question, "response": response, "reference": list(reference), "nonce": fence}
        return user_message(self._template, values)

    @cached_property
    def _template(self) -> Template:
        return load_prompt_file(self.template, package="distill.judges", name="teacher.jinja")


def read_verdict(completions: Sequence[Completion]) -> Verdict:
    """A reply -> a verdict: the exact word, white space aside, or None."""
    if not completions:
        reason = completions.reason if isinstance(completions, Failed) else "no reply"
        return Verdict(approved=None, confidence=0.0, reason=reason, failed=reason)
    reply = completions[0]
    approved = VERDICTS.get(reply.text.strip())
    if approved is None:
        return Verdict(approved=None, confidence=0.0, reason=UNPARSABLE, evidence={"reply": reply.text})
    confidence = 1.0 if reply.log_prob is None else math.exp(min(reply.log_prob, 0.0))
    return Verdict(approved=approved, confidence=confidence, reason=reply.text.strip())
