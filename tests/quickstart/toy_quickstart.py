"""The quickstart on a tiny random model with facts that suit it; run as a script to be killed.

A random model knows no country. Here the truth follows the model instead: what it happens to say to every second question is
declared right, and nothing it could say to the others. So every stage finds right and wrong answers, and no rule is loosened.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path
from typing import Any

from distill.consensus import short_answer
from distill.evaluate.answers import answer_questions
from distill.quickstart import pipeline
from distill.quickstart.labels import ABSTENTION
from distill.recipes.facts import Fact, Split, Topic
from distill.teachers.huggingface import HuggingFaceTeacher

SIZES: dict[Split, int] = {"train": 12, "validation": 8, "test": 8, "invented": 4, "made_up": 2}


# Nearly greedy: a random model repeats itself at no other temperature.
SAMPLING = dataclasses.replace(pipeline.SAMPLING, temperature=0.05)


def toy_facts(model: Path) -> tuple[Fact, ...]:
    """Twice as many questions as are used: each entity's symbol, as the model says it, and its capital, which it gets wrong."""
    topics: tuple[Topic, ...] = ("symbol", "capital")
    blank = [
        Fact(id=f"{topic}-{split}-{n}", entity=f"{split}ium{n}", topic=topic, accepted=(), split=split)
        for split, size in SIZES.items()
        for n in range(size)
        for topic in topics
    ]
    teacher = HuggingFaceTeacher(model=str(model))
    long = answer_questions(teacher, [f.prompt for f in blank], [f.start for f in blank], abstention=ABSTENTION)
    short = teacher.generate([f.started_prompt for f in blank], dataclasses.replace(SAMPLING, temperature=0.0))
    said = [{_bare(one.text), _bare(other[0].text)} for one, other in zip(long, short, strict=True)]
    return tuple(dataclasses.replace(fact, accepted=_truth(fact, words)) for fact, words in zip(blank, said, strict=True))


def _bare(said: str) -> str:
    return short_answer(said).strip(" .\"'*`()")


def _truth(fact: Fact, said: set[str]) -> tuple[str, ...]:
    if fact.split in ("invented", "made_up"):
        return ()
    return tuple(sorted(said)) if fact.topic == "symbol" else ("nowhere at all",)


def settings(model: Path, *train_args: str, **changes: Any) -> pipeline.Settings:
    """The smallest run that goes through every stage. The learning rate is so small that what was right stays right."""
    sizes = {"questions": 12, "validation": 8, "test": 8, "invented": 4, "made_up": 2}
    small = ("--trainer.max_epochs=1", "--model.train_layers=1", "--model.learning_rate=1e-6", "--data.batch_size=4")
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--checkpoint.every_n_train_steps=1")
    return pipeline.Settings(
        **{
            **sizes,
            "student": str(model),
            "samples": 4,
            "rounds": (2, 2),
            "train_args": (*small, *quiet, *train_args),
            **changes,
        }
    )


if __name__ == "__main__":
    folder, out = sys.argv[1:]
    pipeline.SAMPLING = SAMPLING
    pipeline.facts = cache(lambda: toy_facts(Path(folder)))  # type: ignore[assignment]
    pipeline.run_quickstart(settings(Path(folder)), Path(out))
