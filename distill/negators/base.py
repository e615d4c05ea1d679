"""What a negator is: a true-looking response in, responses with the opposite or a wrong content out, with the changed span."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from distill.records import Prompt, Span


@dataclass(frozen=True, kw_only=True)
class Negation:
    """A changed response; spans mark what was changed, in the new text's code points."""

    text: str
    spans: tuple[Span, ...]


class Negator(ABC):
    """Turns a response into its negation or a wrong variant; an empty list means that it cannot: its caller's to count."""

    @abstractmethod
    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """Zero or more changed responses, best first; the same seed gives the same list."""

    def negate_many(self, prompts: Sequence[Prompt], responses: Sequence[str], seed: int = 0) -> list[list[Negation]]:
        """What `negate` gives for each response, in order. One by one, unless a negator batches."""
        return [self.negate(prompt, response, seed) for prompt, response in zip(prompts, responses, strict=True)]
