"""What a second start in a folder does: goes on, starts over, extends, or refuses; and that nothing is ever lost or leaked."""

import errno
import json
import os
from pathlib import Path

import pytest
from remote import Remote

from distill.errors import ConfigError, RecipeError
from distill.recipes import Run, read_questions
from distill.recipes.cache import Cache
from distill.recipes.command import run_recipe
from distill.recipes.run import Fingerprinted
from distill.records.files import read_records
from distill.records.manifest import read_manifest

SHOUT = str(Path(__file__).parent / "shout.py")
ITEMS = [(f"q{number}", number) for number in range(20)]


def done(folder, *, version: int = 1, items=ITEMS, **options) -> list[str]:
    """The ids that had to be computed."""
    ids: list[str] = []

    def work(batch):
        ids.extend(item.id for item in batch)
        return [item.value for item in batch]

    with Run(folder, quiet=True, **options) as run:
        list(run.map("ask", items, work, key={"version": version}, batch_size=4))
    return ids


def test_if_possible_goes_on_and_starts_a_stage_over_whose_settings_changed(tmp_path):
    assert len(done(tmp_path)) == 20
    assert done(tmp_path, resume="if_possible") == []
    assert len(done(tmp_path, version=2)) == 20
    assert done(tmp_path) == [], "the old results are still there"


def test_never_refuses_results_but_not_an_empty_folder(tmp_path):
    assert len(done(tmp_path, resume="never")) == 20
    with pytest.raises(RecipeError, match="already holds results; choose another folder, or start over with --fresh true"):
        done(tmp_path, resume="never")
    assert len(done(tmp_path, resume="never", fresh=True)) == 20


def test_always_insists_on_results_and_on_the_same_settings(tmp_path):
    with pytest.raises(RecipeError, match="holds no results to go on with; correct the folder"):
        done(tmp_path / "typo", resume="always")
    done(tmp_path, items=ITEMS[:12])
    assert len(done(tmp_path, resume="always")) == 8
    with pytest.raises(RecipeError, match=r"stage 'ask': changed: version \(1 -> 2\); resume=always goes on with the same"):
        done(tmp_path, version=2, resume="always")
    with pytest.raises(RecipeError, match="leave one of them out"):
        done(tmp_path, resume="always", fresh=True)
    with pytest.raises(RecipeError, match="expected never, if_possible or always"):
        done(tmp_path, resume="sometimes")


def test_a_refused_start_lets_the_next_one_in(tmp_path):
    done(tmp_path)
    with pytest.raises(RecipeError):
        Run(tmp_path, resume="never")
    assert done(tmp_path) == []


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts(range(20))
    return ["--prompts", "q.jsonl", "--teacher", "remote.Remote", "--workers", "3", "--out", "run"]


def prompts(numbers) -> None:
    Path("q.jsonl").write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"question {n}"}) + "\n" for n in numbers))


def requests() -> int:
    return int(read_manifest("run/records").usage["requests"])


def test_a_finished_folder_whose_prompts_changed_is_extended_only_when_told_to(command, capsys):
    assert isinstance(read_questions("q.jsonl"), Fingerprinted)
    assert run_recipe(SHOUT, command) == 0 == run_recipe(SHOUT, command)
    before = {record.id: record for record in read_records("run/records")}
    config = Path("run/config.yaml").read_bytes()
    prompts(range(4, 30))
    with pytest.raises(
        RecipeError, match=r"run is finished, and the source has changed since \(20 rows, hash .* -> 26 rows, hash"
    ):
        run_recipe(SHOUT, [*command, "--batch_size", "5"])
    assert Path("run/config.yaml").read_bytes() == config and read_manifest("run/records").rows == 20
    assert run_recipe(SHOUT, [*command, "--extend", "true"]) == 0
    assert requests() == 30, "the ten new ones were asked, the old ones were not"
    after = {record.id: record for record in read_records("run/records")}
    assert list(after) == [f"q{n}" for n in range(4, 30)]
    assert all(after[name] == before[name] for name in before.keys() & after.keys())
    assert run_recipe(SHOUT, command) == 0 and requests() == 30, "it is finished with the new ones now"


