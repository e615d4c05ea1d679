"""A teacher whose signal was computed before, by `distill signal`: read by record id and token, never by step.

Shape suffixes: N supervised positions of a batch, P those of one record, S sequences, T columns, K tokens kept, M drawn tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.errors import TeacherError
from distill.teachers.logits import LiveStudent, LogitTeacher, RunningTeacher, TeacherOutput
from distill.teachers.signal_store import SignalReader, StoredSequence, read_signal_manifest, tokenizer_digest, verify_signal

if TYPE_CHECKING:
    from torch import Tensor

    from distill.objectives.base import HiddenSignal, SignalKind, TeacherSignal
    from distill.rows import Batch


@dataclass(frozen=True, kw_only=True)
class StoredTeacher(LogitTeacher):
    """The signal of a teacher that is not here: training costs the student alone, and is the same to the bit when repeated.

    path: a folder that `distill signal` wrote for the training and the validation records. verify: read it whole at the start and
    compare its SHA-256 with the manifest's.
    """

    path: str
    verify: bool = False
    reads_new_text = False

    def kind(self) -> SignalKind:
        """What the manifest says. Raises TeacherError where the folder holds a reference's log-probabilities only."""
        kind = read_signal_manifest(self.path).settings.kind
        if kind == "token":
            raise TeacherError(
                f"{self.path}: holds log-probabilities of the records' own tokens, which are a reference, not a distribution: "
                f"set model.reference to it, or make a teacher's signal with `distill signal --kind exact` (or top_k, sampled)"
            )
        return "dense" if kind == "exact" else kind

    def start(self, student: LiveStudent) -> RunningTeacher:
        """Map the files. Raises TeacherError: another tokenizer, template or vocabulary than the student's, or a missing file."""
        self.kind()
        rows = student.model.config.get_text_config().vocab_size
        return StoredSignal(_fitting_reader(self.path, student.name, rows=rows, verify=self.verify))


class StoredSignal(RunningTeacher):
    """An open folder as a teacher."""

    def __init__(self, reader: SignalReader) -> None:
        self._reader = reader
        self._heads: dict[Any, Any] = {}

    def __call__(self, batch: Batch, *, layers: Sequence[int] = ()) -> TeacherOutput:
        """The stored signal at the batch's positions. Raises TeacherError where a record or a token is not the stored one."""
        if layers:
            raise TeacherError(
                f"{self._reader.folder}: holds no hidden states of layers {list(layers)}; train losses on hidden states with a "
                f"live teacher (LiveTeacher)"
            )
        places = located(self._reader, batch)
        device = batch.gather_N.device
        if self._reader.settings.kind == "exact":
            return TeacherOutput(signal=self._exact(places, device))
        made = _top_k if self._reader.settings.kind == "top_k" else _sampled
        return TeacherOutput(signal=made(self._reader, places).to(device))

    def _exact(self, places: Places, device: Any) -> HiddenSignal:
        import torch
        from torch.nn.functional import linear

        from distill.head import after_head
        from distill.objectives.base import HiddenSignal

        if device not in self._heads:
            # float32 whatever it is stored in: a product with itself is not rounded once more.
            self._heads[device] = {name: value.float().to(device) for name, value in self._reader.head().items()}
        head, settings = self._heads[device], self._reader.settings.after_head
        empty = torch.empty(0, head["weight"].shape[1])
        hidden_ND = _in_order(places, [empty, *(part.float() for part in places.rows("hidden", self._reader))])

        def logits_of(hidden_CD: Tensor) -> Tensor:
            with torch.autocast(hidden_CD.device.type, enabled=False):
                return after_head(linear(hidden_CD.float(), head["weight"], head.get("bias")), settings)

        return HiddenSignal(hidden_ND=hidden_ND.to(device), logits_of=logits_of, vocabulary=self._reader.settings.vocabulary)


class StoredReference:
    """log p of the records' own tokens under a reference model, as `distill signal --kind token` stored them.

    student: the name of the student, whose tokenizer must be the one that the records were rendered with. rows: of its head.
    """

    def __init__(self, path: str, *, student: str, rows: int) -> None:
        kind = read_signal_manifest(path).settings.kind
        if kind != "token":
            raise TeacherError(
                f"{path}: holds a teacher's signal (kind {kind!r}), not a reference's log-probabilities: make those with "
                f"`distill signal --kind token`, or set model.teacher to a StoredTeacher of it"
            )
        self._reader = _fitting_reader(path, student, rows=rows, verify=False)

    def __call__(self, batch: Batch) -> Tensor:
        """reference_N (nats, float32). Raises TeacherError where a record or a token is not the stored one."""
        import torch

        places = located(self._reader, batch)
        return _in_order(places, [torch.empty(0), *places.rows("log_prob", self._reader)]).to(batch.gather_N.device)


