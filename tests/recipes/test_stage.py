import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import RecipeError
from distill.recipes import Item, Lost, Row, Run
from distill.recipes.salvage import salvage

ITEMS = [(f"q{number}", {"text": f"שאלה {number}", "n": number}) for number in range(23)]


def answer(items: list[Item]) -> list[object]:
    """Loses every seventh; the result holds what JSON changes (a tuple), more than one script, and a line separator."""
    return [
        Lost("sevens")
        if item.value["n"] % 7 == 0
        else {"text": item.value["text"] + "\u2028\n\ud800", "pair": (1, item.value["n"])}
        for item in items
    ]


def rows_of(folder: Path | None, *, items=ITEMS, work=answer, key=None, batch_size: int = 4, **options) -> list[Row]:
    with Run(folder, quiet=True, **options) as run:
        rows = list(run.map("ask", items, work, key=key or {"version": 1}, batch_size=batch_size))
        run.finish()
        return rows


def forbidden(items: list[Item]) -> list[object]:
    raise AssertionError(f"computed again: {[item.id for item in items]}")


def cache_of(folder: Path) -> Path:
    return folder / "stages" / "results.sqlite"


def as_killed(folder: Path, **options) -> tuple[bytes, bytes]:
    """The database and its write-ahead log as a killed process leaves them, after the last batch."""
    with Run(folder, quiet=True) as run:
        list(run.map("ask", ITEMS, key={"version": 1}, **options))
        log = cache_of(folder).with_name("results.sqlite-wal").read_bytes()
        return cache_of(folder).read_bytes(), log


def left_by_a_kill(folder: Path, database: bytes, log: bytes) -> Path:
    cache_of(folder).parent.mkdir()
    cache_of(folder).write_bytes(database)
    cache_of(folder).with_name("results.sqlite-wal").write_bytes(log)
    return folder


def test_rows_come_in_the_order_of_the_items_whatever_the_batch_size(tmp_path):
    wanted = rows_of(tmp_path / "one", batch_size=1)
    assert [row.id for row in wanted] == [id for id, value in ITEMS if value["n"] % 7]
    for size in (2, 5, 23, 100):
        assert rows_of(tmp_path / str(size), batch_size=size) == wanted


def test_a_finished_stage_computes_nothing_again_and_gives_the_same_rows(tmp_path):
    first = rows_of(tmp_path)
    assert rows_of(tmp_path, work=forbidden) == first
    assert first[0].result["pair"] == [1, 1], "the first run hands out what JSON keeps, not what work returned"
    assert rows_of(None) == first


def jittery(items: list[Item]) -> list[object]:
    """Like a model in bfloat16: what shares the batch shows in the result."""
    return [[result, len(items), items[0].id] if isinstance(result, dict) else result for result in answer(items)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[bytes, bytes]:
    return as_killed(tmp_path_factory.mktemp("killed"), work=jittery, batch_size=3)


@settings(deadline=None, max_examples=25)
@given(cut=st.floats(0, 1))
def test_a_log_cut_at_any_byte_gives_the_same_batches_and_rows(tmp_path_factory, killed, cut):
    database, log = killed
    folder = left_by_a_kill(tmp_path_factory.mktemp("cut"), database, log[: int(cut * len(log))])
    wanted = rows_of(None, work=jittery, batch_size=3)
    assert rows_of(folder, work=jittery, batch_size=3) == wanted
    assert rows_of(folder, work=forbidden, batch_size=3) == wanted


def test_a_log_whose_last_pages_are_garbage_loses_their_batches_only(tmp_path, killed):
    database, log = killed
    folder = left_by_a_kill(tmp_path, database, log[:-5000] + b"\7" * 5000)
    done = []

    def work(items):
        done.append([item.id for item in items])
        return jittery(items)

    assert rows_of(folder, work=work, batch_size=3) == rows_of(None, work=jittery, batch_size=3)
    assert 1 <= len(done) < 5 and done[-1] == ["q21", "q22"]


@settings(deadline=None, max_examples=8)
@given(cut=st.floats(0, 1), first=st.integers(1, 30), second=st.integers(1, 30))
def test_a_run_may_go_on_with_another_batch_size(tmp_path_factory, cut, first, second):
    database, log = as_killed(tmp_path_factory.mktemp("first"), work=answer, batch_size=first)
    folder = left_by_a_kill(tmp_path_factory.mktemp("second"), database, log[: int(cut * len(log))])
    assert rows_of(folder, batch_size=second) == rows_of(None)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_an_error_with_a_way_out_and_stays_as_it_is(tmp_path, share):
    wanted = rows_of(tmp_path)
    whole = cache_of(tmp_path).read_bytes()
    cut = whole[: int(share * len(whole))]
    cache_of(tmp_path).write_bytes(cut)
    with pytest.raises(RecipeError, match=r"results.sqlite: damaged .*distill\.recipes\.salvage.*--fresh true"):
        rows_of(tmp_path)
    assert cache_of(tmp_path).read_bytes() == cut
    assert rows_of(tmp_path, fresh=True) == wanted
    assert (tmp_path / "stages.old1" / "results.sqlite").read_bytes() == cut


def test_a_file_that_is_no_database_is_an_error_and_one_of_a_newer_version_too(tmp_path):
    rows_of(tmp_path)
    cache_of(tmp_path).write_bytes(b"what is this? " * 1000)
    with pytest.raises(RecipeError, match="damaged .*not a database"):
        rows_of(tmp_path)
    rows_of(tmp_path, fresh=True)
    with closing(sqlite3.connect(cache_of(tmp_path))) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RecipeError, match="newer version"):
        rows_of(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "pages"])
