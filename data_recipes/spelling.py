"""Spelling in any script: words spelt out, letters counted and typos repaired, with wrong spellings and counts as negatives.

    python -m data_recipes.spelling --prompts words.txt --out runs/spelling

A letter is what a reader takes for one: a grapheme cluster, so that a Hebrew letter with its points or a Devanagari conjunct is
never torn. Typos are the four of Damerau 1964 (insertion, deletion, transposition, substitution), by neighbours on the keyboard
where the script has one here. A typo that is a word itself, or one edit away from another word of the list, is not used: nobody
could say which word was meant.

Source: Damerau, "A technique for computer detection and correction of spelling errors", CACM 7(3), 1964; the check of one edit
around a typo is Norvig's (https://norvig.com/spell-correct.html). Letters: Unicode Standard Annex 29, through the package regex.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from distill.errors import ConfigError, RecipeError
from distill.recipes import Item, Lost, Run, read_questions
from distill.recipes.questions import Questions
from distill.recipes.stage import Seen
from distill.records import Message, Polarity, Record, Span, make_id

Task = Literal["spell", "count", "length", "repair"]
Edit = Literal["insertion", "deletion", "transposition", "substitution"]
SOURCE = "spelling"
VERSION = 2  # of the wordings, and of what is drawn
TASKS: tuple[Task, ...] = ("spell", "count", "length", "repair")
EDITS: tuple[Edit, ...] = ("insertion", "deletion", "transposition", "substitution")
_TRIES = 12  # typos drawn before a word is given up
_ALPHABET = 200  # letters of a script that are drawn from, the most frequent
# Keys as they lie: a space is a key without a letter. Each row is shifted half a key to the right of the one above.
_KEYBOARDS = (
    ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    ("  קראטוןםפ", "שדגכעיחלךף", "זסבהנמצתץ"),
    ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    ("  ερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ"),
)


@dataclass
class WordList:
    """What a list of words knows: the words themselves, and for each script its letters and code points."""

    words: set[str] = field(default_factory=set)
    letters: dict[str, Counter[str]] = field(default_factory=dict)
    points: dict[str, set[str]] = field(default_factory=dict)
    _alphabets: dict[str, list[str]] = field(default_factory=dict)

    def add(self, word: str) -> None:
        """Take a word in, in the form in which words are compared."""
        plain = word.casefold()
        self.words.add(plain)
        for letter in letters_of(plain):
            self.letters.setdefault(script_of(letter), Counter())[letter] += 1
            self.points.setdefault(script_of(plain), set()).update(letter)

    def alphabet(self, letter: str) -> list[str]:
        """The letters of the same script, the most frequent first."""
        script = script_of(letter)
        if script not in self._alphabets:
            self._alphabets[script] = [one for one, _ in self.letters.get(script, Counter()).most_common(_ALPHABET)]
        return self._alphabets[script]

    def means(self, typo: str) -> set[str]:
        """The words of the list that a typo may stand for: itself, and what is one edit of a code point away."""
        typo = typo.casefold()
        halves = [(typo[:n], typo[n:]) for n in range(len(typo) + 1)]
        near = {typo}
        near |= {a + b[1:] for a, b in halves if b}
        near |= {a + b[1] + b[0] + b[2:] for a, b in halves if len(b) > 1}
        for point in self.points.get(script_of(typo), ()):
            near |= {a + point + b[1:] for a, b in halves if b}
            near |= {a + point + b for a, b in halves}
        return near & self.words


def build(
    *,
    run: Run,
    prompts: str,
    tasks: tuple[Task, ...] = TASKS,
    edits: tuple[Edit, ...] = EDITS,
    steps: bool = True,
    separator: str = "-",
    min_letters: int = 3,
    max_letters: int = 20,
    negatives: int = 1,
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[Record]:
    """Ask for each word what the tasks ask, answer by calculation, and add wrong answers of the same kind.

    Args:
        run: Where results are kept.
        prompts: Words: a .txt with one a line (a frequency behind it is left out), .jsonl, .csv, .parquet, or example:words.
        tasks: spell: letter by letter. count: how often a letter occurs. length: how many letters. repair: a typo to correct.
        edits: Which typos are made.
        steps: Whether counts are shown letter by letter before the number.
        separator: What stands between the letters.
        min_letters: Shorter words are lost, and counted.
        max_letters: Longer words are lost, and counted.
        negatives: Wrong answers for each right one, marked where they are wrong.
        seed: For letters, typos and wrong answers.
        limit: Only the first so many words; the list as a whole still says what is a word.
    """
    for name, given, known in (("tasks", tasks, TASKS), ("edits", edits, EDITS)):
        if not given or len(set(given)) != len(given):
            raise ConfigError(f"{name} {list(given)}: name each of {', '.join(known)} at most once, and at least one of them")
    if not separator or separator.isalnum():
        raise ConfigError(f"separator {separator!r}: give something that is no letter, such as - or a space")
    if not 1 <= min_letters <= max_letters:
        raise ConfigError(f"min_letters {min_letters}, max_letters {max_letters}: give 1 or more, the smaller one first")
    if negatives < 0:
        raise ConfigError(f"negatives is {negatives}: give 0 for none, or a number above it")
    source = read_questions(prompts)
    total = run.total(source, limit, of="word")
    listed = WordList()
    for question in source:
        word = _word(question.prompt[-1].content)
        if word is not None:
            listed.add(word)
    if not listed.words:
        raise RecipeError(f"{prompts}: no words in it; expected one word in each row")
    maker = _Maker(
        listed=listed,
        edits=edits,
        steps=steps,
        separator=separator,
        sizes=range(min_letters, max_letters + 1),
        negatives=negatives,
        seed=seed,
    )
    rows = run.map(
        "spell",
        _items(source, tasks, run, limit),
        lambda items: [maker.made(**item.value) for item in items],
        key={"version": VERSION, "seed": seed},
        batch_size=64,
        total=total * len(tasks),
        keep=False,  # cheaper to make again than to read back
    )
    return _records(run, rows)


def letters_of(word: str) -> list[str]:
    """What a reader takes for the letters: extended grapheme clusters.

    >>> letters_of("नमस्ते")
    ['न', 'म', 'स्ते']
    """
    import regex

    found: list[str] = regex.findall(r"\X", word)
    return found


def _plain(letter: str) -> str:
    """A letter whatever its case, and still one letter: a final sigma is a sigma, but an eszett is not "ss"."""
    folded = letter.casefold()
    return folded if len(letters_of(folded)) == 1 else letter.lower()


def script_of(text: str) -> str:
    """The script of the first code point: LATIN, HEBREW, DEVANAGARI, ..."""
    return _script(text[0])


@cache
def _script(point: str) -> str:
    return unicodedata.name(point, "UNNAMED").partition(" ")[0]


@cache
def neighbours(letter: str) -> tuple[str, ...]:
    """The letters whose keys touch this one's, on the first keyboard that has it; none where no keyboard here does.

    >>> neighbours("s")
    ('a', 'd', 'w', 'e', 'z', 'x')
    """
    for rows in _KEYBOARDS:
        for y, row in enumerate(rows):
            x = row.find(letter)
            if x >= 0 and letter != " ":
                around = [(y, x - 1), (y, x + 1), (y - 1, x), (y - 1, x + 1), (y + 1, x - 1), (y + 1, x)]
                keys = (rows[b][a] for b, a in around if 0 <= b < len(rows) and 0 <= a < len(rows[b]))
                return tuple(key for key in keys if key != " ")
    return ()


def mistyped(letters: Sequence[str], edit: Edit, listed: WordList, chance: random.Random) -> list[str] | None:
    """The letters with one edit; None where the word has no place for it. The first and the last letter are never left out."""
    wrong = list(letters)
    if edit == "deletion":
        if len(wrong) < 3:
            return None
        del wrong[chance.randrange(1, len(wrong) - 1)]
        return wrong
    if edit == "transposition":
        places = [n for n in range(len(wrong) - 1) if wrong[n] != wrong[n + 1]]
        if not places:
            return None
        n = chance.choice(places)
        wrong[n], wrong[n + 1] = wrong[n + 1], wrong[n]
        return wrong
    n = chance.randrange(len(wrong))
    if edit == "insertion":
        # A doubled letter, or a key hit beside the right one.
        wrong.insert(n + 1, chance.choice([wrong[n], _slip(wrong[n], listed, chance) or wrong[n]]))
        return wrong
    other = _slip(wrong[n], listed, chance)
    if other is None:
        return None
    wrong[n] = other
    return wrong


def _slip(letter: str, listed: WordList, chance: random.Random) -> str | None:
    """Another letter in this one's place: a key beside it with the same points, else any letter of the script."""
    near = neighbours(letter[0].lower())
    if near:
        other = chance.choice(near)
        return (other.upper() if letter[0].isupper() else other) + letter[1:]
    others = [one for one in listed.alphabet(letter) if one != letter.casefold()]
    return chance.choice(others) if others else None


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes questions, right answers and wrong ones as JSON, from a word and a seed alone."""

    listed: WordList
    edits: Sequence[Edit]
    steps: bool
    separator: str
    sizes: range
    negatives: int
    seed: int

    def made(self, word: str | None, task: Task, again: bool) -> Any:
        if word is None:
            return Lost("not one word of letters")
        if again:
            return Lost("a word that came before")
        letters = letters_of(word)
        if len(letters) not in self.sizes:
            return Lost("a word of fewer or more letters than asked for")
        chance = random.Random(f"{self.seed}:{task}:{word}")
        if task == "spell":
            return self._spell(word, letters, chance)
        if task == "repair":
            return self._repair(word, letters, chance)
        return self._count(word, letters, chance, task)

    def _spell(self, word: str, letters: list[str], chance: random.Random) -> Any:
        if self.separator in word:
            return Lost("the word holds the separator")
        wrong = []
        for _ in range(_TRIES * self.negatives):
            spelt = mistyped(letters, chance.choice(self.edits), self.listed, chance)
            if spelt is not None and spelt != letters and spelt not in wrong and len(wrong) < self.negatives:
                wrong.append(spelt)
        return {
            "ask": f'Spell the word "{word}" letter by letter, with {_named(self.separator)} between the letters.',
            "right": self.separator.join(letters),
            "wrong": [{"text": self.separator.join(one), **_marked(one, letters, self.separator)} for one in wrong],
            "evidence": {"letters": letters},
        }

    def _repair(self, word: str, letters: list[str], chance: random.Random) -> Any:
        typos: list[tuple[Edit, list[str]]] = []
        for _ in range(_TRIES * max(1, self.negatives)):
            edit = chance.choice(self.edits)
            typo = mistyped(letters, edit, self.listed, chance)
            if typo is None or "".join(typo) in ["".join(one) for _, one in typos]:
                continue
            # The first is what is asked about, so only this word may explain it; the others are merely wrong.
            meant = self.listed.means("".join(typo)) if not typos else self.listed.words & {"".join(typo).casefold()}
            if meant == ({word.casefold()} if not typos else set()):
                typos.append((edit, typo))
            if len(typos) >= max(1, self.negatives):
                break
        if not typos:
            return Lost("every typo that was tried may stand for another word")
        edit, asked = typos[0]
        return {
            "ask": f'Correct the spelling of this word: "{"".join(asked)}"',
            "right": word,
            "wrong": [{"text": "".join(one), **_marked(one, letters, "")} for _, one in typos[: self.negatives]],
            "evidence": {"typo": "".join(asked), "edit": edit},
        }

    def _count(self, word: str, letters: list[str], chance: random.Random, task: Task) -> Any:
        plain = [_plain(letter) for letter in letters]
        if task == "length":
            ask, counted = f'How many letters does the word "{word}" have?', plain
            hits = [True] * len(letters)
            evidence: dict[str, Any] = {"letters": len(letters)}
        else:
            counts = Counter(plain)
            absent = [one for one in self.listed.alphabet(plain[0])[:40] if one not in counts]
            repeated = [one for one in sorted(counts) if counts[one] > 1]
            # Letters that come twice or more are where models err; one question in eight asks for a letter that is not there.
            pools = [repeated or plain, repeated or plain, plain, absent or plain]
            letter = chance.choice(chance.choices(pools, weights=[2, 2, 3, 1])[0])
            ask, counted = f'How many times does the letter "{letter}" occur in the word "{word}"?', plain
            hits = [one == letter for one in counted]
            evidence = {"letter": letter}
        number = sum(hits)
        shown = ""
        if self.steps:
            running, parts = 0, []
            for letter, hit in zip(letters, hits):
                running += hit
                parts.append(f"{letter}({running})" if hit else letter)
            shown = f"{self.separator.join(parts)}: "
        others = [one for one in (number + 1, number - 1, number + 2, number - 2) if one >= 0]
        wrong = [f"{shown}{one}" for one in others[: self.negatives]]
        return {
            "ask": ask,
            "right": f"{shown}{number}",
            "wrong": [{"text": text, "start": len(shown), "end": len(text)} for text in wrong],
            "evidence": {**evidence, "count": number},
        }


def _items(source: Questions, tasks: Sequence[Task], run: Run, limit: int | None) -> Iterator[Item]:
    seen = Seen()
    for question in run.take(source, limit=limit):
        word = _word(question.prompt[-1].content)
        again = word is not None and not seen.add(word)
        for task in tasks:
            yield Item(f"{question.id}:{task}", {"word": word, "task": task, "again": again})


def _word(line: str) -> str | None:
    """The word of a line, composed (NFC), without a frequency behind it; None where it holds anything but letters."""
    found = re.fullmatch(r"\s*(\S+)(?:\s+\d+)?\s*", unicodedata.normalize("NFC", line))
    if found is None or not all(letter[0].isalpha() for letter in letters_of(found[1])):
        return None
    return found[1]


def _named(separator: str) -> str:
    return {"-": "a hyphen", " ": "a space", ", ": "a comma"}.get(separator, f'"{separator}"')


def _marked(wrong: Sequence[str], right: Sequence[str], joint: str) -> dict[str, int]:
    """Where the letters of `wrong` part from `right`, in code points of the joined text.

    Where letters are only missing, the letter behind the gap is marked: there the text leaves the right one.
    """
    shared = min(len(wrong), len(right))
    first = next((n for n in range(shared) if wrong[n] != right[n]), shared - 1)
    tail = next((n for n in range(shared - first) if wrong[-1 - n] != right[-1 - n]), shared - first)
    last = max(first + 1, len(wrong) - tail)
    start = sum(len(letter) + len(joint) for letter in wrong[:first])
    return {"start": start, "end": start + len(joint.join(wrong[first:last]))}


def _records(run: Run, rows: Iterator[Any]) -> Iterator[Record]:
    for row in rows:
        word, task, found = row.value["word"], row.value["task"], row.result
        run.count("questions", task)
        prompt = (Message(role="user", content=found["ask"]),)
        for answer in ({"text": found["right"]}, *found["wrong"]):
            polarity: Polarity = "negative" if "start" in answer else "positive"
            spans = (Span(start=answer["start"], end=answer["end"], polarity="negative"),) if "start" in answer else ()
            yield Record(
                id=make_id(word, polarity, prompt, answer["text"], spans=spans, source=SOURCE),
                group=word,
                prompt=prompt,
                response=answer["text"],
                polarity=polarity,
                spans=spans,
                source=SOURCE,
                evidence={"word": word, "task": task, "right": found["right"], **found["evidence"]},
            )


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
