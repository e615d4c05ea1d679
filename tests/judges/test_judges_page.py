"""The pages on judges name each judge there is, and their Python runs as it is printed."""

from pathlib import Path

import pytest
import sybil
from sybil.parsers.markdown import PythonCodeBlockParser

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="not a source checkout")
JUDGES = (
    *("ExactMatch", "AcceptedAnswer", "MentionedAnswer", "FinalNumber", "TruthTable", "ArithmeticJudge", "SentimentJudge"),
    *("EmbeddingJudge", "RetrievalJudge", "OverlapEntailment", "TeacherJudge", "ChoiceJudge", "TeacherPairJudge", "JudgePair"),
)


def test_the_page_on_writing_a_judge_runs_as_it_is_printed():
    examples = list(sybil.Sybil(parsers=[PythonCodeBlockParser()]).parse(DOCS / "how-to" / "write-a-judge.md"))
    assert len(examples) == 2
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("judge", JUDGES)
def test_the_reference_page_has_a_section_for_each_judge(judge):
    headings = [line for line in (DOCS / "reference" / "judges.md").read_text("utf-8").splitlines() if line.startswith("## ")]
    assert any(f"`{judge}`" in heading for heading in headings)
