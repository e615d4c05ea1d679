"""Records as another trainer's files: its rows, the config that names them, and an account of what it cannot express.

TRL 1.16 (SFT, DPO, KTO; its process reward trainer was removed after 1.13), Axolotl and LLaMA-Factory. Every file is a stream
from the records; nothing is held but counts. What a format has no place for is `lost`, by reason; what it carries but does not
act on (spans and weights, for most) is `unused`, by reason.

Source: docs/reference/formats.md lists every column with the page or the loader it was read from.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from distill.errors import RecordError
from distill.records.export_configs import command_line, config_files, dataset_entry, dataset_name
from distill.records.files import read_records
from distill.records.manifest import MANIFEST_NAME, write_whole
from distill.records.schema import Message, Prompt, Record
from distill.records.trl import KEPT, KEPT_CHOSEN, KEPT_REJECTED, TrlFormat, to_trl

ExportFormat = Literal["trl-kto", "trl-dpo", "trl-sft", "trl-prm", "axolotl", "llamafactory"]
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)
REPORT_NAME = "export.json"
_SPANS = "spans: the whole response is trained"
_WEIGHT = "a weight other than 1: trained like the others"
_KEPT = frozenset((KEPT, KEPT_CHOSEN, KEPT_REJECTED))
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One data file: its rows, the records that it cannot express and what it does not act on, both by reason."""

    name: str
    objective: str
    rows: int
    lost: Mapping[str, int]
    unused: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote into its folder. command: what to type to train on it."""

    folder: Path
    files: tuple[ExportedFile, ...]
    configs: tuple[str, ...]
    commands: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for file in self.files:
            lines.append(f"{self.folder / file.name}: {file.rows} rows for {file.objective}")
            lines += [f"  lost {number}: {reason}" for reason, number in sorted(file.lost.items())]
            lines += [f"  not acted on {number}: {reason}" for reason, number in sorted(file.unused.items())]
        return "\n".join([*lines, *(f"{self.folder / name}" for name in self.configs), *(f"$ {one}" for one in self.commands)])


def export_records(
    source: str | os.PathLike[str], folder: str | os.PathLike[str], format: ExportFormat, *, model: str = "MODEL"
) -> Exported:
    """Write records as another tool's data files and config into a folder, and say what became of every record.

    source: a file or folder of records; preference rows need each group's records together. model: written into the configs.

    Axolotl and LLaMA-Factory get one file for each objective (sft, dpo, kto) that has any row; their configs name one each.

    Raises:
        RecordError: an unknown format, records that cannot be read, or records of which no row can be made.
    """
    if format not in EXPORT_FORMATS:
        raise RecordError(f"format: got {format!r}, expected one of {', '.join(EXPORT_FORMATS)}")
    source, folder = Path(source), Path(folder)
    if (folder / MANIFEST_NAME).exists():
        raise RecordError(f"{folder}: holds records of distill; give a folder of its own for the export")
    folder.mkdir(parents=True, exist_ok=True)
    tool, _, objective = format.partition("-")
    written = [_written(source, folder, tool, one) for one in ([objective] if objective else [*_OBJECTIVES])]
    files = [file for file in written if file.rows]
    if not files:
        reasons = "; ".join(f"{number} {reason}" for file in written for reason, number in file.lost.items())
        raise RecordError(
            f"{source}: no row could be made for {format} ({reasons or 'there are no records'}); choose another format"
        )
    configs = {name: text for file in files for name, text in config_files(tool, file.objective, file.name, folder, model)}
    if tool == "llamafactory":
        configs["dataset_info.json"] = (
            json.dumps({dataset_name(file.objective): dataset_entry(file.name, file.objective) for file in files}, indent=2)
            + "\n"
        )
    for name, text in configs.items():
        write_whole(folder / name, text)
    commands = tuple(command_line(tool, file.objective, folder) for file in files)
    exported = Exported(folder=folder, files=tuple(files), configs=tuple(sorted(configs)), commands=commands)
    report = [{"file": one.name, "rows": one.rows, "lost": dict(one.lost), "unused": dict(one.unused)} for one in written]
    about = {"format": format, "source": source.name, "files": report}
    write_whole(folder / REPORT_NAME, json.dumps(about, ensure_ascii=False, indent=2) + "\n")
    return exported


def write_rows(rows: Iterable[Mapping[str, Any]], target: Path) -> int:
    """Write JSON lines, whole or not at all, and return how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    written = 0
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                written += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)  # there only where a row could not be read or written
    return written


_OBJECTIVES: Mapping[str, TrlFormat] = {"sft": "prompt-completion", "dpo": "preference", "kto": "unpaired"}


