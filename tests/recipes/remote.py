"""A teacher as if behind a server: asked from several threads, priced, counting, and in need of a key."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distill.errors import TeacherError
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Price, Sampling, Usage


@dataclass(frozen=True, kw_only=True)
class Remote(Generator):
    """Answers with the prompt backwards; each costs a hundred tokens in and ten out. `refuses` is a prompt that it fails at."""

    model: str = "remote"
    price: Price | None = Price(input=100.0, output=1000.0)  # so an answer costs 0.02
    concurrent: bool = True
    delay: float = 0.0
    refuses: str = ""
    api_key_env: str = ""
    asked: list[str] = field(default_factory=list, compare=False)
    most_at_once: list[int] = field(default_factory=lambda: [0, 0], compare=False)  # now, ever

    def identity(self) -> Mapping[str, str]:
        return {"model": self.model}

    def usage(self) -> Usage:
        done = len(self.asked)
        cost = self.price.of(100 * done, 10 * done) if self.price is not None else 0.0
        return Usage(requests=done, prompt_tokens=100 * done, completion_tokens=10 * done, cost=cost)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise TeacherError(f"no key in {self.api_key_env}")
        with LOCK:
            self.most_at_once[0] += 1
            self.most_at_once[1] = max(self.most_at_once)
        try:
            time.sleep(self.delay)
            texts = [prompt[0].content for prompt in prompts]
            with LOCK:
                self.asked.extend(texts)
            if self.refuses in texts and self.refuses:
                raise TeacherError(f"no answer to {self.refuses}")
            shared = ",".join(texts)  # what a batch holds shows in its results, as in bfloat16
            return [
                [Completion(text=f"{text[::-1]} ({shared})", tokens=10, finish="stop")] * sampling.n if text != "mute" else []
                for text in texts
            ]
        finally:
            with LOCK:
                self.most_at_once[0] -= 1


LOCK = threading.Lock()
