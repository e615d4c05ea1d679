"""Exported rows and configs: what is in them, what is counted, and one training step of each of TRL's trainers on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_strategies import a_record

from distill.cli.records import EXPORT_FORMATS as CLI_FORMATS
from distill.cli.records import records_command
from distill.errors import RecordError
from distill.records import Message, Record, Span, write_records
from distill.records.export import EXPORT_FORMATS, export_records

ASK = (Message(role="user", content="What is the capital of France?"),)
SYSTEM = (Message(role="system", content="Be brief."), *ASK)
STARTED = (*ASK, Message(role="assistant", content="It is"))
TURNS = (*ASK, Message(role="assistant", content="Paris."), Message(role="user", content="And of Kenya?"))


def record(name: str, response: str, polarity: str = "positive", **more: Any) -> Record:
    return a_record(
        1, **{"id": name, "group": "g", "prompt": ASK, "response": response, "polarity": polarity, "spans": (), **more}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four questions, each with a right and a wrong answer: plain, with a system message, with a started answer, in turns."""
    records = []
    for number, prompt in enumerate((ASK, SYSTEM, STARTED, TURNS)):
        lead = " " if prompt == STARTED else ""
        good = record(f"{number}+", f"{lead}Paris it is.", group=f"g{number}", prompt=prompt)
        bad = record(
            f"{number}-",
            f"{lead}Lyon it is.",
            "negative",
            group=f"g{number}",
            prompt=prompt,
            spans=(Span(start=len(lead), end=len(lead) + 4, polarity="negative"),),
        )
        records += [good, bad]
    write_records(records, tmp_path / "records")
    return tmp_path / "records"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def config(file: Path) -> dict[str, Any]:
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_command_knows_the_formats_there_are() -> None:
    assert CLI_FORMATS == EXPORT_FORMATS


def test_every_record_is_a_row_or_lost_by_its_reason(folder: Path, tmp_path: Path) -> None:
    sides = {"kto": 1, "dpo": 2, "sft": 1, "prm": 1}
    for format in EXPORT_FORMATS:
        done = export_records(folder, tmp_path / format, format)  # type: ignore[arg-type]
        assert done.files
        for file in done.files:
            assert len(rows(tmp_path / format / file.name)) == file.rows
            assert file.rows * sides[file.objective] + sum(file.lost.values()) == 8
        report = json.loads((tmp_path / format / "export.json").read_text(encoding="utf-8"))
        assert [one["rows"] for one in report["files"]] == [file.rows for file in done.files]
        assert all((tmp_path / format / name).is_file() for name in done.configs)


def test_what_a_trainer_does_not_act_on_is_counted(folder: Path, tmp_path: Path) -> None:
    (kto,) = export_records(folder, tmp_path / "kto", "trl-kto").files
    assert kto.unused == {"spans: the whole response is trained": 4} and not kto.lost
    (sft,) = export_records(folder, tmp_path / "sft", "trl-sft").files
    assert not sft.unused and sft.lost == {"a negative response has no place in prompt-completion rows": 4}
    write_records([record("w", "Paris", weight=2.0)], tmp_path / "w.jsonl")
    (weighted,) = export_records(tmp_path / "w.jsonl", tmp_path / "w", "trl-kto").files
    assert weighted.unused == {"a weight other than 1: trained like the others": 1}


def test_records_without_any_row_are_an_error_that_says_why(tmp_path: Path) -> None:
    write_records([record("a", "Lyon", "negative")], tmp_path / "n.jsonl")
    with pytest.raises(RecordError, match="no row could be made for trl-sft.*negative response"):
        export_records(tmp_path / "n.jsonl", tmp_path / "out", "trl-sft")
    with pytest.raises(RecordError, match="a folder of its own"):
        export_records(tmp_path / "n.jsonl", _records_folder(tmp_path), "trl-kto")


def _records_folder(tmp_path: Path) -> Path:
    write_records([record("a", "Paris")], tmp_path / "there")
    return tmp_path / "there"


