import json
from collections import Counter
from dataclasses import dataclass

import pytest
from distill.data_recipes.judge_answers import build
from parrot import KNOWN, Parrot
from scripted import Scripted

from distill.errors import ConfigError
from distill.judges import Judge, Verdict
from distill.judges.mentioned import MentionedAnswer
from distill.recipes import Run
from distill.records import Span, to_trl
from distill.teachers.base import Completion, Sampling


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "blank", [" ", "\n"] * 5)
    monkeypatch.setitem(
        KNOWN, "mixed", [" Rome", " Paris.", " Rome.", " Paris", " Bern", " Paris!", " ", " Oslo", " Oslo", " Oslo"]
    )
    rows = [
        {"id": "mixed", "prompt": "mixed", "answers": ["Paris", "City of Light"], "topic": "cities"},
        {"id": "wrong", "prompt": "unknown", "answers": ["Tirana"]},
        {"id": "right", "prompt": "refuses", "answers": ["I do not know"]},
        {"id": "open", "prompt": "known"},
        {"id": "blank", "prompt": "blank", "answers": ["x"]},
        {"id": "gone", "prompt": "never heard of", "answers": ["x"]},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(prompts, folder=None, **options):
    options = {"teacher": Parrot(), "sampling": Sampling(n=10)} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=prompts, **options))
        run.finish()
    groups: dict[str, list] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return groups, run.accounts()


def said(records, polarity):
    return [record.response for record in records if record.polarity == polarity]


def test_approved_answers_are_positive_and_rejected_ones_negative_the_most_frequent_first(prompts):
    groups, _ = made(prompts)
    assert said(groups["mixed"], "positive") == [" Paris.", " Paris!"]
    assert said(groups["mixed"], "negative") == [" Oslo", " Rome"]
    assert said(made(prompts, positives=1, negatives=9)[0]["mixed"], "negative") == [" Oslo", " Rome", " Bern"]
    assert said(made(prompts, negatives=0)[0]["mixed"], "negative") == []


def test_one_answer_is_judged_once_however_often_and_by_whomever_it_is_said(prompts):
    groups, accounts = made(prompts, student=Parrot(name="pupil"))
    oslo = next(record for record in groups["mixed"] if record.response == " Oslo")
    assert oslo.evidence["said_by"] == {"teacher": 3, "student": 3} and oslo.evidence["distinct_answers"] == 5
    assert [stage["name"] for stage in accounts["stages"]] == ["answer", "answer_student", "judge"]
    assert accounts["stages"][2]["in"] == made(prompts)[1]["stages"][1]["in"]


def test_what_is_not_judged_gives_no_record_and_is_counted(prompts):
    groups, accounts = made(prompts)
    assert "open" not in groups and "blank" not in groups
    assert accounts["counts"]["prompt"] == {
        "positives and negatives": 1,
        "negatives only": 2,  # a judge of answers rejects abstentions, whatever the accepted answers are
        "judge abstained on all": 1,
        "nothing whole in any answer": 1,
    }
    assert accounts["counts"]["answers left out"]["blank"] == 12
    assert accounts["stages"][0]["lost"] == {"no completion came back": 1}


def test_only_pairs_are_kept_where_a_preference_loss_needs_them(prompts):
    groups, accounts = made(prompts, keep="paired")
    assert set(groups) == {"mixed"} and accounts["counts"]["prompt"]["negatives only"] == 2
    lost: Counter[str] = Counter()
    assert len(list(to_trl(groups["mixed"], "preference", lost=lost))) == 2 and not lost


def test_an_accepted_answer_may_stand_in_where_none_was_given(prompts):
    groups, _ = made(prompts, reference_as_positive=True)
    assert said(groups["wrong"], "positive") == [" Tirana"], "with the space that the samples have"
    assert groups["wrong"][0].evidence["reason"] == "accepted answer"
    assert said(groups["mixed"], "positive") == [" Paris.", " Paris!"]


def test_a_wording_that_ended_by_itself_goes_before_the_same_one_cut(prompts, monkeypatch):
    monkeypatch.setitem(KNOWN, "mixed", [" Paris...", " Paris."])
    assert said(made(prompts, sampling=Sampling(n=2), cut="keep")[0]["mixed"], "positive") == [" Paris."]


def test_an_answer_that_was_cut_is_positive_only_where_no_approved_one_ended(prompts, monkeypatch):
    monkeypatch.setitem(KNOWN, "mixed", [" Paris. And...", " Paris. And...", " Paris. Yes"])
    assert said(made(prompts, sampling=Sampling(n=3), cut="keep")[0]["mixed"], "positive") == [" Paris. Yes"]
    assert said(made(prompts, sampling=Sampling(n=2), cut="keep")[0]["mixed"], "positive") == [" Paris. And..."]


