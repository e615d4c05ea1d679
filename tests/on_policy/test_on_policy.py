"""The closed loop: what the student says between epochs, what becomes of it, and that a stopped run goes on as if it had not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from distill.data import RecordDataModule
from distill.errors import ConfigError, RecordError
from distill.judges import ExactMatch, Judge, TruthTable, Verdict
from distill.objectives import Likelihood, SequenceUnlikelihood, TokenObjective, Unlikelihood
from distill.on_policy import AdaptiveShare, AllNegative, JudgeMarker, Mark, Marker, OnPolicy, Sample, Unmarked
from distill.rows import Batch
from distill.student.callbacks import MetricsJsonl
from distill.student.module import StudentModule

QUESTIONS = 10


def write_records(path: Path, *, questions: int = QUESTIONS, name: str = "g") -> str:
    """Questions with one positive and 0 to 2 negatives."""
    lines = []
    for i in range(questions):
        common = {"group": f"{name}{i}", "prompt": [{"role": "user", "content": f"Capital of {'Xy' * (1 + i % 3)}{name}{i}?"}]}
        lines.append({"id": f"{name}{i}+", "response": "I don't know." if i % 2 else "No.", "polarity": "positive", **common})
        lines += [
            {"id": f"{name}{i}-{k}", "response": "Paris is" * k, "polarity": "negative", **common} for k in range(1, 1 + i % 3)
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


class Seen(Callback):
    """Which records each epoch held, how many were the student's, and the models's state when the loader was asked."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[str]] = {}
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs.setdefault(trainer.current_epoch, []).extend(batch.record_ids)
        self.batches.append(batch)

    def own(self, epoch: int) -> set[str]:
        return {one for one in self.epochs[epoch] if "/own/" in one}

    def groups(self, epoch: int) -> set[str]:
        return {group_of(one) for one in self.epochs[epoch]}


def group_of(record_id: str) -> str:
    return record_id.partition("/own/")[0].partition("+")[0].partition("-")[0]


@pytest.fixture
def llama(tiny_model_folder: Callable[[str], Path]) -> str:
    return str(tiny_model_folder("llama"))


@pytest.fixture
def records(tmp_path: Path) -> str:
    return write_records(tmp_path / "records.jsonl")


def losses() -> dict[str, TokenObjective]:
    return {"up": Likelihood(own_samples=True), "down": Unlikelihood(weight=0.5)}


def student_of(folder: str, **arguments: Any) -> StudentModule:
    defaults = {"objectives": losses(), "learning_rate": 3e-3, "schedule": "constant", "weight_decay": 0.0}
    return StudentModule(student=folder, **{**defaults, **arguments})


def data_of(records: str, folder: str, on_policy: OnPolicy | None, **arguments: Any) -> RecordDataModule:
    defaults = {"batch_size": 2, "bucket_window": 8, "protect_tokens": False}
    return RecordDataModule(train=records, student=folder, on_policy=on_policy, **{**defaults, **arguments})


