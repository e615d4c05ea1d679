"""One JSONL file: UTF-8, one record on each line; every way in which such a file goes wrong has its own message."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import RecordError
from distill.records.schema import Record, record_from_json, record_line

LINE_LIMIT = 64 * 2**20  # bytes; a longer line is some other format read as lines, and would fill the memory
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def rows(file: Path) -> Iterator[tuple[int, Record | RecordError]]:
    """Each line's number (the first is 1) with its record, or with what is wrong with it. Blank lines hold no row.

    A file in the wrong encoding ends at its first wrong line where nothing after it can be read either (UTF-16).
    """
    seen = False
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LINE_LIMIT), b""), start=1):
            where = f"{file}:{number}"
            if len(line) == LINE_LIMIT:
                yield number, RecordError(f"{where}: line is longer than {LINE_LIMIT >> 20} MiB; put one record on each line")
                return
            if line.isspace():
                continue
            seen = True
            if number == 1 and line.startswith(_UTF16_BOMS):
                remedy = _iconv(file, "UTF-16")
                yield number, RecordError(f"{where}: file is UTF-16 (by its byte order mark), expected UTF-8; {remedy}")
                return
            try:
                yield number, record_from_json(_parsed(file, line, where), where)
            except RecordError as error:
                yield number, error
    if not seen:
        yield 1, RecordError(f"{file}: file is empty, expected one record on each line; the program that wrote it stopped early")


class JsonlWriter:
    """Writes records to one file, line by line."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("wb")

    def write(self, record: Record) -> None:
        self._stream.write(record_line(record).encode() + b"\n")

    def close(self) -> None:
        """Bring everything to the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def abort(self) -> None:
        """Let go of the file without caring for its content."""
        self._stream.close()


def _parsed(file: Path, line: bytes, where: str) -> object:
    """The JSON value on one line.

    Raises:
        RecordError: the bytes are not UTF-8, or the text is not one JSON value.
    """
    if line.startswith(_UTF8_BOM):
        remedy = "save as UTF-8 without BOM" if where.endswith(":1") else "remove it where the two files were joined"
        raise RecordError(f"{where}: opens with a byte order mark (bytes EF BB BF), expected plain UTF-8; {remedy}")
    if b"\0" in line:
        raise RecordError(
            f"{where}: holds NUL bytes: text in UTF-16, or a block lost in a crash, expected UTF-8; "
            f"{_iconv(file, 'UTF-16LE')}, or cut the file before this line"
        )
    # A record ends with its closing brace, so a cut one can never parse: only the last line can lack its newline.
    torn = not line.endswith(b"\n")
    try:
        return _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        if torn and error.reason == "unexpected end of data":
            raise RecordError(_torn(where, line)) from None
        raise RecordError(
            f"{where}: byte 0x{line[error.start]:02x} (the line's byte {error.start + 1}) is not UTF-8: the line is in another "
            f"encoding, often windows-1252 or (Hebrew) windows-1255; {_iconv(file, 'WINDOWS-1252')}, each part before joining"
        ) from None
    except json.JSONDecodeError as error:
        if torn:
            raise RecordError(_torn(where, line)) from None
        if line.lstrip().startswith(b"["):
            raise RecordError(f"{where}: opens with '[': a JSON array, expected one object a line; use jq -c '.[]'") from None
        remedy = "two records on one line? break it between them" if error.msg == "Extra data" else "repair or remove the line"
        raise RecordError(f"{where}: line is not JSON: {error.msg} at column {error.colno}; {remedy}") from None
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
    except RecursionError:
        raise RecordError(f"{where}: nested too deeply to read; flatten the evidence") from None
    except ValueError as error:  # a whole number of more than 4300 digits
        raise RecordError(f"{where}: line holds a number that cannot be read ({error}); write it as text") from None


def _torn(where: str, line: bytes) -> str:
    return (
        f"{where}: last line is torn: {len(line)} bytes without an end, so the program that wrote it was stopped; "
        "remove the line (all before it is whole) or write the file again"
    )


def _iconv(file: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {file.name}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError(f"{twice}: appears twice in one object, and only one of the two could be read; keep one")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
