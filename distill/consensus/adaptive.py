"""Sampling only as much as a question's label needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distill.consensus.labellers import ConsensusLabeller, answer_clusters, answer_text, majority, no_answer
from distill.consensus.posterior import beta_binomial
from distill.errors import ConfigError, TeacherError
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling

Rule = Literal["certain", "probable"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveSamples:
    """Samples for each prompt, in the order of the prompts, and how many were never drawn against the full number for each."""

    samples: tuple[tuple[Completion, ...], ...]
    saved: int


def settled(
    count: int,
    drawn: int,
    full: int,
    labeller: ConsensusLabeller,
    *,
    rule: Rule = "certain",
    most: int | None = None,
    sure: float = 0.95,
) -> bool:
    """Whether the label at `full` samples is known after `drawn`, of which `count` agree.

    certain: every outcome of the samples still to come gives one label. `most` bounds how many of the `full` can agree in the
    end; None means count + (full - drawn), right where new samples cannot join two clusters (a transitive equivalence) and no
    other cluster is larger. probable: the label of now is also the label at `full` with posterior predictive probability
    of at least `sure`, under the beta-binomial of the labeller's own prior.

    >>> labeller = ConsensusLabeller(threshold=0.4, band=0.2)
    >>> settled(3, 3, 10, labeller), settled(4, 4, 10, labeller), settled(3, 3, 10, labeller, rule="probable")
    (False, True, True)
    """
    if not 0 <= count <= drawn <= full:
        raise ConfigError(f"count {count}, drawn {drawn}, full {full} must be ascending and at least 0")
    left = full - drawn
    if rule == "certain":
        # The label is monotone in the count, so the two ends of its range decide.
        return labeller.decide(count, full) == labeller.decide(count + left if most is None else min(most, full), full)
    now = labeller.decide(count, drawn) if drawn else "uncertain"
    a, b = labeller.prior[0] + count, labeller.prior[1] + drawn - count
    same = sum(beta_binomial(more, left, a, b) for more in range(left + 1) if labeller.decide(count + more, full) == now)
    return drawn > 0 and same >= sure


def samples_settled(
    samples: Sequence[Completion], full: int, labeller: ConsensusLabeller, *, rule: Rule = "certain", sure: float = 0.95
) -> bool:
    """`settled` for one question's samples, with the bounds that its clusters and the labeller's equivalence allow.

    Under a transitive equivalence the largest final cluster is at most the largest one plus all samples to come; otherwise one
    new wording may join any clusters, and only abstentions are certain never to agree.
    """
    if len(samples) >= full:
        return True
    texts = [answer_text(sample.text, labeller.extract) for sample in samples]
    found = answer_clusters(texts, labeller.equivalence)
    silent = sum(no_answer(text) for text in texts)
    count = majority(found, texts) if found else 0
    left = full - len(samples)
    most = count + left if labeller.equivalence.transitive else full - silent
    return settled(count, len(samples), full, labeller, rule=rule, most=most, sure=sure)


def sample_until_settled(
    generator: Generator,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    labeller: ConsensusLabeller,
    *,
    rounds: Sequence[int] = (4, 3, 3),
    rule: Rule = "certain",
    sure: float = 0.95,
) -> AdaptiveSamples:
    """Draw `rounds` of samples, each round only for the prompts whose label is not `settled` yet.

    The sum of `rounds` replaces sampling.n. Sampling.skip continues each prompt's stream, so what is drawn is the start of
    what one call with the full n would have drawn; under the rule "certain" the label is therefore that of the full draw (the
    majority answer may still differ where two clusters both pass the threshold). A completion is never asked for twice.
    """
    if not rounds or min(rounds) < 1:
        raise ConfigError(f"rounds {tuple(rounds)} must be one or more numbers of at least 1")
    full = sum(rounds)
    drawn: list[list[Completion]] = [[] for _ in prompts]
    done = 0
    waiting = list(range(len(prompts)))
    for size in rounds:
        if not waiting:
            break
        more = generator.generate([prompts[i] for i in waiting], replace(sampling, n=size, skip=sampling.skip + done))
        if [len(completions) for completions in more] != [size] * len(waiting):
            raise TeacherError(
                f"asked for {size} completions for each of {len(waiting)} prompts, got {[len(c) for c in more][:10]} ..."
            )
        for index, completions in zip(waiting, more, strict=True):
            drawn[index].extend(completions)
        done += size
        waiting = [i for i in waiting if not samples_settled(drawn[i], full, labeller, rule=rule, sure=sure)]
    saved = sum(full - len(samples) for samples in drawn)
    return AdaptiveSamples(samples=tuple(tuple(samples) for samples in drawn), saved=saved)
