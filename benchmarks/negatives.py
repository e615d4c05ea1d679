"""What do negatives add beyond labels? Arms that differ in the negatives alone, several seeds, one table.

    python -m benchmarks.negatives run --seeds [0,1,2] --arms [labels,own,shuffled] --out runs/negatives
    python -m benchmarks.negatives table --out runs/negatives --split validation      # to choose
    python -m benchmarks.negatives table --out runs/negatives --split test            # once, at the end

Each arm trains the same model on the same questions with the same labels, seed by seed; only the negatives, their weight or the
form of the loss change. Every arm gets its own answering rule, fitted on validation. The comparison is paired: the same
questions, the same seeds, entities resampled together. Minutes for an arm and a seed, and what came out: docs/results.md.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.evaluate.abstention import METRICS, Outcomes, accuracy_at_coverage
from distill.evaluate.answers import Answer, signals
from distill.quickstart.answering import RULE_SPLITS, fit_answering_rule
from distill.quickstart.labels import Recipe, all_records, labeller, made_up_record, majority_right
from distill.quickstart.pipeline import Quickstart
from distill.quickstart.settings import Clock, Settings
from distill.recipes import Run
from distill.recipes.facts import Split
from distill.records import write_records


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to use negatives. weight 0 leaves the negatives out altogether; `objective` is the config's `avoid`."""

    recipe: Recipe = Recipe()
    weight: float = 0.2
    objective: Mapping[str, Any] = field(default_factory=lambda: {"class_path": "Unlikelihood", "init_args": {"margin": 0.1}})
    protect: str = "first_difference"
    made_up: int = 60


LABEL = Recipe(grading="label", guesses="own")
GRADED = Recipe(grading="agreement", guesses="own")
NONE = Recipe(grading="label", negatives=0)
ARMS: dict[str, Arm] = {
    "labels": Arm(recipe=NONE, weight=0),
    "graded": Arm(recipe=dataclasses.replace(GRADED, negatives=0), weight=0),
    "own": Arm(recipe=LABEL),
    "own_0.5": Arm(recipe=LABEL, weight=0.5),
    "own_1": Arm(recipe=LABEL, weight=1.0),
    "shuffled": Arm(recipe=dataclasses.replace(LABEL, guesses="others")),
    "unknown_only": Arm(recipe=dataclasses.replace(LABEL, known_negatives=False)),
    "idk_negative": Arm(recipe=dataclasses.replace(NONE, abstention_weight=1.0)),
    "cringe": Arm(recipe=LABEL, objective={"class_path": "Cringe", "init_args": {}}),
    "graded_own": Arm(recipe=GRADED),
    "graded_own_0.5": Arm(recipe=GRADED, weight=0.5),
    "graded_own_1": Arm(recipe=GRADED, weight=1.0),
    "graded_shuffled": Arm(recipe=dataclasses.replace(GRADED, guesses="others")),
    "graded_cringe": Arm(recipe=GRADED, objective={"class_path": "Cringe", "init_args": {}}),
}


class Study(Quickstart):
    """The quickstart's stages with the arms in place of its own records."""

    def write_arm(self, name: str, arm: Arm, threshold: float) -> None:
        labelled = [(asked.fact, asked.label(labeller(threshold=threshold))) for asked in self.samples["train"]]
        written = list(all_records(labelled, arm.recipe, seed=self.settings.seed))
        written += [made_up_record(fact) for fact in self.questions["made_up"][: arm.made_up]]
        write_records(written, self._folder(name) / "records")

    def answers_of(self, name: str) -> None:
        """Answers on validation, test and invented questions, kept as JSON; the weights are deleted to spare the disk."""
        model, folder = self._model(name), self._folder(name)
        found = {split: [dataclasses.asdict(a) for a in self._answers(name, model, split)] for split in SCORED}
        (folder / "answers.json").write_text(json.dumps(found) + "\n")
        for stale in ("export", "checkpoints"):
            shutil.rmtree(folder / stale)


SCORED: tuple[Split, ...] = (*RULE_SPLITS, "test", "invented")


def run(arms: list[str], seeds: list[int], out: Path = Path("runs/negatives"), student: str = "smollm2-135m-instruct") -> None:
    """Train and measure every arm that has no answers yet."""
    for seed in seeds:
        folder = out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        with Run(folder / "work") as recipe_run:
            study = Study(Settings(seed=seed, student=student), folder, recipe_run, Clock(folder / "seconds.json"))
            study.ask_base()
            threshold = study.choose_label_threshold()
            for name in arms:
                arm = ARMS[name]
                if (folder / name / "answers.json").exists():
                    continue
                study.write_arm(name, arm, threshold)
                avoid = {**arm.objective, "init_args": {**arm.objective["init_args"], "weight": arm.weight}}
                objectives = {"answer": {"class_path": "Likelihood"}} | ({"avoid": avoid} if arm.weight else {})
                study.settings = dataclasses.replace(
                    study.settings,
                    train_args=(f"--model.objectives={json.dumps(objectives)}", f"--data.protect={arm.protect}"),
                )
                study.train(name)
                study.answers_of(name)


