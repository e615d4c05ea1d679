"""`distill records`: validate, convert, print, export or upload record files, and look for overlap between them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.cli.arguments import count, positive, share
from distill.errors import RecordError

if TYPE_CHECKING:
    from distill.records import Record

# distill.records.trl.TRL_FORMATS; spelt out so that help needs no import (a test keeps them equal).
TRL_FORMATS = ("unpaired", "preference", "prompt-completion", "messages", "stepwise")
# distill.records.export.EXPORT_FORMATS, likewise.
EXPORT_FORMATS = ("trl-kto", "trl-dpo", "trl-sft", "trl-prm", "axolotl", "llamafactory")


def records_command(args: Sequence[str]) -> int:
    """Run `distill records ...`; validate gives exit code 1 where a file breaks the schema."""
    parser = argparse.ArgumentParser(
        prog="distill records", description="Validate, convert, print, export or upload record files."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    validate = actions.add_parser("validate", help="check every row; errors with file, line, field and remedy")
    validate.add_argument("paths", nargs="+", type=Path, metavar="RECORDS", help="files or folders, JSONL or Parquet")
    validate.add_argument("--max-errors", type=positive, default=20, metavar="N", help="stop after so many errors (default: 20)")
    convert = actions.add_parser("convert", help="between JSONL, Parquet, and TRL's columns")
    convert.add_argument(
        "source", type=Path, metavar="FROM", help="records (file or folder), or a .jsonl or .parquet file of TRL's rows"
    )
    convert.add_argument(
        "target", type=Path, metavar="TO", help="a .jsonl or .parquet file or a folder; a .jsonl file for TRL's rows"
    )
    convert.add_argument("--from", dest="source_form", choices=("records", "trl"), default="records", help="(default: records)")
    convert.add_argument(
        "--to", dest="target_form", choices=("records", *TRL_FORMATS), default="records", help="(default: records)"
    )
    head = actions.add_parser("head", help="print the first records as JSON lines")
    head.add_argument("source", type=Path, metavar="RECORDS", help="a file or folder")
    head.add_argument("-n", type=count, default=3, metavar="N", help="how many (default: 3)")
    export = actions.add_parser("export", help="rows and config for TRL, Axolotl or LLaMA-Factory")
    export.add_argument("source", type=Path, metavar="RECORDS", help="a file or folder")
    export.add_argument("--format", choices=EXPORT_FORMATS, required=True, help="whose files")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where they go")
    export.add_argument("--model", default="MODEL", help="to train, as the config names it (default: MODEL, to be filled in)")
    push = actions.add_parser("push", help="upload a folder of records to the Hugging Face hub, private unless told otherwise")
    push.add_argument("source", type=Path, metavar="RECORDS", help="a folder with its manifest")
    push.add_argument("repository", metavar="REPO", help="owner/name of a dataset, new or there")
    push.add_argument("--public", action="store_true", help="make a new repository public, and allow a public one")
    push.add_argument(
        "--token-env", default="HF_TOKEN", metavar="NAME", help="environment variable that holds the token (default: HF_TOKEN)"
    )
    push.add_argument("--message", default="", help="of the commit")
    overlap = actions.add_parser("overlap", help="near-duplicates in TRAIN, and what of TEST it holds")
    overlap.add_argument("train", metavar="TRAIN", help="records, or a .txt, .jsonl, .csv or .parquet of prompts")
    overlap.add_argument("test", metavar="TEST", nargs="?", help="the same kinds")
    overlap.add_argument("--threshold", type=share, default=0.8, help="Jaccard of near-duplicates, above 0 to 1 (default: 0.8)")
    overlap.add_argument("--ngram", type=positive, default=13, metavar="WORDS", help="shared words that count (default: 13)")
    overlap.add_argument(
        "--shingle", type=positive, default=5, metavar="LETTERS", help="of what the Jaccard is taken (default: 5)"
    )
    overlap.add_argument("--examples", type=count, default=20, metavar="N", help="pairs of each kind to list (default: 20)")
    overlap.add_argument("--out", type=Path, metavar="REPORT.json", help="where the whole account goes")
    options = parser.parse_args(args)
    if options.action == "export":
        from distill.records.export import export_records

        print(export_records(options.source, options.out, options.format, model=options.model))
        return 0
    if options.action == "push":
        from distill.records.push import push_records

        print(
            push_records(
                options.source, options.repository, public=options.public, token_env=options.token_env, message=options.message
            )
        )
        return 0
    if options.action == "overlap":
        _overlap(options)
        return 0
    if options.action == "validate":
        return _validate(options.paths, options.max_errors)
    if options.action == "convert":
        _convert(options.source, options.target, from_trl=options.source_form == "trl", to=options.target_form)
        return 0
    from distill.records import read_records, record_line

    for record in islice(read_records(options.source), options.n):
        print(record_line(record))
    return 0


def _validate(paths: Sequence[Path], max_errors: int) -> int:
    from distill.records import validate_files

    reports = [(path, validate_files(path, max_errors=max_errors)) for path in paths]
    for path, report in reports:
        print(f"{path}: {report}")
    return 0 if all(report.ok for _, report in reports) else 1


def _convert(source: Path, target: Path, *, from_trl: bool, to: Any) -> None:
    """Stream from one form to the other and print what was written and what could not be expressed."""
    from distill.records import read_records, trl, write_records

    lost: Counter[str] = Counter()
    records = _from_trl(source, lost) if from_trl else read_records(source)
    if to == "records":
        written = write_records(records, target).rows
    else:
        written = _write_jsonl(trl.to_trl(records, to, lost=lost), target)
    print(f"{target}: {written} rows")
    for reason, number in sorted(lost.items()):
        print(f"lost {number}: {reason}")


def _from_trl(path: Path, lost: Counter[str]) -> Iterator[Record]:
    """Records for a file of TRL's rows; what is wrong with a row is said with the file's name."""
    from distill.records import trl

    try:
        yield from trl.from_trl(_rows(path), lost=lost, source=path.name)
    except RecordError as error:
        if str(error).startswith(str(path)):
            raise
        raise RecordError(f"{path}: {error}") from error


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of TRL's columns."""
    if not path.is_file():
        raise RecordError(f"{path}: no such file; TRL's rows come as .jsonl or .parquet")
    if path.stat().st_size == 0:
        raise RecordError(f"{path}: file is empty, expected rows with TRL's columns; the program that wrote it stopped early")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise RecordError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); write it again") from error
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise RecordError(
                    f"{path}:{number}: not JSON in UTF-8 ({error}); each line is one object with TRL's columns"
                ) from error
            if not isinstance(row, dict):
                raise RecordError(f"{path}:{number}: expected an object, got {type(row).__name__}")
            yield row


def _write_jsonl(rows: Iterable[Mapping[str, Any]], target: Path) -> int:
    from distill.records.export import write_rows

    if target.suffix != ".jsonl":
        raise RecordError(f"{target}: TRL's rows are written as .jsonl; give a name that ends so")
    return write_rows(rows, target)


def _overlap(options: argparse.Namespace) -> None:
    """Print what repeats inside TRAIN, and what of TEST it holds; the whole account goes to --out."""
    from distill.recipes.overlap import Overlap, overlap_report

    settings = Overlap(threshold=options.threshold, ngram=options.ngram, shingle=options.shingle)
    report = overlap_report(options.train, options.test, settings, examples=options.examples)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report.to_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(report)