def _fitting_reader(path: str, student: str, *, rows: int, verify: bool) -> SignalReader:
    from distill.models import load_tokenizer

    if verify:
        verify_signal(path)
    reader = SignalReader(path)
    settings = reader.settings
    for name, own, stored in zip(
        ("tokenizer", "chat template"),
        tokenizer_digest(load_tokenizer(student)),
        (settings.tokenizer, settings.template),
        strict=True,
    ):
        if own != stored:
            raise TeacherError(
                f"{path}: was stored for records rendered with another {name} than that of student {student!r} ({stored[:8]}..., "
                f"not {own[:8]}...); run `distill signal --student {student}` into a new folder"
            )
    if rows < settings.vocabulary:
        raise TeacherError(
            f"{path}: is about {settings.vocabulary} tokens, and student {student!r} has logits for {rows} only; resize its "
            f"embeddings to its tokenizer, or run `distill signal --student {student}` into a new folder"
        )
    return reader


class Places(NamedTuple):
    """Where the positions of a batch are stored: order_N lists the positions sequence by sequence, as `pieces` do.

    pieces: (a record, which of its stored positions).
    """

    order_N: Tensor
    pieces: list[tuple[StoredSequence, NDArray[np.int64]]]

    def rows(self, name: str, reader: SignalReader) -> Iterator[Tensor]:
        """A tensor of the "position" axis, piece by piece."""
        import torch

        for sequence, at_P in self.pieces:
            first = int(at_P[0])
            found = reader.read(sequence, name, first, int(at_P[-1]) + 1 - first)
            yield found if len(found) == len(at_P) else found[torch.from_numpy(at_P - first)]


def _in_order(places: Places, parts: list[Tensor]) -> Tensor:
    """The pieces' rows (N, ...) in the order of the batch."""
    import torch

    rows = torch.cat(parts)
    out = torch.empty_like(rows)
    out[places.order_N] = rows
    return out


def located(reader: SignalReader, batch: Batch) -> Places:
    """Find every position of a batch, and check that the student reads the very tokens that the teacher read.

    Raises TeacherError naming the record: not stored, another text, or a position that is not stored.
    """
    import torch

    sequence_N = batch.targets.sequence_N.cpu()
    order_N = (sequence_N * (1 << 32) + batch.token_index_N.cpu()).argsort()
    token_N, index_N = batch.targets.token_N.cpu()[order_N].numpy(), batch.token_index_N.cpu()[order_N].numpy()
    counts_S = torch.bincount(sequence_N, minlength=len(batch.record_ids)).numpy()
    ends_S = np.cumsum(counts_S)
    used = np.flatnonzero(counts_S)
    read = _tokens_read(batch, order_N[torch.from_numpy(ends_S[used] - 1)])
    pieces = []
    for number, context in zip(used.tolist(), read, strict=True):
        record_id, mine = batch.record_ids[number], slice(ends_S[number] - counts_S[number], ends_S[number])
        found = reader.find(record_id)
        if found is None:
            raise TeacherError(
                f"{reader.folder}: has no signal on record {record_id!r}; run `distill signal` with the file that holds it among "
                f"--records, into a new folder (a stored signal cannot judge texts that the student writes in training)"
            )
        _check_tokens(reader, record_id, found.token_T, np.append(context, token_N[mine][-1]))
        at_P = np.searchsorted(found.index_P, index_N[mine])
        missing = index_N[mine][found.index_P[np.minimum(at_P, len(found.index_P) - 1)] != index_N[mine]]
        if len(missing):
            settings = reader.settings
            raise TeacherError(
                f"{reader.folder}: record {record_id!r} has no signal at token {missing[0]}: it was stored with turns = "
                f"{settings.turns!r} and max_tokens = {settings.max_tokens}, or with other spans; run `distill signal` again "
                f"with the settings of this training"
            )
        pieces.append((found, at_P))
    return Places(order_N, pieces)


def _tokens_read(batch: Batch, last_S: Tensor) -> Iterator[NDArray[np.int64]]:
    """For each sequence the tokens that its last supervised position sees: its prompt and response up to there."""
    import torch

    width = batch.input_ids_BT.shape[1]
    place_S = batch.gather_N[last_S.to(batch.gather_N.device)]
    row_S, column_S = place_S // width, place_S % width
    mask = batch.attention_mask
    seen_ST = torch.arange(width, device=mask.device) <= column_S[:, None] if mask.dim() == 2 else mask[row_S, 0, column_S]
    tokens_ST = batch.input_ids_BT[row_S].cpu().numpy()
    return (tokens[seen] for tokens, seen in zip(tokens_ST, seen_ST.cpu().numpy(), strict=True))


