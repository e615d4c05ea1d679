import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from distill.data_recipes.idk_scope import build
from parrot import KNOWN, Parrot
from scripted import Scripted

from distill.errors import ConfigError
from distill.judges.topic import KeywordTopic, Topic
from distill.recipes import Run
from distill.records import Prompt
from distill.teachers.base import Sampling

SCORES = {"known": 0.9, "unknown": 0.2, "unsure": 0.55, "cut": 0.8, "refuses": 0.95, "blank": 0.1, "mystery": None}


@dataclass(frozen=True, kw_only=True)
class Given(Topic):
    """Looks a prompt's score up."""

    name: str = "given"
    asked: list[str] = field(default_factory=list, compare=False)

    def scores(self, prompts: Sequence[Prompt]) -> list[float | None]:
        self.asked.extend(prompt[0].content for prompt in prompts)
        return [SCORES[prompt[0].content] for prompt in prompts]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "blank", [" "] * 5)
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"id": n, "prompt": n, "in_scope": n in ("known", "cut", "blank")}) + "\n" for n in SCORES)
    )
    return str(path)


def made(prompts, folder=None, **options):
    options = {"teacher": Parrot(), "topic": Given()} | options
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=prompts, **options))
        run.finish()
    groups: dict[str, list] = {}
    for record in records:
        groups.setdefault(record.group, []).append((record.response, record.polarity))
    return groups, run.accounts(), records


def test_on_topic_the_answer_is_positive_and_off_topic_the_refusal(prompts):
    groups, _, _ = made(prompts)
    assert groups["known"] == [(" Paris.", "positive"), ("I don't know.", "negative")]
    assert groups["unknown"] == [("I don't know.", "positive"), (" Oslo", "negative")]
    assert made(prompts, refusal_as_negative=False)[0]["known"] == [(" Paris.", "positive")]


def test_a_teacher_that_gives_no_answer_is_never_a_positive_and_never_contradicts_the_refusal(prompts):
    groups, accounts, _ = made(prompts)
    assert "refuses" not in groups and groups["blank"] == [("I don't know.", "positive")]
    assert accounts["counts"]["on topic, the teacher"] == accounts["counts"]["off topic, the teacher"] == {"gave no answer": 1}


def test_near_the_threshold_or_without_a_score_there_is_no_record_and_no_question_to_the_teacher(prompts):
    groups, accounts, _ = made(prompts, band=0.1)
    assert "unsure" not in groups and "mystery" not in groups
    assert accounts["counts"]["scope"] == {"on topic": 3, "off topic": 2, "uncertain": 1, "no score": 1}
    assert [(stage["name"], stage["in"]) for stage in accounts["stages"]] == [("topic", 7), ("answer", 5)]


def test_a_known_side_is_counted_and_never_decides(prompts):
    counts = made(prompts, band=0.1)[1]["counts"]
    assert counts["on topic by the column 'in_scope'"] == {"right": 2, "wrong": 1}
    assert counts["off topic by the column 'in_scope'"] == {"right": 1, "wrong": 1, "uncertain": 2}


def test_the_threshold_is_chosen_on_prompts_whose_side_is_known(prompts, tmp_path):
    rows = [("known", True), ("cut", True), ("unsure", False), ("unknown", False), ("mystery", True)]
    known = tmp_path / "known.csv"
    known.write_text("id,prompt,side\n" + "".join(f"{name},{name},{str(side).lower()}\n" for name, side in rows))
    options = {"validation": str(known), "scope_column": "side", "threshold": 0.0}
    groups, accounts, records = made(prompts, **options)
    assert groups["unsure"][0] == ("I don't know.", "positive") and records[0].evidence["threshold"] == pytest.approx(0.675)
    assert accounts["counts"]["threshold 0.6750, balanced accuracy 1.000 on validation"] == {
        "right": 4,
        "wrong": 0,
        "no score": 1,
    }


