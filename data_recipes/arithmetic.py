"""Written arithmetic: + - × ÷ with every digit's step, and solutions that go wrong at one step as negatives.

    python -m data_recipes.arithmetic --config configs/recipe/arithmetic.yaml --problems 10000 --out runs/arithmetic

Problems are spread evenly over operations and pairs of digit counts, none comes twice, and held-out ones (by digit count, or by
a hash of the problem) never meet the training part: `a + b` and `b + a` are one group. Each solution is computed once and checked
again from its own text by exact integer arithmetic.

Source: the steps of addition as a scratchpad, Nye et al. 2021 (https://arxiv.org/abs/2112.00114, figure 2, without its comments);
multiplication by expanding one factor and division by subtracting multiples, Liu and Low 2023 ("Goat",
https://arxiv.org/abs/2305.14201, section 3.3), one line for each product and each sum. Columns are the ones taught in school.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal

from distill.errors import ConfigError
from distill.recipes import Item, Lost, Run
from distill.recipes.shards import Made
from distill.records import Message, Polarity, Record, Span, make_id

Operation = Literal["add", "subtract", "multiply", "divide"]
Style = Literal["columns", "scratchpad", "answer"]
Part = Literal["train", "test", "all"]
SOURCE = "arithmetic"
VERSION = 1  # of the solutions' wording and of which problems are drawn
ALL: tuple[Operation, ...] = ("add", "subtract", "multiply", "divide")
SIGNS: dict[str, str] = {"add": "+", "subtract": "-", "multiply": "×", "divide": "÷"}
_ASK: dict[str, str] = {
    "columns": "Work out {} step by step.",
    "scratchpad": "Work out {} with a scratchpad.",
    "answer": "What is {}?",
}
Slip = Callable[[int, int], int]  # (step, right result) -> what is written there


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Two whole numbers and what to do with them.

    >>> Problem(operation="divide", a=8914, b=64).answer
    '139 remainder 18'
    """

    operation: Operation
    a: int
    b: int

    @property
    def text(self) -> str:
        """As it is asked: `457 + 68`."""
        return f"{self.a} {SIGNS[self.operation]} {self.b}"

    @property
    def answer(self) -> str:
        """By Python's integers, not by the written steps."""
        if self.operation == "divide":
            return _quotient(*divmod(self.a, self.b))
        a, b = self.a, self.b
        return str({"add": a + b, "subtract": a - b, "multiply": a * b}[self.operation])

    @property
    def group(self) -> str:
        """One for both orders of a sum or a product."""
        a, b = sorted((self.a, self.b)) if self.operation in ("add", "multiply") else (self.a, self.b)
        return f"{self.operation}:{a}:{b}"