def test_the_command_prints_counts_configs_and_what_to_type(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert records_command(["export", str(folder), "--format", "trl-dpo", "--out", str(tmp_path / "x"), "--model", "m/n"]) == 0
    said = capsys.readouterr().out
    assert "4 rows for dpo" in said and f"$ trl dpo --config {tmp_path / 'x' / 'dpo'}.yaml" in said
    assert "not acted on 4: spans" in said
    assert config(tmp_path / "x" / "dpo.yaml")["model_name_or_path"] == "m/n"


class TestTrl:
    """In TRL's own code: its config parser, its loader, its trainers."""

    def loaded(self, folder: Path, tmp_path: Path, objective: str) -> tuple[Any, Any]:
        """The rows as `trl OBJECTIVE --config FILE` loads them, and the arguments it trains with."""
        from trl import (
            DatasetMixtureConfig,
            DPOConfig,
            KTOConfig,
            ModelConfig,
            ScriptArguments,
            SFTConfig,
            TrlParser,
            get_dataset,
        )

        export_records(folder, tmp_path / objective, f"trl-{objective}", model="tiny")  # type: ignore[arg-type]
        kind = {"sft": SFTConfig, "dpo": DPOConfig, "kto": KTOConfig}[objective]
        parser = TrlParser((ScriptArguments, kind, ModelConfig, DatasetMixtureConfig))
        _, arguments, model, mixture = parser.parse_args_and_config(
            [
                "--config",
                str(tmp_path / objective / f"{objective}.yaml"),
                "--max_steps",
                "1",
                "--report_to",
                "none",
                "--use_cpu",
                "true",
            ]
        )
        assert model.model_name_or_path == "tiny"
        arguments.per_device_train_batch_size = 4
        arguments.save_strategy = "no"
        arguments.bf16 = arguments.gradient_checkpointing = False
        return get_dataset(mixture)["train"], arguments

    @pytest.mark.slow  # importing TRL takes longer than the steps
    @pytest.mark.parametrize(
        ("objective", "columns", "size"),
        [
            ("sft", {"prompt", "completion"}, 4),
            ("dpo", {"prompt", "chosen", "rejected"}, 4),
            ("kto", {"prompt", "completion", "label"}, 8),
        ],
    )
    def test_a_trainer_takes_one_step(
        self, objective: str, columns: set[str], size: int, folder: Path, tmp_path: Path, tiny_model_folder: Any
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import DPOTrainer, KTOTrainer, SFTTrainer

        data, arguments = self.loaded(folder, tmp_path, objective)
        assert set(data.column_names) == columns and len(data) == size
        place = tiny_model_folder("llama")
        model = AutoModelForCausalLM.from_pretrained(place)
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        trainers: dict[str, Any] = {"sft": SFTTrainer, "dpo": DPOTrainer, "kto": KTOTrainer}
        trainer = trainers[objective](
            model=model, args=arguments, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(place)
        )
        done = trainer.train()
        assert done.global_step == 1 and done.training_loss == done.training_loss
        assert any(not torch.equal(before[name], tensor) for name, tensor in trainer.model.named_parameters())

    @pytest.mark.slow
    def test_a_started_answer_becomes_part_of_the_completion(self, folder: Path, tmp_path: Path) -> None:
        data, _ = self.loaded(folder, tmp_path, "kto")
        texts = [row["completion"][0]["content"] for row in data]
        assert "It is Paris it is." in texts and all(row["prompt"][-1]["role"] == "user" for row in data)

    def test_steps_are_rows_of_completions_and_labels(self, tmp_path: Path) -> None:
        """TRL 1.16 has no trainer for them any more; `datasets` loads them with the columns that its last one (1.13) read."""
        from datasets import load_dataset

        steps = (Span(start=0, end=9, polarity="positive"), Span(start=10, end=19, polarity="negative"))
        write_records([record("s", "1 + 1 = 2\n2 + 2 = 5", "negative", spans=steps)], tmp_path / "s.jsonl")
        done = export_records(tmp_path / "s.jsonl", tmp_path / "prm", "trl-prm")
        data = load_dataset("json", data_files=str(tmp_path / "prm" / "train.jsonl"), split="train")
        assert data[0]["completions"] == ["1 + 1 = 2", "2 + 2 = 5"] and data[0]["labels"] == [True, False]
        assert isinstance(data[0]["prompt"], str)
        assert done.configs == ("prm.py",)
        compile((tmp_path / "prm" / "prm.py").read_text(encoding="utf-8"), "prm.py", "exec")


class TestAxolotl:
    """Against the columns of its documentation and of the functions that read them; its package is not installed here."""

    def test_sft_rows_train_the_answer_alone_or_its_positive_spans(self, tmp_path: Path) -> None:
        spans = (Span(start=0, end=5, polarity="positive"), Span(start=6, end=8, polarity="negative"))
        made = [
            record("a", "Paris", prompt=TURNS),
            record("b", "Paris is", spans=spans),
            record("c", " Paris", prompt=STARTED),
            record("d", "Lyon", spans=(Span(start=0, end=4, polarity="negative"),)),
        ]
        write_records(made, tmp_path / "r.jsonl")
        sft = next(
            one for one in export_records(tmp_path / "r.jsonl", tmp_path / "ax", "axolotl").files if one.objective == "sft"
        )
        turns, spanned, started = [row["messages"] for row in rows(tmp_path / "ax" / "sft.jsonl")]
        assert [(message["role"], message["train"]) for message in turns] == [
            ("user", False),
            ("assistant", False),
            ("user", False),
            ("assistant", True),
        ]
        assert turns[-1]["train_detail"] is None
        # Both ends count there: [0, 4] is "Paris".
        assert spanned[-1]["train_detail"] == [{"begin_offset": 0, "end_offset": 4, "train": True}]
        detail = started[-1]["train_detail"][0]
        assert started[-1]["content"][detail["begin_offset"] : detail["end_offset"] + 1] == " Paris"
        assert sft.lost == {"a positive response without a positive span has nothing to train": 1}
        assert sft.unused == {"negative spans of a positive response: left untrained": 2}

    def test_pairs_and_labelled_rows_have_the_columns_of_their_types(self, folder: Path, tmp_path: Path) -> None:
        done = export_records(folder, tmp_path / "ax", "axolotl")
        assert {file.objective: file.rows for file in done.files} == {"sft": 4, "dpo": 4, "kto": 6}
        for row in rows(tmp_path / "ax" / "dpo.jsonl"):
            assert set(row) == {"messages", "chosen", "rejected"} and row["messages"][-1]["role"] == "user"
            assert row["chosen"]["role"] == row["rejected"]["role"] == "assistant"
        for row in rows(tmp_path / "ax" / "kto.jsonl"):
            assert {name: type(value) for name, value in row.items()} == {
                "system": str,
                "prompt": str,
                "completion": str,
                "label": bool,
            }
        kto = next(file for file in done.files if file.objective == "kto")
        assert kto.lost == {"Axolotl's kto takes a system message and one user message": 2}

    def test_the_configs_name_the_files_and_types(self, folder: Path, tmp_path: Path) -> None:
        export_records(folder, tmp_path / "ax", "axolotl", model="m/n")
        types = {"sft": "chat_template", "dpo": "chat_template.default", "kto": "chatml.prompt_pairs"}
        for objective, kind in types.items():
            found = config(tmp_path / "ax" / f"axolotl-{objective}.yaml")
            (data,) = found["datasets"]
            assert found["base_model"] == "m/n" and found.get("rl") == (None if objective == "sft" else objective)
            assert (
                data["type"] == kind and data["path"] == str(tmp_path / "ax" / f"{objective}.jsonl") and data["ds_type"] == "json"
            )
        sft = config(tmp_path / "ax" / "axolotl-sft.yaml")["datasets"][0]
        assert (sft["message_field_training"], sft["message_field_training_detail"], sft["roles_to_train"]) == (
            "train",
            "train_detail",
            [],
        )

    def test_the_files_load_with_one_schema(self, folder: Path, tmp_path: Path) -> None:
        from datasets import load_dataset

        export_records(folder, tmp_path / "ax", "axolotl")
        for objective, size in {"sft": 4, "dpo": 4, "kto": 6}.items():
            assert len(load_dataset("json", data_files=str(tmp_path / "ax" / f"{objective}.jsonl"), split="train")) == size


class TestLlamaFactory:
    """Against the keys of its dataset_info.json and the rules of its converter; its package is not installed here."""

    def test_the_columns_are_those_that_dataset_info_names(self, folder: Path, tmp_path: Path) -> None:
        export_records(folder, tmp_path / "lf", "llamafactory")
        described = json.loads((tmp_path / "lf" / "dataset_info.json").read_text(encoding="utf-8"))
        assert set(described) == {"distill_sft", "distill_dpo", "distill_kto"}
        for entry in described.values():
            assert entry["formatting"] == "sharegpt"
            for row in rows(tmp_path / "lf" / entry["file_name"]):
                assert set(row) == set(entry["columns"].values())
                converted(row, entry)
        assert described["distill_dpo"]["ranking"] is True and described["distill_kto"]["columns"]["kto_tag"] == "label"

    def test_roles_that_do_not_take_turns_are_counted_not_skipped_later(self, tmp_path: Path) -> None:
        twice = (*ASK, *ASK)
        write_records([record("a", "Paris", prompt=twice), record("b", "Paris")], tmp_path / "r.jsonl")
        done = export_records(tmp_path / "r.jsonl", tmp_path / "lf", "llamafactory")
        assert {file.objective: (file.rows, sum(file.lost.values())) for file in done.files} == {"sft": (1, 1), "kto": (1, 1)}

    def test_the_configs_name_stage_folder_and_data_set(self, folder: Path, tmp_path: Path) -> None:
        export_records(folder, tmp_path / "lf", "llamafactory")
        for objective in ("sft", "dpo", "kto"):
            found = config(tmp_path / "lf" / f"llamafactory-{objective}.yaml")
            assert (found["stage"], found["dataset"], found["dataset_dir"]) == (
                objective,
                f"distill_{objective}",
                str(tmp_path / "lf"),
            )
        assert config(tmp_path / "lf" / "llamafactory-sft.yaml")["mask_history"] is True


def converted(row: dict[str, Any], entry: dict[str, Any]) -> None:
    """The rules of LLaMA-Factory's converter for this format, restated: who may speak when, and how many messages there are."""
    tags, columns = entry["tags"], entry["columns"]
    messages = row[columns["messages"]]
    if messages[0][tags["role_tag"]] == tags["system_tag"]:
        messages = messages[1:]
    asking, answering = (tags["user_tag"], tags["observation_tag"]), (tags["assistant_tag"], tags["function_tag"])
    for place, message in enumerate(messages):
        assert message[tags["role_tag"]] in (answering if place % 2 else asking)
        assert isinstance(message[tags["content_tag"]], str)
    ranking = entry.get("ranking", False)
    assert len(messages) % 2 == (1 if ranking else 0)
    if ranking:
        assert all(row[columns[side]][tags["role_tag"]] in answering for side in ("chosen", "rejected"))
    if "kto_tag" in columns:
        assert isinstance(row[columns["kto_tag"]], bool)
