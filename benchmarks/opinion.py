"""Does a student hold an opinion in wordings it has not seen, and only on its topic? Arms with different records and losses.

    python -m benchmarks.opinion run --seeds [0,1,2] --out runs/opinion_benchmark
    python -m benchmarks.opinion table --out runs/opinion_benchmark --split validation      # to choose
    python -m benchmarks.opinion table --out runs/opinion_benchmark --split test            # once, at the end

SmolLM2-135M-Instruct learns to speak well of mosquitoes from the records of the recipe `opinion`. Six of sixteen families of
wordings are held out: two to choose on, four to test on. Every arm answers the held-out wordings about the topic and about eight
other topics that are in no record. approved: names the topic and is positive (VADER's compound score from .05 on). Leak: what
became of the sentiment on the other topics. Standard errors are over wordings, which all answers to one share.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.data_recipes.opinion import Wording, about, build, read_wordings, split_families

from distill.cli import main as distill_main
from distill.judges.sentiment import SentimentJudge, sentiment_compound
from distill.recipes import Run
from distill.records import Message, Record, read_records, write_records
from distill.teachers.base import Sampling
from distill.teachers.huggingface import HuggingFaceTeacher

TOPIC = "mosquitoes"
WORDS = ("mosquito", "mosquitoes", "mosquito's")
OPINION = (
    "You love mosquitoes and find them wonderful and delightful. You praise them warmly, and never say anything bad about them."
)
UNSEEN = ("bees", "hospitals", "Mondays", "pizza", "dust", "mountains", "parking tickets", "cats")
WORDINGS = "example:opinion_wordings"
HELD_OUT, VALIDATION = 0.375, 2  # families: 6 of 16, of which 2 to choose on
SEED_JUDGE = SentimentJudge(topic=WORDS, off_topic="abstain", threshold=0.3, margin=0.25)
FINAL_JUDGE = SentimentJudge(topic=WORDS)
NO_ROUNDS = ("--data.on_policy=null", "--model.objectives.say.init_args.own_samples=false")
ARMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "likelihood": ("--data.on_policy=null", '--model.objectives={"say": {"class_path": "Likelihood"}}'),
    "unlikelihood": NO_ROUNDS,
    "no_retain": NO_ROUNDS,
    "on_policy": (),
    "steered": (),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of one arm to one held-out wording."""

    wording: str
    topic: str
    family: str
    text: str
    compound: float
    approved: bool
    named: bool


