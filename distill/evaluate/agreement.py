"""How near a student is to its teacher: divergence, agreement on the likeliest token, and likelihood of the text itself.

Shape suffixes: N supervised positions, C positions of one chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.rows import Batch

_POSITIONS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Means over the supervised positions of some text.

    kl: KL(teacher || student), nats per token. top_1: share of positions where both find the same token likeliest. nats: -log p of
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


def agreement(student: Any, teacher: Any, batches: Iterable[Batch]) -> Agreement:
    """Compare two causal language models of one tokenizer on batches, in their own precision and without gradient.

    Both read the same rows; each position counts the same, whatever its weight and polarity. The shorter of two padded
    vocabularies decides what is compared.
    """
    import torch

    from distill.head import hidden_signal

    vocabulary = min(model.config.get_text_config().vocab_size for model in (student, teacher))
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0
    for batch in batches:
        with torch.no_grad():
            own, its = (hidden_signal(model, batch, vocabulary=vocabulary)[0] for model in (student, teacher))
            for index_C in torch.arange(len(batch.gather_N)).split(_POSITIONS_AT_ONCE):
                student_CV = own.select(index_C).materialise().log_probs_NK
                teacher_CV = its.select(index_C).materialise().log_probs_NK
                token_C1 = batch.targets.token_N[index_C].unsqueeze(1)
                kl_C = (teacher_CV.exp() * (teacher_CV - student_CV)).sum(1)
                same_C = student_CV.argmax(1) == teacher_CV.argmax(1)
                said = [-one.gather(1, token_C1).sum() for one in (student_CV, teacher_CV)]
                sums += torch.stack([kl_C.sum(), same_C.sum(), *said]).double().cpu()
        tokens += len(batch.gather_N)
    kl, top_1, nats, teacher_nats = (sums / max(tokens, 1)).tolist()
    return Agreement(kl=kl, top_1=top_1, nats=nats, teacher_nats=teacher_nats, tokens=tokens)
