"""Compare sampled answers in pairs by a criterion, and turn the preferences into pairs, or into a ranking with weights.

    python -m data_recipes.prefer --config configs/recipe/prefer.yaml --prompts questions.jsonl --out runs/prefer

A teacher answers each prompt n times. A pair judge compares its distinct answers, and the model of Bradley and Terry turns all
preferences of a prompt into one strength for each answer, so that a contradiction among three answers settles itself.
- `pairs`: the strongest answer is positive and the weakest negative, then the next two; each answer has one polarity only.
- `ranking`: each answer is positive or negative by whether it beats the others more often than not, and weighs how clearly.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any, Literal, NamedTuple

from distill.errors import ConfigError
from distill.judges.base import PairJudge, Preference
from distill.judges.bradley_terry import Comparison, Ranking, bradley_terry
from distill.recipes import Item, Lost, Question, Run, read_questions
from distill.recipes.answers import answers
from distill.recipes.asking import prompt_from_json, prompt_json
from distill.recipes.endings import Cut, kept_text
from distill.records import Polarity, Record, make_id
from distill.teachers.base import Completion, Generator, Sampling

SOURCE = "prefer"
SAMPLING = Sampling(n=4, max_tokens=96)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """How preferences become records: the options of `build` that need no model."""

    form: str
    pairs_per_prompt: int
    min_probability: float
    abstained: str
    spread: float


def build(
    *,
    run: Run,
    prompts: str,
    teacher: Generator,
    judge: PairJudge,
    student: Generator | None = None,
    sampling: Sampling = SAMPLING,
    compare: Literal["all", "random", "adjacent"] = "all",
    comparisons: int | None = None,
    form: Literal["pairs", "ranking"] = "pairs",
    pairs_per_prompt: int = 1,
    min_probability: float = 0.6,
    abstained: Literal["tie", "drop"] = "tie",
    spread: float = 3.0,
    cut: Cut = "sentence",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
) -> Iterator[Record]:
    """Sample, compare, rank, and emit records; answers to one prompt share a group.

    Args:
        run: Where results are kept.
        prompts: Prompts, as a file or a name (example:NAME, datasets:NAME).
        teacher: The model that answers.
        judge: Says which of two answers is better; TeacherPairJudge asks a model by `--judge.criterion TEXT`, in both orders.
        student: A second model that answers too; what both say is compared once.
        sampling: How to sample; n answers for each prompt and model.
        compare: Every pair of answers; a random draw of pairs that links all of them; or each answer with the next one alone.
        comparisons: For `random`, how many pairs of each prompt are compared; by default twice the answers, less two.
        form: Preference pairs (for DPO and its kind), or all answers with weights.
        pairs_per_prompt: At most so many pairs for each prompt.
        min_probability: Pairs, and answers of a ranking, that are told apart less surely than this (0.5 to 1) give no record.
        abstained: A pair that the judge does not decide is a tie, or is left out.
        spread: Standard deviation of the prior on strengths (nats); smaller needs more comparisons for the same certainty.
        cut: What is kept of an answer that was cut off, before it is compared: its whole sentences, nothing, or all of it.
        seed: For the random pairs.
        limit: Only the first so many prompts.
        batch_size: Prompts sampled, and compared, at a time; changes speed and memory, never the records.
    """
    if sampling.n + (sampling.n if student is not None else 0) < 2:
        raise ConfigError(f"sampling.n is {sampling.n}: a preference is between two answers at least")
    if comparisons is not None and (comparisons < 1 or compare != "random"):
        raise ConfigError(f"comparisons is {comparisons} with compare {compare!r}: give at least 1, and only with random")
    if pairs_per_prompt < 1:
        raise ConfigError(f"pairs_per_prompt is {pairs_per_prompt}: give at least 1")
    if not 0.5 <= min_probability < 1:
        raise ConfigError(f"min_probability is {min_probability}: between 0.5 (keep all) and 1 (which nothing reaches)")
    if not 0 < spread < float("inf"):
        raise ConfigError(f"spread is {spread}: give a standard deviation above 0 (nats)")
    source = read_questions(prompts)
    total = run.total(source, limit)
    told = answers(run, run.take(source, limit=limit), teacher, student, sampling, batch_size=batch_size, total=total)
    distinct = ((question, _distinct(run, completions, cut)) for question, completions in told)
    ranked = _compared(run, distinct, judge, compare, comparisons, seed, batch_size, total)
    choice = _Choice(
        form=form, pairs_per_prompt=pairs_per_prompt, min_probability=min_probability, abstained=abstained, spread=spread
    )
    return _records(run, ranked, choice)


class Told(NamedTuple):
    """A prompt with its distinct answers, who said each, and the preferences between them: (first, second, how it went)."""

    question: Question
    answers: tuple[str, ...]
    said_by: tuple[dict[str, int], ...]
    preferences: tuple[tuple[int, int, dict[str, Any]], ...]


Distinct = dict[str, dict[str, int]]  # each answer, and who said it how often


def _compared(
    run: Run,
    told: Iterable[tuple[Question, Distinct]],
    judge: PairJudge,
    compare: str,
    comparisons: int | None,
    seed: int,
    batch_size: int,
    total: int,
) -> Iterator[Told]:
    """One item for each prompt, so that all its pairs are decided together; the judge sees the whole batch's pairs at once."""

    def items() -> Iterator[Item]:
        for question, distinct in told:
            texts = list(distinct)
            pairs = _pairs(len(texts), compare, comparisons, f"{seed}/{question.id}")
            value = {"prompt": prompt_json(question.prompt), "answers": texts, "pairs": [list(pair) for pair in pairs]}
            yield Item(question.id, value, (question, tuple(distinct.values())))

    def work(batch: list[Item]) -> list[Any]:
        todo = [
            (item.value["prompt"], *(item.value["answers"][place] for place in pair))
            for item in batch
            for pair in item.value["pairs"]
        ]
        found = iter(
            judge.compare_many([prompt_from_json(one[0]) for one in todo], [one[1] for one in todo], [one[2] for one in todo])
        )
        several = [[next(found) for _ in item.value["pairs"]] for item in batch]
        return [_plain(preferences) for preferences in several]

    # A pair that the judge could not be asked about is no tie: the question is lost, and --retry_lost asks again.
    rows = run.map("compare", items(), work, key={"version": 1, "judge": judge}, batch_size=batch_size, total=total, asks=judge)
    return (
        Told(
            question=row.carried[0],
            answers=tuple(row.value["answers"]),
            said_by=row.carried[1],
            preferences=tuple((*pair, went) for pair, went in zip(row.value["pairs"], row.result, strict=True)),
        )
        for row in rows
    )


