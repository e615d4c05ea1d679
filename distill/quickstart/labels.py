"""From samples of one model to labels and records: what it knows is kept, what it guesses becomes "I don't know"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from distill.consensus import AliasMatch, Answerability, AnyOf, Cluster, ConsensusLabeller, NumberMatch, normalise
from distill.consensus.labellers import no_answer
from distill.quickstart.grading import accepts
from distill.recipes.facts import Fact, simplify
from distill.records import Polarity, Record, Span, make_id

ABSTENTION = "I don't know."
_DIRECTIONS = (
    "north",
    "south",
    "east",
    "west",
    "northern",
    "southern",
    "eastern",
    "western",
    "central",
    "continent of",
    "continent",
)
# Spellings of one name, and words that may stand beside it; which answer is right is not in here.
EQUIVALENCE = AnyOf(
    equivalences=(
        AliasMatch(
            aliases={
                "Kyiv": ("Kiev",),
                "Czechia": ("Czech Republic",),
                "Sanaa": ("Sana'a", "Sana"),
                "Ulaanbaatar": ("Ulan Bator",),
                "Oceania": ("Australia",),
                "yuan": ("renminbi", "yuan renminbi"),
                "riyal": ("rial",),
                "ruble": ("rouble",),
            },
            optional_words={"Africa": _DIRECTIONS, "Asia": (*_DIRECTIONS, "southeast"), "Europe": _DIRECTIONS},
        ),
        NumberMatch(),
    )
)


def labeller(*, threshold: float, band: float = 0.0) -> ConsensusLabeller:
    """The quickstart's labeller: the posterior's median of the chance to give the majority answer, against one threshold."""
    return ConsensusLabeller(equivalence=EQUIVALENCE, threshold=threshold, band=band)


def majority_right(fact: Fact, label: Answerability) -> bool:
    """Whether the most frequent answer is right: what an ideal labeller would have said."""
    return label.answer is not None and bool(fact.accepted) and accepts(fact, label.answer)


def wrong_answers(fact: Fact, label: Answerability) -> tuple[str, ...]:
    """Distinct wrong sampled answers, the most frequent first; their probabilities add up, and hold none of a right answer.

    So none is the beginning of another, or of an accepted answer: `Kuwait` is left out, for `Kuwait City` begins with it.
    """
    kept: list[str] = []
    right = [simplify(accepted) for accepted in fact.accepted]
    for cluster in label.clusters:
        text = _wording(cluster)
        if no_answer(text) or accepts(fact, text) or any(accepted.startswith(simplify(text)) for accepted in right):
            continue
        if not any(text.startswith(other) or other.startswith(text) for other in kept):
            kept.append(text)
    return tuple(kept)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a labelled question becomes records.

    Args:
        grading: "label" trains one way or the other, by the label; "agreement" trains both ways, the answer with weight agreement
            and the abstention with weight 1 - agreement, so that no threshold cuts a scale in two.
        negatives: At most so many wrong answers for each question.
        guesses: Whose wrong answers they are: "own", what the model said to this question, or "others", what it said to another
            question of the same kind, drawn at random: its favourite guesses, which it brings out for every question it cannot
            answer. No accepted answer is looked at for either.
        known_negatives: Whether an answerable question has its minority answers as negatives.
        abstention_weight: Weight of the abstention as a negative on an answerable question; 0 for none.
    """

    grading: Literal["label", "agreement"] = "agreement"
    negatives: int = 2
    guesses: Literal["own", "others"] = "others"
    known_negatives: bool = True
    abstention_weight: float = 0.0


def records(fact: Fact, label: Answerability, recipe: Recipe, *, instead: Sequence[str] = ()) -> Iterator[Record]:
    """The records of one labelled question; an uncertain one has none. `instead`: use these texts as the negatives (control)."""
    if label.label == "uncertain":
        return
    known = label.label == "answerable" and label.answer is not None
    answers = [_wording(cluster) for cluster in label.clusters if not no_answer(cluster.answer)]
    evidence = {
        "label": label.label,
        "agreement": label.agreement,
        "interval": [label.low, label.high],
        "samples": list(label.samples),
        "clusters": [{"answer": c.answer, "members": list(c.members)} for c in label.clusters],
    }
    sure = (label.agreement if recipe.grading == "agreement" else float(known)) if answers else 0.0
    if sure > 0:
        yield replace(_record(fact, fact.respond(answers[0]), "positive", evidence), weight=sure)
    if sure < 1:
        yield replace(_record(fact, ABSTENTION, "positive", evidence), weight=1 - sure)
    if known and recipe.abstention_weight > 0:
        yield replace(_record(fact, ABSTENTION, "negative", evidence), weight=recipe.abstention_weight)
    if known and not recipe.known_negatives:
        return
    for text in (list(instead) or _guesses(label, recipe))[: recipe.negatives]:
        # only the fact is penalised: the opening and the full stop are what a right answer needs too
        start = len(fact.start)
        span = Span(start=start, end=start + len(text), polarity="negative")
        yield replace(_record(fact, fact.respond(text), "negative", evidence), spans=(span,))


def all_records(labelled: Sequence[tuple[Fact, Answerability]], recipe: Recipe, *, seed: int) -> Iterator[Record]:
    """The records of all labelled questions, each with its own guesses or another's as negatives."""
    draw = np.random.default_rng([seed, 1])
    guesses = {fact.id: _guesses(label, recipe) for fact, label in labelled}
    for fact, label in labelled:
        instead: Sequence[str] = ()
        if recipe.guesses == "others":
            pool = [other.id for other, _ in labelled if other.topic == fact.topic and other.id != fact.id and guesses[other.id]]
            own = normalise(label.answer or "")
            drawn = guesses[pool[int(draw.integers(len(pool)))]] if pool else []
            instead = [text for text in drawn if normalise(text) != own]
            if not instead:
                yield from records(fact, label, replace(recipe, negatives=0))
                continue
        yield from records(fact, label, recipe, instead=instead)


def _guesses(label: Answerability, recipe: Recipe) -> list[str]:
    """What the model said and should not have; by agreement the majority answer is trained up, so it is no negative."""
    answers = [_wording(cluster) for cluster in label.clusters if not no_answer(cluster.answer)]
    known = label.label == "answerable" and label.answer is not None
    return answers[1:] if known or recipe.grading == "agreement" else answers


def made_up_record(fact: Fact) -> Record:
    """A question about something invented: unanswerable by construction, no sample needed."""
    return _record(fact, ABSTENTION, "positive", {"label": "unanswerable", "by": "construction"})


def majority_record(fact: Fact, label: Answerability) -> Record | None:
    """Plain fine-tuning on the majority answer, whatever the agreement: the baseline that learns to guess."""
    if label.answer is None:
        return None
    return _record(fact, fact.respond(_wording(label.clusters[0])), "positive", {"agreement": label.agreement})


def _wording(cluster: Cluster) -> str:
    """The cluster's most frequent wording as it follows the opening: with a leading space and without a stop."""
    return " " + cluster.answer.strip().rstrip(' .,;*"')


def _record(fact: Fact, response: str, polarity: Polarity, evidence: Mapping[str, Any]) -> Record:
    return Record(
        id=make_id(fact.id, polarity, fact.prompt, response, source="quickstart"),
        group=fact.id,
        prompt=fact.prompt,
        response=response,
        polarity=polarity,
        source="quickstart",
        evidence=evidence,
    )
