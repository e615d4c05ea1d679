"""The folders of all shards -> one run folder, if they are one whole."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from distill.errors import RecipeError
from distill.recipes.cache import replace_file
from distill.recipes.shards import FILE, Note, read_note

if TYPE_CHECKING:
    from distill.records import Record
    from distill.records.manifest import Manifest


def merge_shards(out: Path, folders: Sequence[Path]) -> Manifest:
    """Make one run folder of the folders of all shards: records, lost.jsonl, summary.json, config.yaml and manifest.

    Where the rows of a recipe do not depend on one another, the record shards have the bytes of the undivided run. A record that
    several shards made (its id says what it says) is kept once. Nothing is held in memory but 8 bytes a record.

    Raises RecipeError where the shards are not one whole: which are missing, unfinished, given twice, or of other settings or
    sources; RecordError where a shard's files are not the ones that its manifest lists.
    """
    from distill.records import write_card, write_manifest, write_records
    from distill.records.manifest import verify

    notes = {folder: read_note(folder) for folder in dict.fromkeys(folders)}
    parts = _whole(notes)
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise RecipeError(f"{out} is the folder of a shard; merge into a new one")
    if (out / "stages").exists():
        raise RecipeError(f"{out} is the folder of another run; merge into a new one")
    holding = [folder / "records" for folder, note in parts if note.records]
    if not holding:
        raise RecipeError(
            f"none of the {len(parts)} shards has a record; {parts[0][0] / 'summary.json'} says where the rows went"
        )
    manifests = [verify(folder) for folder in holding]
    out.mkdir(parents=True, exist_ok=True)
    accounts = sum_accounts(json.loads((folder / "summary.json").read_bytes()) for folder, _ in parts)
    repeated = _repeated(holding)
    if repeated:
        accounts.setdefault("counts", {})["records that several shards made"] = {"kept once": len(repeated)}
    _merge_lost(
        [folder / "lost.jsonl" for folder, _ in parts], [stage["name"] for stage in accounts["stages"]], out / "lost.jsonl"
    )
    replace_file(out / "summary.json", json.dumps(accounts, indent=2, ensure_ascii=False) + "\n")
    if (parts[0][0] / "config.yaml").is_file():  # a run started from Python has none
        shutil.copyfile(parts[0][0] / "config.yaml", out / "config.yaml")
    manifest = write_records(_once(holding, repeated), out / "records", about=manifests[0])
    lost = sum((Counter(stage["lost"]) for stage in accounts["stages"]), Counter())
    usage = accounts.get("total", {}).get("usage", {})
    manifest = replace(manifest, lost=dict(sorted(lost.items())), usage=usage)
    write_manifest(out / "records", manifest)
    write_card(out / "records", manifest)
    return manifest


def sum_accounts(several: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """summary.json of all shards -> that of the whole: numbers add up, stages are matched by name.

    >>> sum_accounts([{"stages": [{"name": "ask", "in": 2}]}, {"stages": [{"name": "ask", "in": 3}]}])
    {'stages': [{'name': 'ask', 'in': 5}]}
    """
    total: Any = None
    for one in several:
        total = one if total is None else _sum(total, one)
    return dict(total or {})


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        return {name: _sum(left.get(name), right.get(name)) for name in {**left, **right}}
    if isinstance(left, list) and isinstance(right, list):
        named = {one["name"]: one for one in right}
        both = [_sum(one, named.pop(one["name"], None)) for one in left]
        return both + list(named.values())
    if left is None or right is None:
        return right if left is None else left
    if isinstance(left, int) and isinstance(right, int) and not isinstance(left, bool):
        return left + right
    if isinstance(left, int | float) and isinstance(right, int | float) and not isinstance(left, bool):
        return round(left + right, 9)  # the digits that a cost has
    return left


def _whole(notes: dict[Path, Note | None]) -> list[tuple[Path, Note]]:
    """The folders in the order of their shards, if they are all there, finished and of one run."""
    strangers = [folder for folder, note in notes.items() if note is None]
    if strangers or not notes:
        which = strangers[0] if strangers else "no folder given"
        raise RecipeError(f"{which}: no {FILE} in it; give the --out folders of runs that were started with --shard i/n")
    parts = sorted(((folder, note) for folder, note in notes.items() if note is not None), key=lambda one: one[1].shard.index)
    first_folder, first = parts[0]
    problems = []
    for folder, note in parts[1:]:
        if note.shard.count != first.shard.count:
            problems.append(f"{folder} is shard {note.shard}, and {first_folder} is shard {first.shard}: not of one division")
    given = Counter(note.shard.index for _, note in parts)
    for index in (index for index, times in given.items() if times > 1):
        which = ", ".join(str(folder) for folder, note in parts if note.shard.index == index)
        problems.append(f"shard {index}/{first.shard.count} is given {given[index]} times ({which})")
    missing = [f"{index}/{first.shard.count}" for index in range(first.shard.count) if index not in given]
    if missing:
        problems.append(f"missing: shard {', '.join(missing[:20])}{' and more' if len(missing) > 20 else ''}")
    problems += [
        f"{folder} (shard {note.shard}) is not finished; give its command again" for folder, note in parts if note.records is None
    ]
    whole = [(folder, note) for folder, note in parts if note.records is not None]
    for folder, note in whole[1:]:
        then_folder, then = whole[0]
        if (note.recipe, note.recipe_hash) != (then.recipe, then.recipe_hash):
            problems.append(f"{folder} and {then_folder} were made by other recipes or settings; compare their config.yaml")
        elif note.sources != then.sources:
            problems.append(f"{folder} and {then_folder} were cut from other sources, or with another limit")
    if problems:
        raise RecipeError("these shards are not one whole:\n  " + "\n  ".join(problems))
    return parts


def _repeated(folders: Sequence[Path]) -> set[int]:
    """Hashes of the ids that several records have."""
    import numpy as np

    from distill.records import read_records

    ids = array("q", (hash(record.id) for folder in folders for record in read_records(folder)))
    hashes = np.sort(np.frombuffer(ids, dtype=np.int64))
    return set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def _once(folders: Sequence[Path], repeated: set[int]) -> Iterator[Record]:
    from distill.records import read_records

    seen: set[int] = set()
    for folder in folders:
        for record in read_records(folder):
            named = hash(record.id)
            if named in seen:
                continue
            if named in repeated:
                seen.add(named)
            yield record


def _merge_lost(files: Sequence[Path], stages: Sequence[str], out: Path) -> None:
    """Stage by stage, and in each of them shard by shard: the order of the undivided run."""
    temporary = out.with_name(out.name + ".tmp")
    with open(temporary, "wb") as whole, ExitStack() as stack:
        opened: list[IO[bytes]] = [stack.enter_context(open(file, "rb")) for file in files]
        for stage in stages:
            for file in opened:
                file.seek(0)
                whole.writelines(line for line in file if json.loads(line)["stage"] == stage)
        whole.flush()
        os.fsync(whole.fileno())
    os.replace(temporary, out)
