"""A generator that knows what it is told: for tests of recipes and of their command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling

# question -> its ten samples; "..." at the end marks a completion that was cut
KNOWN = {
    "known": [" Paris."] * 6 + [" Paris"] * 2 + [" Lyon", " Nice"],
    "unknown": [" Oslo", " Rome", " I don't know.", " Rome", " Bern", " ", " Kyiv", " Riga", " I don't know.", " Bonn"],
    "unsure": [" A"] * 4 + [" B", " C", " D", " E", " F", " G"],
    "cut": [" Paris. It lies on the..."] * 7 + [" Paris."] * 3,
    "refuses": [" I don't know."] * 10,
}


@dataclass(frozen=True, kw_only=True)
class Parrot(Generator):
    """Repeats KNOWN by the last message; `log` is a file that gets one line for each prompt asked."""

    name: str = "parrot"
    log: Path | None = None
    interrupt_at: str = ""
    calls: list[int] = field(default_factory=list, compare=False)

    def identity(self) -> Mapping[str, str]:
        return {"model": self.name}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.calls.append(sampling.n)
        out = []
        for prompt in prompts:
            question = prompt[0].content
            if question == self.interrupt_at:
                raise KeyboardInterrupt
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(question + "\n")
            texts = KNOWN.get(question, [])[sampling.skip : sampling.skip + sampling.n]
            out.append(
                [
                    Completion(text=text, tokens=2, finish="length" if text.endswith("...") else "stop", log_prob=-1.0)
                    for text in texts
                ]
            )
        return out
