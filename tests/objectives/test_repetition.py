"""Repetition objectives against a plain loop over tokens written from the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill.errors import ConfigError
from distill.objectives import RepetitionUnlikelihood, SequenceUnlikelihood, Targets, repeated_ngram_positions, unlikelihood
from distill.objectives.repetition import earlier_tokens

sequences = st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=9), min_size=0, max_size=4)


def flat(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    token = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    sequence = torch.tensor([number for number, row in enumerate(rows) for _ in row], dtype=torch.int64)
    return token, sequence


def targets_of(rows: list[list[int]], negative: bool | list[bool] = False) -> Targets:
    token, sequence = flat(rows)
    return Targets(
        token_N=token,
        weight_N=torch.ones(len(token)),
        negative_N=torch.tensor([negative] * len(token) if isinstance(negative, bool) else negative, dtype=torch.bool),
        sequence_N=sequence,
    )


def test_the_papers_example_has_a_b_and_c_as_candidates() -> None:
    a, b, c, d, e, f = range(6)
    position, candidate = earlier_tokens(*flat([[d, a, b, c, c, d, e, f, f]]))
    assert candidate[position == 5].tolist() == [a, b, c]
    assert candidate[position == 0].tolist() == []


@settings(max_examples=60, deadline=None)
@given(rows=sequences)
def test_candidates_are_the_distinct_earlier_tokens_of_the_row_without_the_target(rows: list[list[int]]) -> None:
    position, candidate = earlier_tokens(*flat(rows))
    found = sorted(zip(position.tolist(), candidate.tolist(), strict=True))
    expected, start = [], 0
    for row in rows:
        expected += [(start + i, token) for i in range(len(row)) for token in set(row[:i]) - {row[i]}]
        start += len(row)
    assert found == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(rows=sequences, n=st.integers(1, 4), whole=st.booleans())
def test_marked_positions_are_those_of_ngrams_already_said_in_the_row(rows: list[list[int]], n: int, whole: bool) -> None:
    expected = []
    for row in rows:
        marked, seen = [False] * len(row), set()
        for start in range(len(row) - n + 1):
            if (gram := tuple(row[start : start + n])) in seen:
                for place in range(start if whole else start + n - 1, start + n):
                    marked[place] = True
            seen.add(gram)
        expected += marked
    assert repeated_ngram_positions(*flat(rows), n, marks="whole" if whole else "last").tolist() == expected


@settings(max_examples=30, deadline=None)
@given(rows=sequences, seed=st.integers(0, 2**31))
def test_the_token_level_value_is_the_papers_sum_over_candidates(rows: list[list[int]], seed: int) -> None:
    targets = targets_of(rows)
    logits = torch.randn(len(targets.token_N), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    expected, place = [], 0
    for row in rows:
        for i, token in enumerate(row):
            p = logits[place].softmax(0)
            expected.append(sum(-math.log1p(-p[c].item()) for c in set(row[:i]) - {token}))
            place += 1
    value = RepetitionUnlikelihood()(logits, targets).value_N
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_candidate_that_the_model_is_sure_of_keeps_an_exact_value_and_a_full_gradient(dtype: torch.dtype) -> None:
    """Row 2 of A B | C: candidates A (at a lead of 100) and B. 1 - p(A) is e^-100: unlikelihood of A alone is 100."""
    targets = targets_of([[0, 1, 2]])
    logits = torch.zeros(3, 5)
    logits[2, 0] = 100
    logits = logits.to(dtype).requires_grad_()
    loss = RepetitionUnlikelihood()(logits, targets)
    assert loss.value_N[2].item() == pytest.approx(100 - math.log(4), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.value_N[2], logits)
    torch.testing.assert_close(gradient[2].float(), torch.tensor([1.0, -0.25, -0.25, -0.25, -0.25]))


def test_context_of_either_polarity_counts_but_only_positive_positions_are_penalised() -> None:
    targets = targets_of([[0, 1, 2]], [True, False, True])
    logits = torch.zeros(3, 4)
    value = RepetitionUnlikelihood()(logits, targets).value_N
    torch.testing.assert_close(value, torch.tensor([0.0, -math.log(0.75), 0.0]))


def test_the_same_tokens_in_another_row_are_no_repetition() -> None:
    assert not repeated_ngram_positions(*flat([[1, 2, 3], [1, 2, 3]]), 2).any()
    assert RepetitionUnlikelihood()(torch.zeros(2, 4), targets_of([[0], [1]])).value_N.sum() == 0


def test_the_sequence_level_value_is_unlikelihood_of_the_marked_tokens_only() -> None:
    targets = targets_of([[1, 2, 3, 1, 2, 3, 1]], True)
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    full = unlikelihood(logits, targets.token_N)
    whole, last = SequenceUnlikelihood(n=3), SequenceUnlikelihood(n=3, marks="last")
    marked = torch.tensor([False, False, False, True, True, True, True])
    torch.testing.assert_close(whole(logits, targets).value_N, torch.where(marked, full, torch.zeros(7)))
    completing = torch.tensor([False, False, False, False, False, True, True])
    torch.testing.assert_close(last(logits, targets).value_N, torch.where(completing, full, torch.zeros(7)))
    assert whole(logits, targets).where_N.all()


def test_an_ngram_of_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="n is 0"):
        SequenceUnlikelihood(n=0)
    with pytest.raises(ConfigError, match="n is 0"):
        repeated_ngram_positions(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 0)


def test_no_tensor_of_the_square_of_the_positions_times_the_vocabulary_is_made() -> None:
    """400 positions, vocabulary 1000: N x N x V would be 160 million numbers; the largest allocation is a few N x V."""
    targets = targets_of([list(range(100)) * 2, list(range(100)) * 2])
    logits = torch.zeros(400, 1000, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        RepetitionUnlikelihood()(logits, targets).value_N.sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 400 * 1000 * 4
