"""The manifest proves what is in a folder; the card tells it to people."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from record_strategies import a_record

from distill.errors import RecordError
from distill.records import (
    Manifest,
    dataset_card,
    read_manifest,
    read_records,
    verify,
    write_card,
    write_manifest,
    write_records,
)

ABOUT = Manifest(
    recipe="data_recipes.facts",
    recipe_hash="0123456789abcdef",
    teacher={"model": "smollm2", "precision": "bfloat16"},
    sampling={"n": 10, "temperature": 0.8},
    seed=7,
    lost={"unparsable: a | b": 3},
    command="distill recipe facts",
    licence="cc-by-4.0",
    versions={"transformers": "5.23"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records((a_record(n, source="geonames") for n in range(1, 8)), tmp_path / "records", rows_per_shard=3, about=ABOUT)
    return tmp_path / "records"


def test_the_manifest_keeps_what_was_said_and_adds_what_was_measured(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.recipe, manifest.teacher, manifest.sampling, manifest.seed) == (
        ABOUT.recipe,
        ABOUT.teacher,
        ABOUT.sampling,
        7,
    )
    assert (manifest.rows, manifest.counts, manifest.groups) == (7, {"positive": 4, "negative": 3}, 4)
    assert manifest.sources == {"geonames": 7}
    assert [shard.rows for shard in manifest.shards] == [3, 3, 1]
    assert manifest.versions.keys() == {"distill", "pyarrow", "transformers"}
    assert manifest.created.endswith("+00:00")


def test_a_manifest_is_the_same_after_json(tmp_path: Path) -> None:
    for manifest in (ABOUT, Manifest()):
        write_manifest(tmp_path, manifest)
        assert read_manifest(tmp_path) == manifest


def test_a_manifest_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(RecordError, match=r"manifest teacher.temperature: got nan"):
        Manifest(teacher={"temperature": float("nan")})
    with pytest.raises(RecordError, match=r"manifest teacher.folder: .*expected JSON"):
        Manifest(teacher={"folder": Path("x")})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed shard": (
        lambda shard: shard.write_bytes(shard.read_bytes()[:-1] + b"x"),
        r"part-00001-of-00003.parquet: changed since it was written",
    ),
    "a missing shard": (lambda shard: shard.unlink(), r"part-00001-of-00003.parquet: missing; the manifest lists it with 3 rows"),
    "an extra shard": (lambda shard: shard.with_name("more.parquet").write_bytes(b""), r"more.parquet: not in the manifest"),
    "no manifest": (
        lambda shard: shard.with_name("manifest.json").unlink(),
        r"manifest.json: no manifest; the folder was not finished",
    ),
    "a cut manifest": (lambda shard: shard.with_name("manifest.json").write_text("{"), r"manifest.json: not JSON"),
    "a manifest of another program": (
        lambda shard: shard.with_name("manifest.json").write_text("{}"),
        r'expected an object with "format": 1',
    ),
    "a newer manifest": (lambda shard: shard.with_name("manifest.json").write_text('{"format": 2}'), r"update distill"),
    "an unknown key": (lambda shard: shard.with_name("manifest.json").write_text('{"format": 1, "x": 1}'), r"unknown key 'x'"),
    "a wrong type": (
        lambda shard: shard.with_name("manifest.json").write_text('{"format": 1, "groups": "4"}'),
        r"groups: got str, expected int",
    ),
    "a wrong shard": (
        lambda shard: shard.with_name("manifest.json").write_text('{"format": 1, "shards": [{"name": "a"}]}'),
        r"shards: each is an object",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_verification_names_what_is_wrong_in_a_folder(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    verify(folder)
    damage(folder / "part-00001-of-00003.parquet")
    with pytest.raises(RecordError, match=message):
        verify(folder)


def test_the_card_has_counts_sources_licence_command_losses_and_an_example_of_each_polarity(folder: Path) -> None:
    card = write_card(folder).read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "cc-by-4.0",
        "pretty_name": "Records of data_recipes.facts",
        "tags": ["distillation", "unlikelihood"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.parquet"}]}],
    }
    for line in (
        "| positive | 4 |",
        "| negative | 3 |",
        "| all | 7 |",
        "4 groups",
        "| geonames | 7 |",
        r"| unparsable: a \| b | 3 |",
        "- command: `distill recipe facts`",
        "- teacher: model smollm2, precision bfloat16",
        "- seed: 7",
        "## A positive record",
        '"response": "City 1"',
        "## A negative record",
        '"response": "City 2"',
        "cc-by-4.0",
    ):
        assert line in body
    assert verify(folder).rows == 7  # the card is no shard


def test_the_hub_library_loads_the_folder_by_its_card(folder: Path, tmp_path: Path) -> None:
    import datasets

    write_card(folder)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in loaded] == [record.id for record in read_records(folder)]
    assert json.loads(loaded[0]["evidence"]) == {}


def test_text_in_an_example_or_a_name_cannot_break_the_card(folder: Path) -> None:
    nasty = a_record(1, response="```\n---\n# Title\n````", evidence={"long": "x" * 5000})
    card = dataset_card(replace(read_manifest(folder), recipe='a": [\n---'), [nasty])
    header = card.split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(header)["pretty_name"] == 'Records of a": [\n---'
    assert "`````json\n{" in card
    assert "more characters)\n`````" in card


def test_a_card_of_an_empty_manifest_says_what_is_not_known() -> None:
    card = dataset_card(Manifest())
    assert "Not stated by whoever made these records." in card
    assert "| all | 0 |" in card


def test_many_sources_are_counted_together(tmp_path: Path) -> None:
    manifest = write_records((a_record(n, source=f"s{n}") for n in range(1, 301)), tmp_path / "a.jsonl")
    assert len(manifest.sources) == 101
    assert manifest.sources["(other sources)"] == 200
    assert sum(manifest.sources.values()) == 300
