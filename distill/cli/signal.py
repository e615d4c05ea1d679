"""`distill signal`: a teacher's signal on the records is computed once and stored; training then reads it."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.arguments import HelpFormatter, count, positive

if TYPE_CHECKING:
    from distill.render import Example
    from distill.teachers.signal_source import SignalSource
    from distill.teachers.signal_store import SignalManifest, SignalSettings


def signal_command(args: Sequence[str]) -> int:
    """Run `distill signal ...`."""
    options = _parser().parse_args(args)
    _check(options)
    from distill.models import load_tokenizer

    tokenizer = load_tokenizer(options.student)
    hashes, rows = _look_through(options.records)
    source = _source(options)
    settings = _settings(options, source, tokenizer, hashes)
    finished = _finished(options.out, settings)
    if finished is None:
        finished = _write(options, source, settings, tokenizer, rows)
    else:
        print(f"{options.out}: finished before, with the same settings; nothing was done", file=sys.stderr)
    print(_summary(options.out, finished))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distill signal",
        description="Compute what a teacher says about every supervised token of the records, and store it. Training reads it "
        "(model.teacher: StoredTeacher) instead of running the teacher. A run that was stopped goes on with the same command.",
        formatter_class=HelpFormatter,
    )
    given = {"default": argparse.SUPPRESS, "required": True}
    parser.add_argument("--teacher", metavar="MODEL", help="a hub name, a folder, or a server's http://host:8000/v1", **given)  # type: ignore[arg-type]
    parser.add_argument(
        "--records",
        nargs="+",
        metavar="FILE",
        help="JSONL or Parquet files, or folders: training and validation together",
        **given,  # type: ignore[arg-type]
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the signal goes", **given)  # type: ignore[arg-type]
    parser.add_argument(
        "--kind",
        choices=("exact", "top_k", "sampled", "token"),
        default="exact",
        help="exact: last hidden states and the teacher's head; top_k: the k most probable tokens and the mass of the rest; "
        "sampled: k draws, an unbiased estimate; token: log p of the records' own tokens, a reference for DPO and NPO",
    )
    parser.add_argument("--k", type=positive, default=64, help="of top_k: tokens kept; of sampled: draws")
    parser.add_argument(
        "--student", metavar="MODEL", help="whose tokenizer and chat template render the records (default: the teacher's)"
    )
    parser.add_argument(
        "--max_tokens", type=count, default=1024, metavar="N", help="as data.max_tokens of the training; 0 sets no limit"
    )
    parser.add_argument("--turns", choices=("last", "all"), default="last", help="as data.turns of the training")
    parser.add_argument("--batch_size", type=positive, metavar="N", help="records read together (default: 16; of a server 64)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the teacher's weights and all it computes",
    )
    parser.add_argument(
        "--store_dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="of hidden states and of top-k log-probabilities",
    )
    parser.add_argument("--seed", type=count, default=0, help="of the draws (sampled)")
    parser.add_argument("--device", default="auto", help="auto: the accelerator where there is one")
    parser.add_argument(
        "--shard_mb", type=positive, default=64, metavar="MB", help="size of a file; a stopped run repeats less than one"
    )
    server = parser.add_argument_group("a server as the teacher")
    server.add_argument("--teacher_model", metavar="NAME", help="the model's name on the server")
    server.add_argument("--api_key_env", metavar="VARIABLE", help="environment variable that holds the API key")
    server.add_argument("--concurrency", type=positive, default=8, metavar="N", help="requests at once")
    server.add_argument("--retries", type=count, default=8, metavar="N", help="of a request that failed")
    server.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="of one try")
    return parser


def _check(options: argparse.Namespace) -> None:
    from distill.errors import ConfigError

    options.remote = options.teacher.startswith(("http://", "https://"))
    if options.remote and not (options.student and options.teacher_model):
        raise ConfigError("a server as the teacher needs --teacher_model (its name there) and --student (for the tokenizer)")
    if not options.remote and (options.teacher_model or options.api_key_env):
        raise ConfigError(
            f"--teacher_model and --api_key_env are for a server, and --teacher {options.teacher!r} is no http address"
        )
    options.student = options.student or options.teacher
    options.max_tokens = options.max_tokens or None
    options.batch_size = options.batch_size or (64 if options.remote else 16)


def _source(options: argparse.Namespace) -> SignalSource:
    if options.remote:
        from distill.teachers.prompt_logprobs import PromptLogprobs

        server = PromptLogprobs(
            url=options.teacher,
            model=options.teacher_model,
            student=options.student,
            kind=options.kind,
            k=options.k,
            store_dtype=options.store_dtype,
            key_variable=options.api_key_env,
            concurrency=options.concurrency,
            retries=options.retries,
            timeout=options.timeout,
        )
        server.probe()
        return server
    from distill.teachers.signal_source import LocalSource

    return LocalSource(
        teacher=options.teacher,
        student=options.student,
        kind=options.kind,
        k=options.k,
        dtype=options.dtype,
        store_dtype=options.store_dtype,
        seed=options.seed,
        device=options.device,
    )


def _look_through(paths: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """SHA-256 of every file of records, and how many records there are; what is wrong with them is known before the work."""
    from distill.errors import RecordError
    from distill.records import read_records
    from distill.records.files import SUFFIXES
    from distill.records.manifest import sha256_of
    from distill.teachers.signal_store import record_key

    seen: set[bytes] = set()
    rows = 0
    for path in paths:
        for record in read_records(path):
            seen.add(record_key(record.id))
            rows += 1
            if len(seen) < rows:
                raise RecordError(f"{path}: the id {record.id!r} is used twice; a signal is found by record id: make them unique")
    files: list[Path] = []
    for place in map(Path, paths):
        files += [file for file in place.iterdir() if file.suffix in SUFFIXES] if place.is_dir() else [place]
    return tuple(sorted(map(sha256_of, files))), rows


def _settings(options: argparse.Namespace, source: SignalSource, tokenizer: object, hashes: tuple[str, ...]) -> SignalSettings:
    from distill.teachers.signal_store import SignalSettings, tokenizer_digest

    text, template = tokenizer_digest(tokenizer)  # type: ignore[arg-type]
    kind = options.kind
    sizes = {"top_k": min(options.k, source.vocabulary), "sampled": options.k}
    return SignalSettings(
        kind=kind,
        k=sizes.get(kind, 0),
        dtype=options.store_dtype if kind in ("exact", "top_k") else "float32",
        vocabulary=source.vocabulary,
        teacher=source.identity(),
        tokenizer=text,
        template=template,
        records=hashes,
        turns=options.turns,
        max_tokens=options.max_tokens,
        seed=options.seed if kind == "sampled" else 0,
        after_head=source.after_head() if kind == "exact" else {},
    )


def _finished(folder: Path, settings: SignalSettings) -> SignalManifest | None:
    from distill.records.manifest import MANIFEST_NAME
    from distill.teachers.signal_store import read_signal_manifest

    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = read_signal_manifest(folder)
    return manifest if manifest.settings == settings else None  # SignalWriter says what differs


def _write(
    options: argparse.Namespace, source: SignalSource, settings: SignalSettings, tokenizer: object, rows: int
) -> SignalManifest:
    from distill.recipes.progress import Progress
    from distill.teachers.signal_source import batches
    from distill.teachers.signal_writer import SignalWriter

    lost: Counter[str] = Counter()
    with SignalWriter(options.out, settings, shard_bytes=options.shard_mb << 20) as writer:
        progress = Progress("signal", total=rows)
        rendered = _render(options, tokenizer, lost)
        for batch in batches(rendered, options.batch_size):
            todo = [example for example in batch if not writer.has(example.record_id)]
            signals = source(todo) if todo else []
            writer.add(signals)
            tokens = sum(len(one.index_P) for one in signals)
            progress.add(len(batch), cached=len(batch) - len(todo), tokens=tokens)
        progress.add(sum(lost.values()))
        progress.close()
        return writer.finish(head=source.head(), lost=lost)


def _render(options: argparse.Namespace, tokenizer: object, lost: Counter[str]) -> Iterator[Example]:
    """Every record that can be rendered; the others are counted, and listed in lost.jsonl."""
    from distill.errors import RenderError
    from distill.records import read_records
    from distill.render import Renderer

    renderer = Renderer(tokenizer=tokenizer, max_tokens=options.max_tokens, turns=options.turns)  # type: ignore[arg-type]
    with (options.out / "lost.jsonl").open("w", encoding="utf-8") as listed:
        for path in options.records:
            for record in read_records(path):
                try:
                    yield renderer(record)
                except RenderError as error:
                    reason = "of weight 0" if record.weight == 0 else "that cannot be rendered"
                    lost[reason] += 1
                    listed.write(json.dumps({"id": record.id, "reason": str(error)}, ensure_ascii=False) + "\n")


def _summary(folder: Path, manifest: SignalManifest) -> str:
    what = {"top_k": f"top {manifest.settings.k}", "sampled": f"{manifest.settings.k} draws"}
    kind = what.get(manifest.settings.kind, manifest.settings.kind)
    lines = [
        f"{folder}: {kind}, {manifest.rows} records, {manifest.positions} supervised tokens, {len(manifest.shards)} files, "
        f"{manifest.bytes / 1e6:.1f} MB ({manifest.bytes / manifest.positions:.0f} bytes a token)"
    ]
    lines += [f"left out {number} record(s) {reason}; see {folder / 'lost.jsonl'}" for reason, number in manifest.lost.items()]
    use = f"model.reference: {folder}" if manifest.settings.kind == "token" else f"StoredTeacher with path: {folder}"
    return "\n".join([*lines, f"train with {use}"])
