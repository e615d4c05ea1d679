"""What an on-policy run is asked for: how much of an epoch is the student's own, how it is drawn, marked and used again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.errors import ConfigError
from distill.on_policy.markers import Marker, Unmarked


@dataclass(frozen=True, kw_only=True)
class AdaptiveShare:
    """Use the student's own samples only as far as the validation loss asks for it, and draw fewer new ones towards the end.

    Args:
        start: the share of the first epoch.
        step: added to it after each epoch whose validation loss (`val/nats_per_positive`) is at least `tolerance` above the one
            at the last rise, or the first one; never above 1.
        tolerance: nats per token.
        fresh: how many of an epoch's own groups are drawn anew rather than taken from the buffer: "decreasing" 1 - t/T (t of T
            optimiser steps are done), "constant" half, "increasing" t/T. Whatever the buffer lacks is drawn anew.

    Source: Ko et al. 2024 (arXiv:2402.03898), sec. 3.2 and algorithm 1: the adaptive SGO scheduler (step is 1/N_phi) and the
    off-policy replay with lambda_R = phi (1 - t/T); start 0, step 0.1, tolerance 0.1 and "decreasing" are those of the authors'
    code. Deviations: groups of an epoch where they draw a lot for each batch; the loss before training is not measured, so that
    the first comparison is with the loss after the first epoch.
    """

    start: float = 0.0
    step: float = 0.1
    tolerance: float = 0.1
    fresh: Literal["decreasing", "constant", "increasing"] = "decreasing"

    def __post_init__(self) -> None:
        for name, value in {"start": self.start, "step": self.step}.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"on_policy.adaptive.{name} is {value}; give a share in [0, 1]")
        if self.tolerance < 0:
            raise ConfigError(f"on_policy.adaptive.tolerance is {self.tolerance}; give a difference of nats >= 0")

    def fresh_share(self, done: float) -> float:
        """The share of own groups that are drawn anew when `done` of the run (0 to 1) is over.

        >>> AdaptiveShare().fresh_share(0.25), AdaptiveShare(fresh="constant").fresh_share(0.25)
        (0.75, 0.5)
        """
        return {"decreasing": 1 - done, "constant": 0.5, "increasing": done}[self.fresh]


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """Train on what the student itself says: a share of each epoch's questions is answered by the student as it is then.

    Every question is in every epoch once, with its responses on disk or with the student's own; so an epoch has the same number
    of batches with and without. A question all of whose samples are left out keeps its responses on disk.

    Args:
        share: of the questions, those whose responses are the student's own (GKD's lambda); 0 is teacher forcing.
        every_n_epochs: draw new samples every so many epochs; in between those of the buffer are used again.
        samples: for each prompt.
        temperature: of the sampling; 0 is greedy.
        top_p: of the sampling.
        max_tokens: longest sample in tokens; one that is cut off there is not taught to end there.
        marker: what the samples are: Unmarked (texts for a teacher's signal), JudgeMarker, AllNegative.
        responses: "own" puts the samples in the place of the question's responses, "both" beside them (for pairs).
        buffer_size: samples that are kept for later use; the oldest are dropped.
        adaptive: let the validation loss choose the share, in the place of `share`.
        prompts: path of records whose prompts the student answers, each in the place of a training question; None takes the
            training questions themselves.
        rows: samples in memory together while they are drawn.
        seed: of the choice of questions and of the sampling, which also depend on the epoch and the prompt.
    """

    share: float = 0.5
    every_n_epochs: int = 1
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    marker: Marker = field(default_factory=Unmarked)
    responses: Literal["own", "both"] = "own"
    buffer_size: int = 1000
    adaptive: AdaptiveShare | None = None
    prompts: str | None = None
    rows: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"on_policy.share is {self.share}; give a share of the questions in [0, 1]")
        counts = {
            "every_n_epochs": self.every_n_epochs,
            "samples": self.samples,
            "max_tokens": self.max_tokens,
            "rows": self.rows,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"on_policy.{name} is {value}; give a whole number >= 1")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"on_policy.temperature is {self.temperature}; give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"on_policy.top_p is {self.top_p}; give more than 0 and at most 1")
        if self.buffer_size < self.samples:
            raise ConfigError(f"on_policy.buffer_size is {self.buffer_size}; it must hold the {self.samples} samples of a prompt")
        if self.temperature == 0 and self.samples > 1:
            raise ConfigError(
                f"on_policy.samples is {self.samples} at temperature 0, which gives the same text each time; set it to 1"
            )
        if self.prompts is not None and self.responses == "both":
            raise ConfigError(
                'on_policy.responses = "both" needs responses on disk beside the samples, and on_policy.prompts names prompts '
                "without any; leave one of the two out"
            )