def build(
    *,
    run: Run,
    operations: tuple[Operation, ...] = ALL,
    problems: int = 1000,
    min_digits: int = 1,
    max_digits: int = 4,
    style: Style = "columns",
    negatives: int = 0,
    part: Part = "train",
    test_share: float = 0.1,
    test_digits: tuple[int, ...] = (),
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[Record]:
    """Draw problems, work them out, check the text, and emit it; wrong solutions share the group of the right one.

    Args:
        run: Where results are kept.
        operations: Which of add, subtract, multiply, divide.
        problems: How many to draw, without repetition; fewer where there are no more.
        min_digits: Digits of the smaller operands.
        max_digits: Digits of the larger ones. Every pair of digit counts is as frequent as any other.
        style: columns: every step in words. scratchpad: the format of Nye et al. 2021, addition alone. answer: no steps.
        negatives: Wrong solutions for each problem, each with one slip carried on to the end; marked from the wrong digit on.
        part: The training part, the held-out part, or both.
        test_share: Share of problems that are held out, by a hash of the group.
        test_digits: Problems with an operand of so many digits are held out too.
        seed: Which problems, in which order, and where the slips are.
        limit: Only the first so many problems.
    """
    if not operations or len(set(operations)) != len(operations):
        raise ConfigError(f"operations {list(operations)}: name each of {', '.join(ALL)} at most once, and at least one of them")
    if style == "scratchpad" and set(operations) != {"add"}:
        raise ConfigError(
            "style scratchpad is the format of a paper that has addition alone; give --operations '[add]', or columns"
        )
    if not 1 <= min_digits <= max_digits:
        raise ConfigError(f"min_digits {min_digits} and max_digits {max_digits}: give 1 or more, the smaller one first")
    if problems < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"problems {problems}, limit {limit}: give at least 1")
    if negatives < 0:
        raise ConfigError(f"negatives is {negatives}: give 0 for none, or a number above it")
    if not 0 <= test_share <= 1:
        raise ConfigError(f"test_share is {test_share}: a share lies between 0 and 1")

    def drawn() -> Iterator[Problem]:
        every = draw(operations, min_digits, max_digits, part=part, test_share=test_share, test_digits=test_digits, seed=seed)
        return islice(every, problems)

    wanted = min(problems, limit or problems)

    def solve(items: list[Item]) -> list[Any]:
        return [
            _solved(Problem(operation=item.value[0], a=int(item.value[1]), b=int(item.value[2])), style, negatives, seed)
            for item in items
        ]

    return _records(
        run,
        run.map(
            "solve",
            ((one.text, [one.operation, str(one.a), str(one.b)]) for one in _taken(run, Made(drawn), wanted, limit)),
            solve,
            key={"version": VERSION, "style": style, "negatives": negatives, "seed": seed},
            total=wanted,
            keep=False,  # a solution costs less than reading it back
        ),
        style,
        negatives,
    )


def draw(
    operations: tuple[Operation, ...],
    min_digits: int,
    max_digits: int,
    *,
    part: Part = "all",
    test_share: float = 0.1,
    test_digits: tuple[int, ...] = (),
    seed: int = 0,
) -> Iterator[Problem]:
    """Every problem there is, in an order that looks random, one of each operation and pair of digit counts in turn.

    Nothing is remembered to keep problems apart: the order is a permutation, so memory does not grow with problems.
    """
    sizes = range(min_digits, max_digits + 1)
    cells = [
        _cell(operation, first, second, seed)
        for operation, first, second in product(operations, sizes, sizes)
        if (first >= second or operation in ("add", "multiply"))
        # A cell without any problem of the part would be searched to its end.
        and part in ("all", *_parts({first, second}, test_share, test_digits))
    ]
    while cells:
        going = []
        for cell in cells:
            found = next(
                (one for one in cell if part == "all" or (part == "test") == held_out(one, test_share, test_digits)), None
            )
            if found is not None:
                yield found
                going.append(cell)
        cells = going


def held_out(problem: Problem, test_share: float, test_digits: tuple[int, ...] = ()) -> bool:
    """Whether a problem belongs to the test part; the same for `a + b` and `b + a`, and in every run."""
    if {len(str(problem.a)), len(str(problem.b))} & set(test_digits):
        return True
    return int.from_bytes(hashlib.sha256(problem.group.encode()).digest()[:8]) < test_share * 2**64


def _parts(digits: set[int], test_share: float, test_digits: tuple[int, ...]) -> tuple[Part, ...]:
    """The parts that problems with operands of these digit counts can belong to."""
    if digits & set(test_digits) or test_share == 1:
        return ("test",)
    return ("train", "test") if test_share > 0 else ("train",)


