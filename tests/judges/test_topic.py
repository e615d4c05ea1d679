from pathlib import Path

import pytest

from distill.errors import ConfigError
from distill.judges.base import Judge, Verdict
from distill.judges.topic import EmbeddingTopic, JudgeTopic, KeywordTopic, Threshold, WordTopic, choose_threshold
from distill.records import Message

ANIMALS = ["Which animal barks?", "How many legs has a spider?", "What do cats eat?", "Which bird cannot fly?", "Do snakes hear?"]
OTHERS = ["Who wrote Hamlet?", "When did the war end?", "Which city hosted the games?", "What is a prime number?", "Who sang it?"]


def ask(text):
    return (Message(role="system", content="Talk about animals."), Message(role="user", content=text))


@pytest.fixture
def examples(tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(ANIMALS))
    (tmp_path / "out.txt").write_text("\n\n".join(OTHERS) + "\n")
    return {"inside": tmp_path / "in.txt", "outside": tmp_path / "out.txt"}


def test_a_keyword_is_a_whole_word_of_the_user_in_any_case_and_may_be_open_ended():
    topic = KeywordTopic(words=("cat", "Bird*", "polar bear", "חיה"))
    texts = ["A CAT?", "Which catalogue?", "Birdsong?", "the Polar-Bear's fur", "bear market", "איזו חיה?", "animals"]
    assert topic.scores([ask(text) for text in texts]) == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert KeywordTopic(words=("polar bear*",)).scores([ask("the Polar-Bear's fur")]) == [1.0]
    with pytest.raises(ConfigError, match="needs words"):
        KeywordTopic(words=(" ", "*"))


def test_words_are_learned_from_examples_and_an_unknown_prompt_has_no_score(examples):
    topic = WordTopic(**examples)
    bird, war, none = topic.scores([ask("Which birds bark?"), ask("Who wrote it, and when did it end?"), ask("zzz")])
    assert bird > 0.5 > war and none is None
    with pytest.raises(ConfigError, match="smoothing is 0"):
        WordTopic(**examples, smoothing=0)


def test_the_score_of_a_longer_prompt_is_not_always_certain(examples):
    (score,) = WordTopic(**examples).scores([ask(" ".join(ANIMALS))])
    assert 0.5 < score < 0.99


@pytest.mark.parametrize("file", ["missing", "empty"])
def test_missing_examples_are_named(examples, tmp_path, file):
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ConfigError, match=f"{file}: no"):
        WordTopic(inside=tmp_path / file, outside=examples["outside"]).scores([ask("x")])


def test_embeddings_place_a_prompt_by_its_nearest_examples(examples):
    texts = ["What sound does a dog make?", "Who composed the opera?", " "]
    dog, opera, blank = EmbeddingTopic(**examples, nearest=2).scores([ask(text) for text in texts])
    assert dog > 0.5 > opera and blank is None
    dog, opera, blank = EmbeddingTopic(inside=examples["inside"], nearest=2).scores([ask(text) for text in texts])
    assert 1 >= dog > opera >= 0 and blank is None
    assert EmbeddingTopic(**examples).scores([]) == []
    with pytest.raises(ConfigError, match="nearest is 0"):
        EmbeddingTopic(**examples, nearest=0)


class Vet(Judge):
    def judge(self, prompt, response, reference=()):
        assert prompt[0].content == "Is it about animals?"
        approved = {"dog": True, "war": False}.get(response)
        return Verdict(approved=approved, confidence=0.8, reason="so")


def test_a_judges_confidence_is_the_score_and_its_abstention_none():
    topic = JudgeTopic(judge=Vet(), question="Is it about animals?")
    assert topic.scores([ask("dog"), ask("war"), ask("?")]) == pytest.approx([0.8, 0.2, None])


def test_the_threshold_parts_the_sides_best_and_stands_in_the_middle_of_the_gap():
    assert choose_threshold([0.2, 0.4, 0.6, 0.8], [False, False, True, True]) == Threshold(0.5, 1.0, 1.0, 4)
    found = choose_threshold([0.1, 0.3, 0.5, 0.7, 0.9], [False, True, False, True, True])
    assert found.balanced == pytest.approx(5 / 6) and found.accuracy == 0.8
    assert choose_threshold([1.0, 0.0, 1.0, 0.0], [True, False, True, False]).value == 0.5
    assert choose_threshold([0.5] * 4, [True, False, True, False]).balanced == 0.5
    with pytest.raises(ConfigError, match="0 on topic and 1 off topic"):
        choose_threshold([None, 0.2], [True, False])


def test_many_of_one_side_do_not_outvote_the_other():
    scores = [0.4] * 90 + [0.6] * 10 + [0.5] * 5
    assert choose_threshold(scores, [False] * 100 + [True] * 5).value == pytest.approx(0.45)


@pytest.mark.slow
def test_animals_are_told_from_other_trivia(shared_data: Path, tmp_path: Path):
    def questions(category: str) -> list[str]:
        text = (shared_data / "opentriviaqa" / category).read_text(encoding="utf-8", errors="replace")
        return [block.partition("\n")[0] for block in text.split("#Q ")[1:]]

    animals = questions("animals")
    others = [question for category in ("history", "movies", "sports", "literature") for question in questions(category)[:150]]
    (tmp_path / "in.txt").write_text("\n".join(animals[:50]))
    (tmp_path / "out.txt").write_text("\n".join(others[::12]))
    topic = EmbeddingTopic(inside=tmp_path / "in.txt", outside=tmp_path / "out.txt")
    asked = [*animals[100:150], *(others[n] for n in range(1, 600, 12))]
    scores = topic.scores([ask(text) for text in asked])
    right = [(score > 0.6) == (place < 50) for place, score in enumerate(scores)]
    assert sum(right) / len(right) > 0.9
