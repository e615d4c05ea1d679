"""What every recipe must obey. They are found by their files: a new one is tested with no edit here.

The fast tests put a fake in place of every local teacher. For a recipe that keeps only certain replies (a right sum, a JSON
object), REPLIES holds what the fake should say.
"""

import ast
import hashlib
import inspect
import json
import re
import socket
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from distill.errors import DistillError
from distill.recipes.command import recipe_parser, run_recipe
from distill.recipes.discover import list_recipes, load_recipe
from distill.records import record_from_json
from distill.records.manifest import verify
from distill.settings import parse
from distill.teachers.base import Completion, TokenScores
from distill.teachers.huggingface import HuggingFaceTeacher

ROOT = Path(__file__).parents[2]
RECIPES = [entry.name for entry in list_recipes()]
SOURCES = ("prompts", "statements", "documents", "topics", "words", "wordings")  # parameters that name a file of rows
ROWS = 6

# recipe -> (what is asked, number of the sample) -> the reply; by default "Answer A" to "Answer D", by the question alone.
Reply = Callable[[str, int], str]


def question_on_a_passage(asked: str, number: int) -> str:
    """A question on the passage between the two fences, or its answer: the first long word."""
    *_, passage, rest = re.split(r"^[0-9a-f]{16}$", asked, flags=re.MULTILINE)  # before it stands an example
    answer = next(word for word in re.findall(r"\w+", passage) if len(word) > 4)
    return answer if "Question:" in rest else f"Q: What begins entry {len(passage)}?\nA: {answer}"


REPLIES: dict[str, Reply] = {"questions": question_on_a_passage}

by_recipe = pytest.mark.parametrize("name", RECIPES)
checkout = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="not a source checkout")


def plain_reply(asked: str, number: int) -> str:
    letter = "ABCD"[_number(asked) % 4]
    return f"Answer {letter}" if number % 2 == 0 else f"Answer {'ABCD'[number % 4]} then"


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """`fake(recipe)`: from then on every local teacher is a parrot. Returns what it was asked, as a list that grows."""
    monkeypatch.chdir(tmp_path)

    def install(name: str, *, interrupt_after: int | None = None) -> list[str]:
        reply, asked = REPLIES.get(name, plain_reply), []

        def note(prompt):
            if interrupt_after is not None and len(asked) >= interrupt_after:
                raise KeyboardInterrupt
            asked.append(prompt[-1].content)
            return "\n".join(message.content for message in prompt)

        def generate(self, prompts, sampling, **_):
            numbers = range(sampling.skip, sampling.skip + sampling.n)
            texts = [[reply(text, number) for number in numbers] for text in map(note, prompts)]
            return [[Completion(text=t, tokens=len(t.split()), finish="stop", log_prob=-1.0) for t in some] for some in texts]

        def choose(self, prompts, options):
            return [tuple(-1.0 - _number(note(prompt) + option) % 7 for option in options) for prompt in prompts]

        def score(self, prompts, responses, **_):
            found = []
            for prompt, response in zip(prompts, responses, strict=True):
                note(prompt)
                words = tuple(response.split()) or (response,)
                found.append(TokenScores(tokens=words, log_probs=(-1.0,) * len(words), end_log_prob=-1.0))
            return found

        for method in (generate, choose, score):
            monkeypatch.setattr(HuggingFaceTeacher, method.__name__, method)
        monkeypatch.setattr(HuggingFaceTeacher, "identity", lambda self: {"teacher": "fake", "model": self.model})
        monkeypatch.setattr(HuggingFaceTeacher, "check", lambda self, *_, **__: None)
        monkeypatch.setattr(HuggingFaceTeacher, "count_tokens", lambda self, prompts: None)
        return asked

    return install


def limited(name):
    """Options for a short run."""
    return ["--limit", str(ROWS)] if "limit" in inspect.signature(load_recipe(name).build).parameters else []


def preview(name, capsys):
    capsys.readouterr()
    assert run_recipe(name, ["--preview", "2"]) == 0
    return capsys.readouterr().out


def checked(lines):
    records = [record_from_json(json.loads(line)) for line in lines.splitlines()]
    assert len(records) == 2
    assert all(record.source and record.evidence for record in records)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.parquet"))}


@checkout
@by_recipe
def test_a_recipe_has_its_config_its_page_and_its_tests(name):
    missing = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "configs" / "recipe" / f"{name}.yaml", ROOT / "docs" / "how-to" / "recipes" / f"{name}.md")
        if not path.is_file()
    ]
    if not any((ROOT / "tests" / "recipes" / f"test_{name}{end}.py").is_file() for end in ("", "_recipe")):
        missing.append(f"tests/recipes/test_{name}.py")
    assert missing == []


