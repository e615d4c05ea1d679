"""What every teacher keeps to, whoever wrote it: found by walking distill.teachers for final classes.

A teacher in distill/teachers/X.py is made by `make_teacher(tiny_model_folder, folder)` in tests/teachers/test_X.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

import distill.teachers
from distill.errors import TeacherError
from distill.records import Message, Prompt
from distill.teachers.base import Generator, Sampling, Scorer, Teacher
from distill.teachers.logits import LogitTeacher

PROMPTS: tuple[Prompt, ...] = tuple(
    (Message(role="user", content=text),) for text in ("Gold?", "What is the capital of France?", "מה בירת ישראל?")
)
SAMPLINGS = (Sampling(max_tokens=5), Sampling(max_tokens=5, seed=1), Sampling(max_tokens=5, temperature=0))


def _final_classes() -> list[type[Teacher]]:
    found: dict[str, type[Teacher]] = {}
    for module in pkgutil.walk_packages(distill.teachers.__path__, "distill.teachers."):
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, Teacher) and not inspect.isabstract(kind):
                found[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return [kind for _, kind in sorted(found.items())]


CLASSES = _final_classes()


@pytest.fixture(scope="module", params=CLASSES, ids=lambda kind: kind.__name__)
def teacher(
    request: pytest.FixtureRequest, tiny_model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Teacher:
    name = request.param.__module__.rpartition(".")[2]
    path = Path(__file__).parents[1] / "teachers" / f"test_{name}.py"
    sys.modules.setdefault("test_teachers_contract", sys.modules[__name__])
    spec = importlib.util.spec_from_file_location(f"contract_of_{name}", path)
    assert path.is_file() and spec is not None and spec.loader is not None, f"{path.name} must define make_teacher"
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    made = tests.make_teacher(tiny_model_folder, tmp_path_factory.mktemp(name))
    assert isinstance(made, request.param)
    return made


def refuses(teacher: Generator, sampling: Sampling) -> bool:
    """Whether a backend cannot sample so; one that says so must refuse to generate, too."""
    try:
        teacher.check(sampling)
    except TeacherError:
        with pytest.raises(TeacherError):
            teacher.generate(PROMPTS, sampling)
        return True
    return False


def test_there_are_teachers() -> None:
    assert {"HuggingFaceTeacher", "ReplayTeacher"} <= {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_teacher_is_a_frozen_keyword_only_dataclass_with_a_docstring(kind: type[Teacher]) -> None:
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in fields(kind))
    assert kind.__doc__
    assert issubclass(kind, (Generator, Scorer, LogitTeacher))


def test_identity_is_json_the_same_each_time_and_names_no_place(teacher: Teacher) -> None:
    identity = dict(teacher.identity())
    text = json.dumps(identity, sort_keys=True)
    assert json.loads(text) == identity
    assert dict(teacher.identity()) == identity
    assert "/tmp" not in text and str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text


def test_no_prompts_give_no_completions_and_no_scores(teacher: Teacher) -> None:
    if isinstance(teacher, Generator):
        assert teacher.generate([], SAMPLINGS[0]) == []
    if isinstance(teacher, Scorer):
        assert teacher.score([], []) == []


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["seed 0", "seed 1", "greedy"])
def test_each_prompt_gets_n_completions_in_its_own_place(teacher: Teacher, sampling: Sampling) -> None:
    if not isinstance(teacher, Generator) or refuses(teacher, sampling):
        pytest.skip("generates nothing so")
    three = replace(sampling, n=3)
    found = teacher.generate(PROMPTS, three)
    assert [len(several) for several in found] == [3] * len(PROMPTS)
    backwards = teacher.generate(PROMPTS[::-1], three)
    assert [[one.text for one in several] for several in backwards[::-1]] == [[one.text for one in several] for several in found]
    assert all(0 <= one.tokens <= 5 and (one.log_prob is None or one.log_prob <= 0) for several in found for one in several)


def test_the_same_seed_says_the_same_again_and_greedy_says_one_thing(teacher: Teacher) -> None:
    if not isinstance(teacher, Generator):
        pytest.skip("generates nothing")
    for several in teacher.generate(PROMPTS, replace(SAMPLINGS[2], n=2)):
        assert several[0] == several[1]
    if refuses(teacher, SAMPLINGS[0]):
        return
    sampled = teacher.generate(PROMPTS, replace(SAMPLINGS[0], n=4))
    assert teacher.generate(PROMPTS, replace(SAMPLINGS[0], n=4)) == sampled
    other = teacher.generate(PROMPTS, replace(SAMPLINGS[1], n=4))
    assert [[one.text for one in several] for several in other] != [[one.text for one in several] for several in sampled]


def test_later_samples_continue_the_earlier_ones(teacher: Teacher) -> None:
    if not isinstance(teacher, Generator) or refuses(teacher, SAMPLINGS[0]):
        pytest.skip("generates nothing so")
    whole = teacher.generate(PROMPTS, replace(SAMPLINGS[0], n=4))
    parts = [teacher.generate(PROMPTS, replace(SAMPLINGS[0], n=2, skip=skip)) for skip in (0, 2)]
    for place, several in enumerate(whole):
        assert [one.text for one in several] == [one.text for part in parts for one in part[place]]


def test_each_pair_is_scored_in_its_own_place(teacher: Teacher) -> None:
    if not isinstance(teacher, Scorer):
        pytest.skip("scores nothing")
    responses = ["79", "Paris.", ""]
    found = teacher.score(PROMPTS, responses)
    assert ["".join(one.tokens) for one in found] == responses
    assert all(len(one.tokens) == len(one.log_probs) and all(value <= 0 for value in one.log_probs) for one in found)
    backwards = teacher.score(PROMPTS[::-1], responses[::-1])
    assert [one.log_prob for one in backwards[::-1]] == pytest.approx([one.log_prob for one in found], abs=1e-3)
    with pytest.raises(TeacherError):
        teacher.score(PROMPTS, responses[:2])
