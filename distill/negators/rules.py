"""Negation of simple English statements by rules, both ways: "is" <-> "is not", "lies" <-> "does not lie"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.consensus.numbers import read_number
from distill.negators.base import Negation, Negator
from distill.negators.changes import changed_spans
from distill.negators.verbs import AUXILIARIES, CONTRACTED, PAST, THIRD_PERSON, UNSAFE_AUXILIARIES, VERBS, past, third_person
from distill.records import Prompt

# Words whose scope a "not" would cross: the outcome would be another claim than the negation. Such statements are left alone.
_SCOPE = frozenset(
    (
        *(
            "all",
            "every",
            "each",
            "both",
            "some",
            "any",
            "most",
            "many",
            "few",
            "several",
            "either",
            "neither",
            "nor",
            "no",
            "none",
        ),
        *(
            "nobody",
            "nothing",
            "never",
            "nowhere",
            "everyone",
            "everything",
            "everybody",
            "someone",
            "something",
            "anyone",
            "always",
        ),
        *("sometimes", "often", "usually", "rarely", "seldom", "hardly", "barely", "scarcely", "only", "also", "too", "already"),
        *("still", "yet", "even", "just", "almost", "nearly", "probably", "perhaps", "maybe", "possibly", "generally", "mostly"),
        *("once", "typically", "commonly", "frequently", "originally", "eventually", "finally", "actually", "certainly"),
        *("quite", "another", "instead", "however", "little", "anybody", "anywhere"),
    )
)
_JOINTS = frozenset(
    ("but", "because", "although", "though", "while", "whereas", "unless", "if", "since", "until", "so", "therefore")
)
_RELATIVES = frozenset(("that", "which", "who", "whom", "whose", "where", "when", "what", "how", "why", "whether", "as", "than"))
# Before a verb's form these make it a noun or an infinitive: "the borders", "of plays", "to run".
_NO_VERB_AFTER = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "this",
            "these",
            "those",
            "its",
            "his",
            "her",
            "their",
            "our",
            "my",
            "your",
            "of",
            "in",
            "on",
            "at",
            "by",
        ),
        *(
            "for",
            "from",
            "with",
            "to",
            "into",
            "about",
            "between",
            "and",
            "or",
            "as",
            "than",
            "one",
            "two",
            "three",
            "four",
            "five",
        ),
    )
)
_IRREGULAR_PARTICIPLES = frozenset(
    (
        *(
            "been",
            "become",
            "won",
            "written",
            "made",
            "had",
            "gone",
            "come",
            "seen",
            "known",
            "taken",
            "given",
            "held",
            "led",
            "lost",
        ),
        *(
            "built",
            "found",
            "sold",
            "said",
            "grown",
            "run",
            "begun",
            "broken",
            "brought",
            "bought",
            "caught",
            "done",
            "eaten",
            "fallen",
        ),
        *(
            "left",
            "met",
            "shown",
            "spoken",
            "sunk",
            "sung",
            "taught",
            "told",
            "thought",
            "worn",
            "played",
            "read",
            "cut",
            "set",
            "put",
        ),
    )
)
# Their past is their participle, and they want an object: "a concert held at Wembley" is no clause.
_NEEDS_OBJECT = frozenset(
    (
        *(
            "held",
            "found",
            "made",
            "built",
            "produced",
            "discovered",
            "released",
            "invented",
            "designed",
            "used",
            "published",
            "killed",
        ),
        *(
            "destroyed",
            "created",
            "painted",
            "composed",
            "included",
            "described",
            "caused",
            "given",
            "called",
            "owned",
            "sold",
            "led",
        ),
    )
)
_PREPOSITIONS = frozenset(("at", "in", "on", "by", "as", "with", "under", "from", "for", "to", "of", "during", "after", "before"))
_LY_NOUNS = frozenset(
    ("family", "assembly", "butterfly", "fly", "supply", "monopoly", "lily", "ally", "belly", "italy", "sicily", "july")
)
_VERB_CHAIN = AUXILIARIES | frozenset(CONTRACTED) | {"not"}
_WORD = re.compile(r"[\w’'-]+")


@dataclass(frozen=True, kw_only=True)
class _Word:
    """A word of the statement: its text in lower case with straight apostrophes, and where it stands."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class RuleNegator(Negator):
    """Negates one simple statement, or takes its negation back; [] for everything it does not understand.

    Understood: a subject, then is/are/was/were/can/could/will/would, have or do as auxiliaries, or one of some 200 common verbs
    (`negators.verbs`) in the third person or the past. Refused: questions, several sentences, second clauses, must/should/may,
    and words such as all, some, only, never, whose scope a "not" would cross. Rather silent than wrong: `measure_negator`
    reports both rates.
    """

    def negate(self, prompt: Prompt, response: str, seed: int = 0) -> list[Negation]:
        """At most one negation; the seed changes nothing.

        >>> [one.text for one in RuleNegator().negate((), "The Nile flows through Egypt.")]
        ['The Nile does not flow through Egypt.']
        >>> [one.text for one in RuleNegator().negate((), "Lyon is not the capital of France.")]
        ['Lyon is the capital of France.']
        """
        words = [
            _Word(text=match.group().casefold().replace("’", "'"), start=match.start(), end=match.end())
            for match in _WORD.finditer(response)
        ]
        if not _is_simple(response, words):
            return []
        edit = _edit(response, words)
        if edit is None:
            return []
        start, end, new = edit
        text = response[:start] + new + response[end:]
        return [Negation(text=text, spans=changed_spans(response, text))]


