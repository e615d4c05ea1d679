import json
from collections import Counter
from pathlib import Path

import pytest
from distill.data_recipes.few_shot import build
from parrot import Parrot
from scripted import Scripted

from distill.consensus import normalise
from distill.errors import ConfigError
from distill.recipes import Run
from distill.records import Message, from_trl, to_trl
from distill.teachers.base import Sampling

CITIES = {"France": "Paris", "Kenya": "Nairobi", "Peru": "Lima", "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def questions(tmp_path):
    rows = [{"id": name, "prompt": f"Capital of {name}?", "answers": [city, city.upper()]} for name, city in CITIES.items()]
    return write(tmp_path / "q.jsonl", rows)


def made(prompts, folder=None, **options):
    with Run(folder, quiet=True) as run:
        records = list(build(run=run, prompts=prompts, **{"shots": (2,)} | options))
        run.finish()
    return records, run.accounts()


def test_examples_are_turns_before_the_question_and_the_accepted_answer_is_the_response(questions):
    records, accounts = made(questions)
    assert [record.group for record in records] == list(CITIES)
    for record in records:
        roles = [message.role for message in record.prompt]
        assert roles == ["user", "assistant"] * 2 + ["user"]
        assert record.response == CITIES[record.group] and record.polarity == "positive"
        for ask, answer in zip(record.prompt[0:4:2], record.prompt[1:4:2], strict=True):
            assert CITIES[ask.content.removeprefix("Capital of ").rstrip("?")] == answer.content
    assert accounts["counts"]["examples"] == {"2": 6}


@pytest.mark.parametrize("style", ["messages", "text"])
@pytest.mark.parametrize("choice", ["random", "fixed"])
def test_no_question_is_among_its_own_examples(questions, style, choice):
    for record in made(questions, shots=(5,), style=style, choice=choice)[0]:
        whole = "\n".join(message.content for message in record.prompt)
        assert whole.count(f"Capital of {record.group}?") == 1
        assert len(set(record.evidence["shots"])) == 5 and record.group not in record.evidence["shots"]


def test_another_spelling_of_the_question_and_its_group_are_never_examples(tmp_path):
    rows = [
        {"id": "a", "prompt": "Capital of France?", "answers": ["Paris"]},
        {"id": "b", "prompt": "the capital of FRANCE", "answers": ["Paris"]},
        {"id": "c", "prompt": "Capital of Peru?", "answers": ["Lima"], "group": "peru"},
        {"id": "d", "prompt": "And Peru's seat?", "answers": ["Lima"], "group": "peru"},
        {"id": "e", "prompt": "Capital of Cuba?", "answers": ["Havana"]},
    ]
    for record in made(write(tmp_path / "q.jsonl", rows), shots=(2,))[0]:
        shown = set(record.evidence["shots"])
        assert not ({"a", "b"} & shown and record.group in "ab")
        assert not ({"c", "d"} & shown and record.group == "peru") and not {"c", "d"} <= shown


def test_fixed_examples_are_the_same_for_all_and_random_ones_depend_on_the_question_alone(questions, tmp_path):
    fixed = {tuple(record.evidence["shots"]) for record in made(questions, choice="fixed")[0]}
    assert len(fixed) <= 3, "one list, but for the questions that stand in it"
    every = {record.group: record for record in made(questions)[0]}
    assert made(questions)[0] == list(every.values()) != made(questions, seed=1)[0]
    assert made(questions, limit=1)[0] == [every["France"]]


def test_a_mixed_number_of_examples_uses_each(questions):
    records, accounts = made(questions, shots=(0, 1, 3), seed=3)
    assert set(accounts["counts"]["examples"]) == {"0", "1", "3"}
    assert {len(record.prompt) for record in records} == {1, 3, 7}


def test_a_text_is_written_by_a_template_with_its_separator(questions, tmp_path):
    (record, *_) = made(questions, style="text", separator="---\n", shots=(1,))[0]
    (message,) = record.prompt
    assert (
        message.content.startswith("Question: Capital of ") and "\n---\nQuestion: Capital of France?\nAnswer:" in message.content
    )
    own = tmp_path / "own.jinja"
    own.write_text("{% for shot in shots %}{{ shot.question }}={{ shot.answer }}{{ separator }}{% endfor %}{{ question }}=")
    (record, *_) = made(questions, style="text", separator=" | ", shots=(1,), template=own)[0]
    assert record.prompt[0].content.endswith(" | Capital of France?=")


def test_a_system_message_stands_first_once_and_a_started_answer_last(tmp_path):
    def prompt(name):
        system = {"role": "system", "content": "Be brief."}
        return [system, {"role": "user", "content": f"{name}?"}, {"role": "assistant", "content": "It is"}]

    path = write(tmp_path / "q.jsonl", [{"id": n, "prompt": prompt(n), "answers": [c]} for n, c in CITIES.items()])
    for style in ("messages", "text"):
        for record in made(path, style=style, shots=(1,))[0]:
            assert [message.role for message in record.prompt].count("system") == 1
            assert record.prompt[0].role == "system" and record.prompt[-1] == Message(role="assistant", content="It is")
    (record, *_) = made(path, shots=(1,))[0]
    assert record.prompt[2].content.startswith("It is "), "the start of an example's answer is part of it"


def test_a_question_without_an_answer_is_lost_by_name_unless_a_teacher_answers_it(tmp_path):
    rows = [{"id": n, "prompt": f"{n}?", "answers": [c]} for n, c in CITIES.items()] + [{"id": "known", "prompt": "known"}]
    path = write(tmp_path / "q.jsonl", rows)
    records, accounts = made(path)
    assert len(records) == 6 and accounts["stages"][0]["lost"] == {"no accepted answer": 1}

    class Last(Parrot):
        def generate(self, prompts, sampling):
            return super().generate([prompt[-1:] for prompt in prompts], sampling)

    records, accounts = made(path, teacher=Last())
    assert [record.response for record in records] == [" Paris."] and records[0].evidence["answer_by"] == "teacher"
    assert accounts["stages"][1]["lost"] == {"no completion came back": 6}


def test_the_same_answer_may_be_kept_out_of_the_examples(tmp_path):
    rows = [{"id": str(n), "prompt": f"Is {n} even?", "answers": ["yes" if n % 2 == 0 else "no"]} for n in range(20)]
    path = write(tmp_path / "q.jsonl", rows)
    for record in made(path, same_answer=False, shots=(3,))[0]:
        assert record.response not in [message.content for message in record.prompt]
    assert made(path, shots=(8,))[1]["counts"]["an example has the question's answer"]["yes"] > 15


def test_the_pool_bounds_what_examples_are_drawn_from(questions):
    shown = {shot for record in made(questions, pool=3, shots=(1,))[0] for shot in record.evidence["shots"]}
    assert len(shown) <= 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": ()}, r"shots \[\]"),
        ({"shots": (-1,)}, r"shots \[-1\]"),
        ({"shots": (6,)}, "6 examples need 7 groups"),
        ({"pool": 2}, "pool is 2"),
        ({"limit": 0}, "limit is 0"),
        ({"template": "own.jinja"}, "not used with style messages"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(questions, options, said):
    with pytest.raises(ConfigError, match=said):
        made(questions, **options)


def test_the_records_fit_trl(questions):
    records, _ = made(questions)
    lost: Counter[str] = Counter()
    rows = list(to_trl(records, "messages", lost=lost))
    assert len(rows) == 6 and list(from_trl(rows, lost=lost)) == records and not lost


@pytest.mark.slow
def test_no_question_of_a_real_set_is_shown_before_itself(shared_data):
    path = f"{shared_data}/nq_open/NQ-open.dev.jsonl"
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()[:400]]
    records, _ = made(f"{path}?id=%23&prompt=question&answers=answer", shots=(0, 2, 4), limit=400)
    assert len(records) == 400
    for row, record in zip(rows, records, strict=True):
        *shown, asked = [normalise(message.content) for message in record.prompt if message.role == "user"]
        assert asked == normalise(row["question"]) not in shown and record.response == row["answer"][0]


def test_of_a_teachers_answer_that_was_cut_off_whole_sentences_are_kept(questions):
    teacher = Scripted(say=lambda prompt: ["Paris. It lies...", "It lies..."])
    records, accounts = made(questions, teacher=teacher, sampling=Sampling(n=2), limit=1)
    assert [record.response for record in records] == ["Paris."]
    records, accounts = made(questions, teacher=teacher, sampling=Sampling(n=1), limit=1, cut="drop")
    assert records == [] and accounts["counts"]["without a record"] == {"nothing whole in the teacher's answer": 1}
