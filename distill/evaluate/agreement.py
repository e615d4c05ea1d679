"""How near a student is to its teacher: divergence, agreement on the likeliest token, and likelihood of the text itself.

Shape suffixes: N supervised positions, C positions of one chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.errors import ConfigError

if TYPE_CHECKING:
    from distill.rows import Batch
    from distill.teachers.logits import RunningTeacher

_POSITIONS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Means over the supervised positions of some text.

    kl: KL(teacher || student), nats per token. top_1: share of positions where both find one token likeliest. nats: -log p of
    the text's own tokens under the student, per token; teacher_nats: under the teacher. tokens: how many positions.
    """

    kl: float
    top_1: float
    nats: float
    teacher_nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """Of the text's own tokens under the student."""
        return math.exp(self.nats)


def agreement(student: Any, teacher: RunningTeacher, batches: Iterable[Batch]) -> Agreement:
    """Compare a causal language model with a teacher of the same tokenizer, in their own precision and without gradient.

    teacher: live (`FrozenModel`) or stored; it must give the whole distribution, and ConfigError is raised where it does not.
    Each position counts the same, whatever its weight and polarity. The shorter of two padded vocabularies is compared.
    """
    import torch

    from distill.head import hidden_signal
    from distill.objectives import DeferredSignal

    vocabulary = student.config.get_text_config().vocab_size
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0
    for batch in batches:
        with torch.no_grad():
            own, its = hidden_signal(student, batch, vocabulary=vocabulary)[0], teacher(batch).signal
            if its is None or not isinstance(its, DeferredSignal) and its.kind != "dense":
                raise ConfigError("the teacher gives no whole distribution to compare with; use a live or an exactly stored one")
            for index_C in torch.arange(len(batch.gather_N)).split(_POSITIONS_AT_ONCE):
                chosen = its.select(index_C)
                teacher_CV = (chosen.materialise() if isinstance(chosen, DeferredSignal) else chosen).log_probs_NK
                student_CV = own.select(index_C).materialise().log_probs_NK[:, : teacher_CV.shape[1]].log_softmax(1)
                token_C1 = batch.targets.token_N[index_C].unsqueeze(1)
                kl_C = torch.nn.functional.kl_div(student_CV, teacher_CV, log_target=True, reduction="none").sum(1)
                same_C = student_CV.argmax(1) == teacher_CV.argmax(1)
                said = [-one.gather(1, token_C1).sum() for one in (student_CV, teacher_CV)]
                sums += torch.stack([kl_C.sum(), same_C.sum(), *said]).double().cpu()
        tokens += len(batch.gather_N)
    kl, top_1, nats, teacher_nats = (sums / max(tokens, 1)).tolist()
    return Agreement(kl=kl, top_1=top_1, nats=nats, teacher_nats=teacher_nats, tokens=tokens)
