"""Files of records: exact round trips, bounded memory, whole files or none, and a message of its own for every broken file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from record_strategies import a_record, record_lists

from distill.errors import RecordError
from distill.records import Record, Span, read_records, record_line, record_to_json, validate_files, verify, write_records
from distill.records import files as files_module


def lines(count: int, first: int = 1) -> bytes:
    return b"".join(record_line(a_record(n)).encode() + b"\n" for n in range(first, first + count))


def some(count: int) -> Iterator[Record]:
    return (a_record(n) for n in range(1, count + 1))


@settings(max_examples=20, deadline=None)
@given(record_lists())
def test_jsonl_to_parquet_to_jsonl_is_the_same_bytes(records: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(records, folder / "a.jsonl")
        write_records(read_records(folder / "a.jsonl"), folder / "b.parquet")
        write_records(read_records(folder / "b.parquet"), folder / "c", format="jsonl", rows_per_shard=2)
        write_records(read_records(folder / "c"), folder / "d.jsonl")
        assert list(read_records(folder / "b.parquet")) == records
        assert (folder / "a.jsonl").read_bytes() == (folder / "d.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "folder"])
def test_writing_the_same_records_twice_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    first = write_records(some(50), tmp_path / name)
    assert write_records(some(50), tmp_path / name).shards == first.shards
    assert list(read_records(tmp_path / name)) == list(some(50))


def test_rows_over_row_groups_and_shards_are_all_there_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.records.parquet.ROW_GROUP_ROWS", 7)
    manifest = write_records(some(100), tmp_path / "out", rows_per_shard=30)
    assert [(shard.name, shard.rows) for shard in manifest.shards] == [
        ("part-00000-of-00004.parquet", 30),
        ("part-00001-of-00004.parquet", 30),
        ("part-00002-of-00004.parquet", 30),
        ("part-00003-of-00004.parquet", 10),
    ]
    assert (manifest.rows, manifest.counts, manifest.groups) == (100, {"positive": 50, "negative": 50}, 50)
    assert list(read_records(tmp_path / "out")) == list(some(100))
    assert verify(tmp_path / "out") == manifest


def test_long_responses_end_a_row_group_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("distill.records.parquet.ROW_GROUP_CHARACTERS", 5000)
    write_records((a_record(n, response="x" * 3000) for n in range(10)), tmp_path / "a.parquet")
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 5


def test_the_parquet_types_are_fixed_whatever_the_records_hold(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_records([a_record(1)], tmp_path / "plain.parquet")
    rich = a_record(1, spans=(Span(start=0, end=2, polarity="negative"),), evidence={"votes": 3}, source="s", weight=2)
    write_records([rich], tmp_path / "rich.parquet")
    plain_schema = pq.read_schema(tmp_path / "plain.parquet")
    assert plain_schema == pq.read_schema(tmp_path / "rich.parquet")
    assert str(plain_schema.field("evidence").type) == "string"
    assert pq.read_table(tmp_path / "rich.parquet").to_pylist() == [{**record_to_json(rich), "evidence": '{"votes":3}'}]


def test_parquet_from_other_programs_is_read_where_its_kinds_fit(tmp_path: Path) -> None:
    import datasets

    rows = [{**record_to_json(record), "evidence": "{}"} for record in some(4)]
    features = datasets.Features(
        {
            **{name: datasets.Value("large_string") for name in ("id", "group", "response", "source", "evidence", "polarity")},
            "prompt": datasets.List({"content": datasets.Value("string"), "role": datasets.Value("string")}),
            "weight": datasets.Value("float32"),
            "spans": datasets.List(
                {
                    "start": datasets.Value("int32"),
                    "end": datasets.Value("int32"),
                    "polarity": datasets.Value("string"),
                    "weight": datasets.Value("float32"),
                }
            ),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "hub.parquet"))
    assert list(read_records(tmp_path / "hub.parquet")) == list(some(4))


def test_a_hand_written_file_may_lack_the_last_newline_and_hold_blank_lines_and_windows_newlines(tmp_path: Path) -> None:
    text = lines(3).decode().replace("\n", "\r\n\r\n").rstrip()
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    assert list(read_records(tmp_path / "a.jsonl")) == list(some(3))


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    record = a_record(1, response="one\u2028two\u0085three\x0cfour")
    (tmp_path / "a.jsonl").write_text(record_line(record) + "\n", encoding="utf-8", newline="")
    assert list(read_records(tmp_path / "a.jsonl")) == [record]


# --- broken files

LATIN1 = lines(1) + record_line(a_record(2, response="Café")).encode("latin-1") + b"\n" + lines(1, 3)
HEBREW_1255 = record_line(a_record(1, response="ירושלים")).encode("cp1255") + b"\n"
BROKEN = {
    "a torn last line": (lines(3)[:-20], ":3: last line is torn: ", "remove the line"),
    "a last line torn inside a letter": (
        lines(1) + record_line(a_record(2, response="שלום")).encode().split("ו".encode())[0] + b"\xd7",
        ":2: last line is torn",
        "remove",
    ),
    "an empty file": (b"", ": file is empty, expected one record on each line", "stopped early"),
    "only blank lines": (b"\n \n", ": file is empty, expected one record on each line", "stopped early"),
    "a UTF-8 BOM": (b"\xef\xbb\xbf" + lines(2), ":1: opens with a byte order mark", "save as UTF-8 without BOM"),
    "files joined with their BOMs": (lines(1) + b"\xef\xbb\xbf" + lines(1, 2), ":2: opens with a byte order mark", "joined"),
    "UTF-16 with its BOM": (lines(2).decode().encode("utf-16"), ":1: file is UTF-16", "iconv -f UTF-16 -t UTF-8 a.jsonl"),
    "UTF-16 without a BOM": (lines(1).decode().encode("utf-16-le"), ":1: holds NUL bytes", "iconv -f UTF-16LE"),
    "Latin-1 among UTF-8": (LATIN1, ":2: byte 0xe9 (the line's byte ", "is not UTF-8: the line is in another encoding"),
    "Hebrew in windows-1255": (HEBREW_1255, ":1: byte 0xe9 (the line's byte ", "windows-1255"),
    "a JSON array": (json.dumps([record_to_json(a_record(1))]).encode() + b"\n", ":1: got [{", "expected a record: an object"),
    "an indented JSON array": (json.dumps([1], indent=1).encode(), ":1: opens with '[': a JSON array", "jq -c '.[]'"),
    "two records on one line": (lines(2).replace(b"\n", b"", 1), ":1: line is not JSON: Extra data at column", "break it"),
    "a missing comma": (b'{"id" "a"}\n', ":1: line is not JSON: Expecting ':' delimiter at column 7", "repair or remove"),
    "a key twice": (b'{"id":"a","id":"b"}\n', ":1: id: appears twice in one object", "keep one"),
    "a wrong type": (lines(1).replace(b'"City 1"', b"1"), ":1: response: got 1, expected text", "between quotes"),
    "a NaN weight": (lines(1).replace(b"1.0", b"NaN"), ":1: weight: got nan, expected a finite number", "division"),
    "a weight that overflows": (lines(1).replace(b"1.0", b"1e999"), ":1: weight: got inf, expected a finite number", "division"),
    "a span past the end": (
        lines(1).replace(b'"spans":[]', b'"spans":[{"start":0,"end":7,"polarity":"negative"}]'),
        ":1: spans[0]: [0, 7) ends past the response (6 code points)",
        "not tokens",
    ),
    "a number without end": (b'{"id":' + b"1" * 5000 + b"}\n", ":1: line holds a number that cannot be read", "write it as text"),
    "nesting without end": (b'{"id":' + b"[" * 100_000 + b"\n", ":1: nested too deeply to read", "flatten"),
}


@pytest.mark.parametrize(("content", "start", "remedy"), BROKEN.values(), ids=BROKEN.keys())
def test_each_broken_file_has_its_own_message_with_file_line_and_remedy(
    tmp_path: Path, content: bytes, start: str, remedy: str
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        list(read_records(file))
    message = str(caught.value)
    assert message.startswith(f"{file}{start}")
    assert remedy in message
    assert validate_files(file).errors[0] == message


def test_a_line_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.records.jsonl.LINE_LIMIT", 2**20)
    (tmp_path / "a.jsonl").write_bytes(lines(1) + b" " * 2**21 + lines(1))
    with pytest.raises(RecordError, match="a.jsonl:2: line is longer than 1 MiB"):
        list(read_records(tmp_path / "a.jsonl"))


def parquet_bytes(tmp_path: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [change({**record_to_json(record), "evidence": "{}"}) for record in some(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


PARQUET_BREACHES = {
    "a NaN weight": ({"weight": float("nan")}, ": row 1: weight: got nan"),
    "a null response": ({"response": None}, ": column response: has type null, expected string; cast it"),
    "a weight of text": ({"weight": "1"}, ": column weight: has type string, expected double; cast it"),
    "a prompt of text": ({"prompt": "Hi"}, ": column prompt: has type string, expected list<"),
    "an unknown column": ({"label": True}, ": column label: unknown; a record has id, group"),
    "evidence that is not JSON": ({"evidence": "{"}, ": row 1: evidence: is not JSON"),
    "evidence that is a list": ({"evidence": "[]"}, ": row 1: evidence: got [], expected an object"),
    "a span past the end": (
        {"spans": [{"start": 0, "end": 9, "polarity": "negative", "weight": 1.0}]},
        ": row 1: spans[0]: [0, 9) ends past",
    ),
}


@pytest.mark.parametrize(("change", "start"), PARQUET_BREACHES.values(), ids=PARQUET_BREACHES.keys())
def test_a_broken_parquet_row_or_column_is_named(tmp_path: Path, change: dict[str, object], start: str) -> None:
    file = parquet_bytes(tmp_path, lambda row: {**row, **change})
    with pytest.raises(RecordError) as caught:
        list(read_records(file))
    assert str(caught.value).startswith(f"{file}{start}")


def test_a_missing_parquet_column_is_named(tmp_path: Path) -> None:
    file = parquet_bytes(tmp_path, lambda row: {name: value for name, value in row.items() if name != "group"})
    with pytest.raises(RecordError, match="column group: missing; a record needs id, group"):
        list(read_records(file))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "middle"])
def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.parquet"
    write_records((a_record(n, response=os.urandom(200).hex()) for n in range(200)), file)
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes(
        {"cut": whole[:-100], "empty": b"", "text": lines(2), "middle": whole[:half] + bytes(2000) + whole[half + 2000 :]}[damage]
    )
    expected = "file is empty" if damage == "empty" else "not a whole Parquet file"
    with pytest.raises(RecordError, match=rf"{re.escape(str(file))}: {expected}.*write the file again"):
        list(read_records(file))


def test_a_parquet_file_without_rows_is_an_error(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from distill.records.parquet import schema

    pq.write_table(schema().empty_table(), tmp_path / "a.parquet")
    with pytest.raises(RecordError, match="file holds no rows"):
        list(read_records(tmp_path / "a.parquet"))


# --- paths and folders


def test_a_path_with_nothing_to_read_is_refused_before_the_first_row_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file or folder; expected a .jsonl file"):
        read_records(tmp_path / "no.jsonl")
    (tmp_path / "a.csv").write_text("id\n")
    with pytest.raises(RecordError, match=r"unknown file extension '.csv', expected .jsonl or .parquet"):
        read_records(tmp_path / "a.csv")
    with pytest.raises(RecordError, match=r"folder without shards: .* found a.csv"):
        read_records(tmp_path)
    assert "folder without shards" in validate_files(tmp_path).errors[0]


def test_a_folder_that_is_not_one_whole_set_of_shards_is_refused(tmp_path: Path) -> None:
    write_records(some(9), tmp_path / "out", rows_per_shard=3)
    (tmp_path / "out" / "README.md").write_text("not a shard")
    assert len(list(read_records(tmp_path / "out"))) == 9
    (tmp_path / "out" / "part-00001-of-00003.parquet").unlink()
    with pytest.raises(RecordError, match="not one whole set: 2 files of a set of 3"):
        read_records(tmp_path / "out")
    (tmp_path / "out" / "more.jsonl").write_bytes(lines(1))
    with pytest.raises(RecordError, match="shards of two formats"):
        read_records(tmp_path / "out")


def test_shards_of_any_name_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(lines(2, 3))
    (tmp_path / "a.jsonl").write_bytes(lines(2, 1))
    (tmp_path / ".c.jsonl").write_bytes(b"hidden")
    assert list(read_records(tmp_path)) == list(some(4))


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    refusals = [
        ("no records", lambda: write_records([], tmp_path / "a.jsonl")),
        ("unknown file extension '.json'", lambda: write_records(some(1), tmp_path / "a.json")),
        ("contradicts the extension", lambda: write_records(some(1), tmp_path / "a.jsonl", format="parquet")),
        ("rows_per_shard is for a folder", lambda: write_records(some(1), tmp_path / "a.jsonl", rows_per_shard=5)),
        ("rows_per_shard: got 0", lambda: write_records(some(1), tmp_path / "out", rows_per_shard=0)),
        ("id 'r1' is used by 2 records", lambda: write_records([*some(3), a_record(1)], tmp_path / "a.parquet")),
    ]
    for message, write in refusals:
        with pytest.raises(RecordError, match=message):
            write()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_foreign_file_in_the_folder_is_never_removed_nor_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(lines(1))
    with pytest.raises(RecordError, match=r"mine.jsonl: is in the way"):
        write_records(some(2), tmp_path)
    assert (tmp_path / "mine.jsonl").read_bytes() == lines(1)


def test_a_folder_can_be_written_from_its_own_records(tmp_path: Path) -> None:
    write_records(some(10), tmp_path / "out", rows_per_shard=3)
    write_records((r for r in read_records(tmp_path / "out") if r.polarity == "positive"), tmp_path / "out", rows_per_shard=4)
    assert [record.id for record in read_records(tmp_path / "out")] == ["r1", "r3", "r5", "r7", "r9"]
    verify(tmp_path / "out")


# --- whole or not at all


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "out"])
def test_a_source_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path, name: str) -> None:
    def failing() -> Iterator[Record]:
        yield from some(20)
        raise KeyboardInterrupt

    write_records(some(3), tmp_path / name)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(KeyboardInterrupt):
        write_records(failing(), tmp_path / name)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_stop_between_two_shards_leaves_a_folder_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    write_records(some(9), tmp_path, rows_per_shard=3)
    replace, calls = os.replace, []

    def stopping(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files_module.os, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_records((a_record(n, response="new") for n in range(9)), tmp_path, rows_per_shard=3)
    with pytest.raises(RecordError, match="not one whole set|folder without shards"):
        read_records(tmp_path)
    with pytest.raises(RecordError, match="no manifest"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "out"])
def test_a_killed_writer_leaves_no_file_under_its_own_name_and_the_next_one_cleans_up(tmp_path: Path, name: str) -> None:
    code = f"""
        import itertools, sys
        from distill.records import Message, Record, write_records
        ask = (Message(role="user", content="?"),)
        def endless():
            for n in itertools.count():
                yield Record(id=str(n), group="g", prompt=ask, response="x" * 500, polarity="positive")
                if n == 20_000:
                    print("writing", flush=True)
        write_records(endless(), {str(tmp_path / name)!r}{", rows_per_shard=5000" if name == "out" else ""})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    home = tmp_path / "out" if name == "out" else tmp_path
    left = [file.name for file in home.iterdir()]
    assert left
    assert all(file.startswith(".") for file in left)
    write_records(some(4), tmp_path / name)
    assert list(read_records(tmp_path / name)) == list(some(4))
    assert not [file for file in home.iterdir() if file.name.startswith(".")]


