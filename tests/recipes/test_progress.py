import io

from distill.recipes import progress
from distill.recipes.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_bar_with_rows_rate_and_tokens():
    screen = Terminal()
    bar = Progress("sample", total=10, stream=screen)
    bar.add(4, cached=4)
    bar.add(6, tokens=120)
    bar.close()
    last = screen.getvalue().split("\r")[-1]
    assert "sample" in last and "10/10" in last and "120 tokens" in last


def test_a_pipe_gets_a_line_only_every_ten_seconds(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    pipe = io.StringIO()
    bar = Progress("sample", total=70, stream=pipe)
    for _ in range(50):
        clock[0] += 1
        bar.add(1, tokens=3)
    bar.close()
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "sample: 10/70 rows, 1.0 rows/s, 60 s left, 30 tokens (3/s)"


def test_rows_from_the_cache_are_done_but_are_not_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Progress("sample", total=1000, stream=io.StringIO())
    bar.add(900, cached=900)
    clock[0] = 20.0
    bar.add(20)
    assert bar.line() == "sample: 920/1000 rows, 1.0 rows/s, 80 s left"


def test_the_cost_is_shown_where_there_is_a_price_with_what_it_will_be_at_the_end(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Progress("sample", total=100, stream=io.StringIO(), spent=1.0)
    assert bar.line() == "sample: 0/100 rows, cost 1.00"
    clock[0] = 10.0
    bar.add(40, cached=20, tokens=50, cost=0.5)
    assert bar.line() == "sample: 40/100 rows, 2.0 rows/s, 30 s left, 50 tokens (5/s), cost 1.50 of about 3.00"
    bar.add(60, cost=1.0)
    assert bar.line().endswith("cost 2.50")


def test_quiet_says_nothing():
    screen = Terminal()
    bar = Progress("sample", stream=screen, quiet=True)
    bar.add(5)
    bar.close()
    assert screen.getvalue() == ""
