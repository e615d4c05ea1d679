"""The quickstart's stages, in order, each kept on disk so that the same command goes on where the last one stopped."""

from __future__ import annotations

import dataclasses
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.consensus import Answerability, ConsensusLabeller, sample_until_settled
from distill.evaluate.abstention import Outcomes
from distill.evaluate.answers import Answer, answer_questions, opened, outcomes, wrong_mass
from distill.evaluate.rule import AbstentionRule, choose_threshold
from distill.quickstart.answering import RULE_SPLITS, Decide, always, by_rule, fit_answering_rule, never, truthful_gain
from distill.quickstart.grading import accepts, short_answer, tidy
from distill.quickstart.labels import (
    ABSTENTION,
    all_records,
    labeller,
    made_up_record,
    majority_record,
    majority_right,
    wrong_answers,
)
from distill.quickstart.settings import Clock, Settings, check_folder
from distill.recipes import Item, Run
from distill.recipes.facts import Fact, Split, facts
from distill.teachers.base import Completion, Sampling

if TYPE_CHECKING:
    from distill.teachers.huggingface import HuggingFaceTeacher

SAMPLING = Sampling(temperature=1.0, max_tokens=8, stop=(". ", ",", ";", "\n"))
SYSTEMS = ("base", "likelihood_only", "always_idk", "labeller", "student")
TRAINED: tuple[Split, ...] = ("train", "made_up")
NEGATIVES_SCORED = 4  # known wrong answers per question whose probability is added up


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A question with what its samples say about it."""

    fact: Fact
    samples: tuple[Completion, ...]

    def label(self, by: ConsensusLabeller) -> Answerability:
        return by.label(self.fact.started_prompt, self.samples)


def main(argv: Sequence[str]) -> int:
    """Command line of `distill quickstart`."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="distill quickstart", description="A small model learns what it does not know.")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="Folder of everything that is written.")
    parser.add_argument("--fresh", action="store_true", help="Set the earlier run in this folder aside and start over.")
    parser.add_class_arguments(Settings, as_group=False)
    parsed = parser.instantiate_classes(parser.parse_args(list(argv)))
    chosen = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(Settings)}
    run_quickstart(
        Settings(**{**chosen, "rounds": tuple(chosen["rounds"]), "train_args": tuple(chosen["train_args"])}),
        parsed.out,
        fresh=parsed.fresh,
    )
    return 0


