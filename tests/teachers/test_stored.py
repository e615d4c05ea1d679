"""A stored signal is the live one, whatever the batch; anything that is not the record it was made for is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from signal_helpers import Stored, changed, some_records, store
from torch import Tensor

from distill.cli import main
from distill.data import RecordDataModule
from distill.errors import TeacherError
from distill.head import objective_values, supervised_logits
from distill.models import load_model, load_tokenizer
from distill.objectives import Likelihood, Objective, TokenNPO
from distill.objectives.base import HiddenSignal, TeacherSignal
from distill.render import Example
from distill.rows import Batch, plain_rows, shared_rows
from distill.student.module import StudentModule
from distill.teachers.live import LiveTeacher
from distill.teachers.logits import LogitTeacher, RunningTeacher
from distill.teachers.signal_store import record_key
from distill.teachers.stored import StoredReference, StoredTeacher, padded

KINDS = {"exact": (), "top_k": ("--k", "7"), "sampled": ("--k", "20")}


def make_logit_teacher(kind: type[LogitTeacher], student: str, records: str, folder: Path) -> LogitTeacher:
    """For the contract."""
    arguments = ["--teacher", student, "--records", records, "--out", str(folder / "signal"), "--kind", "top_k", "--k", "7"]
    assert main(["signal", *arguments]) == 0
    return StoredTeacher(path=str(folder / "signal"))


@pytest.fixture(scope="module")
def stored(tiny_model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Stored]:
    """`stored(kind, family)`: the same records, stored once for all tests."""
    made: dict[tuple[str, str], Stored] = {}

    def of(kind: str, family: str = "llama") -> Stored:
        if (kind, family) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{family}")
            arguments = ("--kind", kind, "--batch_size", "5", *KINDS.get(kind, ()))
            made[kind, family] = store(folder, tiny_model_folder(family), *arguments)
        return made[kind, family]

    return of


def dense(signal: object) -> TeacherSignal:
    assert isinstance(signal, HiddenSignal)
    return signal.materialise()


def live_log_probs(one: Stored, batch: Batch) -> Tensor:
    with torch.no_grad():
        return supervised_logits(load_model(one.model, dtype="float32"), batch).log_softmax(1)


def running(one: Stored) -> RunningTeacher:
    return StoredTeacher(path=one.signal).start(one.student())


def by_position(batch: Batch, values_N: Tensor) -> dict[tuple[str, int], Tensor]:
    """Rows by record and token, whatever the batch."""
    names = [batch.record_ids[number] for number in batch.targets.sequence_N.tolist()]
    return dict(zip(zip(names, batch.token_index_N.tolist(), strict=True), values_N, strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_the_exact_signal_is_the_live_teacher_s_distribution_to_half_precision(
    stored: Callable[..., Stored], family: str
) -> None:
    one = stored("exact", family)
    batch = shared_rows([one.examples()], 0) if family == "llama" else plain_rows(one.examples(), 0)
    signal, live = dense(running(one)(batch).signal), live_log_probs(one, batch)
    assert signal.ids_NK is None and signal.rest_N.isneginf().all()
    assert (signal.log_probs_NK.exp() - live.exp()).abs().max() < 2e-3
    assert torch.nn.functional.kl_div(signal.log_probs_NK, live, log_target=True, reduction="batchmean") < 1e-5


def test_the_exact_signal_in_float32_is_the_live_one(tmp_path: Path, tiny_model_folder: Callable[[str], Path]) -> None:
    one = store(tmp_path, tiny_model_folder("gemma2"), "--store_dtype", "float32")
    batch = plain_rows(one.examples(), 0)
    signal = dense(running(one)(batch).signal)
    assert torch.allclose(signal.log_probs_NK, live_log_probs(one, batch), atol=1e-4)


def test_top_k_keeps_the_k_most_probable_and_the_mass_of_the_rest(stored: Callable[..., Stored]) -> None:
    one = stored("top_k")
    batch = plain_rows(one.examples(), 0)
    signal, live = running(one)(batch).signal, live_log_probs(one, batch)
    assert isinstance(signal, TeacherSignal) and signal.kind == "top_k" and signal.ids_NK is not None
    assert signal.ids_NK.shape == (len(live), 7) and signal.ids_NK.dtype == torch.int64
    assert torch.allclose(signal.log_probs_NK, live.gather(1, signal.ids_NK), atol=4e-3)
    assert signal.log_probs_NK.min(1).values.ge(live.scatter(1, signal.ids_NK, -99).max(1).values - 4e-3).all()
    total_N = signal.log_probs_NK.exp().sum(1) + signal.rest_N.exp()
    assert torch.allclose(total_N, torch.ones_like(total_N), atol=1e-6)


def test_draws_are_unbiased_and_sum_to_one(stored: Callable[..., Stored]) -> None:
    one = stored("sampled")
    batch = plain_rows(one.examples(), 0)
    signal, live = running(one)(batch).signal, live_log_probs(one, batch)
    assert isinstance(signal, TeacherSignal) and signal.kind == "sampled" and signal.ids_NK is not None
    assert all(len(set(row)) == len(row) for row in signal.ids_NK.tolist())
    assert torch.allclose(signal.log_probs_NK.exp().sum(1), torch.ones(len(live)), atol=1e-6)
    # Over all positions the number of draws of the most probable tokens is that of independent draws, within 4 deviations.
    drawn_NV = torch.zeros_like(live).scatter_add(1, signal.ids_NK, signal.log_probs_NK.exp())
    top = live.argmax(1, keepdim=True)
    expected, found = live.exp().gather(1, top), drawn_NV.gather(1, top)
    deviation = (expected * (1 - expected) / 20).sum().sqrt()
    assert (expected - found).sum().abs() < 4 * deviation


def test_the_draws_of_a_record_depend_on_nothing_but_the_record_and_the_seed(
    stored: Callable[..., Stored], tmp_path: Path, tiny_model_folder: Callable[[str], Path]
) -> None:
    one = stored("sampled")
    records = list(reversed(some_records()))[:5]
    other = store(tmp_path, tiny_model_folder("llama"), "--kind", "sampled", "--k", "20", "--batch_size", "2", records=records)
    batch = plain_rows(other.examples(), 0)
    first, second = (running(each)(batch).signal for each in (one, other))
    assert isinstance(first, TeacherSignal) and isinstance(second, TeacherSignal)
    assert torch.equal(first.ids_NK, second.ids_NK) and torch.equal(first.log_probs_NK, second.log_probs_NK)
    reseeded = store(tmp_path, tiny_model_folder("llama"), "--kind", "sampled", "--k", "20", "--seed", "1", name="again")
    assert not torch.equal(running(reseeded)(batch).signal.log_probs_NK[:, :3], second.log_probs_NK[:, :3])  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_every_batching_reads_the_same_rows(stored: Callable[..., Stored], kind: str) -> None:
    one = stored(kind)
    teacher, examples = running(one), one.examples()

    def told(*batches: Batch) -> dict[tuple[str, int], Tensor]:
        found = {}
        for batch in batches:
            signal = teacher(batch).signal
            if isinstance(signal, HiddenSignal):
                found |= by_position(batch, signal.hidden_ND)
            else:
                assert isinstance(signal, TeacherSignal) and signal.ids_NK is not None
                dense_NV = torch.zeros(len(signal.ids_NK), 400).scatter_add(1, signal.ids_NK, signal.log_probs_NK.exp())
                found |= by_position(batch, torch.cat([dense_NV, signal.rest_N.exp()[:, None]], 1))
        return found

    whole = told(plain_rows(examples, 0))
    ways = {
        "shuffled": [plain_rows(list(reversed(examples)), 0)],
        "one by one": [plain_rows([example], 0) for example in examples],
        "shared": [shared_rows([examples[:4], examples[4:]], 0)],
        "shared, one group": [shared_rows([list(reversed(examples))], 0)],
    }
    assert len(whole) == sum(sum(weight > 0 for weight in example.weight) for example in examples)
    for name, way in ways.items():
        found = told(*way)
        assert found.keys() == whole.keys(), name
        assert all(torch.equal(found[key], whole[key]) for key in whole), name


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_positions_that_protection_spares_are_left_out_and_the_others_stay_the_same(
    stored: Callable[..., Stored], seed: int
) -> None:
    one = stored("exact")
    teacher, examples = running_once(one), one.examples()
    draw = torch.Generator().manual_seed(seed)
    spared = [
        changed(example, weight=tuple(weight * bool(torch.rand(1, generator=draw) < 0.6) for weight in example.weight))
        for example in examples
    ]
    kept = [example for example in spared if any(example.weight)]
    if not kept:
        return
    for batch in (plain_rows(kept, 0), shared_rows([kept], 0)):
        whole = plain_rows(examples, 0)
        everything = by_position(whole, teacher(whole).signal.hidden_ND)  # type: ignore[union-attr]
        for key, state in by_position(batch, teacher(batch).signal.hidden_ND).items():  # type: ignore[union-attr]
            assert torch.equal(state, everything[key])


_running: dict[str, RunningTeacher] = {}


def running_once(one: Stored) -> RunningTeacher:
    return _running.setdefault(one.signal, running(one))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_positions_gets_a_signal_without_rows(stored: Callable[..., Stored], kind: str) -> None:
    one = stored(kind)
    example = one.examples()[0]
    batch = plain_rows([changed(example, weight=(0.0,) * len(example))], 0)
    signal = running(one)(batch).signal
    made = dense(signal) if isinstance(signal, HiddenSignal) else signal
    assert isinstance(made, TeacherSignal) and len(made.log_probs_NK) == 0 and made.rest_N.shape == (0,)


def read(one: Stored, *examples: Example) -> None:
    running_once(one)(plain_rows(examples, 0))


def test_a_text_that_is_not_the_stored_one_is_refused_and_named(stored: Callable[..., Stored]) -> None:
    one = stored("exact")
    example = one.examples()[0]
    with pytest.raises(TeacherError, match="no signal on record 'Rome'; run `distill signal`"):
        read(one, changed(example, record_id="Rome"))
    last = len(example) - 2
    for place in (3, last):  # of the prompt, of the response
        ids = list(example.token_ids)
        ids[place] += 1
        with pytest.raises(TeacherError, match=rf"record 'France\+' .* token {place} is {ids[place]} and {ids[place] - 1} there"):
            read(one, changed(example, token_ids=tuple(ids)))
    weight = list(example.weight)
    weight[2] = 1.0
    with pytest.raises(TeacherError, match=r"record 'France\+' has no signal at token 2: it was stored with turns = 'last'"):
        read(one, changed(example, weight=tuple(weight)))
    longer = changed(
        example,
        token_ids=(*example.token_ids, 5, 6),
        weight=(*example.weight, 0.0, 1.0),
        negative=(*example.negative, False, False),
    )
    with pytest.raises(TeacherError, match="past the .* tokens stored there"):
        read(one, longer)


def test_another_tokenizer_template_or_head_is_refused_at_the_start(
    stored: Callable[..., Stored], tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    one = stored("exact")
    teacher, student = StoredTeacher(path=one.signal), one.student()
    assert teacher.reads_new_text is False and teacher.kind() == "dense"
    for change, message in (("tokens", "another tokenizer"), ("template", "another chat template")):
        tokenizer = load_tokenizer(one.model)
        if change == "tokens":
            tokenizer.add_tokens(["<new>"])
        else:
            tokenizer.chat_template += " "
        folder = tmp_path / change
        shutil.copytree(one.model, folder)
        tokenizer.save_pretrained(folder)
        with pytest.raises(TeacherError, match=f"{message} than that of student .* run `distill signal --student"):
            teacher.start(replace(student, name=str(folder)))
    student.model.config.vocab_size -= 1
    with pytest.raises(TeacherError, match="about .* tokens, and student .* has logits for"):
        teacher.start(student)


def test_the_manifest_alone_tells_the_kind(stored: Callable[..., Stored], tmp_path: Path) -> None:
    for kind, told in (("exact", "dense"), ("top_k", "top_k"), ("sampled", "sampled")):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(Path(stored(kind).signal) / "manifest.json", folder)
        assert StoredTeacher(path=str(folder)).kind() == told
    with pytest.raises(TeacherError, match="are a reference, not a distribution: set model.reference"):
        StoredTeacher(path=stored("token").signal).kind()


def test_verify_reads_the_files_whole(stored: Callable[..., Stored], tmp_path: Path) -> None:
    one = stored("exact")
    shutil.copytree(one.signal, tmp_path / "s")
    shard = tmp_path / "s" / "part-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    StoredTeacher(path=str(tmp_path / "s")).start(one.student())
    with pytest.raises(TeacherError, match="changed since it was written"):
        StoredTeacher(path=str(tmp_path / "s"), verify=True).start(one.student())


def test_losses_on_hidden_states_are_sent_to_a_live_teacher(stored: Callable[..., Stored]) -> None:
    one = stored("exact")
    with pytest.raises(TeacherError, match="LiveTeacher"):
        running_once(one)(plain_rows(one.examples(), 0), layers=[1])


def test_a_head_with_a_padded_vocabulary_is_cut_to_the_tokens_there_are(
    tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model, tokenizer = load_model(str(tiny_model_folder("llama"))), load_tokenizer(str(tiny_model_folder("llama")))
    model.resize_token_embeddings(len(tokenizer) + 9)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    one = replace(store(tmp_path, tmp_path / "teacher"), model=str(tiny_model_folder("llama")))
    manifest = json.loads((Path(one.signal) / "manifest.json").read_text())
    assert manifest["settings"]["vocabulary"] == len(tokenizer)
    batch = plain_rows(one.examples(), 0)
    signal = dense(running(one)(batch).signal)
    live = dense(LiveTeacher(model=str(tmp_path / "teacher")).start(one.student())(batch).signal)
    assert signal.log_probs_NK.shape == live.log_probs_NK.shape == (len(batch.gather_N), len(tokenizer))
    assert (signal.log_probs_NK.exp() - live.log_probs_NK.exp()).abs().max() < 2e-3


def test_a_hidden_state_too_large_for_half_precision_is_refused_with_the_remedy() -> None:
    from distill.teachers.signal_source import narrowed

    states = torch.tensor([[1.0, 2.0], [1e5, 0.0]])
    with pytest.raises(
        TeacherError, match="record 'b': a hidden state of size 1e[+]05 does not fit float16 .* --store_dtype bfloat16"
    ):
        narrowed(states, "float16", lambda row: "ab"[row])
    assert narrowed(states, "bfloat16", lambda row: "ab"[row]).dtype == torch.bfloat16


def test_padding_keeps_the_ids_of_a_row_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    for width in (1, 4, 9):
        real_NK = torch.arange(width) < torch.randint(0, width + 1, (50, 1), generator=draw)
        ids_M = torch.cat([torch.randperm(width, generator=draw)[: int(row.sum())] for row in real_NK])
        ids_NK = padded(ids_M, real_NK)
        assert all(len(set(row)) == width for row in ids_NK.tolist()) and int(ids_NK.max()) < width
        assert torch.equal(ids_NK[real_NK], ids_M)


# Training


def fit(
    one: Stored, *, objectives: dict[str, Objective], steps: int = 4, checkpoint: str | None = None, **settings: object
) -> tuple[StudentModule, Trainer]:
    torch.manual_seed(0)
    student = StudentModule(student=one.model, objectives=objectives, learning_rate=1e-3, schedule="constant", **settings)  # type: ignore[arg-type]
    trainer = Trainer(
        max_steps=steps,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = RecordDataModule(train=one.records, student=one.model, batch_size=1)
    trainer.fit(student, datamodule=data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return student, trainer


def weights(student: StudentModule) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in student.model.parameters()]


def distance(left: StudentModule, right: StudentModule) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(weights(left), weights(right), strict=True))


def forward_kl() -> Objective:
    from distill.objectives import ForwardKL

    return ForwardKL()


@pytest.fixture(scope="module")
def other_student(stored: Callable[..., Stored], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stored]:
    """The stored teacher with a student that is not the teacher itself."""
    folder = tmp_path_factory.mktemp("student")
    one = stored("exact")
    model = load_model(one.model, dtype="float32")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    load_tokenizer(one.model).save_pretrained(folder)
    return lambda kind: replace(stored(kind), model=str(folder))


def test_training_from_the_exact_signal_is_training_with_the_live_teacher(
    stored: Callable[..., Stored], other_student: Callable[[str], Stored]
) -> None:
    one = other_student("exact")
    live, _ = fit(one, objectives={"match": forward_kl()}, teacher=LiveTeacher(model=stored("exact").model))
    ours, _ = fit(one, objectives={"match": forward_kl()}, teacher=StoredTeacher(path=one.signal))
    before = StudentModule(student=one.model, objectives={"match": forward_kl()}, teacher=StoredTeacher(path=one.signal))
    before.configure_model()
    # By norm: AdamW moves a weight whose gradient is all but 0 by a whole learning rate, this way or that.
    assert apart(live, ours) < 0.02 * apart(live, before)


def apart(left: StudentModule, right: StudentModule) -> float:
    return sum(float((a - b).square().sum()) for a, b in zip(weights(left), weights(right), strict=True)) ** 0.5


def test_the_gradient_from_the_exact_signal_is_the_live_one_to_half_precision(
    stored: Callable[..., Stored], other_student: Callable[[str], Stored]
) -> None:
    one = other_student("exact")
    batch = plain_rows(one.examples(), 0)
    model, gradients = load_model(one.model, dtype="float32"), []
    for teacher in (LiveTeacher(model=stored("exact").model), StoredTeacher(path=one.signal)):
        signal = teacher.start(one.student())(batch).signal
        told = replace(batch, targets=replace(batch.targets, teacher=signal))
        losses, _ = objective_values(model, told, {"match": forward_kl()})  # type: ignore[dict-item]
        gradients.append(torch.autograd.grad(losses["match"].value_N.sum(), list(model.parameters())))
    error = sum(float((a - b).square().sum()) for a, b in zip(*gradients, strict=True)) ** 0.5
    assert error < 3e-3 * sum(float(a.square().sum()) for a in gradients[0]) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_training_from_a_stored_signal_is_the_same_to_the_bit_when_repeated_and_when_resumed(
    other_student: Callable[[str], Stored], kind: str, tmp_path: Path
) -> None:
    one = other_student(kind)
    how = {"objectives": {"match": forward_kl(), "answer": Likelihood()}, "teacher": StoredTeacher(path=one.signal)}
    first, _ = fit(one, **how)  # type: ignore[arg-type]
    second, _ = fit(one, **how)  # type: ignore[arg-type]
    assert distance(first, second) == 0
    _, halfway = fit(one, steps=2, **how)  # type: ignore[arg-type]
    halfway.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(one, checkpoint=str(tmp_path / "half.ckpt"), **how)  # type: ignore[arg-type]
    assert distance(first, resumed) == 0


# References


def test_a_stored_reference_is_the_log_probability_of_every_token(stored: Callable[..., Stored]) -> None:
    one = stored("token")
    reference = StoredReference(one.signal, student=one.model, rows=400)
    for batch in (plain_rows(one.examples(), 0), shared_rows([one.examples()], 0)):
        found = reference(batch)
        live = live_log_probs(one, batch).gather(1, batch.targets.token_N[:, None]).squeeze(1)
        assert found.dtype == torch.float32 and torch.allclose(found, live, atol=1e-4)


def test_a_student_trains_with_a_stored_reference_as_with_a_second_copy(
    stored: Callable[..., Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stored("token")
    objectives: dict[str, Objective] = {"keep": Likelihood(), "forget": TokenNPO(beta=0.5)}
    copy, _ = fit(one, objectives=objectives)
    monkeypatch.setattr("distill.student.module.load_reference", lambda name: pytest.fail("a second copy was loaded"))
    ours, _ = fit(one, objectives=objectives, reference=one.signal)
    assert distance(copy, ours) < 1e-5
    assert ours.hparams["reference"] == one.signal


def test_a_teacher_s_signal_is_no_reference(stored: Callable[..., Stored]) -> None:
    one = stored("exact")
    with pytest.raises(TeacherError, match="holds a teacher's signal .* --kind token"):
        fit(one, objectives={"forget": TokenNPO()}, reference=one.signal)


def test_record_keys_are_wide_enough_to_be_names() -> None:
    assert len(record_key("a")) == 16 and record_key("a") != record_key("b")
