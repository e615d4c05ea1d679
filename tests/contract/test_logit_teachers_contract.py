"""What every teacher that gives distributions or states keeps to: found by walking distill.teachers for final classes.

A LogitTeacher in distill/teachers/X.py is made by `make_logit_teacher(kind, student, records, folder)` in
tests/teachers/test_X.py: one that starts for the student (a model folder) and knows the records (a JSONL file); `folder` is
empty and its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import distill.teachers
from distill.data import RecordDataModule
from distill.objectives import DeferredSignal, Likelihood, Objective, TeacherSignal
from distill.records import Message, Record, write_records
from distill.rows import Batch
from distill.student.module import StudentModule
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput

WORDS = ("Paris.", "Nairobi, I think.", "I don't know.", "79")


def _final_classes() -> list[type[LogitTeacher]]:
    found: dict[str, type[LogitTeacher]] = {}
    for module in pkgutil.walk_packages(distill.teachers.__path__, "distill.teachers."):
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and issubclass(kind, LogitTeacher) and not inspect.isabstract(kind):
                found[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return [kind for _, kind in sorted(found.items())]


CLASSES = _final_classes()


@dataclass(kw_only=True)
class Started:
    """A teacher, what it was started for, and two batches of the same records: whole, and the second half of it."""

    settings: LogitTeacher
    running: RunningTeacher
    student: StudentModule
    batch: Batch
    half: Batch


@pytest.fixture(scope="module", params=CLASSES, ids=lambda kind: kind.__name__)
def started(
    request: pytest.FixtureRequest, tiny_model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Started:
    name = request.param.__module__.rpartition(".")[2]
    path = Path(__file__).parents[1] / "teachers" / f"test_{name}.py"
    assert path.is_file(), f"{path.name} must define make_logit_teacher"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"logit_contract_of_{name}", path)
        assert spec is not None and spec.loader is not None
        tests = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = tests
        spec.loader.exec_module(tests)
    finally:
        sys.path.remove(str(path.parent))
    folder, student = tmp_path_factory.mktemp(name), str(tiny_model_folder("llama"))
    records = str(tmp_path_factory.mktemp("records") / "records.jsonl")
    rows = [
        Record(
            id=f"r{i}",
            group=f"g{i}",
            prompt=(Message(role="user", content=f"Question {'of some length ' * i}{i}?"),),
            response=word,
            polarity="positive",
        )
        for i, word in enumerate(WORDS)
    ]
    write_records(rows, records)
    settings = tests.make_logit_teacher(request.param, student, records, folder)
    assert isinstance(settings, request.param)
    module = StudentModule(student=student, objectives={"it": Likelihood()}, schedule="constant")
    module.configure_model()
    own = {"teacher_tokenizer": settings.model} if settings.gives_cross else {}
    whole, half = (_batch(records, student, batch_size=count, **own) for count in (len(WORDS), len(WORDS) // 2))
    running = settings.start(LiveStudent(name=student, model=module.model))
    return Started(settings=settings, running=running, student=module, batch=whole, half=half)


def _batch(records: str, student: str, **settings: Any) -> Batch:
    data = RecordDataModule(train=records, student=student, prefix_sharing=False, **settings)
    data.setup("fit")
    loader = data.train_dataloader()
    return loader.batch(loader.plan(0), 0)


def said(started: Started, batch: Batch | None = None) -> TeacherOutput:
    return started.running(started.batch if batch is None else batch)


def signal_of(output: TeacherOutput) -> TeacherSignal | DeferredSignal:
    signal = output.cross.teacher if output.cross is not None else output.signal
    if signal is None:
        pytest.skip("gives no distribution")
    return signal


def made(signal: TeacherSignal | DeferredSignal) -> TeacherSignal:
    return signal.materialise() if isinstance(signal, DeferredSignal) else signal


def test_there_are_teachers() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert {"LiveTeacher", "MixtureTeacher", "EmaTeacher", "BaseTeacher", "StoredTeacher", "EmbeddingTeacher"} <= names


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_teacher_is_a_frozen_keyword_only_dataclass_with_a_docstring(kind: type[LogitTeacher]) -> None:
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in fields(kind))
    assert kind.__doc__


def test_it_says_beforehand_what_it_will_give(started: Started) -> None:
    output = said(started)
    kind = started.settings.kind()
    assert (output.cross is not None) is started.settings.gives_cross
    assert (output.embedding_SD is not None) is started.settings.gives_embedding
    assert (kind is None) is (output.signal is None and output.cross is None)
    if kind is not None:
        assert made(signal_of(output)).kind == kind
    if started.settings.gives_hidden:
        layers = [0, started.running.layers]
        hidden = started.running(started.batch, layers=layers).hidden
        assert {layer: tuple(hidden[layer].shape) for layer in layers} == {
            layer: (len(started.batch.gather_N), started.running.width) for layer in layers
        }
    else:
        assert started.running.layers == 0


def test_its_probabilities_sum_to_one(started: Started) -> None:
    signal = made(signal_of(said(started)))
    assert signal.log_probs_NK.dtype == torch.float32
    total_N = torch.logaddexp(signal.log_probs_NK.logsumexp(1), signal.rest_N)
    torch.testing.assert_close(total_N, torch.zeros_like(total_N), atol=1e-3, rtol=0)
    if signal.ids_NK is not None:
        assert all(len(set(row)) == len(row) for row in signal.ids_NK.tolist())


def test_it_says_the_same_twice_and_of_each_response_whatever_stands_beside_it(started: Started) -> None:
    first, second = (made(signal_of(said(started))) for _ in range(2))
    assert torch.equal(first.log_probs_NK, second.log_probs_NK)
    half = made(signal_of(said(started, started.half)))
    if started.settings.gives_cross:
        return
    whole, part = started.batch.targets.sequence_N, started.half.targets.sequence_N
    for number, record in enumerate(started.half.record_ids):
        here = (whole == started.batch.record_ids.index(record)).nonzero().squeeze(1)
        there = (part == number).nonzero().squeeze(1)
        torch.testing.assert_close(half.log_probs_NK[there], first.log_probs_NK[here], atol=1e-4, rtol=1e-4)


def test_a_part_of_its_signal_is_a_part_of_the_whole(started: Started) -> None:
    signal = signal_of(said(started))
    index = torch.arange(len(made(signal).rest_N)).flip(0)[::2]
    part, whole = made(signal.select(index)), made(signal)
    torch.testing.assert_close(part.log_probs_NK, whole.log_probs_NK[index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.rest_N, whole.rest_N[index], atol=1e-5, rtol=1e-5)


def test_it_takes_no_gradient_draws_no_random_number_and_leaves_the_student_alone(started: Started) -> None:
    model = started.student.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    output = said(started)
    tensors = [made(signal_of(output)).log_probs_NK] if output.signal is not None or output.cross is not None else []
    tensors += list(output.hidden.values()) + ([] if output.embedding_SD is None else [output.embedding_SD])
    assert tensors and not any(tensor.requires_grad for tensor in tensors)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_keeps_its_precision_under_the_students_autocast(started: Started) -> None:
    alone = made(signal_of(said(started))).log_probs_NK
    with torch.autocast("cpu", dtype=torch.bfloat16):
        beside = made(signal_of(said(started))).log_probs_NK
    assert torch.equal(alone, beside)


def test_it_is_no_part_of_the_student(started: Started) -> None:
    alone = StudentModule(student=started.student.student, objectives={"it": Likelihood()}, schedule="constant")
    alone.configure_model()
    assert started.student.state_dict().keys() == alone.state_dict().keys()
    assert not isinstance(started.running, torch.nn.Module)


def test_its_state_is_loaded_without_pickles_and_goes_on(started: Started) -> None:
    started.running.after_step()
    file = io.BytesIO()
    torch.save(started.running.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    started.running.load_state_dict(state)
    torch.testing.assert_close(started.running.state_dict(), state, atol=0, rtol=0)


def test_a_checkpoint_rebuilds_its_settings(started: Started) -> None:
    from pytorch_lightning.cli import instantiate_module

    from distill.student.module import _plain

    objectives: dict[str, Objective] = {"it": Likelihood()}
    settings = {"student": "s", "objectives": {name: _plain(one) for name, one in objectives.items()}}
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("distill.student.module.check_settings", lambda chosen: None)
        again = instantiate_module(StudentModule, {**settings, "teacher": _plain(started.settings)})
    assert isinstance(again, StudentModule)
    assert again.teacher == started.settings
