"""`distill evaluate`: what a model answers, abstains from and gets wrong on a file of questions with known answers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.arguments import positive

if TYPE_CHECKING:
    from distill.evaluate.answers import Answer


def evaluate_command(args: Sequence[str]) -> int:
    """Run `distill evaluate ...`."""
    parser = argparse.ArgumentParser(
        prog="distill evaluate",
        description="Ask a model the questions of a file and measure accuracy, coverage, hallucination, over-refusal, "
        "truthfulness, and how well its confidence ranks right above wrong answers, with standard errors by the bootstrap.",
    )
    parser.add_argument(
        "questions", type=Path, metavar="QUESTIONS", help="JSONL, CSV or Parquet with id, prompt and answers (accepted ones)"
    )
    parser.add_argument(
        "--student", required=True, metavar="MODEL", help="an exported folder, a hub name, or smollm2-135m-instruct"
    )
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="the model before training: what it gets right is what should be answered "
        "(over_refusal, truthful); default: what the student itself would get right if made to answer",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="threshold of the abstention rule (default: the exported one)"
    )
    parser.add_argument(
        "--abstention",
        default="I don't know",
        metavar="TEXT",
        help="the abstention, where there is no rule (default: %(default)s)",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N questions")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args(args)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is known before the work
    figures = _evaluate(options)
    for name, (value, error) in figures["metrics"].items():
        print(f"{name:<18} {value:7.3f}  +- {error:.3f}")
    if options.out is not None:
        from distill.records.manifest import write_whole

        write_whole(options.out, json.dumps(figures, indent=2) + "\n")
    return 0


def _evaluate(options: argparse.Namespace) -> dict:
    from itertools import islice

    import numpy as np

    from distill.chat import load_rule, with_threshold
    from distill.consensus import NormalisedMatch
    from distill.errors import ConfigError
    from distill.evaluate.abstention import measure, standard_errors
    from distill.evaluate.answers import outcomes
    from distill.models import load_tokenizer
    from distill.recipes.questions import read_questions

    questions = list(islice(read_questions(options.questions), options.limit))
    without = next((question.id for question in questions if not question.answers), None)
    if without is not None:
        raise ConfigError(f"{options.questions}: question {without!r} has no accepted answers; add a column `answers`")
    rule = load_rule(options.student)
    if options.threshold is not None:
        rule = with_threshold(rule, options.threshold)
    abstention = options.abstention if rule is None else rule.abstention
    if not abstention.strip(" ."):
        raise ConfigError("--abstention is empty; give the words that the model abstains with")
    for model in dict.fromkeys(filter(None, (options.student, options.base))):
        load_tokenizer(model)  # a wrong name is known before the first model is asked
    same = NormalisedMatch().same

    def rightness(answers: Sequence[Answer]) -> list[bool]:
        return [
            any(same(answer.text, accepted) for accepted in question.answers)
            for answer, question in zip(answers, questions, strict=True)
        ]

    def decide(log_prob: np.ndarray, p_idk: np.ndarray, greedy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if rule is None:
            return log_prob, ~greedy
        confidence = rule.confidence(log_prob, p_idk, greedy)
        return confidence, confidence >= rule.threshold

    answers = _ask(options.student, questions, abstention)
    right = rightness(answers)
    found = outcomes(
        answers,
        cluster=[question.id for question in questions],
        right=right,
        majority_right=right if options.base is None else rightness(_ask(options.base, questions, abstention)),
        decide=decide,
    )
    values, errors = measure(found), standard_errors(found)
    kept = [name for name in values if not np.isnan(values[name])]
    return {"student": options.student, "n": len(questions), "metrics": {name: (values[name], errors[name]) for name in kept}}


def _ask(model: str, questions: Sequence, abstention: str) -> list[Answer]:
    from distill.evaluate.answers import answer_questions
    from distill.teachers.huggingface import HuggingFaceTeacher

    print(f"asking {model} {len(questions)} questions ...", file=sys.stderr, flush=True)
    # A prompt that ends with the assistant's words gives the start of the answer.
    opened = [question.prompt[-1].role == "assistant" for question in questions]
    prompts = [question.prompt[:-1] if is_open else question.prompt for question, is_open in zip(questions, opened, strict=True)]
    openings = [question.prompt[-1].content if is_open else "" for question, is_open in zip(questions, opened, strict=True)]
    return answer_questions(HuggingFaceTeacher(model=model), prompts, openings, abstention=abstention)
