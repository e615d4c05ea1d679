"""TRL's rows: exact where they were written here, sensible where they are foreign, and every loss counted by its reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_strategies import a_record, full_texts, record_lists

from distill.errors import RecordError
from distill.records import TRL_FORMATS, Message, Record, Span, from_trl, make_group, to_trl

COLUMNS = {
    "unpaired": {"prompt", "completion", "label", "distill_record"},
    "preference": {"prompt", "chosen", "rejected", "distill_chosen", "distill_rejected"},
    "prompt-completion": {"prompt", "completion", "distill_record"},
    "messages": {"messages", "distill_record"},
    "stepwise": {"prompt", "completions", "labels", "distill_record"},
}
user_prompts = full_texts.map(lambda text: (Message(role="user", content=text),))
started_prompts = st.tuples(full_texts, full_texts).map(
    lambda pair: (Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1]))
)
system_prompts = user_prompts.map(lambda prompt: (Message(role="system", content="Be brief."), *prompt))
SHARED = (Message(role="user", content="What is the capital of France?"),)  # so that pairs of one question are frequent
shared_prompts = st.sampled_from([SHARED, (*SHARED, Message(role="assistant", content="It is"))])
any_prompts = st.one_of(shared_prompts, shared_prompts, user_prompts, started_prompts, system_prompts)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def there(records: list[Record], format: Any, *, conversational: bool = True) -> tuple[list[dict[str, Any]], Counter[str]]:
    lost: Counter[str] = Counter()
    return list(to_trl(records, format, lost=lost, conversational=conversational)), lost


def back(rows: list[dict[str, Any]], format: Any = None, source: str = "") -> tuple[list[Record], Counter[str]]:
    lost: Counter[str] = Counter()
    return list(from_trl(rows, format, lost=lost, source=source)), lost


@settings(max_examples=120, deadline=None)
@given(format=st.sampled_from(TRL_FORMATS), conversational=st.booleans(), records=record_lists(any_prompts))
def test_what_is_written_comes_back_exactly_and_the_rest_is_counted(
    format: Any, conversational: bool, records: list[Record]
) -> None:
    records = sorted(records, key=lambda record: record.group)
    rows, lost = there(records, format, conversational=conversational)
    assert all(row.keys() == COLUMNS[format] for row in rows)
    returned, lost_on_return = back(rows)
    assert not lost_on_return
    assert len(returned) + lost.total() == len(records)
    assert returned == [record for record in records if record.id in {other.id for other in returned}]
    if format == "unpaired" and conversational:
        assert returned == records


def test_an_unpaired_row_is_what_trl_reads() -> None:
    (row,), lost = there([a_record(2, response="Lyon", prompt=(Message(role="user", content="Capital?"),))], "unpaired")
    assert {name: row[name] for name in ("prompt", "completion", "label")} == {
        "prompt": user("Capital?"),
        "completion": assistant("Lyon"),
        "label": False,
    }
    paris = a_record(1, response="Paris", prompt=(Message(role="user", content="Capital?"),))
    (row,), _ = there([paris], "unpaired", conversational=False)
    assert (row["prompt"], row["completion"], row["label"]) == ("Capital?", "Paris", True)
    assert not lost


def test_each_positive_and_each_negative_of_a_question_is_in_a_pair() -> None:
    ask = (Message(role="user", content="Capital?"),)
    sides = [("n1", "negative"), ("p1", "positive"), ("n2", "negative"), ("n3", "negative"), ("p2", "positive")]
    records = [a_record(1, id=name, group="g", prompt=ask, response=name, polarity=polarity) for name, polarity in sides]
    rows, lost = there(records, "preference", conversational=False)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("p1", "n1"), ("p2", "n2"), ("p1", "n3")]
    assert not lost
    assert back(rows)[0] == records
    assert sorted(record.id for record in back(rows[::-1])[0]) == sorted(name for name, _ in sides)


def test_a_group_without_a_negative_is_counted_in_paired_form() -> None:
    records = [a_record(1), a_record(2), a_record(3), a_record(5, group="g9"), a_record(8, group="g9")]
    rows, lost = there(records, "preference")
    assert len(rows) == 1
    assert lost == {
        "no negative response to the same prompt in its group": 2,
        "no positive response to the same prompt in its group": 1,
    }


def test_a_group_in_two_places_is_an_error_not_a_missing_pair() -> None:
    with pytest.raises(RecordError, match=r"group 'g1' comes back after other groups.*sorted\(records"):
        there([a_record(1), a_record(3), a_record(2)], "preference")


@pytest.mark.parametrize("format", ["prompt-completion", "messages"])
def test_a_negative_response_never_becomes_a_row_to_imitate(format: Any) -> None:
    rows, lost = there([a_record(1), a_record(2)], format)
    assert len(rows) == 1
    assert lost == {f"a negative response has no place in {format} rows": 1}


def test_a_started_answer_moves_into_the_completion_so_that_trl_sees_one_turn() -> None:
    prompt = (Message(role="user", content="Capital of France?"), Message(role="assistant", content="It is"))
    record = a_record(1, prompt=prompt, response=" Paris.", spans=(Span(start=1, end=6, polarity="positive"),))
    for format in ("unpaired", "prompt-completion"):
        (row,), _ = there([record], format)
        assert row["prompt"] == user("Capital of France?")
        assert row["completion"] == assistant("It is Paris.")
        assert back([row])[0] == [record]
    (row,), _ = there([record], "messages")
    assert row["messages"] == user("Capital of France?") + assistant("It is Paris.")
    negative = a_record(2, group=record.group, prompt=prompt, response=" Lyon.")
    (row,), _ = there([record, negative], "preference", conversational=False)
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Capital of France?", "It is Paris.", "It is Lyon.")
    assert back([row])[0] == [record, negative]


def test_a_foreign_prompt_that_ends_with_the_assistant_is_a_started_answer() -> None:
    ((record,), _) = back([{"prompt": user("Capital?") + assistant("It is"), "completion": assistant(" Paris")}])
    assert [message.role for message in record.prompt] == ["user", "assistant"]
    assert record.response == " Paris"


def test_prompts_that_trl_cannot_hold_are_counted() -> None:
    system = Message(role="system", content="s")
    records = [
        a_record(1, prompt=(Message(role="assistant", content="It is"),)),
        a_record(3, prompt=(Message(role="user", content="u"), system)),
        a_record(5, prompt=(system, Message(role="user", content="u"))),
    ]
    rows, lost = there(records, "unpaired")
    assert len(rows) == 1
    assert lost == {
        "a prompt of nothing but a started answer": 1,
        "a prompt that ends with the system (TRL wants a user or a tool)": 1,
    }
    rows, lost = there(records, "unpaired", conversational=False)
    assert not rows
    assert lost == {
        "a prompt of nothing but a started answer": 1,
        "a prompt that is not one user message cannot be plain text": 2,
    }


# --- stepwise


def test_spans_are_steps_and_steps_are_spans() -> None:
    response = "2 + 2 = 4\n4 * 3 = 13\nSo 13"
    spans = (
        Span(start=0, end=9, polarity="positive", weight=0.5),
        Span(start=10, end=20, polarity="negative"),
        Span(start=21, end=26, polarity="negative"),
    )
    record = a_record(2, response=response, spans=spans, prompt=(Message(role="user", content="(2 + 2) * 3?"),))
    (row,), lost = there([record], "stepwise")
    assert row["prompt"] == "(2 + 2) * 3?"
    assert row["completions"] == ["2 + 2 = 4", "4 * 3 = 13", "So 13"]
    assert row["labels"] == [True, False, False]
    assert back([row]) == ([record], Counter())
    del row["distill_record"]
    ((foreign,), _) = back([row], source="shepherd")
    assert (foreign.response, foreign.polarity, foreign.source) == (response, "negative", "shepherd")
    assert [(span.start, span.end, span.polarity) for span in foreign.spans] == [(s.start, s.end, s.polarity) for s in spans]


def test_text_outside_the_steps_is_counted_and_white_space_is_kept() -> None:
    gap = (Span(start=0, end=2, polarity="positive"), Span(start=4, end=6, polarity="negative"))
    rows, lost = there([a_record(1, response="ab  cd\n", spans=gap), a_record(3, response="ab, cd", spans=gap)], "stepwise")
    assert [row["completions"] for row in rows] == [["ab", "cd"]]
    assert lost == {"text outside its spans belongs to no step": 1}
    assert back(rows)[0][0].response == "ab  cd\n"


def test_a_solution_of_right_steps_only_is_positive() -> None:
    ((record,), _) = back([{"prompt": "1 + 1?", "completions": ["שלב א", "2"], "labels": [True, True]}])
    assert record.polarity == "positive"
    assert record.response[slice(record.spans[1].start, record.spans[1].end)] == "2"


# --- foreign rows


def test_foreign_rows_get_groups_by_prompt_and_ids_by_content() -> None:
    rows = [
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        {"prompt": "The sky is", "completion": " green.", "label": False},
        {"prompt": user("The sun is"), "completion": assistant(" hot."), "label": True},
    ]
    records, lost = back(rows, source="trl-lib/x")
    assert [(record.response, record.polarity, record.source) for record in records] == [
        (" blue.", "positive", "trl-lib/x"),
        (" green.", "negative", "trl-lib/x"),
        (" hot.", "positive", "trl-lib/x"),
    ]
    assert records[0].group == records[1].group == make_group(records[0].prompt) != records[2].group
    assert len({record.id for record in records}) == 3
    assert back(rows, source="trl-lib/x") == (records, lost)


def test_a_chosen_response_with_many_rejected_ones_becomes_one_record() -> None:
    records, lost = back([{"prompt": "q", "chosen": "good", "rejected": bad} for bad in ("bad", "worse", "bad")])
    assert [record.response for record in records] == ["good", "bad", "worse"]
    assert lost == {"the same response to the same prompt, once more": 3}


def test_a_preference_row_without_a_prompt_shares_its_beginning() -> None:
    ((chosen, rejected), _) = back([{"chosen": "The sky is blue.", "rejected": "The sky is green."}])
    assert (chosen.prompt[0].content, chosen.response, rejected.response) == ("The sky is", " blue.", " green.")
    talk = user("Hi") + assistant("Hello") + user("Capital?")
    ((chosen, rejected), _) = back([{"chosen": talk + assistant("Paris"), "rejected": talk + assistant("Lyon")}])
    assert ([m.content for m in chosen.prompt], chosen.response, rejected.response) == (
        ["Hi", "Hello", "Capital?"],
        "Paris",
        "Lyon",
    )


LOSSES = {
    "an empty completion": ({"prompt": "q", "completion": ""}, "an empty response", 1),
    "an empty list of messages": ({"prompt": "q", "completion": []}, "an empty response", 1),
    "an empty prompt": ({"prompt": "", "completion": "a"}, "an empty prompt", 1),
    "an unknown role": (
        {"prompt": [{"role": "developer", "content": "x"}], "completion": "a"},
        "a message with the role 'developer'",
        1,
    ),
    "a tool call": (
        {"prompt": "q", "completion": [{"role": "assistant", "content": "a", "tool_calls": [{"name": "f"}]}]},
        "a message with tool_calls",
        1,
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, *assistant("a")]},
        "a message whose content is not text",
        1,
    ),
    "a response of several messages": ({"prompt": "q", "completion": assistant("a") * 2}, "a response of several messages", 1),
    "a conversation that ends with the user": (
        {"messages": assistant("a") + user("q")},
        "a response by the user, not the assistant",
        1,
    ),
    "sides that are the same": ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same", 2),
    "sides with nothing shared": ({"chosen": "a", "rejected": "b"}, "no prompt: chosen and rejected begin differently", 2),
    "one empty side": ({"prompt": "q", "chosen": "a", "rejected": ""}, "an empty response", 1),
    "an empty step": ({"prompt": "q", "completions": ["a", ""], "labels": [True, False]}, "an empty step", 1),
}


@pytest.mark.parametrize(("row", "reason", "count"), LOSSES.values(), ids=LOSSES.keys())
def test_a_foreign_row_that_no_record_can_express_is_counted_with_its_reason(
    row: dict[str, Any], reason: str, count: int
) -> None:
    records, lost = back([row])
    assert lost == {reason: count}
    assert len(records) == (1 if "one" in row or row.get("chosen") == "a" and row.get("rejected") == "" else 0)


def test_null_fields_that_arrow_adds_to_messages_are_ignored() -> None:
    message = {"role": "user", "content": "q", "name": None, "tool_calls": []}
    ((record,), lost) = back([{"prompt": [message], "completion": assistant("a"), "label": True}])
    assert record.prompt[0].content == "q"
    assert not lost


MISTAKES = {
    "a label of another type": (
        [{"prompt": "q", "completion": "a", "label": 1}],
        None,
        "row 1: label: got 1, expected true or false",
    ),
    "a missing column": ([{"prompt": "q", "completion": "a"}], "unpaired", "row 1: label: missing, expected in every row"),
    "a missing side": ([{"prompt": "q", "chosen": "a"}], "preference", "row 1: rejected: missing"),
    "unknown columns": ([{"text": "a"}], None, "row 1: columns text are none of TRL's formats"),
    "a prompt of another type": ([{"prompt": 1, "completion": "a"}], None, "row 1: prompt: got 1, expected text or a list"),
    "a message of text": ([{"prompt": ["q"], "completion": "a"}], None, "row 1: prompt[0]: got 'q', expected a message"),
    "too few labels": (
        [{"prompt": "q", "completions": ["a"], "labels": [True, False]}],
        None,
        "row 1: labels: got 2 for 1 completions",
    ),
    "labels of numbers": (
        [{"prompt": "q", "completions": ["a"], "labels": [1]}],
        None,
        "row 1: labels: got [1], expected a list of bool",
    ),
    "a second row that differs": (
        [{"prompt": "q", "completion": "a"}, {"messages": user("a")}],
        None,
        "row 2: prompt: missing, expected in every row",
    ),
    "an unknown format": ([], "dpo", "format: got 'dpo', expected one of unpaired, preference"),
    "a foreign distill_ column": (
        [{"prompt": "q", "completion": "a", "distill_record": "{}"}],
        None,
        "row 1: distill_record: not written by to_trl; remove",
    ),
    "a broken distill_ column": (
        [{"prompt": "q", "completion": "a", "distill_record": "{"}],
        None,
        "row 1: distill_record: not JSON text",
    ),
}


@pytest.mark.parametrize(("rows", "format", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_row_that_is_not_trls_is_an_error_that_names_row_and_column(rows: list[Any], format: Any, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        back(rows, format)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("format", "change"),
    [
        ("unpaired", {"completion": assistant("Lyon!")}),
        ("unpaired", {"prompt": user("Another question?")}),
        ("unpaired", {"label": False}),
        ("stepwise", {"completions": ["Lyon!"]}),
        ("stepwise", {"labels": [False]}),
    ],
)
def test_a_row_whose_text_was_changed_is_not_given_its_old_spans_and_id(format: Any, change: dict[str, Any]) -> None:
    (row,), _ = there([a_record(1)], format)
    with pytest.raises(RecordError, match="row 1: distill_record: tells of another text than the row holds; remove the distill_"):
        back([{**row, **change}])
    foreign = {name: value for name, value in {**row, **change}.items() if name != "distill_record"}
    assert len(back([foreign])[0]) == 1


def test_rows_survive_the_datasets_library(tmp_path: Any) -> None:
    import datasets

    records = [a_record(n, source="s", weight=0.5, evidence={"votes": n}) for n in range(1, 9)]
    rows, _ = there(records, "preference")
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "pairs.parquet"))
    stored = datasets.load_dataset("parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path))
    assert back(list(stored))[0] == records


def test_conversion_is_a_stream() -> None:
    lost: Counter[str] = Counter()
    endless = (a_record(n) for n in iter(lambda: 1, 2))
    assert next(to_trl(endless, "unpaired", lost=lost))["label"] is True
    assert next(from_trl(to_trl(endless, "messages", lost=lost), lost=lost)).id == "r1"
