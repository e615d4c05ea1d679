import json

import pytest
from distill.data_recipes.questions import Documents, build, read_pairs, read_shots
from scripted import Scripted

from distill.errors import ConfigError, RecipeError
from distill.recipes import Run
from distill.recipes.shards import parse_shard

NILE = "The Nile flows north through eleven countries of Africa. It is 6,650 km long and ends in the Mediterranean Sea."
CURIE = "Marie Curie discovered the element radium in Paris. She won the Nobel Prize in Physics in the year 1903."
WRITTEN = {
    "Nile": "Q: How long is the Nile?\nA: 6,650 km\nQ: How long, in all, is the Nile?\nA: 6,650 km\n"
    "Q: Where does it end?\nA: in the Black Sea\nQ: Does the Nile flow north?\nA: north",
    "Curie": "Q: How long is the Nile?\nA: 1903\nQ: What does the passage say of radium?\nA: the element radium\n"
    "Q: Who discovered the element radium?\nA: Marie Curie\nQ: When did she win?\nA: 1903\nA: 1904\nQ: Which city? Paris",
}
AGAIN = {
    "How long is the Nile?": "It is 6,650 km",
    "Who discovered the element radium?": "Marie Curie.",
    "When did she win?": "1904",
}


def teach(prompt):
    """Writes questions on the passage it is shown last, and answers questions by the table."""
    last = prompt[-1].content
    if "Question:" in last:
        return [AGAIN.get(last.rpartition("Question: ")[2], "I don't know.")]
    return [WRITTEN.get("Nile" if "Nile" in last else "Curie" if "Curie" in last else "", "Nothing to ask.")]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text(
        f"= Rivers =\n{NILE}\n{CURIE}\nToo short.\nA plain paragraph about nothing in particular, long enough to ask about.\n"
    )
    return str(path)


def made(documents, **options):
    options = {"teacher": Scripted(say=teach), "shortest": 8, "round_trip": "contains"} | options
    with Run(None, quiet=True) as run:
        records = list(build(run=run, documents=documents, **options))
        run.finish()
    return records, {stage["name"]: stage for stage in run.accounts()["stages"]}, run


def test_a_pair_is_kept_if_it_stands_in_the_passage_and_is_answered_so_again(documents):
    records, _, _ = made(documents)
    assert [(one.prompt[0].content, one.response) for one in records] == [
        ("How long is the Nile?", "6,650 km"),
        ("Who discovered the element radium?", "Marie Curie"),
    ]
    assert records[0].evidence["passage"] == f"Rivers: {NILE}"


def test_each_pair_that_is_not_kept_is_lost_by_its_reason(documents):
    _, stages, _ = made(documents)
    assert stages["read"]["lost"] == {"no question with an answer could be read in the reply": 1}
    assert stages["check"]["lost"] == {
        "asked before in other words": 1,
        "the answer is not in the passage": 1,
        "the question gives the answer away": 1,
        "asked before": 1,
        "the question points at the passage": 1,
    }
    assert stages["round_trip"]["lost"] == {"answered otherwise when asked": 1}


def test_the_round_trip_is_as_strict_as_asked(documents):
    assert [one.response for one in made(documents, round_trip="same")[0]] == ["Marie Curie"]
    assert len(made(documents, round_trip="none")[0]) == 3


def test_a_record_to_read_from_has_the_passage_in_its_prompt_and_may_point_at_it(documents):
    records, _, _ = made(documents, passage_in_prompt=True, round_trip="none")
    assert all(one.evidence["passage"] in one.prompt[0].content for one in records)
    assert "What does the passage say of radium?" not in [one.prompt[0].content for one in records]
    assert not any("points" in reason for reason in made(documents, passage_in_prompt=True)[1]["check"]["lost"])


def test_the_teacher_is_shown_examples_before_it_writes_and_before_it_answers(documents):
    teacher = Scripted(say=teach)
    made(documents, teacher=teacher)
    assert all(prompt[1].role == "assistant" and len(prompt) == 5 for prompt in teacher.asked)
    alone = Scripted(say=teach)
    made(documents, teacher=alone, shots=None)
    assert all(len(prompt) == 1 for prompt in alone.asked)


