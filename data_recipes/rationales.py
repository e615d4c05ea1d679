"""Step-by-step answers, kept where the final answer is right; wrong ones are negative from their first wrong step on.

    distill recipe rationales --prompts 'train.jsonl?prompt=question&answers=answer&id=' --sampling.n 8 --out runs/rationales

A teacher works each problem out several times. What ends in the accepted answer is positive. What does not is one record with a
negative span: from the first wrong step to the end, which is the first one that an arithmetic judge refutes, or whose result is
in no right solution. The steps before it are trained neither way. Where no accepted answer is known, the samples vote.

Source: STaR, Zelikman et al. 2022 (arXiv:2203.14465), sec. 3.1: rationales filtered by their answers, without its rationalisation
(hints); self-consistency, Wang et al. 2022 (arXiv:2203.11171): the most frequent final answer. Deviation: wrong rationales are
used too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Template

from distill.consensus.clustering import clusters
from distill.consensus.judged import JudgeMatch
from distill.errors import ConfigError
from distill.judges.arithmetic import ArithmeticJudge
from distill.judges.base import Judge, Verdict
from distill.judges.final_number import FinalNumber
from distill.prompt_file import load_prompt_file, user_message
from distill.recipes import Answered, Ask, Claim, Item, Judged, Question, Run, generate, read_questions
from distill.recipes import judge as asked
from distill.recipes.asking import prompt_from_json, prompt_json
from distill.records import Polarity, Prompt, Record, Span, make_id
from distill.records.schema import span_to_json
from distill.teachers.base import Generator, Sampling

SOURCE = "rationales"
TEMPLATE = Path(__file__).with_name("rationales.jinja")
SAMPLING = Sampling(n=4, temperature=0.7, max_tokens=256)
FINAL = FinalNumber()
STEPS = ArithmeticJudge()

FirstWrong = Literal["refuted", "either"]
Unmarked = Literal["skip", "whole"]
StepsBefore = Literal["ignore", "positive"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question, whose accepted answers may be unknown. solution: an accepted answer that is worked out, or ""."""

    question: Question
    solution: str = ""


class Solution(NamedTuple):
    """What a claim carries: its problem, whether its final answer is right, who says so, and the evidence of that."""

    problem: Problem
    right: bool
    by: str
    evidence: dict[str, Any]


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    template: Path | None = None,
    template_in_record: bool = False,
    judge: Judge = FINAL,
    steps: Judge = STEPS,
    sampling: Sampling = SAMPLING,
    vote: float = 0.5,
    gold_solutions: bool = False,
    positives_per_question: int = 4,
    negatives_per_question: int = 2,
    first_wrong: FirstWrong = "either",
    unmarked: Unmarked = "skip",
    steps_before: StepsBefore = "ignore",
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Sample solutions, keep what ends right, and mark what ends wrong from its first wrong step on.

    Args:
        run: Where results are kept.
        prompts: A JSONL, CSV, Parquet or text file of problems, or a name of packaged ones. An accepted answer may be worked out
            and end in "#### 72", as in gsm8k: FILE?prompt=question&answers=answer&id=
        teacher: Works the problems out.
        template: A Jinja file with the variable question that asks for steps and a last line "Answer: ...".
        template_in_record: Whether the record's prompt is the one that the teacher saw; else the plain problem.
        judge: Compares the final answer of a solution with an accepted answer, or with that of another solution for the vote.
        steps: Tells right steps from wrong ones by spans.
        sampling: How the teacher is sampled; n solutions for each problem.
        vote: Where no answer is accepted, the share of the samples that must agree on one for it to count as right.
        gold_solutions: Whether a solution that comes with the problem is a positive too.
        positives_per_question: At most so many right solutions of the teacher.
        negatives_per_question: At most so many wrong solutions.
        first_wrong: Where a wrong solution begins to be wrong: at the first step that `steps` refutes, or either there or at the
            first step whose result no right solution of the problem has, whichever comes first.
        unmarked: What becomes of a wrong solution in which neither is found: no record, or negative as a whole.
        steps_before: Whether the steps before the first wrong one are trained as positive where the judge found them right.
        limit: Only the first so many problems.
        batch_size: Problems at a time; changes speed and memory, never the records.
    """
    if sampling.n < 1:
        raise ConfigError(f"sampling.n is {sampling.n}: each problem needs at least 1 solution")
    if not 0 < vote <= 1:
        raise ConfigError(f"vote is {vote}: give a share of the samples, above 0 and at most 1")
    for name, value in {"positives": positives_per_question, "negatives": negatives_per_question}.items():
        if value < 0:
            raise ConfigError(f"{name}_per_question is {value}: give 0 for none, or a number above it")
    source = read_questions(prompts)
    form = load_prompt_file(template or TEMPLATE, package="data_recipes", name=TEMPLATE.name)
    problems = (read_problem(question) for question in run.take(source, limit=limit))
    asks = (Ask(one.question.id, _asked(form, one.question.prompt), one) for one in problems)
    total = run.total(source, limit, of="problem")
    rows = generate(run, "solve", asks, teacher, sampling, batch_size=batch_size, total=total)
    claims = _graded(run, rows, judge, vote, template_in_record, gold_solutions)
    judged = asked(run, "steps", claims, steps)
    return _records(run, judged, positives_per_question, negatives_per_question, (first_wrong, unmarked), steps_before)


_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def read_problem(question: Question) -> Problem:
    """The problem in a question; an accepted answer of several lines, as GSM8K's that end in `#### 72`, is a solution too."""
    worked = (answer.strip() for answer in question.answers)
    return Problem(question=question, solution=next((answer for answer in worked if "\n" in answer), ""))