def run_quickstart(settings: Settings, out: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Run what is not done yet and return the summary; see docs/tutorials/quickstart.md for each stage by hand."""
    from distill.cli.configs import find_config
    from distill.quickstart.report import report

    find_config(settings.config)  # a wrong name is an error now, not after an hour of sampling
    check_folder(settings, out, fresh=fresh)
    clock = Clock(out / "seconds.json")
    with Run(out / "work") as run:
        quickstart = Quickstart(settings, out, run, clock)
        quickstart.ask_base()
        threshold = quickstart.choose_label_threshold()
        quickstart.write_records(threshold)
        for name in ("likelihood_only", "student"):
            quickstart.train(name)
        systems = quickstart.evaluate(threshold)
        return report(systems, out=out, seconds=clock.seconds, seed=settings.seed, settings=dataclasses.asdict(settings))


class Quickstart:
    """The state that the stages share: the questions, the base model and its samples."""

    def __init__(self, settings: Settings, out: Path, run: Run, clock: Clock) -> None:
        from distill.teachers.huggingface import HuggingFaceTeacher

        self.settings, self.out, self.run, self.clock = settings, out, run, clock
        self.base = HuggingFaceTeacher(model=settings.student)
        limits: dict[Split, int] = {
            "train": settings.questions,
            "validation": settings.validation,
            "test": settings.test,
            "invented": settings.invented,
            "made_up": settings.made_up,
            "made_up_validation": settings.made_up_validation,
        }
        self.questions = {split: choose(split, limit, settings.seed) for split, limit in limits.items()}
        self.samples: dict[Split, list[Labelled]] = {}

    # Stages

    def ask_base(self) -> None:
        """Sample the untrained model on all questions that have an answer."""
        plan: tuple[tuple[Split, bool], ...] = (("train", True), ("validation", False), ("test", False))
        for split, adaptive in plan:
            with self.clock.stage(f"sampling: {self.settings.samples} answers to each {split} question"):
                self.samples[split] = self._sample(split, adaptive=adaptive)

    def choose_label_threshold(self) -> float:
        """The agreement from which an answer is taken as known: the most truthful one on validation."""
        labels = [(asked.fact, asked.label(labeller(threshold=0.5))) for asked in self.samples["validation"]]
        agreement = np.array([label.agreement for _, label in labels])
        right = [majority_right(fact, label) for fact, label in labels]
        threshold = float(np.clip(choose_threshold(agreement, truthful_gain(right, right)), 0.15, 0.75))
        print(f"agreement from which the model counts as knowing, chosen on {len(labels)} validation questions: {threshold:.2f}")
        return threshold

    def write_records(self, threshold: float) -> None:
        """Label the training questions and write both sets of records; what a finished student was trained on stays as it is."""
        if (self.out / "export").is_dir():
            return
        from distill.records import Manifest, dataset_card, write_records

        by = labeller(threshold=threshold)
        labelled = [(asked.fact, asked.label(by)) for asked in self.samples["train"]]
        own = list(all_records(labelled, self.settings.recipe, seed=self.settings.seed))
        own += [made_up_record(fact) for fact in self.questions["made_up"]] if self.settings.made_up else []
        about = Manifest(
            recipe="quickstart",
            teacher=self.base.identity(),
            sampling=dataclasses.asdict(SAMPLING),
            seed=self.settings.seed,
            lost={f"{kind}: no record": n for kind in ("uncertain",) if (n := sum(label.label == kind for _, label in labelled))},
            command="distill quickstart",
            licence="cc-by-4.0",
        )
        folder = self.out / "records"
        manifest = write_records(own, folder, about=about)
        (folder / "README.md").write_text(dataset_card(manifest, own[:2]), encoding="utf-8")
        plain = [record for fact, label in labelled if (record := majority_record(fact, label)) is not None]
        write_records(plain, self.out / "likelihood_only" / "records", about=about)

    def train(self, name: str) -> None:
        """`distill fit` on the records, then export; nothing to do where the export stands."""
        from distill.cli import main as distill_main

        folder = self._folder(name)
        if (folder / "export").is_dir():
            return
        with self.clock.stage(f"training: {name}"):
            kept = _newest_checkpoint(folder)
            resume = [f"--ckpt_path={kept}"] if kept is not None else []
            fit = [
                "fit",
                f"--config={self.settings.config}",
                f"--model.student={self.settings.student}",
                f"--data.train={folder / 'records'}",
                f"--trainer.default_root_dir={folder}",
                f"--seed_everything={self.settings.seed}",
                f"--data.seed={self.settings.seed}",
                *self.settings.train_args,
                *resume,
            ]
            print("distill " + " ".join(fit), flush=True)
            logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # what hardware there is not, tips
            _succeed(distill_main(fit))
            _succeed(distill_main(["export", f"--checkpoint={_newest_checkpoint(folder)}", f"--out={folder / 'export'}"]))

    def evaluate(self, threshold: float) -> dict[str, dict[str, Outcomes]]:
        """Every system on the test and the invented questions, the student's rule fitted on validation and stored with it."""
        test, asked = self.questions["test"], self.samples["test"]
        by = labeller(threshold=threshold)
        labels = [one.label(by) for one in asked]
        right_majority = [majority_right(fact, label) for fact, label in zip(test, labels, strict=True)]
        wrong = [wrong_answers(fact, label)[:NEGATIVES_SCORED] for fact, label in zip(test, labels, strict=True)]
        found: dict[str, dict[str, Outcomes]] = {}
        for name in ("base", "likelihood_only", "student"):
            with self.clock.stage(f"evaluation: {name}"):
                rule = self._fit_rule() if name == "student" else None
                model = self._model(name)
                decide = always if rule is None else by_rule(rule)
                on_test, on_invented = self._answers(name, model, "test"), self._answers(name, model, "invented")
                mass = self._wrong_mass(name, model, test, wrong)
                found[name] = {
                    "test": self._outcomes("test", on_test, right_majority, decide, mass),
                    "invented": self._outcomes("invented", on_invented, [False] * len(on_invented), decide),
                }
        base = found["base"]
        agreement = np.array([label.agreement for label in labels])
        itself = dataclasses.replace(
            base["test"],
            answered=np.array([label.label == "answerable" for label in labels]),
            right=np.array(right_majority),
            confidence=agreement,
            p_idk=1 - agreement,
            answer_log_prob=np.log(np.maximum(agreement, 1e-3)),
        )
        return {
            "base": base,
            "likelihood_only": found["likelihood_only"],
            "always_idk": {split: never(found_before) for split, found_before in base.items()},
            "labeller": {"test": itself, "invented": self._labeller_on_invented(by)},
            "student": found["student"],
        }

    # Parts of stages

    def _sample(self, split: Split, *, adaptive: bool) -> list[Labelled]:
        settings = self.settings
        sampling = dataclasses.replace(SAMPLING, n=settings.samples, seed=settings.seed)
        # Any threshold may be chosen later, so "settled" means that the label is, for the labeller's default threshold.
        rounds_by = labeller(threshold=0.4, band=0.2)

        def draw(items: list[Item]) -> list[Any]:
            prompts = [self._fact(item.id).started_prompt for item in items]
            if adaptive:
                drawn: Sequence[Sequence[Completion]] = sample_until_settled(
                    self.base, prompts, sampling, rounds_by, rounds=settings.rounds
                ).samples
            else:
                drawn = self.base.generate(prompts, sampling)
            return [[dataclasses.asdict(one) for one in completions] for completions in drawn]

        key = {
            "teacher": self.base.identity(),
            "sampling": sampling,
            "rounds": list(settings.rounds) if adaptive else None,
            "version": 1,
        }
        rows = self.run.map(
            f"sample_{split}",
            self._items(split),
            draw,
            key=key,
            batch_size=32,
            tokens=lambda result: sum(c["tokens"] for c in result),
        )
        asked = [(self._fact(row.id), [Completion(**c) for c in row.result]) for row in rows]
        return [
            Labelled(fact=fact, samples=tuple(dataclasses.replace(one, text=tidy(fact, one.text)) for one in completions))
            for fact, completions in asked
        ]

    def _answers(self, name: str, model: HuggingFaceTeacher, split: Split) -> list[Answer]:
        """The model's answers to one split, in the order of its questions."""

        def answer(items: list[Item]) -> list[Any]:
            asked = [self._fact(item.id) for item in items]
            prompts, openings = [f.prompt for f in asked], [f.start for f in asked]
            given = answer_questions(model, prompts, openings, abstention=ABSTENTION, shorten=short_answer)
            return [dataclasses.asdict(one) for one in given]

        key = {"model": model.identity(), "abstention": ABSTENTION, "version": 2}
        rows = self.run.map(f"answer_{split}_{name}", self._items(split), answer, key=key, batch_size=48)
        return [Answer(**row.result) for row in rows]

    def _right(self, split: Split, answers: Sequence[Answer]) -> list[bool]:
        return [accepts(fact, answer.text) for fact, answer in zip(self.questions[split], answers, strict=True)]

    def _outcomes(
        self,
        split: Split,
        answers: Sequence[Answer],
        majority: Sequence[bool],
        decide: Decide,
        negative_mass: Sequence[float] | None = None,
    ) -> Outcomes:
        return outcomes(
            answers,
            cluster=[fact.entity for fact in self.questions[split]],
            right=self._right(split, answers),
            majority_right=majority,
            decide=decide,
            negative_mass=negative_mass,
        )

    def _wrong_mass(
        self, name: str, model: HuggingFaceTeacher, asked: Sequence[Fact], wrong: Sequence[Sequence[str]]
    ) -> list[float]:
        def mass(items: list[Item]) -> list[Any]:
            prompts = [opened(self._fact(item.id).prompt, self._fact(item.id).start) for item in items]
            return [None if np.isnan(m) else m for m in wrong_mass(model, prompts, [item.value["wrong"] for item in items])]

        key = {"model": model.identity(), "version": 1}
        items = [(f.id, {"wrong": list(texts)}) for f, texts in zip(asked, wrong, strict=True)]
        rows = self.run.map(f"wrong_mass_{name}", items, mass, key=key, batch_size=48)
        return [float("nan") if row.result is None else row.result for row in rows]

    def _fit_rule(self) -> AbstentionRule:
        """The student's rule, stored in its export: fitted on validation and made-up questions, its threshold on validation."""
        folder = self._folder("student") / "export"
        model = self._model("student")
        by_split = {split: self._answers("student", model, split) for split in RULE_SPLITS}
        rule = fit_answering_rule(
            by_split, {split: self._right(split, answers) for split, answers in by_split.items()}, self.majority()
        )
        rule.save(folder)
        print(f"the student answers where its chance of being right is at least {rule.threshold:.2f} (kept in {folder})")
        return rule

    def majority(self) -> list[bool]:
        """Whether the untrained model's majority answer is right, for each validation question."""
        return [majority_right(one.fact, one.label(labeller(threshold=0.5))) for one in self.samples["validation"]]

    def _labeller_on_invented(self, by: ConsensusLabeller) -> Outcomes:
        with self.clock.stage("sampling: the labeller on invented entities"):
            asked = self._sample("invented", adaptive=False)
        labels = [one.label(by) for one in asked]
        agreement = np.array([label.agreement for label in labels])
        n = len(labels)
        return Outcomes(
            cluster=np.array([one.fact.entity for one in asked]),
            answered=np.array([label.label == "answerable" for label in labels]),
            right=np.zeros(n, dtype=bool),
            majority_right=np.zeros(n, dtype=bool),
            p_idk=1 - agreement,
            answer_log_prob=np.log(np.maximum(agreement, 1e-3)),
            confidence=agreement,
            negative_mass=np.full(n, np.nan),
        )

    def _model(self, name: str) -> HuggingFaceTeacher:
        from distill.teachers.huggingface import HuggingFaceTeacher

        return self.base if name == "base" else HuggingFaceTeacher(model=str(self._folder(name) / "export"))

    def _folder(self, name: str) -> Path:
        return self.out if name == "student" else self.out / name

    def _items(self, split: Split) -> list[tuple[str, Any]]:
        return [(fact.id, {"question": fact.question, "start": fact.start}) for fact in self.questions[split]]

    def _fact(self, name: str) -> Fact:
        return _by_id()[name]


def choose(split: Split, limit: int, seed: int) -> list[Fact]:
    """The split's facts in an order that depends on the seed, so that another seed sees other training questions; 0 is all."""
    asked = [fact for fact in facts() if fact.split == split]
    order = np.random.default_rng([seed, len(asked)]).permutation(len(asked)) if split in TRAINED else np.arange(len(asked))
    return [asked[i] for i in order[: limit or len(asked)]]


@cache
def _by_id() -> Mapping[str, Fact]:
    return {fact.id: fact for fact in facts()}


def _newest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint, where a kill may have left a torn one, or the link last.ckpt without its file."""
    whole = [path for path in (folder / "checkpoints").glob("*.ckpt") if not path.is_symlink() and zipfile.is_zipfile(path)]
    return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)


def _succeed(code: int) -> None:
    if code:
        raise SystemExit(code)
