"""The dataset card: the README.md beside the shards, for people and for the Hugging Face hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from distill.records.files import read_records
from distill.records.manifest import Manifest, read_manifest, write_whole
from distill.records.schema import POLARITIES, Record, record_to_json

CARD_NAME = "README.md"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_EXAMPLE_CHARACTERS = 2000  # of one example; a longer one is cut, and says so


def dataset_card(manifest: Manifest, examples: Iterable[Record] = ()) -> str:
    """Markdown with a YAML header: counts, source, licence, how the records were made, and one example of each polarity.

    The first positive and the first negative of `examples` are shown; no more of them are read than that takes.
    """
    title = f"Records of {manifest.recipe}" if manifest.recipe else "Records"
    parts = [
        _header(manifest, title),
        f"# {title}",
        "Prompts with responses that a language model should give (positive) or should not give (negative). "
        "Each row is one record of distill: "
        "`id`, `group` (the question), `prompt`, `response`, `polarity`, `weight`, `spans`, `source`, `evidence` (JSON text).",
        _made(manifest),
        "## What is inside",
        _table("polarity", "records", {name: manifest.counts.get(name, 0) for name in POLARITIES} | {"all": manifest.rows}),
        f"{manifest.groups} groups (questions). All records of one group belong to one split.",
    ]
    if any(manifest.sources):
        parts += ["## Sources", _table("source", "records", {name or "(not said)": n for name, n in manifest.sources.items()})]
    if manifest.lost:
        parts += ["## Rows lost on the way", _table("reason", "rows", manifest.lost)]
    for polarity, example in _first_of_each(examples).items():
        parts += [f"## A {polarity} record", _fenced(example)]
    parts += ["## Licence", manifest.licence if manifest.licence != "unknown" else "Not stated by whoever made these records."]
    if manifest.shards:
        shards = "\n".join(f"{shard.sha256}  {shard.name}" for shard in manifest.shards)
        parts += ["## Files", f"SHA-256 (`sha256sum -c` reads these lines):\n\n```\n{shards}\n```"]
    return "\n\n".join(parts) + "\n"


def write_card(folder: str | os.PathLike[str], manifest: Manifest | None = None) -> Path:
    """Write README.md beside the shards, with examples from them; the manifest is the folder's own unless given."""
    folder = Path(folder)
    return write_whole(folder / CARD_NAME, dataset_card(manifest or read_manifest(folder), read_records(folder)))


def _header(manifest: Manifest, title: str) -> str:
    size = next((name for limit, name in _SIZES if manifest.rows < limit), "n>10M")
    suffix = manifest.shards[0].name.rpartition(".")[2] if manifest.shards else "parquet"
    # A JSON string is a YAML string too, whatever it contains.
    lines = [
        f"license: {json.dumps(manifest.licence)}",
        f"pretty_name: {json.dumps(title)}",
        "tags:\n- distillation\n- unlikelihood",
        f"size_categories:\n- {size}",
        f'configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "*.{suffix}"',
    ]
    return "\n".join(["---", *lines, "---"])


def _made(manifest: Manifest) -> str:
    recipe_hash = f" (hash {manifest.recipe_hash[:12]})" if manifest.recipe_hash else ""
    facts = {
        "recipe": manifest.recipe and f"`{manifest.recipe}`{recipe_hash}",
        "command": manifest.command and f"`{manifest.command}`",
        "teacher": _listed(manifest.teacher),
        "sampling": _listed(manifest.sampling),
        "seed": "" if manifest.seed is None else str(manifest.seed),
        "made": manifest.created,
        "with": _listed(manifest.versions),
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items() if fact]
    return "\n".join(["## How it was made", "", *(lines or ["Not stated."])])


def _listed(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in facts.items())


def _table(left: str, right: str, rows: Mapping[str, int]) -> str:
    cells = [(name.replace("|", "\\|").replace("\n", " "), str(count)) for name, count in rows.items()]
    return "\n".join([f"| {left} | {right} |", "| --- | ---: |", *(f"| {name} | {count} |" for name, count in cells)])


def _first_of_each(records: Iterable[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record.polarity, record)
        if len(found) == len(POLARITIES):
            break
    return {polarity: found[polarity] for polarity in POLARITIES if polarity in found}


def _fenced(record: Record) -> str:
    """A record as indented JSON in a code fence that no text inside can close."""
    text = json.dumps(record_to_json(record), ensure_ascii=False, indent=2)
    if len(text) > _EXAMPLE_CHARACTERS:
        text = f"{text[:_EXAMPLE_CHARACTERS]}\n... ({len(text) - _EXAMPLE_CHARACTERS} more characters)"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
