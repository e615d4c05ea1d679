"""What a run would ask, before anything is paid for."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from distill.data_recipes import idk_scope

sys.path.insert(0, str(Path(__file__).parents[1] / "teachers"))
from chat_server import serving

from distill.errors import ConfigError, RecipeError, TeacherError
from distill.judges.teacher import TeacherJudge
from distill.judges.topic import JudgeTopic
from distill.recipes import Ask, Claim, Run, generate, judge
from distill.recipes.command import run_recipe
from distill.recipes.discover import list_recipes
from distill.records import Message, Prompt
from distill.teachers.base import Completion, Generator, Price, Sampling

SAMPLING = Sampling(n=3, max_tokens=10)


@dataclass(frozen=True, kw_only=True)
class Paid(Generator):
    """A server with a price that must not be asked; it counts a token for each character where it has a tokenizer."""

    tokenizer: bool = False
    each: bool = False
    refuses: bool = False
    checked: list[Sampling] = field(default_factory=list, compare=False)

    def identity(self) -> Mapping[str, str]:
        return {"model": "org/paid"}

    @property
    def price(self) -> Price:
        return Price(input=1e6, output=1e6)  # one for each token

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int] | None:
        return [sum(len(one.content) for one in prompt) for prompt in prompts] if self.tokenizer else None

    def reads(self, sampling: Sampling) -> int:
        return sampling.n if self.each else 1

    def check(self, sampling: Sampling, *, log_probs: bool = False) -> None:
        self.checked.append(sampling)
        if self.refuses:
            raise TeacherError("the server gives no log-probabilities")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        raise AssertionError("a dry run asks nothing")


def asks(count=5, content="12345678"):
    return [Ask(f"q{n}", (Message(role="user", content=content),), n) for n in range(count)]


def dry():
    return Run(None, dry_run=True, quiet=True)


@pytest.mark.parametrize(("tokenizer", "tokens"), [(True, 8), (False, 6)])
def test_prompts_are_counted_tokens_read_and_written_are_bounded_and_nothing_is_asked(tokenizer, tokens):
    teacher = Paid(tokenizer=tokenizer)
    with dry() as run:
        assert list(generate(run, "ask", asks(), teacher, SAMPLING)) == []
    (stage,) = run.estimate.stages
    (asked,) = stage.asked
    assert (asked.prompts, asked.tokens_in, asked.tokens_out) == (5, 5 * tokens, 5 * 3 * 10)
    assert run.estimate.cost == asked.cost == 5 * tokens + 150
    assert teacher.checked == [SAMPLING], "what the server can do is found out before anything is asked"
    assert ("~" in run.estimate.table()) is not tokenizer


def test_a_prompt_is_paid_for_as_often_as_it_is_read():
    with dry() as run:
        list(generate(run, "ask", asks(), Paid(each=True), SAMPLING))
    assert run.estimate.stages[0].asked[0].tokens_in == 3 * 5 * 6


def test_a_teacher_that_cannot_do_it_is_refused():
    with dry() as run, pytest.raises(TeacherError, match="no log-probabilities"):
        list(generate(run, "ask", asks(), Paid(refuses=True), SAMPLING))


def test_a_judge_is_counted_with_its_own_words():
    claims = [Claim(f"q{n}", (Message(role="user", content="Who?"),), "Me.") for n in range(3)]
    asked_alone = TeacherJudge(generator=Paid()).ask(claims[0].prompt, "Me.")
    with dry() as run:
        assert list(judge(run, "judge", claims, TeacherJudge(generator=Paid(tokenizer=True)))) == []
    (asked,) = run.estimate.stages[0].asked
    assert asked.prompts == 3 and asked.tokens_in == 3 * len(asked_alone.content) and asked.tokens_out == 3 * 8


def test_what_depends_on_answers_is_said_to_with_its_bound():
    with dry() as run:
        answered = generate(run, "ask", asks(), Paid(), SAMPLING, total=5)
        claims = (Claim(f"{one.id}-{n}", one.prompt, c.text) for one in answered for n, c in enumerate(one.completions))
        assert list(judge(run, "judge", claims, TeacherJudge(generator=Paid()), total=15)) == []
    ask, judged = run.estimate.stages
    assert (ask.depends, judged.depends) == (False, True)
    table = run.estimate.table()
    assert "depends on earlier results; at most 15 items\n" in table and "? not known before" in table


def test_what_depends_on_answers_has_a_bound_on_what_is_written():
    with dry() as run:
        first = generate(run, "first", asks(), Paid(), SAMPLING)
        again = (Ask(one.id, one.prompt) for one in first)
        list(generate(run, "again", again, Paid(), SAMPLING, total=5))
    assert "at most 5 items, 150 tokens out" in run.estimate.table()


def test_a_server_is_probed_and_sees_none_of_the_prompts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("Who is the duke of Glindor?\n" * 1 + "Where is it?\n")
    with serving(models=("toy",)) as server:
        options = ["--prompts", "q.txt", "--teacher.base_url", server.url, "--teacher.model", "toy", "--teacher.api_key_env", ""]
        price = ["--teacher.price.input", "1000", "--teacher.price.output", "1000"]
        assert (
            run_recipe(
                "idk_consensus", [*options, *price, "--sampling.n", "3", "--sampling.max_tokens", "5", "--dry_run", "true"]
            )
            == 0
        )
        assert server.bodies and "Glindor" not in str(server.bodies)
        shown = capsys.readouterr().out
        # 27 and 12 characters are about 7 + 4 and 3 + 4 tokens, and each sample is a request of its own, with its own seed.
        assert shown.splitlines()[1].split() == ["sample", "toy", "2", "~54", "30", "0.0840"]
        with pytest.raises(TeacherError, match="avoid_start|log-probabilities|top_k"):
            server.drops = frozenset({"top_k"})
            run_recipe("idk_consensus", [*options, "--sampling.top_k", "5", "--dry_run", "true"])


def test_a_stage_of_ones_own_that_asks_is_not_run_and_one_that_does_not_ask_is():
    def never(items):
        raise AssertionError("asked")

    with dry() as run:
        double = run.map("double", [("a", 1), ("b", 2)], lambda items: [2 * item.value for item in items], key={})
        rows = run.map("ask", ((row.id, row.result) for row in double), never, key={"teacher": Paid()})
        assert list(rows) == []
    (stage,) = run.estimate.stages
    assert stage.items == 2 and "2 items; how they are asked is not known" in run.estimate.table()


def test_items_that_cannot_be_made_are_an_error_and_missing_answers_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        '"""One stage."""\n'
        "from distill.errors import RecipeError\n"
        "from distill.recipes import Ask, generate, read_questions\n"
        "from distill.teachers.base import Generator, Sampling\n"
        "def prompts(questions, bad):\n"
        "    for question in questions:\n"
        "        if question.id == bad:\n"
        "            raise RecipeError(f'{bad} has no {{topic}}')\n"
        "        yield Ask(question.id, question.prompt)\n"
        "def build(*, run, prompts_from: str, teacher: Generator, bad: str = ''):\n"
        "    questions = read_questions(prompts_from)\n"
        "    def rows():\n"
        "        found = list(generate(run, 'ask', prompts(questions, bad), teacher, Sampling()))\n"
        "        if not found:\n"
        "            raise RecipeError('nobody answered')\n"
        "        yield from ()\n"
        "    return rows()\n"
    )
    options = ["--prompts_from", "example:questions", "--teacher", "test_dry_run.Paid", "--dry_run", "true"]
    assert run_recipe("own.py", options) == 0
    shown = capsys.readouterr().out
    assert "ask    paid          24" in shown
    assert "There may be more stages: without answers the recipe ends here (nobody answered)" in shown
    with pytest.raises(RecipeError, match="moon has no {topic}"):
        run_recipe("own.py", [*options, "--bad", "moon"])
    assert [file.name for file in Path().iterdir() if file.suffix != ".pyc" and file.name != "__pycache__"] == ["own.py"]


def test_a_threshold_that_is_still_to_be_chosen_hides_no_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f'{{"id": "{n}", "prompt": "Is it {n}?", "in_scope": {str(n < 2).lower()}}}\n' for n in range(4)]
    Path("known.jsonl").write_text("".join(rows))
    with dry() as run:
        topic = JudgeTopic(judge=TeacherJudge(generator=Paid()))
        list(idk_scope.build(run=run, prompts="known.jsonl", topic=topic, teacher=Paid(), validation="known.jsonl"))
    assert [(stage.name, stage.items, stage.depends) for stage in run.estimate.stages] == [
        ("validate", 4, False),
        ("topic", 4, False),
        ("answer", 0, True),
    ]


def test_a_budget_that_may_not_do_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("q.txt").write_text("known\nunknown\n")
    options = ["--prompts", "q.txt", "--teacher", "test_dry_run.Paid", "--out", "run", "--dry_run", "true", "--max_cost", "3"]
    assert run_recipe("idk_consensus", options) == 0
    assert "It may cost more than --max_cost 3.0" in capsys.readouterr().out
    assert not Path("run").exists()
    with pytest.raises(ConfigError, match="sampling.n is 0"):
        run_recipe("idk_consensus", [*options, "--sampling.n", "0"])


@pytest.mark.slow  # every recipe's inputs are read
@pytest.mark.parametrize("entry", list_recipes(), ids=lambda entry: entry.name)
def test_every_shipped_recipe_can_be_estimated_without_loading_a_model(entry, tmp_path, monkeypatch, capsys):
    from distill.teachers.huggingface import HuggingFaceTeacher

    def no_weights(self):
        raise AssertionError("a dry run loads no model")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HuggingFaceTeacher, "_loaded", property(no_weights))
    assert run_recipe(entry.name, ["--dry_run", "true"]) == 0
    assert capsys.readouterr().out.startswith(("stage ", "no stage asks"))
    assert list(tmp_path.iterdir()) == []
