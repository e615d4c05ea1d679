"""Records: the schema, its files and its translations."""

from distill.records.schema import (
    Message,
    Polarity,
    Prompt,
    Record,
    Role,
    Span,
    make_group,
    make_id,
    record_from_json,
    record_line,
    record_to_json,
)

__all__ = [
    "Message",
    "Polarity",
    "Prompt",
    "Record",
    "Role",
    "Span",
    "make_group",
    "make_id",
    "record_from_json",
    "record_line",
    "record_to_json",
]
