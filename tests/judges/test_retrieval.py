"""The fact checker: passages come from files as they are, sentences are supported or refuted by what is written, or not found."""

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.judges.bm25 import Bm25Searcher
from distill.judges.overlap import OverlapEntailment
from distill.judges.passages import Passage, Searcher, read_passages
from distill.judges.retrieval import NOTHING_TO_CHECK, RetrievalJudge
from distill.judges.terms import index_terms, read_terms
from distill.recipes.key import canonical, describe
from distill.records import Message

TEXT = """# Ukraine

Kyiv is the capital and largest city of Ukraine. It lies on the Dnieper.
Ukraine became independent in 1991.

# Iron

Iron is a metal with the atomic number 26. It is not a noble gas.
"""


def ask(text):
    return (Message(role="user", content=text),)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "facts.md").write_text(TEXT, encoding="utf-8")
    return tmp_path / "facts.md"


@pytest.fixture
def judge(corpus):
    return RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,)))


def test_paragraphs_become_passages_under_their_headings(corpus):
    found = list(read_passages(corpus, columns=("text",), words=9))
    assert [(one.id, one.title, one.text) for one in found] == [
        ("facts.md:3", "Ukraine", "Kyiv is the capital and largest city of Ukraine."),
        ("facts.md:3.1", "Ukraine", "It lies on the Dnieper."),
        ("facts.md:4", "Ukraine", "Ukraine became independent in 1991."),
        ("facts.md:8", "Iron", "Iron is a metal with the atomic number 26."),
        ("facts.md:8.1", "Iron", "It is not a noble gas."),
    ]


def test_wikitext_headings_are_titles_and_sections(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(" = Iron = \n \n It rusts . \n = = Uses = = \n Steel . \n = Gold = \n It shines . \n")
    assert [(one.title, one.text) for one in read_passages(path, columns=(), words=50)] == [
        ("Iron", "It rusts ."),
        ("Iron, Uses", "Steel ."),
        ("Gold", "It shines ."),
    ]


def test_rows_of_jsonl_and_parquet_give_the_same_passages(tmp_path):
    rows = [{"question": "What is iron?", "answer": "A metal. It rusts."}, {"question": "And gold?", "answer": "Also."}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    texts = [
        [one.text for one in read_passages(tmp_path / name, columns=("question", "answer"), words=50)]
        for name in ("c.jsonl", "c.parquet")
    ]
    assert texts[0] == texts[1] == ["What is iron? A metal. It rusts.", "And gold? Also."]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"body": "x"}\n', "a.jsonl:1: no column 'text'; it has body"),
        ("a.jsonl", '{"text": "x"}\n{"text": 5}\n', "a.jsonl:2: columns text must be text"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: got list"),
        ("a.pdf", "x", "convert .pdf"),
        ("a.txt", " \n", "no text in it"),
        ("a.txt", None, "no such file"),
    ],
)
def test_a_corpus_that_cannot_be_read_names_file_and_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        Bm25Searcher(corpus=(tmp_path / name,)).search("x", 1)
    assert message in str(error.value)


def test_the_best_passage_comes_first_and_strangers_find_none(corpus):
    searcher = Bm25Searcher(corpus=(corpus,), words=9)
    found = searcher.search("What is the capital of Ukraine?", 2)
    assert found[0].id == "facts.md:3" and found[0].score > found[1].score > 0
    assert searcher.search("zebras", 5) == [] and searcher.search("the of", 5) == [] and searcher.search("", 5) == []
    assert len(searcher.search("Ukraine", 99)) == 3


def test_an_index_on_disk_answers_like_one_in_memory_and_follows_the_corpus(corpus, tmp_path):
    kept = Bm25Searcher(corpus=(corpus,), index=tmp_path / "index", words=9)
    memory = Bm25Searcher(corpus=(corpus,), words=9)
    query = "iron's atomic number"
    assert kept.search(query, 3) == memory.search(query, 3)
    folders = sorted((tmp_path / "index").iterdir())
    again = Bm25Searcher(corpus=(corpus,), index=tmp_path / "index", words=9)
    assert again.search(query, 3) == memory.search(query, 3)
    assert sorted((tmp_path / "index").iterdir()) == folders and len(folders) == 1
    assert not any(path.suffix == ".pkl" for path in folders[0].iterdir())
    corpus.write_text(TEXT.replace("26", "27"))
    changed = Bm25Searcher(corpus=(corpus,), index=tmp_path / "index", words=9)
    assert "27" in changed.search(query, 1)[0].text


def test_a_worker_gets_the_settings_and_not_the_index(corpus, tmp_path):
    searcher = Bm25Searcher(corpus=(corpus,))
    searcher.search("iron", 1)
    copy = pickle.loads(pickle.dumps(searcher))  # noqa: S301 - our own bytes
    assert copy == searcher and "_opened" not in copy.__dict__
    assert copy.search("iron", 1) == searcher.search("iron", 1)


def test_where_the_index_is_kept_changes_no_cache_key_and_the_corpus_does(corpus, tmp_path):
    one = canonical(describe(RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,)))))
    assert one == canonical(describe(RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,), index=tmp_path))))
    corpus.write_text("other")
    assert one != canonical(describe(RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,)))))


