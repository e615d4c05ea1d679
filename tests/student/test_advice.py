"""What is probably not meant is said, and what is meant is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from distill.errors import ConfigError
from distill.objectives import (
    KTO,
    NPO,
    ORPO,
    UNDIAL,
    ContrastiveSkewKL,
    ForwardKL,
    Likelihood,
    NegativeSampleReinforcement,
    Objective,
    Unlikelihood,
)
from distill.on_policy import AllNegative, OnPolicy
from distill.rows import StepCounts
from distill.student.advice import advice
from distill.student.combination import Chosen, Records, check_records, check_settings
from distill.teachers.base_model import BaseTeacher
from distill.teachers.live import LiveTeacher

BOTH = StepCounts(positives=9, negatives=9, positive_sequences=3, negative_sequences=3, pairs=3)


def records(holds: StepCounts = BOTH, on_policy: OnPolicy | None = None) -> Records:
    found: dict[str, Any] = dict(path="r.jsonl", holds=holds, mixed=[], protect="none", protect_tokens=False, turns="last")
    return Records(**found, on_policy=on_policy)


def said(
    one: Objective, *others: Objective, teacher: Any = None, accumulate: int = 1, epochs: int = 1, skip: bool = True, **more: Any
) -> list[str]:
    objectives = {str(i): each for i, each in enumerate((one, *others))}
    chosen = Chosen(objectives=objectives, teacher=teacher, skip_unpaired_negatives=skip)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=accumulate, world_size=1, max_epochs=epochs)
    return list(advice(chosen, records(**more), trainer))


@pytest.mark.parametrize(
    ("message", "odd", "usual"),
    [
        (
            "positions: positive",
            lambda: said(ForwardKL(), Unlikelihood(), teacher=LiveTeacher(model="x")),
            lambda: said(ForwardKL(positions="positive"), Unlikelihood(), teacher=LiveTeacher(model="x")),
        ),
        (
            "both polarities",
            lambda: said(ContrastiveSkewKL(), teacher=LiveTeacher(model="x"), holds=StepCounts(positives=3, negatives=0)),
            lambda: said(ContrastiveSkewKL(), teacher=LiveTeacher(model="x")),
        ),
        ("odds-ratio", lambda: said(ORPO()), lambda: said(ORPO(), Likelihood())),
        ("BaseTeacher", lambda: said(UNDIAL(), teacher=LiveTeacher(model="x")), lambda: said(UNDIAL(), teacher=BaseTeacher())),
        ("micro-batch", lambda: said(KTO(), accumulate=4), lambda: said(KTO(baseline="none"), accumulate=4)),
        (
            "fresh samples",
            lambda: said(NegativeSampleReinforcement(), epochs=3),
            lambda: said(NegativeSampleReinforcement(importance="reference"), epochs=3),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_oddity_is_named_and_its_usual_form_is_not(message: str, odd: Any, usual: Any) -> None:
    (found,) = odd()
    assert message in found and usual() == []


def test_a_run_of_negatives_alone_is_told_that_it_rests() -> None:
    alone = {"holds": StepCounts(positives=0, negatives=9, negative_sequences=3)}
    assert "skip_unpaired_negatives" in "".join(said(NPO(), Likelihood(), **alone))
    assert not said(NPO(), Likelihood(), skip=False, **alone)
    assert not said(NPO(), ForwardKL(), teacher=LiveTeacher(model="x"), **alone), "a divergence learns from negatives too"
    assert not said(NPO(), Likelihood(), on_policy=OnPolicy(share=0.5, marker=AllNegative()), **alone)


def test_fresh_samples_are_not_weighed_by_the_model_before_training() -> None:
    loop = OnPolicy(share=0.5, marker=AllNegative())
    weighed, fresh = (Chosen(objectives={"a": NegativeSampleReinforcement(importance=kind)}) for kind in ("reference", "none"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="importance to none"):
        check_records(weighed, records(on_policy=loop))
    check_records(fresh, records(on_policy=loop))


@pytest.mark.parametrize("kind", ["top_k", "sampled"])
def test_a_temperature_needs_the_whole_distribution(kind: str) -> None:
    class Partial(LiveTeacher):
        def kind(self) -> Any:
            return kind

    with pytest.raises(ConfigError, match="temperature to 1, or store the exact signal"):
        check_settings(Chosen(objectives={"match": ForwardKL(temperature=2)}, teacher=Partial(model="x")))
    check_settings(Chosen(objectives={"match": ForwardKL()}, teacher=Partial(model="x")))
    check_settings(Chosen(objectives={"match": ForwardKL(temperature=2)}, teacher=LiveTeacher(model="x")))
