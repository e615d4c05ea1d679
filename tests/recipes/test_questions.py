import json

import pytest

from distill.errors import ConfigError, RecipeError
from distill.recipes import Question, read_questions
from distill.records import Message


def ask(text):
    return (Message(role="user", content=text),)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FRANCE = Question(id="fr", prompt=ask("Capital of France?"), answers=("Paris", "Lutetia"), extra={"topic": "capital"})


def test_jsonl_csv_and_parquet_hold_the_same_question(tmp_path):
    row = {"id": "fr", "prompt": "Capital of France?", "answers": ["Paris", "Lutetia"], "topic": "capital"}
    jsonl = written(tmp_path / "q.jsonl", json.dumps(row) + "\n\n")
    csv = written(tmp_path / "q.csv", "\ufeffid,prompt,answers,topic\r\nfr,Capital of France?,Paris|Lutetia,capital\r\n")
    parquet = tmp_path / "q.parquet"
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), parquet)
    for path in (jsonl, csv, parquet):
        questions = read_questions(path)
        assert len(questions) == 1 and list(questions) == [FRANCE] == list(questions), path.suffix


def test_a_text_file_has_one_prompt_a_line_and_ids_that_follow_the_text(tmp_path):
    questions = list(read_questions(written(tmp_path / "q.txt", "מה בירת צרפת?\n\nWho?\n")))
    assert [question.prompt for question in questions] == [ask("מה בירת צרפת?"), ask("Who?")]
    swapped = list(read_questions(written(tmp_path / "q.txt", "Who?\nמה בירת צרפת?\n")))
    assert [question.id for question in swapped] == [question.id for question in reversed(questions)]


def test_messages_keep_the_start_of_the_answer(tmp_path):
    messages = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "It is"}]
    (question,) = read_questions(written(tmp_path / "q.jsonl", json.dumps({"id": 7, "prompt": messages})))
    assert question.id == "7" and question.prompt[-1] == Message(role="assistant", content="It is")


@pytest.mark.parametrize("name", ["questions", "topics", "statements"])
def test_the_packaged_examples_are_found_by_name(name):
    questions = read_questions(f"example:{name}")
    assert len(list(questions)) == len(questions) >= 20


def test_an_unknown_example_names_those_there_are():
    with pytest.raises(ConfigError, match="example:nothing: no such example; there are .*questions, statements, topics"):
        read_questions("example:nothing")


@pytest.mark.parametrize(
    ("name", "asked", "answer", "rows"),
    [
        ("countries", "What is the capital of Kenya?", "Nairobi", 380),
        ("currencies", "What is the currency of Japan?", "Yen", 190),
        ("elements", "What is the chemical symbol of iron?", "Fe", 200),
    ],
)
def test_facts_of_packages_are_questions_with_answers(name, asked, answer, rows):
    questions = {question.prompt[0].content: question for question in read_questions(f"facts:{name}")}
    assert answer in questions[asked].answers, questions[asked].answers
    assert len(questions) >= rows
    assert set(questions[asked].extra) == {"entity", "topic", "split", "start"}
    assert {question.extra["split"] for question in questions.values()} == {"train", "validation", "test"}


def test_facts_on_what_does_not_exist_have_no_answers():
    questions = list(read_questions("facts:invented"))
    assert len(questions) >= 100 and not any(question.answers for question in questions)


