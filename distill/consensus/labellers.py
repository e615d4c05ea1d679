"""When a question counts as answerable for the model that was sampled: by its samples' agreement, or by one log-probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from distill.consensus.abstention import is_abstention
from distill.consensus.base import Answerability, Cluster, Equivalence, Label, Labeller
from distill.consensus.clustering import clusters
from distill.consensus.equivalence import NormalisedMatch
from distill.consensus.normalisation import normalise, short_answer
from distill.consensus.posterior import beta_cdf, beta_quantile
from distill.errors import ConfigError, TeacherError
from distill.records import Prompt
from distill.teachers.base import Completion


def penalty(threshold: float) -> float:
    """What a wrong answer costs, in right answers, for a model that should abstain below `threshold`: t / (1 - t).

    Right 1, abstention 0, wrong -penalty: answering has the expected value p - (1 - p) t / (1 - t), which is above 0 exactly
    where p > t. So the labeller's threshold and the evaluation's penalty are one parameter.

    >>> penalty(0.5), round(penalty(0.75), 9)
    (1.0, 3.0)
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold {threshold} must be in [0, 1): at 1 a wrong answer costs infinitely much")
    return threshold / (1 - threshold)


def threshold_of(penalty: float) -> float:
    """The threshold below which to abstain where a wrong answer costs `penalty` right ones; the inverse of `penalty`.

    >>> threshold_of(3.0)
    0.75
    """
    if not 0 <= penalty < math.inf:
        raise ConfigError(f"penalty {penalty} must be finite and at least 0")
    return penalty / (1 + penalty)


@dataclass(frozen=True, kw_only=True)
class ConsensusLabeller(Labeller):
    """Labels by a posterior over p, the chance that the model gives its majority answer: p ~ Beta(a + k, b + n - k).

    k of n samples are in the largest answering cluster. Answerable where P(p > threshold) >= credible, unanswerable where
    P(p < threshold - band) >= credible, uncertain (train on neither) between. `low` and `high` are the quantiles 1 - credible
    and credible, so the rule reads: low > threshold, high < threshold - band. credible = .5 decides by the posterior median.

    equivalence: which answers are the same. threshold, band: chances in [0, 1]; see `penalty`. credible: in [.5, 1).
    prior: (a, b), both above 0. extract: "short" compares first sentences (`short_answer`), "whole" whole completions.

    Samples that abstain ("I don't know") or are blank count in n but never as an answer; their cluster comes last. The
    majority is chosen after the draw, so p is a little optimistic for a model that spreads over many answers.
    """

    equivalence: Equivalence = field(default_factory=NormalisedMatch)
    threshold: float = 0.4
    band: float = 0.2
    credible: float = 0.5
    prior: tuple[float, float] = (1.0, 1.0)
    extract: Literal["short", "whole"] = "short"

    def __post_init__(self) -> None:
        """Refuse settings under which no rule or no posterior exists."""
        if not 0 <= self.threshold - self.band <= self.threshold <= 1:
            raise ConfigError(
                f"threshold {self.threshold} and band {self.band} must give 0 <= threshold - band and threshold <= 1"
            )
        if not 0.5 <= self.credible < 1:
            raise ConfigError(f"credible {self.credible} must be in [0.5, 1): below one half a question could carry both labels")
        if len(self.prior) != 2 or not min(self.prior) > 0:
            raise ConfigError(f"prior {self.prior} must be two numbers above 0; (1, 1) is uniform, (0.5, 0.5) is Jeffreys'")

    def label(self, prompt: Prompt, samples: Sequence[Completion]) -> Answerability:
        """Cluster the samples and decide; needs at least one sample."""
        if not samples:
            raise TeacherError(f"no samples to label {_name(prompt)!r} from; draw at least one")
        texts = [answer_text(sample.text, self.extract) for sample in samples]
        found = answer_clusters(texts, self.equivalence)
        count = majority(found, texts)
        low, high = self.interval(count, len(samples))
        return Answerability(
            label=self.decide(count, len(samples)),
            answer=found[0].answer if count else None,
            confidence=count / len(samples),
            agreement=count / len(samples),
            low=low,
            high=high,
            clusters=found,
            samples=tuple(sample.text for sample in samples),
        )

    def decide(self, count: int, samples: int) -> Label:
        """The label where `count` of `samples` agree. Monotone in `count`.

        >>> [ConsensusLabeller().decide(count, 10) for count in (0, 2, 5)]
        ['unanswerable', 'uncertain', 'answerable']
        """
        if count == 0:
            return "unanswerable"  # nothing was ever answered, whatever the prior says
        a, b = self._posterior(count, samples)
        # Through the other tail, so that a sum of roundings cannot give both labels at credible = .5.
        if beta_cdf(self.threshold, a, b) <= 1 - self.credible:
            return "answerable"
        if beta_cdf(self.threshold - self.band, a, b) >= self.credible:
            return "unanswerable"
        return "uncertain"

    def interval(self, count: int, samples: int) -> tuple[float, float]:
        """The posterior's quantiles 1 - credible and credible: (low, high)."""
        a, b = self._posterior(count, samples)
        return beta_quantile(1 - self.credible, a, b), beta_quantile(self.credible, a, b)

    def _posterior(self, count: int, samples: int) -> tuple[float, float]:
        if not 0 <= count <= samples:
            raise ConfigError(f"{count} of {samples} samples cannot agree")
        return self.prior[0] + count, self.prior[1] + samples - count


