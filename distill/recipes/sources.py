"""Where a recipe's rows come from: a file, a packaged example, facts that packages know, or a data set; each a stream."""

from __future__ import annotations

import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError, RecipeError
from distill.recipes.discover import package_name

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = ".jsonl, .csv, .parquet or .txt"
OTHERS = "example:NAME, facts:NAME or datasets:NAME[,CONFIG][:SPLIT]"
READ_ROWS = 1024  # rows of a table in memory at a time
FACTS = {
    "countries": ("capital", "continent"),
    "currencies": ("currency",),
    "elements": ("symbol", "atomic_number"),
    "invented": ("capital", "continent", "currency", "symbol", "atomic_number"),
}
Rows = Iterator[tuple[str, dict[str, Any]]]


class Source(ABC):
    """Rows that can be read again and again, a few at a time."""

    @abstractmethod
    def rows(self) -> Rows:
        """Each row with its place (`file:line`) for errors. Raises RecipeError where there is nothing to read."""

    @property
    def own_ids(self) -> bool:
        """Whether its rows are sure to come with an id; else one is made from the prompt."""
        return True


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """A .jsonl (.ndjson), .csv or .parquet file with named columns, or a .txt file with one prompt a line."""

    path: Path

    def rows(self) -> Rows:
        if not self.path.is_file():
            raise RecipeError(f"{self.path}: no such file; questions come as {FORMATS}, or as {OTHERS}")
        kind = self.path.suffix.lower()
        reader = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet, ".txt": _text}.get(kind)
        if reader is None:
            raise RecipeError(f"{self.path}: questions come as {FORMATS}, not {kind or 'a file without a suffix'}")
        return reader(self.path)

    @property
    def own_ids(self) -> bool:
        return self.path.suffix.lower() != ".txt"


@dataclass(frozen=True, kw_only=True)
class FactSource(Source):
    """Questions on countries, currencies or elements with every accepted answer; `invented`: on what does not exist, without any.

    Columns: id, prompt, answers, and entity, topic, split (train, validation or test, by entity) and start (the opening that an
    answer has, for a last message of the assistant).
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse an unknown name at once."""
        if self.name not in FACTS:
            raise RecipeError(f"facts:{self.name}: no such facts; there are {', '.join(FACTS)}")

    def rows(self) -> Rows:
        from distill.recipes.facts import facts

        # Not the inventions that the quickstart trains and chooses on.
        splits = {"invented"} if self.name == "invented" else {"train", "validation", "test"}
        number = 0
        for fact in facts():
            if fact.topic in FACTS[self.name] and fact.split in splits:
                number += 1
                more = {"entity": fact.entity, "topic": fact.topic, "split": fact.split, "start": fact.start}
                row = {"id": fact.id, "prompt": fact.question, "answers": list(fact.accepted), **more}
                yield f"facts:{self.name}, row {number}", row


@dataclass(frozen=True, kw_only=True)
class DatasetSource(Source):
    """A data set that the library `datasets` loads: of the hub, or a folder or file here. It is memory-mapped, not held."""

    name: str
    config: str | None = None
    split: str | None = None

    def rows(self) -> Rows:
        number = 0
        for batch in self._table.iter(batch_size=READ_ROWS):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield f"datasets:{self.name}, row {number}", dict(zip(batch, map(plain, values), strict=True))

    @property
    def own_ids(self) -> bool:
        return "id" in self._table.column_names

    @cached_property
    def _table(self) -> Dataset:
        import datasets
        from datasets.exceptions import DatasetsError

        try:
            found = self._load(datasets)
        except (OSError, ValueError, DatasetsError) as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise RecipeError(
                f"datasets:{self.name}: the library datasets cannot load it ({type(error).__name__}: {cause})"
            ) from error
        if not isinstance(found, datasets.Dataset):
            if len(found) != 1:
                raise RecipeError(
                    f"datasets:{self.name}: it has the splits {', '.join(map(str, found))}; name one: datasets:{self.name}:SPLIT"
                )
            (found,) = found.values()
        media = [
            name for name, kind in found.features.items() if isinstance(kind, datasets.Image | datasets.Audio | datasets.Video)
        ]
        return found.remove_columns(media)

    def _load(self, datasets: Any) -> Any:
        path = Path(self.name)
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(str(path))
            if self.split is None or isinstance(found, datasets.Dataset):
                return found
            if self.split not in found:
                raise ValueError(f"no split {self.split!r}; it has {', '.join(found)}")
            return found[self.split]
        if path.is_file():
            kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".arrow": "arrow"}
            if path.suffix not in kinds:
                raise ValueError(f"a file that ends in {path.suffix!r}; it reads {', '.join(kinds)}")
            return datasets.load_dataset(kinds[path.suffix], data_files=str(path), split=self.split)
        return datasets.load_dataset(self.name, self.config, split=self.split)


