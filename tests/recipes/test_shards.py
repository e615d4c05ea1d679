"""Job arrays: shares of a source, what their folders remember, and one run folder of all of them."""

import json
from pathlib import Path

import pytest

from distill.cli.recipe import recipe_command
from distill.errors import ConfigError, RecipeError, RecordError
from distill.recipes import Lost, Run, read_questions
from distill.recipes.command import run_recipe
from distill.recipes.merge import merge_shards
from distill.recipes.shards import Shard, parse_shard, read_note
from distill.records import Message, Record, read_records, write_records
from distill.records.manifest import read_manifest, verify

ROWS = 23


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"Say {n}."}) + "\n" for n in range(ROWS)))
    return Path("q.jsonl")


def work(items):
    return [Lost("sevens") if item.value % 7 == 0 else f"It is {item.value}." for item in items]


def records(run, source, *, limit=None, keep=lambda n: True):
    questions = {question.id: question for question in run.take(read_questions(source), limit=limit)}
    items = ((name, int(name[1:])) for name in questions if keep(int(name[1:])))
    for row in run.map("say", items, work, key={}, batch_size=4):
        run.count("last digit", row.id[-1])
        prompt = questions[row.id].prompt
        yield Record(id=row.id, group=row.id, prompt=prompt, response=row.result, polarity="positive")


def made(folder, source, *, shard=None, **options):
    with Run(folder, quiet=True, shard=None if shard is None else parse_shard(shard)) as run:
        return run.write_records(records(run, source, **options))


def shards_of(folder):
    return {file.name: file.read_bytes() for file in Path(folder, "records").glob("*.parquet")}


