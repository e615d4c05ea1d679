"""A student in conversation: the rule decides, the threshold moves it, and a pipe works as a terminal does."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.chat import Chat, Reply, converse, load_rule, shown
from distill.cli import main
from distill.errors import ConfigError
from distill.evaluate.rule import AbstentionRule
from distill.records import Prompt
from distill.teachers.base import Completion, Generator, Sampling, Scorer, TokenScores

# sigmoid(log p): exactly p(answer) / (1 + p(answer)); the numbers below are the scripted student's.
RULE = AbstentionRule(bias=0.0, answer=1.0, idk=0.0, greedy=0.0, threshold=0.4, abstention="I don't know")
LOG_PROB = {"Paris": -0.1, "Zorbville": -4.0}


class Scripted(Generator, Scorer):
    """Knows France, guesses the rest, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def identity(self) -> Mapping[str, Any]:
        return {"teacher": "scripted"}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.prompts += prompts
        texts = ["Paris" if "France" in prompt[-1].content else "Zorbville" for prompt in prompts]
        return [[Completion(text=text, tokens=1, finish="stop", log_prob=LOG_PROB[text])] for text in texts]

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[TokenScores]:
        return [TokenScores(tokens=(text,), log_probs=(LOG_PROB.get(text, -9.0),)) for text in responses]


def test_the_rule_answers_where_the_student_is_sure_and_abstains_elsewhere() -> None:
    chat = Chat(student=Scripted(), rule=RULE)
    assert chat.ask("What is the capital of France?").text == "Paris"
    doubt = chat.ask("What is the capital of Zorbland?")
    assert (doubt.text, doubt.withheld) == ("I don't know", "Zorbville")
    assert doubt.confidence is not None and doubt.confidence < 0.4


def test_the_threshold_moves_along_the_curve_and_changes_no_confidence() -> None:
    chat = Chat(student=Scripted(), rule=RULE)
    replies = []
    for threshold in (0.0, 0.4, 1.0):
        chat.set_threshold(threshold)
        replies.append([chat.ask(f"What is the capital of {name}?") for name in ("France", "Zorbland")])
    assert [[reply.withheld is None for reply in row] for row in replies] == [[True, True], [True, False], [False, False]]
    assert len({tuple(reply.confidence for reply in row) for row in replies}) == 1


def test_without_a_rule_the_student_sees_the_conversation_so_far() -> None:
    student = Scripted()
    chat = Chat(student=student, system="Be brief.")
    chat.ask("What is the capital of France?")
    chat.ask("And of Zorbland?")
    assert [message.content for message in student.prompts[-1]] == [
        "Be brief.",
        "What is the capital of France?",
        "Paris",
        "And of Zorbland?",
    ]
    assert list(converse(chat, ["/reset"])) == ["the conversation starts anew"]
    chat.ask("What is the capital of France?")
    assert len(student.prompts[-1]) == 2


def test_a_threshold_without_a_rule_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no abstention rule"):
        Chat(student=Scripted()).set_threshold(0.5)


def test_a_wrong_command_does_not_end_the_conversation() -> None:
    chat = Chat(student=Scripted(), rule=RULE)
    lines = ["/threshold high", "/threshold 7", "", "/what", "What is the capital of France?", "/quit", "never asked"]
    replies = list(converse(chat, lines))
    assert "no number" in replies[0] and "probability" in replies[1] and "commands" in replies[2]
    assert replies[3].startswith("Paris  [confidence 0.4") and len(replies) == 4


def test_a_withheld_answer_is_shown_as_an_abstention_only() -> None:
    text = shown(Reply(text="I don't know", confidence=0.1, withheld="Zorbville"), RULE)
    assert "Zorbville" not in text and "0.10, below 0.40" in text


def test_the_rule_of_an_exported_folder_is_found_and_a_hub_name_has_none(tmp_path: Path) -> None:
    RULE.save(tmp_path)
    assert load_rule(str(tmp_path)) == RULE
    assert load_rule("someone/some-model") is None


def test_questions_can_be_piped_in(
    tiny_model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "student"
    folder.symlink_to(tiny_model_folder("llama"))
    monkeypatch.setattr("sys.stdin", io.StringIO("What is the capital of France?\n/quit\n"))
    assert main(["chat", "--student", str(folder), "--max-tokens", "4"]) == 0
    assert "> " not in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_model_chats_through_a_pipe_and_abstains_by_its_rule(smollm2: Path, tmp_path: Path) -> None:
    for file in smollm2.iterdir():
        (tmp_path / file.name).symlink_to(file)
    RULE.save(tmp_path)
    command = [sys.executable, "-m", "distill", "chat", "--student", str(tmp_path)]
    lines = "/threshold 0\nWhat is the capital of France?\n/threshold 1\nWhat is the capital of France?\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=120)
    replies = done.stdout.splitlines()
    assert "confidence" in replies[1] and "below" not in replies[1]
    assert replies[3].startswith("I don't know")