def find_source(text: str) -> Source:
    """The source that a text names.

    Raises RecipeError or ConfigError that lists what there is, for an example or facts that are not there.

    >>> find_source("datasets:openai/gsm8k,main:train[:100]")
    DatasetSource(name='openai/gsm8k', config='main', split='train[:100]')
    """
    kind, colon, name = text.partition(":")
    if colon and kind == "example":
        return FileSource(path=example_file(name))
    if colon and kind == "facts":
        return FactSource(name=name)
    if colon and kind == "datasets":
        place, _, split = name.partition(":")
        place, _, config = place.partition(",")
        if not place:
            raise RecipeError(f"{text!r}: names no data set; write datasets:NAME[,CONFIG][:SPLIT]")
        return DatasetSource(name=place, config=config or None, split=split or None)
    return FileSource(path=Path(text))


def example_file(name: str) -> Path:
    """The packaged file of `example:NAME`. Raises ConfigError with the names there are."""
    from importlib.resources import files

    folder = Path(str(files(package_name()).joinpath("examples")))
    found = folder / f"{name}.jsonl"
    if not found.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl"))) or "none"
        raise ConfigError(f"example:{name}: no such example; there are {known}")
    return found


def plain(value: Any) -> Any:
    """A table's cell as JSON: times as ISO 8601, no number for NaN and infinities, bytes and what else JSON cannot hold left out.

    >>> plain({"at": date(2026, 1, 2), "score": float("nan")})
    {'at': '2026-01-02', 'score': None}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return None


def _jsonl(path: Path) -> Rows:
    for where, line in _lines(path):
        try:
            row = json.loads(line, parse_constant=lambda _: None)  # NaN and Infinity are not JSON
        except ValueError as error:
            raise RecipeError(f"{where}: not JSON ({error}); each line is one object with an id and a prompt") from error
        if not isinstance(row, dict):
            raise RecipeError(f"{where}: expected an object, got {type(row).__name__}")
        yield where, row


def _csv(path: Path) -> Rows:
    reader = csv.DictReader(text + "\n" for _, text in _lines(path, blank=True))
    for row in reader:
        if None in row:
            raise RecipeError(f"{path}:{reader.line_num}: more cells than the header has; quote a cell that holds a comma")
        yield f"{path}:{reader.line_num}", row


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=READ_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: plain(value) for name, value in row.items()}
    except (pa.ArrowException, OSError) as error:
        raise RecipeError(
            f"{path}: not a whole Parquet file after row {number} ({str(error).splitlines()[0]}); write or copy it again"
        ) from error


def _text(path: Path) -> Rows:
    for where, line in _lines(path):
        yield where, {"prompt": line}


def _lines(path: Path, *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Text lines without their ends; blank ones left out unless asked for (a quoted CSV cell may hold one)."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise RecipeError(f"{path}:{number}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
            if blank or line.strip():
                yield f"{path}:{number}", line