def first_departure(text: str, right: Sequence[str]) -> int | None:
    """Where the first step begins (a code point) whose result is a number that no right solution has; None where there is none.

    A step is a line or a sentence; its result is the last number behind its last "=". Sharing a number proves nothing, and a
    right detour departs too: this finds where a solution leaves the known ways, not what is wrong there.

    >>> text = "He has 3 + 4 = 7 eggs. They cost 7 * 2 = 14. That leaves 20 - 14 = 6."
    >>> text[first_departure(text, ["3 + 4 = 7, then 7 * 3 = 21"]) :]
    'They cost 7 * 2 = 14. That leaves 20 - 14 = 6.'
    """
    known = {value for one in right for value in _values(one)}
    if not known:
        return None
    for match in re.finditer(r"[^\n]+?(?:[.!?](?=\s)|(?=\n)|$)", text):
        results = _values(match.group().rpartition("=")[2]) if "=" in match.group() else []
        if results and results[-1] not in known:
            return match.start() + len(match.group()) - len(match.group().lstrip())
    return None


def _values(text: str) -> list[float]:
    return [round(float(number.replace(",", "").replace("−", "-")), 6) for number in _NUMBER.findall(text)]


def _asked(form: Template, prompt: Prompt) -> Prompt:
    """The prompt with its last message in the template; what stands before it stays."""
    return (*prompt[:-1], user_message(form, {"question": prompt[-1].content}))


def _graded(
    run: Run, rows: Iterable[Answered], judge: Judge, vote: float, template_in_record: bool, gold_solutions: bool
) -> Iterator[Claim]:
    """The distinct solutions of each problem that could be graded, a given one first."""

    def items() -> Iterator[Item]:
        for row in rows:
            problem: Problem = row.carried
            texts = [one.text for one in row.completions if one.finish == "stop" and one.text.strip()]
            unusable = {
                "cut off or blank": len(row.completions) - len(texts),
                "said before": len(texts) - len(dict.fromkeys(texts)),
            }
            for outcome, n in unusable.items():
                if n:
                    run.count("solution", outcome, n)
            prompt = row.prompt if template_in_record else problem.question.prompt
            value = {
                "prompt": prompt_json(prompt),
                "answers": list(problem.question.answers),
                "samples": texts,
                "asked_for": len(row.completions),
            }
            yield Item(row.id, value, problem)

    def grade(batch: list[Item]) -> list[Any]:
        return [_grades(item.value, judge, vote) for item in batch]

    for row in run.map("grade", items(), grade, key={"version": 1, "judge": judge, "vote": vote}, asks=judge):
        problem: Problem = row.carried
        run.count("problem graded by", row.result["by"])
        prompt = prompt_from_json(row.value["prompt"])
        evidence = {"graded_by": row.result["by"], "answers": row.value["answers"], "rights": row.result["right"]}
        if gold_solutions and problem.solution:
            yield Claim(f"{row.id}/given", prompt, problem.solution, carried=Solution(problem, True, "given", evidence))
        for number, (text, right) in enumerate(zip(dict.fromkeys(row.value["samples"]), row.result["right"], strict=True)):
            if right is None:
                run.count("solution", "not graded")
            else:
                yield Claim(f"{row.id}/{number}", prompt, text, carried=Solution(problem, right, row.result["by"], evidence))


