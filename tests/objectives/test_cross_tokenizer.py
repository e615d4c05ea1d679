"""Losses against a teacher with another tokenizer: SpanAlignedKL against KLs of texts, UniversalLogit against its formula."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives import (
    CommonRoots,
    CrossSignal,
    ForwardKL,
    Loss,
    ReverseKL,
    SpanAlignedKL,
    Targets,
    TeacherSignal,
    TokenObjective,
    UniversalLogit,
    reduce,
)
from tests.objectives.toy_texts import Toy, roots_between, signal

CHARACTERS = Toy(words=tuple("123ab "))
MERGING = Toy(words=(*"123ab ", "12", "123", "ab", "a1", "b ", " a", "  "))
TEXTS = ("1", "12", "123", "1 2", "12 a", "ab", "a b", "a1 2", "a 12", "b 1", "121", "1231", "abab", "2 ab", "  a", "")
PAIRS = {"student merges": (MERGING, CHARACTERS), "student splits": (CHARACTERS, MERGING), "equal": (MERGING, MERGING)}
KINDS = ("forward", "reverse", "jsd")
both_ways = pytest.mark.parametrize("pair", list(PAIRS), ids=lambda name: name)


def drawn(seed: int) -> dict[str, float]:
    """A distribution over the texts."""
    share = torch.rand(len(TEXTS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    return dict(zip(TEXTS, (share / share.sum()).tolist(), strict=True))


def expected(
    objective: TokenObjective, pair: tuple[Toy, Toy], said_by_student: dict[str, float], said_by_teacher: dict[str, float]
) -> float:
    """The mean over the teacher's texts of the loss of a whole text."""
    student, teacher = pair
    total = 0.0
    for text, probability in said_by_teacher.items():
        targets = signal([text], student, teacher, [teacher.log_probs(text, said_by_teacher)])
        value_N = objective(student.log_probs(text, said_by_student), targets).value_N
        assert float(value_N.min()) > -1e-12
        total += probability * float(value_N.sum())
    return total


# SpanAlignedKL: laws of texts


@both_ways
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_models_that_say_the_same_texts_are_at_0_however_they_cut_them(pair: str, kind: Any, seed: int) -> None:
    assert abs(expected(SpanAlignedKL(kind=kind), PAIRS[pair], drawn(seed), drawn(seed))) < 1e-12


@both_ways
@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_lower_bound_of_the_kl_of_texts_and_equal_to_it_with_equal_tokenizers(pair: str, seed: int) -> None:
    ours, theirs = drawn(seed), drawn(seed + 100)
    texts = sum(p * math.log(p / ours[text]) for text, p in theirs.items())
    found = expected(SpanAlignedKL(), PAIRS[pair], ours, theirs)
    assert 0.3 * texts < found <= texts + 1e-9
    if pair == "equal":
        assert found == pytest.approx(texts)


@pytest.mark.parametrize("seed", range(3))
def test_student_and_teacher_may_change_sides(seed: int) -> None:
    """KL(teacher || student) with the roles exchanged is the reverse one, on any text."""
    ours, theirs = drawn(seed), drawn(seed + 100)
    for text in TEXTS:
        one = signal([text], MERGING, CHARACTERS, [CHARACTERS.log_probs(text, theirs)])
        other = signal([text], CHARACTERS, MERGING, [MERGING.log_probs(text, ours)])
        forward = SpanAlignedKL(kind="forward")(MERGING.log_probs(text, ours), one).value_N.sum()
        reverse = SpanAlignedKL(kind="reverse")(CHARACTERS.log_probs(text, theirs), other).value_N.sum()
        torch.testing.assert_close(forward, reverse)


# SpanAlignedKL: with equal tokenizers


def random_rows(text: str, toy: Toy, seed: int, *, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(toy.encode(text)) + 1, toy.end + 1, generator=generator, dtype=torch.float64) * scale


