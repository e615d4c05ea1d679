import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import ConfigError, RecipeError
from distill.recipes.command import recipe_parser, run_recipe
from distill.recipes.discover import list_recipes, load_recipe
from distill.records.files import read_records
from distill.records.manifest import verify

NAMES = [entry.name for entry in list_recipes()]
HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "how-to" / "recipes.md"


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("known\nunknown\nunsure\nrefuses\n")
    return ["--prompts", "q.txt", "--teacher", "parrot.Parrot"]


def files():
    return sorted(str(file) for file in Path().rglob("*"))


def test_the_recipes_are_found_without_being_listed_anywhere():
    assert "idk_consensus" in NAMES


@pytest.mark.parametrize("entry", list_recipes(), ids=lambda entry: entry.name)
def test_every_recipe_has_a_line_of_help_and_a_build_that_takes_a_run(entry):
    assert entry.summary.endswith(".") and len(entry.summary) <= 130
    module = load_recipe(entry.name)
    parameters = inspect.signature(module.build).parameters
    assert parameters["run"].kind is inspect.Parameter.KEYWORD_ONLY
    recipe_parser(module, entry.name)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'idk'; there are: .*idk_consensus"):
        load_recipe("idk")


def test_a_recipe_may_be_a_file_of_ones_own(questions, capsys):
    Path("own.py").write_text(
        '"""One record."""\n'
        "from distill.records import Message, Record\n"
        "def build(*, run, word: str = 'hi'):\n"
        "    ask = (Message(role='user', content='Say it.'),)\n"
        "    yield Record(id='a', group='a', prompt=ask, response=word, polarity='positive')\n"
    )
    assert run_recipe("own.py", ["--preview", "3", "--word", "ho"]) == 0
    assert json.loads(capsys.readouterr().out)["response"] == "ho"


def test_a_file_without_build_is_no_recipe(questions):
    Path("own.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="has no `build"):
        run_recipe("own.py", ["--preview", "3"])


@pytest.mark.skipif(not PAGE.is_file(), reason="not a source checkout")
def test_the_recipe_that_the_page_shows_how_to_write_runs(questions, capsys):
    printed = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert len(printed.splitlines()) <= 32
    Path("mine.py").write_text(printed, encoding="utf-8")
    assert run_recipe("mine.py", [*questions, "--out", "mine"]) == 0
    assert verify("mine/records").counts == {"negative": 3, "positive": 3}  # "A" cannot be shouted
    with pytest.raises(ConfigError, match="only one answer"):
        run_recipe("mine.py", [*questions, "--sampling.n", "2", "--preview", "1"])


def test_a_preview_prints_so_many_records_and_writes_nothing(questions, capsys):
    before = files()
    assert run_recipe("idk_consensus", [*questions, "--preview", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["response"] == " Paris."
    assert files() == before


def test_a_run_writes_records_manifest_config_and_accounts(questions, capsys):
    assert run_recipe("idk_consensus", [*questions, "--out", "run", "--teacher.name", "polly"]) == 0
    manifest = verify("run/records")
    assert manifest.recipe == "idk_consensus" and manifest.teacher == {"model": "polly"} and manifest.sampling["n"] == 10
    assert manifest.rows == len(list(read_records("run/records"))) > 0
    assert json.loads(Path("run/summary.json").read_text())["stages"][0]["in"] == 4
    assert Path("run/lost.jsonl").read_text() == ""
    assert "sample" in capsys.readouterr().out
    # The config beside the records makes them again.
    assert run_recipe("idk_consensus", ["--config", "run/config.yaml", "--out", "again"]) == 0
    again = verify("again/records")
    assert again.shards == manifest.shards and again.recipe_hash == manifest.recipe_hash
    assert Path("again/config.yaml").read_text() == Path("run/config.yaml").read_text()


def test_the_manifest_has_the_seed_of_the_recipe_and_where_it_has_none_that_of_the_sampling(questions):
    assert run_recipe("few_shot", ["--prompts", "example:questions", "--limit", "2", "--seed", "7", "--out", "shots"]) == 0
    assert verify("shots/records").seed == 7
    assert run_recipe("idk_consensus", [*questions, "--sampling.seed", "5", "--out", "run"]) == 0
    assert verify("run/records").seed == 5


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(questions, capsys):
    options = [*questions, "--batch_size", "1", "--out", "run", "--teacher.log", "log"]
    assert run_recipe("idk_consensus", [*options, "--teacher.interrupt_at", "unsure"]) == 130
    assert "Go on with the same command:\n  distill recipe idk_consensus --prompts q.txt" in capsys.readouterr().err
    assert run_recipe("idk_consensus", options) == 0
    assert Path("log").read_text().split() == ["known", "unknown", "unsure", "refuses"]


def test_options_that_cannot_be_right_are_refused_before_anything_is_written(questions, capsys):
    before = files()
    for options, message in [
        ([], "either --out"),
        (["--out", "run", "--preview", "1"], "either --out"),
        (["--preview", "0"], "at least one"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run_recipe("idk_consensus", [*questions, *options])
    with pytest.raises(ConfigError, match="negative_per_question 1; did you mean --negatives_per_question"):
        run_recipe("idk_consensus", [*questions, "--out", "run", "--negative_per_question", "1"])
    with pytest.raises(ConfigError, match="ConsensusLabeller"):
        run_recipe("idk_consensus", ["--prompts", "q.txt", "--teacher", "distill.consensus.ConsensusLabeller", "--out", "run"])
    assert files() == before
    assert capsys.readouterr().err == "", "the usage of fifty lines would hide the one that matters"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("sampling:\n  temprature: 1\n", r"^own.yaml:2: .*temprature.*did you mean --sampling.temperature"),
        ("labeller: {class_path: ConsensusLabeller, init_args: {treshold: 0.5}}\n", r"(?s)^own.yaml:1: .*did you mean threshold"),
        ("# sampling\nsampling: [\n", r"^own.yaml:3: not YAML"),
        ("abstention: ${oc.env:DISTILL_TEST_SECRET}\n", r"oc.env:DISTILL_TEST_SECRET.*saved config"),
    ],
)
def test_a_mistake_in_a_config_is_named_with_its_file_and_line(questions, monkeypatch, config, said):
    monkeypatch.setenv("DISTILL_TEST_SECRET", "hush, I don't know")
    Path("own.yaml").write_text(config)
    before = files()
    with pytest.raises(ConfigError, match=said) as raised:
        run_recipe("idk_consensus", [*questions, "--config", "own.yaml", "--out", "run"])
    assert "hush" not in str(raised.value)
    assert files() == before


def test_a_recipe_runs_as_a_module_and_reports_a_mistake_in_one_line(questions):
    command = [sys.executable, "-m", "data_recipes.idk_consensus", *questions]
    paths = {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    good = subprocess.run([*command, "--preview", "1"], env=paths, capture_output=True, text=True)
    assert good.returncode == 0 and json.loads(good.stdout)["source"] == "idk_consensus", good.stderr
    bad = subprocess.run([*command, "--preview", "1", "--prompts", "no.txt"], env=paths, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("python -m data_recipes.idk_consensus: error: no.txt: no such file")


def test_a_missing_file_is_known_before_the_generator_is_asked(questions):
    with pytest.raises(RecipeError, match="no such file"):
        run_recipe("idk_consensus", ["--prompts", "no.txt", "--teacher", "parrot.Parrot", "--teacher.log", "log", "--out", "run"])
    assert not Path("log").exists()
