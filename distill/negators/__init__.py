"""Negators: from a response to its opposite or to a wrong one, with what was changed, and how often that is right."""

from distill.negators.base import Negation, Negator
from distill.negators.changes import changed_spans
from distill.negators.distractor import DistractorNegator
from distill.negators.entities import EntitySwap, capitalised_names
from distill.negators.rules import RuleNegator
from distill.negators.swap import AnswerSwap, NumberChange
from distill.negators.teacher import TeacherNegator
from distill.negators.text_to_text import TextToTextNegator
from distill.negators.truth import NegatorReport, check_negation, is_right, measure_negator

__all__ = [
    "AnswerSwap",
    "DistractorNegator",
    "EntitySwap",
    "Negation",
    "Negator",
    "NegatorReport",
    "NumberChange",
    "RuleNegator",
    "TeacherNegator",
    "TextToTextNegator",
    "capitalised_names",
    "changed_spans",
    "check_negation",
    "is_right",
    "measure_negator",
]
