import json

import pytest
from distill.data_recipes.idk_consensus import build
from parrot import KNOWN, Parrot

from distill.consensus import ConsensusLabeller, LogProbLabeller
from distill.errors import ConfigError
from distill.recipes import Run
from distill.teachers.base import Completion, Sampling

ANSWERS = {"known": ["Paris"], "unknown": ["Kyiv"], "unsure": ["A"], "cut": [], "refuses": []}


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"id-{name}", "prompt": name, "answers": answers, "topic": "cities"} for name, answers in ANSWERS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(questions, folder=None, **options):
    """Records by question, and the run's accounts."""
    options = {"teacher": Parrot(), "labeller": ConsensusLabeller(threshold=0.5, band=0.2)} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=questions, **options))
        run.finish()
    groups: dict[str, list] = {}
    for record in records:
        groups.setdefault(record.group.removeprefix("id-"), []).append(record)
    return groups, run.accounts()


def said(records, polarity):
    return [record.response for record in records if record.polarity == polarity]


def test_a_known_question_has_its_majority_answer_against_the_abstention(questions):
    groups, _ = made(questions)
    assert said(groups["known"], "positive") == [" Paris."], "the exact sampled wording, leading space included"
    assert said(groups["known"], "negative") == ["I don't know."]
    assert said(made(questions, abstention_as_negative=False)[0]["known"], "negative") == []
    assert said(made(questions, minority_as_negative=True)[0]["known"], "negative") == ["I don't know.", " Lyon", " Nice"]


def test_an_unknown_question_has_the_abstention_against_its_most_frequent_wrong_answers(questions):
    groups, _ = made(questions)
    assert said(groups["unknown"], "positive") == ["I don't know."]
    assert said(groups["unknown"], "negative") == [" Rome", " Oslo"]
    every = said(made(questions, negatives_per_question=99)[0]["unknown"], "negative")
    assert every == [" Rome", " Oslo", " Bern", " Kyiv", " Riga", " Bonn"], "abstentions and blanks are no wrong answers"
    assert said(made(questions, negatives_per_question=0)[0]["unknown"], "negative") == []


def test_a_question_that_is_always_declined_has_the_abstention_alone(questions):
    (record,) = made(questions)[0]["refuses"]
    assert (record.response, record.polarity) == ("I don't know.", "positive")


def test_an_uncertain_question_gives_no_record_and_is_counted(questions):
    groups, accounts = made(questions)
    assert "unsure" not in groups
    assert accounts["counts"]["label"] == {"answerable": 2, "uncertain": 1, "unanswerable": 2}
    assert [stage["out"] for stage in accounts["stages"]] == [5, 5]


def test_a_wording_that_was_cut_gives_way_to_one_that_ended(questions):
    assert said(made(questions)[0]["cut"], "positive") == [" Paris."]


def test_of_equally_frequent_wordings_the_shortest_speaks(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "wordy", [" Paris. A fine city.", " Paris.", " Paris! Of course."] * 3 + [" Rome"])
    path = tmp_path / "q.txt"
    path.write_text("wordy\n")
    (records,) = made(path)[0].values()
    assert said(records, "positive") == [" Paris."]


def test_the_evidence_allows_another_label_without_sampling_again(questions):
    for record in made(questions)[0]["unknown"]:
        evidence = record.evidence
        assert len(evidence["samples"]) == 10 and evidence["label"] == "unanswerable" and evidence["agreement"] == 0.2
        assert evidence["low"] <= evidence["high"] and evidence["question"] == {"topic": "cities"}
        assert sorted(index for cluster in evidence["clusters"] for index in cluster["members"]) == list(range(10))
        assert all(cluster["count"] == len(cluster["members"]) for cluster in evidence["clusters"])


def test_a_new_threshold_labels_again_and_samples_nothing(questions, tmp_path):
    made(questions, tmp_path / "run")
    parrot = Parrot()
    groups, _ = made(questions, tmp_path / "run", teacher=parrot, labeller=ConsensusLabeller(threshold=0.9, band=0.05))
    assert parrot.calls == [] and said(groups["known"], "positive") == ["I don't know."]


def test_accepted_answers_are_counted_but_never_decide_unless_asked(questions):
    groups, accounts = made(questions)
    assert accounts["counts"]["unanswerable, majority answer against the accepted ones"] == {"wrong": 1}
    assert accounts["counts"]["answerable, majority answer against the accepted ones"] == {"right": 1}
    gold, _ = made(questions, gold=True, negatives_per_question=99)
    assert said(gold["unsure"], "positive") == [" A"], "the majority answer is right, however rare"
    assert " Kyiv" not in said(gold["unknown"], "negative"), "an accepted answer is never a negative"
    assert said(gold["cut"], "positive") == ["I don't know."]