@dataclass(frozen=True, kw_only=True)
class LogProbLabeller(Labeller):
    """The free baseline: labels by the probability of the greedy answer, exp(log_prob), from one completion.

    Of the samples given, the first with a log-probability decides: pass the greedy one (temperature 0) alone or first.
    Answerable above `threshold`, unanswerable below threshold - band. per_token: the geometric mean over tokens instead of the
    whole sequence. agreement is the share of samples that say the same; low and high are both the confidence.
    """

    threshold: float = 0.4
    band: float = 0.2
    per_token: bool = False
    equivalence: Equivalence = field(default_factory=NormalisedMatch)
    extract: Literal["short", "whole"] = "short"

    def __post_init__(self) -> None:
        """Refuse a threshold or band outside the probabilities."""
        if not 0 <= self.threshold - self.band <= self.threshold <= 1:
            raise ConfigError(
                f"threshold {self.threshold} and band {self.band} must give 0 <= threshold - band and threshold <= 1"
            )

    def label(self, prompt: Prompt, samples: Sequence[Completion]) -> Answerability:
        """Label from the first completion with a log-probability; an abstaining or blank one is unanswerable."""
        index, log_prob = next(((i, drawn.log_prob) for i, drawn in enumerate(samples) if drawn.log_prob is not None), (0, None))
        if log_prob is None:
            raise TeacherError(
                f"none of {len(samples)} samples of {_name(prompt)!r} has a log-probability; "
                "use a teacher that reports it, or ConsensusLabeller"
            )
        texts = [answer_text(sample.text, self.extract) for sample in samples]
        found = answer_clusters(texts, self.equivalence)
        own = next(cluster for cluster in found if index in cluster.members)
        answers = not no_answer(texts[index])
        tokens = max(samples[index].tokens, 1) if self.per_token else 1
        confidence = math.exp(min(log_prob / tokens, 0.0)) if answers else 0.0
        label: Label = "uncertain"
        if answers and confidence > self.threshold:
            label = "answerable"
        elif not answers or confidence < self.threshold - self.band:
            label = "unanswerable"
        return Answerability(
            label=label,
            answer=texts[index] if answers else None,
            confidence=confidence,
            agreement=len(own.members) / len(samples) if answers else 0.0,
            low=confidence,
            high=confidence,
            clusters=(own, *(cluster for cluster in found if cluster is not own)),
            samples=tuple(sample.text for sample in samples),
        )


def answer_clusters(texts: Sequence[str], equivalence: Equivalence) -> tuple[Cluster, ...]:
    """Clusters of the answers, then one cluster of all that answer nothing; members index `texts`."""
    answering = [index for index, text in enumerate(texts) if not no_answer(text)]
    silent = tuple(index for index, text in enumerate(texts) if no_answer(text))
    found = tuple(
        Cluster(members=tuple(answering[i] for i in cluster.members), answer=cluster.answer)
        for cluster in clusters([texts[index] for index in answering], equivalence)
    )
    return (*found, Cluster(members=silent, answer=texts[silent[0]])) if silent else found


def majority(found: Sequence[Cluster], texts: Sequence[str]) -> int:
    """Size of the largest answering cluster; 0 where every sample abstained."""
    return 0 if no_answer(texts[found[0].members[0]]) else len(found[0].members)


def answer_text(completion: str, extract: Literal["short", "whole"]) -> str:
    """The part of a completion that is compared. An abstention is kept whole: its second sentence never makes it an answer."""
    return short_answer(completion) if extract == "short" else completion.strip()


def no_answer(text: str) -> bool:
    """True for an abstention and for a text without any content."""
    return not normalise(text) or is_abstention(text)


def _name(prompt: Prompt) -> str:
    return prompt[-1].content if prompt else ""
