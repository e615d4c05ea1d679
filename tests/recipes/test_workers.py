"""Several batches under way: the order, the batches and the results are those of one at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from remote import Remote

from distill.errors import TeacherError
from distill.judges.base import Judge, Verdict
from distill.recipes import Ask, Claim, Item, Lost, Run, generate, judge
from distill.recipes.asking import prompt_json
from distill.recipes.key import teachers_in
from distill.records import Message
from distill.teachers.base import Sampling

TEXTS = [f"question {number}" for number in range(100)]


def asks(texts: Sequence[str] = TEXTS) -> list[Ask]:
    return [Ask(f"q{number}", (Message(role="user", content=text),)) for number, text in enumerate(texts)]


def answers(folder=None, *, teacher: Remote | None = None, texts=TEXTS, **options) -> list[tuple[str, str]]:
    with Run(folder, quiet=True, **options) as run:
        answered = generate(run, "ask", asks(texts), teacher or Remote(delay=0.001), Sampling(), batch_size=4)
        rows = [(one.id, one.completions[0].text) for one in answered]
        run.finish()
        return rows


def test_rows_and_batches_are_the_same_whatever_the_number_of_workers(tmp_path):
    wanted = answers(workers=1)
    assert [id for id, _ in wanted] == [ask.id for ask in asks()]
    for workers in (2, 8, 50):
        assert answers(tmp_path / str(workers), workers=workers) == wanted, "each text names the whole batch it was drawn in"


def test_so_many_batches_are_under_way_and_by_default_eight():
    for workers, most in ((1, 1), (3, 3), (None, 8)):
        teacher = Remote(delay=0.01)
        answers(teacher=teacher, workers=workers)
        assert teacher.most_at_once[1] == most


@dataclass(frozen=True, kw_only=True)
class TwoTeachers(Judge):
    first: Remote
    others: dict[str, list[Remote]] = field(default_factory=dict)
    threads: list[str] = field(default_factory=list, compare=False)

    def judge(self, prompt, response, reference=()):
        self.threads.append(threading.current_thread().name)
        return Verdict(approved=True)


def test_the_teachers_inside_a_judge_are_found_and_all_of_them_must_be_concurrent():
    here, there = Remote(concurrent=False), Remote()
    deep = TwoTeachers(first=there, others={"more": [here, there]})
    assert teachers_in([deep, "text", None]) == (there, here)
    assert teachers_in(deep.threads) == ()
    claims = [Claim(ask.id, ask.prompt, "so") for ask in asks()]
    for asked, threads in ((deep, {"MainThread"}), (TwoTeachers(first=there), set())):
        with Run(None, quiet=True, workers=4) as run:
            assert len(list(judge(run, "judge", claims, asked, batch_size=2))) == 100
        assert set(asked.threads) == threads or "MainThread" not in asked.threads and not threads


def test_work_without_a_teacher_stays_in_its_thread():
    names = set()
    with Run(None, quiet=True, workers=4) as run:
        list(run.map("ask", [("a", 1)], lambda items: [names.add(threading.current_thread().name)], key={"n": 1}))
    assert names == {"MainThread"}


def test_chained_stages_work_at_the_same_time_and_read_only_a_little_ahead():
    both = threading.Barrier(2, timeout=10)  # broken where the stages do not overlap
    first, second = Remote(model="first"), Remote(model="second")
    read, given, farthest = 0, 0, 0

    def items():
        nonlocal read
        for ask in asks([f"q{number}" for number in range(400)]):
            read += 1
            yield Item(ask.id, ask.id)

    def meet(part):
        def work(items: list[Item]) -> list[object]:
            if items[0].value == part:
                both.wait()
            return [Lost("every ninth") if int(item.value[1:]) % 9 == 8 else item.value for item in items]

        return work

    with Run(None, quiet=True, workers=3) as run:
        ones = run.map("one", items(), meet("q20"), key={}, asks=first, batch_size=4)
        twos = run.map("two", ((row.id, row.result) for row in ones), meet("q0"), key={}, asks=second, batch_size=3)
        ids = []
        for row in twos:
            given += 1
            farthest = max(farthest, read - given)
            ids.append(row.id)
        run.finish()
    assert ids == [f"q{number}" for number in range(400) if number % 9 != 8]
    assert farthest < 170, "of 400"


def test_a_failed_batch_keeps_those_that_were_done_begins_no_more_and_is_raised(tmp_path):
    teacher = Remote(refuses="question 42", delay=0.003)
    with pytest.raises(TeacherError, match="no answer to question 42"):
        answers(tmp_path, teacher=teacher, workers=4)
    done = set(teacher.asked)
    assert set(TEXTS[:30]) <= done and len(done) < 80
    again = Remote()
    assert answers(tmp_path, teacher=again, workers=4) == answers(workers=1)
    assert set(again.asked) == set(TEXTS) - done | set(TEXTS[40:44]), "only the batch that failed is asked a second time"


def test_rows_left_early_end_what_is_under_way_and_keep_it(tmp_path):
    teacher = Remote(delay=0.005)
    before = set(threading.enumerate())  # other tests' libraries may keep threads of their own
    with Run(tmp_path, quiet=True, workers=4) as run:
        answered = generate(run, "ask", asks(), teacher, Sampling(), batch_size=4)
        next(answered)
    assert set(threading.enumerate()) <= before and teacher.most_at_once[0] == 0
    again = Remote()
    answers(tmp_path, teacher=again, workers=4)
    assert len(teacher.asked) < 60 and sorted(teacher.asked + again.asked) == sorted(TEXTS)


def test_ctrl_c_waits_for_what_is_under_way(tmp_path):
    teacher = Remote(delay=0.02)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path, quiet=True, workers=4) as run:
        for _ in generate(run, "ask", asks(), teacher, Sampling(), batch_size=4):
            raise KeyboardInterrupt
    again = Remote()
    assert answers(tmp_path, teacher=again, workers=2) == answers(workers=1)
    assert sorted(teacher.asked + again.asked) == sorted(TEXTS)


class Batches:
    """Work that notes which items came together."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    def __call__(self, items: list[Item]) -> list[object]:
        self.ids.append([item.id for item in items])
        return ["now"] * len(items)


def test_lost_rows_asked_again_are_batched_alike_whatever_the_number_of_workers(tmp_path):
    texts = ["mute" if number % 3 else text for number, text in enumerate(TEXTS)]
    rows = []
    for workers in (1, 5):
        folder = tmp_path / str(workers)
        assert len(answers(folder, texts=texts, workers=workers)) == 34
        with Run(folder, quiet=True, workers=workers, retry_lost=True) as run:
            batches = Batches()
            key = {"version": 1, "generator": Remote(), "sampling": Sampling()}
            prompts = [(ask.id, prompt_json(ask.prompt)) for ask in asks(texts)]
            assert len(list(run.map("ask", prompts, batches, key=key, batch_size=4))) == 100
        rows.append(sorted(batches.ids))
    assert rows[0] == rows[1] and max(map(len, rows[0])) == 4 and len(rows[0]) < 22