def _plain(preferences: Sequence[Preference]) -> Any:
    """One question's preferences as JSON, or why they are lost."""
    failed = next((one.failed for one in preferences if one.failed), "")
    if not preferences or failed:
        return Lost(failed or "fewer than two different answers")
    return [asdict(one) for one in preferences]


def _distinct(run: Run, completions: dict[str, tuple[Completion, ...]], cut: Cut) -> Distinct:
    """Each different answer with something whole in it; answers that were cut only where none ended by itself."""
    ended = any(one.finish == "stop" for several in completions.values() for one in several)
    found: Distinct = {}
    known: dict[str, str] = {}
    for who, several in completions.items():
        for one in several:
            text = kept_text(one, cut)
            if not text:
                run.count("answers left out", "nothing whole in it" if one.text.strip() else "blank")
            elif one.finish != "stop" and ended:
                run.count("answers left out", "cut off, where others ended")
            else:
                said_by = found.setdefault(known.setdefault(text.strip(), text), {})
                said_by[who] = said_by.get(who, 0) + 1
    return found


def _pairs(size: int, compare: str, comparisons: int | None, seed: str) -> list[tuple[int, int]]:
    """Which answers to compare; whatever the way, all are linked, so that they can be ranked."""
    if compare == "all":
        return list(combinations(range(size), 2))
    if compare == "adjacent":
        return list(pairwise(range(size)))
    draw = random.Random(seed)
    order = draw.sample(range(size), size)
    chain = list(pairwise(order))
    others = [pair for pair in combinations(range(size), 2) if pair not in chain and pair[::-1] not in chain]
    draw.shuffle(others)
    return (chain + others)[: 2 * (size - 1) if comparisons is None else comparisons]