def solution(problem: Problem, style: Style = "columns", slip: Slip = lambda step, right: right) -> str:
    """The written solution; `slip` may put another number in place of a step's result, and all that follows goes on from it.

    >>> print(solution(Problem(operation="add", a=457, b=68)))
    1. 7 + 8 = 15, write 5, carry 1
    2. 5 + 6 + 1 = 12, write 2, carry 1
    3. 4 + 1 = 5, write 5
    457 + 68 = 525
    >>> print(solution(Problem(operation="divide", a=8914, b=64)))
    8914 - 64 × 100 = 8914 - 6400 = 2514
    2514 - 64 × 30 = 2514 - 1920 = 594
    594 - 64 × 9 = 594 - 576 = 18
    8914 ÷ 64 = 139 remainder 18
    >>> print(solution(Problem(operation="add", a=29, b=57), "scratchpad"))
    <scratch>
    2 9 + 5 7 , C: 0
    2 + 5 , 6 C: 1
    , 8 6 C: 0
    0 8 6
    </scratch>
    8 6
    """
    a, b = problem.a, problem.b
    if style == "answer":
        if problem.operation == "divide":
            quotient, remainder = divmod(a, b)
            return _quotient(slip(0, quotient), remainder)
        return str(slip(0, int(problem.answer)))
    if style == "scratchpad":
        return _scratchpad(a, b, slip)
    if problem.operation == "add":
        lines, answer = _add(a, b, slip)
    elif problem.operation == "subtract":
        lines, answer = _subtract(a, b, slip)
    elif problem.operation == "multiply":
        lines, answer = _multiply(a, b, slip)
    else:
        lines, answer = _divide(a, b, slip)
    return "\n".join([*lines, f"{problem.text} = {answer}"])


