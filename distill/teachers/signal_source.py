"""What of a local teacher is stored: its signal on rendered records, in the form of each kind.

Shape suffixes: N supervised positions of a batch, P those of one record, V vocabulary, K tokens kept, n draws, M drawn tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from distill.errors import TeacherError
from distill.teachers.signal_store import VALUES, SequenceSignal, StoredKind, id_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from distill.objectives.base import HiddenSignal
    from distill.rows import Batch, SupervisedTokens

Tokens = TypeVar("Tokens", bound="SupervisedTokens")
StoreDtype = Literal["float16", "bfloat16", "float32"]
_CHUNK_BYTES = 128 << 20  # of one (chunk, V) matrix in float32
_LONGEST_SHARED_ROW = 2048


class SignalSource(ABC):
    """Where a signal comes from: a model here, or a server. vocabulary: how many ids, from 0, it is about."""

    vocabulary: int

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What makes it the same teacher: no path, address or secret."""

    @abstractmethod
    def __call__(self, examples: Sequence[SupervisedTokens]) -> list[SequenceSignal]:
        """The signal on each rendered record, in any order."""

    def after_head(self) -> Mapping[str, Any]:
        """What its family does to its logits after the head, by the names of the model's configuration."""
        return {}

    def head(self) -> Mapping[str, Tensor] | None:
        """The LM head, where the signal is what that reads."""
        return None


