"""One way of computing a loss, in a process of its own: what a step of it costs, and what its head and loss cost alone.

A worker answers commands on a pipe, one at a time, so that several ways can take turns step by step on one machine while the
peak memory of each is its own. Times are processor time (one thread on the CPU), else wall time.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

from benchmarks.measure import peak_memory_mb, reset_peak_memory, resident_mb
from benchmarks.peers import PEERS, Bench, LossOf, Text

Precision = Literal["fp32", "bf16"]
Loss = Literal["likelihood", "unlikelihood", "KL"]
OURS, OURS_PLAIN = "distill", "distill, plain rows"
# Imported once, before the processes part: ten seconds for all of them instead of ten for each.
_PRELOADED = (
    "benchmarks.worker",
    "distill.head",
    "distill.models",
    "distill.objectives",
    "distill.teachers.live",
    "trl.trainer.sft_trainer",
    "trl.trainer.distillation_trainer",
    "trl.experimental.gkd.gkd_trainer",
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One batch and one loss. All lengths are in tokens; a prompt of 1 token means that everything is supervised."""

    loss: Loss
    prompts: int
    completions: int
    prompt_length: int
    completion_length: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all workers of a comparison share. source: the text file that the batches are cut from."""

    cell: Cell
    precision: Precision
    student: str
    source: Path
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """ms: of forward, backward and optimiser, without the optimiser in passes_ms. peak_mb: greatest memory meanwhile (MiB);
    of the head and the loss alone: beyond what was in use before.
    """

    ms: float
    passes_ms: float
    peak_mb: float | None


class Way:
    """A handle on the worker process of one way."""

    def __init__(self, name: str, setting: Setting) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, setting), daemon=True)
        self._process.start()
        theirs.close()
        self.name = name

    def ask(self, command: str) -> Any:
        """The worker's answer: `check` -> (loss, norm of the gradient, operations of the passes); `step`, `head` -> Cost;
        `limit` -> operations per second."""
        self._pipe.send(command)
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(
                f"the process of {self.name!r} ended with {self._process.exitcode}; its error stands above"
            ) from None

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, name: str, setting: Setting) -> None:
    import datasets
    import torch

    datasets.disable_progress_bars()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(setting.threads)
    stand = Stand(name, setting)
    commands: dict[str, Callable[[], object]] = {
        "check": stand.check,
        "step": stand.step,
        "head": stand.head,
        "limit": stand.limit,
    }
    while True:
        try:
            command = pipe.recv()
        except EOFError:
            return
        pipe.send(commands[command]())


class Stand:
    """A student, a batch, a loss and an optimiser, ready to be timed."""

    def __init__(self, name: str, setting: Setting) -> None:
        import torch

        from distill.models import load_model, load_tokenizer

        self.setting = setting
        cell, device = setting.cell, setting.device
        ours = name in (OURS, OURS_PLAIN)
        model: Any = cast(Any, load_model(setting.student, dtype="float32", device=device)).train()
        teacher: Any = None
        if cell.loss == "KL":
            # A teacher in the precision of the step: TRL's runs under the same autocast, ours is loaded so.
            dtype = "bfloat16" if ours and setting.precision == "bf16" else "float32"
            teacher = cast(Any, load_model(setting.student, dtype=dtype, device=device)).eval().requires_grad_(False)
            # The student is every second layer of it: a copy of the teacher would have nothing to learn, and no loss to compare.
            model.model.layers = model.model.layers[::2]
            model.config.num_hidden_layers = len(model.model.layers)
        tokenizer = load_tokenizer(setting.student)
        groups = texts_of(cell, tokenizer, setting.source)
        texts = [text for group in groups for text in group]
        bench = Bench(model=model, teacher=teacher, tokenizer=tokenizer, texts=texts, device=device)
        if ours:
            self._loss = our_way(bench, groups, cell.loss, shared=name == OURS)
        else:
            self._loss = PEERS[name](bench)
        self._models = [one for one in (model, teacher) if one is not None]
        self._trunk_outputs: list[Any] = [None] * len(self._models)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)

    def check(self) -> tuple[float, float, float]:
        """The loss, the norm of its gradient, and how many operations the passes need; also warms everything up."""
        import torch

        model = self._models[0]
        hooks = [one.base_model.register_forward_hook(self._keep(place)) for place, one in enumerate(self._models)]
        loss = self._passes()
        for hook in hooks:
            hook.remove()
        squares = [parameter.grad.double().square().sum() for parameter in model.parameters() if parameter.grad is not None]
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item(), torch.stack(squares).sum().sqrt().item(), self._operations()

    def _keep(self, place: int) -> Callable[..., None]:
        def keep(module: Any, args: Any, output: Any) -> None:
            self._trunk_outputs[place] = output.last_hidden_state.detach()

        return keep

    def step(self) -> Cost:
        """Forward, backward and optimiser."""
        return self._cost(optimise=True)

    def head(self) -> Cost:
        """The same without the trunks, whose last hidden states are taken as given; without the optimiser."""
        trunks = [model.base_model for model in self._models]
        for place, (trunk, hidden_BTD) in enumerate(zip(trunks, self._trunk_outputs, strict=True)):
            trunk.forward = _given(hidden_BTD.requires_grad_(place == 0))
        try:
            return self._cost(optimise=False)
        finally:
            for trunk in trunks:
                del trunk.forward

    def limit(self) -> float:
        """Operations per second of a large matrix product in the step's precision: the best of several."""
        import torch

        dtype = torch.bfloat16 if self.setting.precision == "bf16" else torch.float32
        size, best = 2048, 0.0
        left, right = (torch.randn(size, size, device=self.setting.device).to(dtype) for _ in range(2))
        for _ in range(4):
            start = self._now()
            torch.mm(left, right)
            best = max(best, 2 * size**3 / (self._now() - start))
        return best

    def _cost(self, *, optimise: bool) -> Cost:
        reset = reset_peak_memory(self.setting.device)
        before = 0.0 if optimise else resident_mb(self.setting.device)
        start = self._now()
        self._passes()
        passed = self._now()
        if optimise:
            self._optimizer.step()
        done = self._now()
        peak = peak_memory_mb(self.setting.device) - before if reset else None
        self._optimizer.zero_grad()
        return Cost(ms=1000 * (done - start), passes_ms=1000 * (passed - start), peak_mb=peak)

    def _passes(self) -> Any:
        with self._precision():
            loss = self._loss()
        loss.backward()
        return loss.detach()

    def _precision(self) -> AbstractContextManager[Any]:
        import torch

        bf16 = self.setting.precision == "bf16"
        return torch.autocast(self.setting.device, torch.bfloat16) if bf16 else nullcontext()

    def _now(self) -> float:
        if self.setting.device == "cuda":
            import torch

            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() if self.setting.threads == 1 else time.perf_counter()

    def _operations(self) -> float:
        """Two per multiplication and addition: 6 x weights x tokens in the trunk, 6 x head x supervised positions, attention
        over the lower triangle; a teacher's forward pass is 2 of the 6. Nothing that is computed twice is counted twice.
        """
        cell, total = self.setting.cell, 0.0
        texts, length = cell.prompts * cell.completions, cell.prompt_length + cell.completion_length
        for place, model in enumerate(self._models):
            config = model.config.get_text_config()
            weights = sum(parameter.numel() for parameter in model.base_model.layers.parameters() if parameter.dim() == 2)
            attention = config.num_hidden_layers * config.hidden_size * length**2
            head = config.hidden_size * config.vocab_size * texts * cell.completion_length
            total += (2.0 if place else 6.0) * (weights * texts * (length - 1) + texts * attention + head)
        return total


