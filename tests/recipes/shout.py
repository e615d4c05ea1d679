"""Answers in capitals are wrong."""

from collections.abc import Iterator

from distill.recipes import Ask, Run, generate, read_questions
from distill.records import Record
from distill.teachers.base import Generator, Sampling

SAMPLING = Sampling(max_tokens=8)


def build(*, run: Run, prompts: str, teacher: Generator, sampling: Sampling = SAMPLING, batch_size: int = 4) -> Iterator[Record]:
    asks = [Ask(one.id, one.prompt) for one in run.take(read_questions(prompts))]

    def records() -> Iterator[Record]:
        for one in generate(run, "answer", asks, teacher, sampling, batch_size=batch_size):
            text = one.completions[0].text.upper()
            yield Record(id=one.id, group=one.id, prompt=one.prompt, response=text, polarity="negative")

    return records()
