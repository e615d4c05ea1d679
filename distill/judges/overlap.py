"""Whether a passage supports or refutes a sentence, told by names, numbers and content words alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.judges.sentences import sentence_spans
from distill.judges.terms import Terms, read_terms
from distill.records import Prompt

_ABOUT = 0.7
_SPECIFIC = 3.0  # what a name or number counts for; words have synonyms
SUPPORTED, REFUTED, NOT_FOUND = "supported", "refuted", "not found"


class _Window(NamedTuple):
    """A sentence of a passage, alone or with the next one; found: its terms and those of the passage's title."""

    passage: int
    text: str
    terms: Terms
    found: frozenset[str]


class _Fit(NamedTuple):
    """How a window fits: shares (0 to 1) of what it should say, the names and numbers that it lacks, and those in their place."""

    about: bool  # the names and numbers that were given are in it
    topic: float
    said: float
    relation: float  # of the terms that are no names or numbers: what is said of the subject
    missing: frozenset[str]
    unsure: frozenset[str]  # missing too, but perhaps no name
    rivals: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class OverlapEntailment(Judge):
    """The reference passages support a sentence (approved), refute it (rejected), or neither (abstained).

    A window is one or two sentences of a passage; the first line of a passage is its title, if another follows, and belongs to
    all its windows. A window is on the subject where it has the names that the response repeats of the question, and of the words
    it repeats those that tell the passages apart.

    Supported: such a window has all names and numbers that the response adds, at least `support` of all terms that it adds, and
    at least `topic` of the terms of question and response together. Refuted: the closest window has at least `topic` of their
    terms and `relation` of those that are no names or numbers, lacks a name or number that the response adds, and has another
    one of its kind in its place. A denial ("not", "never") on one side only turns the verdict round.

    It reads no meaning: "born in 1914" and "died in 1914" share most terms. docs/reference/judges.md says how often it is right.
    """

    support: float = 0.5
    topic: float = 0.5
    relation: float = 0.3

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1]."""
        if not all(0 < share <= 1 for share in (self.support, self.topic, self.relation)):
            raise ConfigError(f"support {self.support}, topic {self.topic}, relation {self.relation}: expected shares in (0, 1]")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Compare one sentence with the passages; evidence holds the deciding passage's place and its words.

        >>> judge, passages = OverlapEntailment(), ("Kyiv is the capital and largest city of Ukraine.",)
        >>> [judge.judge((), f"{city} is the capital of Ukraine.", passages).approved for city in ("Kyiv", "Odesa")]
        [True, False]
        """
        claim = read_terms(response)
        asked = read_terms("\n".join(message.content for message in prompt if message.role == "user"))
        added = claim.all - asked.all or claim.all
        windows = [window for place, text in enumerate(reference) for window in _windows(place, text)]
        if not added or not windows:
            return Verdict(approved=None, reason=NOT_FOUND, evidence={})
        rarity = _rarity(claim.all, [read_terms(text).all for text in reference])
        fits = [(_fit(asked, claim, added, window, rarity), window) for window in windows]
        supporting = [(fit, window) for fit, window in fits if self._supports(fit)]
        fit, window = max(supporting or fits, key=lambda one: (one[0].about, one[0].topic + one[0].said, -one[1].passage))
        refutes = not supporting and self._refutes(fit)
        evidence: dict[str, object] = {
            "passage": window.passage,
            "text": window.text,
            "topic": round(fit.topic, 4),
            "said": round(fit.said, 4),
        }
        if not supporting and not refutes:
            return Verdict(approved=None, reason=NOT_FOUND, evidence=evidence)
        turned = claim.denies != window.terms.denies
        approved = bool(supporting) != turned
        if fit.missing:
            evidence |= {"missing": sorted(fit.missing), "instead": sorted(fit.rivals)}
        confidence = min(fit.topic, fit.said) if supporting else fit.topic
        return Verdict(approved=approved, confidence=confidence, reason=SUPPORTED if approved else REFUTED, evidence=evidence)

    def _supports(self, fit: _Fit) -> bool:
        complete = fit.about and not fit.missing and not fit.unsure
        return complete and fit.said >= self.support and fit.topic >= self.topic

    def _refutes(self, fit: _Fit) -> bool:
        near = fit.about and fit.topic >= self.topic and fit.relation >= self.relation
        return near and bool(fit.missing and fit.rivals)


def _windows(place: int, passage: str) -> Iterator[_Window]:
    """Each sentence, and each with the next: the second of two often has its subject in the first."""
    title, line, text = passage.partition("\n")
    title, text = (title, text) if line else ("", passage)
    known = read_terms(title).all
    sentences = [text[start:end] for start, end in sentence_spans(text)]
    for index, sentence in enumerate(sentences):
        for window in {sentence: None, "\n".join(sentences[index : index + 2]): None}:
            terms = read_terms(window)
            yield _Window(place, window, terms, terms.all | known)


def _fit(asked: Terms, claim: Terms, added: frozenset[str], window: _Window, rarity: Mapping[str, float]) -> _Fit:
    found = window.found
    numbers, names = claim.numbers & added - found, claim.names & added - found
    # An opening is a name where nothing says otherwise: "Odesa is the capital."
    subjects = claim.subjects & added - found if not numbers | names else frozenset()
    others = window.terms.all - asked.all - claim.all
    rivals = others & (window.terms.numbers if numbers else frozenset())
    rivals |= others & (window.terms.names | window.terms.openings if names | subjects else frozenset())
    missing = numbers | names | subjects
    # What the response repeats of the question is what it is about. A window without it is about something else: "atomic" and
    # "number" are in every passage on elements, "iron" in one.
    given = asked.names | asked.numbers
    named = (claim.names | claim.numbers | claim.openings) - added <= found and len(given & found) >= len(given) / 2
    specific = given | claim.names | claim.numbers
    return _Fit(
        about=named and _share((claim.all - added or claim.all - missing) & rarity.keys(), found, rarity) >= _ABOUT,
        topic=_share((asked.all | claim.all) - missing, found, dict.fromkeys(specific, _SPECIFIC)),
        said=_share(added, found, dict.fromkeys(specific, _SPECIFIC)),
        relation=_share((asked.words | claim.words) - missing, found, {}),
        missing=missing,
        unsure=(claim.openings & added) - found - missing,
        rivals=rivals,
    )


def _rarity(wanted: frozenset[str], passages: Sequence[frozenset[str]]) -> dict[str, float]:
    """For each wanted term that some passage has: the more, the fewer have it."""
    have = {term: sum(term in terms for terms in passages) for term in wanted}
    return {term: math.log1p(len(passages) / count - 0.5) for term, count in have.items() if count}


def _share(wanted: frozenset[str], found: frozenset[str], weight: Mapping[str, float]) -> float:
    """The share of the wanted terms that are found, each with its weight (1 if it has none); 1 where nothing is wanted."""
    total = sum(weight.get(term, 1.0) for term in wanted)
    return sum(weight.get(term, 1.0) for term in wanted & found) / total if total else 1.0