@dataclass(frozen=True, kw_only=True)
class Kind(Judge):
    """Approves everything."""

    def judge(self, prompt: Any, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        return Verdict(approved=True)


def settings(**arguments: Any) -> OnPolicy:
    return OnPolicy(**{"max_tokens": 6, "marker": JudgeMarker(judge=Kind()), **arguments})


def fit(student: StudentModule, data: RecordDataModule, *, ckpt_path: str | None = None, **arguments: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            **quiet,
            **arguments,
        }
    )
    trainer.fit(student, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def weights(student: StudentModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


def run(records: str, folder: str, on_policy: OnPolicy, **arguments: Any) -> tuple[Seen, StudentModule, RecordDataModule]:
    seen, student, data = Seen(), student_of(folder), data_of(records, folder, on_policy)
    fit(student, data, callbacks=[seen], **arguments)
    return seen, student, data


# What an epoch holds


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_question_is_in_every_epoch_once_and_a_share_of_them_is_the_students(
    share: float, records: str, llama: str
) -> None:
    seen, _, _ = run(records, llama, settings(share=share, samples=2), max_epochs=3)
    for epoch in range(3):
        own = {group_of(one) for one in seen.own(epoch)}
        fixed = {group_of(one) for one in seen.epochs[epoch] if "/own/" not in one}
        assert seen.groups(epoch) == {f"g{i}" for i in range(QUESTIONS)}
        assert own | fixed == seen.groups(epoch) and not own & fixed, "a group is cut"
        assert len(own) == round(share * QUESTIONS)
    if share == 0.3:
        assert len({frozenset(seen.own(epoch)) for epoch in range(3)}) == 3, "new samples of other questions in each epoch"


def test_an_epoch_has_as_many_batches_with_the_loop_as_without(records: str, llama: str) -> None:
    steps = [
        fit(student_of(llama), data_of(records, llama, on_policy), max_epochs=2).global_step
        for on_policy in (None, settings(share=0.5, samples=3), settings(share=0.5, responses="both"))
    ]
    assert len(set(steps)) == 1


def test_samples_beside_the_responses_are_in_the_same_rows(records: str, llama: str) -> None:
    seen, _, _ = run(records, llama, settings(share=0.5, samples=2, responses="both", marker=AllNegative()), max_epochs=1)
    own = {group_of(one) for one in seen.own(0)}
    fixed = {group_of(one) for one in seen.epochs[0] if "/own/" not in one}
    assert len(own) == 5 and own < fixed == {f"g{i}" for i in range(QUESTIONS)}
    assert all(
        len({int(batch.prompt_S[place]) for place, one in enumerate(batch.record_ids) if group_of(one) == group}) == 1
        for batch in seen.batches
        for group in {group_of(one) for one in batch.record_ids}
    )
    assert sum(batch.in_step.pairs for batch in seen.batches) > 0


def test_the_students_words_are_those_it_would_say_and_carry_the_mark_of_its_own(records: str, llama: str) -> None:
    from distill.models import load_model, load_tokenizer
    from distill.records import Message
    from distill.teachers.base import Sampling
    from distill.teachers.huggingface import HuggingFaceTeacher
    from distill.template import response_tokens

    seen, _, _ = run(records, llama, settings(share=1.0, temperature=0.0), max_epochs=1)
    tokenizer = load_tokenizer(llama)
    teacher = HuggingFaceTeacher.from_loaded(load_model(llama, dtype="float32"), tokenizer, "student")
    batch = seen.batches[0]
    assert batch.targets.own_N is not None and batch.targets.own_N.all()
    for place, record_id in enumerate(batch.record_ids):
        i = int(group_of(record_id)[1:])
        prompt = (Message(role="user", content=f"Capital of {'Xy' * (1 + i % 3)}g{i}?"),)
        said = teacher.generate([prompt], Sampling(temperature=0.0, max_tokens=6))[0][0]
        tokens = batch.targets.token_N[batch.targets.sequence_N == place].tolist()
        expected = response_tokens(said.text, tokenizer)
        # A greedy random model babbles on: the sample is cut off, and no end of turn is taught.
        assert tokens == expected if said.finish == "length" else tokens[: len(expected)] == expected


def test_likelihood_does_not_see_the_students_words_unless_asked(records: str, llama: str) -> None:
    on_policy = settings(share=1.0)
    for own_samples, changed in ((False, False), (True, True)):
        student = student_of(llama, objectives={"up": Likelihood(own_samples=own_samples), "down": Unlikelihood()})
        student.configure_model()
        before = weights(student)
        seen = Seen()
        fit(student, data_of(records, llama, on_policy), max_epochs=1, callbacks=[seen])
        assert all(batch.in_step.own_positives == batch.in_step.positives > 0 for batch in seen.batches)
        assert any(not torch.equal(value, weights(student)[name]) for name, value in before.items()) is changed


def test_every_nth_epoch_draws_and_the_others_use_the_buffer(records: str, llama: str) -> None:
    seen, _, _ = run(records, llama, settings(share=0.5, every_n_epochs=2), max_epochs=4)
    assert seen.own(0) == seen.own(1) != seen.own(2) == seen.own(3)


# Markers


@dataclass(frozen=True, kw_only=True)
class Picky(Judge):
    """Approves, rejects or abstains by the number of characters."""

    def judge(self, prompt: Any, response: str, reference: tuple[str, ...] = ()) -> Verdict:
        return Verdict(approved=(True, False, None)[len(response) % 3], reason=f"length {len(response) % 3}")


def test_a_judge_makes_positives_and_negatives_and_what_it_cannot_read_is_left_out_and_counted(records: str, llama: str) -> None:
    seen, _, data = run(records, llama, settings(share=1.0, samples=4, marker=JudgeMarker(judge=Picky())), max_epochs=1)
    found = data.own_metrics()
    assert found["own_generated"] == 4 * QUESTIONS
    assert found["own_positive"] + found["own_negative"] + found["own_left_out"] == 4 * QUESTIONS
    assert min(found["own_positive"], found["own_negative"], found["own_left_out"]) > 0
    assert len(seen.own(0)) == found["own_responses"] == found["own_positive"] + found["own_negative"]


def test_a_judge_gets_the_positive_responses_as_references(records: str, llama: str) -> None:
    got: list[tuple[str, ...]] = []

    class Spy(Judge):
        def judge(self, prompt: Any, response: str, reference: tuple[str, ...] = ()) -> Verdict:
            got.append(reference)
            return Verdict(approved=True)

    run(records, llama, settings(share=1.0, marker=JudgeMarker(judge=Spy())), max_epochs=1)
    assert set(got) == {("No.",), ("I don't know.",)}
    got.clear()
    run(records, llama, settings(share=1.0, marker=JudgeMarker(judge=Spy(), references="none")), max_epochs=1)
    assert set(got) == {()}


def test_a_question_whose_samples_are_all_left_out_keeps_its_responses_on_disk(records: str, llama: str) -> None:
    # The table knows none of what a random model says: every sample is left out.
    seen, _, data = run(records, llama, settings(share=0.5, marker=JudgeMarker(judge=TruthTable())), max_epochs=2)
    for epoch in range(2):
        assert not seen.own(epoch) and len(seen.groups(epoch)) == QUESTIONS
    found = data.own_metrics()
    assert (found["own_fallbacks"], found["own_left_out"], found["own_share"], found["own_buffer"]) == (5, 5, 0, 0)


def test_a_group_whose_negatives_are_all_protected_keeps_its_responses_on_disk(records: str, llama: str) -> None:
    # Greedy samples are all the same; where every token of a negative is spared the group must not vanish.
    class Blank(Marker):
        def mark(self, samples: Sequence[Sample]) -> list[Mark]:
            return [Mark(polarity="negative") for _ in samples]

    data = data_of(records, llama, settings(share=1.0, marker=Blank()), protect="none", protect_tokens=True)
    seen = Seen()
    fit(student_of(llama), data, max_epochs=1, callbacks=[seen])
    assert len(seen.groups(0)) == QUESTIONS


@pytest.mark.parametrize("marker", [Unmarked(), AllNegative(), JudgeMarker(judge=ExactMatch())])
def test_a_marker_gives_one_mark_for_each_sample(marker: Marker) -> None:
    samples = [Sample(prompt=(), response=text, references=("a",)) for text in ("a", "b", "a")]
    assert len(marker.mark(samples)) == 3 and marker.mark([]) == []


# Replay and adaptation


class FakeTrainer:
    """What the loop asks of a trainer."""

    world_size, global_rank, is_global_zero = 1, 0, True
    estimated_stepping_batches = 10

    def __init__(self) -> None:
        self.callback_metrics: dict[str, float] = {}
        self.global_step = 0


def loop_of(records: str, llama: str, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> tuple[Any, list[list[str]]]:
    """A loop whose draws are noted and answered without a model."""
    from distill.on_policy import loop as module
    from distill.on_policy.buffer import OwnResponse
    from distill.on_policy.sampling import Drawn
    from distill.records import Record

    asked: list[list[str]] = []

    def draw(questions: Sequence[Any], *, epoch: int, **_: Any) -> Drawn:
        asked.append([question.group for question in questions])
        drawn = Drawn(generated=len(questions))
        for question in questions:
            record = Record(
                id=f"{question.group}/own/{epoch}",
                group=question.group,
                prompt=question.prompts[0],
                response=f"said in {epoch}",
                polarity="positive",
            )
            drawn.by_group[question.group] = [OwnResponse(record=record)]
            drawn.counts["positive"] += 1
        return drawn

    monkeypatch.setattr(module, "draw", draw)
    data = data_of(records, llama, None)
    data.setup("fit")
    builder = data._read(records)
    loop = module.OnPolicyLoop(
        settings(**arguments),
        path=records,
        student=llama,
        tokenizer=data._load_tokenizer(),
        builder=builder,
        store=data.stores["train"],
        build=lambda own: own.build(data._load_tokenizer(), protect="none", protect_tokens=False)[0],
        max_tokens=None,
    )
    return loop, asked


def own_of(store: Any) -> set[str]:
    return {store.record_ids[i] for i in store.own_E.nonzero()[0]}


def test_the_adaptive_share_rises_with_the_validation_loss_and_never_falls(
    records: str, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = loop_of(records, llama, monkeypatch, adaptive=AdaptiveShare(step=0.4))
    trainer, shares = FakeTrainer(), []
    # A rise is against the loss at the last rise; a small one, a fall and a value already seen change nothing.
    for epoch, loss in enumerate([None, 2.0, 2.05, 2.2, 2.2, 1.0, 2.31, 3.0, 4.0]):
        if loss is not None:
            trainer.callback_metrics["val/nats_per_positive"] = loss
        loop.store(epoch, trainer)
        shares.append(round(loop.metrics()["own_share"], 3))
    assert shares == [0, 0, 0, 0.4, 0.4, 0.4, 0.8, 1.0, 1.0]


def test_replay_grows_as_the_run_goes_on_and_comes_from_the_buffer(
    records: str, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked = loop_of(records, llama, monkeypatch, adaptive=AdaptiveShare(start=1.0))
    trainer = FakeTrainer()
    for epoch in range(5):
        trainer.global_step = 2 * epoch
        store = loop.store(epoch, trainer)
        assert len(own_of(store)) == QUESTIONS
        ages = [int(one.rpartition("/")[2]) for one in own_of(store)]
        assert sum(age == epoch for age in ages) == len(asked[-1])
    assert [len(some) for some in asked] == [10, 8, 6, 4, 2]


def test_the_buffer_is_bounded_and_the_oldest_go_first(records: str, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, asked = loop_of(records, llama, monkeypatch, share=0.5, buffer_size=7)
    for epoch in range(3):
        loop.store(epoch, FakeTrainer())
        assert loop.metrics()["own_buffer"] <= 7
    assert set(list(loop._buffer)[-5:]) == set(asked[2])


def test_other_prompts_take_the_place_of_as_many_questions(
    tmp_path: Path, records: str, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_records(tmp_path / "prompts.jsonl", questions=6, name="p")
    loop, _ = loop_of(records, llama, monkeypatch, share=0.5, prompts=prompts)
    store = loop.store(0, FakeTrainer())
    assert len(store.groups) == QUESTIONS
    assert sum(name.startswith("p") for name in store.groups) == 5 == len(own_of(store))
    with pytest.raises(ConfigError, match="takes up to 10 of 10 questions, but .* has 6"):
        loop_of(records, llama, monkeypatch, share=1.0, prompts=prompts)


def test_the_state_is_plain_json_and_gives_the_same_epoch_again_without_drawing(
    records: str, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"adaptive": AdaptiveShare(start=0.8), "buffer_size": 4}
    loop, _ = loop_of(records, llama, monkeypatch, **arguments)
    trainer = FakeTrainer()
    for epoch in range(2):
        trainer.global_step = 3 * epoch
        expected = loop.store(epoch, trainer)
    state = json.loads(json.dumps(loop.state_dict(trainer)))
    resumed, asked = loop_of(records, llama, monkeypatch, **arguments)
    resumed.load_state_dict(state)
    assert resumed.store(1, trainer).fingerprint() == expected.fingerprint()
    assert asked == [] and resumed.metrics() == loop.metrics()
    assert resumed.store(2, trainer).fingerprint() == loop.store(2, trainer).fingerprint()


# A run that stops


class Stop(Callback):
    """A kill: nothing runs after the checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


RESUMED: Mapping[str, OnPolicy] = {
    "own": settings(share=0.5, samples=2, marker=JudgeMarker(judge=Picky()), buffer_size=6),
    "both, every second epoch": settings(share=0.3, responses="both", marker=AllNegative(), every_n_epochs=2),
    "adaptive": settings(adaptive=AdaptiveShare(start=0.4, step=0.3, tolerance=0.0)),
}


@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6, 8])
def test_a_run_stopped_at_any_step_goes_on_to_bit_equal_weights(
    kind: str, stop_at: int, records: str, llama: str, tmp_path: Path
) -> None:
    def data() -> RecordDataModule:
        validation = write_records(tmp_path / "v.jsonl", questions=3, name="v")
        return data_of(records, llama, RESUMED[kind], validation=validation, negatives_per_group=2)

    arguments: dict[str, Any] = {"max_epochs": 3, "accumulate_grad_batches": 2}
    rates = {"learning_rate": 1e-2, "schedule": "cosine"}
    whole, whole_seen = student_of(llama, **rates), Seen()
    fit(whole, data(), callbacks=[whole_seen], **arguments)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(SystemExit):
        fit(student_of(llama, **rates), data(), **arguments, enable_checkpointing=True, callbacks=[saver, Stop(stop_at)])
    resumed, seen = student_of(llama, **rates), Seen()
    trainer = fit(resumed, data(), ckpt_path=str(tmp_path / f"step={stop_at}.ckpt"), callbacks=[seen], **arguments)
    assert trainer.global_step == 9
    assert [batch.record_ids for batch in seen.batches] == [batch.record_ids for batch in whole_seen.batches][
        -len(seen.batches) :
    ]
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_a_run_resumed_from_an_epochs_end_is_the_long_run(records: str, llama: str, tmp_path: Path) -> None:
    def data() -> RecordDataModule:
        return data_of(records, llama, RESUMED["adaptive"], validation=write_records(tmp_path / "v.jsonl", questions=3, name="v"))

    saver = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=False)
    whole = student_of(llama)
    fit(whole, data(), max_epochs=3, enable_checkpointing=True, callbacks=[saver])
    for epoch in (0, 1):
        resumed = student_of(llama)
        fit(resumed, data(), max_epochs=3, ckpt_path=str(tmp_path / f"epoch={epoch}.ckpt"))
        for name, value in weights(whole).items():
            assert torch.equal(weights(resumed)[name], value), name


def test_a_checkpoint_with_the_students_words_loads_without_pickles(records: str, llama: str, tmp_path: Path) -> None:
    trainer = fit(student_of(llama), data_of(records, llama, settings()), max_epochs=2, max_steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["RecordDataModule"]["on_policy"]["own"]
    json.dumps(content["datamodule_hyper_parameters"])


def test_the_draw_leaves_the_model_and_the_random_numbers_as_they_were(records: str, llama: str) -> None:
    from distill.on_policy import loop as module

    checked = []

    def watched(questions: Any, *, trainer: Any, **more: Any) -> Any:
        model = trainer.lightning_module.model
        model.model.layers[0].eval()  # one part in another mode than the rest
        before = torch.get_rng_state(), [m.training for m in model.modules()], model.config.use_cache
        drawn = draw(questions, trainer=trainer, **more)
        after = torch.get_rng_state(), [m.training for m in model.modules()], model.config.use_cache
        checked.append(torch.equal(before[0], after[0]) and before[1:] == after[1:])
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        return drawn

    draw = module.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw", watched)
        run(records, llama, settings(), precision="bf16-mixed")
    assert checked == [True, True]


# What is reported and refused


def test_the_metrics_say_what_the_student_said(records: str, llama: str, tmp_path: Path) -> None:
    seen = MetricsJsonl(str(tmp_path / "metrics.jsonl"))
    fit(student_of(llama), data_of(records, llama, settings(share=0.3, samples=2)), callbacks=[seen])
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["train/own_share"] == pytest.approx(0.3)
    assert line["train/own_generated"] == 6 and line["train/own_seconds"] > 0


def test_without_the_loop_nothing_is_reported_of_it(records: str, llama: str) -> None:
    trainer = fit(student_of(llama), data_of(records, llama, None))
    assert not [name for name in trainer.callback_metrics if "own_" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"every_n_epochs": 0}, "every_n_epochs is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 0.0, "samples": 2}, "gives the same text"),
        ({"samples": 8, "buffer_size": 4}, "buffer_size is 4"),
        ({"responses": "both", "prompts": "p.jsonl"}, "without any"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OnPolicy(**arguments)


def test_following_a_validation_loss_needs_validation_records(records: str, llama: str) -> None:
    with pytest.raises(ConfigError, match="there are no validation records"):
        fit(student_of(llama), data_of(records, llama, settings(adaptive=AdaptiveShare())))


def test_negative_samples_that_no_objective_is_about_are_refused(records: str, llama: str) -> None:
    with pytest.raises(ConfigError, match="none of the objectives .up. is about negatives"):
        fit(student_of(llama, objectives={"up": Likelihood()}), data_of(records, llama, settings(marker=AllNegative())))


def test_unmarked_samples_without_a_teacher_are_refused(records: str, llama: str) -> None:
    with pytest.raises(ConfigError, match="unmarked"):
        fit(student_of(llama), data_of(records, llama, settings(marker=Unmarked())))


def test_a_buffer_that_must_bridge_epochs_holds_one_epochs_samples(records: str, llama: str) -> None:
    with pytest.raises(ConfigError, match="one epoch has 10 samples"):
        fit(student_of(llama), data_of(records, llama, settings(samples=2, every_n_epochs=2, buffer_size=9)))


def test_prompts_of_the_validation_records_are_refused(tmp_path: Path, records: str, llama: str) -> None:
    held_out = write_records(tmp_path / "v.jsonl", questions=10, name="v")
    with pytest.raises(RecordError, match="share 10 group"):
        fit(student_of(llama), data_of(records, llama, settings(prompts=held_out), validation=held_out))


def test_repetition_is_unlearnt_on_the_students_own_continuations(records: str, llama: str) -> None:
    student = student_of(
        llama, objectives={"again": SequenceUnlikelihood(n=1), "up": Likelihood()}, skip_unpaired_negatives=False
    )
    on_policy = settings(share=0.5, marker=AllNegative(), max_tokens=12)
    seen = Seen()
    trainer = fit(student, data_of(records, llama, on_policy, protect="none"), callbacks=[seen])
    assert all(
        bool(batch.targets.negative_N[batch.targets.own_N].all()) for batch in seen.batches if batch.targets.own_N is not None
    )
    assert "train/again" in trainer.callback_metrics