def test_unknown_facts_name_those_there_are():
    with pytest.raises(RecipeError, match="facts:cities: no such facts; there are countries, currencies, elements"):
        read_questions("facts:cities")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A folder of JSON lines in two splits, as `datasets` finds them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    for split, rows in (("train", 3), ("test", 2)):
        lines = [json.dumps({"question": f"{split} {n}?", "gold": [str(n)], "score": n / 2}) for n in range(rows)]
        (tmp_path / "set" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "set"


def test_a_data_set_is_read_by_the_columns_that_are_named(library):
    source = f"datasets:{library}:train?prompt=question&answers=gold"
    questions = read_questions(source)
    assert [(q.prompt[0].content, q.answers, q.extra) for q in questions] == [
        (f"train {n}?", (str(n),), {"score": n / 2}) for n in range(3)
    ]
    assert len({question.id for question in questions}) == 3, "without a column of ids they are made from the prompts"
    assert [q.id for q in read_questions(source + "&id=%23")] == ["1", "2", "3"]


def test_a_slice_of_a_saved_data_set_is_read(library, tmp_path):
    import datasets

    datasets.load_dataset(str(library), split="test").save_to_disk(str(tmp_path / "saved"))
    assert len(read_questions(f"datasets:{tmp_path / 'saved'}?prompt=question")) == 2
    assert len(read_questions(f"datasets:{library}:train[:2]?prompt=question")) == 2


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", "it has the splits train, test; name one"),
        (":dev", "datasets cannot load it .ValueError.*dev"),
        (":train", r"row 1: no 'prompt' column; columns found: question, gold, score.*\?prompt=COLUMN"),
        (":train?id=key&prompt=question", "row 1: no 'key' column"),
        (":train?text=question", "got text after the question mark"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused_with_what_was_found(library, suffix, message):
    with pytest.raises(RecipeError, match=message):
        read_questions(f"datasets:{library}{suffix}")


def test_a_data_set_that_is_not_there_is_refused_without_the_network(tmp_path):
    with pytest.raises(RecipeError, match="datasets cannot load it"):
        read_questions(f"datasets:{tmp_path / 'nothing'}")


def test_what_json_cannot_hold_does_not_reach_the_evidence(tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    row = {"id": "a", "prompt": "Who?", "at": datetime.date(2026, 1, 2), "score": float("nan"), "raw": b"x"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "q.parquet")
    (question,) = read_questions(tmp_path / "q.parquet")
    assert question.extra == {"at": "2026-01-02", "score": None, "raw": None}


def test_a_fingerprint_is_of_the_content_and_not_of_the_file(tmp_path):
    one = written(tmp_path / "a.jsonl", '{"id": "a", "prompt": "1"}\n{"id": "b", "prompt": "2"}\n')
    same = written(tmp_path / "b.csv", "prompt,id\n1,a\n2,b\n")
    other = written(tmp_path / "c.jsonl", '{"id": "b", "prompt": "2"}\n{"id": "a", "prompt": "1"}\n')
    prints = [read_questions(path).fingerprint() for path in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0] == read_questions(f"{one}?prompt=prompt").fingerprint()


def test_ids_from_equal_prompts_are_refused_with_a_remedy(tmp_path):
    path = written(tmp_path / "q.txt", "Who?\nWhat?\nWho?\n")
    with pytest.raises(
        RecipeError, match=r"question 3 has the id .* of question 1; .*same prompt: remove one, or number.*q.txt\?id=#"
    ):
        read_questions(path)
    assert [question.id for question in read_questions(f"{path}?id=#")] == ["1", "2", "3"]


def test_columns_may_have_other_names(tmp_path):
    path = written(tmp_path / "q.csv", "key,question,gold\na,Who?,Me\n")
    assert list(read_questions(path, id_column="key", prompt_column="question", answers_column="gold"))[0].answers == ("Me",)
    assert list(read_questions(f"{path}?id=key&prompt=question&answers=gold"))[0].answers == ("Me",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", '{"id": "a", "question": "Who?"}', r"q.jsonl:1: no 'prompt' column.*columns found: id, question"),
        ("q.csv", "id,question\na,Who?\n", r"q.csv:2: no 'prompt' column.*columns found: id, question"),
        ("q.csv", "id,prompt\na,Who, me?\n", "q.csv:2: more cells than the header has"),
        (
            "q.jsonl",
            '{"id":"a","prompt":"1"}\n{"id":"b","prompt":"2"}\n{"id":"a","prompt":"3"}',
            "question 3 has the id 'a' of question 1",
        ),
        ("q.jsonl", '{"id": "a", "prompt": "1"}\n{"id": "b", "pro', "q.jsonl:2: not JSON"),
        ("q.jsonl", "[1]", "q.jsonl:1: expected an object, got list"),
        ("q.jsonl", '{"id": "a", "prompt": [{"role": "bot", "content": "x"}]}', "needs a role .system, user"),
        ("q.jsonl", '{"id": "a", "prompt": 3}', "'prompt' must be a text or a list of messages, got int"),
        ("q.jsonl", '{"id": true, "prompt": "x"}', "'id' must be a string or a whole number, got bool"),
        ("q.jsonl", '{"id": "a", "prompt": "x", "answers": [1]}', "'answers' must be a list of strings"),
        ("q.jsonl", "", "no questions in it"),
        ("q.txt", b"fine\ncaf\xe9\n", "q.txt:2: not UTF-8 .byte 3"),
        ("q.xlsx", "x", "not .xlsx"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_what_was_found(tmp_path, name, content, message):
    with pytest.raises(RecipeError, match=message):
        read_questions(written(tmp_path / name, content))


def test_a_missing_file_names_the_formats(tmp_path):
    with pytest.raises(RecipeError, match="no such file; questions come as .jsonl"):
        read_questions(tmp_path / "nowhere.jsonl")
