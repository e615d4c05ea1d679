"""The recipe spelling: answers recomputed in another way, typos that only their own word explains, any script."""

import json
import random
import unicodedata
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.spelling import EDITS, WordList, build, letters_of, mistyped, neighbours
from distill.errors import ConfigError, RecipeError
from distill.recipes import Run

words = st.text(alphabet="abcdehlmnoprst", min_size=3, max_size=12)


def made(prompts="example:words", **settings):
    with Run(None, quiet=True) as run:
        return list(build(run=run, prompts=str(prompts), **settings)), run


def listed(*texts):
    found = WordList()
    for text in texts:
        found.add(text)
    return found


def number_of(text):
    return int(text.rpartition(" ")[2])


def by_another_way(record):
    """The right answer without grapheme clusters: a base letter owns the marks and joined letters behind it."""
    word, task = record.evidence["word"], record.evidence["task"]
    letters, joined = [], False
    for point in unicodedata.normalize("NFC", word):
        mark = unicodedata.category(point).startswith("M")
        if letters and (mark or joined):
            letters[-1] += point
        else:
            letters.append(point)
        joined = unicodedata.combining(point) == 9  # a virama
    if task == "spell":
        return "-".join(letters)
    if task == "repair":
        return word
    return str(len(letters) if task == "length" else sum(one.casefold() == record.evidence["letter"] for one in letters))


def test_every_right_answer_is_right_and_every_wrong_one_wrong_in_seven_scripts():
    records, run = made()
    assert run.stages[0].taken == 55 * 4
    for record in records:
        said = record.response if record.evidence["task"] in ("spell", "repair") else str(number_of(record.response))
        assert (said == by_another_way(record)) == (record.polarity == "positive"), record


def test_each_question_has_a_right_answer_and_its_wrong_ones_share_prompt_and_group():
    records, _ = made(negatives=2)
    sides = {}
    for record in records:
        sides.setdefault((record.group, record.prompt), []).append(record.polarity)
    assert all(polarities.count("positive") == 1 and len(polarities) <= 3 for polarities in sides.values())
    assert len({record.id for record in records}) == len(records)


def test_a_wrong_answer_is_marked_where_it_is_wrong_and_letters_are_never_torn():
    records, _ = made(negatives=2)
    for record in records:
        if record.polarity == "positive":
            assert record.spans == ()
            continue
        (span,) = record.spans
        text, right = record.response, record.evidence["right"]
        assert text[: span.start] == right[: span.start] or record.evidence["task"] == "repair"
        assert text[: span.start] == right[: span.start]
        ends = [0]
        for letter in letters_of(text):
            ends.append(ends[-1] + len(letter))
        assert span.start in ends and span.end in ends
        assert text[span.start : span.end].strip("-") == text[span.start : span.end]


@given(word=words, edit=st.sampled_from(EDITS), seed=st.integers(0, 50))
def test_a_typo_is_one_edit_away(word, edit, seed):
    typo = mistyped(letters_of(word), edit, listed(word), random.Random(seed))
    if typo is None:
        return
    text = "".join(typo)
    assert len(text) - len(word) == {"insertion": 1, "deletion": -1}.get(edit, 0)
    if text != word:
        assert word in listed(word, "abcdehlmnoprstqwfgijkuvxyz").means(text)


def test_a_typo_that_could_mean_another_word_is_not_used(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("cat\nbat\nrat\nhat\ncart\nchat\nat\nmountain\n", encoding="utf-8")
    records, run = made(path, tasks=("repair",), min_letters=3)
    known = listed(*path.read_text().split())
    typos = {record.evidence["typo"]: record.evidence["word"] for record in records}
    assert "mountain" in typos.values()
    for typo, word in typos.items():
        assert known.means(typo) == {word}
    assert run.stages[0].taken == 8 == run.stages[0].given + run.stages[0].lost.total()


def test_keys_beside_each_other_are_neighbours_in_both_directions():
    for letter in "qwertyuiopasdfghjklzxcvbnmקראטוןםפשדגכעיחלךףזסבהנמצתץйцукен":
        assert neighbours(letter) and all(letter in neighbours(other) for other in neighbours(letter))
    assert set(neighbours("g")) == {"f", "h", "t", "y", "v", "b"} and set(neighbours("ש")) == {"ד", "ז"}
    assert neighbours("न") == () and neighbours(" ") == ()


def test_a_frequency_list_is_read_and_what_is_no_word_is_lost_by_its_reason(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffstrawberry 23135\nice cream\n1990s\nstrawberry 12\nox 5\nצִפּוֹר 3\n", encoding="utf-8")
    records, run = made(path, tasks=("length",), negatives=0)
    assert [(record.group, number_of(record.response)) for record in records] == [("strawberry", 10), ("צִפּוֹר", 4)]
    assert run.stages[0].lost == {
        "not one word of letters": 2,
        "a word that came before": 1,
        "a word of fewer or more letters than asked for": 1,
    }


def test_counts_without_steps_are_the_number_alone():
    records, _ = made(tasks=("count", "length"), steps=False)
    assert all(record.response.isdigit() for record in records)


def test_the_same_seed_makes_the_same_records():
    assert made(limit=5)[0] == made(limit=5)[0] != made(limit=5, seed=1)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 0}, "limit is 0: give at least 1 word"),
        ({"tasks": ()}, "at least one"),
        ({"edits": ("deletion", "deletion")}, "at most once"),
        ({"separator": "x"}, "no letter"),
        ({"min_letters": 0}, "1 or more"),
        ({"negatives": -1}, "0 for none"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings, said):
    with Run(None, quiet=True) as run, pytest.raises(ConfigError, match=said):
        build(run=run, prompts="example:words", **settings)


def test_a_list_without_words_is_an_error(tmp_path):
    path = tmp_path / "none.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "12 34"}) + "\n")
    with pytest.raises(RecipeError, match="no words in it"):
        made(path)


def test_real_words_are_answered_right(shared_data, tmp_path):
    path = tmp_path / "frequent.txt"
    with open(shared_data / "spelling" / "frequency_dictionary_en_82_765.txt", encoding="utf-8") as lines:
        path.write_text("".join(islice(lines, 3000)), encoding="utf-8")
    records, _ = made(path, limit=300)
    positives = [record for record in records if record.polarity == "positive"]
    assert len(positives) > 800
    for record in positives:
        word, said = record.evidence["word"], record.response
        expected = {"spell": "-".join(word), "repair": word}.get(record.evidence["task"])
        if record.evidence["task"] == "count":
            expected = str(word.count(record.evidence["letter"]))
        assert (expected or str(len(word))) == (said if record.evidence["task"] in ("spell", "repair") else str(number_of(said)))


def test_a_letter_that_folds_into_two_is_asked_about_as_the_one_that_it_is(tmp_path):
    (tmp_path / "words.txt").write_text("Straße\nσοφός\n", encoding="utf-8")
    asked = set()
    for seed in range(20):
        for record in made(str(tmp_path / "words.txt"), tasks=("count",), seed=seed)[0]:
            asked.add((record.evidence["word"], record.evidence["letter"], record.evidence["count"]))
    assert ("Straße", "ß", 1) in asked and ("σοφός", "σ", 2) in asked
    assert not any(letter == "ss" for _, letter, _ in asked)
