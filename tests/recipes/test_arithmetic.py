"""The recipe arithmetic: laws of exact arithmetic for every problem, every style and every slip."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.arithmetic import Problem, answer_of, build, draw, first_wrong_digit, held_out, solution, steps
from distill.errors import ConfigError
from distill.recipes import Run

numbers = st.integers(1, 10**9)


@st.composite
def problems(draw_one, operations=("add", "subtract", "multiply", "divide")):
    operation = draw_one(st.sampled_from(operations))
    a, b = draw_one(numbers), draw_one(numbers)
    if operation in ("subtract", "divide") and a < b:
        a, b = b, a
    return Problem(operation=operation, a=a, b=b)


def expected(problem):
    """By another way than the recipe's own."""
    if problem.operation == "divide":
        quotient = problem.a // problem.b
        remainder = problem.a - quotient * problem.b
        return f"{quotient} remainder {remainder}" if remainder else str(quotient)
    return str(eval(f"{problem.a} {dict(add='+', subtract='-', multiply='*')[problem.operation]} {problem.b}"))


def made(**settings):
    with Run(None, quiet=True) as run:
        return list(build(run=run, **settings)), run


@given(problem=problems())
def test_a_worked_solution_ends_in_the_exact_answer_and_every_equation_in_it_holds(problem):
    text = solution(problem)
    assert answer_of(text) == problem.answer == expected(problem)
    assert text.splitlines()[-1].startswith(f"{problem.text} = ")
    found = steps(text)
    assert len(found) == len(text.splitlines()) and all(holds for _, _, holds in found)


@given(problem=problems(operations=("add",)))
def test_each_line_of_a_scratchpad_holds_the_sum_of_the_digits_so_far(problem):
    lines = solution(problem, "scratchpad").splitlines()
    assert (lines[0], lines[-2]) == ("<scratch>", "</scratch>")
    for place, line in enumerate(lines[2:-3], start=1):
        written, carry = line.rpartition(" , " if " , " in line else ", ")[2].split(" C: ")
        total = problem.a % 10**place + problem.b % 10**place
        assert int(written.replace(" ", "")) == total % 10**place and int(carry) == total // 10**place
    assert answer_of("\n".join(lines), "scratchpad") == expected(problem)


@given(problem=problems(), seed=st.integers(0, 9), style=st.sampled_from(["columns", "answer"]))
def test_a_slip_makes_the_answer_wrong_and_leaves_every_step_before_it_right(problem, seed, style):
    from data_recipes.arithmetic import _solved

    result = _solved(problem, style, 2, seed)
    for wrong in result["wrong"]:
        at = first_wrong_digit(wrong, result["right"])
        assert wrong[at].isdigit()
        assert answer_of(wrong, style) != expected(problem)
        if style == "columns":
            broken = [(start, end) for start, end, holds in steps(wrong) if not holds]
            assert broken[0][0] <= at < broken[0][1]
            assert wrong[: broken[0][0]] == result["right"][: broken[0][0]]
    assert len(set(result["wrong"])) == len(result["wrong"])


def test_a_wrong_equation_carry_or_digit_is_found():
    texts = [
        "7 + 8 = 16",
        "1. 7 + 8 = 15, write 6, carry 1",
        "1. 7 + 8 = 15, write 5, carry 2",
        "9 ÷ 2 = 4",
        "9 - 2 × 4 = 9 - 8 = 2",
    ]
    assert [holds for text in texts for _, _, holds in steps(text)] == [False] * 5
    right = ["7 + 8 = 15", "1. 7 + 8 = 15, write 5, carry 1", "1. 3 - 8: 13 - 8 = 5, write 5, borrow 1", "9 ÷ 2 = 4 remainder 1"]
    assert [holds for text in right for _, _, holds in steps(text)] == [True] * 4


def test_no_problem_comes_twice_and_small_sizes_are_drawn_to_the_last():
    found = list(draw(("add", "multiply"), 1, 2))
    assert len(found) == len(set(found)) == 2 * 100 * 100
    assert {(one.a, one.b) for one in found} == {(a, b) for a in range(100) for b in range(100)}
    ordered = list(draw(("subtract", "divide"), 1, 2))
    assert (
        len(set(ordered)) == len(ordered) == sum(a - (0 if op else 1) + 1 for a in range(100) for op in (True, False) if a or op)
    )


def test_every_pair_of_digit_counts_is_as_frequent_as_any_other():
    counts = {}
    for one in islice(draw(("add",), 2, 5), 1600):
        key = (len(str(one.a)), len(str(one.b)))
        counts[key] = counts.get(key, 0) + 1
    assert counts == {(a, b): 100 for a in range(2, 6) for b in range(2, 6)}


def test_train_and_test_share_no_group_and_together_are_everything():
    parts = {part: {one.group for one in draw(("add",), 1, 2, part=part)} for part in ("train", "test", "all")}
    assert not parts["train"] & parts["test"]
    assert parts["train"] | parts["test"] == parts["all"]
    assert 0.07 < len(parts["test"]) / len(parts["all"]) < 0.13
    assert held_out(Problem(operation="add", a=3, b=8), 0.5) == held_out(Problem(operation="add", a=8, b=3), 0.5)


def test_held_out_digit_counts_never_meet_the_training_part():
    train = list(islice(draw(("add",), 1, 4, part="train", test_digits=(3,)), 500))
    assert not any(3 in (len(str(one.a)), len(str(one.b))) for one in train)
    test = list(islice(draw(("add",), 1, 4, part="test", test_share=0, test_digits=(3,)), 500))
    assert all(3 in (len(str(one.a)), len(str(one.b))) for one in test)


def test_a_negative_shares_the_group_and_is_marked_from_the_wrong_digit_on():
    records, run = made(problems=60, negatives=1, max_digits=3)
    assert len(records) == 120
    for right, wrong in zip(records[::2], records[1::2]):
        assert (right.polarity, wrong.polarity, right.group) == ("positive", "negative", wrong.group)
        (span,) = wrong.spans
        assert wrong.response[: span.start] == right.response[: span.start] and span.end == len(wrong.response)
        assert wrong.response[span.start].isdigit() and not right.response.startswith(wrong.response[: span.end])
    assert sum(run.counts["solutions, checked by exact arithmetic"].values()) == 60


def test_numbers_past_64_bits_are_exact():
    records, _ = made(problems=8, min_digits=25, max_digits=25, negatives=1)
    for record in records[::2]:
        assert record.response.endswith(f" = {record.evidence['answer']}")
        assert all(holds for _, _, holds in steps(record.response))


def test_the_same_seed_makes_the_same_records_and_another_seed_others():
    assert made(problems=20, negatives=1)[0] == made(problems=20, negatives=1)[0]
    assert {one.group for one in made(problems=20)[0]} != {one.group for one in made(problems=20, seed=1)[0]}


def test_a_shortage_of_problems_is_counted():
    records, run = made(operations=("add",), max_digits=1, problems=150, part="all")
    assert len(records) == 100
    assert run.counts["problems asked for"] == {"there are no more": 50}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"style": "scratchpad"}, "addition alone"),
        ({"min_digits": 3, "max_digits": 2}, "the smaller one first"),
        ({"problems": 0}, "at least 1"),
        ({"negatives": -1}, "0 for none"),
        ({"test_share": 1.5}, "between 0 and 1"),
        ({"operations": ()}, "at least one"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, said):
    with Run(None, quiet=True) as run, pytest.raises(ConfigError, match=said):
        build(run=run, **settings)
