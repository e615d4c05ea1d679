"""One exchange with a student: its answer and how sure it is, or its abstention, by one threshold that the user owns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill.errors import ConfigError
from distill.evaluate.answers import Answerer, answer_questions
from distill.evaluate.rule import RULE_FILE, AbstentionRule
from distill.records import Message, Prompt
from distill.teachers.base import Sampling


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the student says; confidence, its chance of being right (None without a rule); withheld, the answer it kept."""

    text: str
    confidence: float | None = None
    withheld: str | None = None


@dataclass(kw_only=True)
class Chat:
    """A conversation with one student.

    With a rule each question stands alone, as the questions did that the rule was fitted on. Without one the student sees
    the conversation so far.
    """

    student: Answerer
    rule: AbstentionRule | None = None
    system: str = ""
    max_tokens: int = 256

    def __post_init__(self) -> None:
        self.history: list[Message] = [Message(role="system", content=self.system)] if self.system else []

    def set_threshold(self, threshold: float) -> None:
        """Answer from this chance of being right on; higher abstains more. Raises ConfigError without a rule."""
        self.rule = with_threshold(self.rule, threshold)

    def ask(self, question: str) -> Reply:
        """The student's reply to one message of the user."""
        turn = Message(role="user", content=question)
        if self.rule is None:
            prompt: Prompt = (*self.history, turn)
            text = self.student.generate([prompt], Sampling(temperature=0.0, max_tokens=self.max_tokens))[0][0].text
            self.history += [turn, Message(role="assistant", content=text)]
            return Reply(text=text.strip())
        return decide(self.student, self.rule, (*self.history, turn))


def decide(student: Answerer, rule: AbstentionRule, prompt: Prompt) -> Reply:
    """The student's best answer where the rule trusts it, else the abstention."""
    answer = answer_questions(student, [prompt], [""], abstention=rule.abstention)[0]
    signals = (np.array([answer.log_prob]), np.exp([answer.idk_log_prob]), np.array([answer.greedy_idk], dtype=bool))
    confidence = float(rule.confidence(*signals)[0])
    text = answer.text.strip()
    if text and confidence >= rule.threshold:
        return Reply(text=text, confidence=confidence)
    return Reply(text=rule.abstention, confidence=confidence, withheld=text or None)


def load_rule(student: str) -> AbstentionRule | None:
    """The rule that was exported with the student, if any."""
    folder = Path(student).expanduser()
    return AbstentionRule.load(folder) if (folder / RULE_FILE).is_file() else None


def with_threshold(rule: AbstentionRule | None, threshold: float) -> AbstentionRule:
    """The same rule with another threshold. Raises ConfigError without a rule, or where the threshold is no probability."""
    if rule is None:
        raise ConfigError("this student has no abstention rule (abstention.json), so there is no threshold to move")
    return replace(rule, threshold=threshold)


def converse(chat: Chat, lines: Iterable[str]) -> Iterator[str]:
    """The lines to print for the user's lines: a reply each, or the answer to `/threshold T`, `/reset` and `/help`; `/quit` ends.

    A wrong command is answered, not raised: a conversation goes on after a slip.
    """
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] in ("/quit", "/exit"):
            return
        yield _command(chat, words) if words[0].startswith("/") else shown(chat.ask(line.strip()), chat.rule)


def shown(reply: Reply, rule: AbstentionRule | None) -> str:
    """A reply with its confidence, and the threshold where that decided."""
    if reply.confidence is None or rule is None:
        return reply.text
    if reply.withheld is None:
        return f"{reply.text}  [confidence {reply.confidence:.2f}]"
    return f"{reply.text}  [confidence {reply.confidence:.2f}, below {rule.threshold:.2f}]"


def _command(chat: Chat, words: list[str]) -> str:
    match words:
        case ["/threshold", value]:
            try:
                chat.set_threshold(float(value))
            except ConfigError as error:
                return str(error)
            except ValueError:
                return f"{value!r} is no number; try /threshold 0.7"
            return f"answering from a confidence of {float(value):.2f} on"
        case ["/reset"]:
            del chat.history[1 if chat.system else 0 :]
            return "the conversation starts anew"
        case _:
            return "commands: /threshold T (0 always answers, 1 never), /reset, /quit"