@pytest.mark.parametrize(
    ("question", "answer", "approved"),
    [
        ("What is the capital of Ukraine?", "The capital of Ukraine is Kyiv.", True),
        ("What is the capital of Ukraine?", "Kyiv.", True),
        ("What is the capital of Ukraine?", "The capital of Ukraine is Odesa.", False),
        ("What is the capital of Ukraine?", "Odesa.", False),
        ("What is the capital of Ukraine?", "The capital of Ukraine is not Kyiv.", False),
        ("What is the capital of Ukraine?", "The capital of Ukraine is not Odesa.", True),
        ("When did Ukraine become independent?", "In 1991.", True),
        ("When did Ukraine become independent?", "Ukraine became independent in 1992.", False),
        ("What is the atomic number of iron?", "The atomic number of iron is 26.", True),
        ("What is the atomic number of iron?", "Twenty-six.", True),
        ("What is the atomic number of iron?", "twenty-seven", False),
        ("What is the atomic number of iron?", "It is 27.", False),
        ("Is iron a noble gas?", "Iron is a noble gas.", False),
        ("Is iron a noble gas?", "Iron is not a noble gas.", True),
        ("What is the capital of Spain?", "The capital of Spain is Kyiv.", None),
        ("What is the capital of Spain?", "The capital of Spain is Madrid.", None),
        ("", "Kyiv is the capital of Ukraine.", True),
        ("", "Odesa is the capital of Ukraine.", False),
        ("", "Zebras have stripes.", None),
    ],
)
def test_a_sentence_is_what_the_corpus_says_of_it(judge, question, answer, approved):
    assert judge.judge(ask(question) if question else (), answer).approved is approved


def test_each_sentence_has_its_span_and_its_passage(judge):
    text = "Sure. Kyiv is the capital of Ukraine. The atomic number of iron is 27. Zebras have stripes."
    verdict = judge.judge((), text)
    assert [(text[span.start : span.end], span.polarity) for span in verdict.spans] == [
        ("Kyiv is the capital of Ukraine.", "positive"),
        ("The atomic number of iron is 27.", "negative"),
    ]
    assert verdict.approved is False and verdict.reason == "1 supported, 1 refuted, 1 not found"
    findings = verdict.evidence["sentences"]
    assert [one["found"] for one in findings] == ["supported", "refuted", "not found"]
    assert findings[0]["passage"]["title"] == "Ukraine" and "atomic number 26" in findings[1]["passage"]["text"]
    assert findings[1]["why"]["missing"] == ["27"] and findings[1]["why"]["instead"] == ["26"]
    json.dumps(verdict.evidence)


@pytest.mark.parametrize(("policy", "approved"), [("abstain", None), ("reject", False), ("ignore", True)])
def test_what_is_not_found_counts_as_chosen(corpus, policy, approved):
    judge = RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,)), not_found=policy)
    assert judge.judge((), "Kyiv is the capital of Ukraine. Zebras have stripes.").approved is approved
    assert judge.judge((), "Kyiv is the capital of Ukraine.").approved is True
    assert judge.judge((), "Zebras have stripes.").approved is (False if policy == "reject" else None)


@pytest.mark.parametrize("text", ["", "I don't know.", "Yes."])
def test_what_states_nothing_is_not_judged(judge, text):
    assert judge.judge((), text).reason == NOTHING_TO_CHECK


def test_a_search_tool_and_an_entailment_judge_can_be_plugged_in():
    class Web(Searcher):
        queries = []

        def search(self, query, k):
            self.queries.append((query, k))
            return [Passage(id="page", text="Bananas are berries.")] if "anana" in query else []

    class Agrees(Judge):
        asked = []

        def judge(self, prompt, response, reference=()):
            self.asked.append((prompt, response, reference))
            return Verdict(approved=bool(reference), reason="read it")

    judge = RetrievalJudge(searcher=Web(), entailment=Agrees(), k=3)
    verdict = judge.judge(ask("What are bananas?"), "Bananas are berries.")
    assert verdict.approved and verdict.evidence["sentences"][0]["passage"]["id"] == "page"
    assert Web.queries == [("What are bananas?\nBananas are berries.", 3)]
    assert Agrees.asked == [(ask("What are bananas?"), "Bananas are berries.", ("Bananas are berries.",))]
    assert judge.judge((), "Apples are not.").evidence["sentences"][0]["found"] == "not found", "no passage, no verdict"


def test_entailment_reads_names_numbers_and_denials():
    terms = read_terms("In 1,066 two dukes of Normandy didn't cross. Odesa is far, Sadly.")
    assert terms.numbers == {"1066", "2"} and terms.denies and terms.subjects == {"odesa"}
    assert {"normandy", "sadly"} == terms.names and {"duk", "cross", "far"} <= terms.words
    assert index_terms("The cities, 1,000.50!") == ["city", "1000.5"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_checked(response, passage):
    verdict = OverlapEntailment().judge((), response, (passage,))
    assert verdict.approved in {True, False, None} and 0 <= verdict.confidence <= 1


@pytest.mark.parametrize("make", [lambda: OverlapEntailment(topic=0), lambda: OverlapEntailment(support=2)])
def test_shares_outside_their_range_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_settings_without_a_corpus_or_a_passage_are_refused(corpus):
    with pytest.raises(ConfigError):
        Bm25Searcher(corpus=())
    with pytest.raises(ConfigError):
        RetrievalJudge(searcher=Bm25Searcher(corpus=(corpus,)), k=0)
