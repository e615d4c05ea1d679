"""What the tokens that a local model drew are taken to say."""

from distill.teachers.drawn_text import answer_of, completion_of


def test_reasoning_is_no_part_of_an_answer_and_its_probability_is_not_the_answer_s(tiny_tokenizer):
    def made(text):
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        return completion_of(ids, frozenset(), tiny_tokenizer, stops=("!",), finish="stop", log_prob=-2.0)

    thought, plain = made("<think>It is easy.</think> Paris! Yes"), made(" Paris! Yes")
    assert (thought.text, thought.log_prob) == ("Paris", None)
    assert (plain.text, plain.log_prob) == (" Paris", -2.0)
    assert thought.tokens > plain.tokens


def test_reasoning_that_was_cut_off_has_no_answer():
    assert answer_of("<think>Let me see") == ""
    assert answer_of("opened by the template</think>\n\nParis") == "Paris"