@pytest.mark.parametrize(("kind", "plain"), [("forward", ForwardKL()), ("reverse", ReverseKL())])
def test_equal_tokenizers_make_it_the_plain_divergence_at_every_position(kind: Any, plain: TokenObjective) -> None:
    text = "12 a1 123ab"
    rows = random_rows(text, MERGING, 0).log_softmax(1)
    targets = signal([text], MERGING, MERGING, [rows])
    assert targets.cross is not None
    logits = random_rows(text, MERGING, 1)
    usual = dataclasses.replace(targets, cross=None, teacher=targets.cross.teacher)
    torch.testing.assert_close(SpanAlignedKL(kind=kind)(logits, targets).value_N, plain(logits, usual).value_N)


# SpanAlignedKL: the case that GOLD gets wrong. The teacher splits digits and is certain of 12; the student has 1, 2 and 12.

SPLITS = Toy(words=("1", "2", " "))
MERGES = Toy(words=("1", "2", " ", "12"))


def certain(toy: Toy, *words: str, doubt: float = 1e-9) -> Tensor:
    """Log-probabilities of a model that is certain of each of these words in turn, and of the end."""
    rows = torch.full((len(words) + 1, toy.end + 1), doubt, dtype=torch.float64)
    for row, word in enumerate(words):
        rows[row, toy.words.index(word)] = 1
    rows[-1, toy.end] = 1
    return (rows / rows.sum(1, keepdim=True)).log()


def student_rows(p_whole: float) -> Tensor:
    """A student that says `12` with this probability and `1` otherwise, then the end."""
    rows = certain(MERGES, "12").exp()
    rows[0, MERGES.words.index("12")], rows[0, MERGES.words.index("1")] = p_whole, 1 - p_whole
    return (rows / rows.sum(1, keepdim=True)).log()


def test_a_number_that_the_teacher_spells_in_digits_is_learnt_as_the_number() -> None:
    targets = signal(["12"], MERGES, SPLITS, [certain(SPLITS, "1", "2")])
    values = [float(SpanAlignedKL()(student_rows(p), targets).value_N.sum()) for p in (1 - 1e-9, 0.9, 0.5, 0.1)]
    assert values[0] < 1e-6 and values == sorted(values)
    assert values[2] == pytest.approx(math.log(2), rel=1e-4), "the teacher's certainty of the number, not of its first digit"


def test_golds_merged_distributions_prefer_the_first_digit_and_ours_the_number() -> None:
    """TRL's own functions: a span is the first position's distribution times the later tokens' probabilities, matched by text."""
    from trl.experimental.gold.gold_trainer import ULDLoss

    teacher, student = certain(SPLITS, "1", "2").exp(), student_rows(0.5).exp()
    groups = ULDLoss._align_by_byte_offsets([[0, 2], [2, 2]], [[0, 1], [1, 2], [2, 2]])
    assert groups == ([[0], [1]], [[0, 1], [2]])
    gold: Any = SimpleNamespace(token_merge_strategy="observed", beta=0.0)
    merge = ULDLoss._merge_probabilities_with_alignment_groups
    said_by_teacher = merge(gold, teacher, groups[1], [0, 1, SPLITS.end])[0]
    shared = [MERGES.words.index(word) for word in SPLITS.words]

    def gold_loss(p_whole: float) -> float:
        said_by_student = merge(gold, student_rows(p_whole).exp(), groups[0], [3, MERGES.end])[0]
        matched = ULDLoss._compute_jsd_loss_for_matched_tokens(
            gold, said_by_student[shared].unsqueeze(0), said_by_teacher[:3].unsqueeze(0)
        )
        return float(matched)

    assert student.shape[0] == 2
    # Theirs falls as the student leaves the number for its first digit; ours rises.
    assert gold_loss(0.1) < gold_loss(0.5) < gold_loss(0.9)
    targets = signal(["12"], MERGES, SPLITS, [certain(SPLITS, "1", "2")])
    ours = [float(SpanAlignedKL()(student_rows(p), targets).value_N.sum()) for p in (0.1, 0.5, 0.9)]
    assert ours[0] > ours[1] > ours[2]