def steps(text: str) -> list[tuple[int, int, bool]]:
    """The equations of a text as (start, end, whether it holds), by exact integer arithmetic; what is written and carried too.

    >>> steps("7 + 8 = 15, write 5, carry 1\\n5 + 6 = 12, write 2, carry 1")
    [(0, 28, True), (29, 57, False)]
    """
    found = []
    for line in re.finditer(r"[^\n]*=[^\n]*", text):
        equation, *notes = re.sub(r"^\d+\. ", "", line[0]).rsplit(": ", 1)[-1].split(", ")
        values = [_value(side) for side in equation.split(" = ")]
        holds = all(value == values[0] for value in values)
        for note in notes:
            kind, _, number = note.partition(" ")
            last = int(values[-1][0])
            # A borrow is written beside the ten that was added to the first number, so the result itself has one digit.
            holds &= {"write": last % 10 == int(number), "carry": last // 10 == int(number), "borrow": last < 10}[kind]
        found.append((line.start(), line.end(), holds))
    return found


def answer_of(text: str, style: Style = "columns") -> str:
    """What a solution says in the end."""
    last = text.rpartition("\n")[2].rpartition(" = ")[2]
    return str(int(last.replace(" ", ""))) if style == "scratchpad" else last


def first_wrong_digit(wrong: str, right: str) -> int:
    """Where a wrong solution leaves the right one: the code point of the first wrong digit."""
    start = next(
        (n for n, (one, other) in enumerate(zip(wrong, right, strict=False)) if one != other), min(len(wrong), len(right))
    )
    while start and (start == len(wrong) or not wrong[start].isdigit()):
        start -= 1  # a number that ends too early is wrong from its last digit on
    return start


def _solved(problem: Problem, style: Style, negatives: int, seed: int) -> Any:
    """The right solution and the wrong ones, checked, as JSON."""
    right = solution(problem, style)
    if answer_of(right, style) != problem.answer or not all(holds for _, _, holds in steps(right)):
        return Lost("the written steps do not hold")
    wrong: list[str] = []
    for attempt in range(4 * negatives):
        text = _slipped(problem, style, random.Random(f"{seed}:{problem.text}:{attempt}"))
        if text not in wrong and _wrong_from_one_step_on(problem, text, right, style):
            wrong.append(text)
        if len(wrong) == negatives:
            break
    return {"right": right, "wrong": wrong}


def _wrong_from_one_step_on(problem: Problem, text: str, right: str, style: Style) -> bool:
    """Whether the answer is wrong, and the first equation that does not hold is the one with the first wrong digit."""
    if answer_of(text, style) == problem.answer:
        return False
    at = first_wrong_digit(text, right)
    broken = next(((start, end) for start, end, holds in steps(text) if not holds), None)
    return style != "columns" or (broken is not None and broken[0] <= at < broken[1])


def _slipped(problem: Problem, style: Style, chance: random.Random) -> str:
    """A solution with one wrong result, at a step drawn by chance, and all that follows from it."""
    count = 0

    def counted(step: int, result: int) -> int:
        nonlocal count
        count = max(count, step + 1)
        return result

    solution(problem, style, counted)
    at, done = chance.randrange(count), False

    def slip(step: int, result: int) -> int:
        nonlocal done
        if step != at or done:
            return result
        done = True
        return _wrong(result, chance, digits_only=style != "answer" and problem.operation == "subtract")

    return solution(problem, style, slip)


def _wrong(result: int, chance: random.Random, *, digits_only: bool) -> int:
    """The number with one digit a little off; never negative, and still one digit where the method needs one."""
    digits = list(str(result))
    place = chance.randrange(len(digits))
    others = [digit for digit in (int(digits[place]) - 1, int(digits[place]) + 1) if 0 <= digit <= 9]
    digits[place] = str(chance.choice(others))
    wrong = int("".join(digits))
    return wrong % 10 if digits_only else wrong


def _records(run: Run, rows: Iterator[Any], style: Style, negatives: int) -> Iterator[Record]:
    for row in rows:
        problem = Problem(operation=row.value[0], a=int(row.value[1]), b=int(row.value[2]))
        run.count("solutions, checked by exact arithmetic", f"right {problem.operation}")
        if len(row.result["wrong"]) < negatives:
            run.count("wrong solutions", "fewer than asked for", 1)
        prompt = (Message(role="user", content=_ASK[style].format(problem.text)),)
        right = row.result["right"]
        for text in (right, *row.result["wrong"]):
            polarity: Polarity = "positive" if text == right else "negative"
            spans = () if text == right else (Span(start=first_wrong_digit(text, right), end=len(text), polarity="negative"),)
            yield Record(
                id=make_id(problem.group, polarity, prompt, text, spans=spans, source=SOURCE),
                group=problem.group,
                prompt=prompt,
                response=text,
                polarity=polarity,
                spans=spans,
                source=SOURCE,
                evidence={
                    "operation": problem.operation,
                    "a": str(problem.a),  # as text: a number of more than 64 bits is none in most readers of JSON
                    "b": str(problem.b),
                    "digits": [len(str(problem.a)), len(str(problem.b))],
                    "answer": problem.answer,
                    "says": answer_of(text, style),
                    "style": style,
                },
            )


def _taken(run: Run, drawn: Made[Problem], wanted: int, limit: int | None) -> Iterator[Problem]:
    """The problems that are this run's; a shortage is counted, never hidden, and by one shard alone."""
    taken = 0
    for problem in run.take(drawn, limit=limit):
        taken += 1
        yield problem
    there = taken if run.shard is None else len(drawn) if run.shard.index == 0 else wanted
    if there < wanted:
        run.count("problems asked for", "there are no more", wanted - there)


def _cell(operation: Operation, first: int, second: int, seed: int) -> Iterator[Problem]:
    """All problems of one operation and one pair of digit counts, once each."""
    (low_a, count_a), (low_b, count_b) = _numbers(first), _numbers(second)
    key = f"{seed}:{operation}:{first}:{second}".encode()
    for index in range(count_a * count_b):
        place = _scattered(index, count_a * count_b, key)
        a, b = low_a + place // count_b, low_b + place % count_b
        if operation in ("add", "multiply") or (a >= b and (operation == "subtract" or b > 0)):
            yield Problem(operation=operation, a=a, b=b)


def _numbers(digits: int) -> tuple[int, int]:
    """The smallest number of so many digits (0 counts as one digit), and how many there are."""
    return (0, 10) if digits == 1 else (10 ** (digits - 1), 9 * 10 ** (digits - 1))


def _scattered(index: int, size: int, key: bytes) -> int:
    """A permutation of range(size): four rounds of a Feistel network on as many bits as hold it, walked until inside."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            mixed = hashlib.blake2b(b"%d:%d" % (turn, right), key=key[:64], digest_size=16).digest()
            left, right = right, left ^ (int.from_bytes(mixed) & mask)
        index = left << half | right
        if index < size:
            return index


def _digits(number: int) -> list[int]:
    """From the ones up."""
    return [int(digit) for digit in reversed(str(number))]


def _add(a: int, b: int, slip: Slip) -> tuple[list[str], str]:
    lines, written, carry = [], "", 0
    first, second = _digits(a), _digits(b)
    for place in range(max(len(first), len(second))):
        terms = [*first[place : place + 1], *second[place : place + 1], *([carry] if carry else [])]
        total = slip(place, sum(terms))
        carry, digit = divmod(total, 10)
        written = f"{digit}{written}"
        note = f", carry {carry}" if carry else ""
        lines.append(f"{place + 1}. {' + '.join(map(str, terms))} = {total}, write {digit}{note}")
    return lines, str(int(f"{carry}{written}"))


def _subtract(a: int, b: int, slip: Slip) -> tuple[list[str], str]:
    lines, written, borrow = [], "", 0
    first, second = _digits(a), _digits(b)
    for place in range(len(first)):
        taken = [*([borrow] if borrow else []), *second[place : place + 1]]
        top = first[place]
        borrow = int(top < sum(taken))
        digit = slip(place, top + 10 * borrow - sum(taken))
        written = f"{digit}{written}"
        lent = " - ".join(map(str, [top, *taken])) + ": " if borrow else ""
        note = ", borrow 1" if borrow else ""
        lines.append(f"{place + 1}. {lent}{' - '.join(map(str, [top + 10 * borrow, *taken]))} = {digit}, write {digit}{note}")
    return lines, str(int(written))


def _multiply(a: int, b: int, slip: Slip) -> tuple[list[str], str]:
    parts = [digit * 10**place for place, digit in enumerate(_digits(b)) if digit]
    if len(parts) < 2:
        return [], str(slip(0, a * b))  # nothing to expand
    products = [slip(step, a * part) for step, part in enumerate(parts)]
    lines = [f"{a} × {part} = {value}" for part, value in zip(parts, products, strict=True)]
    total = products[0]
    for step, value in enumerate(products[1:], start=len(parts)):
        before, total = total, slip(step, total + value)
        lines.append(f"{before} + {value} = {total}")
    return lines, str(total)


def _divide(a: int, b: int, slip: Slip) -> tuple[list[str], str]:
    lines: list[str] = []
    quotient, rest = 0, a
    for place in reversed(range(len(str(a // b)))):
        part = rest // (b * 10**place) * 10**place
        if part:
            before, rest = rest, slip(len(lines), rest - b * part)
            lines.append(f"{before} - {b} × {part} = {before} - {b * part} = {rest}")
            quotient += part
    return lines, _quotient(quotient, rest)


def _scratchpad(a: int, b: int, slip: Slip) -> str:
    width = max(len(str(a)), len(str(b)))
    first, second = (" ".join(str(number).zfill(width)) for number in (a, b))
    lines, written, carry = ["<scratch>", f"{first} + {second} , C: 0"], "", 0
    for place, (x, y) in enumerate(zip(first[::-2], second[::-2], strict=True)):
        carry, digit = divmod(slip(place, int(x) + int(y) + carry), 10)
        written = f"{digit} {written}".strip()
        left, right = (side[: 2 * (width - place - 1)].strip() for side in (first, second))
        lines.append(f"{left} + {right} , {written} C: {carry}" if left else f", {written} C: {carry}")
    return "\n".join([*lines, f"{carry} {written}", "</scratch>", " ".join(str(int(f"{carry}{written}".replace(" ", ""))))])


def _quotient(quotient: int, remainder: int) -> str:
    return f"{quotient} remainder {remainder}" if remainder else str(quotient)


def _value(side: str) -> tuple[int, int]:
    """One side of an equation as (value, remainder); products bind closer than sums."""
    if " remainder " in side:
        whole, rest = side.split(" remainder ")
        return int(whole), int(rest)
    if " ÷ " in side:
        a, b = side.split(" ÷ ")
        return divmod(int(a), int(b))
    total = 0
    for sign, term in re.findall(r"(?:^|([+-]) )(\d+(?: × \d+)*)", side):
        factors = [int(factor) for factor in term.split(" × ")]
        value = factors[0]
        for factor in factors[1:]:
            value *= factor
        total += -value if sign == "-" else value
    return total, 0


if __name__ == "__main__":
    from distill.recipes.command import main

    sys.exit(main(__file__, __spec__))