def without_time(folder):
    summary = json.loads(Path(folder, "summary.json").read_text())
    for part in (summary["total"], *summary["stages"]):
        part["seconds"] = 0
    return summary


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("limit", [None, 10])
def test_merged_shards_are_the_undivided_run(source, count, limit):
    whole = made("whole", source, limit=limit)
    folders = [Path(f"part{index}") for index in range(count)]
    for index in reversed(range(count)):
        made(folders[index], source, shard=f"{index}/{count}", limit=limit)
    merged = merge_shards(Path("merged"), folders[::-1])
    assert shards_of("merged") == shards_of("whole") and merged.shards == whole.shards
    assert Path("merged/lost.jsonl").read_bytes() == Path("whole/lost.jsonl").read_bytes()
    assert without_time("merged") == without_time("whole")
    assert (merged.lost, merged.counts, merged.groups) == (whole.lost, whole.counts, whole.groups)
    assert verify("merged/records") == read_manifest("merged/records")


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_row_is_in_exactly_one_shard_and_shards_differ_by_one_row_at_most(rows, count):
    shares = [Shard(index=index, count=count).of(rows) for index in range(count)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/2", "0/0", "1/2/3"])
def test_a_shard_that_there_is_not_is_refused(text):
    with pytest.raises(RecipeError, match="shard"):
        parse_shard(text)


def test_a_shard_may_have_no_record(source):
    for index in range(2):
        made(f"part{index}", source, shard=f"{index}/2", keep=lambda n: n >= 12)
    assert read_note(Path("part0")).records == 0 and not Path("part0/records").exists()
    assert merge_shards(Path("merged"), [Path("part0"), Path("part1")]).rows == 9
    for index in range(2):
        made(f"none{index}", source, shard=f"{index}/2", keep=lambda n: False)
    with pytest.raises(RecipeError, match="none of the 2 shards has a record"):
        merge_shards(Path("nothing"), [Path("none0"), Path("none1")])


def test_what_is_not_one_whole_is_refused_with_what_is_wrong(source):
    for index in range(3):
        made(f"part{index}", source, shard=f"{index}/3")
    made("other", source, shard="2/3", limit=20)
    made("half", source, shard="0/2")
    made("whole", source)
    with Run("open", quiet=True, shard=parse_shard("1/3")) as run:
        next(records(run, source))

    def refused(*folders, out="merged"):
        with pytest.raises((RecipeError, RecordError)) as raised:
            merge_shards(Path(out), list(map(Path, folders)))
        return str(raised.value)

    assert "missing: shard 1/3" in refused("part0", "part2")
    assert "shard 1/3 is given 2 times (part1, open)" in refused("part0", "part1", "part2", "open")
    assert "open (shard 1/3) is not finished; give its command again" in refused("part0", "open", "part2")
    assert "other and part0 were cut from other sources, or with another limit" in refused("part0", "part1", "other")
    assert "half is shard 0/2" in refused("half", "part0", "part1", "part2")
    assert "whole: no shard.json" in refused("part0", "whole")
    assert "is the folder of a shard" in refused("part0", "part1", "part2", out="part1")
    assert "is the folder of another run" in refused("part0", "part1", "part2", out="whole")
    note = json.loads(Path("part1/shard.json").read_text())
    Path("part1/shard.json").write_text(json.dumps({**note, "recipe_hash": "another"}))
    assert "part1 and part0 were made by other recipes or settings" in refused("part0", "part1", "part2")
    Path("part1/shard.json").write_text(json.dumps(note))
    assert not Path("merged").exists()
    next(Path("part1/records").glob("*.parquet")).write_bytes(b"")
    assert "changed since it was written" in refused("part0", "part1", "part2")


def test_a_folder_keeps_to_its_shard(source):
    made("part0", source, shard="0/2")
    for shard in ("1/2", None):
        with pytest.raises(RecipeError, match="part0 holds shard 0/2.*give --shard 0/2, or another folder"):
            made("part0", source, shard=shard)
    made("part0", source, shard="0/2")  # again


def test_a_source_without_a_length_has_no_shards():
    with Run(None, quiet=True, shard=parse_shard("0/2")) as run:
        with pytest.raises(RecipeError, match="a generator cannot say how many rows it has"):
            run.take(n for n in range(3))
        assert list(run.take(["a", "b", "c"])) == ["a"]


def test_a_record_that_several_shards_made_is_kept_once(source):
    said = Record(id="same", group="g", prompt=(Message(role="user", content="Hi"),), response="Hi", polarity="positive")
    for index in range(2):
        with Run(f"part{index}", quiet=True, shard=parse_shard(f"{index}/2")) as run:
            run.write_records([*records(run, source), said])
    merge_shards(Path("merged"), [Path("part0"), Path("part1")])
    assert [record.id for record in read_records("merged/records")].count("same") == 1
    assert json.loads(Path("merged/summary.json").read_text())["counts"]["records that several shards made"] == {"kept once": 1}


def test_the_command_runs_shards_and_merges_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("known\nunknown\nunsure\nrefuses\n")
    options = ["--prompts", "q.txt", "--teacher", "parrot.Parrot"]
    assert run_recipe("idk_consensus", [*options, "--out", "whole"]) == 0
    for index in range(2):
        assert run_recipe("idk_consensus", [*options, "--out", f"part{index}", "--shard", f"{index}/2"]) == 0
    with pytest.raises(RecipeError, match="missing: shard 1/2"):
        recipe_command(["merge", "merged", "part0"])
    assert recipe_command(["merge", "merged", "part0", "part1"]) == 0
    assert "records of 2 shards in merged/records" in capsys.readouterr().out
    assert shards_of("merged") == shards_of("whole")
    for name in ("config.yaml", "lost.jsonl"):
        assert Path("merged", name).read_text() == Path("whole", name).read_text()
    mine, theirs = read_manifest("merged/records"), read_manifest("whole/records")
    assert (mine.recipe, mine.recipe_hash, mine.teacher) == (theirs.recipe, theirs.recipe_hash, theirs.teacher)
    # With the settings that it holds, the merged folder is one that nobody can tell from the undivided run's.
    assert run_recipe("idk_consensus", ["--config", "merged/config.yaml", "--out", "again"]) == 0
    assert shards_of("again") == shards_of("whole")
    with pytest.raises(ConfigError, match="usage: distill recipe merge OUT FOLDER"):
        recipe_command(["merge", "merged"])


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("arithmetic", ["--problems", "20"]),
        ("arithmetic", ["--problems", "200", "--max_digits", "1", "--operations", "[add]", "--limit", "150"]),
        ("redefine", ["--kinds", "[constant, word]", "--limit", "20"]),
        ("salient_spans", ["--prompts", "null", "--records", "in.jsonl"]),
    ],
)
def test_rows_that_are_made_or_records_that_are_read_can_be_shared_out_too(tmp_path, monkeypatch, recipe, options):
    monkeypatch.chdir(tmp_path)
    prompt = (Message(role="user", content="When?"),)
    write_records(
        (Record(id=f"r{n}", group=f"g{n}", prompt=prompt, response=f"On 3 May 19{n:02}.", polarity="positive") for n in range(9)),
        "in.jsonl",
    )
    assert run_recipe(recipe, [*options, "--out", "whole"]) == 0
    for index in range(3):
        assert run_recipe(recipe, [*options, "--out", f"part{index}", "--shard", f"{index}/3"]) == 0
    merge_shards(Path("merged"), [Path(f"part{index}") for index in range(3)])
    assert shards_of("merged") == shards_of("whole")
    assert without_time("merged") == without_time("whole")


def test_a_recipe_that_takes_no_share_is_refused_as_a_shard(source):
    def all_of_it(run):
        items = ((question.id, int(question.id[1:])) for question in read_questions(source))
        for row in run.map("say", items, work, key={}, batch_size=4):
            prompt = (Message(role="user", content=row.id),)
            yield Record(id=row.id, group=row.id, prompt=prompt, response=row.result, polarity="positive")

    with Run("part", quiet=True, shard=parse_shard("0/2")) as run, pytest.raises(RecipeError, match=r"run.take\(source\)"):
        run.write_records(all_of_it(run))
