"""The recipe salient_spans: what is found, that nothing else changes, and how often the rules are right, checked by hand."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.salient_spans import build, unmarked
from distill.errors import ConfigError
from distill.recipes import Run
from distill.recipes.salience import Found, RuleTagger, Tagger, detokenised, weighted_spans, wrapped
from distill.records import Message, Record, Span, write_records

TEXT = "It opened in 1901. On 4 July 1976 Ada Lovelace paid $3.50 for 12 km of wire. See https://example.org/a, said Ada."
KINDS = ("link", "date", "number", "name")
ASK = (Message(role="user", content="?"),)


def found_in(text, **settings):
    return [(text[one.start : one.end], one.kind) for one in RuleTagger(**settings).find(text)]


def made(**settings):
    with Run(None, quiet=True) as run:
        return list(build(run=run, **settings)), run


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text(f"{TEXT}\nOnly one sentence here.\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "date", "number", "link", "name"),
    [
        ("on 4 July 1976, and July 4, 1776.", "4 July 1976|July 4, 1776", "", "", ""),
        ("the 1990s, 1914–18, 44 BC, the 19th century", "1990s|1914–18|44 BC|19th century", "", "", ""),
        ("2026-11-22 at 10:30 am", "2026-11-22|10:30 am", "", "", ""),
        ("you may march in May", "May", "", "", ""),
        ("it cost $1.5 million, 40% more", "", "$1.5 million|40%", "", ""),
        ("12.5 km/h, 3 ft 2 in, -4 °C, 1,234 people", "", "12.5 km/h|3 ft 2 in|-4 °C|1,234 people", "", ""),
        ("write to a.b@example.org or (see www.example.org/x_(y)).", "", "", "a.b@example.org|www.example.org/x_(y)", ""),
        ("we met J. R. R. Tolkien and Dr. Watson", "", "", "", "J. R. R. Tolkien|Dr. Watson"),
        ("the University of Oxford and the Bay of Bengal", "", "", "", "University of Oxford|Bay of Bengal"),
        ("Rain fell. France's king, Louis XVI's wife. That's all.", "", "", "", "France|Louis XVI"),
        ("Paris was dry. But in Paris it rained. Yesterday.", "", "", "", "Paris|Paris"),
        ("a1b2 x86 nothing", "", "", "", ""),
    ],
)
def test_what_the_rules_find(text, date, number, link, name):
    expected = {"date": date, "number": number, "link": link, "name": name}
    found = {kind: "|".join(one for one, its in found_in(text) if its == kind) for kind in expected}
    assert found == expected


def test_only_the_kinds_asked_for_are_found():
    assert {kind for _, kind in found_in(TEXT, kinds=("link", "number"))} == {"link", "number"}


@given(text=st.text(alphabet="aA1 .,-–:/@$%'\"\n" + "éשJuly2May", max_size=60))
def test_stretches_are_in_order_inside_the_text_and_never_overlap(text):
    found = RuleTagger().find(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(first.end <= second.start for first, second in pairwise(found))


@given(text=st.text(max_size=30), data=st.data())
def test_weighting_changes_weights_alone(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    found = [Found(a, b, "date") for a, b in zip(cuts[::2], cuts[1::2])]
    if not text:
        return
    spans = weighted_spans(len(text), [Span(start=0, end=len(text), polarity="positive")], found, {"date": 3.0})
    weights = [next(span.weight for span in spans if span.start <= n < span.end) for n in range(len(text))]
    assert weights == [3.0 if any(one.start <= n < one.end for one in found) else 1.0 for n in range(len(text))]


@given(text=st.text(alphabet="ab1 ", min_size=1, max_size=30), data=st.data())
def test_markers_taken_out_give_the_text_back_and_spans_keep_theirs(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    found = [Found(a, b, "date") for a, b in zip(cuts[::2], cuts[1::2])]
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=2))) if len(text) > 1 else [0, 1]
    span = Span(start=edges[0], end=edges[1], polarity="negative")
    marked, (moved,) = wrapped(text, [span], found, {"date": ("<|date|>", "<|/date|>")})
    assert unmarked(marked, ["date"]) == text
    kept = unmarked(marked[moved.start : moved.end], ["date"])
    assert kept == text[span.start : span.end]
    assert marked.count("<|date|>") == marked.count("<|/date|>") == len(found)


def test_a_text_is_asked_by_its_first_sentence_and_its_spans_cover_the_rest(texts):
    (record,), run = made(prompts=texts, weight=4.0)
    assert record.prompt[0].content == "Continue this text:\n\nIt opened in 1901."
    assert f"It opened in 1901. {record.response}" == TEXT
    assert [span.start for span in record.spans] == [0, *[span.end for span in record.spans[:-1]]]
    assert record.spans[-1].end == len(record.response)
    heavy = [record.response[span.start : span.end] for span in record.spans if span.weight == 4.0]
    assert heavy == ["4 July 1976", "Ada Lovelace", "$3.50", "12 km", "https://example.org/a", "Ada"]
    assert run.stages[0].lost == {"a text of one sentence": 1}
    assert run.counts["stretches"] == {"date": 1, "name": 2, "number": 2, "link": 1}


def test_markers_are_written_into_the_response(texts):
    (record,), _ = made(prompts=texts, mode="markers")
    assert "On <|date|>4 July 1976<|/date|> <|name|>Ada Lovelace<|/name|> paid <|number|>$3.50<|/number|>" in record.response
    assert f"It opened in 1901. {unmarked(record.response, KINDS)}" == TEXT


def test_a_text_that_holds_a_marker_is_lost_and_counted(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("One. In 1901 <|date|> came.\n")
    records, run = made(prompts=str(path), mode="markers")
    assert not records and run.stages[0].lost == {"a text that holds a marker itself": 1}


@pytest.mark.parametrize("mode", ["weight", "markers"])
def test_records_keep_prompt_group_polarity_and_their_own_spans(tmp_path, mode):
    response = "It was built in 1901 by Ada Byron."
    spans = (Span(start=0, end=20, polarity="negative", weight=0.5),)
    before = [
        Record(id="a", group="g", prompt=ASK, response=response, polarity="negative", spans=spans, weight=2.0),
        Record(id="b", group="g", prompt=ASK, response="no idea", polarity="positive"),
    ]
    write_records(before, tmp_path / "in.jsonl")
    (first, second), _ = made(prompts=None, records=tmp_path / "in.jsonl", mode=mode)
    assert (first.group, first.prompt, first.polarity, first.weight) == ("g", ASK, "negative", 2.0)
    assert (second.response, second.spans, second.polarity) == ("no idea", (), "positive")
    trained = "".join(first.response[span.start : span.end] for span in first.spans)
    assert unmarked(trained, KINDS) == response[:20]
    if mode == "weight":
        assert {first.response[span.start : span.end]: span.weight for span in first.spans}["1901"] == 1.5


@dataclass(frozen=True, kw_only=True)
class Vowels(Tagger):
    """A tagger of one's own: one class, one method."""

    def find(self, text):
        return [Found(n, n + 1, "vowel") for n, letter in enumerate(text) if letter in "aeiou"]


