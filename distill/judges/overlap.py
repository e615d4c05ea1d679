"""Whether a passage supports or refutes a sentence, told by names, numbers and content words alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.judges.sentences import sentence_spans
from distill.judges.terms import Terms, read_terms
from distill.records import Prompt

_SPECIFIC = 3  # words that a name or number counts for
SUPPORTED, REFUTED, NOT_FOUND = "supported", "refuted", "not found"


class _Window(NamedTuple):
    """A sentence of a passage, alone or with the next one."""

    passage: int
    text: str
    terms: Terms


class _Fit(NamedTuple):
    """How a window fits: shares (0 to 1) of what it should say, the names and numbers that it lacks, and those in their place."""

    about: bool  # the names and numbers that were given are in it
    topic: float
    said: float
    missing: frozenset[str]
    unsure: frozenset[str]  # missing too, but perhaps no name
    rivals: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class OverlapEntailment(Judge):
    """The reference passages support a sentence (approved), refute it (rejected), or neither (abstained).

    Supported: a window of one or two sentences has all names and numbers that the response adds to the question, at least
    `support` of all terms that it adds, and at least `topic` of the terms of question and response together. Refuted: the window
    closest to question and response has at least `topic` of their other terms, lacks a name or number of the response, and has
    another one of the same kind in its place. A denial ("not", "never") on one side only turns the verdict round.

    It reads no meaning: "born in 1914" and "died in 1914" share most terms. docs/reference/judges.md says how often it is right.
    """

    support: float = 0.5
    topic: float = 0.5

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1]."""
        if not 0 < self.support <= 1 or not 0 < self.topic <= 1:
            raise ConfigError(f"support {self.support} and topic {self.topic}: expected shares in (0, 1]")

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
        fits = [(_fit(asked, claim, added, window.terms), window) for window in windows]
        supporting = [(fit, window) for fit, window in fits if self._supports(fit)]
        fit, window = max(supporting or fits, key=lambda one: (one[0].about, one[0].topic + one[0].said, -one[1].passage))
        refutes = not supporting and fit.about and fit.topic >= self.topic and bool(fit.missing and fit.rivals)
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


def _windows(place: int, passage: str) -> Iterator[_Window]:
    """Each sentence, and each with the next: the second of two often has the subject in the first."""
    sentences = [passage[start:end] for start, end in sentence_spans(passage)]
    for index, sentence in enumerate(sentences):
        yield _Window(place, sentence, read_terms(sentence))
        if index + 1 < len(sentences):
            both = f"{sentence}\n{sentences[index + 1]}"
            yield _Window(place, both, read_terms(both))


def _fit(asked: Terms, claim: Terms, added: frozenset[str], window: Terms) -> _Fit:
    numbers, names = claim.numbers & added - window.all, claim.names & added - window.all
    # An opening is a name where nothing says otherwise: "Odesa is the capital."
    subjects = claim.subjects & added - window.all if not numbers | names else frozenset()
    others = window.all - asked.all - claim.all
    rivals = others & (window.numbers if numbers else frozenset())
    rivals |= others & (window.names | window.openings if names | subjects else frozenset())
    # What the response says of something else than was asked, or of nobody in the window, the window cannot know.
    repeated = (claim.names | claim.numbers | claim.openings) - added
    given = asked.names | asked.numbers
    about = repeated <= window.all and len(given & window.all) >= len(given) / 2
    missing = numbers | names | subjects
    subject = (asked.all | claim.all) - missing
    specific = given | claim.names | claim.numbers
    return _Fit(
        about=about,
        topic=_share(subject, window.all, specific),
        said=_share(added, window.all, specific),
        missing=missing,
        unsure=(claim.openings & added) - window.all - missing,
        rivals=rivals,
    )


def _share(wanted: frozenset[str], found: frozenset[str], specific: frozenset[str]) -> float:
    """The share of wanted terms that are found; a name or number counts as much as several words, which have synonyms."""
    total, got = ((_SPECIFIC - 1) * len(terms & specific) + len(terms) for terms in (wanted, wanted & found))
    return got / total if total else 0.0
