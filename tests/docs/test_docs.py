"""The documentation is true where a machine can tell: links, commands, options, code blocks, the glossary's rows."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distill.cli import COMMANDS
from distill.cli.configs import find_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="not a source checkout")
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after `distill` in every console block, comments and redirections left out."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:console|sh|bash)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\$ (?:\S*/)?distill\s+(.*)", line)
            if match:
                words = shlex.split(match[1], comments=True)
                yield words[: words.index(">")] if ">" in words else words


@by_page
def test_every_command_of_a_page_is_one_there_is(page: Path) -> None:
    inline = re.findall(r"`distill ([a-z][\w-]*)", page.read_text(encoding="utf-8"))
    named = {words[0] for words in command_lines(page) if words} | set(inline)
    assert {name for name in named if not name.startswith("-")} - set(COMMANDS) == set()


@by_page
def test_every_config_and_recipe_that_a_command_names_is_shipped(page: Path) -> None:
    from distill.recipes.discover import list_recipes

    recipes = {recipe.name for recipe in list_recipes()} | {"list", "merge"}
    for words in command_lines(page):
        for option, value in zip(words, words[1:]):
            if option == "--config" and "/" not in value.removeprefix("recipe/") and not value.endswith(".yaml"):
                assert find_config(value).is_file()
        if words[0] == "recipe" and len(words) > 1 and not words[1].startswith("-") and not words[1].endswith(".py"):
            assert words[1] in recipes


@pytest.fixture(scope="module")
def help_of() -> Callable[[str], str]:
    """The help text of one command that is parsed by argparse."""
    import contextlib
    import io

    found: dict[str, str] = {}

    def text(command: str) -> str:
        if command not in found:
            out = io.StringIO()
            arguments = [command.split()[-1], "--help"] if " " in command else ["--help"]
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                COMMANDS[command.split()[0]].load()(arguments)
            found[command] = out.getvalue()
        return found[command]

    return text


@by_page
def test_every_option_that_a_page_shows_exists(page: Path, help_of: Callable[[str], str]) -> None:
    unknown = []
    for words in command_lines(page):
        command = words[0] if words else "--help"
        options = [word.partition("=")[0] for word in words if word.startswith("--") and word not in ("--help", "--version")]
        if command in ("fit", "validate", "test", "predict"):
            unknown += [f"{command} {option}" for option in options if not is_training_option(option)]
        elif command in ("records", "configs") and len(words) > 1:
            unknown += [f"{command} {option}" for option in options if option not in help_of(f"{command} {words[1]}")]
        elif command in ("show", "signal", "evaluate", "export", "chat"):
            unknown += [f"{command} {option}" for option in options if option not in help_of(command)]
    assert unknown == []


def is_training_option(option: str) -> bool:
    """Whether `--model.x`, `--data.x` or `--trainer.x` is an argument of the class behind it; the rest by name."""
    import pytorch_lightning

    from distill.data import RecordDataModule
    from distill.student.module import StudentModule

    name = option.removeprefix("--").split(".")
    owners = {"model": StudentModule, "data": RecordDataModule, "trainer": pytorch_lightning.Trainer}
    if name[0] in owners and len(name) > 1:
        return name[1] in inspect.signature(owners[name[0]].__init__).parameters
    return option in ("--config", "--ckpt_path", "--out", "--overwrite", "--print_config", "--seed_everything")


def test_the_readme_s_python_runs_as_it_is_printed() -> None:
    sybil = pytest.importorskip("sybil")
    from sybil.parsers.markdown import PythonCodeBlockParser

    examples = list(sybil.Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "README.md"))
    assert len(examples) >= 3
    for example in examples:
        example.evaluate()


def test_the_python_of_the_training_page_runs_as_it_is_printed(tmp_path: Path, tiny_model_folder: Callable[[str], Path]) -> None:
    sybil = pytest.importorskip("sybil")
    from sybil.parsers.markdown import PythonCodeBlockParser

    document = sybil.Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "docs" / "how-to" / "train.md")
    document.namespace.update(FOLDER=tmp_path, STUDENT=str(tiny_model_folder("llama")))
    examples = list(document)
    assert examples
    for example in examples:
        example.evaluate()


def test_the_design_page_states_the_import_rules_that_are_tested() -> None:
    """The page's table is compared with RULES of tests/test_imports.py, read without running it as tests."""
    spec = importlib.util.spec_from_file_location("import_rules", ROOT / "tests" / "test_imports.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    table = page.partition("| part | may import |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE)
    stated = {part: set() if allowed == "nothing" else set(allowed.split(", ")) for part, allowed in rows}
    assert stated == {part: allowed - {part} for part, allowed in module.RULES.items()}


def glossary_rows() -> list[list[str]]:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not row.startswith(("| English ", "|---"))]


def test_every_row_of_the_glossary_is_complete_in_both_languages() -> None:
    rows = glossary_rows()
    assert len(rows) >= 45
    hebrew = re.compile(r'<span dir="rtl" lang="he">([^<]+)</span>')
    for row in rows:
        assert len(row) == 4, row
        english, term, plain, explained = row
        assert re.search("[A-Za-z]", english) and plain.endswith("."), row
        for cell in (term, explained):
            # Its own direction: else the full stop of a Hebrew sentence stands at its wrong end.
            match = hebrew.fullmatch(cell)
            assert match and re.search("[א-ת]", match[1]), row
        assert explained.removesuffix("</span>").endswith("."), row


def test_no_term_of_the_glossary_is_explained_twice() -> None:
    terms = [term.strip() for row in glossary_rows() for term in row[0].split(",")]
    assert sorted(set(terms)) == sorted(terms)