def test_gold_labels_without_any_accepted_answer_are_refused_before_sampling(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("known\n")
    parrot = Parrot()
    with pytest.raises(ConfigError, match="gold=True needs accepted answers"):
        made(path, teacher=parrot, gold=True)
    assert parrot.calls == []


def test_the_abstention_keeps_its_space_only_where_it_continues_an_answer(tmp_path):
    path = tmp_path / "q.jsonl"
    prompt = [{"role": "user", "content": "unknown"}, {"role": "assistant", "content": "It is"}]
    path.write_text(json.dumps({"id": "id-started", "prompt": prompt}))
    assert said(made(path)[0]["started"], "positive") == [" I don't know."]


def test_rounds_give_the_same_labels_with_fewer_samples(questions):
    parrot = Parrot()
    rounds, accounts = made(questions, teacher=parrot, rounds=(4, 3, 3))
    assert accounts["counts"]["label"] == made(questions)[1]["counts"]["label"]
    assert parrot.calls[0] == 4 and min(len(records[0].evidence["samples"]) for records in rounds.values()) < 10
    with pytest.raises(ConfigError, match="rounds .* need a ConsensusLabeller"):
        made(questions, rounds=(4, 3), labeller=LogProbLabeller())


def test_batch_size_and_limit_do_not_change_a_record(questions):
    every, _ = made(questions, batch_size=1)
    assert every == made(questions, batch_size=50)[0]
    assert made(questions, limit=1)[0] == {"known": every["known"]}


def test_an_abstention_that_evaluation_would_not_recognise_is_refused(questions):
    with pytest.raises(ConfigError, match="not recognised"):
        made(questions, abstention="Paris")


def test_a_question_without_any_completion_is_lost_by_name(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("known\nnever heard of\n")
    _, accounts = made(path)
    assert accounts["stages"][0]["lost"] == {"no completion came back": 1}


def test_fewer_samples_than_asked_for_are_sampled_at_the_given_number(questions):
    parrot = Parrot()
    made(questions, teacher=parrot, sampling=Sampling(n=5), batch_size=2)
    assert parrot.calls == [5, 5, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"negatives_per_question": -1}, "negatives_per_question is -1"),  # a slice up to -1 would take all but the last
        ({"limit": 0}, "limit is 0"),
        ({"limit": -1}, "limit is -1"),
        ({"rounds": (4, 0)}, r"rounds \[4, 0\]"),
        ({"sampling": Sampling(n=0)}, "sampling.n is 0"),
        ({"mistake_weight": -1.0}, "mistake_weight is -1"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_sampled_or_written(questions, tmp_path, options, said):
    parrot = Parrot()
    with pytest.raises(ConfigError, match=said):
        made(questions, folder=tmp_path / "run", teacher=parrot, **options)
    assert parrot.calls == [] and not list((tmp_path / "run").rglob("*.jsonl"))


class Told(Parrot):
    """A second model: it says `answers[question]`, as often as is written there."""

    answers = {
        "known": [" Paris."] * 10,
        "cut": [" Lyon"] * 8 + [" Paris."] * 2,
        "unsure": [" A"] * 10,
        "unknown": [" Turin"] * 8 + [" Bern", " Pisa"],
        "refuses": [" Rome", " Oslo", " Bern", " Kyiv", " Riga", " Bonn", " Nice", " Lyon", " Genoa", " Cork"],
    }

    def generate(self, prompts, sampling):
        self.calls.append(sampling.n)
        samples = [self.answers[prompt[0].content][sampling.skip : sampling.skip + sampling.n] for prompt in prompts]
        return [[Completion(text=text, tokens=2, finish="stop") for text in several] for several in samples]


def test_a_teacher_and_a_student_who_agree_give_the_teachers_answer(questions):
    groups, accounts = made(questions, student=Told(name="pupil"))
    assert said(groups["known"], "positive") == [" Paris."] and said(groups["known"], "negative") == ["I don't know."]
    assert groups["known"][0].evidence["cell"] == "teacher answerable, student answerable (the same answer)"
    assert accounts["counts"]["teacher answerable, student"] == {
        "answerable (the same answer)": 1,
        "answerable (another answer)": 1,
    }


def test_what_a_student_is_sure_of_and_the_teacher_knows_better_is_a_negative_of_its_own_weight(questions):
    records = made(questions, student=Told(name="pupil"), mistake_weight=2.0)[0]["cut"]
    assert said(records, "positive") == [" Paris."] and said(records, "negative") == ["I don't know.", " Lyon"]
    assert [record.weight for record in records] == [1.0, 1.0, 2.0] and records[-1].evidence["role"] == "mistake"


def test_where_the_teacher_is_split_the_students_own_answers_are_the_negatives(questions):
    groups, accounts = made(questions, student=Told(name="pupil"), unconfirmed="deny")
    assert said(groups["unknown"], "positive") == ["I don't know."] and said(groups["unknown"], "negative") == [" Turin", " Pisa"]
    assert [record.evidence["role"] for record in groups["unknown"]] == ["abstention", "mistake", "wrong"]
    assert said(groups["refuses"], "negative") == [" Rome", " Oslo"], "both split"
    assert accounts["counts"]["teacher unanswerable, student"] == {"answerable": 1, "unanswerable": 1}
    assert "unsure" not in groups, "an uncertain teacher decides nothing, however sure the student is"
    assert accounts["counts"]["teacher uncertain, student"] == {"answerable": 1}


def test_what_only_the_teacher_knows_is_taught_or_left_unknown(questions):
    teacher, student = Told(name="master"), Parrot()
    groups, _ = made(questions, teacher=teacher, student=student)
    assert said(groups["unknown"], "positive") == [" Turin"] and said(groups["unknown"], "negative") == ["I don't know."]
    groups, _ = made(questions, teacher=teacher, student=student, minority_as_negative=True)
    assert said(groups["unknown"], "negative") == ["I don't know.", " Rome", " Oslo"]
    groups, _ = made(questions, teacher=teacher, student=student, teach_unknown=False)
    assert said(groups["unknown"], "positive") == ["I don't know."] and said(groups["unknown"], "negative") == [" Rome", " Oslo"]
    assert "unsure" not in groups, "whether the student knows is uncertain"


def test_what_only_the_student_is_sure_of_gives_no_record_unless_it_is_to_be_denied(questions):
    groups, accounts = made(questions, student=Told(name="pupil"))
    assert "unknown" not in groups and accounts["counts"]["teacher unanswerable, student"]["answerable"] == 1


def test_what_the_teacher_says_now_and_then_is_no_negative_unless_asked_for(questions):
    options = {"student": Told(name="pupil"), "negatives_per_question": 9, "unconfirmed": "deny"}
    spared = said(made(questions, **options)[0]["unknown"], "negative")
    every = said(made(questions, **options, spare_shared=False)[0]["unknown"], "negative")
    assert spared == [" Turin", " Pisa"] and every == [" Turin", " Bern", " Pisa"]


def test_an_answer_that_holds_the_right_one_whole_is_no_negative(questions, monkeypatch):
    monkeypatch.setitem(KNOWN, "known", [" Paris."] * 7 + [" Paris, the old one", " Parish", " Lyon"])
    options = {"minority_as_negative": True, "negatives_per_question": 9, "abstention_as_negative": False}
    assert said(made(questions, **options)[0]["known"], "negative") == [" Parish", " Lyon"]
    every = said(made(questions, **options, spare_shared=False)[0]["known"], "negative")
    assert every == [" Paris, the old one", " Parish", " Lyon"]


def test_teach_unknown_without_a_student_is_refused(questions):
    with pytest.raises(ConfigError, match="teach_unknown=False needs a student"):
        made(questions, teach_unknown=False)


def test_the_evidence_of_both_models_is_kept_and_no_row_is_lost(questions):
    groups, accounts = made(questions, student=Told(name="pupil"))
    assert [stage["name"] for stage in accounts["stages"]] == ["sample", "label", "sample_student", "label_student"]
    assert all(stage["in"] == stage["out"] == 5 for stage in accounts["stages"])
    for records in groups.values():
        assert len(records[0].evidence["samples"]) == 10 == len(records[0].evidence["student"]["samples"])


def test_a_student_in_rounds_is_sampled_less_too(questions):
    student = Told(name="pupil")
    records, _ = made(questions, student=student, rounds=(4, 3, 3))
    assert student.calls[0] == 4 and len(records["known"][0].evidence["student"]["samples"]) < 10


def test_negatives_are_counted_against_the_accepted_answers(questions):
    options = {"student": Told(name="pupil"), "negatives_per_question": 1, "unconfirmed": "deny"}
    counts = made(questions, **options)[1]["counts"]
    assert counts["negatives (mistake) against the accepted answers"] == {"wrong": 1}
