import json

import pytest
from distill.data_recipes.rationales import build, first_departure
from scripted import Scripted

from distill.errors import ConfigError
from distill.recipes import Run
from distill.records import Span
from distill.teachers.base import Sampling
from distill.teachers.replay import ReplayTeacher

RIGHT = "48 / 2 = 24 in May.\n48 + 24 = 72 altogether.\nAnswer: 72"
REFUTED = "48 / 2 = 24 in May.\n48 + 24 = 73 altogether.\nAnswer: 73"
DEPARTS = "48 / 2 = 24 in May.\n24 * 2 = 48, so 48 * 2 = 96.\nAnswer: 96"
LUCKY = "48 / 2 = 25 in May.\n48 + 24 = 72 altogether.\nAnswer: 72"
SILENT = "It is as many as the friends.\nAnswer: 48"
GOLD = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72"


def made(tmp_path, samples, answers=(GOLD,), **options):
    path = tmp_path / "problems.jsonl"
    row = {"id": "clips", "prompt": "How many clips?"} | ({"answers": list(answers)} if answers else {})
    path.write_text(json.dumps(row) + "\n")
    options = {"teacher": Scripted(say=lambda prompt: samples), "sampling": Sampling(n=len(samples) or 1)} | options
    with Run(None, quiet=True) as run:
        records = list(build(run=run, prompts=str(path), **options))
        run.finish()
    return records, run


def test_what_ends_in_the_accepted_answer_is_positive_under_the_plain_problem(tmp_path):
    (record,), run = made(tmp_path, [RIGHT])
    assert (record.polarity, record.response, record.spans) == ("positive", RIGHT, ())
    assert [message.content for message in record.prompt] == ["How many clips?"]
    (asked,), _ = made(tmp_path, [RIGHT], template_in_record=True)
    assert "How many clips?" in asked.prompt[0].content and "step" in asked.prompt[0].content


def test_a_wrong_solution_is_negative_from_the_first_refuted_step_to_its_end(tmp_path):
    (record,), _ = made(tmp_path, [REFUTED])
    start = REFUTED.index("48 + 24")
    assert record.polarity == "negative" and record.spans == (Span(start=start, end=len(REFUTED), polarity="negative"),)
    assert record.evidence["outcome"] == "wrong, a step refuted"


def test_a_wrong_solution_without_a_refuted_step_is_negative_from_where_it_leaves_the_right_ones(tmp_path):
    (record,), _ = made(tmp_path, [DEPARTS])
    assert DEPARTS[record.spans[0].start :].startswith("24 * 2")
    assert made(tmp_path, [DEPARTS], first_wrong="refuted")[0] == []


def test_where_no_right_solution_is_known_nothing_departs_from_it():
    assert first_departure(DEPARTS, []) is None and first_departure(DEPARTS, [""]) is None


def test_a_wrong_solution_in_which_nothing_is_found_is_left_out_or_negative_as_a_whole(tmp_path):
    records, run = made(tmp_path, [SILENT])
    assert records == [] and run.counts["solution"] == {"wrong, nothing marked": 1}
    (record,), _ = made(tmp_path, [SILENT], unmarked="whole")
    assert record.polarity == "negative" and record.spans == ()


def test_the_steps_before_are_trained_neither_way_unless_asked_for(tmp_path):
    (record,), _ = made(tmp_path, [REFUTED], steps_before="positive")
    assert [(REFUTED[span.start : span.end], span.polarity) for span in record.spans] == [
        ("48 / 2 = 24", "positive"),
        ("48 + 24 = 73 altogether.\nAnswer: 73", "negative"),
    ]


def test_the_right_answer_after_a_wrong_step_is_no_example(tmp_path):
    records, run = made(tmp_path, [LUCKY])
    assert records == [] and run.counts["solution"] == {"right, with a wrong step": 1}


def test_a_solution_that_comes_with_the_problem_is_positive_where_asked_for(tmp_path):
    records, _ = made(tmp_path, [REFUTED], gold_solutions=True)
    assert [(one.polarity, one.response) for one in records] == [("positive", GOLD), ("negative", REFUTED)]


def test_without_an_accepted_answer_the_samples_vote(tmp_path):
    other = "24 + 48 = 72.\nAnswer: 72"
    records, run = made(tmp_path, [RIGHT, other, REFUTED], answers=())
    assert [one.polarity for one in records] == ["positive", "positive", "negative"]
    assert run.counts["problem graded by"] == {"vote": 1}


@pytest.mark.parametrize(
    ("samples", "vote"), [([RIGHT, REFUTED], 0.5), ([RIGHT, SILENT, REFUTED], 0.3), ([RIGHT, RIGHT, SILENT], 0.7)]
)
def test_a_tie_or_too_few_votes_settle_nothing_and_are_counted(tmp_path, samples, vote):
    records, run = made(tmp_path, samples, answers=(), vote=vote)
    assert records == [] and run.counts["problem graded by"] == {"nobody: no majority": 1}


def test_each_wording_is_one_record_and_each_polarity_has_its_limit(tmp_path):
    wrong = [f"48 + {n} = 100.\nAnswer: 100" for n in range(4)]
    records, run = made(tmp_path, [RIGHT, RIGHT, *wrong], negatives_per_question=3)
    assert [one.polarity for one in records] == ["positive", "negative", "negative", "negative"]
    assert run.counts["solution"]["said before"] == 1


def test_a_solution_that_was_cut_off_is_not_graded(tmp_path):
    records, run = made(tmp_path, [RIGHT + "...", " "])
    assert records == [] and run.counts["solution"] == {"cut off or blank": 2}


def test_limits_and_shares_that_make_no_sense_are_refused(tmp_path):
    for options in ({"vote": 0.0}, {"limit": 0}, {"negatives_per_question": -1}, {"sampling": Sampling(n=0)}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            made(tmp_path, [RIGHT], **options)


def test_recorded_solutions_of_gsm8k_are_kept_where_their_authors_call_them_right(shared_data, tmp_path):
    models = ("6b_finetuning", "175b_verification")
    lines = (shared_data / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    solved = [json.loads(line) for line in lines]
    marks = {one[model]["solution"]: one[model]["is_correct"] for one in solved for model in models}
    with open(tmp_path / "replay.jsonl", "w") as replay, open(tmp_path / "problems.jsonl", "w") as problems:
        for number, one in enumerate(solved):
            completions = [{"text": one[model]["solution"], "tokens": 1, "finish": "stop"} for model in models]
            replay.write(
                json.dumps({"prompt": [{"role": "user", "content": one["question"]}], "completions": completions}) + "\n"
            )
            problems.write(json.dumps({"id": str(number), "prompt": one["question"], "answers": [one["ground_truth"]]}) + "\n")
    (tmp_path / "plain.jinja").write_text("{{ question }}")
    with Run(None, quiet=True) as run:
        records = list(
            build(
                run=run,
                prompts=str(tmp_path / "problems.jsonl"),
                teacher=ReplayTeacher(path=str(tmp_path / "replay.jsonl")),
                template=tmp_path / "plain.jinja",
                sampling=Sampling(n=2),
            )
        )
    assert len(records) > 90
    assert all(marks[one.response] == (one.polarity == "positive") for one in records)
