"""A local search index: BM25 over the passages of files, kept on disk where a folder is given."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError
from distill.judges.passages import Passage, Searcher, read_passages
from distill.judges.terms import index_terms

if TYPE_CHECKING:
    import bm25s

_FORMAT = 1  # of the index, and of how texts become passages and terms: a higher one builds old indices anew


@dataclass(frozen=True, kw_only=True)
class Bm25Searcher(Searcher):
    """BM25 over a corpus of files (.txt, .md, .jsonl, .parquet), by bm25s; built at the first search.

    corpus: the files. columns: what is read of a row, put one under the other. words: the longest passage. index: a folder that
    keeps the index, one for each corpus and setting, memory-mapped when it is opened again; None builds it in memory each time.
    k1, b: BM25's saturation and length normalisation. Needs bm25s (extra `judges`).

    Building holds all passages in memory, searching an index from a folder only what is read of it.

    Source: Robertson et al. 1994 (TREC-3), in the variant of Lucene.
    """

    corpus: tuple[Path, ...]
    columns: tuple[str, ...] = ("text",)
    words: int = 120
    k1: float = 1.5
    b: float = 0.75
    index: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse a corpus without files, rows without columns, passages without words."""
        if not self.corpus or not self.columns or self.words < 1:
            raise ConfigError(
                f"corpus {list(map(str, self.corpus))}, columns {list(self.columns)}, words {self.words}: give at least one each"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings, and opens or builds the index itself.
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def search(self, query: str, k: int) -> list[Passage]:
        """At most k passages that share a term with the query, best first."""
        terms = index_terms(query)
        index, passages = self._opened
        known = [term for term in terms if term in index.vocab_dict]
        if not known or k < 1:
            return []
        found = index.retrieve([known], k=min(k, len(passages)), show_progress=False)
        ranked = sorted(
            zip(found.scores[0].tolist(), found.documents[0].tolist(), strict=True), key=lambda one: (-one[0], one[1])
        )
        return [_passage(passages[place], score) for score, place in ranked if score > 0]

    @cached_property
    def _opened(self) -> tuple[bm25s.BM25, Sequence[dict[str, str]]]:
        """The index and its passages."""
        if find_spec("bm25s") is None:
            raise ConfigError("Bm25Searcher needs bm25s; install it with: pip install 'distill[judges]'")
        import bm25s

        if self.index is None:
            return self._built()
        folder = self.index / self._digest()
        if not (folder / "params.index.json").is_file():
            index, passages = self._built()
            partial = self.index / f".{folder.name}.{os.getpid()}"
            index.save(partial, corpus=passages, show_progress=False, raise_on_serialization_error=True)
            try:
                os.replace(partial, folder)
            except OSError:  # another process was quicker: its index is the same
                shutil.rmtree(partial)
        opened = bm25s.BM25.load(folder, mmap=True, load_corpus=True, allow_pickle=False, show_progress=False, verbosity=0)
        passages, opened.corpus = opened.corpus, None  # else a search reads the passages too, and gives no places
        return opened, passages

    def _built(self) -> tuple[bm25s.BM25, list[dict[str, str]]]:
        import bm25s

        passages = [
            {"id": one.id, "text": one.text, "title": one.title}
            for path in self.corpus
            for one in read_passages(Path(path), columns=self.columns, words=self.words)
        ]
        terms = [index_terms(f"{one['title']} {one['text']}") for one in passages]
        if not any(terms):
            raise ConfigError(f"corpus {', '.join(map(str, self.corpus))}: no text in it")
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", backend="numpy")
        index.index(terms, show_progress=False)
        return index, passages

    def _digest(self) -> str:
        """Names the corpus by its content, and the settings."""
        total = hashlib.sha256(json.dumps([_FORMAT, self.columns, self.words, self.k1, self.b]).encode())
        for path in self.corpus:
            if not Path(path).is_file():
                raise ConfigError(f"{path}: no such file; a corpus is .txt, .md, .jsonl and .parquet files")
            with Path(path).open("rb") as file:
                total.update(Path(path).name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:20]


def _passage(row: dict[str, str], score: float) -> Passage:
    return Passage(id=row["id"], text=row["text"], title=row["title"], score=round(float(score), 4))
