import json
from collections import Counter
from dataclasses import dataclass, field

import pytest
from distill.data_recipes.prefer import build
from parrot import KNOWN, Parrot
from scripted import Scripted

from distill.errors import ConfigError
from distill.judges.base import PairJudge, Preference
from distill.recipes import Run
from distill.records import to_trl
from distill.teachers.base import Sampling


@dataclass(frozen=True, kw_only=True)
class Longer(PairJudge):
    """Prefers the longer one; of equal length it cannot say. `noisy` pairs go the wrong way."""

    noisy: tuple[tuple[str, str], ...] = ()
    asked: list[tuple[str, str]] = field(default_factory=list, compare=False)

    def compare(self, prompt, first, second):
        self.asked.append((first, second))
        if len(first) == len(second):
            return Preference(preferred=None, reason="as long")
        wins = (len(first) > len(second)) != ((first, second) in self.noisy)
        return Preference(preferred="first" if wins else "second", reason="longer")


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "one", [" a", " abc", " ab", " abcd", " abc", " "])
    monkeypatch.setitem(KNOWN, "equal", [" a", " b", " c"] * 2)
    monkeypatch.setitem(KNOWN, "same", [" a"] * 6)
    path = tmp_path / "p.jsonl"
    rows = [{"id": name, "prompt": name, "topic": "t"} for name in ("one", "equal", "same", "nobody")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(prompts, folder=None, **options):
    options = {"teacher": Parrot(), "judge": Longer(), "sampling": Sampling(n=6)} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=prompts, **options))
        run.finish()
    return records, run.accounts()


def shown(records):
    return [(record.group, record.response, record.polarity) for record in records]


def test_the_strongest_answer_is_positive_and_the_weakest_negative_in_one_group(prompts):
    records, accounts = made(prompts)
    assert shown(records) == [("one", " abcd", "positive"), ("one", " a", "negative")]
    assert accounts["counts"]["prompts"] == {"a pair": 1, "too close to tell": 1}
    assert accounts["stages"][0]["lost"] == {"no completion came back": 1}
    assert accounts["stages"][1]["lost"] == {"fewer than two different answers": 1}


def test_more_pairs_never_put_one_answer_on_both_sides(prompts):
    records, _ = made(prompts, pairs_per_prompt=9, min_probability=0.5)
    several = [record for record in records if record.group == "one"]
    assert shown(several)[2:] == [("one", " abc", "positive"), ("one", " ab", "negative")]
    assert len({record.response for record in several}) == len(several)


def test_pairs_are_rows_of_a_preference_loss(prompts):
    records, _ = made(prompts, pairs_per_prompt=2)
    lost: Counter[str] = Counter()
    rows = list(to_trl(records, "preference", lost=lost))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [(" abcd", " a"), (" abc", " ab")]
    assert not lost


def test_a_ranking_gives_every_answer_a_polarity_and_a_weight(prompts):
    records, _ = made(prompts, form="ranking", min_probability=0.5)
    several = [record for record in records if record.group == "one"]
    assert [record.response for record in several] == [" abcd", " abc", " ab", " a"]
    assert [record.polarity for record in several] == ["positive"] * 2 + ["negative"] * 2
    assert several[0].weight == pytest.approx(several[3].weight) and several[0].weight > several[1].weight > 0
    assert len(made(prompts, form="ranking", min_probability=0.9)[0]) == 2, "what is told apart less surely gives no record"


def test_a_contradiction_is_settled_by_all_preferences_together(prompts):
    judge = Longer(noisy=((" a", " abc"),))
    records, _ = made(prompts, judge=judge)
    assert shown(records)[0][1] == " abcd"
    evidence = records[0].evidence
    assert len(evidence["preferences"]) == 6 and len(evidence["strengths"]) == 4 and evidence["question"] == {"topic": "t"}
    assert evidence["strengths"][0]["error"] > 0 and evidence["answers"][evidence["answer"]] == " abcd"


@dataclass(frozen=True, kw_only=True)
class Circle(PairJudge):
    """a > b > c > a, and only a > b with any certainty; of other answers it cannot say."""

    def compare(self, prompt, first, second):
        known = {
            (" a", " b"): Preference(preferred="first", confidence=0.99, reason="sure"),
            (" b", " c"): Preference(preferred="first", confidence=0.55, reason="hardly"),
            (" a", " c"): Preference(preferred="second", confidence=0.55, reason="hardly"),
        }
        return known.get((first, second), Preference(preferred=None, reason="unknown"))


