"""How others compute the losses that ours are timed against: their own functions, on the same texts, one way each.

Every way is a function of no arguments that returns the loss of one batch (a scalar with gradient). Batches are made before
the clock starts. TRL's ways are its own trainers, made by their constructors and asked for `compute_loss`: gradient
checkpointing is off, as it is on our side (TRL's default is on), and beta = 0 is the forward KL in both of its trainers. The
two ways that no library offers stand here in full: the penalty of 2019 and Hugging Face's labels.

Shape suffixes: B rows, T columns, V vocabulary, N supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORED, CLAMP = -100, 1e-5
LossOf = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A response after its prompt, as the rows are built from it; what `distill.rows.SupervisedTokens` asks for."""

    record_id: str
    token_ids: list[int]
    prompt_length: int
    weight: list[float]
    negative: list[bool]
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a way gets. All texts are of one length, so that no way pays for padding. teacher: frozen; of KL alone."""

    model: Any
    teacher: Any
    tokenizer: Any
    texts: Sequence[Text]
    device: str

    def input_ids_BT(self) -> Tensor:
        """One row per text."""
        import torch

        return torch.tensor([text.token_ids for text in self.texts], device=self.device)

    def labels_BT(self) -> Tensor:
        """Not shifted, -100 where nothing is learned."""
        import torch

        weight_BT = torch.tensor([text.weight for text in self.texts], device=self.device)
        return self.input_ids_BT().masked_fill(weight_BT == 0, IGNORED)


def hugging_face(bench: Bench) -> LossOf:
    """The model's own loss: logits (B, T, V), cast to float32, one cross-entropy."""
    import torch

    input_ids_BT, labels_BT = bench.input_ids_BT(), bench.labels_BT()
    mask_BT = torch.ones_like(input_ids_BT)
    return lambda: bench.model(input_ids=input_ids_BT, attention_mask=mask_BT, labels=labels_BT, use_cache=False).loss


def clamped(bench: Bench) -> LossOf:
    """The unlikelihood of Welleck et al. 2020 (arXiv:1908.04319) as the authors compute it, one candidate per position."""
    import torch
    import torch.nn.functional as F

    input_ids_BT, labels_BT = bench.input_ids_BT(), bench.labels_BT()
    mask_BT = torch.ones_like(input_ids_BT)
    target_N = labels_BT[:, 1:].flatten()
    real_N = target_N != IGNORED

    def loss() -> Any:
        logits_BTV = bench.model(input_ids=input_ids_BT, attention_mask=mask_BT, use_cache=False).logits
        log_probs_NV = F.log_softmax(logits_BTV[:, :-1].float().flatten(0, 1), dim=-1)
        log_prob_N = log_probs_NV.gather(1, target_N.clamp(min=0).unsqueeze(1)).squeeze(1)
        value_N = -torch.log((1 - log_prob_N.exp()).clamp(min=CLAMP))
        return (value_N * real_N).sum() / real_N.sum()

    return loss


def trl_sft(bench: Bench) -> LossOf:
    """SFTTrainer.compute_loss: the fused head in tiles; without Triton it scores all positions, and entropy and accuracy too."""
    import torch
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=bench.model, args=SFTConfig(**_settings(bench)), train_dataset=_dataset(), processing_class=bench.tokenizer
    )
    input_ids_BT, labels_BT = bench.input_ids_BT(), bench.labels_BT()
    inputs = {"input_ids": input_ids_BT, "labels": labels_BT, "attention_mask": torch.ones_like(input_ids_BT)}
    return lambda: trainer.compute_loss(bench.model, dict(inputs))


def trl_gkd(bench: Bench) -> LossOf:
    """GKDTrainer.compute_loss on given texts: logits (B, T, V) of student and teacher."""
    import torch
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    trainer = GKDTrainer(
        model=bench.model,
        teacher_model=bench.teacher,
        args=GKDConfig(**_settings(bench), beta=0.0, lmbda=0.0, temperature=1.0),
        train_dataset=_dataset(),
        processing_class=bench.tokenizer,
    )
    input_ids_BT = bench.input_ids_BT()
    inputs = {"input_ids": input_ids_BT, "labels": bench.labels_BT(), "attention_mask": torch.ones_like(input_ids_BT)}
    return lambda: trainer.compute_loss(bench.model, dict(inputs))


def trl_distillation(bench: Bench) -> LossOf:
    """DistillationTrainer.compute_loss, the texts in place of samples: tiles; without Triton all columns after the prompt."""
    import torch
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    trainer = DistillationTrainer(
        model=bench.model,
        teacher_model=bench.teacher,
        args=DistillationConfig(**_settings(bench), beta=0.0, temperature=1.0),
        train_dataset=Dataset.from_dict({"prompt": ["one"]}),
        processing_class=bench.tokenizer,
    )
    length = bench.texts[0].prompt_length
    input_ids_BT = bench.input_ids_BT()
    prompt_BT, completion_BT = input_ids_BT[:, :length], input_ids_BT[:, length:]
    inputs = {
        "prompt_ids": prompt_BT,
        "prompt_mask": torch.ones_like(prompt_BT),
        "completion_ids": completion_BT,
        "completion_mask": torch.ones_like(completion_BT),
    }
    return lambda: trainer.compute_loss(bench.model, dict(inputs))


PEERS: dict[str, Callable[[Bench], LossOf]] = {
    "Hugging Face loss": hugging_face,
    "clamp of the 2020 code, full logits": clamped,
    "TRL SFTTrainer": trl_sft,
    "TRL GKDTrainer": trl_gkd,
    "TRL DistillationTrainer": trl_distillation,
}


def _settings(bench: Bench) -> dict[str, Any]:
    """bf16 is off here because autocast is on around every way alike."""
    return {
        "output_dir": mkdtemp(prefix="benchmark-"),
        "use_cpu": bench.device == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
    }


def _dataset() -> Any:
    """The trainers want one; the batches come from `Bench`."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[1, 2, 3]]})