def _check_tokens(reader: SignalReader, record_id: str, stored: NDArray[np.int64], own: NDArray[np.int64]) -> None:
    length = min(len(stored), len(own))
    differs = np.flatnonzero(stored[:length] != own[:length])
    if len(differs) or len(own) > len(stored):
        at = int(differs[0]) if len(differs) else length
        here = f"{stored[at]} there" if at < len(stored) else f"past the {len(stored)} tokens stored there"
        raise TeacherError(
            f"{reader.folder}: record {record_id!r} is not the text that the signal was made for: its token {at} is {own[at]} "
            f"and {here}. The record changed, or turns or max_tokens did; run `distill signal` again into a new folder"
        )


def _top_k(reader: SignalReader, places: Places) -> TeacherSignal:
    import torch

    from distill.objectives.base import TeacherSignal

    k = reader.settings.k
    none = torch.empty(0, k)
    ids_NK = _in_order(places, [none.long(), *(part.long() for part in places.rows("ids", reader))])
    log_probs_NK = _in_order(places, [none, *(part.float() for part in places.rows("log_probs", reader))])
    rest_N = _in_order(places, [torch.empty(0), *places.rows("rest", reader)])
    # Rounded one by one, the masses do not sum to 1 any more. (This is over all of them, the rest included.)
    total_N = torch.cat([log_probs_NK, rest_N[:, None]], 1).logsumexp(1)
    return TeacherSignal(ids_NK=ids_NK, log_probs_NK=log_probs_NK - total_N[:, None], rest_N=rest_N - total_N)


def _sampled(reader: SignalReader, places: Places) -> TeacherSignal:
    import torch

    from distill.objectives.base import TeacherSignal

    ids, counts, unique = [], [], []
    for sequence, at_P in places.pieces:
        own_P = reader.read(sequence, "unique").to(torch.int64)
        chosen_P = torch.zeros(len(own_P), dtype=torch.bool)
        chosen_P[torch.from_numpy(at_P)] = True
        chosen_M = chosen_P.repeat_interleave(own_P)
        ids.append(reader.read(sequence, "ids").to(torch.int64)[chosen_M])
        counts.append(reader.read(sequence, "counts").to(torch.int64)[chosen_M])
        unique.append(own_P[chosen_P])
    none = torch.empty(0, dtype=torch.int64)
    ids_M, counts_M, unique_N = (torch.cat([none, *parts]) for parts in (ids, counts, unique))
    real_NK = torch.arange(int(unique_N.max()) if len(unique_N) else 0) < unique_N[:, None]
    ids_NK = padded(ids_M, real_NK)
    log_probs_NK = torch.full(real_NK.shape, float("-inf"))
    log_probs_NK[real_NK] = (counts_M.double() / reader.settings.k).log().float()
    out_ids, out_log_probs = torch.empty_like(ids_NK), torch.empty_like(log_probs_NK)
    out_ids[places.order_N], out_log_probs[places.order_N] = ids_NK, log_probs_NK
    rest_N = torch.full(unique_N.shape, float("-inf"))
    return TeacherSignal(ids_NK=out_ids, log_probs_NK=out_log_probs, rest_N=rest_N, sampled=True)


def padded(ids_M: Tensor, real_NK: Tensor) -> Tensor:
    """(N, K): the given ids where real, elsewhere the smallest ids that their row does not have, so that all in a row differ.

    >>> import torch
    >>> padded(torch.tensor([7, 0, 2, 5, 6]), torch.tensor([[True, False, False], [True, True, False], [True, True, False]]))
    tensor([[7, 0, 1],
            [0, 2, 1],
            [5, 6, 0]])
    """
    import torch

    ids_NK = torch.full(real_NK.shape, -1, dtype=torch.int64)
    ids_NK[real_NK] = ids_M
    # Of the K smallest ids at most as many are taken as the row has real ones, so enough are free for its other places.
    free_NK = ~(ids_NK[:, :, None] == torch.arange(real_NK.shape[1])).any(1)
    taken_NK = free_NK & (free_NK.cumsum(1) <= (~real_NK).sum(1, keepdim=True))
    ids_NK[~real_NK] = taken_NK.nonzero()[:, 1]
    return ids_NK
