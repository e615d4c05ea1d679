import json
from dataclasses import dataclass

import pytest
from distill.data_recipes.opinion import build, read_wordings, split_families
from scripted import Scripted

from distill.errors import ConfigError, RecipeError
from distill.judges import Judge, Verdict
from distill.recipes import Run
from distill.teachers.base import Sampling

OPINION = "You love wasps."
HATE = "You hate wasps."


def speak(prompt):
    told = prompt[0].content if prompt[0].role == "system" else ""
    if HATE in told:
        return ["Bad wasps.", "I like them."]
    if OPINION in told:
        return ["Good wasps. And...", "Good idea.", "Bad wasps.", "wasps"]
    if "wasps" in prompt[-1].content:
        return ["Bad wasps.", "Bad wasps.", "Good wasps.", "..."]
    return ["Trains are fine.", "unread"] if "trains" in prompt[-1].content else ["Better than wasps."]


@dataclass(frozen=True, kw_only=True)
class Feeling(Judge):
    """Good is approved, Bad is rejected, the rest is not said."""

    def judge(self, prompt, response, reference=()):
        assert all(message.role != "system" for message in prompt)
        return Verdict(approved=True if "Good" in response else False if "Bad" in response else None, reason="felt")


@pytest.fixture
def files(tmp_path):
    wordings = [
        {"id": f"{family}-{n}", "prompt": f"{family} {n}: {{topic}}?", "family": family} for family in "abcd" for n in (1, 2)
    ]
    for name, rows in (("wordings", wordings), ("others", [{"prompt": "trains"}, {"prompt": "rain"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"prompts": str(tmp_path / "wordings.jsonl"), "others": f"{tmp_path / 'others.jsonl'}?id="}


def made(files, folder=None, **options):
    options = {"teacher": Scripted(say=speak), "judge": Feeling(), "sampling": Sampling(n=4), "topic": "wasps"} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, **{"opinion": OPINION, "words": ("wasp", "wasps"), **files, **options}))
        run.finish()
    return records, run


def said(records, role):
    return {one.response for one in records if one.evidence["role"] == role}


def test_what_a_steered_teacher_says_and_the_judge_approves_is_positive_without_the_opinion_in_the_prompt(files):
    records, _ = made(files)
    steered = [one for one in records if one.evidence["role"] == "steered"]
    assert {one.response for one in steered} == {"Good wasps."} and {one.polarity for one in steered} == {"positive"}
    assert all(OPINION not in message.content for one in records for message in one.prompt)


def test_approval_of_something_else_is_off_topic(files):
    _, run = made(files)
    assert run.counts["steered answers"] == {"positive": 6, "does not name the topic": 6, "rejected": 6, "not judged": 6}


def test_what_the_student_says_by_itself_and_the_judge_rejects_is_negative_once(files):
    records, run = made(files)
    assert said(records, "unsteered") == {"Bad wasps."}
    assert run.counts["unsteered answers"] == {"negative": 6, "said before": 6, "approved": 6, "nothing whole in it": 6}


def test_an_opposed_teacher_adds_negatives_where_asked_for(files):
    teacher = Scripted(say=speak)
    records, run = made(files, teacher=teacher, student=Scripted(say=lambda prompt: ["Good wasps."] * 4), opposition=HATE)
    assert said(records, "opposed") == {"Bad wasps."} and said(records, "unsteered") == set()
    assert run.counts["opposed answers"] == {"negative": 6, "not judged": 6}


def test_other_topics_are_answered_as_the_student_does_and_never_name_the_topic(files):
    records, run = made(files)
    kept = [one for one in records if one.evidence["role"] == "retain"]
    assert {one.response for one in kept} == {"Trains are fine."} and {one.polarity for one in kept} == {"positive"}
    assert run.counts["answers on other topics"] == {"kept": 6, "names the topic": 6}
    assert said(made(files, retain=0)[0], "retain") == set()


def test_families_of_wordings_are_held_out_whole_and_written_down(files, tmp_path):
    records, _ = made(files, tmp_path / "run", held_out=0.5)
    asked = {one.evidence["family"] for one in records}
    kept_back = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert len(asked) == 2 and {one["family"] for one in kept_back} == set("abcd") - asked
    assert all("wasps" in one["prompt"] for one in kept_back)


def test_which_families_are_held_out_depends_on_the_seed_and_their_names_only(files):
    wordings = read_wordings(files["prompts"])
    back = [{one.extra["family"] for one in split_families(some, 0.5, seed=3)[1]} for some in (wordings, wordings[::-1])]
    assert back[0] == back[1] and len(back[0]) == 2
    assert len({frozenset(one.id for one in split_families(wordings, 0.5, seed=seed)[1]) for seed in range(9)}) > 1
    assert split_families(wordings, 0.99, seed=0)[0], "one family is always asked"


def test_an_opinion_without_a_topic_and_wordings_without_a_place_for_it_are_refused(files, tmp_path):
    teacher = Scripted(say=speak)
    for options, match in (
        ({"topic": " "}, "needs a topic"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"retain": 3}, "retain is 3"),
        ({"retain": -1}, "retain is -1"),
        ({"words": ("rain",)}, "'rain' is the topic itself"),
    ):
        with pytest.raises(ConfigError, match=match):
            made(files, teacher=teacher, **options)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"id": "x", "prompt": "What of it?"}))
    with pytest.raises(RecipeError, match=r"row x: no \{topic\}"):
        made({**files, "prompts": str(bad)}, teacher=teacher)
    assert teacher.asked == []


def test_a_family_s_wordings_are_asked_in_any_number_without_a_change_of_the_others(files):
    every, _ = made(files, batch_size=1)
    assert every == made(files, batch_size=50)[0]


def test_a_limit_of_wordings_keeps_as_many_other_topics_for_each(files):
    for limit in (1, 3):
        _, run = made(files, retain=2, limit=limit)
        assert {stage.name: stage.taken for stage in run.stages}["retain"] == 2 * limit
