"""A teacher as judge by constrained choice: how probable "Yes" and "No" are as its reply, so that nothing has to be parsed."""

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
from distill.teachers.base import Chooser, NoChoice

CONTENT_FREE = "N/A"
NO_CHOICE = "neither option is among the probable replies"
UNDECIDED = "too close to call"


@dataclass(frozen=True, kw_only=True)
class ChoiceJudge(Judge):
    """Asks a teacher a yes-or-no question about a response and compares the probabilities of the two replies.

    criterion: the question, such as "Is the answer polite?"; "" asks whether the answer is correct, or says the same as an
    accepted answer where some are given. options: the reply that approves and the one that rejects; they begin with different
    tokens. calibrated: subtract what the teacher replies where question, answer and accepted answers are "N/A", so that a
    teacher that says Yes to everything does not. margin: abstain where the probabilities of the two, which sum to 1, differ by
    less. least_mass: abstain where the teacher's probability of the two together, before that, is smaller: it wanted to say
    something else. template: a Jinja file with the variables question, response, reference (a list), criterion, options and
    nonce; None is the packaged one.

    What is judged stands between two lines of a nonce that it cannot contain. confidence is the probability of the option
    chosen; evidence holds the log-probabilities (nats; null for one that a server does not report).

    Source: calibration by a content-free input, Zhao et al. 2021 (arXiv:2102.09690), equation 1 with a diagonal matrix; they
    average three such inputs ("N/A", "[MASK]", ""), here it is the first alone.
    """

    generator: Chooser
    criterion: str = ""
    options: tuple[str, str] = ("Yes", "No")
    calibrated: bool = True
    margin: float = 0.0
    least_mass: float = 0.0
    template: Path | None = None
    _priors: dict[bool, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse settings under which every response is approved, or none is judged."""
        if len(self.options) != 2 or len({option.strip() for option in self.options} - {""}) != 2:
            raise ConfigError(f"options {self.options}: give two different ones, first the one that approves, such as Yes and No")
        for name, value in (("margin", self.margin), ("least_mass", self.least_mass)):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}, expected a probability in [0, 1); at 1 nothing is ever judged")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Judge one response; `judge_many` is faster for more."""
        return self.judge_many([prompt], [response], [reference])[0]

    def judge_many(
        self, prompts: Sequence[Prompt], responses: Sequence[str], references: Sequence[tuple[str, ...]] = ()
    ) -> list[Verdict]:
        """Judge all responses in one call of the teacher, after one call for the content-free inputs."""
        accepted = references or [()] * len(responses)
        asked = [(self.ask(*one),) for one in zip(prompts, responses, accepted, strict=True)]
        if not asked:
            return []
        chosen = choose(self.generator, asked, self.options)
        return [self._verdict(one, self._prior(bool(given))) for one, given in zip(chosen, accepted, strict=True)]

    def ask(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Message:
        """The message that the teacher sees."""
        question = "\n".join(message.content for message in prompt)
        values = {
            "question": question,
            "response": response,
            "reference": list(reference),
            "criterion": self.criterion,
            "options": list(self.options),
            "nonce": nonce(question, response, *reference),
        }
        return user_message(self._template, values)

    @cached_property
    def _template(self) -> Template:
        return load_prompt_file(self.template, package="distill.judges", name="choice.jinja")

    def _prior(self, with_reference: bool) -> tuple[float, ...]:
        """What the teacher replies to nothing, in nats; zeros where it is not to be subtracted."""
        if not self.calibrated:
            return (0.0, 0.0)
        if with_reference not in self._priors:
            blank = (Message(role="user", content=CONTENT_FREE),)
            asked = (self.ask(blank, CONTENT_FREE, (CONTENT_FREE,) if with_reference else ()),)
            prior = choose(self.generator, [asked], self.options)[0]
            if not all(map(math.isfinite, prior)):
                raise TeacherError(
                    f"the teacher reports no probability of {self.options} for a content-free input; ask for more of its most "
                    "probable tokens, or set calibrated to false"
                )
            self._priors[with_reference] = prior
        return self._priors[with_reference]

    def _verdict(self, log_probs: tuple[float, ...], prior: tuple[float, ...]) -> Verdict:
        if isinstance(log_probs, NoChoice):
            return Verdict(approved=None, confidence=0.0, reason=log_probs.reason, failed=log_probs.reason)
        evidence = {"log_probs": dict(zip(self.options, map(finite, log_probs), strict=True))}
        if self.calibrated:
            evidence["prior"] = dict(zip(self.options, prior, strict=True))
        mass = sum(map(math.exp, log_probs))
        if mass == 0.0 or mass < self.least_mass:
            return Verdict(approved=None, confidence=0.0, reason=NO_CHOICE, evidence=evidence)
        probability = logistic((log_probs[0] - prior[0]) - (log_probs[1] - prior[1]))
        approved = probability >= 0.5
        confidence = max(probability, 1 - probability)
        if probability == 0.5 or 2 * confidence - 1 < self.margin:
            return Verdict(approved=None, confidence=confidence, reason=UNDECIDED, evidence=evidence)
        return Verdict(approved=approved, confidence=confidence, reason=self.options[not approved], evidence=evidence)


def choose(teacher: Chooser, prompts: Sequence[Prompt], options: Sequence[str]) -> list[tuple[float, ...]]:
    """The teacher's log-probabilities, checked to be one row for each prompt and one number for each option."""
    found = teacher.choose(prompts, options)
    if len(found) != len(prompts) or any(len(row) != len(options) for row in found):
        raise TeacherError(f"the teacher chose {len(found)} times between {options} for {len(prompts)} questions")
    return found


def logistic(log_odds: float) -> float:
    """1 / (1 + exp(-x)), without overflow.

    >>> logistic(0.0), logistic(-math.inf), logistic(800.0)
    (0.5, 0.0, 1.0)
    """
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def finite(log_prob: float) -> float | None:
    """JSON has no infinities: an option that is not reported is None."""
    return log_prob if math.isfinite(log_prob) else None
