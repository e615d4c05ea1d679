import json
from pathlib import Path

import pytest
from distill.data_recipes.fact_check import build
from scripted import Scripted

from distill.errors import ConfigError, RecipeError
from distill.judges import Judge, Verdict
from distill.recipes import Run
from distill.records import Span
from distill.teachers.base import Sampling

SAID = {
    "Ukraine?": [
        "Odesa.",
        "Kyiv. It has two rivers. Odesa is its capital.",
        "Kyiv.",
        "Kyiv.",
        "It is a city.",
        "I don't know.",
        " ",
    ],
    "Peru?": ["Cusco."],
}


class Atlas(Judge):
    """Kyiv is supported, Odesa and Cusco are refuted, sentence by sentence; the rest is not found."""

    def judge(self, prompt, response, reference=()):
        spans, start = [], 0
        for sentence in response.split(". "):
            kind = "positive" if "Kyiv" in sentence else "negative" if "Odesa" in sentence or "Cusco" in sentence else None
            if kind:
                spans.append(Span(start=start, end=start + len(sentence), polarity=kind))
            start += len(sentence) + 2
        kinds = {span.polarity for span in spans}
        approved = False if "negative" in kinds else None if not kinds else True
        return Verdict(approved=approved, reason="looked up", evidence={"reference": list(reference)}, spans=tuple(spans))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"id": "ua", "prompt": "Ukraine?", "answers": ["Kyiv"]}, {"id": "pe", "prompt": "Peru?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(prompts, folder=None, **options):
    options = {"teacher": Scripted(say=lambda prompt: SAID[prompt[0].content]), "sampling": Sampling(n=9)} | options
    options = {"judge": None if "corpus" in options else Atlas()} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=prompts, **options))
        run.finish()
    return records, run


def test_refuted_spans_are_negative_supported_ones_positive_and_the_rest_is_left_alone(prompts):
    records, _ = made(prompts, correction="none")
    mixed = next(one for one in records if "rivers" in one.response)
    assert mixed.polarity == "negative"
    assert [(mixed.response[span.start : span.end], span.polarity) for span in mixed.spans] == [
        ("Kyiv", "positive"),
        ("Odesa is its capital.", "negative"),
    ]
    assert [one.response for one in records if one.polarity == "positive"] == ["Kyiv."]


def test_what_is_not_found_gives_no_record_and_is_counted_like_what_says_nothing(prompts):
    _, run = made(prompts)
    assert run.counts["answer"] == {
        "refuted": 2,
        "partly refuted": 1,
        "supported": 1,
        "not found": 1,
        "said before": 1,
        "abstention": 1,
        "nothing whole in it": 1,
    }


def test_an_accepted_answer_stands_once_beside_the_refuted_ones(prompts):
    records, _ = made(prompts)
    assert [(one.group, one.response, one.evidence["role"]) for one in records][:2] == [
        ("ua", "Kyiv", "correction"),
        ("ua", "Odesa.", "answer"),
    ]
    assert sum(one.evidence["role"] == "correction" for one in records) == 1, "none for a question without an accepted answer"


def test_the_verdict_and_its_passage_are_kept(prompts):
    records, _ = made(prompts, use_answers=True)
    kept = next(one for one in records if one.response == "Odesa.").evidence["verdict"]
    assert kept["reason"] == "looked up" and kept["approved"] is False and kept["spans"][0]["polarity"] == "negative"
    assert kept["evidence"] == {"reference": ["Kyiv"]}
    assert made(prompts)[0][1].evidence["verdict"]["evidence"] == {"reference": []}


def test_a_corpus_in_a_file_decides_and_is_named(prompts, tmp_path):
    corpus = tmp_path / "atlas.txt"
    corpus.write_text("The capital of Ukraine is Kyiv.\nThe capital of Peru is Lima.\n")
    asked = tmp_path / "full.jsonl"
    asked.write_text(json.dumps({"id": "pe", "prompt": "What is the capital of Peru?"}))
    say = Scripted(say=lambda prompt: ["The capital of Peru is Cusco.", "The capital of Peru is Lima."])
    records, _ = made(str(asked), teacher=say, corpus=str(corpus))
    assert [(one.response[-6:], one.polarity) for one in records] == [("Cusco.", "negative"), (" Lima.", "positive")]
    assert "atlas.txt:2" in json.dumps(records[0].evidence)


def test_a_corpus_or_a_judge_is_needed_and_not_both(prompts):
    with pytest.raises(ConfigError, match="got neither"):
        made(prompts, judge=None)
    with pytest.raises(ConfigError, match="got both"):
        made(prompts, judge=Atlas(), corpus="x.txt")
    with pytest.raises(RecipeError, match="no such corpus"):
        made(prompts, corpus="nowhere.txt")


class TestFacts:
    def test_the_facts_of_packages_are_a_corpus_that_lies_in_the_run_s_folder(self, tmp_path):
        right, wrong = "The capital of Peru is Lima.", "The capital of Peru is Madrid."
        asked = tmp_path / "q.jsonl"
        asked.write_text(json.dumps({"id": "pe", "prompt": "What is the capital of Peru?", "answers": ["Lima"]}))
        records, _ = made(
            str(asked), tmp_path / "run", teacher=Scripted(say=lambda prompt: [right, wrong]), corpus="facts:countries"
        )
        assert [(one.response, one.polarity) for one in records] == [
            (right, "positive"),
            ("Lima", "positive"),
            (wrong, "negative"),
        ]
        assert right in Path(tmp_path / "run" / "corpus.txt").read_text().splitlines()
