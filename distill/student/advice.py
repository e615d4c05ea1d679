"""Settings that make sense together and are still probably not what was meant: said once, as a warning, before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill.objectives import KTO, ORPO, UNDIAL, ContrastiveSkewKL, Likelihood, NegativeSampleReinforcement, TokenObjective
from distill.objectives.divergences import Divergence
from distill.student.terms import is_penalty
from distill.teachers.base_model import BaseTeacher

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from distill.student.combination import Chosen, Records


def advice(chosen: Chosen, records: Records, trainer: Trainer) -> Iterator[str]:
    """One message per oddity: what it is, and what is usually wanted."""
    objectives = chosen.objectives
    cuts = trainer.accumulate_grad_batches * trainer.world_size
    learnt = [one for one in objectives.values() if one.weight and records.holds.of(one)]
    rests = chosen.skip_unpaired_negatives and not records.holds.positives and records.on_policy is None
    if rests and all(map(is_penalty, learnt)):
        yield (
            f"{records.path} holds no positives, and the negatives of a step without any are left out: nothing will be learnt. "
            f"Add records of what is to be said or kept, or set model.skip_unpaired_negatives to false"
        )
    says = any(isinstance(one, Likelihood) and one.weight for one in objectives.values())
    for name, one in objectives.items():
        called = f"objective {name!r} ({type(one).__name__})"
        pulls = isinstance(one, Divergence) and one.positions == "all" and not isinstance(one, ContrastiveSkewKL)
        pushes = any(isinstance(other, TokenObjective) and other.positions == "negative" for other in objectives.values())
        if pulls and pushes and records.holds.negatives and records.on_policy is None:
            yield (
                f"{called} draws the student to the teacher on wrong responses too, from which another objective pushes it away: "
                f"set positions: positive"
            )
        both = records.on_policy or (records.holds.positives and records.holds.negatives)
        if isinstance(one, ContrastiveSkewKL) and not both:
            yield f"{called} contrasts both polarities, and {records.path} holds one: use SkewForwardKL or SkewReverseKL"
        if isinstance(one, ORPO) and not says:
            yield f"{called} is the odds-ratio term alone; the paper's loss has a Likelihood of weight 1 beside it"
        if isinstance(one, UNDIAL) and not isinstance(chosen.teacher, BaseTeacher):
            yield f"{called} is self-distillation, from the student as it was: the paper's teacher is BaseTeacher"
        if isinstance(one, KTO) and one.baseline == "batch" and cuts > 1:
            yield (
                f"{called} takes its baseline from each micro-batch, and a step is cut into {cuts}: prefer one large "
                f"micro-batch, or baseline: none"
            )
        stale = isinstance(one, NegativeSampleReinforcement) and one.importance == "none" and records.on_policy is None
        if stale and (trainer.max_epochs or 2) > 1:
            yield (
                f"{called} takes the negatives for fresh samples of the student, and {records.path} stays what it is for "
                f"{trainer.max_epochs} epochs: use importance: reference, or Unlikelihood"
            )
