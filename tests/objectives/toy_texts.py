"""Distributions over a few texts, and the language models over tokens that say exactly those: a KL of texts to compare with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.alignment import common_spans
from distill.objectives import CommonRoots, CrossSignal, Targets, TeacherSignal
from distill.teachers.roots import Vocabulary, roots_of

END = "<end>"
NEVER = -1e4  # a log-probability of what is not in any text: finite, as a model's are


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A tokenizer that takes the longest token it has, of words; the last id ends a text."""

    words: tuple[str, ...]
    end_name: str = END

    @property
    def end(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            word = max((word for word in self.words if text.startswith(word)), key=len)
            ids.append(self.words.index(word))
            text = text[len(word) :]
        return ids

    def offsets(self, text: str) -> list[tuple[int, int]]:
        ends = [0]
        for token in self.encode(text):
            ends.append(ends[-1] + len(self.words[token]))
        return list(zip(ends, ends[1:], strict=False))

    def vocabulary(self, texts: set[str]) -> Vocabulary:
        pieces = {text.encode(): tuple(self.words[token].encode() for token in self.encode(text)) for text in texts}
        said = [*(word.encode() for word in self.words), None]
        return Vocabulary(said=said, pieces=pieces, controls={self.end_name: self.end}, end=self.end)

    def log_probs(self, text: str, texts: dict[str, float]) -> Tensor:
        """(tokens of the text and its end, words + 1): the next token after each prefix, as the texts' probabilities have it."""
        target = [*self.encode(text), self.end]
        rows = torch.zeros(len(target), len(self.words) + 1, dtype=torch.float64)
        for other, probability in texts.items():
            ids = [*self.encode(other), self.end]
            for place in range(len(target)):
                if place < len(ids) and ids[:place] == target[:place]:
                    rows[place, ids[place]] += probability
        return (rows / rows.sum(1, keepdim=True)).log().clamp(min=NEVER).log_softmax(1)


def roots_between(student: Toy, teacher: Toy) -> CommonRoots:
    texts = {*student.words, *teacher.words}
    sides = [side.vocabulary(texts) for side in (student, teacher)]
    return roots_of(sides[0], sides[1], student_rows=student.end + 1, teacher_rows=teacher.end + 1)


def signal(
    texts: list[str], student: Toy, teacher: Toy, teacher_rows: list[Tensor], *, roots: CommonRoots | None = None
) -> Targets:
    """Targets for responses that end, with what a teacher says of each (a row per token of its own and for the end)."""
    tokens: tuple[list[int], list[int]] = ([], [])
    spans: tuple[list[int], list[int]] = ([], [])
    sequences: tuple[list[int], list[int]] = ([], [])
    offset = 0
    for number, text in enumerate(texts):
        numbers = common_spans(student.offsets(text), teacher.offsets(text))
        end = offset + max((*numbers[0], *numbers[1]), default=-1) + 1
        for side, tokenizer in enumerate((student, teacher)):
            tokens[side].extend([*tokenizer.encode(text), tokenizer.end])
            spans[side].extend([*(offset + one for one in numbers[side]), end])
            sequences[side].extend([number] * (len(numbers[side]) + 1))
        offset = end + 2
    count = len(tokens[0])
    log_probs = torch.cat(teacher_rows)
    return Targets(
        token_N=torch.tensor(tokens[0]),
        weight_N=torch.ones(count, dtype=log_probs.dtype),
        negative_N=torch.zeros(count, dtype=torch.bool),
        sequence_N=torch.tensor(sequences[0]),
        cross=CrossSignal(
            teacher=TeacherSignal(
                ids_NK=None, log_probs_NK=log_probs, rest_N=torch.full((len(log_probs),), -math.inf, dtype=log_probs.dtype)
            ),
            token_M=torch.tensor(tokens[1]),
            sequence_M=torch.tensor(sequences[1]),
            span_N=torch.tensor(spans[0]),
            span_M=torch.tensor(spans[1]),
            roots=roots_between(student, teacher) if roots is None else roots,
        ),
    )
