"""Pair judges: which of two responses is better, asked in both orders, or told from what a judge makes of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from jinja2 import Template

from distill.errors import ConfigError
from distill.judges.base import Judge, PairJudge, Preference
from distill.judges.choice import NO_CHOICE, UNDECIDED, choose, finite, logistic
from distill.prompt_file import load_prompt_file, nonce, user_message
from distill.records import Message, Prompt
from distill.teachers.base import Chooser, NoChoice

CONTRADICTION = "the preference changed with the order"


@dataclass(frozen=True, kw_only=True)
class TeacherPairJudge(PairJudge):
    """Asks a teacher which of two responses is better, in both orders, by the probabilities of the two labels as its reply.

    criterion: the question, such as "Which of the two sounds more professional?". options: the labels of what stands first and
    second; they begin with different tokens. contradiction: where the two orders disagree, "abstain" (preferred None, the
    default), or "average": the mean of the log-odds of both orders, in which a preference for a position cancels, decides.
    margin: abstain where the two probabilities, which sum to 1, differ by less. template: a Jinja file with the variables
    question, first, second, criterion, options and nonce; None is the packaged one.

    What is compared stands between two lines of a nonce that it cannot contain. confidence is the probability of the preferred
    one by the mean log-odds; evidence holds the log-odds (nats, for the first) of each order.

    Source: both orders and no verdict where they disagree, Zheng et al. 2023 (arXiv:2306.05685), section 3.4; they read the
    verdict from the text of the reply.
    """

    generator: Chooser
    criterion: str = "Which of the two is the better answer?"
    options: tuple[str, str] = ("A", "B")
    contradiction: Literal["abstain", "average"] = "abstain"
    margin: float = 0.0
    template: Path | None = None

    def __post_init__(self) -> None:
        """Refuse labels that are one, and a margin that nothing can pass."""
        if len(self.options) != 2 or len({option.strip() for option in self.options} - {""}) != 2:
            raise ConfigError(f"options {self.options}: give two different labels, such as A and B")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin is {self.margin}, expected a difference of probabilities in [0, 1)")

    def compare(self, prompt: Prompt, first: str, second: str) -> Preference:
        """Compare two responses; `compare_many` is faster for more."""
        return self.compare_many([prompt], [first], [second])[0]

    def compare_many(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Compare all pairs in one call of the teacher, each in both orders."""
        pairs = list(zip(prompts, firsts, seconds, strict=True))
        asked = [(self.ask(prompt, *texts),) for prompt, *pair in pairs for texts in (pair, pair[::-1])]
        if not asked:
            return []
        chosen = choose(self.generator, asked, self.options)
        return [self._both(forward, back) for forward, back in zip(chosen[::2], chosen[1::2], strict=True)]

    def ask(self, prompt: Prompt, first: str, second: str) -> Message:
        """The message that the teacher sees in one of the orders."""
        question = "\n".join(message.content for message in prompt)
        values = {
            "question": question,
            "first": first,
            "second": second,
            "criterion": self.criterion,
            "options": list(self.options),
            "nonce": nonce(question, first, second),
        }
        return user_message(self._template, values)

    @cached_property
    def _template(self) -> Template:
        return load_prompt_file(self.template, package="distill.judges", name="pair.jinja")

    def _both(self, forward: tuple[float, ...], back: tuple[float, ...]) -> Preference:
        for one in (forward, back):
            if isinstance(one, NoChoice):
                return Preference(preferred=None, confidence=0.0, reason=one.reason, failed=one.reason)
        reverse = _log_odds(*back)
        return self._preference(_log_odds(*forward), None if reverse is None else -reverse)

    def _preference(self, forward: float | None, back: float | None) -> Preference:
        """From the log-odds of the first response in both orders."""
        if forward is None or back is None:
            return Preference(preferred=None, confidence=0.0, reason=NO_CHOICE)
        evidence = {"log_odds": [finite(forward), finite(back)]}
        mean = (forward + back) / 2
        if forward * back < 0 and (self.contradiction == "abstain" or math.isnan(mean)):
            return Preference(preferred=None, confidence=0.5, reason=CONTRADICTION, evidence=evidence)
        probability = logistic(abs(mean))
        if mean == 0.0 or 2 * probability - 1 < self.margin:
            return Preference(preferred=None, confidence=probability, reason=UNDECIDED, evidence=evidence)
        preferred: Literal["first", "second"] = "first" if mean > 0 else "second"
        return Preference(preferred=preferred, confidence=probability, reason=self.criterion, evidence=evidence)


@dataclass(frozen=True, kw_only=True)
class JudgePair(PairJudge):
    """Prefers what a judge approves to what it rejects; abstains where it approves both, rejects both or abstains on either.

    confidence is the smaller one of the two verdicts.
    """

    judge: Judge

    def compare(self, prompt: Prompt, first: str, second: str) -> Preference:
        """Compare two responses.

        >>> from distill.judges.table import TruthTable
        >>> JudgePair(judge=TruthTable(truth={"Up.": True, "Down.": False})).compare((), "Down.", "Up.").preferred
        'second'
        """
        return self.compare_many([prompt], [first], [second])[0]

    def compare_many(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[Preference]:
        """Compare all pairs in one call of the judge."""
        verdicts = self.judge.judge_many([*prompts, *prompts], [*firsts, *seconds])
        found = []
        for one, other in zip(verdicts[: len(prompts)], verdicts[len(prompts) :], strict=True):
            evidence = {"first": one.approved, "second": other.approved}
            if one.approved is None or other.approved is None:
                reason = f"the judge abstained: {one.reason if one.approved is None else other.reason}"
                failed = one.failed or other.failed
                found.append(Preference(preferred=None, confidence=0.0, reason=reason, evidence=evidence, failed=failed))
            elif one.approved == other.approved:
                reason = "both are approved" if one.approved else "both are rejected"
                found.append(Preference(preferred=None, reason=reason, evidence=evidence))
            else:
                preferred: Literal["first", "second"] = "first" if one.approved else "second"
                reason = one.reason if one.approved else other.reason
                confidence = min(one.confidence, other.confidence)
                found.append(Preference(preferred=preferred, confidence=confidence, reason=reason, evidence=evidence))
        return found


def _log_odds(first: float, second: float) -> float | None:
    """Nats; None where the teacher reports neither option."""
    return None if first == second == -math.inf else first - second