def test_a_first_digit_that_ends_the_number_is_told_from_one_that_goes_on() -> None:
    """The text is `1 2`, and the teacher gave `12` the same chance: the student learns even odds, not `1`."""
    teacher = certain(SPLITS, "1", " ", "2").exp()
    teacher[1, SPLITS.words.index(" ")], teacher[1, SPLITS.words.index("2")] = 0.5, 0.5
    targets = signal(["1 2"], MERGES, SPLITS, [teacher.log()])

    def loss(p_one: float) -> float:
        rows = certain(MERGES, "1", " ", "2").exp()
        rows[0, MERGES.words.index("1")], rows[0, MERGES.words.index("12")] = p_one, 1 - p_one
        return float(SpanAlignedKL()(rows.log(), targets).value_N.sum())

    assert loss(0.5) < 1e-6
    assert loss(0.4) > loss(0.5) < loss(0.6)


# SpanAlignedKL: what is compared


def test_a_spans_value_is_shared_evenly_over_the_students_positions_and_reaches_all_of_them() -> None:
    text = "12 1"
    targets = signal([text], CHARACTERS, MERGING, [random_rows(text, MERGING, 0).log_softmax(1)])
    logits = random_rows(text, CHARACTERS, 1).requires_grad_()
    value_N = SpanAlignedKL()(logits, targets).value_N
    assert value_N[0] == value_N[1] != value_N[2]
    (gradient,) = torch.autograd.grad(value_N[0], logits)
    assert all(bool(row.any()) for row in gradient[:2])


