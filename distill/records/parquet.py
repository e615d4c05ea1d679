"""One Parquet file of records: an explicit schema with evidence as JSON text, read and written in bounded pieces.

pyarrow is imported inside the functions: naming records must not cost half a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import RecordError
from distill.records.schema import FIELDS, REQUIRED, Record, record_from_json, record_to_json

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 8192
ROW_GROUP_CHARACTERS = 16 * 2**20  # long responses end a row group earlier: a reader holds one row group in memory
READ_ROWS = 1024
_REWRITE = "write the file again with distill.records.write_records"


def rows(file: Path) -> Iterator[tuple[int, Record | RecordError]]:
    """Each row's number (the first is 1) with its record, or with what is wrong with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.stat().st_size == 0:
        yield 1, RecordError(f"{file}: file is empty, expected Parquet; the program that wrote it stopped early: {_REWRITE}")
        return
    number = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as table:
            problem = _schema_problem(table.schema_arrow)
            if problem:
                yield 1, RecordError(f"{file}: {problem}")
                return
            for batch in table.iter_batches(batch_size=READ_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _record(row, f"{file}: row {number}")
    except UnicodeDecodeError as error:
        yield number + 1, RecordError(f"{file}: a text after row {number} is not UTF-8 ({error.reason}); {_REWRITE}")
        return
    except (pa.ArrowException, OSError) as error:  # OSError is how pyarrow reports a page that does not decompress
        cause = str(error).splitlines()[0]
        yield number + 1, RecordError(f"{file}: not a whole Parquet file: damaged after row {number} ({cause}); {_REWRITE}")
        return
    if number == 0:
        yield 1, RecordError(f"{file}: file holds no rows, expected at least one record; the program that wrote it had none")


def schema() -> pa.Schema:
    """The Arrow schema of a file of records: no column is ever null, and no type is guessed from the data."""
    import pyarrow as pa

    text = pa.string()
    message = pa.struct([pa.field("role", text, nullable=False), pa.field("content", text, nullable=False)])
    span = pa.struct(
        [
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("polarity", text, nullable=False),
            pa.field("weight", pa.float64(), nullable=False),
        ]
    )
    types: dict[str, pa.DataType] = {
        "prompt": pa.list_(pa.field("element", message, nullable=False)),
        "weight": pa.float64(),
        "spans": pa.list_(pa.field("element", span, nullable=False)),
    }
    return pa.schema([pa.field(name, types.get(name, text), nullable=False) for name in FIELDS])


class ParquetWriter:
    """Writes records to one file, a row group at a time."""

    def __init__(self, file: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = schema()
        self._stream = file.open("wb")
        self._writer = pq.ParquetWriter(self._stream, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def write(self, record: Record) -> None:
        row = record_to_json(record)
        row["evidence"] = json.dumps(row["evidence"], ensure_ascii=False, separators=(",", ":"))
        self._rows.append(row)
        self._characters += len(row["evidence"]) + len(record.response) + sum(len(message.content) for message in record.prompt)
        if len(self._rows) == ROW_GROUP_ROWS or self._characters >= ROW_GROUP_CHARACTERS:
            self._end_row_group()

    def close(self) -> None:
        """Write the footer and bring everything to the disk."""
        if self._rows:
            self._end_row_group()
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def abort(self) -> None:
        """Let go of the file without caring for its content."""
        self._writer.close()
        self._stream.close()

    def _end_row_group(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        self._characters = 0


def _record(row: dict[str, Any], where: str) -> Record | RecordError:
    evidence = row.get("evidence")
    if isinstance(evidence, str):
        try:
            row["evidence"] = json.loads(evidence)
        except (ValueError, RecursionError) as error:
            return RecordError(f"{where}: evidence: is not JSON ({error}); store json.dumps(evidence), or '{{}}' for none")
    try:
        return record_from_json(row, where)
    except RecordError as error:
        return error


def _schema_problem(found: pa.Schema) -> str | None:
    """What keeps a table's columns from being a record's, in words."""
    import pyarrow as pa

    for name in found.names:
        if name not in FIELDS:
            return f"column {name}: unknown; a record has {', '.join(FIELDS)}; drop it or move it into evidence (JSON text)"
    for name in REQUIRED:
        if name not in found.names:
            return f"column {name}: missing; a record needs {', '.join(REQUIRED)}; add it, or use distill.records.from_trl"
    for field in schema():
        if field.name in found.names and not _same_kind(found.field(field.name).type, field.type, pa):
            return f"column {field.name}: has type {found.field(field.name).type}, expected {field.type}; cast it"
    return None


def _same_kind(found: pa.DataType, expected: pa.DataType, pa: Any) -> bool:
    """Whether a column holds the kind of value expected, in whatever width another program chose."""
    if pa.types.is_list(expected):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        # a program that guesses types from rows whose spans are all empty writes lists of null
        return bool(listed and (pa.types.is_struct(found.value_type) or pa.types.is_null(found.value_type)))
    if pa.types.is_floating(expected):
        return bool(pa.types.is_floating(found) or pa.types.is_integer(found))
    if pa.types.is_dictionary(found):
        found = found.value_type
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))