def _given(hidden_BTD: Any) -> Callable[..., Any]:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    return lambda *args, **named: BaseModelOutputWithPast(last_hidden_state=hidden_BTD)


def texts_of(cell: Cell, tokenizer: Any, source: Path) -> list[list[Text]]:
    """Pieces of the source: each prompt's completions. Unlikelihood takes every completion for a wrong one."""
    ids = tokenizer(source.read_text(encoding="utf-8")[:200_000], add_special_tokens=False)["input_ids"]
    place, groups = 0, []

    def take(count: int) -> list[int]:
        nonlocal place
        place += count
        if place > len(ids):
            raise SystemExit(f"{source} has {len(ids)} tokens only; give a longer text")
        return list(ids[place - count : place])

    for number in range(cell.prompts):
        prompt = take(cell.prompt_length)
        groups.append(
            [
                Text(
                    record_id=f"{number}/{one}",
                    token_ids=prompt + take(cell.completion_length),
                    prompt_length=cell.prompt_length,
                    weight=[0.0] * cell.prompt_length + [1.0] * cell.completion_length,
                    negative=[cell.loss == "unlikelihood"] * (cell.prompt_length + cell.completion_length),
                )
                for one in range(cell.completions)
            ]
        )
    return groups


def our_way(bench: Bench, groups: Sequence[Sequence[Text]], loss: Loss, *, shared: bool) -> LossOf:
    """The loss as StudentModule computes it, rows included; one row per prompt, or per completion."""
    import dataclasses

    from distill.attention import use_short_row_attention
    from distill.head import objective_values
    from distill.objectives import Likelihood, Unlikelihood, reduce
    from distill.rows import plain_rows, shared_rows
    from distill.teachers.live import FrozenModel

    use_short_row_attention(bench.model)
    teacher, objectives = None, {}
    if loss == "KL":
        from distill.objectives import ForwardKL

        teacher, objectives = FrozenModel(bench.teacher, name="the teacher"), {loss: ForwardKL()}
    else:
        objectives = {loss: Likelihood() if loss == "likelihood" else Unlikelihood()}
    pad_id = bench.tokenizer.pad_token_id or 0
    alone = all(len(group) == 1 for group in groups)

    def value() -> Any:
        batch = (plain_rows(bench.texts, pad_id) if alone or not shared else shared_rows(groups, pad_id)).to(bench.device)
        if teacher is not None:
            said = teacher(batch)
            batch = dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, teacher=said.signal))
        values, _ = objective_values(bench.model, batch, objectives)
        return reduce(values[loss], batch.targets)

    return value
