"""The fact checker: each sentence of a response is looked up, and supported, refuted or not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.consensus.abstention import is_abstention
from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.judges.overlap import NOT_FOUND, REFUTED, SUPPORTED, OverlapEntailment
from distill.judges.passages import Passage, Searcher
from distill.judges.sentences import sentence_spans
from distill.judges.terms import read_terms
from distill.records import Message, Polarity, Prompt, Span

NOTHING_TO_CHECK = "nothing to check"


@dataclass(frozen=True, kw_only=True)
class RetrievalJudge(Judge):
    """Looks each sentence of a response up, and marks it as supported (a positive span), refuted (negative), or not found.

    searcher: Bm25Searcher over local files, or any other Searcher, a web search tool for example. k: passages for each
    sentence. entailment: the judge that is given a sentence as the response and the passages as the references: approved is
    supported, rejected refuted, abstained not found. not_found: what a sentence that is not found makes of a response without
    refuted ones: "abstain", "reject", or "ignore" (at least one sentence must be supported).

    A response with a refuted sentence is rejected. Evidence holds each sentence with its place, finding and passage. Accepted
    answers are not read.
    """

    searcher: Searcher
    entailment: Judge = field(default_factory=OverlapEntailment)
    k: int = 5
    not_found: Literal["abstain", "reject", "ignore"] = "abstain"

    def __post_init__(self) -> None:
        """Refuse a search for nothing."""
        if self.k < 1:
            raise ConfigError(f"k is {self.k}: look at least at one passage for each sentence")

    def judge(self, prompt: Prompt, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        """Check one response; `judge_many` is faster where the entailment judge is a model."""
        return self.judge_many([prompt], [response])[0]

    def judge_many(
        self, prompts: Sequence[Prompt], responses: Sequence[str], references: Sequence[tuple[str, ...]] = ()
    ) -> list[Verdict]:
        """Check all responses; the entailment judge is asked once for all their sentences."""
        checked = [_sentences(response) for response in responses]
        places = [(row, span) for row, spans in enumerate(checked) for span in spans]
        claims = [responses[row][start:end] for row, (start, end) in places]
        questions = [_question(prompts[row]) for row, _ in places]
        searches = [f"{question}\n{claim}" for question, claim in zip(questions, claims, strict=True)]
        passages = [self.searcher.search(search, self.k) for search in searches]
        asked = [(Message(role="user", content=question),) if question else () for question in questions]
        texts = [tuple(map(_entry, found)) for found in passages]
        verdicts = self.entailment.judge_many(asked, claims, texts)
        findings: list[list[dict[str, Any]]] = [[] for _ in responses]
        for (row, span), claim, found, verdict in zip(places, claims, passages, verdicts, strict=True):
            findings[row].append(_finding(span, claim, found, verdict))
        return [self._verdict(response, found) for response, found in zip(responses, findings, strict=True)]

    def _verdict(self, response: str, findings: list[dict[str, Any]]) -> Verdict:
        evidence = {"sentences": findings}
        if not findings:
            return Verdict(approved=None, confidence=0.0, reason=NOTHING_TO_CHECK, evidence=evidence)
        polarity: dict[str, Polarity] = {SUPPORTED: "positive", REFUTED: "negative"}
        spans = tuple(
            Span(start=one["start"], end=one["end"], polarity=polarity[one["found"]])
            for one in findings
            if one["found"] != NOT_FOUND
        )
        counts = {kind: sum(one["found"] == kind for one in findings) for kind in (SUPPORTED, REFUTED, NOT_FOUND)}
        reason = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        decided = [one["confidence"] for one in findings if one["found"] == (REFUTED if counts[REFUTED] else SUPPORTED)]
        approved: bool | None = True
        if counts[REFUTED]:
            approved = False
        elif counts[NOT_FOUND] and self.not_found != "ignore":
            approved = False if self.not_found == "reject" else None
        elif not counts[SUPPORTED]:
            approved = None
        confidence = max(decided, default=0.0) if counts[REFUTED] else min(decided, default=0.0)
        return Verdict(approved=approved, confidence=confidence, reason=reason, evidence=evidence, spans=spans)


def _sentences(response: str) -> list[tuple[int, int]]:
    """The sentences that state something: not a refusal, not words like "Yes." that no passage can be about."""
    spans = sentence_spans(response)
    return [(start, end) for start, end in spans if read_terms(text := response[start:end]).all and not is_abstention(text)]


def _question(prompt: Prompt) -> str:
    """What was asked last."""
    return next((message.content for message in reversed(prompt) if message.role == "user"), "")


def _entry(passage: Passage) -> str:
    """The text on one line, under its title where it has one."""
    text = passage.text.replace("\n", " ")
    return f"{passage.title}\n{text}" if passage.title else text


def _finding(span: tuple[int, int], claim: str, passages: Sequence[Passage], verdict: Verdict) -> dict[str, Any]:
    """One sentence's entry in the evidence: the passage that decided, else the best one that was found."""
    place = verdict.evidence.get("passage", 0)
    passage = passages[place] if isinstance(place, int) and place < len(passages) else None
    kind = {True: SUPPORTED, False: REFUTED, None: NOT_FOUND}[verdict.approved]
    return {
        "start": span[0],
        "end": span[1],
        "sentence": claim,
        "found": kind if passages else NOT_FOUND,
        "confidence": verdict.confidence,
        "passage": None if passage is None else {"id": passage.id, "title": passage.title, "text": passage.text},
        "why": dict(verdict.evidence),
    }
