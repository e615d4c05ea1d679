"""Near-duplicates and contamination: what is found, what is not, and that a recipe accounts for what it leaves out."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.cli.records import records_command
from distill.errors import ConfigError, RecipeError
from distill.recipes import Run
from distill.recipes.command import run_recipe
from distill.recipes.overlap import Contamination, Match, NearDuplicates, Overlap, Row, overlap_report, rows_of
from distill.recipes.overlap_filter import without_overlap
from distill.records import Message, Record, read_manifest, read_records, write_records

LONG = "the old mill by the river was sold in the spring to a family of potters who mended its wheel"
SETTINGS = Overlap()
sentences = st.lists(st.sampled_from(LONG.split()), min_size=1, max_size=25).map(" ".join)


def row(name, prompt, response="", group=None):
    return Row(name, group or name, prompt, response)


def record(name, prompt, response="Yes.", group=None, polarity="positive"):
    ask = (Message(role="system", content=f"{LONG} {LONG}"), Message(role="user", content=prompt))
    return Record(id=name, group=group or name, prompt=ask, response=response, polarity=polarity)


def kept(records, **settings):
    given_all = {"near_duplicates": None, "contamination": None, "contaminated": "drop", **settings}
    with Run(None, quiet=True) as run:
        return [one.id for one in without_overlap(run, iter(records), **given_all)], run


class TestNearDuplicates:
    def test_case_spaces_and_punctuation_make_no_other_prompt(self):
        index = NearDuplicates(SETTINGS)
        assert index.find(row("a", "What is the capital of France?"), add=True) is None
        assert index.find(row("b", "  what is the capital,  of FRANCE")) == Match("a", "near-duplicate", 1.0)

    def test_another_question_of_the_same_form_is_no_near_duplicate(self):
        index = NearDuplicates(SETTINGS)
        index.find(row("a", "What is the capital of France?"), add=True)
        assert index.find(row("b", "What is the capital of Germany?"), add=True) is None
        assert len(index) == 2

    def test_another_sign_is_another_sum(self):
        index = NearDuplicates(Overlap(threshold=1.0))
        sums = ["8 + 7", "8 - 7", "8 × 7"]
        assert [index.find(row(text, f"Work out {text}."), add=True) for text in sums] == [None] * 3
        assert index.find(row("again", "work out 8-7")) == Match("8 - 7", "near-duplicate", 1.0)
        leak = Contamination(SETTINGS, [row("t", "Work out 8 + 7.")])
        assert leak.find(row("a", "Work out 8 - 7.")) is None

    def test_prompts_of_one_group_are_no_repetition_of_each_other(self):
        index = NearDuplicates(SETTINGS)
        assert index.find(row("a", LONG, group="g"), add=True) is None
        assert index.find(row("b", LONG + " again", group="g"), add=True) is None
        assert index.find(row("c", LONG, group="h"), add=True) == Match("a", "near-duplicate", 1.0)

    def test_a_near_duplicate_does_not_join_the_index_so_that_chains_do_not_grow(self):
        index = NearDuplicates(Overlap(threshold=0.7))
        words = LONG.split()
        found = [index.find(row(str(n), " ".join(words[n : n + 12])), add=True) for n in range(6)]
        assert all(one is None or one.id == "0" or found[int(one.id)] is None for one in found)

    @settings(max_examples=25)
    @given(texts=st.lists(sentences, min_size=2, max_size=8), threshold=st.sampled_from([0.5, 0.8, 1.0]))
    def test_what_is_found_is_over_the_threshold_by_exact_comparison(self, texts, threshold):
        index = NearDuplicates(Overlap(threshold=threshold))
        grams = [{text[at : at + 5] for at in range(max(1, len(text) - 4))} for text in texts]
        for n, text in enumerate(texts):
            match = index.find(row(str(n), text), add=True)
            if match is not None:
                other = int(match.id)
                alike = len(grams[n] & grams[other]) / len(grams[n] | grams[other])
                assert other < n and alike == pytest.approx(match.similarity) and alike >= threshold
            else:
                assert text not in texts[:n]

    def test_scripts_without_spaces_are_compared_too(self):
        index = NearDuplicates(SETTINGS)
        index.find(row("a", "法国的首都是哪里？请用一个词回答。"), add=True)
        assert index.find(row("b", "法国的首都是哪里?请用一个词回答")) is not None
        assert index.find(row("c", "这条河有多长？谁发现了它的源头？")) is None


class TestContamination:
    def test_a_run_of_thirteen_words_in_prompt_or_response_is_found(self):
        leak = Contamination(SETTINGS, [row("t", f"Tell me: {LONG}?")])
        words = LONG.split()
        assert leak.find(row("a", "Continue.", "He said that " + " ".join(words[2:15]) + ".")) == Match("t", "13 words", 1.0)
        assert leak.find(row("b", "Continue.", "He said that " + " ".join(words[2:14]) + ".")) is None

    def test_a_short_test_prompt_is_found_as_a_whole_inside_a_text(self):
        leak = Contamination(SETTINGS, [row("t", "Who sold the old mill?")])
        assert leak.find(row("a", "Answer in one word. Who sold the old mill? Think first.")) == Match("t", "short prompt", 1.0)
        assert leak.find(row("b", "Who sold the old house?")) is None

    def test_a_prompt_of_fewer_than_five_words_counts_only_alone(self):
        leak = Contamination(SETTINGS, [row("t", "What is iron?")])
        assert leak.find(row("a", "what is IRON")) == Match("t", "same prompt", 1.0)
        assert leak.find(row("b", "Tell me what is iron made of")) is None

    def test_a_reworded_test_prompt_is_found_as_a_near_duplicate(self):
        leak = Contamination(Overlap(threshold=0.6), [row("t", "Who sold the old mill by the river to the potters?")])
        assert leak.find(row("a", "Who sold the old mill at the river to the potters?")).kind == "near-duplicate"

    def test_the_wording_of_a_template_is_no_question_s_own(self):
        rows = [row(str(n), f"{LONG}. Question {n} about number {n * 7919}") for n in range(20)]
        leak = Contamination(SETTINGS, rows)
        assert leak.template_runs > 0
        assert leak.find(row("a", f"{LONG}. Something else is asked here")) is None

    def test_short_answers_that_everyone_gives_are_no_contamination(self):
        leak = Contamination(SETTINGS, [row("t", "Who wrote it?", "I don't know.")])
        assert leak.find(row("a", "Who sang it?", "I don't know.")) is None


class TestRecipes:
    def test_near_duplicates_of_later_groups_are_left_out_with_all_their_records(self):
        records = [
            record("a+", LONG),
            record("a-", LONG, "No.", group="a+", polarity="negative"),
            record("b+", LONG + "?", group="b"),
            record("b-", LONG + "?", "No.", group="b", polarity="negative"),
            record("c", "Something else."),
        ]
        found, run = kept(records, near_duplicates=0.8)
        assert found == ["a+", "a-", "c"]
        (stage,) = run.stages
        assert (stage.taken, stage.given) == (5, 3) and stage.lost == {"near-duplicate of an earlier group's prompt": 2}

    def test_a_system_message_that_all_share_is_not_compared(self):
        found, _ = kept([record("a", "Who sang?"), record("b", "How far is it to the sea?")], near_duplicates=0.5)
        assert found == ["a", "b"]

    @pytest.mark.parametrize(("contaminated", "expected"), [("drop", ["b"]), ("report", ["a", "b"])])
    def test_contaminated_records_are_dropped_or_reported(self, tmp_path, contaminated, expected):
        test = tmp_path / "test.txt"
        test.write_text(LONG + "\n")
        found, run = kept([record("a", LONG), record("b", "Else?")], contamination=str(test), contaminated=contaminated)
        assert found == expected and run.counts["contamination"] == {"same prompt": 1}

    def test_the_command_accounts_for_what_it_leaves_out(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        Path("own.py").write_text(
            '"""Records."""\n'
            "from distill.records import Message, Record\n"
            "def build(*, run, texts: tuple[str, ...] = ()):\n"
            "    for n, text in enumerate(texts):\n"
            "        ask = (Message(role='user', content=text),)\n"
            "        yield Record(id=f'r{n}', group=f'g{n}', prompt=ask, response='Yes.', polarity='positive')\n"
        )
        texts = json.dumps([LONG, LONG + " now", "Who sold the old mill?", "How far is it?"])
        Path("test.txt").write_text("Who sold the old mill?\n")
        options = ["--texts", texts, "--near_duplicates", "0.8", "--contamination", "test.txt"]
        assert run_recipe("own.py", [*options, "--out", "run"]) == 0
        assert [one.id for one in read_records("run/records")] == ["r0", "r3"]
        assert read_manifest("run/records").lost == {
            "holds part of the test set (same prompt)": 1,
            "near-duplicate of an earlier group's prompt": 1,
        }
        lost = [json.loads(line) for line in Path("run/lost.jsonl").read_text().splitlines()]
        assert [(one["id"], one["stage"]) for one in lost] == [("r1", "overlap"), ("r2", "overlap")]
        account = [json.loads(line) for line in Path("run/overlap.jsonl").read_text().splitlines()]
        assert [(one["id"], one["repeats"], one["outcome"]) for one in account][0] == ("r1", "r0", "dropped")
        # The config beside the records makes them again; so it holds the filters, and the recipe's hash does too.
        assert run_recipe("own.py", ["--config", "run/config.yaml", "--out", "again"]) == 0
        assert read_manifest("again/records").shards == read_manifest("run/records").shards
        assert run_recipe("own.py", ["--texts", texts, "--out", "plain"]) == 0
        assert read_manifest("plain/records").recipe_hash != read_manifest("run/records").recipe_hash
        assert not Path("plain/overlap.jsonl").exists()
        capsys.readouterr()
        assert run_recipe("own.py", [*options, "--preview", "9"]) == 0
        assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["r0", "r3"]

    def test_a_shard_cannot_see_the_others_duplicates(self, tmp_path):
        from distill.recipes.shards import parse_shard

        with Run(None, quiet=True, shard=parse_shard("0/2")) as run, pytest.raises(ConfigError, match="merge them"):
            without_overlap(run, iter(()), near_duplicates=0.8, contamination=None, contaminated="drop")

    @pytest.mark.parametrize("wrong", [0.0, 1.5])
    def test_a_threshold_that_means_nothing_is_refused(self, wrong):
        with pytest.raises(ConfigError, match="above 0"):
            kept([], near_duplicates=wrong)

    def test_a_test_set_that_is_not_there_is_an_error(self):
        with pytest.raises(RecipeError, match="no such file"):
            kept([], contamination="nowhere.jsonl")


class TestReport:
    def test_records_and_prompts_are_read_alike(self, tmp_path):
        write_records([record("a", "One?"), record("b", "Two?")], tmp_path / "records")
        write_records([record("a", "One?")], tmp_path / "r.jsonl")
        write_records([record("a", "One?")], tmp_path / "r.parquet")
        (tmp_path / "q.jsonl").write_text('{"id": "x", "prompt": "One?"}\n')
        sizes = {name: len(list(rows_of(tmp_path / name))) for name in ("records", "r.jsonl", "r.parquet", "q.jsonl")}
        assert sizes == {"records": 2, "r.jsonl": 1, "r.parquet": 1, "q.jsonl": 1}
        assert next(rows_of(tmp_path / "r.parquet")).prompt == next(rows_of(tmp_path / "q.jsonl")).prompt == "One?"

    def test_the_command_prints_and_writes_the_account(self, tmp_path, capsys):
        write_records(
            [record("a+", LONG, group="a"), record("a-", LONG, "No.", group="a", polarity="negative"), record("b", LONG + "!")],
            tmp_path / "train",
        )
        (tmp_path / "test.txt").write_text(LONG + "\n")
        assert (
            records_command(["overlap", str(tmp_path / "train"), str(tmp_path / "test.txt"), "--out", str(tmp_path / "o.json")])
            == 0
        )
        said = capsys.readouterr().out
        assert "near-duplicates of an earlier group's prompt: 1 of 2 (50.00%)" in said
        assert "rows that hold something of the 1 test rows: 3 of 3" in said
        account = json.loads((tmp_path / "o.json").read_text())
        assert account["near_duplicates"]["examples"][0]["repeats"] == "a+"
        assert account["settings"] == {"threshold": 0.8, "shingle": 5, "ngram": 13, "permutations": 128}

    def test_planted_copies_of_real_questions_are_found(self, shared_data, tmp_path):
        questions = [
            json.loads(line)["question"]
            for line in (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
        ][:200]
        chance = random.Random(0)
        copies = []
        for text in questions[:50]:
            words = text.split()
            del words[chance.randrange(len(words))]
            copies.append(" ".join(words))
        (tmp_path / "train.txt").write_text("\n".join(text.replace("\n", " ") for text in copies + questions[100:]) + "\n")
        (tmp_path / "test.txt").write_text("\n".join(text.replace("\n", " ") for text in questions[:100]) + "\n")
        report = overlap_report(str(tmp_path / "train.txt"), str(tmp_path / "test.txt"), SETTINGS)
        assert report.contamination.found.total() >= 49
        assert report.near_duplicates.found.total() == 0