def test_what_can_be_read_of_a_damaged_file_is_saved(tmp_path, damage):
    items = [(f"q{number}", number) for number in range(2000)]

    def spell(items):
        return [f"{item.value:0200}" for item in items]

    with Run(tmp_path, quiet=True) as run:
        wanted = list(run.map("ask", items, spell, key={}))
    found = cache_of(tmp_path).read_bytes()
    pages = [found[at : at + 4096] for at in range(0, len(found), 4096)]
    pages[80:] = pages[80:100] if damage == "cut" else [b"\7" * 4096] * 6 + pages[86:]
    cache_of(tmp_path).write_bytes(b"".join(pages))
    saved = salvage(tmp_path)
    assert (800 if damage == "cut" else 1900) < saved < 2000
    assert (tmp_path / "stages" / "damaged1" / "results.sqlite").read_bytes() == b"".join(pages)
    done = []
    with Run(tmp_path, quiet=True) as run:
        assert list(run.map("ask", items, lambda items: done.extend(items) or spell(items), key={})) == wanted
    assert len(done) == 2000 - saved


def test_a_file_of_which_nothing_can_be_read_stays_where_it_is(tmp_path):
    rows_of(tmp_path)
    cache_of(tmp_path).write_bytes(b"what is this? " * 1000)
    with pytest.raises(RecipeError, match="nothing can be read of it"):
        salvage(tmp_path)
    assert [file.name for file in (tmp_path / "stages").iterdir()] == ["results.sqlite"]
    with pytest.raises(RecipeError, match="no such file"):
        salvage(tmp_path / "elsewhere")


def test_a_value_damaged_within_costs_only_its_own_item(tmp_path):
    wanted = rows_of(tmp_path)
    with closing(sqlite3.connect(cache_of(tmp_path))) as database, database:
        database.execute("UPDATE outcome SET value = x'00ff' WHERE id IN (CAST('q2' AS BLOB), CAST('q4' AS BLOB))")
    done = []

    def work(items):
        done.extend(item.id for item in items)
        return answer(items)

    assert rows_of(tmp_path, work=work) == wanted
    assert done == ["q2", "q4"]
    assert rows_of(tmp_path, work=forbidden) == wanted


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    texts = [(name, "x" * 4000) for name, _ in ITEMS]

    def echo(items):
        return [item.value for item in items]

    with Run(tmp_path, quiet=True) as run:
        (pages,) = run._cache._database.execute("PRAGMA page_count").fetchone()
        run._cache._database.execute(f"PRAGMA max_page_count = {pages + 12}")  # what SQLite does where the disk has no more room
        with pytest.raises(
            RecipeError, match="the disk is full. What is done is kept: free some space and give the same command"
        ):
            list(run.map("ask", texts, echo, key={"version": 1}, batch_size=4))
    done = []
    with Run(tmp_path, quiet=True) as run:
        rows = run.map("ask", texts, lambda items: done.append(items[0].id) or echo(items), key={"version": 1}, batch_size=4)
        assert [row.result for row in rows] == ["x" * 4000] * len(ITEMS)
    assert 1 <= len(done) < 6 and done[-1] == "q20"


def test_an_interrupted_stage_goes_on_after_its_last_whole_batch(tmp_path):
    def stops(items):
        if items[0].id == "q8":
            raise KeyboardInterrupt
        return answer(items)

    with pytest.raises(KeyboardInterrupt):
        rows_of(tmp_path, work=stops)
    done = []

    def work(items):
        done.extend(item.id for item in items)
        return answer(items)

    assert rows_of(tmp_path, work=work) == rows_of(None)
    assert done[0] == "q8" and len(done) == 15


