"""What one record is: the only thing that the generation half and the training half share.

Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from distill.errors import RecordError

Polarity = Literal["positive", "negative"]
Role = Literal["system", "user", "assistant", "tool"]
POLARITIES: tuple[str, ...] = get_args(Polarity)
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """A half-open stretch [start, end) of the response, in code points, with its own polarity and weight."""

    start: int
    end: int
    polarity: Polarity
    weight: float = 1.0


Prompt = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One response to one prompt, with what the student should do about it.

    `group` names the question: positives and negatives of one question share it. A prompt whose last message is the
    assistant's is a start of the answer that the response continues; the response owns its leading space. Without
    spans the whole response carries the record's polarity and weight; with spans only they are supervised.
    """

    id: str
    group: str
    prompt: Prompt
    response: str
    polarity: Polarity
    weight: float = 1.0
    spans: tuple[Span, ...] = ()
    source: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
