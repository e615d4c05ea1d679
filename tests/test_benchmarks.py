"""Each benchmark runs on a small setting, and its rows say what they should; what they measure is measured elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
KEYS = {"work", "precision", "ours_ms", "peer", "peer_ms", "ratio"}
pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="not a source checkout"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Any:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows_of(module: ModuleType, out: Path, *args: str) -> list[dict[str, Any]]:
    module.main(["--quick", "--repeats", "1", "--out", str(out), *args])
    rows = json.loads(out.read_text())
    assert rows
    for row in rows:
        assert set(row) >= KEYS
        assert row["ours_ms"] > 0 and row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
    return rows


def test_the_losses_are_compared_in_both_precisions(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    rows = rows_of(benchmark("losses"), tmp_path / "losses.json")
    works = {"likelihood", "unlikelihood", *(work for work, _, _ in benchmark("losses").DIVERGENCES)}
    assert {(row["work"], row["precision"]) for row in rows} == {(work, p) for work in works for p in ("fp32", "bf16")}


def test_our_gradient_is_the_true_one_where_the_clamp_s_is_0(benchmark: Callable[[str], ModuleType]) -> None:
    rows = benchmark("losses").gradients(vocabulary=512)
    for row in rows:
        assert row.ours == pytest.approx(row.truth, rel=1e-2 if row.precision == "bf16" else 1e-6)
    assert all(row.clamped == 0 for row in rows if row.one_minus_p <= 1e-6)
    assert [row.clamped == pytest.approx(row.truth, rel=1e-2) for row in rows if row.one_minus_p == 1e-3] == [True, True]


def test_sampling_is_compared_in_one_run(
    benchmark: Callable[[str], ModuleType], tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = rows_of(benchmark("sampling"), tmp_path / "sampling.json", "--student", str(tiny_model_folder("llama")))
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        assert row["ours_per_second"] == pytest.approx(20_000 / row["ours_ms"])


def test_a_nudge_moves_the_weights_by_a_millionth_and_by_its_seed(benchmark: Callable[[str], ModuleType]) -> None:
    import torch

    def nudged(seed: int) -> torch.Tensor:
        model = torch.nn.Linear(64, 64).double()
        torch.nn.init.constant_(model.weight, 2.0)
        benchmark("distillation").nudge(model, seed)
        return model.weight.detach() / 2 - 1

    # In float32 the factor is 1, give or take multiples of 6e-8 and 1.2e-7: a few weights stay as they are.
    assert nudged(1).std().item() == pytest.approx(1e-6, rel=0.05) and (nudged(1) != 0).double().mean() > 0.9
    assert torch.equal(nudged(1), nudged(1)) and not torch.equal(nudged(1), nudged(2))


@pytest.mark.slow
def test_local_teachers_are_compared_on_the_same_questions(
    benchmark: Callable[[str], ModuleType], smollm2: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    benchmark("generators").main(["--quick", "--out", str(tmp_path / "rows.json")])
    rows = {row["backend"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert list(rows) == ["transformers float32", "transformers bfloat16", "CTranslate2 float32", "CTranslate2 int8"]
    assert rows["transformers float32"]["same"] == 1 and rows["CTranslate2 float32"]["same"] >= 0.75  # but for ties
    assert all(row["greedy_tokens_per_second"] > 0 and row["samples_per_second"] > 0 for row in rows.values())
    assert all(row["questions"] == 8 and 0 <= row["right"] <= 1 for row in rows.values())


def step_rows(
    benchmark: Callable[[str], ModuleType], student: Path, out: Path, *args: str
) -> dict[tuple[str, str], dict[str, Any]]:
    rows = rows_of(benchmark("step"), out, "--student", str(student), *args)
    return {(row["work"], row["peer"]): row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["likelihood", "unlikelihood", "KL"])
def test_a_step_is_compared_whole_and_from_the_head_on(
    benchmark: Callable[[str], ModuleType], tiny_model_folder: Callable[[str], Path], tmp_path: Path, loss: str
) -> None:
    peers = benchmark("step").LOSS_PEERS[loss]
    rows = step_rows(benchmark, tiny_model_folder("llama"), tmp_path / "step.json", "--only", f"{loss}, ", "--precision", "fp32")
    for share in ("20", "100"):
        work = f"{loss}, {share} % supervised"
        for peer in peers:
            whole, head = rows[work, peer], rows[f"{work}, head and loss", peer]
            # The peers' own functions on the same batch: what a note would say is that they compute something else.
            assert whole["note"] is None
            assert whole["ours_peak_mb"] > 50 and whole["peer_peak_mb"] > 50
            assert head["ours_ms"] < whole["ours_ms"]
        limit = rows[f"forward and backward, {work}", "matrix products alone"]
        assert 0 < limit["ratio"] < 1
    assert rows[f"{loss}, 2 completions per prompt", "distill, plain rows"]["note"] is None
    assert rows[f"{loss}, 2 completions per prompt", peers[-1]]["note"] is None


def test_a_resumed_comparison_measures_only_what_is_missing(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, row = benchmark("step"), benchmark("measure").Row
    asked = []

    def compare(one: Any, options: Any) -> list[Any]:
        asked.append(one.work)
        return [row(work=one.work, precision=one.precision, ours_ms=1.0, peer=peer, peer_ms=2.0, ratio=2.0) for peer in one.peers]

    monkeypatch.setattr(step, "compare", compare)
    out = tmp_path / "step.json"
    step.main(["--quick", "--out", str(out), "--only", "KL, 20", "--precision", "fp32"])
    step.main(["--quick", "--out", str(out), "--only", "KL", "--precision", "fp32", "--resume"])
    assert asked == ["KL, 20 % supervised", "KL, 100 % supervised", "KL, 2 completions per prompt"]
    rows = json.loads(out.read_text())
    assert len({(one["work"], one["peer"]) for one in rows}) == len(rows) == 6


def test_ways_that_compute_another_loss_are_named(benchmark: Callable[[str], ModuleType]) -> None:
    difference = benchmark("step")._difference
    assert difference((1.0, 2.0, 0.0), (1.0005, 2.0, 0.0), 1e-3) is None
    assert difference((1.0, 2.0, 0.0), (1.0, 2.1, 0.0), 1e-3) == "gradient norm 2, theirs 2.1"
    assert "loss nan" in difference((float("nan"), 2.0, 0.0), (1.0, 2.0, 0.0), 1e-3)


def test_an_unknown_work_is_refused(benchmark: Callable[[str], ModuleType]) -> None:
    with pytest.raises(SystemExit, match="no work begins so"):
        benchmark("step").main(["--quick", "--only", "kl"])


def test_a_quick_run_writes_no_results_of_its_own(benchmark: Callable[[str], ModuleType]) -> None:
    measure = benchmark("measure")
    assert measure.target(measure.parser("", "losses").parse_args(["--quick"]), "losses") is None
    assert (
        measure.target(measure.parser("", "losses").parse_args([]), "losses") == ROOT / "benchmarks" / "results" / "losses.json"
    )


def test_stored_signals_are_compared_with_the_live_gradient(
    benchmark: Callable[[str], ModuleType], tiny_model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 8)
    model = str(tiny_model_folder("llama"))
    out = tmp_path / "signals.json"
    benchmark("signals").main(
        ["--quick", "--repeats", "1", "--out", str(out), "--text", str(tmp_path / "text.txt"), "--teacher", model]
    )
    rows = {row["signal"]: row for row in json.loads(out.read_text())}
    assert rows["exact, float16"]["error_1"] < 2e-3 < rows["top 64 renormalised"]["error_1"]
    assert rows["64 draws"]["error_2"] is None and rows["50 draws"]["bytes"] < rows["top 64 and rest, float16"]["bytes"]
    assert len(json.loads((tmp_path / "signals_read.json").read_text())) == 4


def test_a_small_student_has_a_tokenizer_of_its_own_that_keeps_numbers_whole(
    benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    from distill.models import load_model, load_tokenizer
    from distill.records import Message, Record
    from distill.render import render
    from distill.template import response_tokens

    texts = tmp_path / "texts.txt"
    texts.write_text("In 1987 the 12 islands of the king were 79 .\nThe year 1987 .\n" * 20, encoding="utf-8")
    made = [
        benchmark("small_student").make(tmp_path / "student", texts, vocab_size=size, layers=1, width=64) for size in (400, 420)
    ]
    assert made[0] == made[1], "a second student in the same folder replaces the first"
    model, tokenizer = load_model(str(made[0])), load_tokenizer(str(made[0]))
    assert model.config.vocab_size == len(tokenizer) == 420 and model.config.num_hidden_layers == 1
    assert len(response_tokens(" 1987", tokenizer)) == 1
    prompt = (Message(role="system", content="Be brief."), Message(role="user", content="When?"))
    example = render(Record(id="a", group="a", prompt=prompt, response="1987 ?\n\U0001f600", polarity="positive"), tokenizer)
    supervised = [token for token, weight in zip(example.token_ids, example.weight, strict=True) if weight]
    assert str(tokenizer.decode(supervised[:-1])).strip() == "1987 ?\n\U0001f600" and supervised[-1] == tokenizer.eos_token_id
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered: Any = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True, return_dict=True)
    assert sum(rendered["assistant_masks"]) == 2