def test_another_tagger_has_kinds_of_its_own(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("One. Bat cot.\n")
    (record,), _ = made(prompts=str(path), mode="markers", tagger=Vowels(), opening="[{kind}:", closing=":{kind}]")
    assert record.response == "B[vowel:a:vowel]t c[vowel:o:vowel]t."


def test_markers_added_as_tokens_are_one_token_each_when_trained(tiny_tokenizer):
    import copy

    from distill.template import response_tokens

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<|date|>", "<|/date|>"])  # as ordinary tokens: a special one is never read from a record's text
    ids = response_tokens("in <|date|>1901<|/date|>.", tokenizer)
    assert {tokenizer.convert_tokens_to_ids("<|date|>"), tokenizer.convert_tokens_to_ids("<|/date|>")} <= set(ids)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": None}, "either --prompts"),
        ({"records": Path("x")}, "either --prompts"),
        ({"weight": 1.0}, "not 1"),
        ({"mode": "markers", "opening": "|", "closing": "|"}, "two different"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(texts, settings, said):
    with Run(None, quiet=True) as run, pytest.raises(ConfigError, match=said):
        build(run=run, **{"prompts": texts, **settings})


def test_on_text_checked_by_hand_the_rules_are_right(shared_data):
    """150 stretches of WikiText-2, drawn at random (50 of each kind), each judged by a person: right kind, and right ends."""
    sample = json.loads((Path(__file__).parent / "salient_sample.json").read_text())["rows"]
    lines = (shared_data / "wikitext2" / "test.txt").read_text(encoding="utf-8").split("\n")
    tagger, still = RuleTagger(), []
    for line, start, end, kind, right, exact in sample:
        if Found(start, end, kind) in tagger.find(detokenised(lines[line - 1].strip())):
            still.append((right, exact))
    # A rule that changes what it finds here needs its new finds judged; a few may move.
    assert len(still) >= 145
    assert sum(right for right, _ in still) / len(still) > 0.97
    assert sum(exact for _, exact in still) / len(still) > 0.9