def test_a_changed_key_starts_over_keeps_the_old_results_and_names_the_change(tmp_path, capsys):
    rows_of(tmp_path, key={"sampling": {"temperature": 1.0}})
    with Run(tmp_path) as run:
        list(run.map("ask", ITEMS, lambda items: ["new" for _ in items], key={"sampling": {"temperature": 0.7}}))
    assert "sampling.temperature (1.0 -> 0.7)" in capsys.readouterr().err
    assert rows_of(tmp_path, key={"sampling": {"temperature": 1.0}}, work=forbidden) == rows_of(None)


def test_changed_inserted_removed_and_reordered_items_cost_only_themselves(tmp_path):
    rows_of(tmp_path)
    items = [("new", {"text": "new", "n": 1}), *reversed(ITEMS[5:])]
    items[3] = (items[3][0], {"text": "changed", "n": 2})
    done = []

    def work(items):
        done.extend(item.id for item in items)
        return answer(items)

    assert rows_of(tmp_path, items=items, work=work) == rows_of(None, items=items)
    assert done == ["new", items[3][0]]
    assert rows_of(tmp_path, work=forbidden) == rows_of(None), "the old contents are still there"


def test_every_row_in_is_a_row_out_or_a_named_loss(tmp_path):
    with Run(tmp_path, quiet=True) as run:
        rows = list(run.map("ask", ITEMS, answer, key={}))
        table = run.finish()
    lost = [json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert lost == [{"id": f"q{n}", "stage": "ask", "reason": "sevens"} for n in (0, 7, 14, 21)]
    assert len(rows) + len(lost) == len(ITEMS)
    (stage,) = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert {name: stage[name] for name in ("name", "in", "out", "lost")} == {
        "name": "ask",
        "in": 23,
        "out": 19,
        "lost": {"sevens": 4},
    }
    assert table.splitlines()[0].split() == ["stage", "in", "out", "lost", "seconds"]
    assert table.splitlines()[1].split()[:4] + table.splitlines()[1].split()[5:] == ["ask", "23", "19", "4", "4", "sevens"]


def test_lost_rows_of_all_stages_are_listed_by_stage(tmp_path):
    with Run(tmp_path, quiet=True) as run:
        first = run.map("ask", ITEMS, answer, key={}, batch_size=3)
        second = run.map(
            "check",
            ((row.id, row.value) for row in first),
            lambda items: [Lost("odd") if i.value["n"] % 2 else 1 for i in items],
            key={},
        )
        assert len(list(second)) == 10
        run.finish()
    lost = [json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in lost] == ["ask"] * 4 + ["check"] * 9


def test_lost_rows_stay_lost_until_they_are_asked_for_again(tmp_path):
    rows_of(tmp_path)
    assert len(rows_of(tmp_path, work=forbidden)) == 19
    again = rows_of(tmp_path, work=lambda items: ["found" for _ in items], retry_lost=True)
    assert [row.id for row in again] == [id for id, _ in ITEMS]
    assert again[7].result == "found"
    assert rows_of(tmp_path, work=forbidden) == again, "the later outcome counts"


def test_a_stage_left_early_cannot_be_finished(tmp_path):
    with Run(tmp_path, quiet=True) as run:
        next(run.map("ask", ITEMS, answer, key={}))
        with pytest.raises(RecipeError, match="was left after 1 rows"):
            run.finish()
    assert not (tmp_path / "lost.jsonl").exists()


@pytest.mark.parametrize(
    ("items", "work", "message"),
    [
        ([("a", 1), ("b", 2), ("a", 3)], lambda items: [0] * len(items), r"'a' came twice \(item 3\)"),
        ([("", 1)], lambda items: [0], "an id is a string that is not empty"),
        ([(3, 1)], lambda items: [0], "an id is a string that is not empty, got 3"),
        ([("a", {1, 2})], lambda items: [0], "item 'a': the value is not JSON"),
        ([("a", 1)], lambda items: [{"text": b"bytes"}], "item 'a': the result is not JSON"),
        ([("a", 1)], lambda items: [float("nan")], "item 'a': the result is not JSON"),
        ([("a", 1), ("b", 2)], lambda items: [0], r"2 items went in \(first 'a'\) and 1 results came"),
    ],
)
def test_what_would_corrupt_the_accounts_is_an_error_that_names_the_row(tmp_path, items, work, message):
    with pytest.raises(RecipeError, match=message):
        rows_of(tmp_path, items=items, work=work)


@pytest.mark.parametrize("name", ["", "Ask", "a/b", "../x"])
def test_a_stage_name_is_a_plain_file_name(name):
    with Run(None, quiet=True) as run, pytest.raises(RecipeError, match="stage name"):
        run.map(name, ITEMS, answer, key={})


def test_two_stages_of_one_name_are_refused():
    with Run(None, quiet=True) as run:
        run.map("ask", ITEMS, answer, key={})
        with pytest.raises(RecipeError, match="mapped twice"):
            run.map("ask", ITEMS, answer, key={})