def _is_simple(statement: str, words: list[_Word]) -> bool:
    """One sentence, no question, no list of clauses, no word that takes scope."""
    if "?" in statement or ";" in statement or ":" in statement or "\n" in statement.strip():
        return False
    if re.search(r"[.!]\s+(?=\S)", re.sub(r"\b(?:(?:[A-Z]\.)*[A-Z]|St|Mt|Dr|Mr|Mrs|Ms|Jr|Ft)\.(?=\s)", "", statement)):
        return False
    texts = [word.text for word in words]
    if not texts or read_number(texts[0]) is not None:
        return False  # "Two Marines were killed" is not denied by "Two Marines were not killed"
    if any(re.search(r"(?:'m|'re|'ve|'ll|'d|^(?:it|that|he|she|there|here|what|who)'s)$", text) for text in texts):
        return False  # a verb in hiding
    return len(texts) > 2 and not (_SCOPE | _JOINTS | UNSAFE_AUXILIARIES).intersection(texts) and texts.count("not") < 2


def _edit(statement: str, words: list[_Word]) -> tuple[int, int, str] | None:
    """The one change that negates: replace [start, end) of the statement by a text."""
    for index, word in enumerate(words):
        if word.text in _RELATIVES:
            return None  # a clause within the subject: the next verb is not the statement's
        if index == 0:
            continue
        if word.text in {"before", "after"}:
            return None  # may open a clause, whose verb would be the wrong one
        if word.text in {"and", "or"} and statement[words[index - 1].end : word.start].strip() == ",":
            return None  # two clauses of which the first hid its verb from us
        if word.text in CONTRACTED:
            return _affirmed(words, index, CONTRACTED[word.text], behind=index + 1)
        if word.text in AUXILIARIES:
            if words[index - 1].text in {"to", "and", "or"}:
                return None  # an infinitive or a second predicate: the statement's own verb came before, unknown
            if index + 1 < len(words) and words[index + 1].text == "not":
                return _affirmed(words, index, word.text, behind=index + 2)
            return _denied(words, index)
        if _may_be_verb(statement, words, index):
            return _do_support(words, index)
    return None


def _denied(words: list[_Word], index: int) -> tuple[int, int, str] | None:
    """Put "not" behind an auxiliary; "has" with an object needs "does not have"."""
    word = words[index]
    if index + 1 == len(words) or _second_clause(words, index):
        return None
    following = words[index + 1].text
    if word.text in {"has", "have", "had"} and not (following.endswith("ed") or following in _IRREGULAR_PARTICIPLES):
        return word.start, word.end, {"has": "does not have", "have": "do not have", "had": "did not have"}[word.text]
    if word.text in {"do", "does", "did"} and following not in VERBS:
        return None  # "does" with an object; emphatic "does lie" is rare, and its negation regular
    if word.text == "can":
        return word.start, word.end, "cannot"
    return word.end, word.end, " not"


def _affirmed(words: list[_Word], index: int, auxiliary: str, *, behind: int) -> tuple[int, int, str] | None:
    """Take a negation back: "is not" -> "is", "does not lie" -> "lies". `behind` is the index of the word after the negation."""
    if behind >= len(words) or _second_clause(words, behind - 1):
        return None
    start, end = words[index].start, words[behind - 1].end
    if auxiliary not in {"do", "does", "did"}:
        return start, end, auxiliary
    base = words[behind].text
    if auxiliary == "did" and base not in VERBS:
        return None  # its past is not known
    form = {"do": base, "does": third_person(base), "did": past(base)}[auxiliary]
    return start, words[behind].end, form


def _do_support(words: list[_Word], index: int) -> tuple[int, int, str] | None:
    """ "lies" -> "does not lie", "wrote" -> "did not write"."""
    word = words[index]
    before = words[index - 1].text
    if _second_clause(words, index) or (before.endswith("ly") and before not in _LY_NOUNS):
        return None  # "officially did not end" is not quite "did not officially end"
    if word.text in THIRD_PERSON:
        return word.start, word.end, f"does not {THIRD_PERSON[word.text]}"
    return word.start, word.end, f"did not {PAST[word.text]}"


def _may_be_verb(statement: str, words: list[_Word], index: int) -> bool:
    """A known verb form where a verb can stand, with something behind it that fits."""
    text, before = words[index].text, words[index - 1]
    if not (text in THIRD_PERSON or text in PAST) or before.text in _NO_VERB_AFTER or index + 1 == len(words):
        return False
    if statement[before.end : words[index].start].strip():
        return False  # a comma or quotation mark before it: "the film, produced by ..."
    following = words[index + 1].text
    return not (text in PAST and following == "by") and not (text in _NEEDS_OBJECT and following in _PREPOSITIONS)


def _second_clause(words: list[_Word], index: int) -> bool:
    """Whether a finite verb behind `index` makes a second statement, or a reading in which the first verb was a participle.

    "Paris is in France and Rome is in Italy", "Australian forces later joined": negating the first verb negates neither.
    After that/which/who a verb belongs to a relative clause and is fine.
    """
    for later in range(index + 1, len(words)):
        text = words[later].text
        if text in _RELATIVES - {"as", "than"}:
            return False
        if text in AUXILIARIES or text in CONTRACTED:
            # "has been", "will have": the first verb's own chain, no new clause
            if text in {"have", "do"} and later == index + 1:
                continue
            return True
        before = words[later - 1].text
        if text.endswith("ed") and before in {"and", "or"}:
            return True
        if text in THIRD_PERSON or text in PAST:
            joined = before in {"and", "or"}
            # Behind "is" a past form is its participle; behind a full verb it may be the verb that we should have found.
            if joined or (words[index].text not in _VERB_CHAIN and before not in _NO_VERB_AFTER):
                return True
    return False
