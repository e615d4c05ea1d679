"""Records: the schema, its files and its translations."""

from distill.records.card import dataset_card, write_card
from distill.records.files import Report, read_records, validate_files, write_records
from distill.records.manifest import Manifest, Shard, read_manifest, verify, write_manifest
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
from distill.records.trl import TRL_FORMATS, TrlFormat, from_trl, to_trl

__all__ = [
    "TRL_FORMATS",
    "Manifest",
    "Message",
    "Polarity",
    "Prompt",
    "Record",
    "Report",
    "Role",
    "Shard",
    "Span",
    "TrlFormat",
    "dataset_card",
    "from_trl",
    "make_group",
    "make_id",
    "read_manifest",
    "read_records",
    "record_from_json",
    "record_line",
    "record_to_json",
    "to_trl",
    "validate_files",
    "verify",
    "write_card",
    "write_manifest",
    "write_records",
]