# --- validation


def test_validation_reports_every_error_with_its_place_and_counts_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(2) + b'{"id": 1}\n' + lines(1, 3).replace(b"1.0", b"-1"))
    (tmp_path / "b.jsonl").write_bytes(lines(2, 5) + LATIN1.splitlines()[1] + b"\n" + lines(1, 2) + lines(1, 7)[:-9])
    report = validate_files(tmp_path)
    assert [error[len(str(tmp_path)) + 1 :][:24] for error in report.errors] == [
        "a.jsonl:3: group: missin",
        "a.jsonl:4: weight: got -",
        "b.jsonl:3: byte 0xe9 (th",
        "b.jsonl:5: last line is ",
        "b.jsonl:4: id: 'r2' is u",
    ]
    assert f"'r2' is used 2 times, first at {tmp_path / 'a.jsonl'}:2" in report.errors[-1]
    assert (report.rows, report.counts, report.groups, report.files) == (5, {"positive": 2, "negative": 3}, 2, 2)
    assert not report.ok
    assert not report.stopped
    assert str(report).startswith("5 records (2 positive, 3 negative) in 2 groups, 2 files: 5 errors\n")


def test_validation_stops_after_as_many_errors_as_asked_for_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 30)
    report = validate_files(tmp_path / "a.jsonl", max_errors=7)
    assert (len(report.errors), report.stopped) == (7, True)
    (tmp_path / "b.jsonl").write_bytes(b"{}\n" * 7)
    report = validate_files(tmp_path / "b.jsonl", max_errors=7)
    assert (len(report.errors), report.stopped) == (7, False)
    with pytest.raises(RecordError, match="max_errors: got 0"):
        validate_files(tmp_path, max_errors=0)


