"""How a trained student leaves distill: a plain Hugging Face folder that was reloaded and compared before it took its name.

The folder holds safetensors, tokenizer, chat template, generation config, a model card (README.md), distill.json (where it comes
from) and, where the student abstains by a rule, abstention.json. Nothing is unpickled on the way.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import distill
from distill.errors import ExportError
from distill.template import stop_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.evaluate.rule import AbstentionRule
    from distill.student.module import StudentModule

ORIGIN_FILE = "distill.json"
# Log-probabilities (nats): the merge of LoRA in float32 moves them by about 1e-5, a lost or misnamed tensor by more than 1.
TOLERANCE = 1e-3
PROBES = (
    "What is the capital of France?",
    "The sum of 17 and 25 is",
    "מה בירת ישראל?",
    "def add(a, b):\n    return a + b\n",
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an exported model comes from; the content of distill.json.

    base_model: hub name of the model before training, or the name of its folder. records: sha256 of each manifest that it was
    trained on. step: optimiser steps taken. difference: largest difference of a log-probability between student and export
    (nats).
    """

    base_model: str
    objectives: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    step: int = 0
    adapter: bool = False
    dtype: str = "float32"
    difference: float = 0.0
    distill: str = distill.__version__


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, memory-mapped on the CPU. Raises ExportError where it is missing, damaged or would run code."""
    if not path.is_file():
        raise ExportError(
            f"{path}: no such checkpoint; give the .ckpt file that `distill fit` wrote, such as runs/NAME/checkpoints/last.ckpt"
        )
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path}: refused, it holds more than tensors and plain values and could run code when loaded"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ExportError(
            f"{path}: damaged, or not a checkpoint ({str(error).splitlines()[0]}); train again or take another"
        ) from error
    return checkpoint


def export(
    student: StudentModule | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    records: Sequence[str | os.PathLike[str]] | None = None,
    rule: AbstentionRule | None = None,
    dtype: Literal["keep", "float32", "bfloat16"] = "keep",
    overwrite: bool = False,
) -> Origin:
    """Write a StudentModule, or the Lightning checkpoint of one, as a plain Hugging Face folder; see `export_model`.

    records: what it was trained on, for the hash in distill.json; None takes the paths that the checkpoint remembers and that
    still exist. Frozen weights are not in a checkpoint: they come from the base model named in it.
    """
    from distill.models import load_tokenizer
    from distill.student.module import StudentModule

    step, remembered = 0, []
    if isinstance(student, StudentModule):
        module = student
        module.configure_model()
        if (trainer := module._trainer) is not None:
            step = trainer.global_step
    else:
        checkpoint = read_checkpoint(Path(student))
        step = int(checkpoint.get("global_step", 0))
        remembered = [path for path in [checkpoint.get("datamodule_hyper_parameters", {}).get("train")] if path]
        with warnings.catch_warnings():
            # Frozen weights are meant to be missing; StudentModule itself refuses a checkpoint that lacks a trained one.
            warnings.filterwarnings("ignore", message="Found keys that are in the model state dict")
            module = StudentModule.load_from_checkpoint(Path(student), map_location="cpu", weights_only=True)
    if records is None:
        records = [path for path in remembered if Path(path).exists()]
    origin = Origin(
        # Whoever gets the exported folder has no use for the path of a folder on this machine.
        base_model=Path(module.student).resolve().name if Path(module.student).is_dir() else module.student,
        objectives=dict(module.hparams["objectives"]),
        records=tuple(manifest_hash(Path(path)) for path in records),
        step=step,
    )
    tokenizer = load_tokenizer(module.student)
    return export_model(module.model, tokenizer, Path(out), origin=origin, rule=rule, dtype=dtype, overwrite=overwrite)


def export_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    origin: Origin,
    rule: AbstentionRule | None = None,
    dtype: Literal["keep", "float32", "bfloat16"] = "keep",
    overwrite: bool = False,
) -> Origin:
    """Write `model` (PEFT adapters merged) and `tokenizer` to the folder `out`; returns the origin with what was measured.

    The model is left as it was. The folder appears at once and complete, or not at all.
    Raises ExportError where the reloaded folder gives other tokens or other log-probabilities than the student, or where
    `out` holds something and overwrite is False.
    """
    check_vacant(out, overwrite=overwrite)
    plain, adapter = _merged(model)
    if dtype != "keep":
        plain = copy.deepcopy(plain) if plain is model else plain
        # Parameters only: model.to() would round the rotary frequencies too, which loading the folder rebuilds in float32.
        for parameter in plain.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as staging:
        folder = Path(staging, "model")
        write_model(plain, tokenizer, folder)
        # Two distances: what the merge and the precision did to the student, and what the files did to the result.
        student = log_probs_of_probes(model, tokenizer)
        merged = log_probs_of_probes(plain, tokenizer) if plain is not model else student
        reloaded = reload_and_probe(folder, tokenizer)
        changed = largest_difference(merged, reloaded)
        drift = largest_difference(student, reloaded)
        precision = str(plain.dtype).removeprefix("torch.")
        if changed > TOLERANCE or (precision == "float32" and drift > TOLERANCE):
            raise ExportError(
                f"the export differs from the student by {max(changed, drift):.3g} nats in a log-probability "
                f"(allowed: {TOLERANCE}); nothing was written to {out}"
            )
        origin = replace(origin, adapter=adapter, dtype=precision, difference=drift)
        (folder / ORIGIN_FILE).write_text(json.dumps(asdict(origin), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if rule is not None:
            rule.save(folder)
        (folder / "README.md").write_text(model_card(origin, rule), encoding="utf-8")
        replace_folder(folder, out)
    return origin


def manifest_hash(records: Path) -> str:
    """sha256 of the manifest beside (or in) `records`; of the file itself where there is no manifest."""
    folder = records if records.is_dir() else records.parent
    manifest = folder / "manifest.json"
    found = manifest if manifest.is_file() else records
    if not found.is_file():
        raise ExportError(f"{records}: no records file and no manifest.json; give the folder that the student was trained on")
    with found.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_card(origin: Origin, rule: AbstentionRule | None = None) -> str:
    """README.md of the folder: what the model is, how to use it, what it was trained with."""
    losses = "\n".join(f"- `{name}`: {_in_words(entry)}" for name, entry in origin.objectives.items()) or "- not recorded"
    hashes = "\n".join(f"- records manifest sha256 `{value}`" for value in origin.records)
    abstains = (
        ""
        if rule is None
        else f"""
