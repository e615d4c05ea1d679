"""Records: the schema, its files and its translations."""

from distill.records.schema import Message, Polarity, Prompt, Record, Role, Span

__all__ = ["Message", "Polarity", "Prompt", "Record", "Role", "Span"]