@pytest.mark.parametrize(
    ("cut", "positive", "negative", "left"),
    [
        ("sentence", " Paris.", [" Rome."], 1),
        ("drop", None, [], 3),
        ("keep", " Paris. It lies", [" Rome. It lies", " a city"], 0),
    ],
)
def test_an_answer_that_was_cut_off_before_it_said_anything_whole_is_not_rejected_for_it(prompts, cut, positive, negative, left):
    teacher = Scripted(say=lambda prompt: [" Paris. It lies...", " Rome. It lies...", " a city..."])
    groups, accounts = made(prompts, teacher=teacher, sampling=Sampling(n=3), cut=cut, limit=1)
    assert said(groups.get("mixed", []), "positive") == ([positive] if positive else [])
    assert said(groups.get("mixed", []), "negative") == negative
    assert accounts["counts"].get("answers left out", {}).get("nothing whole in it", 0) == left
    assert accounts["counts"]["prompt"].get("nothing whole in any answer", 0) == (cut == "drop")


@dataclass(frozen=True, kw_only=True)
class Doubter(Judge):
    """Sure of Rome alone, and points at it."""

    def judge(self, prompt, response, reference=()):
        if "Rome" in response:
            place = response.index("Rome")
            spans = (Span(start=place, end=place + 4, polarity="negative"),)
            return Verdict(approved=False, confidence=0.9, reason="Rome", spans=spans, evidence={"words": "no"})
        return Verdict(approved=True, confidence=0.25, reason="whatever")


def test_confidence_may_weigh_a_record_or_drop_it(prompts):
    records = made(prompts, judge=Doubter(), weight_by_confidence=True)[0]["mixed"]
    assert {record.response: record.weight for record in records} == {" Oslo": 0.25, " Paris.": 0.25, " Rome": 0.9}
    groups, accounts = made(prompts, judge=Doubter(), min_confidence=0.5)
    assert all(record.polarity == "negative" and "Rome" in record.response for several in groups.values() for record in several)
    assert accounts["counts"]["verdicts below min_confidence"]["positive"] > 5


def test_spans_and_words_of_the_judge_are_kept(prompts):
    rome = next(record for record in made(prompts, judge=Doubter())[0]["mixed"] if record.polarity == "negative")
    assert rome.response[rome.spans[0].start : rome.spans[0].end] == "Rome" and rome.evidence["verdict"] == {"words": "no"}


def test_another_judge_or_number_of_negatives_samples_nothing_again(prompts, tmp_path):
    first = made(prompts, tmp_path / "run")[0]
    parrot = Parrot()
    again, _ = made(prompts, tmp_path / "run", teacher=parrot, judge=Doubter(), negatives=1)
    assert parrot.calls == [] and again != first
    assert made(prompts, tmp_path / "run", teacher=parrot)[0] == first


def test_batch_size_and_limit_do_not_change_a_record(prompts):
    every, _ = made(prompts, batch_size=1)
    assert every == made(prompts, batch_size=50)[0]
    assert made(prompts, limit=1)[0] == {"mixed": every["mixed"]}


def test_accepted_answers_are_asked_for_before_anything_is_sampled(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("known\n")
    parrot = Parrot()
    with pytest.raises(ConfigError, match="no prompt has accepted answers"):
        made(str(path), teacher=parrot)
    assert parrot.calls == [] and made(str(path), judge=Doubter())[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": Sampling(n=0)}, "sampling.n is 0"),
        ({"positives": -1}, "positives -1"),
        ({"positives": 0, "negatives": 0}, "not 0 of both"),
        ({"min_confidence": 1.5}, "min_confidence is 1.5"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_at_once(prompts, options, said):
    with pytest.raises(ConfigError, match=said):
        made(prompts, **options)


class Twice(Parrot):
    """The same twice, cut the second time."""

    def generate(self, prompts, sampling):
        return [
            [Completion(text=" x", tokens=1, finish="stop"), Completion(text=" x", tokens=1, finish="length")] for _ in prompts
        ]


def test_a_positive_is_marked_as_cut_only_where_it_never_ended(prompts):
    (record,) = made(prompts, teacher=Twice())[0]["blank"]
    assert record.evidence["ended"] and record.polarity == "positive"


@pytest.mark.slow
def test_the_small_model_is_judged_on_real_questions(smollm2, tmp_path):
    from distill.teachers.huggingface import HuggingFaceTeacher

    teacher = HuggingFaceTeacher(model=str(smollm2))
    sampling = Sampling(n=2, max_tokens=12, stop=("\n",))
    options = {"teacher": teacher, "sampling": sampling, "judge": MentionedAnswer(), "limit": 6}
    groups, accounts = made("facts:countries", tmp_path / "run", **options)
    verdicts = accounts["counts"]["judge"]
    assert verdicts["approved"] > 0 and verdicts["rejected"] > 0
    for record in (one for several in groups.values() for one in several):
        mentioned = any(answer in record.evidence["verdict"]["answer"] for answer in record.evidence["accepted"])
        assert mentioned == (record.polarity == "positive")
