"""Direct preference optimisation: of two responses to one prompt, move from the reference towards the better one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F

from distill.errors import ConfigError
from distill.objectives.base import SequenceLoss, SequenceObjective, Sequences, Unit, check_weight


@dataclass(frozen=True, kw_only=True)
class DPO(SequenceObjective):
    """-log sigmoid(beta d) for every pair of a positive and a negative response to one prompt (nats).

    d = log(p / p_reference) of the positive minus that of the negative, each summed over the response. The gradient is
    -beta sigmoid(-beta d): it fades once the pair is apart. It asks for the distance only: both responses may become less
    probable, so put Likelihood beside it where the positives themselves should be learnt.

    label_smoothing: the share of pairs believed to be the wrong way round, 0 to 0.5: (1 - s) of the loss above and s of that of
    the swapped pair, so that d has a finite optimum. loss="ipo": (d' - 1 / (2 beta))^2, d' of mean log-ratios per token: a
    margin to be reached and not exceeded, where "sigmoid" pulls on without end when every label agrees.
    A pair's weight is the product of its two responses' weights. Every positive is paired with every negative of its prompt.

    >>> import torch
    >>> pair = Sequences(log_prob_S=torch.tensor([-4.0, -9.0]), tokens_S=torch.tensor([2, 3]), weight_S=torch.ones(2),
    ...                  negative_S=torch.tensor([False, True]), prompt_S=torch.zeros(2, dtype=torch.int64),
    ...                  own_S=torch.zeros(2, dtype=torch.bool), reference_S=torch.tensor([-5.0, -8.0]))
    >>> DPO(beta=0.5)(pair).value_U  # d = 1 - (-1): log(1 + exp(-1))
    tensor([0.3133])

    Source: Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; smoothing as in its authors' code ("conservative DPO"). IPO: Azar et
    al. 2023 (arXiv:2310.12036), eq. 17, with tau = beta. Deviation from its equation: means per token, as TRL has it after
    asking its authors; sums would make the margin depend on the length.
    """

    weight: float = 1.0
    beta: float = 0.1
    label_smoothing: float = 0.0
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    unit: ClassVar[Unit] = "pair"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.weight, "DPO")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"DPO.beta is {self.beta}; expected a finite number > 0 (smaller: further from the reference)")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(
                f"DPO.label_smoothing is {self.label_smoothing}; expected the share of swapped pairs, 0 <= s < 0.5 (at 0.5 the "
                f"labels say nothing)"
            )
        if self.loss == "ipo" and self.label_smoothing:
            raise ConfigError(
                f"DPO.label_smoothing is {self.label_smoothing} and loss is 'ipo', which has a finite optimum already; leave it 0"
            )

    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """One value per pair. Raises ConfigError without sequences.reference_S."""
        chosen_P, rejected_P = sequences.pairs()
        ratio_S = sequences.log_ratio()
        if self.loss == "ipo":
            ratio_S = ratio_S / sequences.tokens_S.clamp(min=1)
            value_P = (ratio_S[chosen_P] - ratio_S[rejected_P] - 1 / (2 * self.beta)).square()
        else:
            margin_P = self.beta * (ratio_S[chosen_P] - ratio_S[rejected_P])
            value_P = -F.logsigmoid(margin_P)
            if self.label_smoothing:
                value_P = (1 - self.label_smoothing) * value_P - self.label_smoothing * F.logsigmoid(-margin_P)
        return SequenceLoss(value_U=value_P, weight_U=sequences.weight_S[chosen_P] * sequences.weight_S[rejected_P])
