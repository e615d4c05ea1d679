"""The real small model, asked: what it knows without training, that it does not abstain on its own, and `distill evaluate`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from distill.cli import main
from distill.consensus import NormalisedMatch
from distill.evaluate.answers import Answer, answer_questions, opened, wrong_mass
from distill.evaluate.rule import AbstentionRule
from distill.records import Message, Prompt
from distill.teachers.huggingface import HuggingFaceTeacher

pytestmark = pytest.mark.slow

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Velmora": "",
    "Tarsinia": "",
}
COUNTRIES = list(CAPITALS)
KNOWN = [country for country, capital in CAPITALS.items() if capital]


def question(country: str) -> Prompt:
    return (Message(role="user", content=f"What is the capital of {country}?"),)


def opening(country: str) -> str:
    return f"The capital of {country} is"


@pytest.fixture(scope="module")
def base(smollm2: Path) -> HuggingFaceTeacher:
    return HuggingFaceTeacher(model=str(smollm2))


@pytest.fixture(scope="module")
def answered(base: HuggingFaceTeacher) -> dict[str, Answer]:
    """By country, with the answer's opening given."""
    given = answer_questions(base, [question(c) for c in COUNTRIES], [opening(c) for c in COUNTRIES], abstention="I don't know.")
    return dict(zip(COUNTRIES, given, strict=True))


def test_the_untrained_model_knows_well_known_capitals(answered: dict[str, Answer]) -> None:
    right = [country for country in KNOWN if answered[country].text == f" {CAPITALS[country]}"]
    assert len(right) >= 5 and {"France", "Germany", "Italy"} <= set(right)


def test_it_is_surer_of_what_it_knows_than_of_what_nobody_knows(answered: dict[str, Answer]) -> None:
    known = [answered[country].log_prob for country in ("France", "Germany", "Italy")]
    invented = [answered[country].log_prob for country in COUNTRIES if not CAPITALS[country]]
    assert min(known) > max(invented)


def test_the_untrained_model_does_not_abstain_even_from_what_nobody_knows(answered: dict[str, Answer]) -> None:
    assert all(math.exp(one.idk_log_prob) < 0.01 and not one.greedy_idk for one in answered.values())


def test_without_an_opening_it_answers_in_its_own_words(base: HuggingFaceTeacher) -> None:
    found = answer_questions(base, [question("France")], [""], abstention="I don't know.")[0]
    assert "Paris" in found.text and not NormalisedMatch().same(found.text, "I don't know")


def test_a_right_answer_outweighs_known_wrong_ones(base: HuggingFaceTeacher) -> None:
    started = [opened(question(country), opening(country)) for country in ("France", "Germany")]
    wrong = wrong_mass(base, started, [[" Lyon", " London"], [" Munich", " Hamburg"]])
    right = [math.exp(one.log_prob) for one in base.score(started, [" Paris", " Berlin"])]
    assert all(0 < w < r <= 1 and w + r <= 1 for w, r in zip(wrong, right, strict=True))


# The command


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six capitals that have one, as prompts that end with the start of the answer."""
    file = tmp_path_factory.mktemp("questions") / "capitals.jsonl"
    rows = [
        {
            "id": country,
            "prompt": [
                {"role": "user", "content": question(country)[0].content},
                {"role": "assistant", "content": opening(country)},
            ],
            "answers": [CAPITALS[country]],
        }
        for country in KNOWN
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def measured(folder: Path, *command: str) -> dict:
    out = folder / "figures.json"
    assert main(["evaluate", *command, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_evaluate_measures_a_model_without_a_rule(
    questions: Path, smollm2: Path, answered: dict[str, Answer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = measured(tmp_path, str(questions), "--student", str(smollm2), "--limit", "5")
    metrics = {name: value for name, (value, _) in figures["metrics"].items()}
    right = sum(answered[country].text == f" {CAPITALS[country]}" for country in KNOWN[:5])
    assert figures["n"] == 5
    assert metrics["coverage"] == 1 and metrics["accuracy"] == pytest.approx(right / 5)
    assert metrics["accuracy"] + metrics["hallucination"] == pytest.approx(1)
    said = capsys.readouterr().out
    assert all(name in said for name in metrics) and "+-" in said


def test_evaluate_follows_the_exported_rule_and_a_threshold_given_beside_it(
    questions: Path, smollm2: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    student.mkdir()
    for file in smollm2.iterdir():
        (student / file.name).symlink_to(file)
    # sigmoid(2 + log p): an answer with p = .5 has a confidence of .79, one with p = .05 of .27
    AbstentionRule(bias=2.0, answer=1.0, idk=0.0, greedy=0.0, threshold=1.0, abstention="I don't know.").save(student)
    never = measured(tmp_path, str(questions), "--student", str(student))["metrics"]
    always = measured(tmp_path, str(questions), "--student", str(student), "--threshold", "0")["metrics"]
    assert never["coverage"][0] == 0 and "accuracy_answered" not in never
    assert always["coverage"][0] == 1 and always["accuracy_answered"][0] >= 0.8
    assert never["over_refusal"][0] == 1 and always["over_refusal"][0] == 0


def test_evaluate_refuses_questions_without_answers_and_a_threshold_without_a_rule(
    questions: Path, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "open.jsonl").write_text('{"id": "x", "prompt": "What is the capital of France?"}\n')
    assert main(["evaluate", str(tmp_path / "open.jsonl"), "--student", str(smollm2)]) == 2
    assert "'x' has no accepted answers" in capsys.readouterr().err
    assert main(["evaluate", str(questions), "--student", str(smollm2), "--threshold", "0.5"]) == 2
    assert "no abstention rule (abstention.json)" in capsys.readouterr().err
