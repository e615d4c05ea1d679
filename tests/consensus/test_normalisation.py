"""What normalisation takes away, and what it must not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.consensus import normalise, short_answer


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=40))
def test_only_blank_text_normalises_to_nothing(text):
    visible = any(not char.isspace() and unicodedata.category(char) not in {"Cf", "Mn"} for char in text)
    if visible:
        assert normalise(text)


@given(st.text(alphabet="abcdeéàüñß ÀÉ", max_size=20))
def test_case_and_accents_of_latin_letters_do_not_matter(text):
    assert normalise(text.upper()) == normalise(text) == normalise(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("São Tomé", "Sao Tome"),
        ("The Hague.", "hague"),
        ("N'Djamena", "N’Djaména"),
        ("Port-au-Prince", "Port au Prince"),
        ("U.S.A.", "USA"),
        ("1,000", "1000"),
        ("The answer is Paris.", "Paris"),
        ("The correct answer is: Paris", "paris"),
        ("Answer: 42", "42"),
        ("יְרוּשָׁלַיִם", "ירושלים"),
        ("התשובה היא ירושלים.", "ירושלים"),
        ("القَاهِرَة", "القاهرة"),
        ("ＴＯＫＹＯ", "tokyo"),
        ("Łódź", "Lodz"),
        ("“Hamlet”", "Hamlet"),
        ("**Paris**", "Paris"),
        ("\u200fתל אביב", "תל אביב"),
    ],
)
def test_the_same_answer_in_other_dress_normalises_alike(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Vitamin A", "Vitamin"),
        ("C", "C#"),
        ("C", "C++"),
        ("5", "-5"),
        ("5", "5 %"),
        ("3.5", "35"),
        ("1/2", "12"),
        ("й", "и"),  # two Cyrillic letters
        ("が", "か"),  # two syllables
        ("किताब", "कतब"),  # vowel signs are not accents
        ("Guinea", "Guinea-Bissau"),
        ("A", "B"),
        ("La Paz", "Paz"),
        ("12:30", "1230"),
        ("?", "!"),
    ],
)
def test_different_answers_stay_different(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (" Paris.\nQuestion: ...", "Paris"),
        ("\n\n Paris. It is the capital of France.", "Paris"),
        ("St. John's. It lies on the coast.", "St. John's"),
        ("J. K. Rowling wrote it.", "J. K. Rowling wrote it"),
        ("The symbol is K. It comes from kalium.", "The symbol is K"),
        ("Washington, D.C.", "Washington, D.C."),
        ('"Paris"', "Paris"),
        ("3.14 is pi. Yes.", "3.14 is pi"),
        ("ירושלים. זו הבירה.", "ירושלים"),
        ("東京。日本の首都です", "東京"),
        ("Paris! What a town", "Paris"),
        ("", ""),
        ("...", ""),
    ],
)
def test_the_short_answer_is_the_first_sentence(reply, answer):
    assert short_answer(reply) == answer