def supervised(example: SupervisedTokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens of a rendered record up to the last supervised one, and the places of the supervised ones."""
    index_P = np.flatnonzero(np.asarray(example.weight) > 0)
    return np.asarray(example.token_ids, dtype=np.int64)[: int(index_P[-1]) + 1], index_P


@dataclass(frozen=True, kw_only=True)
class LocalSource(SignalSource):
    """A causal language model in this process.

    teacher, student: names of the models; of the student only the tokenizer is read. kind, k: what to store; for "sampled" k is
    the number of draws. dtype: of the teacher's weights and of all it computes. store_dtype: of what is stored. device: "auto" is
    the accelerator where there is one.

    Raises TeacherError where the tokenizers differ.
    """

    teacher: str
    student: str
    kind: StoredKind
    k: int = 64
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    store_dtype: StoreDtype = "float16"
    seed: int = 0
    device: str = "auto"

    @cached_property
    def _model(self) -> Any:
        from distill.models import load_model

        return load_model(self.teacher, dtype=self.dtype, device=self.device)

    @cached_property
    def _common(self) -> Any:
        from distill.models import load_tokenizer
        from distill.teachers.vocabulary import common_tokens, compare_templates

        own, its = load_tokenizer(self.student), load_tokenizer(self.teacher)
        names = {"student_name": self.student, "teacher_name": self.teacher}
        compare_templates(own, its, **names)
        return common_tokens(own.get_vocab(), its.get_vocab(), **names)

    @cached_property
    def _running(self) -> Any:
        from distill.teachers.live import FrozenModel

        common = self._common
        rows = self._model.config.get_text_config().vocab_size
        return FrozenModel(self._model, name=self.teacher, common=common.within(student_rows=rows, teacher_rows=rows))

    @cached_property
    def vocabulary(self) -> int:  # type: ignore[override]
        """The ids that mean the same to teacher and student, as far as the teacher has logits for them."""
        return int(min(self._common.size, self._model.config.get_text_config().vocab_size))

    @cached_property
    def _shares(self) -> bool:
        from distill.rows import allows_prefix_sharing

        return allows_prefix_sharing(self._model, longest=_LONGEST_SHARED_ROW)

    def identity(self) -> Mapping[str, Any]:
        """The model's content and its precision."""
        from distill.models import model_identity

        return {"teacher": "huggingface", **model_identity(self.teacher), "dtype": self.dtype}

    def after_head(self) -> Mapping[str, Any]:
        """Scales and caps of the family."""
        from distill.head import AFTER_HEAD

        settings = self._model.config.get_text_config().to_dict()
        return {name: settings[name] for name in AFTER_HEAD if settings.get(name) is not None}

    def head(self) -> Mapping[str, Tensor] | None:
        """Of the exact kind: the rows of the common vocabulary, in bfloat16 where that loses nothing."""
        import torch

        if self.kind != "exact":
            return None
        head = self._model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            raise TeacherError(
                f"teacher {self.teacher!r} has a {type(head).__name__} as its LM head, which cannot be stored as one matrix; "
                f"store --kind top_k instead"
            )
        weight = head.weight.detach()[: self.vocabulary]
        short = weight.bfloat16()
        kept = {"weight": short if torch.equal(short.to(weight.dtype), weight) else weight}
        return kept if head.bias is None else kept | {"bias": head.bias.detach()[: self.vocabulary]}

    def __call__(self, examples: Sequence[SupervisedTokens]) -> list[SequenceSignal]:
        """One forward pass; records with one prompt share its row where the model allows it."""
        import torch

        from distill.rows import plain_rows, shared_rows

        longest = sum(len(np.asarray(example.token_ids)) for example in examples)  # of a shared row, at most
        shared = self._shares and longest <= _LONGEST_SHARED_ROW
        batch = shared_rows([examples], 0) if shared else plain_rows(examples, 0)
        batch = batch.to(self._model.device)
        with torch.inference_mode():
            values = self._values(self._running(batch).signal, batch)
        # Positions come sequence by sequence; values (drawn tokens) position by position.
        positions_S = torch.bincount(batch.targets.sequence_N, minlength=len(batch.record_ids)).tolist()
        counts = {"position": positions_S}
        if "unique" in values:
            counts["value"] = [int(part.sum()) for part in values["unique"].split(positions_S)]
        parts = {name: values[name].split(counts[axis]) for name, axis in VALUES[self.kind].items()}
        by_id = {example.record_id: example for example in examples}
        found = []
        for number, record_id in enumerate(batch.record_ids):
            token_T, index_P = supervised(by_id[record_id])
            own = {name: part[number] for name, part in parts.items()}
            found.append(SequenceSignal(record_id=record_id, token_T=token_T, index_P=index_P, values=own))
        return found

    def _values(self, signal: HiddenSignal, batch: Batch) -> dict[str, Tensor]:
        """The tensors of VALUES for all positions of a batch."""
        import torch

        ids, sequence_N = batch.record_ids, batch.targets.sequence_N
        if self.kind == "exact":
            return {"hidden": narrowed(signal.hidden_ND, self.store_dtype, lambda row: ids[int(sequence_N[row])])}
        uniform_Nn = np.zeros((0, 0))
        if self.kind == "sampled":
            count_S = torch.bincount(sequence_N, minlength=len(ids)).tolist()
            uniform_Nn = np.concatenate(
                [uniforms(name, count, self.k, self.seed) for name, count in zip(ids, count_S, strict=True)]
            )
        parts: list[dict[str, Tensor]] = []
        size = max(1, _CHUNK_BYTES // (4 * self.vocabulary))
        for chunk in torch.arange(len(sequence_N), device=sequence_N.device).split(size):
            log_probs_CV = signal.select(chunk).materialise().log_probs_NK
            if self.kind == "token":
                parts.append({"log_prob": log_probs_CV.gather(1, batch.targets.token_N[chunk][:, None]).squeeze(1)})
            elif self.kind == "sampled":
                parts.append(draws(log_probs_CV, uniform_Nn[chunk.cpu().numpy()]))
            else:
                parts.append(top_k(log_probs_CV, self.k, self.store_dtype))
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def narrowed(hidden_ND: Tensor, dtype: StoreDtype, record_of: Callable[[int], str]) -> Tensor:
    """Hidden states in the stored precision. Raises TeacherError, naming the record of the row, where one is too large for it."""
    import torch

    stored: Tensor = hidden_ND.to(getattr(torch, dtype)).cpu()
    unfit = (~stored.isfinite()).any(1).nonzero()
    if len(unfit):
        row = int(unfit[0])
        raise TeacherError(
            f"record {record_of(row)!r}: a hidden state of size {hidden_ND[row].abs().max().item():.3g} does not fit {dtype} "
            f"(at most {torch.finfo(stored.dtype).max:.5g}); use --store_dtype bfloat16 or float32"
        )
    return stored


def top_k(log_probs_NV: Tensor, k: int, dtype: StoreDtype) -> dict[str, Tensor]:
    """The k most probable tokens, most probable first, and the log of the mass of all others (-inf where there are none)."""
    import torch

    top = log_probs_NV.topk(min(k, log_probs_NV.shape[1]), dim=1)
    others_NV = log_probs_NV.scatter(1, top.indices, float("-inf"))
    # torch.logsumexp over a vocabulary is ten times slower than this on a processor.
    greatest_N1 = others_NV.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    rest_N = greatest_N1.squeeze(1) + others_NV.sub_(greatest_N1).exp_().sum(1).log()
    ids = top.indices.to(id_dtype(log_probs_NV.shape[1]))
    return {"ids": ids, "log_probs": top.values.to(getattr(torch, dtype)), "rest": rest_N.float()}


def uniforms(record_id: str, positions: int, n: int, seed: int) -> NDArray[np.float64]:
    """(P, n) numbers in [0, 1) that depend on the record and the seed only, not on its batch."""
    key = hashlib.blake2b(f"{seed} {record_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random((positions, n))


def draws(log_probs_NV: Tensor, uniform_Nn: NDArray[np.float64]) -> dict[str, Tensor]:
    """n draws from each row, equal ones merged: ids (M,), counts (M,), and how many of those belong to each row.

    counts / n is an unbiased estimate of each probability, so the gradient of whatever is linear in the teacher's probabilities
    (forward KL, cross-entropy) is unbiased. Source: Anshumann et al. 2025 (arXiv:2503.16870), Random Sampling KD with their
    proposal at t = 1. Another t would need importance weights normalised to sum to 1, which are biased.
    """
    import torch

    cumulative_NV = log_probs_NV.double().exp().cumsum(1)
    levels_Nn = torch.from_numpy(uniform_Nn).to(cumulative_NV.device) * cumulative_NV[:, -1:]
    drawn_Nn = torch.searchsorted(cumulative_NV, levels_Nn, right=True).clamp(max=log_probs_NV.shape[1] - 1).sort(1).values
    new_Nn = torch.ones_like(drawn_Nn, dtype=torch.bool)
    new_Nn[:, 1:] = drawn_Nn[:, 1:] != drawn_Nn[:, :-1]
    first_M = new_Nn.flatten().nonzero().squeeze(1)
    counts_M = torch.diff(first_M, append=first_M.new_tensor([new_Nn.numel()]))
    small = torch.uint8 if uniform_Nn.shape[1] < 256 else torch.int32
    return {
        "ids": drawn_Nn.flatten()[first_M].to(id_dtype(log_probs_NV.shape[1])),
        "counts": counts_M.to(small),
        "unique": new_Nn.sum(1).to(small),
    }


def batches(examples: Iterator[Tokens], size: int, *, window: int = 16) -> Iterator[list[Tokens]]:
    """Records of like length together, those with one prompt side by side; `window` batches' worth are looked at together."""
    waiting: list[Tokens] = []
    for example in examples:
        waiting.append(example)
        if len(waiting) == window * size:
            yield from _sorted_batches(waiting, size)
            waiting = []
    yield from _sorted_batches(waiting, size)


def _sorted_batches(examples: list[Tokens], size: int) -> Iterator[list[Tokens]]:
    prompts = [np.asarray(example.token_ids[: example.prompt_length]).tobytes() for example in examples]  # type: ignore[index]
    longest: dict[bytes, int] = {}
    for prompt, example in zip(prompts, examples, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(np.asarray(example.token_ids)))
    order = sorted(range(len(examples)), key=lambda i: (longest[prompts[i]], prompts[i], i))
    for start in range(0, len(order), size):
        yield [examples[index] for index in order[start : start + size]]
