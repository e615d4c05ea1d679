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


def test_the_benchmark_counts_abstentions_as_misses_and_not_as_mistakes(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS.parent))
    from benchmarks.judges import measured

    row = measured("judge", "data", [True, True, False, None, None], [True, False, False, True, False], seconds=0.0)
    assert (row.n, row.abstained) == (5, 0.4) and row.accuracy == pytest.approx(2 / 3)
    assert (row.approved_precision, row.approved_recall) == (0.5, 0.5)
    assert (row.rejected_precision, row.rejected_recall) == (1.0, 1 / 3)
    assert row.majority == pytest.approx(2 / 3) and row.error == pytest.approx((2 / 9 / 3) ** 0.5)


def test_each_part_of_the_benchmark_names_real_data(monkeypatch, shared_data, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(DOCS.parent))
    from benchmarks.judges import main

    main(["--data", str(shared_data), "--only", "accepted", "--out", str(tmp_path / "rows.json")])
    assert "| ExactMatch | nq_open: an alias, or another question's answer | 3,068 | 0.500" in capsys.readouterr().out
