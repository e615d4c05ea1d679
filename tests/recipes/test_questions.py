import json

import pytest

from distill.errors import RecipeError
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


def test_columns_may_have_other_names(tmp_path):
    path = written(tmp_path / "q.csv", "key,question,gold\na,Who?,Me\n")
    assert list(read_questions(path, id_column="key", prompt_column="question", answers_column="gold"))[0].answers == ("Me",)


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