def _records(run: Run, told: Iterable[Told], choice: _Choice) -> Iterator[Record]:
    for one in told:
        for _, _, went in one.preferences:
            run.count("comparisons", went["preferred"] or f"abstained: {went['reason']}")
        comparisons = [
            Comparison(str(first), str(second), _won(went))
            for first, second, went in one.preferences
            if went["preferred"] is not None or choice.abstained == "tie"
        ]
        if not comparisons:
            run.count("prompts", "nothing decided")
            continue
        ranking = bradley_terry(comparisons, spread=choice.spread)
        chosen = list(_of_pairs(ranking, choice) if choice.form == "pairs" else _of_ranking(ranking, choice))
        run.count("prompts", ("a pair" if choice.form == "pairs" else "ranked") if chosen else "too close to tell")
        evidence = _evidence(one, ranking)
        for place, polarity, weight, more in chosen:
            text = one.answers[place]
            yield Record(
                id=make_id(one.question.id, polarity, one.question.prompt, text, source=SOURCE),
                group=one.question.id,
                prompt=one.question.prompt,
                response=text,
                polarity=polarity,
                weight=weight,
                source=SOURCE,
                evidence={**evidence, "answer": place, **more},
            )


def _won(went: dict[str, Any]) -> float:
    """The first one's share of a comparison: a judge that is hardly sure leaves nearly a tie."""
    if went["preferred"] is None:
        return 0.5
    sure = min(max(went["confidence"], 0.5), 1.0)
    return float(sure if went["preferred"] == "first" else 1 - sure)


Chosen = tuple[int, Polarity, float, dict[str, Any]]


def _of_pairs(ranking: Ranking, choice: _Choice) -> Iterator[Chosen]:
    """The strongest with the weakest, the next with the last but one: no answer stands on both sides. The surest pairs first."""
    found = []
    for names in ranking.components:
        order = sorted(names, key=lambda name: -ranking.strengths[ranking.items.index(name)])
        for high, low in zip(order[: len(order) // 2], order[::-1], strict=False):
            found.append((ranking.probability(high, low), int(high), int(low)))
    for sure, better, worse in sorted(found, key=lambda one: -one[0])[: choice.pairs_per_prompt]:
        if sure > 0.5 and sure >= choice.min_probability:
            yield better, "positive", 1.0, {"probability": round(sure, 6), "against": worse}
            yield worse, "negative", 1.0, {"probability": round(sure, 6), "against": better}


def _of_ranking(ranking: Ranking, choice: _Choice) -> Iterator[Chosen]:
    """Each answer by its chance to beat another one of its prompt; what wins about half the time says nothing."""
    for names in ranking.components:
        for name in sorted(names, key=lambda name: -ranking.strengths[ranking.items.index(name)]):
            share = fmean(ranking.probability(name, other) for other in names if other != name)
            if share != 0.5 and max(share, 1 - share) >= choice.min_probability:
                polarity: Polarity = "positive" if share > 0.5 else "negative"
                yield int(name), polarity, round(abs(2 * share - 1), 6), {"probability": round(share, 6)}


def _evidence(one: Told, ranking: Ranking) -> dict[str, Any]:
    strengths: Sequence[dict[str, Any]] = [
        {"answer": int(name), "strength": round(strength, 6), "error": round(error, 6)}
        for name, strength, error in zip(ranking.items, ranking.strengths, ranking.errors, strict=True)
    ]
    preferences = [{"first": first, "second": second, **went} for first, second, went in one.preferences]
    evidence: dict[str, Any] = {"answers": list(one.answers), "said_by": list(one.said_by)}
    evidence |= {"preferences": preferences, "strengths": list(strengths)}
    return evidence | ({"question": dict(one.question.extra)} if one.question.extra else {})


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
