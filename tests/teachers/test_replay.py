"""Laws of replayed completions: the same answers to the same settings, and plain words where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from distill.errors import TeacherError
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Generator, Sampling
from distill.teachers.replay import ReplayTeacher, record


def ask(text: str) -> Prompt:
    return (Message(role="user", content=text),)


QUESTIONS = (ask("Capital of France?"), ask("מה בירת ישראל?"), ask("Gold?"))


@dataclass(frozen=True, kw_only=True)
class Echo(Generator):
    """Says its prompt, its seed and the sample's number."""

    def identity(self) -> Mapping[str, Any]:
        return {"teacher": "echo"}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        numbers = range(sampling.skip, sampling.skip + sampling.n)
        return [
            [
                Completion(text=f"{prompt[0].content} {sampling.seed}.{number}", tokens=3, finish="stop", log_prob=-float(number))
                for number in numbers
            ]
            for prompt in prompts
        ]


def make_teacher(tiny_model_folder: Callable[[str], Path], folder: Path) -> ReplayTeacher:
    """For the contract tests: what the tiny model says to the contract's questions, under each of the contract's settings."""
    from test_teachers_contract import PROMPTS, SAMPLINGS

    from distill.teachers.huggingface import HuggingFaceTeacher

    generator = HuggingFaceTeacher(model=str(tiny_model_folder("llama")), dtype="float32")
    lines = []
    for number, sampling in enumerate(SAMPLINGS):
        record(generator, PROMPTS, replace(sampling, n=8), folder / f"{number}.jsonl")
        lines.append((folder / f"{number}.jsonl").read_text(encoding="utf-8"))
    (folder / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    return ReplayTeacher(path=str(folder / "all.jsonl"))


def test_what_was_recorded_is_replayed_exactly(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "said.jsonl"
    sampling = Sampling(n=5, seed=2)
    assert record(Echo(), iter(QUESTIONS), sampling, path, chunk=2) == 3
    assert ReplayTeacher(path=str(path)).generate(QUESTIONS[::-1], sampling) == Echo().generate(QUESTIONS[::-1], sampling)


def test_fewer_and_later_samples_are_the_same_samples(tmp_path: Path) -> None:
    record(Echo(), QUESTIONS, Sampling(n=5, skip=10), tmp_path / "said.jsonl")
    teacher = ReplayTeacher(path=str(tmp_path / "said.jsonl"))
    for asked in (Sampling(n=2, skip=10), Sampling(n=3, skip=12), Sampling(n=0, skip=15)):
        assert teacher.generate(QUESTIONS, asked) == Echo().generate(QUESTIONS, asked)
    with pytest.raises(TeacherError, match=r"said.jsonl:1: .*Capital of France.* 5 recorded.*2 from number 9"):
        teacher.generate(QUESTIONS, Sampling(n=2, skip=9))


def test_greedy_and_sampled_answers_of_one_prompt_live_in_one_file(tmp_path: Path) -> None:
    both = ""
    for seed in (1, 2):
        record(Echo(), QUESTIONS, Sampling(seed=seed), tmp_path / "one.jsonl")
        both += (tmp_path / "one.jsonl").read_text(encoding="utf-8")
    (tmp_path / "both.jsonl").write_text(both, encoding="utf-8")
    teacher = ReplayTeacher(path=str(tmp_path / "both.jsonl"))
    assert teacher.generate(QUESTIONS, Sampling(seed=2)) == Echo().generate(QUESTIONS, Sampling(seed=2))
    with pytest.raises(TeacherError, match="seed 1, asked 3"):
        teacher.generate(QUESTIONS, Sampling(seed=3))


def test_asking_for_more_than_was_recorded_says_how_many_there_are(tmp_path: Path) -> None:
    record(Echo(), QUESTIONS, Sampling(n=5), tmp_path / "said.jsonl")
    with pytest.raises(TeacherError, match="'Gold\\?' has 5 recorded completions; asked were 6"):
        ReplayTeacher(path=str(tmp_path / "said.jsonl")).generate(QUESTIONS[2:], Sampling(n=6))


def test_a_missing_prompt_is_named(tmp_path: Path) -> None:
    record(Echo(), QUESTIONS, Sampling(), tmp_path / "said.jsonl")
    with pytest.raises(TeacherError, match="'Silver\\?' was not recorded \\(3 others were\\)"):
        ReplayTeacher(path=str(tmp_path / "said.jsonl")).generate([ask("Silver?")], Sampling())


def test_a_file_written_by_hand_needs_texts_only(tmp_path: Path) -> None:
    line = {"prompt": [{"role": "user", "content": "Gold?"}], "completions": [{"text": "79"}, {"text": "Au"}]}
    (tmp_path / "hand.jsonl").write_text("\n" + json.dumps(line) + "\n", encoding="utf-8")
    found = ReplayTeacher(path=str(tmp_path / "hand.jsonl")).generate([ask("Gold?")], Sampling(n=2, temperature=0.3))
    assert [one.text for one in found[0]] == ["79", "Au"]
    assert found[0][0].log_prob is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"prompt": [{"role": "us', "cut off"),
        ('{"prompt": "Gold?", "completions": []}', "expected an object"),
        ("[1]", "expected an object"),
        ('{"prompt": [{"role": "user", "content": "Gold?"}], "completions": ["79"]}', "not a completion"),
        ('{"prompt": [{"role": "user", "content": "Gold?"}], "completions": [{"text": "79", "logprob": 1}]}', "log_prob"),
    ],
)
def test_a_broken_line_is_shown_by_file_and_number(tmp_path: Path, line: str, word: str) -> None:
    record(Echo(), QUESTIONS[:2], Sampling(), tmp_path / "said.jsonl")
    with open(tmp_path / "said.jsonl", "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(TeacherError, match=rf"said\.jsonl:3.*{word}"):
        ReplayTeacher(path=str(tmp_path / "said.jsonl")).generate(QUESTIONS[2:], Sampling())


def test_a_recording_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    record(Echo(), QUESTIONS, Sampling(), tmp_path / "said.jsonl")
    before = (tmp_path / "said.jsonl").read_bytes()

    def until_it_breaks() -> Any:
        yield QUESTIONS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(Echo(), until_it_breaks(), Sampling(seed=9), tmp_path / "said.jsonl", chunk=1)
    assert [file.name for file in tmp_path.iterdir()] == ["said.jsonl"]
    assert (tmp_path / "said.jsonl").read_bytes() == before


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    record(Echo(), QUESTIONS, Sampling(), tmp_path / "a.jsonl")
    record(Echo(), QUESTIONS, Sampling(), tmp_path / "b.jsonl")
    record(Echo(), QUESTIONS, Sampling(seed=1), tmp_path / "c.jsonl")
    a, b, c = (ReplayTeacher(path=str(tmp_path / name)).identity() for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    assert a == b != c
    with pytest.raises(TeacherError, match="cannot be read"):
        ReplayTeacher(path=str(tmp_path / "no.jsonl")).identity()


@pytest.mark.parametrize(
    "module", ["distill.teachers.base", "distill.teachers.replay", "distill.teachers.huggingface", "distill.models"]
)
def test_importing_a_teacher_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
