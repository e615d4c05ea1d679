from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distill.consensus
from distill.consensus import ConsensusLabeller, NumberMatch
from distill.errors import RecipeError
from distill.recipes import key
from distill.recipes.key import canonical, code_version, describe, digest
from distill.teachers.base import Generator, Sampling


@dataclass(frozen=True, kw_only=True)
class Parrot(Generator):
    model: str = "parrot"
    batch_size: int = 8

    def identity(self):
        return {"model": self.model, "precision": "float32"}

    def generate(self, prompts, sampling):
        raise NotImplementedError


@dataclass(frozen=True)
class Setting:
    threshold: float
    batch_size: int = field(default=8, compare=False)


def test_a_teacher_is_what_it_says_it_is():
    assert describe(Parrot(batch_size=1)) == describe(Parrot(batch_size=64)) == {"model": "parrot", "precision": "float32"}
    assert digest(describe(Parrot(model="other"))) != digest(describe(Parrot()))


def test_a_field_that_is_not_compared_does_not_change_the_key():
    assert describe(Setting(0.5, 1)) == describe(Setting(0.5, 2)) != describe(Setting(0.6, 1))


def test_nested_settings_and_their_classes_are_in_the_key():
    plain, numbers = describe(ConsensusLabeller()), describe(ConsensusLabeller(equivalence=NumberMatch()))
    assert plain["equivalence"]["class"].endswith("NormalisedMatch") and plain != numbers
    assert describe(Sampling(stop=("\n",)))["stop"] == ["\n"]


def test_a_file_is_its_bytes_and_not_its_place(tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("one")
    assert describe(tmp_path / "a") == describe(tmp_path / "b")
    (tmp_path / "b").write_text("two")
    assert describe(tmp_path / "a") != describe(tmp_path / "b")


def test_what_has_no_stable_description_is_refused():
    with pytest.raises(RecipeError, match="cannot be part of a cache key"):
        describe({"work": object()})


def test_the_code_version_follows_the_source(tmp_path, monkeypatch):
    assert code_version(distill.consensus) == code_version(distill.consensus) != code_version(key)
    copy = tmp_path / "key.py"
    copy.write_text("x = 1\n")
    monkeypatch.setattr(key, "__file__", str(copy))
    before = code_version(key)
    copy.write_text("x = 2\n")
    assert code_version(key) != before


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), st.integers() | st.lists(st.text())))
def test_the_order_of_keys_does_not_change_the_digest(mapping):
    backwards = dict(reversed(mapping.items()))
    assert canonical(backwards) == canonical(mapping) and digest(backwards) == digest(mapping)