@checkout
@by_recipe
def test_a_recipe_says_in_one_line_what_it_makes_and_how_it_is_run(name):
    text = ast.get_docstring(ast.parse((ROOT / "data_recipes" / f"{name}.py").read_text(encoding="utf-8"))) or ""
    first, _, rest = text.partition("\n")
    assert first.endswith((".", "?", "!")) and len(first) <= 130
    assert f"python -m data_recipes.{name}" in rest or f"distill recipe {name}" in rest
    config = (ROOT / "configs" / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
    assert config.startswith("# ") and f"distill recipe {name}" in config and "${" not in config
    page = (ROOT / "docs" / "how-to" / "recipes" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith("# ") and f"distill recipe {name}" in page


@by_recipe
def test_build_takes_keywords_with_defaults_and_checks_before_it_yields(name):
    build = load_recipe(name).build
    parameters = inspect.signature(build).parameters
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())
    assert "run" in parameters and not inspect.isgeneratorfunction(build), "wrong options are refused when it is called"


@by_recipe
def test_the_shipped_config_is_complete(name):
    settings = parse(recipe_parser(load_recipe(name), name), ["--preview", "2"])
    assert settings.preview == 2


@by_recipe
def test_a_preview_prints_two_valid_records_the_same_each_time_and_writes_nothing(name, fake, capsys, tmp_path):
    fake(name)
    first = preview(name, capsys)
    checked(first)
    assert preview(name, capsys) == first
    assert not list(tmp_path.iterdir())


@by_recipe
def test_every_row_is_a_record_or_accounted_for(name, fake, capsys):
    fake(name)
    assert run_recipe(name, ["--out", "run", *limited(name)]) == 0
    stages = json.loads(Path("run/summary.json").read_text())["stages"]
    assert all(stage["in"] == stage["out"] + sum(stage["lost"].values()) for stage in stages)
    lost = Path("run/lost.jsonl").read_text().splitlines()
    assert len(lost) == sum(sum(stage["lost"].values()) for stage in stages)
    assert all(json.loads(line)["reason"] for line in lost)
    assert verify("run/records").rows > 0


@by_recipe
def test_an_interrupted_run_goes_on_to_the_same_bytes(name, fake, capsys):
    asked = fake(name)
    assert run_recipe(name, ["--out", "whole", *limited(name)]) == 0
    if not asked:
        pytest.skip("asks no teacher")
    fake(name, interrupt_after=len(asked) // 2)
    assert run_recipe(name, ["--out", "cut", *limited(name)]) == 130
    again = fake(name)
    assert run_recipe(name, ["--out", "cut", *limited(name)]) == 0
    assert files("cut/records") == files("whole/records")
    assert len(again) <= len(asked)
    assert run_recipe(name, ["--out", "cut", *limited(name)]) == 0
    assert files("cut/records") == files("whole/records")


@by_recipe
def test_a_file_that_cannot_be_read_is_named_with_its_line(name, fake):
    asked = fake(name)
    source = next((option for option in SOURCES if option in inspect.signature(load_recipe(name).build).parameters), None)
    if source is None:
        pytest.skip("reads no file of rows")
    row = {"id": "a", "prompt": "What?", "answers": ["That"], "statement": "It is.", "is_true": True, "text": "It is."}
    Path("bad.jsonl").write_text(json.dumps(row) + "\n{not json\n")
    with pytest.raises(DistillError, match=r"bad\.jsonl:2: "):
        run_recipe(name, [f"--{source}", "bad.jsonl", "--preview", "2"])
    assert asked == []


@pytest.fixture(scope="module")
def loaded_once():
    """The real small model, in memory once for all recipes, and no way to the network."""
    import distill.teachers.huggingface as local

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "load_model", lru_cache(local.load_model))
        patch.setattr(local, "load_tokenizer", lru_cache(local.load_tokenizer))
        patch.setattr(socket.socket, "connect", _no_network)
        yield


def _no_network(self, address):
    raise AssertionError(f"a recipe's preview asked the network for {address}")


@pytest.mark.slow
@by_recipe
def test_a_preview_with_the_shipped_config_and_the_small_model_works_without_network(
    name, smollm2, loaded_once, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    checked(preview(name, capsys))
    assert not list(tmp_path.iterdir())
