"""What repeats: near-duplicate prompts inside a set, and what of a test set a training set holds.

Near-duplicates: two prompts whose sets of letter n-grams have a Jaccard similarity of at least the threshold. MinHash with
locality-sensitive hashing (datasketch) proposes candidates, and each is then compared exactly, so that nothing is dropped on an
estimate; what hashing misses is measured on docs/how-to/overlap.md.
Contamination: a training row holds a run of 13 words of a test row, or a short test prompt as a whole, or a near-duplicate of a
test prompt. Runs that stand in more than ten test rows are the wording of a template, not of a question, and do not count.

Source: deduplication with MinHash, Lee et al. 2022 (https://arxiv.org/abs/2107.06499); 13-grams of words and the limit of ten,
Brown et al. 2020, appendix C (https://arxiv.org/abs/2005.14165), there ten times in the training data.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.errors import ConfigError
from distill.recipes.questions import read_questions
from distill.records import Prompt, Record, read_records

if TYPE_CHECKING:
    from datasketch import MinHash

SHORT = 5  # words: a shorter test prompt is found only where it is the whole of a training prompt
TEMPLATE = 10  # test rows: a run of words in more of them is no question's own
# One word, or one sign of a script that has no spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# What is calculated is no punctuation: 8 + 7 is not 8 - 7.
_SIGNS = r"[+×÷*/=^%±−√≤≥≠$€£¥]|(?<=\s)-(?=\s)|(?<=\d)-(?=\d)|(?<![\w-])-(?=\d)"
_WORDS = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|{_SIGNS}")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What counts as the same. Raises ConfigError for what cannot be, or where datasketch is not installed.

    threshold: Jaccard similarity of near-duplicates. shingle: letters of the n-grams that it is taken of. ngram: words of a run
    that two rows must not share. permutations: of MinHash; more finds more and costs time and memory in proportion.
    """

    threshold: float = 0.8
    shingle: int = 5
    ngram: int = 13
    permutations: int = 128

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold}: a Jaccard similarity lies above 0 and is at most 1, such as 0.8")
        if self.shingle < 1 or self.ngram < 1 or self.permutations < 16:
            raise ConfigError(
                f"shingle {self.shingle}, ngram {self.ngram}, permutations {self.permutations}: at least 1, 1 and 16"
            )
        if importlib.util.find_spec("datasketch") is None:
            raise ConfigError("looking for near-duplicates needs datasketch: pip install datasketch")


class Row(NamedTuple):
    """One text to compare: the row's id, its group, the user's words of its prompt, and its response ("" for a prompt alone)."""

    id: str
    group: str
    prompt: str
    response: str = ""


class Match(NamedTuple):
    """What a row repeats: the other row's id, how it was found, and how alike they are (Jaccard, 1 for the same words)."""

    id: str
    kind: str
    similarity: float