def test_a_preference_counts_as_much_as_the_judge_is_sure_of_it(prompts):
    records, _ = made(prompts, judge=Circle(), min_probability=0.5)
    equal = [record for record in records if record.group == "equal"]
    assert [(record.response, record.polarity) for record in equal] == [(" a", "positive"), (" b", "negative")]


def test_answers_of_equal_strength_give_no_record_at_any_threshold(prompts):
    for form in ("pairs", "ranking"):
        records, accounts = made(prompts, form=form, min_probability=0.5)
        assert "equal" not in {record.group for record in records}
        assert accounts["counts"]["prompts"]["too close to tell"] == 1


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 6),
        ({"compare": "adjacent"}, 3),
        ({"compare": "random"}, 6),
        ({"compare": "random", "comparisons": 4}, 4),
    ],
)
def test_fewer_pairs_may_be_compared_and_still_rank_all_answers(prompts, options, number):
    judge = Longer()
    records, _ = made(prompts, judge=judge, limit=1, **options)
    assert len(judge.asked) == number == len(set(map(frozenset, judge.asked)))
    assert shown(records) == [("one", " abcd", "positive"), ("one", " a", "negative")] or options.get("compare") == "adjacent"


def test_undecided_pairs_are_ties_or_left_out(prompts):
    accounts = made(prompts)[1]
    assert accounts["counts"]["comparisons"]["abstained: as long"] == 3
    assert made(prompts, abstained="drop")[1]["counts"]["prompts"]["nothing decided"] == 1


def test_a_new_judge_compares_again_and_samples_nothing(prompts, tmp_path):
    first, _ = made(prompts, tmp_path / "run")
    parrot, judge = Parrot(), Longer()
    assert made(prompts, tmp_path / "run", teacher=parrot, judge=judge)[0] == first and not parrot.calls and not judge.asked
    made(prompts, tmp_path / "run", teacher=parrot, judge=Longer(noisy=((" a", " b"),)))
    assert parrot.calls == []


def test_two_models_are_compared_together(prompts):
    records, _ = made(prompts, student=Parrot(name="pupil"))
    assert records[0].evidence["said_by"][0] == {"teacher": 1, "student": 1}


def test_batch_size_and_limit_do_not_change_a_record(prompts):
    every, _ = made(prompts, batch_size=1)
    assert every == made(prompts, batch_size=50)[0] == made(prompts, limit=1)[0]


@pytest.mark.parametrize(
    ("cut", "better", "left"), [("sentence", [" abcd.", " a."], 1), ("drop", [], 3), ("keep", [" abcd. It lies", " ab"], 0)]
)
def test_of_an_answer_that_was_cut_off_whole_sentences_are_compared(prompts, cut, better, left):
    teacher = Scripted(say=lambda prompt: [" a. It...", " ab...", " abcd. It lies..."])
    records, accounts = made(prompts, teacher=teacher, cut=cut, limit=1)
    assert [record.response for record in records] == better
    assert accounts["counts"].get("answers left out", {}).get("nothing whole in it", 0) == left
    assert bool(accounts["stages"][1]["lost"]) == (cut == "drop")


def test_answers_that_were_cut_off_are_compared_only_where_none_ended(prompts):
    teacher = Scripted(say=lambda prompt: [" a.", " abcd. It lies...", " abc."])
    records, accounts = made(prompts, teacher=teacher, limit=1)
    assert [record.response for record in records] == [" abc.", " a."]
    assert accounts["counts"]["answers left out"] == {"cut off, where others ended": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": Sampling(n=1)}, "between two answers"),
        ({"comparisons": 3}, "only with random"),
        ({"pairs_per_prompt": 0}, "pairs_per_prompt is 0"),
        ({"min_probability": 1.0}, "min_probability is 1.0"),
        ({"spread": 0.0}, "spread is 0.0"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(prompts, options, said):
    parrot = Parrot()
    with pytest.raises(ConfigError, match=said):
        made(prompts, teacher=parrot, **options)
    assert parrot.calls == []