def test_what_the_student_knows_without_the_passage_is_counted_and_left_out_if_asked(documents):
    student = Scripted(say=lambda prompt: ["It is 6,650 km." if "Nile" in prompt[0].content else "Pierre Curie"], name="student")
    records, _, run = made(documents, student=student)
    assert run.counts["without the passage the student"] == {"knows it": 1, "does not know it": 1}
    assert all("Rivers" not in prompt[0].content for prompt in student.asked)
    assert [one.evidence["known"] for one in records] == [True, False]
    assert [one.response for one in made(documents, student=student, only_new=True)[0]] == ["Marie Curie"]
    wrong, _, _ = made(documents, student=student, wrong_as_negative=True)
    assert [(one.response, one.polarity) for one in wrong][1:] == [("Marie Curie", "positive"), ("Pierre Curie", "negative")]


def test_a_pair_that_is_not_kept_does_not_cost_a_good_one_with_the_same_question(documents):
    said = {"Nile": "Q: How long is it?\nA: 1,000 miles\nQ: How long is it?\nA: 6,650 km\nQ: How long is it?\nA: Africa"}
    teacher = Scripted(say=lambda prompt: [said.get("Nile" if "Nile" in prompt[-1].content else "", "Nothing.")])
    records, stages, _ = made(documents, teacher=teacher, round_trip="none")
    assert [one.response for one in records] == ["6,650 km"]
    assert stages["check"]["lost"] == {"the answer is not in the passage": 1, "asked before": 1}


def test_half_a_sentence_of_the_student_is_no_negative(documents):
    said = {"Nile": "It is a river that...", "radium": "Pierre Curie. He was..."}
    student = Scripted(say=lambda prompt: [next(said[word] for word in said if word in prompt[-1].content)], name="student")
    records, _, run = made(documents, student=student, wrong_as_negative=True)
    assert [one.response for one in records if one.polarity == "negative"] == ["Pierre Curie."]
    assert run.counts["no negative"] == {"nothing whole in what the student says": 1}


def test_only_the_written_form_is_read():
    assert read_pairs("Question 1: Who?\n\nAnswer: I.\n**Q2:** Where?\n**A2:** here") == [
        ("Who?", "I."),
        ("** Where?", "** here"),
    ]
    assert read_pairs("Who? I.") == []


def test_tokenised_text_is_written_as_people_do_and_unknown_words_are_left_out(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(
        ' In 1990 , the band " The Cure " sold 4 @,@ 386 records ( in Spain ) .\n The <unk> sold some more records in France .\n'
    )
    (passage,) = Documents(source=str(path), columns=("text",), longest=50, shortest=3, tokenised=True)
    assert passage.text == 'In 1990, the band "The Cure" sold 4,386 records (in Spain).'


def test_what_makes_no_sense_is_refused_before_anything_is_asked(documents, tmp_path):
    teacher = Scripted(say=teach)
    for options, match in (
        ({"number": 0}, "number is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"only_new": True}, "only_new needs"),
        ({"shortest": 200}, "the shortest"),
    ):
        with pytest.raises(ConfigError, match=match):
            made(documents, teacher=teacher, **options)
    with pytest.raises(RecipeError, match="no passage of at least 90 words"):
        made(documents, teacher=teacher, shortest=90)
    shots = tmp_path / "shots.jsonl"
    shots.write_text(json.dumps({"passage": "x", "questions": []}))
    with pytest.raises(RecipeError, match="columns found: passage, questions"):
        made(documents, teacher=teacher, shots=str(shots))
    assert teacher.asked == [] and read_shots(None) == ()


def test_shards_of_the_documents_are_the_whole(documents):
    def written(shard=None):
        with Run(None, quiet=True, shard=shard and parse_shard(shard)) as run:
            return [
                one.id for one in build(run=run, documents=documents, teacher=Scripted(say=teach), shortest=8, round_trip="none")
            ]

    first, second = set(written("0/2")), set(written("1/2"))
    assert first and second and not first & second
    assert set(written()) < first | second  # a shard does not know what was asked in another one


def test_documents_are_known_again_by_what_they_say(documents, tmp_path):
    def known(text):
        (tmp_path / "again.txt").write_text(text)
        return Documents(source=str(tmp_path / "again.txt"), columns=("text",), longest=100, shortest=8, tokenised=False)

    one = known(f"{NILE}\n{CURIE}\n")
    assert len(one) == 2 and len(one.fingerprint()) == 32
    assert known(f"{NILE}\n{CURIE}\n").fingerprint() == one.fingerprint() != known(f"{NILE}\n{NILE}\n").fingerprint()
