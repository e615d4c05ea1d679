"""A recipe's records without what repeats: near-duplicate prompts, and what a test set holds too."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import IO, Any, Literal

from distill.errors import ConfigError
from distill.recipes.overlap import Contamination, Match, NearDuplicates, Overlap, row_of, rows_of
from distill.recipes.run import Run
from distill.recipes.stage import Item, Lost
from distill.records import Record

ACCOUNT = "overlap.jsonl"


def without_overlap(
    run: Run,
    records: Iterator[Record],
    *,
    near_duplicates: float | None,
    contamination: str | None,
    contaminated: Literal["drop", "report"],
) -> Generator[Record]:
    """The records, as they come, without those that repeat; a stage `overlap` of the run accounts for each of them.

    near_duplicates: leave out a prompt that is this similar (Jaccard) to one of a group that came before. contamination: a test
    set, as `rows_of` reads it. contaminated: whether records that hold part of it are left out, or only counted.
    Each is written to `overlap.jsonl` in the run's folder, with the row that it repeats. A shard of a run sees its own share
    alone: look at the merged records with `distill records overlap`.

    Raises ConfigError for a threshold that means nothing, or where datasketch is missing; RecipeError for a test set that cannot
    be read. Both before the first record.
    """
    if near_duplicates is None and contamination is None:
        return _as_they_are(records)
    if run.shard is not None and near_duplicates is not None:
        raise ConfigError(
            "--near_duplicates in a shard would not see the other shards: merge them, then distill records overlap the whole"
        )
    settings = Overlap() if near_duplicates is None else Overlap(threshold=near_duplicates)
    seen = None if near_duplicates is None else NearDuplicates(settings)
    leak = None if contamination is None else Contamination(settings, rows_of(contamination))
    return _filtered(run, records, seen, leak, drop=contaminated == "drop")


def _as_they_are(records: Iterator[Record]) -> Generator[Record]:
    yield from records


def _filtered(
    run: Run, records: Iterator[Record], seen: NearDuplicates | None, leak: Contamination | None, *, drop: bool
) -> Generator[Record]:
    account: IO[str] | None = None if run.folder is None else open(run.folder / ACCOUNT, "w", encoding="utf-8")  # noqa: SIM115 (closed below, when the records end)

    def look(items: list[Item]) -> list[Any]:
        return [_verdict(run, item.carried, seen, leak, account, drop=drop) for item in items]

    try:
        items = (Item(record.id, record.group, record) for record in records)
        # In order and in this thread, for a later prompt is compared with the earlier ones; made again rather than kept, for
        # what a record repeats depends on all that came before it.
        for row in run.map("overlap", items, look, key={"version": 1}, batch_size=64, keep=False):
            yield row.carried
    finally:
        if account is not None:
            account.close()


def _verdict(
    run: Run,
    record: Record,
    seen: NearDuplicates | None,
    leak: Contamination | None,
    account: IO[str] | None,
    *,
    drop: bool,
) -> Any:
    """True for a record that stays, or why it does not."""
    row = row_of(record)
    found = None if leak is None else leak.find(row)
    if found is not None:
        run.count("contamination", found.kind)
        _write(account, record, found, "dropped" if drop else "kept")
        if drop:
            return Lost(f"holds part of the test set ({found.kind})")
    near = None if seen is None else seen.find(row, add=True)
    if near is not None:
        _write(account, record, near, "dropped")
        return Lost("near-duplicate of an earlier group's prompt")
    return True


def _write(account: IO[str] | None, record: Record, match: Match, outcome: str) -> None:
    if account is not None:
        line = {"id": record.id, "group": record.group, "outcome": outcome, "repeats": match.id, "kind": match.kind}
        account.write(json.dumps({**line, "similarity": round(match.similarity, 4)}, ensure_ascii=False) + "\n")
