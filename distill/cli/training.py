"""`distill fit | validate | test | predict`: LightningCLI with its traps closed.

What differs from the stock class, each with its test in tests/cli/test_training.py:

- `${model.student}` in a config follows later files and the command line (parser mode "omegaconf+"); `${oc.env:KEY}` is
  refused, since the saved config would hold the secret in clear;
- a checkpoint's own settings are the weakest source: defaults < checkpoint < config files < command line;
- `--ckpt_path last` with nothing found is an error, not a training from scratch, and so is a new run over a finished one;
- checkpoints are loaded with weights_only=True: nothing in them is executed;
- SIGTERM and Ctrl-C save a checkpoint and end with 143 and 130.
"""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

import distill.objectives  # noqa: F401  (class_path: Unlikelihood is found by its short name once it is imported)
import distill.teachers.cross  # noqa: F401
import distill.teachers.embedding  # noqa: F401
import distill.teachers.stored  # noqa: F401
from distill.cli.configs import config_arguments
from distill.data import RecordDataModule
from distill.errors import ConfigError, DistillError
from distill.export import read_checkpoint
from distill.judges import Judge
from distill.objectives.base import Objective
from distill.on_policy import Marker
from distill.settings import PARSER_MODE, parse, prepare
from distill.student.callbacks import MetricsJsonl
from distill.student.module import StudentModule, best_precision
from distill.student.predictions import FILE_NAME, PredictionsJsonl
from distill.teachers.cross import CrossTeacher
from distill.teachers.logits import LogitTeacher

SUBCOMMANDS = ("fit", "validate", "test", "predict")
SIGTERM_EXIT, INTERRUPT_EXIT = 143, 130
# exit_on_error=False: a mistake is raised and becomes one line, instead of eighty lines of usage above it.
_PARSER = {"parser_mode": PARSER_MODE, "exit_on_error": False}


class FinalCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that never leaves out the last steps.

    The stock class with every_n_train_steps = N saves at multiples of N alone: of 38 steps with N = 15, the last 8 would be lost.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of training, if it is not saved yet."""
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)


class StudentCLI(LightningCLI):
    """One model class, one data class, and a Trainer whose defaults write a single resumable run folder."""

    def __init__(
        self,
        *,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
    ) -> None:
        self._meets_teachers = issubclass(model_class, StudentModule) and issubclass(datamodule_class, RecordDataModule)
        super().__init__(
            model_class,
            datamodule_class,
            save_config_kwargs={"overwrite": True},  # before_fit decides what may be overwritten
            trainer_defaults=trainer_defaults(),
            seed_everything_default=0,
            parser_kwargs=dict(_PARSER) | {name: dict(_PARSER) for name in SUBCOMMANDS},
            args=list(args),
            auto_configure_optimizers=False,  # the student builds its own optimiser; FSDP2 needs it so
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Not in subclass mode, so jsonargparse raises here if either name is misspelt.
        parser.link_arguments("model.student", "data.student")
        if self._meets_teachers:
            parser.link_arguments("model.teacher", "data.teacher_tokenizer", compute_fn=_own_tokenizer)
        parser.add_lightning_class_args(FinalCheckpoint, "checkpoint")
        # "link": last.ckpt is a symbolic link, so a run holds one copy of the weights and the optimiser's state.
        # No version counter: a stale step=7.ckpt beside step=7-v1.ckpt is how the wrong file gets exported.
        parser.set_defaults(
            {
                "checkpoint.save_last": "link",
                "checkpoint.save_on_exception": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if subcommand == "fit":
            parser.add_argument("--overwrite", type=bool, default=False, help="Delete the earlier run in this folder.")
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # else all of them are kept in memory, for nobody
            about = f"File of the log-probabilities, a line per record; {FILE_NAME} in trainer.default_root_dir unless given."
            parser.add_argument("--out", type=str | None, default=None, help=about)
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what writes the run folder's files: metrics, append-only where CSVLogger deletes the old ones, or predictions."""
        folder = self._get(self.config_init, "trainer")["default_root_dir"] or "."
        if self.subcommand == "predict":
            writer: Callback = PredictionsJsonl(self._get(self.config_init, "out") or str(Path(folder, FILE_NAME)))
        else:
            writer = MetricsJsonl(str(Path(folder, "metrics.jsonl")))
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": [writer]}
        return super().instantiate_trainer(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._arguments = config_arguments(args)
        # The stock class parses the checkpoint's settings last, over the command line. Here they become defaults, parsed first.
        self._checkpoint_path = _option(self._arguments, "--ckpt_path")
        self._adopt_checkpoint_settings(self._arguments[0], self._checkpoint_path)
        self.config = self._parse()

    def _parse(self) -> jsonargparse.Namespace:
        actions = self._subcommand_parsers[self._arguments[0]]._actions
        options = [option for action in actions for option in action.option_strings]
        bases = (Objective, LogitTeacher, Marker, Judge)
        classes = {base.__name__: [kind.__name__ for kind in _concrete_subclasses(base)] for base in bases}
        return parse(self.parser, self._arguments, options=options, classes=classes)

    def _parse_ckpt_path(self) -> None:
        """Covers a ckpt_path that stands in a config file; one on the command line has been read already."""
        subcommand = self.config.subcommand
        path = self.config[subcommand].get("ckpt_path")
        if path and self._checkpoint_path is None:
            self._adopt_checkpoint_settings(subcommand, path)
            self.config = self._parse()

    def _adopt_checkpoint_settings(self, subcommand: str, path: str | None) -> None:
        if path is None or not Path(path).is_file():
            return
        checkpoint = read_checkpoint(Path(path))
        settings = {key: value for key, value in checkpoint.get("hyper_parameters", {}).items() if not key.startswith("_")}
        parser = self._subcommand_parsers[subcommand]
        known = {action.dest for action in parser._actions}
        parser.set_defaults({f"model.{key}": value for key, value in settings.items() if f"model.{key}" in known})

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        path = kwargs.get("ckpt_path")
        if path == "last" and not self._last_checkpoints():
            raise ConfigError(
                f"--ckpt_path last: no checkpoint under {self._checkpoint_folder()}; leave --ckpt_path out to train from the "
                "start, or set --trainer.default_root_dir to the folder of the run to go on with"
            )
        if path not in (None, "last", "best", "hpc") and not Path(path).exists():
            raise ConfigError(f"--ckpt_path {path}: no such file; give a .ckpt file or the word last")
        return kwargs

    def before_fit(self) -> None:
        """Refuse to mix a new run into the folder of an earlier one."""
        options = self.config["fit"]
        earlier = self._last_checkpoints()
        if options.get("ckpt_path") or not earlier or not self.trainer.is_global_zero:
            return
        if not options.get("overwrite"):
            raise ConfigError(
                f"{self.trainer.default_root_dir} holds an earlier run ({Path(sorted(earlier)[0]).name}): go on with it by "
                "--ckpt_path last, train in another folder by --trainer.default_root_dir, or replace it by --overwrite true"
            )
        for stale in [*self._checkpoint_folder().glob("*.ckpt"), Path(self.trainer.default_root_dir, "metrics.jsonl")]:
            stale.unlink(missing_ok=True)

    def _last_checkpoints(self) -> set[str]:
        callbacks = [callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        return {path for callback in callbacks for path in callback._find_last_checkpoints(self.trainer) if os.path.exists(path)}

    def _checkpoint_folder(self) -> Path:
        callback = self.trainer.checkpoint_callback
        folder = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        return Path(folder or Path(self.trainer.default_root_dir, "checkpoints"))


def train(
    args: Sequence[str],
    *,
    model_class: type[LightningModule] = StudentModule,
    datamodule_class: type[LightningDataModule] = RecordDataModule,
) -> int:
    """Run one training subcommand; `args` starts with its name.

    Returns the process's exit code: 0, 143 after SIGTERM, 130 after Ctrl-C (a checkpoint is saved in both cases).
    Raises ConfigError for a setting that Lightning refuses; SystemExit(2), as argparse does, for one that the parser refuses.
    """
    prepare()
    _show_own_messages()
    # Lightning's own calls of what torch has deprecated, and its advertisement of other packages.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
    warnings.filterwarnings("ignore", message=".*is not supported by the model summary")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.getMessage())
    try:
        StudentCLI(model_class=model_class, datamodule_class=datamodule_class, args=args)
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        # What a class that may be left out (teacher, lora) refuses, jsonargparse wraps in an account of all alternatives.
        own = next((cause for cause in _causes(error) if isinstance(cause, DistillError)), error)
        raise own from None if own is not error else error.__cause__
    except SIGTERMException:
        return SIGTERM_EXIT
    except SystemExit as error:
        # Lightning turns Ctrl-C into sys.exit(1) after its callbacks have saved.
        if isinstance(error.__context__, KeyboardInterrupt):
            return INTERRUPT_EXIT
        raise
    return 0


def trainer_defaults() -> dict[str, Any]:
    """Where the Trainer's defaults differ from Lightning's; `distill fit --help` shows them."""
    return {
        "default_root_dir": "runs/fit",
        "logger": False,  # config.yaml and metrics.jsonl then lie in default_root_dir itself
        "precision": best_precision(),
        "use_distributed_sampler": False,  # the records' loader divides each step between the ranks on its own
    }


def _show_own_messages() -> None:
    """What distill itself logs (records read, or left out and why) belongs on the screen; libraries keep their own levels."""
    logger = logging.getLogger("distill")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    # Without validation records Lightning asks whether an empty list of loaders was meant. It was.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def _own_tokenizer(teacher: jsonargparse.Namespace | None) -> str | None:
    """The model whose tokenizer the records are rendered with too: that of a CrossTeacher's settings."""
    if teacher is None or teacher.class_path.rpartition(".")[2] != CrossTeacher.__name__:
        return None
    return str(teacher.init_args.model)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _concrete_subclasses(base: type[Any]) -> list[type[Any]]:
    concrete: list[type[Any]] = []
    for cls in base.__subclasses__():
        concrete += [] if inspect.isabstract(cls) else [cls]
        concrete += _concrete_subclasses(cls)
    return concrete


def _option(args: Sequence[str], name: str) -> str | None:
    """The last value of `--name VALUE` or `--name=VALUE`."""
    found = None
    for position, argument in enumerate(args):
        if argument == name and position + 1 < len(args):
            found = args[position + 1]
        elif argument.startswith(name + "="):
            found = argument.removeprefix(name + "=")
    return found
