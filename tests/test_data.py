"""Records to batches: what is left out, split, planned, counted and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import RecordDataModule
from distill.errors import ConfigError, RecordError, RenderError
from distill.loader import RecordLoader
from distill.plan import choose_negatives, plan_epoch
from distill.render import Example
from distill.rows import StepCounts
from distill.store import ExampleStore, GroupSizes, StoreBuilder

# The plan


def sizes_of(lengths: list[int]) -> GroupSizes:
    draw = np.random.default_rng(len(lengths))
    return GroupSizes(
        length_G=np.array(lengths),
        counts_G={name: draw.integers(0, 9, len(lengths)) for name in ("positives", "negatives", "pairs")},
    )


def plans_of_all_ranks(sizes: GroupSizes, *, world: int, **cut: Any) -> list[Any]:
    keep = np.ones(1, dtype=bool)
    return [plan_epoch(sizes, keep_E=keep, world=world, rank=rank, **cut) for rank in range(world)]


cuts = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 4),
        "accumulate": st.integers(1, 4),
        "world": st.integers(1, 3),
        "bucket_window": st.integers(1, 40),
        "seed": st.one_of(st.none(), st.integers(0, 3)),
        "epoch": st.integers(0, 3),
    }
)
lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(lengths, cuts)
def test_every_group_is_in_one_batch_of_one_rank_in_every_epoch(lengths: list[int], cut: dict[str, Any]) -> None:
    plans = plans_of_all_ranks(sizes_of(lengths), limit=10**6, **cut)
    groups = np.concatenate([batch for plan in plans for batch in plan.groups])
    assert sorted(groups.tolist()) == list(range(len(lengths)))
    batches = -(-len(lengths) // (cut["batch_size"] * cut["world"]))
    assert all(len(plan.groups) == batches for plan in plans), "ranks would wait for each other for ever"
    assert all(len(batch) <= cut["batch_size"] for plan in plans for batch in plan.groups)


@settings(deadline=None, max_examples=60)
@given(lengths, cuts, st.integers(1, 30))
def test_the_counts_of_a_step_are_those_of_all_its_batches_on_all_ranks(
    lengths: list[int], cut: dict[str, Any], limit: int
) -> None:
    sizes = sizes_of(lengths)
    plans = plans_of_all_ranks(sizes, limit=limit, **cut)
    batches = len(plans[0].groups)
    assert batches <= limit
    for first in range(0, batches, cut["accumulate"]):
        step = range(first, min(first + cut["accumulate"], batches))
        members = np.concatenate([plan.groups[index] for plan in plans for index in step])
        for plan in plans:
            assert {plan.in_step[index].positives for index in step} == {int(sizes.counts_G["positives"][members].sum())}
            assert {plan.in_step[index].negatives for index in step} == {int(sizes.counts_G["negatives"][members].sum())}


@settings(deadline=None, max_examples=60)
@given(lengths, st.integers(0, 3), st.integers(1, 40))
def test_the_same_groups_meet_in_a_step_however_it_is_cut(lengths: list[int], seed: int, window: int) -> None:
    def steps(batch_size: int, accumulate: int, world: int) -> list[list[int]]:
        cut = {
            "batch_size": batch_size,
            "accumulate": accumulate,
            "bucket_window": window,
            "seed": seed,
            "epoch": 1,
            "limit": 10**6,
        }
        plans = plans_of_all_ranks(sizes_of(lengths), world=world, **cut)
        batches = len(plans[0].groups)
        return [
            sorted(np.concatenate([p.groups[i] for p in plans for i in range(first, min(first + accumulate, batches))]).tolist())
            for first in range(0, batches, accumulate)
        ]

    assert steps(12, 1, 1) == steps(3, 4, 1) == steps(3, 2, 2) == steps(2, 2, 3) == steps(4, 1, 3)


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_ones_again() -> None:
    cut = {"batch_size": 4, "accumulate": 1, "bucket_window": 8, "limit": 100, "world": 1}
    sizes = sizes_of([5] * 40)

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(plans_of_all_ranks(sizes, seed=seed, epoch=epoch, **cut)[0].groups).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_length_buckets_leave_less_padding_than_no_buckets() -> None:
    lengths = np.random.default_rng(0).geometric(0.02, 512).tolist()

    def padded(window: int) -> int:
        cut = {"batch_size": 8, "accumulate": 1, "seed": 0, "epoch": 0, "limit": 10**6}
        plan = plans_of_all_ranks(sizes_of(lengths), world=1, bucket_window=window, **cut)[0]
        return sum(len(batch) * max(lengths[group] for group in batch) for batch in plan.groups)

    assert padded(256) < 1.2 * sum(lengths) < padded(1)


def test_the_incomplete_step_is_not_always_made_of_the_longest_groups() -> None:
    lengths = list(range(21))
    cut = {"batch_size": 4, "accumulate": 1, "bucket_window": 100, "seed": 0, "limit": 100, "world": 1}
    lefts = {plans_of_all_ranks(sizes_of(lengths), epoch=epoch, **cut)[0].groups[-1][0] for epoch in range(12)}
    assert len(lefts) > 3


# The store and its protection


def example(name: str, prompt: list[int], response: list[int], *, negative: bool = False, group: str = "g") -> Example:
    ids = (*prompt, *response)
    weight = (0.0,) * len(prompt) + (1.0,) * len(response)
    return Example(
        record_id=name, group=group, token_ids=ids, prompt_length=len(prompt), weight=weight, negative=(negative,) * len(ids)
    )


def store_of(examples: Iterable[Example], *, protect: Any = "none", tokenizer: Any = None) -> ExampleStore:
    builder = StoreBuilder()
    for one in examples:
        builder.add(one)
    return builder.build(tokenizer, protect=protect, protect_tokens=tokenizer is not None)[0]


def supervised(store: ExampleStore) -> dict[str, list[int]]:
    """Per record, the supervised tokens."""
    views = [store.view(index) for index in range(len(store))]
    return {view.record_id: view.token_ids[view.weight > 0].tolist() for view in views}


def test_without_protection_every_token_of_a_negative_is_penalised() -> None:
    store = store_of([example("+", [1], [2, 3]), example("-", [1], [2, 4, 5], negative=True)])
    assert supervised(store) == {"+": [2, 3], "-": [2, 4, 5]}


def test_a_negative_token_in_a_prefix_shared_with_a_positive_is_never_penalised() -> None:
    store = store_of([example("+", [1], [2, 3, 9]), example("-", [1], [2, 4, 9], negative=True)], protect="shared_prefix")
    assert supervised(store) == {"+": [2, 3, 9], "-": [4, 9]}


def test_only_the_first_difference_from_every_positive_is_penalised() -> None:
    positives = [example("+1", [1], [2, 3, 9]), example("+2", [1], [2, 4, 8])]
    store = store_of([*positives, example("-", [1], [2, 4, 5, 6], negative=True)], protect="first_difference")
    assert supervised(store)["-"] == [5], "4 is shared with the second positive, 6 comes after the first difference"


def test_a_positive_with_another_prompt_or_of_another_group_protects_nothing() -> None:
    others = [example("+1", [7], [2, 3]), example("+2", [1], [2, 3], group="h")]
    store = store_of([*others, example("-", [1], [2, 3], negative=True)], protect="shared_prefix")
    assert supervised(store)["-"] == [2, 3]


def test_a_negative_without_a_positive_differs_at_its_first_token() -> None:
    assert supervised(store_of([example("-", [1], [2, 3], negative=True)], protect="first_difference")) == {"-": [2]}


def test_positives_are_never_protected_from_each_other() -> None:
    store = store_of([example("+1", [1], [2, 3]), example("+2", [1], [2, 4])], protect="first_difference")
    assert supervised(store) == {"+1": [2, 3], "+2": [2, 4]}


def test_a_negative_that_a_positive_contains_is_left_out_and_counted() -> None:
    builder = StoreBuilder()
    builder.add(example("+", [1], [2, 3, 4]))
    builder.add(example("-", [1], [2, 3], negative=True))
    store, left_out = builder.build(None, protect="shared_prefix", protect_tokens=False)  # type: ignore[arg-type]
    assert store.record_ids == ["+"]
    assert left_out == {"whose every token is spared by protect or protect_tokens": 1}


def test_nothing_left_to_train_is_an_error() -> None:
    with pytest.raises(RecordError, match="every one of 0|nothing is left|is spared"):
        builder = StoreBuilder()
        builder.add(Example(record_id="x", group="g", token_ids=(1, 2), prompt_length=1, weight=(0, 0), negative=(False, False)))
        builder.build(None, protect="none", protect_tokens=False)  # type: ignore[arg-type]


def test_punctuation_space_and_control_tokens_of_negatives_are_spared_and_content_is_not(tiny_tokenizer: Any) -> None:
    from distill.store import spared_tokens

    def spared(text: str) -> bool:
        ids = tiny_tokenizer.encode(text, add_special_tokens=False)
        return bool(spared_tokens(np.array(ids[:1], dtype=np.int32), tiny_tokenizer)[0])

    assert all(spared(text) for text in (".", "?", ",", " ", "\n", "<|im_end|>", "<|endoftext|>"))
    assert not any(spared(text) for text in ("a", "7", "Paris", "ש", "+", "$")), "a fragment of a letter is content"


def test_the_first_difference_that_is_content_is_penalised_where_punctuation_differs_first(tiny_tokenizer: Any) -> None:
    def ids(text: str) -> list[int]:
        return tiny_tokenizer.encode(text, add_special_tokens=False)

    store = store_of(
        [example("+", [1], ids("x.")), example("-", [1], [*ids("x"), *ids(","), *ids("y"), *ids("z")], negative=True)],
        protect="first_difference",
        tokenizer=tiny_tokenizer,
    )
    assert supervised(store)["-"] == ids("y")


def test_the_store_gives_back_what_was_put_in_grouped_by_question() -> None:
    given = [
        example("a", [1, 2], [3], group="g"),
        example("b", [5], [6, 7], group="h"),
        example("c", [1, 2], [4], negative=True, group="g"),
    ]
    store = store_of(given)
    everything = np.ones(3, dtype=bool)
    found = {view.record_id: view for group in range(2) for view in store.group(group, everything)}
    assert [[view.record_id for view in store.group(group, everything)] for group in range(2)] == [["a", "c"], ["b"]]
    for one in given:
        view = found[one.record_id]
        assert tuple(view.token_ids.tolist()) == one.token_ids and tuple(view.weight.tolist()) == one.weight
        assert tuple(view.negative.tolist()) == one.negative and view.prompt_length == one.prompt_length


def test_group_sizes_are_those_of_the_rows_that_are_built() -> None:
    from distill.rows import plain_rows, shared_rows

    draw = np.random.default_rng(3)
    examples = [
        example(
            f"{g}.{c}",
            [g, int(draw.integers(2))],
            draw.integers(1, 9, draw.integers(1, 6)).tolist(),
            negative=bool(c % 2),
            group=str(g),
        )
        for g in range(8)
        for c in range(1 + g % 4)
    ]
    store = store_of(examples)
    keep = choose_negatives(store, 1, seed=0, epoch=0)
    for shared in (True, False):
        sizes = store.group_sizes(keep, shared=shared)
        for group in range(8):
            views = store.group(group, keep)
            batch = shared_rows([views], 0) if shared else plain_rows(views, 0)
            assert batch.input_ids_BT.shape[1] == sizes.length_G[group]
            assert batch.in_step == StepCounts(**{name: int(count_G[group]) for name, count_G in sizes.counts_G.items()})


# The choice of negatives


def many_negatives() -> ExampleStore:
    return store_of(
        one
        for g in range(6)
        for one in [
            example(f"{g}+", [1], [2], group=str(g)),
            *(example(f"{g}-{k}", [1], [3 + k], negative=True, group=str(g)) for k in range(g)),
        ]
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 5), st.integers(0, 5))
def test_at_most_so_many_negatives_of_a_group_take_part_and_every_positive_does(at_most: int, seed: int, epoch: int) -> None:
    store = many_negatives()
    keep = choose_negatives(store, at_most, seed=seed, epoch=epoch)
    for group in range(6):
        names = [view.record_id for view in store.group(group, keep)]
        assert f"{group}+" in names and len(names) == 1 + min(at_most, group)


def test_over_the_epochs_all_negatives_get_their_turn() -> None:
    store = many_negatives()
    keeps = np.array([choose_negatives(store, 1, seed=0, epoch=epoch) for epoch in range(60)])
    assert keeps.any(0).all()
    share = keeps[:, [store.record_ids.index(f"5-{k}") for k in range(5)]].mean(0)
    assert (share > 0.05).all(), "each of five should come up about every fifth time"


def test_the_choice_in_one_group_does_not_depend_on_the_other_groups() -> None:
    few = [example(f"5-{k}", [1], [3 + k], negative=True, group="5") for k in range(5)]
    alone, among = store_of([example("5+", [1], [2], group="5"), *few]), many_negatives()
    for epoch in range(5):
        keep = choose_negatives(among, 2, seed=1, epoch=epoch)
        kept = {among.record_ids[i] for i in np.flatnonzero(keep)}
        keep = choose_negatives(alone, 2, seed=1, epoch=epoch)
        assert {alone.record_ids[i] for i in np.flatnonzero(keep)} == {name for name in kept if name.startswith("5")}


# The loader


def loader_of(store: ExampleStore, **arguments: Any) -> RecordLoader:
    return RecordLoader(store, pad_id=0, **{"batch_size": 2, **arguments})


def ids_of(batches: Iterable[Any]) -> list[tuple[str, ...]]:
    return [batch.record_ids for batch in batches]


def test_a_loader_resumed_after_some_batches_yields_exactly_the_others() -> None:
    store = many_negatives()
    whole = loader_of(store, negatives_per_group=2)
    whole.set_epoch(3)
    expected = ids_of(whole)
    for done in range(len(expected)):
        first = loader_of(store, negatives_per_group=2)
        first.set_epoch(3)
        iterator = iter(first)
        for _ in range(done):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        second = loader_of(store, negatives_per_group=2)
        second.set_epoch(3)
        second.load_state_dict(state)
        assert ids_of(second) == expected[done:]
        second.set_epoch(4)
        assert len(ids_of(second)) == len(expected), "the next epoch is whole"


@pytest.mark.parametrize("changed", [{"batch_size": 3}, {"seed": 1}, {"negatives_per_group": 1}, {"shared": False}])
def test_a_changed_layout_is_refused_in_the_middle_of_an_epoch(changed: dict[str, Any]) -> None:
    store = many_negatives()
    resumed = loader_of(store, **changed)
    resumed.load_state_dict(loader_of(store).state_dict())
    with pytest.raises(ConfigError, match="middle of an epoch.*Set it back"):
        next(iter(resumed))


def test_changed_records_are_refused_in_the_middle_of_an_epoch() -> None:
    resumed = loader_of(store_of([example("a", [1], [2])]))
    resumed.load_state_dict(loader_of(many_negatives()).state_dict())
    with pytest.raises(ConfigError, match="records"):
        next(iter(resumed))


def test_a_changed_number_of_processes_is_refused_in_the_middle_of_an_epoch() -> None:
    loader = loader_of(many_negatives())
    loader.load_state_dict(loader.state_dict() | {"world_size": 2})
    with pytest.raises(ConfigError, match="world_size = 2, and it is 1 now"):
        next(iter(loader))


def test_at_the_end_of_an_epoch_everything_may_change() -> None:
    loader = loader_of(many_negatives())
    state = loader.state_dict()
    loader.load_state_dict(state | {"world_size": 2, "batches": state["batches_in_epoch"]})
    assert len(list(loader)) == state["batches_in_epoch"]


def fake_trainer(**facts: Any) -> Any:
    progress = SimpleNamespace(current=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress))
    defaults = {
        "world_size": 1,
        "global_rank": 0,
        "accumulate_grad_batches": 1,
        "limit_train_batches": 1.0,
        "overfit_batches": 0.0,
    }
    return SimpleNamespace(**{**defaults, "fit_loop": loop, **facts})


def test_a_rank_without_a_group_gets_an_unsupervised_batch_with_the_counts_of_the_step() -> None:
    store = store_of([example(str(g), [1], [2, 3], group=str(g)) for g in range(7)])
    last = [list(loader_of(store, trainer=fake_trainer(world_size=3, global_rank=rank)))[-1] for rank in range(3)]
    assert [batch.gather_N.numel() for batch in last] == [2, 0, 0]
    assert {batch.in_step.positives for batch in last} == {2}


def test_overfitting_repeats_the_same_batches_in_every_epoch() -> None:
    trainer = fake_trainer(overfit_batches=2, limit_train_batches=2)
    loader = loader_of(many_negatives(), trainer=trainer)
    first = ids_of(loader)
    trainer.fit_loop.epoch_progress.current.processed = 1
    assert ids_of(loader) == first and len(first) == 2


# The data module

Line = dict[str, Any]


def line(name: str, group: str, response: str, polarity: str = "positive", **more: Any) -> Line:
    prompt = [{"role": "user", "content": f"What is the capital of {group}?"}]
    return {"id": name, "group": group, "prompt": prompt, "response": response, "polarity": polarity, **more}


def write(path: Path, lines: Iterable[Line]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def module_of(tmp_path: Path, tiny_model_folder: Callable[[str], Path]) -> Callable[..., RecordDataModule]:
    def make(lines: Iterable[Line], **arguments: Any) -> RecordDataModule:
        paths = {
            name: write(tmp_path / f"{name}.jsonl", arguments.pop(name)) for name in ("validation", "test") if name in arguments
        }
        train = write(tmp_path / "train.jsonl", lines)
        return RecordDataModule(train=train, student=str(tiny_model_folder("llama")), **paths, **arguments)

    return make


@pytest.mark.parametrize("other", ["validation", "test"])
def test_a_group_shared_with_training_is_an_error_that_names_it(other: str, module_of: Callable[..., RecordDataModule]) -> None:
    module = module_of([line("a", "France", "Paris"), line("b", "Kenya", "Nairobi")], **{other: [line("c", "Kenya", "Mombasa")]})
    with pytest.raises(RecordError, match=f"train.jsonl and .*{other}.jsonl share 1 group.*'Kenya'.*Split by group"):
        module.setup("fit")


def test_a_group_shared_by_held_out_and_test_questions_is_an_error(module_of: Callable[..., RecordDataModule]) -> None:
    lines = [line(str(i), f"land{i}", "Paris") for i in range(8)]
    held_out = _held_out_of(module_of, lines)
    module = module_of(lines, validation_fraction=0.5, test=[line("t", held_out, "Rome")])
    with pytest.raises(RecordError, match="held-out part"):
        module.setup("fit")


def _held_out_of(module_of: Callable[..., RecordDataModule], lines: list[Line]) -> str:
    module = module_of(lines, validation_fraction=0.5)
    module.setup("fit")
    return module.stores["validation"].groups[0]


def test_the_held_out_groups_are_whole_and_the_same_for_every_seed_and_order(module_of: Callable[..., RecordDataModule]) -> None:
    lines = [line(f"{i}{sign}", f"land{i}", "Paris", sign) for i in range(20) for sign in ("positive", "negative")]
    found = []
    for seed, order in ((0, lines), (1, lines[::-1])):
        module = module_of(order, validation_fraction=0.25, seed=seed, protect="none")
        module.setup("fit")
        train, validation = module.stores["train"], module.stores["validation"]
        assert not set(train.groups) & set(validation.groups)
        assert (len(train), len(validation), len(validation.groups)) == (30, 10, 5)
        found.append(set(validation.groups))
    assert found[0] == found[1]


def test_records_that_cannot_be_rendered_are_all_named_before_training(module_of: Callable[..., RecordDataModule]) -> None:
    module = module_of(
        [line("good", "France", "Paris"), *(line(f"long{i}", "Kenya", "so " * 200) for i in range(7))], max_tokens=64
    )
    with pytest.raises(RenderError, match="7 records cannot be rendered") as caught:
        module.setup("fit")
    assert all(f"'long{i}'" in str(caught.value) for i in range(5)) and "2 more" in str(caught.value)


def test_every_record_left_out_is_counted_with_its_reason(
    module_of: Callable[..., RecordDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    lines = [line("a", "France", "Paris"), line("b", "France", "Lyon", weight=0), line("c", "France", "...", "negative")]
    with caplog.at_level("INFO", logger="distill.data"):
        module_of(lines).setup("fit")
    assert "left out 1 record(s) of weight 0" in caplog.text
    assert "left out 1 record(s) whose every token is spared" in caplog.text
    assert "1 questions, 1 records" in caplog.text


def test_negatives_without_any_positive_are_warned_about(
    module_of: Callable[..., RecordDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    module_of([line("a", "France", "Paris"), line("b", "Kenya", "Rome", "negative")]).setup("fit")
    assert "1 question(s) have negatives and no positive" in caplog.text


def test_the_records_are_read_once_whatever_the_stages(module_of: Callable[..., RecordDataModule]) -> None:
    module = module_of([line("a", "France", "Paris")], validation=[line("b", "Kenya", "Nairobi")])
    module.setup("fit")
    Path(module.hparams["train"]).unlink()
    module.setup("fit")
    module.setup("validate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, "share of the groups"),
        ({"validation_fraction": 0.5, "validation": []}, "keep one"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"negatives_per_group": -1}, "negatives_per_group is -1"),
    ],
)
def test_a_senseless_setting_is_refused_at_once(
    arguments: dict[str, Any], message: str, module_of: Callable[..., RecordDataModule]
) -> None:
    with pytest.raises(ConfigError, match=message):
        module_of([line("a", "France", "Paris")], **arguments)


@pytest.mark.parametrize(("stage", "option"), [("validate", "data.validation_fraction"), ("test", "data.test")])
def test_a_stage_without_records_says_what_to_set(stage: str, option: str, module_of: Callable[..., RecordDataModule]) -> None:
    with pytest.raises(ConfigError, match=option):
        module_of([line("a", "France", "Paris")]).setup(stage)


def test_the_settings_are_kept_as_plain_json(module_of: Callable[..., RecordDataModule]) -> None:
    module = module_of([line("a", "France", "Paris")], batch_size=3, protect="first_difference")
    assert json.loads(json.dumps(dict(module.hparams)))["protect"] == "first_difference"
