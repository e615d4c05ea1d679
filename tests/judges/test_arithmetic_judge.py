"""The step verifier computes what is written; what it cannot read is no step, never a wrong one."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.judges.arithmetic import ArithmeticJudge
from distill.judges.equations import find_equations
from distill.judges.expressions import numbers_in
from distill.judges.final_number import FinalNumber, final_number

JUDGE = ArithmeticJudge()


def approved(text):
    return JUDGE.judge((), text).approved


RIGHT = [
    "3 + 4 = 7",
    "12 x 3 = 36",
    "12 × 3 = 36",
    "12 * 3=36",
    "84 ÷ 4 = 21",
    "84/4=21",
    "She pays 5 x $1.50 = $7.50.",
    "$1,200 - $200 = $1,000",
    "16 eggs - 3 eggs - 4 eggs = 9 eggs",
    "3 weeks * 7 days/week = 21 days",
    "10% of 50 = 5",
    "50 * 20% = 10",
    "$50 - 20% = $40",
    "100% - 20% = 80%",
    "2/3 = 67%",
    "1/2 of 8 = 4",
    "1 1/2 + 1/2 = 2",
    "½ * 8 = 4",
    "25 / 1/3 = 75",
    "2 × (3 + 4) = 14",
    "2(3+4) = 14",
    "3^2 + 1 = 10",
    "5 - 8 = -3",
    "3 + 4 = 7 + 1 = 8",
    "24 = 6 * 4 = 24",
    "22/7 = 3.14",
    "2/3 = 0.66",
    "1.87*9 = 16.830000000000002",
    "50 cents * 4 = $2",
    "1) 3 + 4 = 7",
    "48/2 = <<48/2=24>>24 clips",
]
WRONG = [
    "3 + 4 = 8",
    "12 x 3 = 35",
    "$1,200 - $200 = $100",
    "10% of 50 = 6",
    "22/7 = 3.2",
    "0.1 + 0.1 = 0.3",
    "10 + 5 * 2 = 30",
    "3 + 4 = 7 + 1 = 9",
    "48/2 = <<48/2=25>>25",
    "48/2 = <<48/2=24>>25",
    "She has 5 in total and 3 + 4 = 8.",
]
NOT_READ = [
    "",
    "There are 12.",
    "5 = 5",
    "x = 5",
    "x + 3 = 7",
    "2y + 3 = 13",
    "3 + 4 = 2y",
    "100 - x + 40 = 60",
    "17 / 5 = 3 remainder 2",
    "2 + 3 = 5 thousand",
    "100 stickers / 3 friends = 33",
    "18:00 + 6 = 00",
    "5 friends = 75",
    "a == b",
    "3 + 4 != 8",
    "3 + 4 ≈ 8",
    "9**9**9 = 3",
    "1/0 = 3",
    "- 2 hours = 9",
    "3 + = 7",
    "9" * 5000 + " + 1 = 2",
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_equation_is_approved(text):
    assert approved(text) is True


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_equation_is_rejected(text):
    verdict = JUDGE.judge((), text)
    assert verdict.approved is False and verdict.reason.count("is wrong") == 1


@pytest.mark.parametrize("text", NOT_READ, ids=lambda text: text[:20])
def test_what_is_no_equation_of_numbers_is_not_judged(text):
    assert approved(text) is None


def test_each_equation_is_a_span_with_its_own_polarity():
    text = "6 x 4 = 24 eggs.\nThen 24 - 3 = <<24-3=20>>20 are left, 20/2 = 10."
    verdict = JUDGE.judge((), text)
    assert [(text[span.start : span.end], span.polarity) for span in verdict.spans] == [
        ("6 x 4 = 24", "positive"),
        ("24 - 3 = <<24-3=20>>20", "negative"),
        ("20/2 = 10", "positive"),
    ]
    assert [step["right"] for step in verdict.evidence["steps"]] == [True, False, True]
    assert (verdict.evidence["steps"][1]["computed"], verdict.evidence["steps"][1]["stated"]) == ("21", "20")


def test_the_final_number_is_asked_for_only_on_demand():
    strict = ArithmeticJudge(final="reference")
    assert JUDGE.judge((), "3 + 4 = 7", ("8",)).approved
    assert strict.judge((), "3 + 4 = 7", ("8",)).approved is False
    assert strict.judge((), "3 + 4 = 7", ("#### 7",)).approved
    assert strict.judge((), "3 + 4 = 8", ("8",)).approved is False, "a wrong step stays wrong"
    assert strict.judge((), "It is 7.", ("7",)).approved, "without equations the final number decides"
    assert strict.judge((), "3 + 4 = 7", ()).approved and strict.judge((), "No idea", ("7",)).approved is None


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=5), st.randoms(use_true_random=False), st.booleans())
def test_any_sum_or_product_is_judged_as_python_computes_it(numbers, chance, right):
    signs = [chance.choice("+-*") for _ in numbers[1:]]
    text = str(abs(numbers[0])) + "".join(f" {sign} {abs(number)}" for sign, number in zip(signs, numbers[1:], strict=True))
    value = eval(text) + (0 if right else chance.choice([-1, 1, 10]))  # noqa: S307 - digits and signs only
    assert approved(f"So {text} = {value}.") is right


@given(st.text(alphabet="0123456789+-*/()=.,%$x of<>\n½", max_size=60))
def test_no_text_breaks_the_reader_and_spans_never_overlap(text):
    found = find_equations(text)
    places = [(one.start, one.end) for one in found]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(first[1] <= second[0] for first, second in zip(places, places[1:], strict=False))
    numbers_in(text)


def test_a_long_line_takes_no_time():
    assert approved("1 + " * 20_000 + "1 = 3") is None
    assert approved("(" * 5000 + "1" + ")" * 5000 + " + 1 = 2") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 + 3 = 8\n#### 1,234", 1234),
        ("So \\boxed{12} it is, out of 30", 12),
        ("2 apples\nA: $18.50", 18.5),
        ("The answer is: 7 apples for 3 people", 7),
        ("The answer is twelve.", 12),
        ("The answer is 3. No: the answer is 4.", 4),
        ("She has 3 + 4 = 7.", 7),
        ("It fell to -5", -5),
        ("Half of it: 1/2", 0.5),
        ("twelve", 12),
        ("", None),
        ("nothing", None),
    ],
)
def test_the_final_number_is_the_announced_one_else_the_last(text, number):
    assert final_number(text) == number


def test_final_numbers_are_compared_and_silence_is_counted():
    judge = FinalNumber()
    assert judge.judge((), "4 x 3 = 12", ("#### 12.0",)).approved
    assert judge.judge((), "13", ("#### 12",)).approved is False
    assert judge.judge((), "no idea", ("12",)).approved is None
    assert judge.judge((), "12").approved is None


@pytest.mark.slow
def test_on_gsm8k_gold_solutions_are_seldom_called_wrong_and_final_numbers_agree_with_the_marks(shared_data):
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line)["answer"] for line in random.Random(0).sample(lines, 1500)]
    verdicts = [JUDGE.judge((), answer).approved for answer in gold]
    assert verdicts.count(False) <= 15 and verdicts.count(None) <= 45
    path = shared_data / "gsm8k" / "example_model_solutions.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines()[:300]:
        row = json.loads(line)
        for model in ("6b_finetuning", "175b_verification"):
            marked = row[model]
            assert FinalNumber().judge((), marked["solution"], (row["ground_truth"],)).approved is marked["is_correct"]
