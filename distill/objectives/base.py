"""What a loss is: on supervised positions, or on whole responses: pure, unreduced, float32, in nats.

Shape suffixes: N supervised positions, M those of a teacher with another tokenizer, V vocabulary, K stored candidates of a
teacher, D hidden width, S sequences (responses), P pairs of them, U units of a sequence objective.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.errors import ConfigError

Positions = Literal["positive", "negative", "all"]
SignalKind = Literal["dense", "top_k", "sampled"]
Unit = Literal["positive", "negative", "sequence", "pair"]


@dataclass(frozen=True, kw_only=True)
class TeacherSignal:
    """A teacher's next-token distribution at each supervised position, at temperature 1.

    ids_NK: token ids (int64), distinct within a row; None means that column k is token k, for the K lowest ids of the student's
    vocabulary (K < V where the student's is padded: the rest are no tokens). log_probs_NK: their log-probabilities (nats),
    -inf where there is none. rest_N: log of the mass outside K (nats), -inf where K is everything.
    sampled: the K are drawn from the teacher, log_probs are logs of importance weights that sum to 1: an unbiased estimate
    of whatever is linear in the teacher's probabilities, and of nothing else.
    """

    ids_NK: Tensor | None
    log_probs_NK: Tensor
    rest_N: Tensor
    sampled: bool = False

    @property
    def kind(self) -> SignalKind:
        """Whether it is the whole distribution, its head and the mass of the rest, or a sample."""
        if self.sampled:
            return "sampled"
        return "dense" if self.ids_NK is None else "top_k"

    def select(self, index_M: Tensor) -> TeacherSignal:
        """The signal at some positions (int64 indices into N), in that order."""
        return self._map(lambda tensor: tensor[index_M])

    def to(self, device: torch.device | str) -> TeacherSignal:
        """The same signal on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> TeacherSignal:
        ids_NK = None if self.ids_NK is None else change(self.ids_NK)
        return replace(self, ids_NK=ids_NK, log_probs_NK=change(self.log_probs_NK), rest_N=change(self.rest_N))


class DeferredSignal(ABC):
    """A teacher's signal that is made only when a loss looks at it, chunk by chunk: no (N, V) tensor of the teacher's exists."""

    @abstractmethod
    def select(self, index_M: Tensor) -> DeferredSignal:
        """The signal at some positions (int64 indices into N), in that order; still deferred."""

    @abstractmethod
    def to(self, device: torch.device | str) -> DeferredSignal:
        """The same signal on `device`."""

    @abstractmethod
    def materialise(self) -> TeacherSignal:
        """The distribution itself, without gradient."""


@dataclass(frozen=True, kw_only=True)
class HiddenSignal(DeferredSignal):
    """The teacher's last hidden states and what makes logits of them: exact, D numbers a position instead of V.

    hidden_ND: what the teacher's LM head reads. logits_of: (C, D) -> (C, V'), the head and whatever the family does after it.
    vocabulary: the tokens that both models know are the ids below this; columns past it are padding and are cut off.
    """

    hidden_ND: Tensor
    logits_of: Callable[[Tensor], Tensor]
    vocabulary: int

    def select(self, index_M: Tensor) -> HiddenSignal:
        """The signal at some positions (int64 indices into N), in that order; still deferred."""
        return replace(self, hidden_ND=self.hidden_ND[index_M])

    def to(self, device: torch.device | str) -> HiddenSignal:
        """The same signal on `device`; the teacher's head must be there too."""
        return replace(self, hidden_ND=self.hidden_ND.to(device))

    def materialise(self) -> TeacherSignal:
        """Logits -> log-probabilities (float32) over the common vocabulary."""
        with torch.no_grad():
            logits_NV = self.logits_of(self.hidden_ND)[:, : self.vocabulary]
            log_probs_NV = torch.empty_like(logits_NV, dtype=torch.float32)
            # In blocks, as a float32 copy of bfloat16 logits would be a second tensor of this size.
            rows = max(1, (1 << (20 if logits_NV.device.type == "cpu" else 28)) // (4 * self.vocabulary))
            for block_BV, logits_BV in zip(log_probs_NV.split(rows), logits_NV.split(rows), strict=True):
                block_BV.copy_(logits_BV.float().log_softmax(1))
        return TeacherSignal(
            ids_NK=None, log_probs_NK=log_probs_NV, rest_N=log_probs_NV.new_full(log_probs_NV.shape[:1], float("-inf"))
        )


@dataclass(frozen=True, kw_only=True)
class CommonRoots:
    """What two vocabularies can say of the next text in common: every token of either belongs to one of `count` roots.

    student_V, teacher_V (int64): the root of each token; tokens of one root begin with the same text. glues_student (P, 2): the
    student writes the text of its own token u and of the teacher's token v as one token, so v cannot follow where the student
    has said u; sorted by u. glues_teacher: the same of the teacher's token u and the student's v.
    """

    count: int
    student_V: Tensor
    teacher_V: Tensor
    glues_student: Tensor
    glues_teacher: Tensor

    def to(self, device: torch.device | str) -> CommonRoots:
        """The same roots on `device`."""
        names = ("student_V", "teacher_V", "glues_student", "glues_teacher")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, kw_only=True)
class CrossSignal:
    """What a teacher with another tokenizer says about the same texts, at its own M supervised positions.

    teacher: its distributions over its own vocabulary. token_M: its own token there; sequence_M: which response of the batch.
    span_N, span_M (int64): which stretch of text that both tokenizers delimit a position belongs to, numbered through the
    batch so that a stretch and the one that follows it in the text have consecutive numbers; -1 where it belongs to none.
    Positions of one span and side are in text order. roots: what the two vocabularies have in common.
    """

    teacher: TeacherSignal | DeferredSignal
    token_M: Tensor
    sequence_M: Tensor
    span_N: Tensor
    span_M: Tensor
    roots: CommonRoots | None = None

    def select(self, index: Tensor, sequences: Tensor) -> CrossSignal:
        """The signal for the student's positions `index`, which are all those of `sequences`."""
        index_M = torch.isin(self.sequence_M, sequences).nonzero().squeeze(1)
        return replace(
            self,
            teacher=self.teacher.select(index_M),
            token_M=self.token_M[index_M],
            sequence_M=self.sequence_M[index_M],
            span_N=self.span_N[index],
            span_M=self.span_M[index_M],
        )

    def to(self, device: torch.device | str) -> CrossSignal:
        """The same signal on `device`."""
        names = ("token_M", "sequence_M", "span_N", "span_M")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(
            self, teacher=self.teacher.to(device), roots=None if self.roots is None else self.roots.to(device), **moved
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What each supervised position should (or should not) predict. Already shifted: row n of the logits predicts token_N[n].

    token_N: int64 token ids. weight_N: float32, >= 0. negative_N: bool, True where the token is to be avoided.
    sequence_N: int64, which response of the batch the position belongs to (0, 1, ...), in text order within a sequence.
    own_N: bool, True where the student itself wrote the response; None means nowhere.
    teacher: what a teacher says there; objectives see it materialised. cross: the same from a teacher with another tokenizer.
    reference_N: float32 log p of the token under a frozen reference model (nats), where an objective compares with one.
    """

    token_N: Tensor
    weight_N: Tensor
    negative_N: Tensor
    sequence_N: Tensor
    own_N: Tensor | None = None
    teacher: TeacherSignal | DeferredSignal | None = None
    cross: CrossSignal | None = None
    reference_N: Tensor | None = None

    def where(self, positions: Positions, *, own_samples: bool = True) -> Tensor:
        """The positions (bool, (N,)) of one kind, with or without those of responses that the student itself wrote."""
        if positions == "all":
            where_N = torch.ones_like(self.negative_N)
        else:
            where_N = self.negative_N.clone() if positions == "negative" else ~self.negative_N
        return where_N if own_samples or self.own_N is None else where_N & ~self.own_N

    def select(self, index_M: Tensor) -> Targets:
        """The same targets at some positions only (int64 indices into N), in that order."""
        sequence_M = self.sequence_N[index_M]
        return replace(
            self,
            token_N=self.token_N[index_M],
            weight_N=self.weight_N[index_M],
            negative_N=self.negative_N[index_M],
            sequence_N=sequence_M,
            own_N=None if self.own_N is None else self.own_N[index_M],
            teacher=None if self.teacher is None else self.teacher.select(index_M),
            cross=None if self.cross is None else self.cross.select(index_M, sequence_M),
            reference_N=None if self.reference_N is None else self.reference_N[index_M],
        )

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on `device`."""
        names = ("token_N", "weight_N", "negative_N", "sequence_N", "own_N", "teacher", "cross", "reference_N")
        moved = {name: value.to(device) for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **moved)

    def materialised(self) -> Targets:
        """The same targets with the teacher's distributions made, once for all objectives."""
        teacher, cross = self.teacher, self.cross
        if isinstance(teacher, DeferredSignal):
            teacher = teacher.materialise()
        if cross is not None and isinstance(cross.teacher, DeferredSignal):
            cross = replace(cross, teacher=cross.teacher.materialise())
        return replace(self, teacher=teacher, cross=cross)

    def signal(self) -> TeacherSignal:
        """The teacher's materialised distribution. Raises ConfigError where there is none."""
        if not isinstance(self.teacher, TeacherSignal):
            raise ConfigError("this objective compares with a teacher's distribution, and there is none: set model.teacher")
        return self.teacher


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Unreduced loss: value_N in nats (float32, 0 outside where_N, not yet multiplied by any weight), where_N bool."""

    value_N: Tensor
    where_N: Tensor


class Objective(ABC):
    """A loss of the student, one of a config's named list.

    Subclasses are frozen keyword-only dataclasses with at least `weight: float = 1.0` (its factor in the sum of objectives).
    needs_reference: it compares with a frozen reference model's log p. needs_teacher: it reads the teacher's distribution,
    of one of the kinds in `signals`.
    """

    weight: float
    needs_reference: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = False
    signals: ClassVar[frozenset[SignalKind]] = frozenset({"dense", "top_k", "sampled"})


class TokenObjective(Objective):
    """A loss with one value per supervised position.

    The reduction is not theirs: sum(weight_N * value_N) / number of `positions` in the whole optimiser step, times `weight`.
    `whole_sequences`: a value depends on other positions of its own sequence, so the chunked head never splits a sequence.
    `detached`: part of the value is held constant for the gradient (the weights of a sampling scheme), so that the gradient
    is deliberately not the value's derivative. `needs_cross`: it reads targets.cross, another tokenizer's signal.
    """

    whole_sequences: ClassVar[bool] = False
    detached: ClassVar[bool] = False
    needs_cross: ClassVar[bool] = False

    @property
    @abstractmethod
    def positions(self) -> Positions:
        """Which positions it is about; a class variable, or a field where the config may say."""

    @property
    def own_samples(self) -> bool:
        """Whether it looks at responses that the student itself wrote."""
        return True

    @abstractmethod
    def __call__(self, logits_NV: Tensor, targets: Targets) -> Loss:
        """Logits (N, V), any float dtype, already shifted and not normalised -> Loss."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The S responses of a micro-batch, each as a whole.

    log_prob_S: float32, sum of log p over its supervised tokens (nats), with gradient. tokens_S: how many those are (int64);
    0 where a rank has nothing to learn, and for a response to be said in one part and avoided in another: neither is a response
    of either polarity. weight_S: the mean weight of its tokens. negative_S: True where it is to be avoided. prompt_S: equal
    numbers where group and prompt are equal: a positive and a negative of one prompt are a pair. own_S: whether the student
    itself wrote it. reference_S: log_prob_S under the frozen reference, where one is asked for.
    """

    log_prob_S: Tensor
    tokens_S: Tensor
    weight_S: Tensor
    negative_S: Tensor
    prompt_S: Tensor
    own_S: Tensor
    reference_S: Tensor | None = None

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Indices (P,), (P,) into S: every positive with every negative of the same prompt, both with supervised tokens.

        >>> import torch
        >>> zeros, three = torch.zeros(3), torch.tensor([2, 2, 2])
        >>> one = Sequences(log_prob_S=zeros, tokens_S=three, weight_S=zeros, negative_S=torch.tensor([False, True, True]),
        ...                 prompt_S=torch.tensor([7, 7, 8]), own_S=torch.zeros(3, dtype=torch.bool))
        >>> [index.tolist() for index in one.pairs()]
        [[0], [1]]
        """
        paired_SS = (self.prompt_S[:, None] == self.prompt_S[None, :]) & self.where("positive")[:, None]
        chosen_P, rejected_P = (paired_SS & self.where("negative")[None, :]).nonzero(as_tuple=True)
        return chosen_P, rejected_P

    def where(self, positions: Positions) -> Tensor:
        """The responses (bool, (S,)) of one polarity, or of either, that have supervised tokens."""
        real_S = self.tokens_S > 0
        if positions == "all":
            return real_S
        return real_S & (self.negative_S if positions == "negative" else ~self.negative_S)

    def mean_log_prob(self) -> Tensor:
        """(S,), log p per supervised token (nats); 0 where there is none."""
        return self.log_prob_S / self.tokens_S.clamp(min=1)

    def log_ratio(self) -> Tensor:
        """(S,), log p minus that under the reference (nats). Raises ConfigError where there is none."""
        return self.log_prob_S - self.reference().to(self.log_prob_S.dtype)

    def reference(self) -> Tensor:
        """reference_S. Raises ConfigError where there is none."""
        if self.reference_S is None:
            raise ConfigError("this objective compares with a reference model, and the batch holds no log-probabilities of one")
        return self.reference_S


@dataclass(frozen=True, kw_only=True)
class SequenceLoss:
    """Unreduced loss of a sequence objective: value_U (nats, or what its docstring says) and weight_U, one per unit."""

    value_U: Tensor
    weight_U: Tensor


class SequenceObjective(Objective):
    """A loss with one value per response or per pair of responses: preference and policy losses.

    The reduction is not theirs: sum(weight_U * value_U) / number of units in the whole optimiser step, times `weight`.
    unit: what a value belongs to: every positive response, every negative one, every response, or every pair of a positive
    and a negative one of the same prompt.
    """

    unit: ClassVar[Unit]

    @abstractmethod
    def __call__(self, sequences: Sequences) -> SequenceLoss:
        """The responses' log-probabilities -> one value per unit."""


def reduce(loss: Loss, targets: Targets, *, count: int | None = None) -> Tensor:
    """The one reduction: sum(weight_N * value_N) / count, a scalar in nats per position.

    count: the loss's positions in the whole optimiser step, over all micro-batches and ranks; left out, those of this loss.
    A count of 0 gives 0, with gradient 0, never 0/0.

    >>> import torch
    >>> targets = Targets(token_N=torch.tensor([0, 0]), weight_N=torch.tensor([1.0, 0.5]),
    ...                   negative_N=torch.tensor([False, False]), sequence_N=torch.tensor([0, 0]))
    >>> reduce(Loss(value_N=torch.tensor([2.0, 4.0]), where_N=torch.tensor([True, True])), targets)
    tensor(2.)
    """
    total = (loss.value_N * targets.weight_N.to(loss.value_N.dtype)).sum()
    return total / max(int(loss.where_N.sum()) if count is None else count, 1)


def check_weight(weight: float, name: str) -> None:
    """Raises ConfigError unless the weight is finite and not negative: polarity is a word, never the sign of a number."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(
            f"{name}.weight is {weight}; expected a finite number >= 0. To push a token down, give it negative polarity and an "
            f"objective of negative positions (Unlikelihood), not a negative weight"
        )