def test_the_ends_of_turn_are_compared_whatever_they_are_called() -> None:
    teacher = Toy(words=tuple("a b321"), end_name="</s>")
    sure = torch.tensor([[-9.0] * teacher.end + [0.0]], dtype=torch.float64).log_softmax(1)
    targets = signal([""], CHARACTERS, teacher, [sure])
    ending, going_on = torch.zeros(1, 7, dtype=torch.float64), torch.zeros(1, 7, dtype=torch.float64)
    ending[0, CHARACTERS.end], going_on[0, 0] = 9, 9
    values = [float(SpanAlignedKL()(logits, targets).value_N.sum()) for logits in (ending, going_on)]
    assert values[0] < 1e-2 < values[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_side_cannot_say_at_all_leaves_the_rest_comparable(kind: Any) -> None:
    """Token 1 of one side is a scrap that no token of the other side begins with."""
    empty = torch.zeros(0, 2, dtype=torch.int64)
    only_one = CommonRoots(
        count=4, student_V=torch.tensor([2, 0, 3]), teacher_V=torch.tensor([2, 3]), glues_student=empty, glues_teacher=empty
    )
    for other in (False, True):
        roots = only_one
        ours, theirs = torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([[0.0, 1.0]])
        if other:
            roots = dataclasses.replace(only_one, student_V=only_one.teacher_V, teacher_V=only_one.student_V)
            ours, theirs = theirs, ours
        targets = one_token(roots, theirs.double().log_softmax(1), token=0, other=0)
        logits = ours.double().requires_grad_()
        value_N = SpanAlignedKL(kind=kind)(logits, targets).value_N
        (gradient,) = torch.autograd.grad(value_N.sum(), logits)
        assert bool(value_N.isfinite().all()) and bool(gradient.isfinite().all())
        if kind == ("forward" if other else "reverse"):  # the scrap is left out: what remains is equal
            assert abs(float(value_N.detach())) < 1e-12


def one_token(roots: CommonRoots, log_probs: Tensor, *, token: int, other: int) -> Targets:
    return Targets(
        token_N=torch.tensor([token]),
        weight_N=torch.ones(1, dtype=log_probs.dtype),
        negative_N=torch.tensor([False]),
        sequence_N=torch.tensor([0]),
        cross=CrossSignal(
            teacher=TeacherSignal(ids_NK=None, log_probs_NK=log_probs, rest_N=torch.tensor([-math.inf])),
            token_M=torch.tensor([other]),
            sequence_M=torch.tensor([0]),
            span_N=torch.tensor([0]),
            span_M=torch.tensor([0]),
            roots=roots,
        ),
    )


# UniversalLogit


def test_the_distance_is_the_wasserstein_distance_of_equally_distant_tokens() -> None:
    """Sorted and padded: of .6 .3 .1 beside .5 .5 the sum of gaps is .1 + .2 + .1."""
    targets = one_token(roots_between(SPLITS, SPLITS), torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(), token=0, other=0)
    logits = torch.tensor([[0.3, 0.1, 0.6]], dtype=torch.float64).log()
    assert UniversalLogit()(logits, targets).value_N.tolist() == pytest.approx([0.4])
    assert UniversalLogit()(logits[:, [2, 0]], targets).value_N.tolist() == pytest.approx([abs(2 / 3 - 0.5) + abs(1 / 3 - 0.5)])


@pytest.mark.parametrize("extended", [False, True])
def test_it_is_trls_uld_loss(extended: bool) -> None:
    """TRL's own class on one response, by position and (where no span has two tokens on a side) by span."""
    from trl.experimental.gold.gold_trainer import ULDLoss

    text = "1 2" if extended else "12 1"
    rows = random_rows(text, SPLITS, 0)
    logits = random_rows(text, MERGES, 1)
    targets = signal([text], MERGES, SPLITS, [rows.log_softmax(1)])
    uld = ULDLoss.__new__(ULDLoss)
    torch.nn.Module.__init__(uld)
    settings = {"skip_student_eos": False, "skip_teacher_eos": False, "token_merge_strategy": "observed", "ignore_index": -100}
    settings |= {"use_extended_uld": extended, "student_temperature": 1.0, "teacher_temperature": 1.0, "use_hybrid_loss": False}
    for name, value in {**settings, "distillation_weight": 1.0, "_vocab_mapping": None}.items():
        setattr(uld, name, value)
    labels = [torch.zeros(1, len(rows), dtype=torch.int64) for rows in (logits, rows)]
    offsets = [torch.tensor([[*toy.offsets(text), (len(text), len(text) + 1)]]) for toy in (MERGES, SPLITS)]
    theirs = uld._compute_distillation_loss(logits.unsqueeze(0), rows.unsqueeze(0), *labels, *labels, *offsets)
    ours = UniversalLogit(pairing="span" if extended else "position")(logits, targets).value_N
    pairs = min(len(logits), len(rows))
    torch.testing.assert_close(ours.sum() / pairs, theirs)


def test_positions_past_the_shorter_response_have_no_partner_and_pairs_of_spans_do() -> None:
    text = "12 12"
    targets = signal([text], SPLITS, MERGES, [random_rows(text, MERGES, 0).log_softmax(1)])
    logits = random_rows(text, SPLITS, 1)
    by_position = UniversalLogit()(logits, targets).value_N
    assert [bool(value) for value in by_position] == [True] * 4 + [False] * 2
    by_span = UniversalLogit(pairing="span")(logits, targets).value_N
    assert [bool(value) for value in by_span] == [True, False, True, True, False, True]


# Both: settings


@pytest.mark.parametrize("objective_class", [SpanAlignedKL, UniversalLogit])
def test_a_batch_without_another_tokenizers_signal_is_refused(objective_class: type[TokenObjective]) -> None:
    targets = signal(["12"], MERGES, SPLITS, [certain(SPLITS, "1", "2")])
    assert targets.cross is not None and isinstance(targets.cross.teacher, TeacherSignal)
    with pytest.raises(ConfigError, match="set model.teacher to a CrossTeacher"):
        objective_class()(student_rows(0.5), dataclasses.replace(targets, cross=None))
    sampled = dataclasses.replace(targets.cross, teacher=dataclasses.replace(targets.cross.teacher, sampled=True))
    with pytest.raises(ConfigError, match="whole distributions"):
        objective_class()(student_rows(0.5), dataclasses.replace(targets, cross=sampled))


@pytest.mark.parametrize(
    ("objective_class", "wrong"),
    [(SpanAlignedKL, {"kind": "both"}), (SpanAlignedKL, {"positions": "x"}), (UniversalLogit, {"pairing": "word"})]
    + [(one, {"weight": weight}) for one in (SpanAlignedKL, UniversalLogit) for weight in (-1.0, math.nan)],
)
def test_settings_that_are_no_choice_are_refused(objective_class: type[TokenObjective], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        objective_class(**wrong)


def test_a_vocabulary_of_another_size_than_the_roots_is_refused() -> None:
    targets = signal(["12"], MERGES, SPLITS, [certain(SPLITS, "1", "2")])
    with pytest.raises(ConfigError, match="the student has 6 logits"):
        SpanAlignedKL()(torch.zeros(2, 6), targets)


# Both: the contract of token objectives, on signals of this kind

VARIANTS: dict[str, TokenObjective] = {
    "forward": SpanAlignedKL(),
    "reverse": SpanAlignedKL(kind="reverse"),
    "jsd": SpanAlignedKL(kind="jsd"),
    "positives": SpanAlignedKL(positions="positive"),
    "position": UniversalLogit(),
    "span": UniversalLogit(pairing="span"),
    "negatives": UniversalLogit(positions="negative"),
}
SAID = ("12 a1 123", "ab b 12", "1 1", "")
every_variant = pytest.mark.parametrize("objective", VARIANTS.values(), ids=VARIANTS.keys())


def batch_of(
    texts: tuple[str, ...] = SAID, *, dtype: torch.dtype = torch.float64, pair: tuple[Toy, Toy] = (MERGING, CHARACTERS)
) -> tuple[Targets, Tensor]:
    """Random logits of both sides; polarity by response, as records have it, weights mixed."""
    student, teacher = pair
    rows = [random_rows(text, teacher, 7 + number).to(dtype).log_softmax(1) for number, text in enumerate(texts)]
    targets = signal(list(texts), student, teacher, rows)
    generator = torch.Generator().manual_seed(3)
    targets = dataclasses.replace(
        targets,
        weight_N=torch.rand(len(targets.token_N), generator=generator, dtype=dtype) + 0.1,
        negative_N=targets.sequence_N % 2 == 1,
    )
    logits = torch.cat([random_rows(text, student, 70 + number) for number, text in enumerate(texts)])
    return targets, logits.to(dtype).requires_grad_()


def value_and_gradient(objective: TokenObjective, logits: Tensor, targets: Targets) -> tuple[Loss, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = objective(logits, targets)
    (gradient,) = torch.autograd.grad(reduce(loss, targets), logits)
    return loss, gradient


@every_variant
@pytest.mark.parametrize("pair", [(MERGING, CHARACTERS), (CHARACTERS, MERGING)], ids=["merges", "splits"])
def test_the_gradient_is_the_derivative_of_the_value(objective: TokenObjective, pair: tuple[Toy, Toy]) -> None:
    targets, logits = batch_of(pair=pair)
    assert torch.autograd.gradcheck(lambda z: objective(z, targets).value_N, logits)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_float32_one_per_position_and_zero_where_it_does_not_look(
    objective: TokenObjective, dtype: torch.dtype
) -> None:
    targets, logits = batch_of(dtype=torch.float32)
    loss = objective(logits.to(dtype), targets)
    assert loss.value_N.dtype == torch.float32 and torch.equal(loss.where_N, targets.where(objective.positions))
    assert loss.value_N[~loss.where_N].abs().sum() == 0 and loss.value_N[loss.where_N].sum() > 0


@every_variant
def test_rows_it_does_not_look_at_get_no_gradient_and_each_row_sums_to_zero(objective: TokenObjective) -> None:
    targets, logits = batch_of()
    loss, gradient = value_and_gradient(objective, logits, targets)
    assert gradient[~loss.where_N].abs().sum() == 0 and gradient.abs().sum() > 0
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient), dtype=torch.float64))


