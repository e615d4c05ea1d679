"""How a recipe runs from a shell: its `build` signature as options, a preview, a run folder, and a way to go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import ConfigError, DistillError, RecordError
from distill.recipes.cache import replace_file
from distill.recipes.discover import load_recipe, package_name
from distill.recipes.folder import Resume, full_disk_explained
from distill.recipes.key import code_version, describe, digest, teachers_in
from distill.recipes.overlap_filter import without_overlap
from distill.recipes.progress import money
from distill.recipes.ray_stage import RayEngine
from distill.recipes.run import Run
from distill.recipes.served import what_servers_can, with_server_classes
from distill.recipes.shards import parse_shard
from distill.recipes.spending import no_price
from distill.settings import PARSER_MODE, parse, prepare
from distill.teachers.base import Sampling, Teacher

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from distill.records.manifest import Manifest

_OWN = (
    "out",
    "preview",
    "dry_run",
    "shard",
    "resume",
    "fresh",
    "retry_lost",
    "extend",
    "engine",
    "workers",
    "worker_cpus",
    "worker_gpus",
    "max_cost",
    "max_tokens_total",
)
_FILTERS = ("near_duplicates", "contamination", "contaminated")  # every recipe's too; they change the records, so they are saved
BUDGET_SPENT = 3  # the exit code where rows were not asked because of the budget


def run_recipe(name: str, argv: Sequence[str], *, program: str = "") -> int:
    """Run a recipe with command-line arguments; returns the exit code (130 where Ctrl-C stopped it, 3 where its budget did).

    name: as `load_recipe` takes it. program: how the user called it, for help and for the line that says how to go on; by default
    `distill recipe NAME`.

    Raises DistillError for wrong options and inputs, before any model is loaded where they can be known by then.
    """
    module = load_recipe(name)
    program = program or f"distill recipe {name}"
    # Help without the shipped config: checking the class of a teacher that it names would import torch for a page of text.
    parser = recipe_parser(module, program, shipped=not {"-h", "--help"} & set(argv))
    settings = parse(parser, with_server_classes(module.build, argv))
    if settings.dry_run:
        return _dry_run(module, parser, settings)
    if (settings.preview is None) == (settings.out is None):
        raise ConfigError("give either --out FOLDER (where the records go) or --preview N (print N records, write nothing)")
    if settings.preview is not None and settings.preview < 1:
        raise ConfigError(f"--preview {settings.preview}: print at least one record")
    folder = None if settings.out is None else Path(settings.out)
    try:
        # The folder is locked before any class is built: a busy folder must not cost the loading of a model.
        with Run(
            folder,
            resume=settings.resume,
            fresh=settings.fresh,
            retry_lost=settings.retry_lost,
            extend=settings.extend,
            max_batch=settings.preview,
            workers=1 if folder is None else settings.workers,  # a preview asks no more than it prints
            max_cost=settings.max_cost,
            max_tokens=settings.max_tokens_total,
            shard=None if settings.shard is None else parse_shard(settings.shard),
            engine=_ray(settings),
        ) as run:
            code = _run(run, module, parser, settings)
            if run.not_asked:
                print(_larger_budget(run, program, argv), file=sys.stderr)
            return BUDGET_SPENT if run.not_asked else code
    except KeyboardInterrupt:
        print(f"\nStopped; what is done is kept. Go on with the same command:\n  {program} {shlex.join(argv)}", file=sys.stderr)
        return 130


def main(file: str, spec: ModuleSpec | None) -> int:
    """What `python -m data_recipes.NAME` does: `sys.exit(main(__file__, __spec__))`."""
    name, program = (file, f"python {file}") if spec is None else (spec.name, f"python -m {spec.name}")
    try:
        return run_recipe(name, sys.argv[1:], program=program)
    except DistillError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2


def recipe_parser(module: ModuleType, program: str, *, shipped: bool = True) -> ArgumentParser:
    """A parser over `build`'s signature (all but `run`) and the options that every recipe has.

    shipped: whether the recipe's own config gives the defaults, as in a run.
    """
    import jsonargparse

    prepare()
    own = _shipped_config(module)
    summary = (module.__doc__ or "").partition("\n")[0]
    parser = jsonargparse.ArgumentParser(
        prog=program,
        description=summary if own is None else f"{summary} A run begins with the settings of the config recipe/{own.stem}.",
        parser_mode=PARSER_MODE,
        exit_on_error=False,
        default_config_files=[str(own)] if shipped and own is not None else [],
    )
    parser.add_argument("--config", action="config", help="a YAML file with any of these options; later ones win")
    parser.add_argument(
        "--out", type=str | None, default=None, help="run folder; the same command on it goes on where it stopped"
    )
    parser.add_argument("--preview", type=int | None, default=None, help="print this many records and write nothing")
    parser.add_argument(
        "--dry_run",
        type=bool,
        default=False,
        help="check inputs and teachers, print prompts, tokens and cost; ask and write nothing",
    )
    parser.add_argument(
        "--shard", type=str | None, default=None, help="i/n: only share i (from 0) of n shares of the prompts, for job arrays"
    )
    parser.add_argument(
        "--resume",
        type=Resume,
        default="if_possible",
        help="where the folder holds results: refuse it, go on where the settings match, or insist on the same settings",
    )
    parser.add_argument("--fresh", type=bool, default=False, help="set the folder's results aside and start over")
    parser.add_argument("--retry_lost", type=bool, default=False, help="do the rows again that an earlier start lost")
    parser.add_argument("--extend", type=bool, default=False, help="ask what is new in the prompts of a finished folder")
    parser.add_argument(
        "--engine", type=Literal["local", "ray"], default="local", help="ray: teachers on the workers of a Ray cluster"
    )
    parser.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="batches under way at once for teachers behind a server (8); with --engine ray, workers with a teacher each (2)",
    )
    parser.add_argument("--worker_cpus", type=float, default=1.0, help="with --engine ray: processors for each worker")
    parser.add_argument("--worker_gpus", type=float, default=0.0, help="with --engine ray: accelerators for each worker")
    parser.add_argument(
        "--max_cost", type=float | None, default=None, help="stop when the folder has cost so much, all restarts together"
    )
    parser.add_argument("--max_tokens_total", type=int | None, default=None, help="the same for tokens, read and written")
    parser.add_argument(
        "--near_duplicates",
        type=float | None,
        default=None,
        help="leave out prompts that are this similar (Jaccard, such as 0.8) to one of an earlier group",
    )
    parser.add_argument(
        "--contamination",
        type=str | None,
        default=None,
        help="a test set, as prompts or records, that no record may hold part of",
    )
    parser.add_argument("--contaminated", type=Literal["drop", "report"], default="drop", help="what becomes of records that do")
    taken = parser.add_function_arguments(module.build, skip={"run"})
    clash = sorted(set(taken) & {*_OWN, *_FILTERS})
    if clash:
        raise ConfigError(
            f"{module.__name__}.build must not have a parameter {clash[0]!r}: every recipe's command has that option"
        )
    return parser


def _shipped_config(module: ModuleType) -> Path | None:
    """configs/recipe/NAME.yaml, whose settings are a packaged recipe's defaults; None for a recipe of the user's own."""
    from importlib.resources import files
    from importlib.util import find_spec

    package, _, name = module.__name__.rpartition(".")
    if package != package_name():
        return None
    configs = "distill.configs" if find_spec("distill.configs") is not None else "configs"
    found = Path(str(files(configs).joinpath("recipe", f"{name}.yaml")))
    return found if found.is_file() else None


def _ray(settings: Any) -> RayEngine | None:
    if settings.engine != "ray":
        return None
    return RayEngine(workers=settings.workers or RayEngine.workers, cpus=settings.worker_cpus, gpus=settings.worker_gpus)


def _dry_run(module: ModuleType, parser: ArgumentParser, settings: Any) -> int:
    shard = None if settings.shard is None else parse_shard(settings.shard)
    with Run(None, dry_run=True, shard=shard, max_cost=settings.max_cost, max_tokens=settings.max_tokens_total) as run:
        assert run.estimate is not None
        built = parser.instantiate(settings)
        arguments = {name: value for name, value in vars(built).items() if name not in (*_OWN, *_FILTERS, "config")}
        _check_prices(run, arguments)
        records, ended = 0, ""
        try:
            for _ in module.build(run=run, **arguments):
                records += 1
        except DistillError as error:
            # What a recipe says of the answers that it did not get is no mistake; one in the items of a stage is.
            if run.estimate.failed_within or not run.estimate.stages:
                raise
            ended = f"There may be more stages: without answers the recipe ends here ({error})"
        print(run.estimate.table())
        if ended:
            print(ended)
        for lines in what_servers_can(teachers_in(arguments)):
            print(lines)
        if records:
            print(f"{records} records need no teacher")
        if run.budget.max_cost is not None and run.estimate.cost > run.budget.max_cost:
            print(f"It may cost more than --max_cost {run.budget.max_cost}, which stops it in time; the same command goes on")
    return 0


def _run(run: Run, module: ModuleType, parser: ArgumentParser, settings: Any) -> int:
    built = parser.instantiate(settings)
    filters = {name: getattr(built, name) for name in _FILTERS}
    arguments = {name: value for name, value in vars(built).items() if name not in (*_OWN, *_FILTERS, "config")}
    _check_prices(run, arguments)
    records = without_overlap(run, module.build(run=run, **arguments), **filters)
    if run.folder is None:
        from distill.records.schema import record_line

        with closing(records):
            for record in islice(records, settings.preview):
                print(record_line(record))
        return 0
    with full_disk_explained(run.folder):
        # Only now: a start that is refused, for its settings or its inputs, leaves the config of the one before.
        replace_file(run.folder / "config.yaml", _shown(parser, settings))
    try:
        settled = {**arguments, **({} if filters["near_duplicates"] is filters["contamination"] is None else filters)}
        manifest = run.write_records(records, about=_about(module, parser.prog, settled))
    except RecordError:
        if run.not_asked:  # before the first record was made; the accounts have been shown
            return BUDGET_SPENT
        raise
    print(f"{run.table()}\n{manifest.rows} records in {run.folder / 'records'}")
    return 0


def _check_prices(run: Run, arguments: Mapping[str, Any]) -> None:
    """Refuse a budget in money that nothing could ever be counted against."""
    teachers = teachers_in(dict(arguments))
    run.budget.refuse_unpriced(teachers)
    if run.budget.max_cost is not None and teachers and all(teacher.price is None for teacher in teachers):
        raise ConfigError(no_price(teachers[0]))


def _larger_budget(run: Run, program: str, argv: Sequence[str]) -> str:
    """One line on how to go on: the same command with twice the budget that is spent."""
    budget, given = run.budget, list(argv)
    if budget.max_cost is not None and budget.used.cost >= budget.max_cost:
        given = [*_without(given, "--max_cost"), "--max_cost", f"{2 * budget.used.cost:.4g}"]
    if budget.max_tokens is not None and budget.tokens >= budget.max_tokens:
        given = [*_without(given, "--max_tokens_total"), "--max_tokens_total", str(2 * budget.tokens)]
    spent = f"{budget.tokens} tokens" + (f", cost {money(budget.used.cost)}" if budget.used.cost else "")
    return (
        f"The budget is spent ({spent}): {run.not_asked} rows were not asked. Go on with the same command and a larger one: "
        f"{program} {shlex.join(given)}"
    )


def _without(argv: Sequence[str], option: str) -> list[str]:
    """The arguments without an option and its value."""
    pairs = zip(["", *argv], argv, strict=False)
    return [word for before, word in pairs if option not in (before, word) and not word.startswith(f"{option}=")]


def _about(module: ModuleType, program: str, arguments: Mapping[str, Any]) -> Manifest:
    """What the manifest can know of a recipe: its name, a hash of its code and settings, its teacher and how it was sampled."""
    from distill.records.manifest import Manifest

    teacher = next((value for value in arguments.values() if isinstance(value, Teacher)), None)
    sampling = next((value for value in arguments.values() if isinstance(value, Sampling)), None)
    settings = {
        name: Path(value) if isinstance(value, str) and os.path.isfile(value) else value
        for name, value in arguments.items()
        if name != "batch_size"
    }
    return Manifest(
        recipe=module.__name__.rpartition(".")[2],
        # By content, not by place: the same questions in another folder, or another batch size, are the same recipe.
        recipe_hash=digest([code_version(module), describe(settings)]),
        teacher=dict(teacher.identity()) if teacher is not None else {},
        sampling=describe(asdict(sampling)) if sampling is not None else {},
        seed=arguments.get("seed", sampling.seed if sampling is not None else None),  # its own; sampling tells the other
        command=f"{program} --config config.yaml --out FOLDER",
    )


def _shown(parser: ArgumentParser, settings: Any) -> str:
    """The settings as YAML, as they would be given to --config; the folder itself is not among them."""
    kept = settings.clone()
    for name in ("config", *_OWN):
        if name in kept:
            del kept[name]
    return str(parser.dump(kept, skip_none=False, skip_validation=True))
