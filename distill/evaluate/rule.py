"""When the student answers: one probability of being right, from its own signals, against one threshold that the user owns.

A wrong answer that costs t/(1-t) times what a right one earns makes answering worth while exactly where the chance of being right
is at least t: the threshold and the penalty are one number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.errors import ConfigError

RULE_FILE = "abstention.json"


@dataclass(frozen=True, kw_only=True)
class AbstentionRule:
    """Answer where the confidence is at least `threshold`.

    confidence = sigmoid(bias + answer * log p(answer) + idk * log-odds of p(IDK) + greedy * [greedy says IDK]), times `discount`
    where p(IDK) > veto: an answer may look probable (every invented country is in Africa) while the model says, louder than it
    does about anything real, that it does not know.

    log p(answer) is of the best answer that is no abstention, in nats, given its own opening; p(IDK) is the probability that the
    response begins with the abstention. `abstention` is the text that the model was trained to abstain with.
    """

    bias: float
    answer: float
    idk: float
    greedy: float
    threshold: float
    abstention: str
    veto: float = 1.0
    discount: float = 1.0

    def __post_init__(self) -> None:
        for name in ("threshold", "veto", "discount"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} = {value} is no probability: give a number from 0 to 1 (threshold 0 always answers)")

    def confidence(
        self, answer_log_prob: NDArray[np.float64], p_idk: NDArray[np.float64], greedy_idk: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The chance of being right, in [0, 1], for arrays of one shape."""
        weights = np.array([self.bias, self.answer, self.idk, self.greedy])
        chance = _sigmoid(_features(answer_log_prob, p_idk, greedy_idk) @ weights)
        return chance * np.where(p_idk > self.veto, self.discount, 1.0)

    def save(self, folder: Path) -> None:
        """Write abstention.json beside the model it belongs to."""
        (folder / RULE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(folder: Path) -> AbstentionRule:
        """Read abstention.json; ConfigError where it is not there, or a field is missing or unknown."""
        path = folder / RULE_FILE
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give the folder of a student that was exported with an abstention rule")
        try:
            return AbstentionRule(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as wrong:
            raise ConfigError(f"{path}: not an abstention rule ({wrong}); export the student again") from wrong


def fit_rule(
    *,
    answer_log_prob: NDArray[np.float64],
    p_idk: NDArray[np.float64],
    greedy_idk: NDArray[np.bool_],
    right: NDArray[np.bool_],
    abstention: str,
    threshold: float = 0.5,
    use: tuple[str, ...] = ("answer", "idk", "greedy"),
    ridge: float = 1.0,
) -> AbstentionRule:
    """Logistic regression of being right on the signals named in `use`, by Newton's method, on VALIDATION questions.

    `ridge` shrinks all weights but the bias (in units of standardised signals), so that a few hundred questions are enough.
    Raises ConfigError where all validation answers are right, or all wrong: nothing can be learnt from them.
    """
    if right.all() or not right.any():
        raise ConfigError(
            f"the validation answers are all {'right' if right.all() else 'wrong'}: add questions of the other kind"
        )
    x = _features(answer_log_prob, p_idk, greedy_idk)
    kept = np.array([True, *(name in use for name in ("answer", "idk", "greedy"))])
    centre, scale = x.mean(0), x.std(0)
    kept &= np.concatenate([[True], scale[1:] > 1e-9])  # a signal that never changes says nothing
    z = np.where(kept, (x - centre) / np.where(scale > 1e-9, scale, 1.0), 0.0)
    z[:, 0] = 1.0
    w, penalty = np.zeros(4), np.diag([0.0, ridge, ridge, ridge])
    for _ in range(50):
        p = _sigmoid(z @ w)
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + penalty + 1e-9 * np.eye(4), z.T @ (right - p) - penalty @ w)
        w += step
        if np.abs(step).max() < 1e-9:
            break
    w = np.where(kept, w, 0.0)
    w[1:] /= np.where(scale[1:] > 1e-9, scale[1:], 1.0)
    return AbstentionRule(
        bias=float(w[0] - w[1:] @ centre[1:]),
        answer=float(w[1]),
        idk=float(w[2]),
        greedy=float(w[3]),
        threshold=threshold,
        abstention=abstention,
    )


def choose_threshold(confidence: NDArray[np.float64], gain: NDArray[np.float64], *, at_most: float = 1.0) -> float:
    """The threshold from which answering gains most in all; gain (Q,) is what answering each question wins over abstaining on it.

    Many thresholds make the same decisions: the middle of the widest best stretch is taken. No threshold above `at_most` is.

    >>> choose_threshold(np.array([0.9, 0.6, 0.2]), np.array([1.0, 1.0, -1.0]))
    0.4
    """
    order = np.argsort(confidence, kind="stable")
    # total[i]: the gain of answering the questions from rank i on
    total = np.concatenate([np.cumsum(gain[order][::-1])[::-1], [0.0]])
    edges = np.minimum(np.concatenate([[0.0], confidence[order], [1.0]]), at_most)
    allowed = np.flatnonzero((edges[:-1] < at_most) | (np.arange(len(total)) == 0))
    best = allowed[total[allowed] >= total[allowed].max() - 1e-12]
    best = best[np.argmax(edges[best + 1] - edges[best])]
    return float((edges[best] + edges[best + 1]) / 2)


def set_threshold_and_veto(
    rule: AbstentionRule,
    *,
    answer_log_prob: NDArray[np.float64],
    p_idk: NDArray[np.float64],
    greedy_idk: NDArray[np.bool_],
    gain: NDArray[np.float64],
    known: NDArray[np.bool_],
    over_refusal: float = 1.0,
) -> AbstentionRule:
    """The same rule with the threshold and the veto that gain most together (see `choose_threshold`), on validation questions.

    known: questions that the untrained model can answer; of these at most the share `over_refusal` may be abstained on.
    The discount is the threshold itself: a vetoed question is never answered at this threshold, and still keeps its place
    among the vetoed ones when a user lowers it.
    """
    confidence = replace(rule, veto=1.0, discount=1.0).confidence(answer_log_prob, p_idk, greedy_idk)
    best = (-np.inf, 0.5, 1.0)
    needed = int(np.ceil((1 - over_refusal) * known.sum()))
    for veto in np.unique(np.quantile(p_idk, np.linspace(0.05, 1, 96))):
        allowed = p_idk <= veto
        kept = np.sort(confidence[allowed & known])[::-1]
        if len(kept) < needed:
            continue  # this veto alone refuses too much
        at_most = float(kept[needed - 1]) if needed else 1.0
        threshold = choose_threshold(confidence[allowed], gain[allowed], at_most=at_most)
        won = float(gain[allowed & (confidence >= threshold)].sum())
        if won > best[0] + 1e-12 or (abs(won - best[0]) <= 1e-12 and veto > best[2]):
            best = (won, threshold, float(veto))
    _, threshold, veto = best
    return replace(rule, threshold=threshold, veto=min(veto, 1.0), discount=threshold)


def _features(
    answer_log_prob: NDArray[np.float64], p_idk: NDArray[np.float64], greedy_idk: NDArray[np.bool_]
) -> NDArray[np.float64]:
    p = np.clip(p_idk, 1e-12, 1 - 1e-12)
    return np.stack([np.ones_like(p), answer_log_prob, np.log(p) - np.log1p(-p), greedy_idk.astype(float)], axis=-1)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))
