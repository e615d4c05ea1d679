"""The most tempting wrong answer: what a model itself says to the question, where that is not the right answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from distill.consensus.abstention import is_abstention
from distill.consensus.base import Equivalence
from distill.consensus.clustering import clusters
from distill.consensus.equivalence import NormalisedMatch
from distill.consensus.normalisation import normalise, short_answer
from distill.errors import ConfigError, TeacherError
from distill.judges.accepted import AcceptedAnswer
from distill.judges.base import Judge
from distill.negators.base import Negation, Negator
from distill.negators.changes import changed_spans
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class DistractorNegator(Negator):
    """Asks a model the question and keeps its wrong answers, the most probable first.

    generator: whose temptations they are; best the student's own. sampling: n draws at temperature 1 are counted; temperature 0
    with one draw keeps the greedy answer alone. equivalence: which answers are one. judge: told the response as the accepted
    answer, it must reject an answer for it to count as wrong; one it abstains on is left out. An answer that holds all that the
    response adds to the question is never wrong, whatever the judge says ("It is Paris, in France." for "Paris"), nor is an
    abstention or an answer that was cut off.

    order: by how often an answer was drawn, or by its log-probability, each breaking ties of the other. extract: "short" keeps an
    answer's first sentence. count: variants. batch_size: questions in one call. [] without a question: a statement alone has no
    wrong answers.
    """

    generator: Generator
    sampling: Sampling = field(default_factory=lambda: Sampling(n=10, max_tokens=32))
    equivalence: Equivalence = field(default_factory=NormalisedMatch)
    judge: Judge = field(default_factory=AcceptedAnswer)
    order: Literal["frequency", "log_prob"] = "frequency"
    extract: Literal["short", "whole"] = "short"
    count: int = 1
    batch_size: int = field(default=16, compare=False)

    def __post_init__(self) -> None:
        """Refuse what could give nothing."""
        if self.count < 1 or self.sampling.n < 1:
            raise ConfigError(f"count {self.count} and sampling.n {self.sampling.n} must be at least 1")

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """The wrong answers to one question; `negate_many` is faster for more."""
        return self.negate_many([prompt], [response], seed)[0]

    def negate_many(self, prompts: Sequence[Prompt], responses: Sequence[str], seed: int = 0) -> list[list[Negation]]:
        """Up to `count` wrong answers to each question; the span of each is what it says otherwise than the response."""
        sampling = replace(self.sampling, seed=self.sampling.seed + seed)
        asked = [index for index, prompt in enumerate(prompts) if prompt and responses[index].strip()]
        found: list[list[Negation]] = [[] for _ in responses]
        for at in range(0, len(asked), self.batch_size):
            batch = asked[at : at + self.batch_size]
            drawn = self.generator.generate([prompts[index] for index in batch], sampling)
            if len(drawn) != len(batch):
                raise TeacherError(f"the teacher answered {len(drawn)} of {len(batch)} questions")
            for index, completions in zip(batch, drawn, strict=True):
                found[index] = self._wrong(prompts[index], responses[index], completions)
        return found

    def _wrong(self, prompt: Prompt, response: str, completions: Sequence[Completion]) -> list[Negation]:
        body = response.strip()
        lead = response[: len(response) - len(response.lstrip())]
        texts = [(self._text(one), one) for one in completions]
        whole = [(text, one) for text, one in texts if text and (one.finish == "stop" or _goes_on(one.text, text))]
        answers = [(text, one) for text, one in whole if not is_abstention(text) and not _holds_answer(prompt, body, text)]
        ranked = []
        for cluster in clusters([text for text, _ in answers], self.equivalence):
            scores = [score for index in cluster.members if (score := answers[index][1].log_prob) is not None]
            keys = (float(len(cluster.members)), max(scores, default=float("-inf")))
            ranked.append((keys if self.order == "frequency" else keys[::-1], cluster.answer))
        ranked.sort(key=lambda one: one[0], reverse=True)  # stable: equals stay in the order they were drawn
        found = []
        for _, answer in ranked:
            if self.judge.judge(prompt, answer, (body,)).approved is False:
                # Ends as the response does, or how it ends would tell right from wrong.
                text = lead + (answer + "." if body.endswith(".") and not answer.endswith((".", "!", "?")) else answer)
                found.append(Negation(text=text, spans=changed_spans(response, text)))
            if len(found) == self.count:
                break
        return found

    def _text(self, completion: Completion) -> str:
        return short_answer(completion.text) if self.extract == "short" else completion.text.strip()


def _goes_on(text: str, sentence: str) -> bool:
    """Whether a first sentence is known to be whole, though the text was cut off: it ends, and another one begins."""
    rest = text.strip().partition(sentence)[2]
    return re.match(r"[\"'”’)*_]*(?:[.!?]\s|\s*\n)\W*\w", rest) is not None


def _holds_answer(prompt: Prompt, response: str, text: str) -> bool:
    """Whether the text has every word that the response adds to the question (or, where it adds none, all its words)."""
    asked = set(normalise("\n".join(message.content for message in prompt)).split())
    said = normalise(response).split()
    new = set(said) - asked or set(said)
    return new <= set(normalise(text).split())
