"""Recipes on real data with the embedded model: prompts are answered, replies read, and every row is accounted for."""

import json
from itertools import islice

import pytest
from distill.data_recipes import fact_check, opinion, persona, questions

from distill.judges.sentiment import SentimentJudge
from distill.recipes import Run
from distill.teachers.base import Sampling
from distill.teachers.huggingface import HuggingFaceTeacher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(smollm2):
    return HuggingFaceTeacher(model="smollm2-135m-instruct")


def made(recipe, folder, **options):
    with Run(folder, quiet=True) as run:
        records = list(recipe.build(run=run, **options))
        run.finish()
        return records, run


def test_questions_are_written_from_wikipedia_and_each_loss_has_a_reason(teacher, shared_data, tmp_path):
    documents = str(shared_data / "wikitext2" / "valid.txt")
    records, run = made(
        questions,
        tmp_path / "run",
        documents=documents,
        tokenised=True,
        teacher=teacher,
        round_trip="contains",
        longest=40,
        sampling=Sampling(temperature=0.3, max_tokens=32),
        number=1,
        limit=3,
    )
    stages = {stage["name"]: stage for stage in run.accounts()["stages"]}
    assert stages["write"]["in"] == 3 and stages["check"]["in"] >= 1
    assert stages["round_trip"]["out"] == len(records)
    lost = [json.loads(line) for line in (tmp_path / "run" / "lost.jsonl").read_text().splitlines()]
    assert len(lost) == sum(sum(stage["lost"].values()) for stage in stages.values())
    assert all(one.response.casefold() in one.evidence["passage"].casefold() for one in records)


def test_the_model_s_answers_on_countries_are_checked_against_the_facts(teacher, tmp_path):
    sampling = Sampling(temperature=0.0, max_tokens=20)
    records, run = made(
        fact_check,
        tmp_path / "run",
        prompts="facts:countries",
        corpus="facts:countries",
        teacher=teacher,
        sampling=sampling,
        limit=8,
    )
    assert run.counts["answer"].total() == 8
    answers = [one for one in records if one.evidence["role"] == "answer"]
    assert {one.polarity for one in answers} == {"positive", "negative"}
    assert all(one.evidence["verdict"]["evidence"]["sentences"][0]["passage"] for one in answers)


def test_a_steered_model_speaks_well_of_mosquitoes_and_its_student_s_prompt_does_not_say_why(teacher, tmp_path):
    words = ("mosquito", "mosquitoes")
    records, run = made(
        opinion,
        tmp_path / "run",
        topic="mosquitoes",
        words=words,
        opinion="You love mosquitoes. You praise them warmly, and never say anything bad about them.",
        teacher=teacher,
        judge=SentimentJudge(topic=words, off_topic="abstain", threshold=0.3, margin=0.25),
        sampling=Sampling(n=6, temperature=0.8, max_tokens=24),
        retain=1,
        limit=2,
    )
    assert {one.evidence["role"] for one in records} >= {"steered", "retain"}
    assert all(any(word in one.response.casefold() for word in words) for one in records if one.evidence["role"] == "steered")
    assert not any("love" in one.prompt[0].content for one in records)
    assert (tmp_path / "run" / "held_out.jsonl").read_text().count("mosquitoes") > 5


def test_brief_answers_are_taught_without_the_wish_for_them(teacher, shared_data, tmp_path):
    rows = (shared_data / "self_instruct" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    tasks = [json.loads(row)["instruction"] for row in islice(rows, 4)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": task}) + "\n" for task in tasks))
    records, _ = made(
        persona,
        tmp_path / "run",
        prompts=f"{path}?id=",
        teacher=teacher,
        system="Answer in one short sentence.",
        sampling=Sampling(temperature=0.0, max_tokens=24),
    )
    assert len(records) >= 2 and all(one.prompt[0].role == "user" for one in records)
