"""Exported rows through the code of the tools that read them: LLaMA-Factory's converter, Axolotl's strategies.

    pip install --no-deps --target tools llamafactory==0.9.5 axolotl==0.19.0 addict
    python -m benchmarks.formats --tools tools

Their packages want a torch of their own, so they are no dependency, not even of the tests: only the modules that read rows are
imported here, without their packages' own __init__. Fails where a row is not read as meant. Time: 10 s.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import yaml

from distill.models import EMBEDDED, resolve
from distill.records import Message, Record, Span, write_records
from distill.records.export import export_records

ASK = (Message(role="system", content="Be brief."), Message(role="user", content="What is the capital of France?"))
SPAN = (Span(start=6, end=11, polarity="positive"),)
RECORDS = [
    Record(id="fr-1", group="fr", prompt=ASK, response="It is Paris.", polarity="positive", spans=SPAN),
    Record(id="fr-2", group="fr", prompt=ASK, response="It is Lyon.", polarity="negative"),
    Record(id="sum-1", group="sum", prompt=ASK[1:], response="4", polarity="positive"),
    Record(id="sum-2", group="sum", prompt=ASK[1:], response="5", polarity="negative"),
]


class Settings(dict[str, Any]):
    """A dict whose keys are attributes, None where there is none, as Axolotl's own."""

    __getattr__ = dict.get


def bare(tools: Path, *names: str) -> None:
    """Put empty packages in place of those whose __init__ imports trainers."""
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [str(tools / name.replace(".", "/"))]
        sys.modules[name] = module


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def llamafactory(tools: Path, folder: Path) -> None:
    """dataset_info.json through its parser, rows through its converter."""
    bare(tools, "llamafactory", "llamafactory.data", "llamafactory.extras")
    parser = importlib.import_module("llamafactory.data.parser")
    converter = importlib.import_module("llamafactory.data.converter")
    for objective, answers in {
        "sft": ["It is Paris.", "4"],
        "dpo": ["It is Paris.", "4"],
        "kto": ["It is Paris.", "", "4", ""],
    }.items():
        (attributes,) = parser.get_dataset_list([f"distill_{objective}"], str(folder))
        convert = converter.get_dataset_converter(attributes.formatting, attributes, types.SimpleNamespace(media_dir="."))
        found = [convert(row) for row in rows(folder / attributes.dataset_name)]
        assert [one["_response"][0]["content"] for one in found] == answers
        assert all(one["_prompt"][-1]["content"] == ASK[1].content for one in found) and found[0]["_system"] == "Be brief."
        print(f"llamafactory {objective}: {len(found)} rows read as meant")


def axolotl(tools: Path, folder: Path) -> None:
    """Rows and configs through the function or class that each config's type names."""
    from transformers import AutoTokenizer

    base = "axolotl.prompt_strategies"
    bare(tools, "axolotl", "axolotl.utils", "axolotl.utils.schemas", base, f"{base}.dpo", f"{base}.kto")
    tokenizer = AutoTokenizer.from_pretrained(resolve(EMBEDDED))

    def config(objective: str) -> Any:
        text = (folder / f"axolotl-{objective}.yaml").read_text(encoding="utf-8")
        return json.loads(json.dumps(yaml.safe_load(text)), object_hook=Settings)

    kto = importlib.import_module(f"{base}.kto.chatml").prompt_pairs(config("kto"))
    found = [kto(row) for row in rows(folder / "kto.jsonl")]
    assert [(one["completion"], one["label"]) for one in found][:2] == [
        ("It is Paris.<|im_end|>", True),
        ("It is Lyon.<|im_end|>", False),
    ]
    print(f"axolotl kto: {len(found)} rows read as meant")
    dpo, _ = importlib.import_module(f"{base}.dpo.chat_template").default(config("dpo"), dataset_idx=0)
    found = [dpo(row, tokenizer=tokenizer) for row in rows(folder / "dpo.jsonl")]
    assert found[0]["chosen"].startswith("It is Paris.") and found[0]["rejected"].startswith("It is Lyon.")
    print(f"axolotl dpo: {len(found)} rows read as meant")
    module, (data,) = importlib.import_module(f"{base}.chat_template"), config("sft").datasets
    names = ("message_property_mappings", "message_field_training", "message_field_training_detail", "field_messages")
    prompter = module.ChatTemplatePrompter(
        tokenizer, chat_template=tokenizer.chat_template, **{name: data[name] for name in names}
    )
    strategy = module.ChatTemplateStrategy(
        prompter, tokenizer, False, 2048, roles_to_train=data.roles_to_train, train_on_eos=data.train_on_eos
    )
    trained = []
    for row in rows(folder / "sft.jsonl"):
        tokens = strategy.tokenize_prompt(row)
        kept = [token for token, label in zip(tokens["input_ids"], tokens["labels"], strict=True) if label != -100]
        trained.append(tokenizer.decode(kept))
    assert trained == [" Paris<|im_end|>", "4<|im_end|>"], trained
    print(f"axolotl sft: {len(trained)} rows read as meant; of the first, its span and the end of the turn are trained")


def main() -> None:
    """Export four records and have both tools read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="where pip put the packages (--target)")
    tools = parser.parse_args().tools
    sys.path.insert(0, str(tools))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_records(RECORDS, folder / "records.jsonl")
        export_records(folder / "records.jsonl", folder / "lf", "llamafactory")
        export_records(folder / "records.jsonl", folder / "ax", "axolotl")
        llamafactory(tools, folder / "lf")
        axolotl(tools, folder / "ax")


if __name__ == "__main__":
    main()