## Abstention

The student answers where its estimated chance of being right is at least {rule.threshold:.3g}, and elsewhere says
"{rule.abstention}".
The rule and its weights are in `abstention.json`. Move along the risk-coverage curve with one number:
`distill chat --student FOLDER --threshold 0.8`.
"""
    )
    merged = ", as a LoRA adapter that is merged here" if origin.adapter else ""
    return f"""---
base_model: {json.dumps(origin.base_model, ensure_ascii=False)}
library_name: transformers
pipeline_tag: text-generation
tags: [distill]
---

# Student of {origin.base_model}

Trained with distill {origin.distill} for {origin.step} optimiser steps{merged}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
```
{abstains}
## Training

Objectives:

{losses}

{hashes}

Largest difference of a log-probability between the student in training and this folder: {origin.difference:.2g} nats
({origin.dtype}).
"""


def _in_words(entry: Any) -> str:
    """`Unlikelihood(weight=0.2, margin=0.0)` from what a config holds for it."""
    if not isinstance(entry, Mapping) or "class_path" not in entry:
        return str(entry)
    settings = ", ".join(f"{key}={value!r}" for key, value in (entry.get("init_args") or {}).items())
    return f"{str(entry['class_path']).rpartition('.')[2]}({settings})"


def _merged(model: PreTrainedModel) -> tuple[PreTrainedModel, bool]:
    """The model without adapters, and whether it had any. A model with adapters is copied first: merging works in place."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return model, False
    from peft import PeftModel

    peft_model: Any = model
    if not isinstance(peft_model, PeftModel):
        raise ExportError(
            f"{type(model).__name__} holds LoRA weights without being a PeftModel; wrap it with peft.get_peft_model"
        )
    merged: PreTrainedModel = copy.deepcopy(peft_model).merge_and_unload()
    return merged, True


def check_vacant(out: Path, *, overwrite: bool = False) -> None:
    """Make the parent of `out`. Raises ExportError where `out` holds something that may not be overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ExportError(f"{out} is not empty; choose another folder or allow overwriting (--overwrite)")
    out.parent.mkdir(parents=True, exist_ok=True)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights, config, generation config and tokenizer, ready to generate with."""
    # Training switches the cache off (gradient checkpointing); a base model's own settings often miss the end of turn.
    settings = copy.deepcopy(model.generation_config)
    if settings is not None:
        settings.use_cache = True
        settings.eos_token_id = list(stop_token_ids(tokenizer, settings)) or None
        if settings.pad_token_id is None:
            settings.pad_token_id = tokenizer.pad_token_id
    config, generation = model.config, model.generation_config
    cache = getattr(config, "use_cache", None)
    try:
        if cache is not None:
            config.use_cache = True
        model.generation_config = settings
        model.save_pretrained(folder)
    finally:
        model.generation_config = generation
        if cache is not None:
            config.use_cache = cache
    tokenizer.save_pretrained(folder)


def reload_and_probe(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Probe the folder as a stranger would: the plain Auto classes, without distill."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for probe in PROBES:
        ids = tokenizer(probe)["input_ids"]
        if again(probe)["input_ids"] != ids:
            raise ExportError(
                f"the reloaded tokenizer splits {probe!r} differently; the tokenizer of the student was not saved whole"
            )
    if again.chat_template != tokenizer.chat_template:
        raise ExportError("the reloaded tokenizer has another chat template; nothing was written")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ExportError(
            f"the export lacks weights: {sorted(map(str, report['missing_keys'] or report['mismatched_keys']))[:3]}"
        )
    return log_probs_of_probes(model, again)


@torch.no_grad()
def log_probs_of_probes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """Log-probabilities (T, V) of each probe, float32, on the CPU."""
    device = next(model.parameters()).device
    # Each module's own flag: a wrapper in training mode may hold a model in evaluation mode, and train(True) would reach into it.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        logits = [model(input_ids=_ids(tokenizer, probe).to(device)).logits[0] for probe in PROBES]
    finally:
        for module, training in modes:
            module.training = training
    return [row.float().log_softmax(-1).cpu() for row in logits]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    return torch.tensor([tokenizer(text)["input_ids"]])


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest difference in a log-probability (nats); infinite where a value is not finite."""
    gaps = [(a - b).abs().max() for a, b in zip(one, other, strict=True)]
    worst = float(torch.stack(gaps).max())
    return worst if worst == worst else float("inf")


def replace_folder(folder: Path, out: Path) -> None:
    """Put `folder` in the place of `out`. A non-empty folder cannot be replaced in one step: the old one steps aside first."""
    if not out.exists():
        os.replace(folder, out)
        return
    aside = out.with_name(f".{out.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(out, aside)
    os.replace(folder, out)
    shutil.rmtree(aside, ignore_errors=True)
