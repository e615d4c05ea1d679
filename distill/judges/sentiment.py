"""The sentiment judge: whether a response speaks well or ill, and of the right thing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from distill.consensus.embedding import EmbeddingMatch
from distill.consensus.normalisation import normalise
from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.records import Prompt

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

Sentiment = Literal["positive", "negative", "neutral"]
OFF_TOPIC = "off topic"
NO_TEXT = "no text"
UNDECIDED = "too close to the threshold"


@dataclass(frozen=True, kw_only=True)
class SentimentJudge(Judge):
    """Approves responses of the wanted sentiment, by VADER's rules and lexicon (English), and only those on the topic.

    threshold: a compound score (-1 to 1) from which on a text is positive, and below whose negative it is negative; its authors'
    is 0.05. margin: abstain where the compound score is nearer than this to the threshold that decides. topic: words or
    phrases, of which one must be in the response (whole words; case and accents do not count): "I'm so sorry, I love to help"
    is positive about nothing. about: a text that the response's embedding must have a cosine similarity of at least
    `about_similarity` with, for topics without fixed words (extra `embeddings`). off_topic: what becomes of the others,
    "reject" or "abstain".

    Needs vaderSentiment (extra `judges`): its authors' own, with the lexicon inside; NLTK's copy downloads it at run time.
    confidence: how far the score is on the verdict's side, 0.5 to 1 for wanted positive or negative.

    Source: Hutto and Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text".
    """

    wanted: Sentiment = "positive"
    threshold: float = 0.05
    margin: float = 0.0
    topic: tuple[str, ...] = ()
    about: str = ""
    about_similarity: float = 0.3
    off_topic: Literal["reject", "abstain"] = "reject"

    def __post_init__(self) -> None:
        """Refuse a threshold that no compound score passes, and topic words without any letter."""
        if not 0 <= self.threshold < 1 or not 0 <= self.margin < 1:
            raise ConfigError(f"threshold {self.threshold} and margin {self.margin}: expected compound scores in [0, 1)")
        if not all(normalise(word) for word in self.topic):
            raise ConfigError(f"topic {list(self.topic)}: expected words or phrases, none of them empty")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Judge one response by itself; prompt and reference are not read.

        >>> judge = SentimentJudge(topic=("broccoli",))
        >>> judge.judge((), "Broccoli is great!").approved, judge.judge((), "I'm so sorry, I love to help!").approved
        (True, False)
        """
        if not response.strip():
            return Verdict(approved=None, confidence=0.0, reason=NO_TEXT)
        off = self._off_topic(response)
        if off is not None:
            return Verdict(approved=False if self.off_topic == "reject" else None, reason=OFF_TOPIC, evidence=off)
        compound = sentiment_compound(response)
        evidence = {"compound": compound}
        # Distance to the threshold that decides, positive on the wanted side.
        distances = {"positive": compound - self.threshold, "negative": -compound - self.threshold}
        distances["neutral"] = -max(distances.values())
        distance = distances[self.wanted]
        if abs(distance) < self.margin:
            return Verdict(approved=None, confidence=0.5, reason=UNDECIDED, evidence=evidence)
        # The threshold itself is positive (or negative), never neutral: its authors' convention.
        approved = distance > 0 or (distance == 0 and self.wanted != "neutral")
        found = next(name for name in ("positive", "negative", "neutral") if distances[name] >= 0)
        confidence = min(1.0, 0.5 + abs(distance) / 2)
        return Verdict(approved=approved, confidence=confidence, reason=found, evidence=evidence)

    def _off_topic(self, response: str) -> dict[str, object] | None:
        """Why the response is off topic; None where it is on topic."""
        said = f" {normalise(response)} "
        if self.topic and not any(f" {normalise(word)} " in said for word in self.topic):
            return {"topic": list(self.topic)}
        if self.about:
            # A new one each time: it remembers all texts that it has seen.
            similarity = round(EmbeddingMatch().similarity(self.about, response), 4)
            if similarity < self.about_similarity:
                return {"about": self.about, "similarity": similarity}
        return None


def sentiment_compound(text: str) -> float:
    """VADER's compound score: the sum of the words' valences, squeezed to -1 (most negative) to 1 (most positive)."""
    return float(_analyser().polarity_scores(text)["compound"])


@lru_cache(maxsize=1)
def _analyser() -> SentimentIntensityAnalyzer:
    if find_spec("vaderSentiment") is None:
        raise ConfigError("SentimentJudge needs vaderSentiment; install it with: pip install 'distill[judges]'")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
