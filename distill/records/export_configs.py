"""The config that each trainer needs beside exported rows: names and columns only; all else stays the tool's own default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def dataset_name(objective: str) -> str:
    """What LLaMA-Factory knows the file of an objective by."""
    return f"distill_{objective}"


def dataset_entry(name: str, objective: str) -> dict[str, Any]:
    """The entry of dataset_info.json. With `tags` given, one that is left out has no value there, so all are named."""
    columns = {"messages": "messages"}
    if objective == "dpo":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    if objective == "kto":
        columns |= {"kto_tag": "label"}
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "system_tag": "system",
        "user_tag": "user",
        "assistant_tag": "assistant",
    }
    return {
        "file_name": name,
        "formatting": "sharegpt",
        **({"ranking": True} if objective == "dpo" else {}),
        "columns": columns,
        "tags": {**tags, "observation_tag": "tool", "function_tag": "function_call"},
    }


def config_files(tool: str, objective: str, file_name: str, folder: Path, model: str) -> Iterator[tuple[str, str]]:
    """The name and text of each file that a tool needs beside one data file."""
    place = json.dumps(str(folder / file_name))  # a JSON string is a YAML string, whatever it holds
    name, run = json.dumps(model), json.dumps(str(folder / f"trained-{objective}"))
    typed = command_line(tool, objective, folder)
    head = f"# {typed}\n# Paths are relative to where that is typed. All else is that tool's default.\n"
    if tool == "trl" and objective == "prm":
        yield "prm.py", _PRM.format(place=place, model=name, run=run)
    elif tool == "trl":
        columns = {"sft": "prompt, completion", "dpo": "prompt, chosen, rejected", "kto": "prompt, completion, label"}[objective]
        yield f"{objective}.yaml", head + _TRL.format(place=place, model=name, run=run, columns=columns)
    elif tool == "axolotl":
        yield f"axolotl-{objective}.yaml", head + _AXOLOTL[objective].format(place=place, model=name, run=run)
    else:
        more = {
            "sft": "mask_history: true # earlier answers of the prompt are not trained\n",
            "dpo": "pref_beta: 0.1\n",
            "kto": "pref_beta: 0.1\n",
        }
        text = _LLAMAFACTORY.format(
            model=name,
            run=run,
            folder=json.dumps(str(folder)),
            dataset=dataset_name(objective),
            stage=objective,
            more=more[objective],
        )
        yield f"llamafactory-{objective}.yaml", head + text


def command_line(tool: str, objective: str, folder: Path) -> str:
    """What to type to train."""
    if tool == "trl":
        if objective == "prm":
            return f"python {folder / 'prm.py'}"
        return f"trl {objective} --config {folder / objective}.yaml"
    if tool == "axolotl":
        return f"axolotl train {folder}/axolotl-{objective}.yaml"
    return f"llamafactory-cli train {folder}/llamafactory-{objective}.yaml"


_TRL = """\
model_name_or_path: {model}
datasets:
  - path: json
    data_files: {place}
    split: train
    columns: [{columns}] # the file has more: what brings the records back (distill records convert --from trl)
output_dir: {run}
"""
_PRM = '''\
"""A process reward model on the steps of distill's records. Needs TRL 1.13 or older: pip install "trl<=1.13.0"."""

from datasets import load_dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer
from trl.experimental.prm import PRMConfig, PRMTrainer

model = {model}
tokenizer = AutoTokenizer.from_pretrained(model)
steps = load_dataset("json", data_files={place}, split="train").select_columns(["prompt", "completions", "labels"])
PRMTrainer(
    model=AutoModelForTokenClassification.from_pretrained(model, num_labels=2),
    args=PRMConfig(output_dir={run}),
    processing_class=tokenizer,
    train_dataset=steps,
).train()
'''
_AXOLOTL_DATA = """\
base_model: {model}
datasets:
  - path: {place}
    ds_type: json
    split: train
"""
_AXOLOTL = {
    "sft": _AXOLOTL_DATA
    + """\
    type: chat_template
    field_messages: messages
    message_property_mappings: {{role: role, content: content}}
    roles_to_train: [] # each message says so itself
    train_on_eos: turn
    message_field_training: train
    message_field_training_detail: train_detail
output_dir: {run}
""",
    "dpo": "rl: dpo\n"
    + _AXOLOTL_DATA
    + """\
    type: chat_template.default
    field_messages: messages
    field_chosen: chosen
    field_rejected: rejected
    message_property_mappings: {{role: role, content: content}}
    roles: {{user: [user], assistant: [assistant], system: [system], tool: [tool]}}
output_dir: {run}
""",
    "kto": "rl: kto\n"
    + _AXOLOTL_DATA
    + """\
    type: chatml.prompt_pairs # llama3.prompt_pairs for a model of Llama 3's template, user_defined for another
remove_unused_columns: false
output_dir: {run}
""",
}
_LLAMAFACTORY = """\
model_name_or_path: {model}
stage: {stage}
do_train: true
finetuning_type: lora
dataset_dir: {folder}
dataset: {dataset}
template: default # write the model's: qwen3, llama3, gemma, ...
{more}output_dir: {run}
"""