class NearDuplicates:
    """An index of prompts that finds the near-duplicates of one. Memory grows with what is added: docs/how-to/overlap.md."""

    def __init__(self, settings: Overlap) -> None:
        from datasketch import MinHashLSH

        self._settings = settings
        # Candidates are compared exactly afterwards, so a wrong one costs time and a missed one is lost: ten to one for recall.
        self._index = MinHashLSH(
            # Hashing for equality alone would be one band, which it refuses.
            threshold=min(settings.threshold, 0.95),
            num_perm=settings.permutations,
            weights=(0.1, 0.9),
            hashfunc=_short_key,
        )
        self._rows: list[tuple[str, str, str]] = []  # (id, group, plain prompt)
        self._last: tuple[str, str, bool, Match | None] = ("", "", False, None)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, row: Row, *, add: bool = False) -> Match | None:
        """The most similar prompt of another group, if it is similar enough; else, with `add`, the row joins the index.

        A prompt that the row's own group has in the index already is not added again.
        """
        if (row.group, row.prompt, add) == self._last[:3]:  # answers to one prompt come together
            return self._last[3]
        best = self._found(row, add=add)
        self._last = (row.group, row.prompt, add, best)
        return best

    def _found(self, row: Row, *, add: bool) -> Match | None:
        plain = _plain(row.prompt)
        grams = self._grams(plain)
        signature = self._signature(grams)
        best: Match | None = None
        known = False
        for place in sorted(self._index.query(signature)):
            other, group, text = self._rows[place]
            if group == row.group:
                known |= text == plain
                continue
            alike = 1.0 if text == plain else _jaccard(grams, self._grams(text))
            if alike >= self._settings.threshold and (best is None or alike > best.similarity):
                best = Match(other, "near-duplicate", alike)
        if best is None and add and not known:
            self._index.insert(len(self._rows), signature)
            self._rows.append((row.id, row.group, plain))
        return best

    def _grams(self, plain: str) -> set[str]:
        n = self._settings.shingle
        return {plain[at : at + n] for at in range(max(1, len(plain) - n + 1))}

    def _signature(self, grams: set[str]) -> MinHash:
        from datasketch import MinHash

        signature = MinHash(num_perm=self._settings.permutations, scheme="affine32")
        signature.update_batch([gram.encode() for gram in grams])
        return signature


class Contamination:
    """An index of a test set that says what of it a training row holds. Memory grows with the test set alone."""

    def __init__(self, settings: Overlap, rows: Iterable[Row]) -> None:
        self._settings = settings
        self._near = NearDuplicates(settings)
        self._runs: dict[int, str] = {}  # hash of a run of words -> the first test row that has it
        self._times: Counter[int] = Counter()
        self._lengths: set[int] = set()
        self._whole: dict[str, str] = {}
        self.rows = 0
        for row in rows:
            self._add(row)
        self.template_runs = sum(times > TEMPLATE for times in self._times.values())

    def find(self, row: Row) -> Match | None:
        """What a training row has of the test set, the plainest first: a whole prompt, a run of words, a near-duplicate."""
        words = _words(row.prompt)
        if (other := self._whole.get(" ".join(words))) is not None:
            return Match(other, "same prompt", 1.0)
        for text in (words, _words(row.response)):
            for length in self._lengths:
                for run in _runs(text, length):
                    if run in self._runs and self._times[run] <= TEMPLATE:
                        return Match(
                            self._runs[run],
                            f"{self._settings.ngram} words" if length == self._settings.ngram else "short prompt",
                            1.0,
                        )
        # No row of the test set is of the training row's group, whatever its name.
        return self._near.find(row._replace(group="\0"))

    def _add(self, row: Row) -> None:
        self.rows += 1
        self._near.find(row, add=True)
        words = _words(row.prompt)
        self._whole.setdefault(" ".join(words), row.id)
        length = min(len(words), self._settings.ngram)
        own: set[int] = set()
        if length >= min(SHORT, self._settings.ngram):
            self._lengths.add(length)
            own.update(_runs(words, length))
        answer = _words(row.response)
        if len(answer) >= self._settings.ngram:
            self._lengths.add(self._settings.ngram)
            own.update(_runs(answer, self._settings.ngram))
        for run in own:
            self._runs.setdefault(run, row.id)
            self._times[run] += 1


