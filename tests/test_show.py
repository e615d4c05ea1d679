"""The laws of distill.show: what is trained is seen, and no record can repaint the terminal."""

from __future__ import annotations

import re
import unicodedata
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import byte_level, user

from distill.records import Record, Span, write_records
from distill.show import END_ISOLATE, GREEN, GREY, ISOLATE, PART, RED, RESET, printable, show, show_command

TOKENIZER = byte_level("chatml")
ESCAPE = re.compile(r"\x1b\[\d+m")


def record(response: str = "The capital is Paris.", prompt: str = "What is it?", **fields: object) -> Record:
    message = user(prompt)
    return Record(**{"id": "r1", "group": "g1", "prompt": (message,), "response": response, "polarity": "positive"} | fields)


def lines(*records: Record, color: bool = False, **options: object) -> list[str]:
    return list(show(records, TOKENIZER, color=color, **options))


def span(start: int, end: int, polarity: str, weight: float = 1.0) -> Span:
    return Span(start=start, end=end, polarity=polarity, weight=weight)


def test_the_header_counts_what_is_trained():
    response = record(spans=(span(0, 3, "positive"), span(4, 11, "negative")))
    header = lines(response)[0]
    prompt = len(TOKENIZER("<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    total = prompt + len(TOKENIZER("The capital is Paris.<|im_end|>\n")["input_ids"])
    assert header == f"r1  group g1  positive  {total} tokens, {prompt} of them prompt, supervised +1 -1"


def test_plain_marks_tell_up_from_down_from_context():
    shown = lines(record("The capital is", spans=(span(0, 3, "positive"), span(4, 11, "negative"))))
    assert shown[1:] == [
        "<|im_start|>user↵",
        "What is it?<|im_end|>↵",
        "<|im_start|>assistant↵",
        "[+The][- capital] is<|im_end|>↵",
        "",
    ]


def test_a_weight_other_than_one_follows_its_token():
    shown = lines(record("The capital", weight=0.5, spans=(span(0, 3, "positive"), span(4, 11, "negative", 2.0))))
    assert "[+The*0.5][- capital]<|im_end|>↵" in shown


def test_the_whole_end_of_turn_is_seen_to_be_trained():
    assert lines(record("The"))[-2] == "[+The][+<|im_end|>]↵"
    assert lines(record("The", polarity="negative"))[-2] == "[-The]<|im_end|>↵"


def test_colors_are_green_up_red_down_grey_context_and_every_line_ends_reset():
    shown = lines(record("The capital is", spans=(span(0, 3, "positive"), span(4, 11, "negative", 0.5))), color=True)
    assert shown[4] == f"{GREEN}The{RESET}{RED} capital*0.5{RESET}{GREY} is<|im_end|>↵{RESET}"
    assert all(line.count("\x1b") == 2 * len(re.findall(r"\x1b\[(?:3[12]|90)m", line)) for line in shown)
    assert all(line.endswith(RESET) for line in shown[1:-1])


def test_without_color_there_is_no_escape_sequence():
    assert not any("\x1b" in line for line in lines(record("a\x1b[31mb", prompt="\x1b]0;title\x07")))


def test_colored_and_plain_show_the_same_tokens():
    response = record("The [capital]", spans=(span(0, 3, "negative"),))
    plain = "".join(lines(response)).replace("[-The]", "The").replace("\\", "")
    assert ESCAPE.sub("", "".join(lines(response, color=True))) == plain


def test_text_cannot_imitate_a_mark():
    shown = "".join(lines(record("x [-The] \\", spans=(span(0, 1, "positive"),))))
    assert "[+x]" in shown
    assert "[-The]" not in shown
    assert "\\[-The\\]" in shown
    assert "\\\\" in shown


@pytest.mark.parametrize("color", [False, True])
@given(text=st.text(min_size=1, max_size=30), name=st.text(min_size=1, max_size=8))
def test_no_record_puts_a_control_or_bidi_character_on_the_screen(color, text, name):
    for line in lines(record(text, prompt=f"q {text}", id=name, group=name), color=color):
        bare = ESCAPE.sub("", line) if color else line
        harmless = bare.replace(ISOLATE, "").replace(END_ISOLATE, "").replace("\u200c", "").replace("\u200d", "")
        assert not [character for character in harmless if unicodedata.category(character)[0] == "C"]
        assert not {"\u2028", "\u2029"} & set(bare)
        assert bare.count(ISOLATE) == bare.count(END_ISOLATE)


@pytest.mark.parametrize(
    "attack", ["\u202e", "\u2066", "\u2069", "\u200f", "\x9b31m", "\x08", "\r", "\u2028", "\ufeff", "\U000e0041"]
)
def test_a_character_that_moves_or_hides_text_is_shown_by_its_code_point(attack):
    assert printable(f"a{attack}b") in (f"a\\u{{{ord(attack[0]):X}}}{attack[1:]}b", "a\\rb")
    shown = "".join(lines(record(f"a{attack}b", polarity="negative", spans=(span(0, 1, "negative"),))))
    assert attack[0] not in shown.replace(ISOLATE, "").replace(END_ISOLATE, "")


def test_tab_and_newline_are_visible_and_a_newline_breaks_the_line():
    shown = lines(record("a\tb\n\nc", spans=(span(5, 6, "positive"),)))
    assert shown[4:] == ["a→b↵", "↵", "[+c][+<|im_end|>]↵", ""]


def test_right_to_left_text_is_isolated_and_reads_in_its_own_direction():
    shown = lines(record("בירה", prompt="מה בירת צרפת?", spans=(span(0, 4, "negative"),)))
    assert f"{ISOLATE}מה בירת צרפת{END_ISOLATE}?<|im_end|>↵" in shown
    for run in re.findall("[\u0590-\u05ff]+", "".join(shown)):
        assert f"{ISOLATE}{run}" in "".join(shown) or f" {run}" in "".join(shown)


def test_emoji_are_shown_whole_and_the_tokens_of_a_part_by_a_sign():
    family = "👨\u200d👩"
    assert f"> {family}" not in "".join(lines(record(family, polarity="negative")))
    assert f"{RED}{family}{RESET}" in "".join(lines(record(family, polarity="negative"), color=True))
    assert f"[-{PART}]" in "".join(lines(record(family, polarity="negative")))


def test_a_record_that_cannot_be_rendered_shows_its_reason_and_the_rest_goes_on():
    shown = lines(record(weight=0.0), record("Paris"))
    assert shown[0] == "r1  group g1  positive  not trainable"
    assert shown[1].startswith("! record 'r1': no token is supervised: its weight is 0")
    assert "supervised +" in shown[3]
    assert lines(record(), max_tokens=3)[1].startswith("! record 'r1':")


def test_no_more_records_are_read_than_shown():
    shown = list(show(repeat(record()), TOKENIZER, color=False, limit=3))
    assert sum(line.startswith("r1 ") for line in shown) == 3
    assert list(show(repeat(record()), TOKENIZER, color=False, limit=0)) == []


def test_a_file_and_a_student_are_shown_by_name(tmp_path):
    TOKENIZER.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "student" / "model.safetensors").touch()  # never opened: the tokenizer is enough
    write_records([record("The"), record("Paris", id="r2")], tmp_path / "records.jsonl")
    paths = (tmp_path / "records.jsonl", str(tmp_path / "student"))
    assert list(show_command(*paths, limit=1, color=False)) == lines(record("The"))
    assert list(show_command(*paths, limit=None)) == lines(record("The"), record("Paris", id="r2"), color=True)
    assert "raise max_tokens" in list(show_command(*paths, max_tokens=4))[1]
