"""When the student answers: one probability of being right, from its own signals, against one threshold that the user owns.

A wrong answer that costs t/(1-t) times what a right one earns makes answering worth while exactly where the chance of being right
is at least t: the threshold and the penalty are one number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.errors import ConfigError

RULE_FILE = "abstention.json"


@dataclass(frozen=True, kw_only=True)
class AbstentionRule:
    """Answer where sigmoid(bias + answer * log p(answer) + idk * log-odds of p(IDK) + greedy * [greedy says IDK]) >= threshold.

    log p(answer) is of the best answer that is no abstention, in nats, given its own opening; p(IDK) is the probability that the
    response begins with the abstention. `abstention` is the text that the model was trained to abstain with.
    """

    bias: float
    answer: float
    idk: float
    greedy: float
    threshold: float
    abstention: str

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(
                f"threshold = {self.threshold} is no probability: give a number from 0 (always answer) to 1 (never)"
            )

    def confidence(
        self, answer_log_prob: NDArray[np.float64], p_idk: NDArray[np.float64], greedy_idk: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The chance of being right, in [0, 1], for arrays of one shape."""
        return _sigmoid(_features(answer_log_prob, p_idk, greedy_idk) @ np.array([self.bias, self.answer, self.idk, self.greedy]))

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


def choose_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], majority_right: NDArray[np.bool_]) -> float:
    """The threshold with the most truthful validation questions: right, or abstained where the untrained majority is wrong.

    Ties (a plateau of thresholds with the same decisions nearly always exists) go to the middle of the widest best stretch.
    """
    order = np.argsort(confidence)
    c = confidence[order]
    # answering everything from position i on: those below abstain
    gain = np.concatenate([[0], np.cumsum((~majority_right[order]).astype(int) - right[order].astype(int))])
    best = np.flatnonzero(gain == gain.max())
    edges = np.concatenate([[0.0], c, [1.0]])
    widths = edges[best + 1] - edges[best]
    i = best[int(np.argmax(widths))]
    return float((edges[i] + edges[i + 1]) / 2)


def _features(
    answer_log_prob: NDArray[np.float64], p_idk: NDArray[np.float64], greedy_idk: NDArray[np.bool_]
) -> NDArray[np.float64]:
    p = np.clip(p_idk, 1e-12, 1 - 1e-12)
    return np.stack([np.ones_like(p), answer_log_prob, np.log(p) - np.log1p(-p), greedy_idk.astype(float)], axis=-1)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))