def test_a_folder_that_is_not_finished_goes_on_with_changed_prompts_and_says_so(command, capsys):
    assert run_recipe(SHOUT, [*command, "--max_tokens_total", "1000"]) == 3
    prompts(range(4, 30))
    assert run_recipe(SHOUT, command) == 0
    assert "rows that are the same are not done again" in capsys.readouterr().err
    assert read_manifest("run/records").rows == 26 and requests() == 30


def test_moved_prompts_are_the_same_prompts(command):
    assert run_recipe(SHOUT, command) == 0
    before = read_manifest("run/records")
    Path("q.jsonl").rename("moved.jsonl")
    assert run_recipe(SHOUT, ["--prompts", "moved.jsonl", *command[2:]]) == 0
    assert requests() == 20 and read_manifest("run/records").recipe_hash == before.recipe_hash


def test_a_config_that_was_torn_is_an_error_that_names_its_line(command):
    assert run_recipe(SHOUT, command) == 0
    whole = Path("run/config.yaml").read_text()
    Path("torn.yaml").write_text(whole[: whole.index("max_tokens") + 6])
    with pytest.raises(ConfigError, match=r"torn.yaml:\d+: "):
        run_recipe(SHOUT, ["--config", "torn.yaml", "--out", "again"])
    assert not Path("again").exists()


class FullDisk:
    """Everything can be written but this: the disk is full when it is brought to disk."""

    def __init__(self, monkeypatch, after: int) -> None:
        self.left, self.real = after, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.real(file)


@pytest.mark.parametrize("after", range(5))
def test_a_disk_that_is_full_while_writing_is_an_error_and_the_same_command_goes_on(command, monkeypatch, after):
    with monkeypatch.context() as patched:
        FullDisk(patched, after)
        with pytest.raises(RecipeError, match="run: the disk is full .*What is done is kept in stages/"):
            run_recipe(SHOUT, command)
    assert run_recipe(SHOUT, command) == 0
    assert read_manifest("run/records").rows == 20 and requests() == 20
    assert not [file for file in Path("run").rglob("*") if file.suffix in (".tmp", ".partial")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("distill.recipes.folder.open", refuse, raising=False)
    with pytest.raises(RecipeError, match=f"{tmp_path} cannot be written .*choose another folder"):
        Run(tmp_path)


def test_no_key_is_in_anything_that_a_run_leaves_or_says(command, capsys, monkeypatch):
    secret = "sk-THIS-IS-SECRET-0123456789"
    monkeypatch.setenv("FAKE_API_KEY", secret)
    keyed = [*command, "--teacher.api_key_env", "FAKE_API_KEY"]
    with pytest.raises(Exception, match="no answer to question 13"):
        run_recipe(SHOUT, [*keyed, "--teacher.refuses", "question 13"])
    assert run_recipe(SHOUT, [*keyed, "--max_tokens_total", "1500"]) == 3
    with Run("run", quiet=True) as run:  # with the log of writes beside the results
        run.map("ask", [], list, key={"asked": Remote(api_key_env="FAKE_API_KEY")})
        left = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    assert run_recipe(SHOUT, keyed) == 0
    left |= {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    assert {
        "results.sqlite",
        "results.sqlite-wal",
        "config.yaml",
        "manifest.json",
        "README.md",
        "summary.json",
        "lost.jsonl",
    } <= {file.name for file in left}
    assert not [file for file, text in left.items() if secret.encode() in text]
    assert b"FAKE_API_KEY" in Path("run/config.yaml").read_bytes(), "its name may be known"
    assert secret not in "".join(capsys.readouterr())


def test_a_database_another_program_writes_is_an_error_that_says_so(tmp_path):
    cache = Cache(tmp_path / "stages")
    with pytest.raises(RecipeError, match="another program has it open"):
        Cache(tmp_path / "stages")
    cache.close()
    Cache(tmp_path / "stages").close()
