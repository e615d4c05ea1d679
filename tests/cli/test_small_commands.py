"""records, show, recipe, configs: thin commands over the library, tested through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.cli import main
from distill.cli.configs import config_arguments, find_config, shipped_configs
from distill.errors import ConfigError
from distill.records import Message, Record, read_records, write_records


@pytest.fixture
def records(tmp_path: Path) -> Path:
    ask = (Message(role="user", content="What is the capital of France?"),)
    rows = [
        Record(id="a", group="fr", prompt=ask, response="Paris.", polarity="positive"),
        Record(id="b", group="fr", prompt=ask, response="Lyon.", polarity="negative", weight=0.5),
    ]
    write_records(rows, tmp_path / "records.jsonl")
    return tmp_path / "records.jsonl"


def test_head_prints_records(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "head", str(records), "-n", "1"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["a"]


def test_validate_tells_good_from_bad_by_its_exit_code(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "validate", str(records)]) == 0
    records.write_text(records.read_text().replace('"weight":0.5', '"weight":NaN'))
    assert main(["records", "validate", str(records)]) == 1
    assert f"{records}:2" in capsys.readouterr().out


def test_conversion_to_trl_and_back_keeps_every_record(records: Path, tmp_path: Path) -> None:
    assert main(["records", "convert", str(records), str(tmp_path / "trl.jsonl"), "--to", "preference"]) == 0
    assert main(["records", "convert", str(tmp_path / "trl.jsonl"), str(tmp_path / "back.parquet"), "--from", "trl"]) == 0
    by_id = {record.id: record for record in read_records(tmp_path / "back.parquet")}
    assert by_id == {record.id: record for record in read_records(records)}


def test_a_conversion_that_cannot_be_written_leaves_no_file(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["records", "convert", str(records), str(tmp_path / "trl.csv"), "--to", "unpaired"]) == 2
    assert "written as .jsonl" in capsys.readouterr().err
    (tmp_path / "torn.jsonl").write_text('{"prompt": "x", "completion": "y", "label": true}\n{"prompt"\n')
    assert main(["records", "convert", str(tmp_path / "torn.jsonl"), str(tmp_path / "out.jsonl"), "--from", "trl"]) == 2
    assert "torn.jsonl:2" in capsys.readouterr().err
    assert main(["records", "convert", str(tmp_path / "torn.jsonl"), str(tmp_path / "out.jsonl"), "--to", "unpaired"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.jsonl", "torn.jsonl"]


def test_show_prints_what_is_trained(records: Path, tiny_model_folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(records), "--student", str(tiny_model_folder("llama")), "--color", "never"]) == 0
    text = capsys.readouterr().out
    assert "[+Pa" in text and "*0.5]" in text


def test_recipe_lists_each_recipe_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe"]) == 0
    assert "idk_consensus" in capsys.readouterr().out


def test_configs_are_listed_with_what_they_show_and_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    for (name, path), line in zip(shipped_configs().items(), listed.splitlines(), strict=True):
        assert line.startswith(name) and line.endswith("."), "the first line of a config is a whole sentence"
        assert main(["configs", "show", name]) == 0
        assert capsys.readouterr().out == path.read_text(encoding="utf-8")


def test_a_shipped_config_is_found_by_its_short_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_configs()["quickstart"]
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_config(name) == shipped
    assert config_arguments(["fit", "--config", "quickstart", "--x=1"]) == ["fit", "--config", str(shipped), "--x=1"]
    assert config_arguments(["-c", "quickstart", "--config=quickstart"]) == ["-c", str(shipped), f"--config={shipped}"]


def test_a_file_of_one_s_own_comes_before_a_shipped_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("model: {}\n")
    assert find_config("quickstart") == Path("quickstart")


def test_an_unknown_config_is_an_error_that_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="shipped: .*quickstart"):
        find_config("quikstart")


@pytest.mark.parametrize("command", ["signal", "show", "export", "chat"])
def test_help_never_gives_none_as_a_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "default: None" not in " ".join(capsys.readouterr().out.split())
