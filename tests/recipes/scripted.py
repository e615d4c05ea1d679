"""A generator that answers by a function of the prompt: for tests of recipes whose prompts have a context."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class Scripted(Generator):
    """`say(prompt)` gives the completions, the first n of which come; one that ends with "..." was cut off, without the dots."""

    say: Callable[[Prompt], list[str]]
    name: str = "scripted"
    asked: list[Prompt] = field(default_factory=list, compare=False)

    def identity(self) -> Mapping[str, str]:
        return {"model": self.name}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.asked.extend(prompts)
        return [[_completion(text) for text in self.say(prompt)[: sampling.n]] for prompt in prompts]


def _completion(text: str) -> Completion:
    cut = text.endswith("...")
    return Completion(text=text.removesuffix("..."), tokens=len(text.split()), finish="length" if cut else "stop")