def test_ids_used_in_two_parquet_shards_are_found(tmp_path: Path) -> None:
    write_records(some(5), tmp_path / "a.parquet")
    write_records((a_record(n) for n in range(4, 9)), tmp_path / "b.parquet")
    report = validate_files(tmp_path)
    assert [error[len(str(tmp_path)) + 1 :] for error in report.errors] == [
        f"b.parquet: row 1: id: 'r4' is used 2 times, first at {tmp_path}/a.parquet: row 4; give each record its own",
        f"b.parquet: row 2: id: 'r5' is used 2 times, first at {tmp_path}/a.parquet: row 5; give each record its own",
    ]


def test_good_files_validate_without_errors(tmp_path: Path) -> None:
    write_records(some(6), tmp_path / "out", format="jsonl")
    report = validate_files(tmp_path / "out")
    assert report.ok
    assert str(report) == "6 records (3 positive, 3 negative) in 3 groups, 1 files: no errors"


# --- memory

MEASURE = """
    import sys
    from distill.records import Message, Record, read_records, validate_files, write_records
    def rows(count):
        for n in range(count):
            ask = (Message(role="user", content=f"What is the capital of land {n // 2}? " + "x" * width),)
            yield Record(id=f"record-{n}", group=f"land-{n // 2}", prompt=ask, response=f"City {n}",
                         polarity="negative" if n % 2 else "positive", evidence={"samples": [str(n)] * 4})
    count, width, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    write_records(rows(count), path)
    assert sum(1 for _ in read_records(path)) == count
    assert validate_files(path).groups == count // 2
    # VmHWM and not ru_maxrss: the latter starts at the size of the process that started this one
    print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


def peak_mib(path: Path, rows: int, *, width: int) -> int:
    """Peak resident memory (MiB) of writing, reading and validating rows with prompts of about `width` characters."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(rows), str(width), str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
@pytest.mark.parametrize("name", ["a.jsonl", "out"])
def test_memory_does_not_grow_with_rows(tmp_path: Path, name: str) -> None:
    small, large = (peak_mib(tmp_path / str(rows) / name, rows, width=2000) for rows in (10_000, 60_000))
    # 50,000 more records held in memory would be 150 MiB more. Measured: 3 (JSONL), 10 to 32 (Parquet, by its allocator).
    assert large < small + 50, f"{small} MiB for 10,000 rows, {large} MiB for 60,000"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
@pytest.mark.parametrize("name", ["out"])  # JSONL, with no row groups, needs less: 49 MiB
def test_a_million_rows_take_well_under_a_gigabyte(tmp_path: Path, name: str) -> None:
    started = time.monotonic()
    peak = peak_mib(tmp_path / name, 1_000_000, width=200)
    print(f"{name}: {peak} MiB, {time.monotonic() - started:.0f} s")
    assert peak < 500