@every_variant
@pytest.mark.parametrize("order_of", ["sequences", "interleaved"])
def test_another_order_of_responses_reorders_the_values_and_nothing_else(objective: TokenObjective, order_of: str) -> None:
    targets, logits = batch_of()
    if order_of == "sequences":
        order = torch.cat([(targets.sequence_N == sequence).nonzero().squeeze(1) for sequence in (2, 0, 3, 1)])
    else:
        sizes = torch.bincount(targets.sequence_N).tolist()
        order = torch.cat([torch.arange(size) for size in sizes]).argsort(stable=True)
    loss, gradient = value_and_gradient(objective, logits, targets)
    moved_loss, moved_gradient = value_and_gradient(objective, logits[order], targets.select(order))
    torch.testing.assert_close(moved_loss.value_N, loss.value_N[order])
    torch.testing.assert_close(moved_gradient, gradient[order])


@every_variant
def test_nothing_leaks_from_one_response_to_another(objective: TokenObjective) -> None:
    targets, logits = batch_of()
    together = objective(logits, targets).value_N
    for sequence in range(len(SAID)):
        own = (targets.sequence_N == sequence).nonzero().squeeze(1)
        torch.testing.assert_close(objective(logits[own], targets.select(own)).value_N, together[own])


@every_variant
def test_no_positions_no_spans_and_no_weights_give_zero_with_finite_gradients(objective: TokenObjective) -> None:
    targets, logits = batch_of()
    nothing: list[Callable[[Targets], Targets]] = [
        lambda t: t.select(torch.zeros(0, dtype=torch.int64)),
        lambda t: dataclasses.replace(t, weight_N=torch.zeros_like(t.weight_N)),
    ]
    if objective.positions == "all" and objective != UniversalLogit():
        assert targets.cross is not None
        cross = targets.cross
        nothing.append(
            lambda t: dataclasses.replace(t, cross=dataclasses.replace(cross, span_N=torch.full_like(cross.span_N, -1)))
        )
    for change in nothing:
        changed = change(targets)
        loss, gradient = value_and_gradient(objective, logits[: len(changed.token_N)], changed)
        assert reduce(loss, changed).item() == 0 and gradient.abs().sum() == 0


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extreme", [100.0, 1000.0])
@pytest.mark.parametrize("pair", [(MERGING, CHARACTERS), (CHARACTERS, MERGING)], ids=["merges", "splits"])
def test_extreme_logits_stay_finite(objective: TokenObjective, dtype: torch.dtype, extreme: float, pair: tuple[Toy, Toy]) -> None:
    """Every token in turn at +extreme while all others are at -extreme, and the other way round; the teacher as well."""
    texts = ("12 a1 123" * 4, "1231 ab" * 4)
    targets, logits = batch_of(texts, dtype=torch.float32, pair=pair)
    assert targets.cross is not None and isinstance(targets.cross.teacher, TeacherSignal)
    for sign in (1.0, -1.0):
        ours, theirs = (torch.full_like(z.detach(), -sign * extreme) for z in (logits, targets.cross.teacher.log_probs_NK))
        for rows in (ours, theirs):
            rows[torch.arange(len(rows)), torch.arange(len(rows)) % rows.shape[1]] = sign * extreme
        teacher = dataclasses.replace(targets.cross.teacher, log_probs_NK=theirs.log_softmax(1))
        changed = dataclasses.replace(targets, cross=dataclasses.replace(targets.cross, teacher=teacher))
        loss, gradient = value_and_gradient(objective, ours.to(dtype), changed)
        assert bool(loss.value_N.isfinite().all()) and bool(gradient.isfinite().all())


@every_variant
def test_the_logits_are_not_changed_in_place(objective: TokenObjective) -> None:
    targets, logits = batch_of()
    assert targets.cross is not None and isinstance(targets.cross.teacher, TeacherSignal)
    before = logits.detach().clone(), targets.cross.teacher.log_probs_NK.clone()
    value_and_gradient(objective, logits, targets)
    assert torch.equal(logits, before[0]) and torch.equal(targets.cross.teacher.log_probs_NK, before[1])


@given(st.lists(st.sampled_from("123ab "), max_size=12), st.integers(0, 3))
def test_on_any_text_and_any_distributions_it_is_finite_and_not_negative(letters: list[str], seed: int) -> None:
    text = "".join(letters)
    for student, teacher in ((MERGING, CHARACTERS), (CHARACTERS, MERGING)):
        targets = signal([text], student, teacher, [random_rows(text, teacher, seed).log_softmax(1)])
        for kind in KINDS:
            value_N = SpanAlignedKL(kind=kind)(random_rows(text, student, seed + 50), targets).value_N  # type: ignore[arg-type]
            assert bool(value_N.isfinite().all()) and float(value_N.min()) > -1e-9