def _grades(value: dict[str, Any], judge: Judge, vote: float) -> dict[str, Any]:
    """Whether each distinct solution ends right (None: nobody can say), and who says so: the accepted answers, or a vote."""
    prompt, distinct = prompt_from_json(value["prompt"]), list(dict.fromkeys(value["samples"]))
    if value["answers"]:
        accepted = tuple(value["answers"])
        verdicts = judge.judge_many([prompt] * len(distinct), distinct, [accepted] * len(distinct))
        return {"by": "accepted answers", "right": [verdict.approved for verdict in verdicts]}
    found = clusters(value["samples"], JudgeMatch(judge=judge))
    sizes = [len(cluster.members) for cluster in found]
    if not sizes or sizes[0] < vote * value["asked_for"] or sizes[1:2] == sizes[:1]:
        return {"by": "nobody: no majority", "right": [None] * len(distinct)}
    majority = {value["samples"][index] for index in found[0].members}
    return {"by": "vote", "right": [text in majority for text in distinct]}


def _records(
    run: Run,
    judged: Iterable[Judged],
    positives: int,
    negatives: int,
    wrong: tuple[FirstWrong, Unmarked],
    steps_before: StepsBefore,
) -> Iterator[Record]:
    for _, rows in groupby(judged, key=lambda one: one.claim.carried.problem.question.id):
        several = list(rows)
        right = [one.claim.response for one in several if one.claim.carried.right]
        known = [*right, several[0].claim.carried.problem.solution]
        left = {"positive": positives, "negative": negatives}
        for claim, verdict in several:
            solution: Solution = claim.carried
            polarity: Polarity = "positive" if solution.right else "negative"
            refuted = next((span.start for span in verdict.spans if span.polarity == "negative"), None)
            departure = None if solution.right or wrong[0] == "refuted" else first_departure(claim.response, known)
            start, outcome = _start(solution, refuted, departure, wrong[1])
            run.count("solution", outcome)
            if start is None or (solution.by != "given" and left[polarity] == 0):
                continue
            left[polarity] -= solution.by != "given"
            spans: list[Span] = []
            if start > 0:
                sound = (span for span in verdict.spans if span.end <= start) if steps_before == "positive" else ()
                spans = [*sound, Span(start=start, end=len(claim.response.rstrip()), polarity="negative")]
            yield _record(claim, verdict, polarity, spans, outcome)


def _start(solution: Solution, refuted: int | None, departure: int | None, unmarked: Unmarked) -> tuple[int | None, str]:
    """Where the supervised part of a solution begins (0: it is taken whole, None: no record), and what it was found to be."""
    if solution.right:
        # The right answer after a wrong step is luck, or two mistakes; a solution given by hand is trusted all the same.
        flawed = refuted is not None and solution.by != "given"
        return (None, "right, with a wrong step") if flawed else (0, f"right ({solution.by})")
    if refuted is not None and (departure is None or refuted <= departure):
        return refuted, "wrong, a step refuted"
    if departure is not None:
        return departure, "wrong, from a departure on"
    return (0, "wrong, taken whole") if unmarked == "whole" else (None, "wrong, nothing marked")


def _record(claim: Claim, verdict: Verdict, polarity: Polarity, spans: Sequence[Span], outcome: str) -> Record:
    solution: Solution = claim.carried
    group = solution.problem.question.id
    steps = {
        "reason": verdict.reason,
        "evidence": dict(verdict.evidence),
        "spans": [span_to_json(span) for span in verdict.spans],
    }
    evidence = {**solution.evidence, "outcome": outcome, "steps": steps}
    return Record(
        id=make_id(group, polarity, claim.prompt, claim.response, source=SOURCE),
        group=group,
        prompt=claim.prompt,
        response=claim.response,
        polarity=polarity,
        spans=tuple(spans),
        source=SOURCE,
        evidence=evidence,
    )


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
