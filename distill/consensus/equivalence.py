"""Equivalences that need no model: the same after normalisation, spellings of one name, any of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from distill.consensus.base import Equivalence
from distill.consensus.normalisation import normalise


@dataclass(frozen=True, kw_only=True)
class NormalisedMatch(Equivalence):
    """Equal after `normalise`. Transitive."""

    @property
    def transitive(self) -> bool:
        """Equality of strings is."""
        return True

    def same(self, first: str, second: str) -> bool:
        """True where the normalised answers are equal.

        >>> NormalisedMatch().same("the Hague.", "Hague"), NormalisedMatch().same("Guinea", "Papua New Guinea")
        (True, False)
        """
        return normalise(first) == normalise(second)


@dataclass(frozen=True, kw_only=True)
class AliasMatch(Equivalence):
    """Accepted spellings of one name, and words that may stand beside it.

    aliases: a name -> its other spellings (Kyiv: [Kiev]). optional_words: a name -> words that any of its spellings may carry
    or lack (hryvnia: [Ukrainian]). Containment is never guessed: Guinea is not Equatorial Guinea, the Australian dollar is the
    dollar only where the aliases say so. Compared after `normalise`, which alone decides for names no alias mentions.
    """

    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    optional_words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def from_groups(cls, groups: Iterable[Sequence[str]]) -> AliasMatch:
        """From groups of spellings: [("Kyiv", "Kiev"), ("Czechia", "Czech Republic")]; the first of each is its name."""
        aliases: dict[str, list[str]] = defaultdict(list)
        for group in groups:
            aliases[group[0]].extend(group[1:])
        return cls(aliases=dict(aliases))

    def same(self, first: str, second: str) -> bool:
        """True where both answers are spellings of one name.

        >>> match = AliasMatch(aliases={"Kyiv": ["Kiev"]}, optional_words={"hryvnia": ["Ukrainian"]})
        >>> match.same("Kiev", "Kyiv."), match.same("Ukrainian hryvnia", "the Hryvnia"), match.same("Ukrainian", "hryvnia")
        (True, True, False)
        """
        return normalise(first) == normalise(second) or bool(self.names(first) & self.names(second))

    def names(self, answer: str) -> frozenset[str]:
        """The names (keys of `aliases` or `optional_words`) that the answer is a spelling of."""
        words = normalise(answer).split()
        found = set(self._names_by_spelling.get(" ".join(words), ()))
        candidates = {name for word in words for name in self._names_by_optional_word.get(word, ())}
        for name in candidates:
            left = " ".join(word for word in words if name not in self._names_by_optional_word.get(word, ()))
            if name in self._names_by_spelling.get(left, ()):
                found.add(name)
        return frozenset(found)

    @property
    def transitive(self) -> bool:
        """True where no spelling belongs to two names, with its optional words or without."""
        return not self.optional_words and all(len(names) == 1 for names in self._names_by_spelling.values())

    @cached_property
    def _names_by_spelling(self) -> dict[str, set[str]]:
        index: dict[str, set[str]] = defaultdict(set)
        for name in {*self.aliases, *self.optional_words}:
            for spelling in (name, *self.aliases.get(name, ())):
                index[normalise(spelling)].add(name)
        return dict(index)

    @cached_property
    def _names_by_optional_word(self) -> dict[str, set[str]]:
        index: dict[str, set[str]] = defaultdict(set)
        for name, optional in self.optional_words.items():
            for word in optional:
                index[normalise(word)].add(name)
        return dict(index)


@dataclass(frozen=True, kw_only=True)
class AnyOf(Equivalence):
    """The same by at least one of several equivalences, asked in order: put the cheap ones first."""

    equivalences: tuple[Equivalence, ...]

    def same(self, first: str, second: str) -> bool:
        """True where any equivalence says so."""
        return any(equivalence.same(first, second) for equivalence in self.equivalences)

    def prepare(self, answers: Sequence[str]) -> None:
        """Let each equivalence see all answers at once."""
        for equivalence in self.equivalences:
            equivalence.prepare(answers)

    @property
    def transitive(self) -> bool:
        """Only a single transitive equivalence is known to be."""
        return len(self.equivalences) == 1 and self.equivalences[0].transitive