def _written(source: Path, folder: Path, tool: str, objective: str) -> ExportedFile:
    lost: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    name = "train.jsonl" if tool == "trl" else f"{objective}.jsonl"
    by_tool: dict[str, Callable[[], Iterator[Row]]] = {
        "trl": lambda: _trl_rows(source, objective, lost, unused),
        "axolotl": lambda: _axolotl_rows(source, objective, lost, unused),
        "llamafactory": lambda: _llamafactory_rows(source, objective, lost, unused),
    }
    rows = write_rows(by_tool[tool](), folder / name)
    if not rows:
        (folder / name).unlink()
    return ExportedFile(name=name, objective=objective, rows=rows, lost=dict(lost), unused=dict(unused))


# --- TRL


def _trl_rows(source: Path, objective: str, lost: Counter[str], unused: Counter[str]) -> Iterator[Row]:
    format: TrlFormat = "stepwise" if objective == "prm" else _OBJECTIVES[objective]
    yield from to_trl(_noted(read_records(source), objective, unused), format, lost=lost, conversational=True)


def _noted(records: Iterable[Record], objective: str, unused: Counter[str]) -> Iterator[Record]:
    """The records, with what the objective will not act on counted on the way."""
    for record in records:
        if objective != "sft" or record.polarity == "positive":
            unused.update({_SPANS: 1} if record.spans and objective != "prm" else {})
            unused.update({_WEIGHT: 1} if record.weight != 1 or any(span.weight != 1 for span in record.spans) else {})
        yield record


# --- Axolotl


def _axolotl_rows(source: Path, objective: str, lost: Counter[str], unused: Counter[str]) -> Iterator[Row]:
    if objective == "sft":
        yield from _axolotl_sft(source, lost, unused)
        return
    for row in _trl_rows(source, objective, lost, unused):
        if objective == "dpo":
            yield {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}
            continue
        *system, asked = row["prompt"]
        if asked["role"] != "user" or [message["role"] for message in system] not in ([], ["system"]):
            lost["Axolotl's kto takes a system message and one user message"] += 1
            continue
        opened = {"system": system[0]["content"] if system else ""}
        yield {**opened, "prompt": asked["content"], "completion": row["completion"][0]["content"], "label": row["label"]}


def _axolotl_sft(source: Path, lost: Counter[str], unused: Counter[str]) -> Iterator[Row]:
    """Turns of which the last alone is trained, or its positive spans alone: the one format that has them (train_detail)."""
    for record in read_records(source):
        if record.polarity == "negative":
            lost["a negative response has no place in sft rows"] += 1
            continue
        prompt, start = _split(record.prompt)
        if not prompt:
            lost["a prompt of nothing but a started answer"] += 1
            continue
        if any(span.polarity == "negative" for span in record.spans):
            unused["negative spans of a positive response: left untrained"] += 1
        unused.update({_WEIGHT: 1} if record.weight != 1 or any(span.weight != 1 for span in record.spans) else {})
        stretches = [(span.start, span.end) for span in record.spans if span.polarity == "positive"]
        if not record.spans and start:
            stretches = [(0, len(record.response))]
        # Both offsets are inclusive there.
        detail = [{"begin_offset": len(start) + a, "end_offset": len(start) + b - 1, "train": True} for a, b in stretches]
        if record.spans and not detail:
            lost["a positive response without a positive span has nothing to train"] += 1
            continue
        turns = [{"role": message.role, "content": message.content, "train": False, "train_detail": None} for message in prompt]
        answer = {"role": "assistant", "content": start + record.response, "train": True, "train_detail": detail or None}
        yield {"messages": [*turns, answer]}


def _split(prompt: Prompt) -> tuple[Sequence[Message], str]:
    """A prompt and the started answer that it may end in."""
    return (prompt[:-1], prompt[-1].content) if prompt[-1].role == "assistant" else (prompt, "")


# --- LLaMA-Factory


def _llamafactory_rows(source: Path, objective: str, lost: Counter[str], unused: Counter[str]) -> Iterator[Row]:
    for row in _trl_rows(source, objective, lost, unused):
        asked = row["prompt"][1:] if row["prompt"][0]["role"] == "system" else row["prompt"]
        turns = [message["role"] for message in asked]
        # What breaks the alternation is skipped there with a warning; it is counted here.
        if len(turns) % 2 == 0 or not all(
            role == "assistant" if n % 2 else role in ("user", "tool") for n, role in enumerate(turns)
        ):
            lost["LLaMA-Factory takes a system message, then user and assistant in turn"] += 2 if objective == "dpo" else 1
        elif objective == "dpo":
            yield {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}
        else:
            labelled = {"label": row["label"]} if objective == "kto" else {}
            yield {"messages": [*row["prompt"], *row["completion"]], **labelled}
