"""A judge that could not be asked has not abstained: the row is lost with its reason, and can be asked again."""

import math
from dataclasses import dataclass, field

from distill.judges.choice import ChoiceJudge
from distill.judges.pairs import JudgePair, TeacherPairJudge
from distill.judges.teacher import TeacherJudge
from distill.recipes import Claim, Run, judge
from distill.records import Message
from distill.teachers.base import Chooser, Failed, Generator, NoChoice

ASK = (Message(role="user", content="What is the capital of France?"),)


@dataclass(frozen=True, kw_only=True)
class Broken(Chooser, Generator):
    """Answers nothing about Lyon until it is mended."""

    mended: list[bool] = field(default_factory=list, compare=False)

    def identity(self):
        return {"broken": True}

    def choose(self, prompts, options):
        return [self._choice(prompt[-1].content, len(options)) for prompt in prompts]

    def _choice(self, text, options):
        return (-0.5, -1.0) if self.mended or "Lyon" not in text else NoChoice("timed out", options)

    def generate(self, prompts, sampling):
        return [Failed("timed out") for _ in prompts]


def judged(folder, teacher, **options):
    claims = [Claim(text, ASK, text) for text in ("Paris", "Lyon")]
    with Run(folder, quiet=True, **options) as run:
        found = list(judge(run, "judge", claims, ChoiceJudge(generator=teacher)))
        run.finish()
        return [one.claim.response for one in found], run.accounts()["stages"][0]["lost"]


def test_a_claim_that_was_not_answered_is_lost_and_can_be_asked_again(tmp_path):
    teacher = Broken()
    assert judged(tmp_path, teacher) == (["Paris"], {"timed out": 1})
    teacher.mended.append(True)
    assert judged(tmp_path, teacher) == (["Paris"], {"timed out": 1})
    assert judged(tmp_path, teacher, retry_lost=True) == (["Paris", "Lyon"], {})


def test_every_judge_that_asks_a_teacher_says_that_it_failed():
    assert ChoiceJudge(generator=Broken()).judge(ASK, "Lyon").failed == "timed out"
    assert TeacherJudge(generator=Broken()).judge(ASK, "Lyon").failed == "timed out"
    assert TeacherPairJudge(generator=Broken()).compare(ASK, "Paris", "Lyon").failed == "timed out"
    assert JudgePair(judge=ChoiceJudge(generator=Broken())).compare(ASK, "Paris", "Lyon").failed == "timed out"
    assert all(value == -math.inf for value in NoChoice("timed out", 2))