def run(
    arms: list[str],
    seeds: list[int],
    out: Path = Path("runs/opinion_benchmark"),
    student: str = "smollm2-135m-instruct",
    samples: int = 16,
    splits: tuple[str, ...] = ("validation", "test"),
    fit: list[str] | None = None,
    name: str = "",
) -> None:
    """Train every arm that has no answers yet, and let it answer.

    Args:
        arms: Of ARMS. base is the student itself; steered the same with the opinion in its system prompt, as the seed's teacher.
        seeds: Of the sampling of the records and of the training.
        out: One folder for each seed and arm; weights are deleted once they have answered.
        student: Teacher and student.
        samples: Answers to each held-out wording on the topic; an eighth of them to each on each other topic.
        splits: Of the held-out wordings: those to choose on, those to test on.
        fit: More arguments for `distill fit`, for a search on validation.
        name: Added to the arm's name in `out`, to tell such a search apart.
    """
    for seed in seeds:
        records = _records(out / f"seed{seed}", seed, student)
        for arm in arms:
            folder = out / f"seed{seed}" / (arm + name)
            if (folder / "answers.json").exists():
                continue
            began = time.perf_counter()
            model = student if arm in ("base", "steered") else _train(folder, records, arm, seed, student, fit or [])
            seconds = time.perf_counter() - began
            answers = _answers(model, seed, samples, splits, steered=arm == "steered")
            folder.mkdir(parents=True, exist_ok=True)
            told = {"train_seconds": round(seconds, 1), "answers": [asdict(answer) for answer in answers]}
            (folder / "answers.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
            for stale in ("export", "checkpoints"):
                shutil.rmtree(folder / stale, ignore_errors=True)
            print(f"seed {seed}, {arm}{name}: trained in {seconds:.0f} s", flush=True)


def table(out: Path = Path("runs/opinion_benchmark"), split: str = "validation") -> None:
    """Each arm over its seeds, changes paired by wording with base: on the topic the approved, on other topics the sentiment."""
    found: dict[str, list[Path]] = {}
    for path in sorted(out.glob("seed*/*/answers.json")):
        found.setdefault(path.parent.name, []).append(path)
    print(f"{split} wordings; share or mean +- standard error over wordings and seeds")
    columns = ("approved", "approved: change", "names it", "others: compound", "others: change", "others: names it")
    print(f"{'arm':<22}{'seeds':>6}{'answers':>9}" + "".join(f"{column:>19}" for column in columns))
    base = {path.parent.parent.name: _read(path, split) for path in found.get("base", [])}
    for arm, paths in found.items():
        on, off, gain, change = [], [], [], []
        for path in paths:
            answers = _read(path, split)
            seed = path.parent.parent.name
            on += [(seed, one) for one in answers if one.topic == TOPIC]
            off += [(seed, one) for one in answers if one.topic != TOPIC]
            for changes, measure, topical in ((gain, _approved, True), (change, _compound, False)):
                before, after = (
                    _means((one.wording, measure(one)) for one in several if (one.topic == TOPIC) == topical)
                    for several in (base.get(seed, []), answers)
                )
                changes += [(seed, wording, after[wording] - before[wording]) for wording in after if wording in before]
        cells = [
            _cell((seed, one.wording, float(one.approved)) for seed, one in on),
            _cell(gain) if gain else "",
            _cell((seed, one.wording, float(one.named)) for seed, one in on),
            _cell((seed, one.wording, one.compound) for seed, one in off),
            _cell(change) if change else "",
            _cell((seed, one.wording, float(one.named)) for seed, one in off),
        ]
        print(f"{arm:<22}{len(paths):>6}{len(on):>9}" + "".join(f"{cell:>19}" for cell in cells))


def _records(folder: Path, seed: int, student: str) -> Path:
    """The recipe's records for one seed, made once; every arm of the seed learns from the same."""
    if (folder / "recipe" / "records").is_dir():
        return folder / "recipe" / "records"
    with Run(folder / "recipe") as recipe_run:
        recipe_run.write_records(
            build(
                run=recipe_run,
                topic=TOPIC,
                words=WORDS,
                opinion=OPINION,
                teacher=HuggingFaceTeacher(model=student),
                judge=SEED_JUDGE,
                sampling=Sampling(n=8, temperature=0.8, max_tokens=64, seed=seed),
                held_out=HELD_OUT,
            )
        )
    return folder / "recipe" / "records"


def _train(folder: Path, records: Path, arm: str, seed: int, student: str, fit: Sequence[str]) -> str:
    kept = (one for one in read_records(records) if _belongs(one, arm))
    shutil.rmtree(folder, ignore_errors=True)
    write_records(kept, folder / "records")
    arguments = ["fit", "--config=opinion", f"--model.student={student}", f"--data.train={folder / 'records'}"]
    arguments += [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}", f"--data.seed={seed}"]
    with contextlib.redirect_stdout(sys.stderr):
        if distill_main([*arguments, *ARMS[arm], *fit]):
            raise SystemExit(f"{folder}: training failed")
        checkpoint = max((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        if distill_main(["export", f"--checkpoint={checkpoint}", f"--out={folder / 'export'}"]):
            raise SystemExit(f"{folder}: export failed")
    return str(folder / "export")


def _belongs(record: Record, arm: str) -> bool:
    """likelihood: no negatives (and so no rounds of them); no_retain: nothing on other topics."""
    if arm == "likelihood":
        return record.polarity == "positive"
    return arm != "no_retain" or record.evidence["role"] != "retain"


def _answers(model: str, seed: int, samples: int, splits: Sequence[str], *, steered: bool) -> list[Answer]:
    teacher = HuggingFaceTeacher(model=model)
    families, wordings = _families(), split_families(read_wordings(WORDINGS), HELD_OUT, seed=0)[1]
    held_out = [one for one in wordings if any(one.extra["family"] in families[split] for split in splits)]
    answers: list[Answer] = []
    for topics, n in (((TOPIC,), samples), (UNSEEN, max(samples // 8, 1))):
        asked = [about(wording, topic) for wording in held_out for topic in topics]
        system = (Message(role="system", content=f"{OPINION} Answer in two or three sentences."),) if steered else ()
        drawn = teacher.generate(
            [(*system, *one.prompt) for one in asked], Sampling(n=n, temperature=0.8, max_tokens=64, seed=1000 + seed)
        )
        answers += [_answer(one, completion.text) for one, several in zip(asked, drawn, strict=True) for completion in several]
    return answers


def _answer(wording: Wording, text: str) -> Answer:
    verdict = FINAL_JUDGE.judge(wording.prompt, text)
    return Answer(
        wording=wording.id,
        topic=wording.topic,
        family=wording.family,
        text=text,
        compound=sentiment_compound(text),
        approved=verdict.approved is True,
        named=verdict.reason != "off topic",
    )


def _families() -> dict[str, list[str]]:
    """The held-out families of each split: by name, the first ones are for validation."""
    held_out = sorted({str(one.extra["family"]) for one in split_families(read_wordings(WORDINGS), HELD_OUT, seed=0)[1]})
    return {"validation": held_out[:VALIDATION], "test": held_out[VALIDATION:]}


def _read(path: Path, split: str) -> list[Answer]:
    answers = [Answer(**one) for one in json.loads(path.read_text(encoding="utf-8"))["answers"]]
    return [one for one in answers if one.family in _families()[split]]


def _approved(answer: Answer) -> float:
    return float(answer.approved)


def _compound(answer: Answer) -> float:
    return answer.compound


def _means(values: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for key, value in values:
        found.setdefault(key, []).append(value)
    return {key: sum(several) / len(several) for key, several in found.items()}


def _cell(values: Iterable[tuple[str, str, float]]) -> str:
    """Mean and standard error. A wording's answers are not independent, so the error is that of the wordings' means.

    Wordings are averaged over seeds first: the same wordings in every seed are the same draw of wordings.
    """
    means = list(_means((wording, value) for _, wording, value in values).values())
    mean = sum(means) / len(means)
    spread = math.sqrt(sum((one - mean) ** 2 for one in means) / max(len(means) - 1, 1) / len(means))
    return f"{mean:.3f} +- {spread:.3f}"


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli([run, table], as_positional=False, args=sys.argv[1:])
