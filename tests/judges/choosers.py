"""Choosers for tests: what they answer is a function of the message they see."""

import math

from distill.teachers.base import Chooser


class Chooses(Chooser):
    """log-probabilities from `says(message) -> (p of the first option, p of the second)`."""

    def __init__(self, says, name="chooses"):
        self.says, self.name, self.seen = says, name, []

    def identity(self):
        return {"chooser": self.name}

    def choose(self, prompts, options):
        self.seen.extend(prompt[-1].content for prompt in prompts)
        found = [self.says(prompt[-1].content) for prompt in prompts]
        return [tuple(math.log(p) if p > 0 else -math.inf for p in row) for row in found]