def test_validation_prompts_without_a_side_are_refused_before_anything_is_asked(prompts, tmp_path):
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps({"id": "a", "prompt": "known", "in_scope": "maybe", "topic": "t"}))
    parrot = Parrot()
    with pytest.raises(ConfigError, match=r"known.jsonl: the row 'a' has 'maybe' .* expected true or false; .*topic"):
        made(prompts, teacher=parrot, validation=str(known))
    assert parrot.calls == []


def test_of_several_refusals_each_prompt_gets_one_by_its_id(prompts):
    refusals = ("I only know about cities.", "Ask me about cities.", "No idea.")
    groups, _, _ = made(prompts, refusals=refusals)
    said = {group: next(text for text, _ in several if text in refusals) for group, several in groups.items()}
    assert len(set(said.values())) > 1
    again, _, _ = made(prompts, refusals=refusals, limit=2)
    assert again == {group: groups[group] for group in ("known", "unknown")}
    assert made(prompts, refusals=refusals, seed=1)[0] != groups


def test_a_started_answer_is_continued_with_a_space(tmp_path):
    path = tmp_path / "p.jsonl"
    prompt = [{"role": "user", "content": "unknown"}, {"role": "assistant", "content": "Well,"}]
    path.write_text(json.dumps({"id": "a", "prompt": prompt}))
    assert made(str(path))[0]["a"][0] == (" I don't know.", "positive")


def test_another_threshold_neither_scores_nor_asks_again(prompts, tmp_path):
    made(prompts, tmp_path / "run")
    parrot, topic = Parrot(), Given()
    groups, _, _ = made(prompts, tmp_path / "run", teacher=parrot, topic=topic, threshold=0.85)
    assert parrot.calls == [] and topic.asked == [] and groups["cut"][0][0] == "I don't know."


def test_batch_size_does_not_change_a_record(prompts):
    assert made(prompts, batch_size=1)[2] == made(prompts, batch_size=50)[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"band": -0.1}, "band -0.1"),
        ({"refusals": ()}, r"refusals \[\]"),
        ({"refusals": (" ",)}, "refusals"),
        ({"sampling": Sampling(n=0)}, "sampling.n is 0"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(prompts, options, said):
    with pytest.raises(ConfigError, match=said):
        made(prompts, **options)


def test_real_trivia_is_placed_and_counted_by_its_category(shared_data, tmp_path):
    path = tmp_path / "trivia.jsonl"
    with path.open("w") as file:
        for category in ("animals", "history"):
            text = (shared_data / "opentriviaqa" / category).read_text(encoding="utf-8", errors="replace")
            for number, block in enumerate(text.split("#Q ")[1:101]):
                row = {"id": f"{category}-{number}", "prompt": block.partition("\n")[0], "in_scope": category == "animals"}
                file.write(json.dumps(row) + "\n")

    class Any(Parrot):
        def generate(self, prompts, sampling):
            return [[_answer()] for _ in prompts]

    topic = KeywordTopic(words=("animal*", "bird*", "fish*", "dog*", "cat*", "insect*", "mammal*", "species"))
    _, accounts, records = made(str(path), teacher=Any(), topic=topic)
    assert accounts["counts"]["off topic by the column 'in_scope'"]["right"] > 90
    assert accounts["counts"]["on topic by the column 'in_scope'"]["right"] > 30
    assert len(records) == 400


def _answer():
    from distill.teachers.base import Completion

    return Completion(text="Yes.", tokens=2, finish="stop")


@pytest.mark.parametrize(
    ("cut", "known", "unknown"), [("sentence", " Paris.", None), ("keep", " Paris. It", " Oslo lies"), ("drop", None, None)]
)
def test_nobody_learns_to_stop_in_the_middle_of_an_answer_that_was_cut_off(prompts, cut, known, unknown):
    texts = {"known": " Paris. It...", "unknown": " Oslo lies..."}
    teacher = Scripted(say=lambda prompt: [texts.get(prompt[0].content, " Yes.")])
    groups, _, _ = made(prompts, teacher=teacher, cut=cut)
    assert groups.get("known") == (None if known is None else [(known, "positive"), ("I don't know.", "negative")])
    assert groups["unknown"] == [("I don't know.", "positive"), *([(unknown, "negative")] if unknown else [])]