def table(
    out: Path = Path("runs/negatives"), split: Split = "validation", against: str = "labels", resamples: int = 1000
) -> None:
    """Each arm's mean over seeds, and its paired difference to the arm `against` with the standard error over entities."""
    seeds = sorted(int(folder.name[4:]) for folder in out.glob("seed*"))
    arms = sorted({path.parent.name for path in out.glob("seed*/*/answers.json")}, key=list(ARMS).index)
    found = {
        arm: {s: _outcomes(out, s, arm, split) for s in seeds if (out / f"seed{s}" / arm / "answers.json").exists()}
        for arm in arms
    }
    columns = (
        "auroc_confidence",
        "aurc_confidence",
        "acc@40%",
        "auroc_answer",
        "aurc_answer",
        "auroc",
        "accuracy",
        "coverage",
        "truthful",
    )
    print(f"{split}: mean over seeds, then the paired difference to `{against}` ± its standard error")
    print(f"{'arm':<16}{'seeds':>6}" + "".join(f"{c:>26}" for c in columns))
    for arm in arms:
        cells = []
        for column in columns:
            mean = np.mean([_value(o, column) for o in found[arm].values()])
            common = [s for s in found[arm] if s in found.get(against, {})]
            difference = ""
            if arm != against and common:
                d, e = _paired([found[arm][s] for s in common], [found[against][s] for s in common], column, resamples)
                difference = f" {d:+.3f}±{e:.3f}{'*' if abs(d) > 2 * e else ' '}"
            cells.append(f"{mean:.3f}{difference}")
        print(f"{arm:<16}{len(found[arm]):>6}" + "".join(f"{cell:>26}" for cell in cells))


def _value(outcomes: Outcomes, metric: str) -> float:
    if metric == "acc@40%":
        return accuracy_at_coverage(outcomes.confidence, outcomes.right, 0.4)
    return METRICS[metric](outcomes)


def _paired(first: list[Outcomes], second: list[Outcomes], metric: str, resamples: int) -> tuple[float, float]:
    """Mean difference over seeds; its standard error resamples entities, the same ones in every seed and both arms."""
    entities, cluster = np.unique(first[0].cluster, return_inverse=True)
    members = [np.flatnonzero(cluster == i) for i in range(len(entities))]
    draw = np.random.default_rng(0)

    def difference(index: np.ndarray) -> float:
        return float(
            np.mean([_value(a.take(index), metric) - _value(b.take(index), metric) for a, b in zip(first, second, strict=True)])
        )

    draws = [
        difference(np.concatenate([members[i] for i in draw.integers(len(members), size=len(members))])) for _ in range(resamples)
    ]
    across_entities = float(np.std(draws, ddof=1))
    each = [_value(a, metric) - _value(b, metric) for a, b in zip(first, second, strict=True)]
    across_seeds = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
    return float(np.mean(each)), float(np.hypot(across_entities, across_seeds))


def _outcomes(out: Path, seed: int, arm: str, split: Split) -> Outcomes:
    """The arm's outcomes with the rule and threshold that its own validation answers give."""
    found = json.loads((out / f"seed{seed}" / arm / "answers.json").read_text())
    with Run(out / f"seed{seed}" / "work", quiet=True) as recipe_run:
        study = Study(Settings(seed=seed), out / f"seed{seed}", recipe_run, Clock(out / f"seed{seed}" / "seconds.json"))
        study.samples["validation"] = study._sample("validation", adaptive=False)
        answers = {name: [Answer(**answer) for answer in found[name]] for name in {*RULE_SPLITS, split}}
        right = {name: study._right(name, given) for name, given in answers.items()}
        rule = fit_answering_rule(answers, right, study.majority())
        asked = study._sample(split, adaptive=False) if split == "test" else study.samples.get(split, [])
        majority = [majority_right(one.fact, one.label(labeller(threshold=0.5))) for one in asked] or [False] * len(
            answers[split]
        )
    log_prob, p_idk, greedy = signals(answers[split])
    confidence = rule.confidence(log_prob, p_idk, greedy)
    return Outcomes(
        cluster=np.array([fact.entity for fact in study.questions[split]]),
        answered=confidence >= rule.threshold,
        right=np.array(right[split]),
        majority_right=np.array(majority),
        p_idk=p_idk,
        answer_log_prob=log_prob,
        confidence=confidence,
        negative_mass=np.full(len(confidence), np.nan),
    )


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli([run, table], as_positional=False, args=sys.argv[1:])
