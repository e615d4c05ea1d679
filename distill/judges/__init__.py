"""Judges: what tells good responses from bad ones, and says when it cannot."""

from distill.judges.accepted import AcceptedAnswer, ExactMatch
from distill.judges.base import Judge, Verdict
from distill.judges.table import TruthTable
from distill.judges.tally import Tally, tally
from distill.judges.teacher import TeacherJudge

__all__ = ["AcceptedAnswer", "ExactMatch", "Judge", "Tally", "TeacherJudge", "TruthTable", "Verdict", "tally"]