@dataclass(kw_only=True)
class Counted:
    """So many of the rows looked at, by kind, with the first examples."""

    rows: int = 0
    found: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Row, match: Match | None, most: int) -> None:
        """Count a row and what it repeats."""
        self.rows += 1
        if match is None:
            return
        self.found[match.kind] += 1
        if len(self.examples) < most:
            text = row.prompt if len(row.prompt) <= 200 else row.prompt[:200] + "..."
            self.examples.append(
                {"id": row.id, "repeats": match.id, "kind": match.kind, "similarity": round(match.similarity, 4), "prompt": text}
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON, with the share of rows."""
        share = round(self.found.total() / self.rows, 6) if self.rows else None
        return {
            "rows": self.rows,
            "found": self.found.total(),
            "share": share,
            "kinds": dict(self.found),
            "examples": self.examples,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """What repeats in a training set, and what it has of a test set (None without one)."""

    settings: dict[str, Any]
    near_duplicates: Counted
    contamination: Counted | None = None
    test_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """The whole account."""
        account = {"settings": self.settings, "near_duplicates": self.near_duplicates.to_json()}
        if self.contamination is not None:
            account["contamination"] = {"test_rows": self.test_rows, **self.contamination.to_json()}
        return account

    def __str__(self) -> str:
        lines = [_line("near-duplicates of an earlier group's prompt", self.near_duplicates)]
        if self.contamination is not None:
            lines.append(_line(f"rows that hold something of the {self.test_rows} test rows", self.contamination))
        return "\n".join(lines)


def overlap_report(train: Path | str, test: Path | str | None, settings: Overlap, *, examples: int = 20) -> Report:
    """Compare the prompts of a set with each other, one for each group and prompt, and its rows with a test set.

    train, test: records (a file or folder), or prompts as a recipe reads them. A row of records is compared with its response.
    """
    seen = NearDuplicates(settings)
    near, against = Counted(), None
    leak = None
    if test is not None:
        leak = Contamination(settings, rows_of(test))
        against = Counted()
    last: tuple[str, str] | None = None
    for row in rows_of(train):
        if (row.group, row.prompt) != last:  # positives and negatives of one question are no repetition
            near.add(row, seen.find(row, add=True), examples)
        last = (row.group, row.prompt)
        if leak is not None and against is not None:
            against.add(row, leak.find(row), examples)
    shown = {name: getattr(settings, name) for name in ("threshold", "shingle", "ngram", "permutations")}
    return Report(settings=shown, near_duplicates=near, contamination=against, test_rows=leak.rows if leak else 0)


def rows_of(source: Path | str) -> Iterator[Row]:
    """The rows to compare of records, or of prompts as a recipe reads them (a file, example:NAME, facts:NAME, datasets:NAME)."""
    if _holds_records(Path(source)):
        yield from (row_of(record) for record in read_records(source))
        return
    for question in read_questions(str(source)):
        yield Row(question.id, question.id, user_text(question.prompt))


def row_of(record: Record) -> Row:
    """What of a record is compared."""
    return Row(record.id, record.group, user_text(record.prompt), record.response)


def user_text(prompt: Prompt) -> str:
    """The user's words; a system message is the same in every row, and a started answer nearly so."""
    return "\n".join(message.content for message in prompt if message.role in ("user", "tool"))


def _holds_records(path: Path) -> bool:
    if path.is_dir():
        return True
    if path.suffix == ".parquet" and path.is_file():
        import pyarrow.parquet as parquet

        return "polarity" in parquet.read_schema(path).names
    if path.suffix == ".jsonl" and path.is_file():
        with path.open(encoding="utf-8") as lines:
            first = lines.readline()
        try:
            row = json.loads(first)
        except ValueError:
            return False
        return isinstance(row, dict) and "polarity" in row
    return False


def _plain(text: str) -> str:
    """Lower case, words and single spaces alone."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.casefold())


def _runs(words: list[str], length: int) -> Iterator[int]:
    """A 64-bit hash of each run of so many words."""
    for at in range(len(words) - length + 1):
        yield int.from_bytes(hashlib.blake2b(" ".join(words[at : at + length]).encode(), digest_size=8).digest())


def _short_key(band: bytes) -> bytes:
    return hashlib.blake2b(band, digest_size=8).digest()


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def _line(what: str, counted: Counted) -> str:
    number = counted.found.total()
    share = f" ({number / counted.rows:.2%})" if counted.rows else ""
    kinds = ", ".join(f"{times} {kind}" for kind, times in counted.found.most_common())
    first = "".join(
        f"\n  {one['id']} repeats {one['repeats']} ({one['kind']}, {one['similarity']})" for one in counted.examples[:3]
    )
    return f"{what}: {number} of {counted.rows}{share}{': ' if kinds else ''}{kinds}{first}"
