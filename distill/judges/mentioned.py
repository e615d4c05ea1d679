"""A judge for answers in sentences: whether an accepted answer is mentioned, and not merely denied or offered as a choice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from distill.consensus.abstention import is_abstention
from distill.consensus.normalisation import normalise, short_answer
from distill.judges.accepted import NO_REFERENCE
from distill.judges.base import Judge, Verdict
from distill.records import Prompt

# Beside one of these a mention is no claim: "not Paris", "Paris or Lyon", "isn't".
_DOUBT = re.compile(r"\b(?:not|never|no|or|neither|nor|unlike|except|\w+n['’]t|cannot|לא|או|אינה|אינו)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class MentionedAnswer(Judge):
    """Approves a response that has an accepted answer in it as whole words, rejects one that has none.

    "The capital of France is Paris." is right where "Paris" is accepted; AcceptedAnswer, which compares the whole answer, calls
    it wrong. Abstains where the mention proves nothing: beside "not" or "or", or where the prompt mentions the answer already.

    extract: "short" looks into the first sentence, "whole" into the whole response, where a list of guesses passes as well. Case,
    accents and punctuation do not count (`normalise`).
    """

    extract: Literal["short", "whole"] = "short"

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Look for each accepted answer; evidence holds the one that was found.

        >>> judge = MentionedAnswer()
        >>> [judge.judge((), text, ("Paris",)).approved for text in ("It is Paris.", "It is Parish.", "It is not Paris.")]
        [True, False, None]
        """
        if not reference:
            return Verdict(approved=None, reason=NO_REFERENCE)
        answer = short_answer(response) if self.extract == "short" else response.strip()
        evidence = {"answer": answer}
        if is_abstention(answer):
            return Verdict(approved=False, reason="abstention", evidence=evidence)
        said = normalise(answer)
        if any(normalise(accepted) == said for accepted in reference if said):
            return Verdict(approved=True, reason="is an accepted answer", evidence=evidence)
        found = next((accepted for accepted in reference if _within(accepted, said)), None)
        if found is None:
            return Verdict(approved=False, reason="mentions no accepted answer", evidence=evidence)
        asked = normalise(" ".join(message.content for message in prompt))
        doubt = _DOUBT.search(answer)
        if doubt is not None or _within(found, asked):
            why = f"beside {doubt[0]!r}" if doubt is not None else "that the prompt mentions already"
            return Verdict(approved=None, reason=f"mentions an accepted answer {why}", evidence={**evidence, "mentioned": found})
        return Verdict(approved=True, reason="mentions an accepted answer", evidence={**evidence, "mentioned": found})


def _within(answer: str, text: str) -> bool:
    """Whether an answer stands in a normalised text as whole words."""
    wanted = normalise(answer)
    return bool(wanted) and f" {wanted} " in f" {text} "
