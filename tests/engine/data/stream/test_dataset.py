"""The stream as a dataset of PyTorch: the batches of a run, in any loader, stopped and continued anywhere."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from unmask import PackedBatch, PackedDataset
from unmask.batch import IGNORED
from unmask.config import CompositionConfig, MaskingConfig, PhaseConfig, RunConfig, StreamConfig
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import blocks
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, StoreError
from unmask.train.data import RunData

STREAM = StreamConfig(max_length=32, micro_batch_tokens=256, held_out_fraction=0.2)
WORDS = ["the", "cat", "sat", "on", "mat", "dog", "ran", "fast", "tree", "house"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 8)
    monkeypatch.setattr(blocks, "_MIN_GROUPS", 4)
    monkeypatch.setattr(blocks, "_MEAN_BATCHES", 1)


def store_of(seed: int = 0) -> MemoryStore:
    lengths = np.random.default_rng(0).integers(1, 60, 150)
    return MemoryStore.generated(lengths, vocab_size=300, seed=seed)


STORE = store_of()


def dataset(store: Any = STORE, stream: StreamConfig = STREAM, **options: Any) -> PackedDataset:
    return PackedDataset(store, stream, **{"seed": 7, "ordinary_ids": STORE.ordinary_ids, **options})


def in_epochs(**options: Any) -> PackedDataset:
    return dataset(endless=False, **options)


def leaves(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    else:
        yield value


def same(got: Any, expected: Any) -> bool:
    """Whether two items are equal in every bit."""
    pairs = zip(leaves(got), leaves(expected), strict=True)
    return all((torch.equal(a, b) and a.dtype == b.dtype) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def assert_same(got: Any, expected: Any) -> None:
    one, two = list(got), list(expected)
    assert len(one) == len(two) > 0
    assert [same(a, b) for a, b in zip(one, two, strict=True)] == [True] * len(one)


def loader(data: PackedDataset, workers: int = 0, kind: Any = DataLoader, **options: Any) -> Any:
    return kind(data, batch_size=None, num_workers=workers, **options)


def test_its_batches_are_those_of_a_run() -> None:
    """For a run with pairs, whole words and a mask rate that changes."""
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 20 + n % 30)) + "." for n in range(80)]
    tokenizer = Tokenizer.train(texts, 60)
    ids = [np.array(one, dtype=np.uint16) for one in tokenizer.encode_batch(texts)]
    sentences = np.random.default_rng(0).random(sum(map(len, ids))) < 0.2
    store = MemoryStore(
        np.concatenate(ids), [len(one) for one in ids], vocab_size=tokenizer.vocab_size, sentence_starts=sentences
    )
    run = RunConfig()
    config = dataclasses.replace(
        run,
        stream=dataclasses.replace(STREAM, workers=0),
        composition=CompositionConfig(strategy="pairs"),
        masking=MaskingConfig(strategy="whole_word", rate=0.3, rate_end=0.1),
        objective=dataclasses.replace(run.objective, sop=1.0),
        train=dataclasses.replace(run.train, steps=10, tokens_per_step=512),
        seed=5,
    )
    expected = [batch for step in RunData(store, tokenizer, config).steps(0) for batch in step]
    data = PackedDataset.of_run(store, config, ordinary_ids=tokenizer.ordinary_ids)
    assert_same(islice(data, 20), expected)
    assert len({batch.cursor.epoch for batch in expected}) > 1


def test_a_run_with_several_streams_or_without_an_end_for_its_rate_is_refused() -> None:
    run = RunConfig()
    halves = [PhaseConfig(share=0.5, max_length=length) for length in (16, 32)]
    several = dataclasses.replace(run, stream=STREAM, train=dataclasses.replace(run.train, phases=halves))
    with pytest.raises(ConfigError, match=r"2 phases, .*; give train\.phases \[\] for one at stream\.max_length"):
        PackedDataset.of_run(STORE, several, ordinary_ids=STORE.ordinary_ids)
    one = dataclasses.replace(several, train=run.train)
    assert_same(
        islice(PackedDataset.of_run(STORE, one, ordinary_ids=STORE.ordinary_ids), 3),
        islice(dataset(seed=run.seed), 3),
    )
    rising = dataclasses.replace(
        one,
        masking=MaskingConfig(rate_end=0.3),
        train=dataclasses.replace(run.train, steps=None, epochs=2.0),
    )
    with pytest.raises(
        ConfigError, match=r"needs .* or train\.steps, .*; give one of them, or leave masking\.rate_end"
    ):
        PackedDataset.of_run(STORE, rising, ordinary_ids=STORE.ordinary_ids)
    # a warm-up of the mask rate has steps of its own
    warming = dataclasses.replace(rising, masking=MaskingConfig(rate_end=0.3, rate_steps=4))
    per_step = run.train.tokens_per_step // STREAM.micro_batch_tokens
    assert_same(
        islice(PackedDataset.of_run(STORE, warming, ordinary_ids=STORE.ordinary_ids), 3),
        islice(dataset(seed=run.seed, masking=MaskingConfig(rate_end=0.3), rate_over=4 * per_step), 3),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_it_continues_at_ten_random_places_bit_for_bit(workers: int) -> None:
    expected = list(islice(loader(dataset()), 60))
    places = np.random.default_rng(workers).choice(45, 10, replace=False).tolist()
    assert len({expected[place].cursor.epoch for place in places}) > 1
    states = {}
    first = loader(dataset(), workers, StatefulDataLoader)
    for number, _ in enumerate(islice(first, 46)):
        if number + 1 in places or (number == 0 and 0 in places):
            states[number + 1] = pickle.dumps(first.state_dict())
    for place, state in states.items():
        second = loader(dataset(), workers, StatefulDataLoader)
        second.load_state_dict(pickle.loads(state))
        assert_same(islice(second, 8), expected[place : place + 8])
    assert len(states) >= 9


# an epoch of another number of batches than the one before makes the loader warn
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_that_were_stopped_in_the_middle_or_at_their_end_continue(workers: int) -> None:
    whole = [list(loader(data)) for data in [in_epochs()] for _ in range(3)]
    count = len(whole[1])
    for place in (count - 1, count):
        first = loader(in_epochs(), workers, StatefulDataLoader)
        list(first)  # epoch 0
        iterator = iter(first)
        taken = list(islice(iterator, place))
        if place == count:
            assert next(iterator, None) is None
        state = first.state_dict()
        second = loader(in_epochs(), workers, StatefulDataLoader)
        second.load_state_dict(state)
        rest = list(second)
        if place == count:
            # the state at the end of an epoch: the next iteration is the next epoch
            rest = rest or list(second)
            assert_same([*taken, *rest], whole[1] + whole[2])
        else:
            assert_same([*taken, *rest], whole[1])
            assert_same(second, whole[2])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plain_loader_with_workers_has_each_batch_once_in_the_order_without(workers: int) -> None:
    assert_same(loader(in_epochs(), workers), in_epochs())
    assert_same(islice(loader(dataset(), workers), 30), islice(dataset(), 30))


def test_each_iteration_is_another_epoch_for_workers_that_stay_and_for_new_ones() -> None:
    epochs = [0, 1, 2]
    for stays in (False, True):
        read = loader(in_epochs(), 2, persistent_workers=stays)
        assert [{batch.cursor.epoch for batch in read} for _ in epochs] == [{epoch} for epoch in epochs]


def test_more_workers_than_batches_make_an_epoch_too() -> None:
    data = in_epochs(store=MemoryStore.generated(np.full(16, 20), vocab_size=300))
    read = loader(data, 3, StatefulDataLoader)
    assert [[batch.cursor.epoch for batch in read] for _ in range(3)] == [[epoch] * len(data) for epoch in range(3)]
    assert len(data) < 3


def test_an_epoch_that_was_broken_off_is_begun_again() -> None:
    read = loader(in_epochs(), 2)
    first = next(iter(read))
    assert_same([next(iter(read))], [first])


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_reaches_workers_that_are_there_already(workers: int) -> None:
    data = in_epochs()
    read = loader(data, workers, persistent_workers=workers > 0)
    for epoch in (3, 1):
        data.set_epoch(epoch)
        assert {batch.cursor.epoch for batch in read} == {epoch}


def test_an_endless_dataset_begins_with_the_epoch_that_was_set() -> None:
    data = dataset()
    every = list(islice(data, 60))
    begins = next(n for n, batch in enumerate(every) if batch.cursor.epoch == 2)
    data.set_epoch(2)
    assert_same(islice(data, 5), every[begins : begins + 5])


def test_the_length_of_an_epoch_is_known_and_an_endless_dataset_has_none() -> None:
    data = in_epochs()
    for _ in range(3):
        length = len(data)
        assert length == len(list(data))
    assert len(dataset(split="held_out")) == len(list(dataset(split="held_out"))) > 0
    with pytest.raises(TypeError, match=r"has no length; give the trainer .* \(max_steps\), or set endless=False"):
        len(dataset())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_an_epoch_in_whole_rounds_and_held_out_documents_without_a_rest(ranks: int) -> None:
    whole = list(in_epochs())
    shares = [in_epochs(rank=rank, world_size=ranks) for rank in range(ranks)]
    got = [list(share) for share in shares]
    assert {len(one) for one in got} == {len(whole) // ranks}
    in_turn = [batch for together in zip(*got, strict=True) for batch in together]
    assert_same(in_turn, whole[: len(in_turn)])
    assert [len(in_epochs(rank=rank, world_size=ranks)) for rank in range(ranks)] == [len(one) for one in got]
    held_out = [dataset(split="held_out", rank=rank, world_size=ranks) for rank in range(ranks)]
    assert sum(len(list(share)) for share in held_out) == len(list(dataset(split="held_out")))
    assert [len(share) for share in held_out] == [len(list(share)) for share in held_out]


def test_workers_of_a_rank_share_what_the_rank_has() -> None:
    expected = list(islice(dataset(), 24))
    for rank in (0, 1):
        assert_same(islice(loader(dataset(rank=rank, world_size=2), 3), 12), expected[rank::2])


def test_ranks_are_those_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    # other tests leave accelerate set up
    monkeypatch.delitem(sys.modules, "accelerate.state", raising=False)
    every = list(islice(dataset(), 6))
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    assert_same(islice(dataset(), 3), every[1::2])
    # a worker that is spawned knows no process group, so its copy of the dataset is told
    assert pickle.loads(pickle.dumps(dataset()))._inherited == (1, 2)
    # where accelerate may share out too, nothing is guessed, and both ways out work
    state = types.SimpleNamespace(PartialState=types.SimpleNamespace(_shared_state={"backend": "gloo"}))
    monkeypatch.setitem(sys.modules, "accelerate.state", state)
    with pytest.raises(
        ValueError, match=r"give rank=0, world_size=1 if accelerate .* world_size=accelerator\.num_proc"
    ):
        iter(dataset())
    assert_same(islice(dataset(rank=0, world_size=1), 6), every)
    assert_same(islice(dataset(rank=1, world_size=2), 3), every[1::2])


def test_a_state_at_the_end_of_an_epoch_is_the_beginning_of_the_next() -> None:
    first, second = in_epochs(), in_epochs()
    list(first)
    second.load_state_dict(first.state_dict())
    assert_same(second, first)


def test_a_copy_of_a_dataset_has_epochs_of_its_own_that_its_workers_share() -> None:
    data = in_epochs()
    data.set_epoch(3)
    other = copy.deepcopy(data)
    read = loader(other, 2)
    assert [{batch.cursor.epoch for batch in read} for _ in range(2)] == [{3}, {4}]
    assert (data.epoch, other.epoch) == (3, 5)


def test_a_state_without_workers_is_continued_by_other_numbers_of_workers_and_ranks() -> None:
    every = list(islice(dataset(), 40))
    first = dataset(rank=1, world_size=2)
    list(islice(first, 5))
    state = first.state_dict()
    for workers, ranks in ((0, 1), (2, 1), (0, 3)):
        second = dataset(rank=0, world_size=ranks)
        second.load_state_dict(state)
        assert_same(islice(loader(second, workers), 4), every[10::ranks][:4])


def test_a_state_of_several_workers_is_refused_by_another_number_and_continued_by_the_same() -> None:
    first = loader(dataset(), 2, StatefulDataLoader)
    list(islice(first, 4))
    state = first.state_dict()["_snapshot"]["_worker_snapshots"]["worker_1"]["dataset_state"]
    data = dataset()
    data.load_state_dict(state)
    with pytest.raises(ValueError, match=r"taken with 2 workers and world_size 1, got 1 and 1; .* num_workers=2 of"):
        iter(data)


def test_a_state_of_another_store_or_other_settings_is_refused_by_name() -> None:
    state = dataset().state_dict()
    with pytest.raises(StoreError, match="the state is of another store"):
        dataset(store_of(seed=1)).load_state_dict(state)
    for name, other in {
        "seed 7 (here 8)": {"seed": 8},
        "masking.rate 0.15 (here 0.2)": {"masking": MaskingConfig(rate=0.2)},
        "stream.max_length 32 (here 16)": {"stream": dataclasses.replace(STREAM, max_length=16)},
        "composition.strategy 'documents' (here 'full_sentences')": {
            "composition": CompositionConfig(strategy="full_sentences")
        },
        "masking 'masked' (here 'next_token')": {"masking": "next_token"},
        "endless True (here False)": {"endless": False},
        "split 'train' (here 'held_out')": {"split": "held_out"},
    }.items():
        with pytest.raises(ConfigError) as refusal:
            dataset(**other).load_state_dict(state)
        assert name in str(refusal.value)
    with pytest.raises(ConfigError, match="another tokenizer or another table of similar words"):
        dataset(ordinary_ids=[5, 6]).load_state_dict(state)
    # what changes no batch is no other setting
    data = dataset(stream=dataclasses.replace(STREAM, workers=3), masking=MaskingConfig(place="device"))
    data.load_state_dict(state)
    assert_same(islice(data, 3), islice(dataset(), 3))


def test_something_else_than_a_state_is_refused_with_what_it_holds() -> None:
    read = loader(dataset(), kind=StatefulDataLoader)
    next(iter(read))
    message = r"must come from state_dict .* got \['_IterableDataset_len_called'.* to the loader"
    with pytest.raises(ValueError, match=message):
        dataset().load_state_dict(read.state_dict())
    with pytest.raises(ValueError, match="got NoneType"):
        dataset().load_state_dict(None)  # type: ignore[arg-type]


def test_a_loaded_state_is_not_lost_by_set_epoch() -> None:
    first = in_epochs()
    list(first)
    rest = iter(first)
    next(rest)
    state = first.state_dict()
    second = in_epochs()
    second.load_state_dict(state)
    with pytest.raises(ValueError, match=r"lies in epoch 1, but set_epoch\(0\) would leave it unused; call set_epoch"):
        second.set_epoch(0)
    second.set_epoch(1)
    assert_same(second, rest)


def test_a_store_is_opened_anew_by_workers_that_are_spawned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    for n in range(40):
        text = " ".join(np.random.default_rng(n).choice(WORDS, 30))
        (tmp_path / "texts" / f"{n}.txt").write_text(text)
    folder = tmp_path / "store"
    prepare([str(tmp_path / "texts")], str(folder), vocab_size=100)
    data = PackedDataset(folder, STREAM)
    written = pickle.dumps(data)
    assert len(written) < 20_000
    again = pickle.loads(written)
    assert isinstance(again.store, Store) and again.store is not data.store
    assert_same(islice(again, 6), islice(data, 6))
    monkeypatch.undo()
    # the constants above are those of this process alone, so the spawned worker shuffles in one large block
    data = PackedDataset(str(folder), STREAM, split="held_out")
    assert_same(loader(data, 1, multiprocessing_context="spawn"), data)


def test_items_are_flat_arguments_if_asked_for() -> None:
    options: dict[str, Any] = {"composition": CompositionConfig(strategy="pairs")}
    for got, batch in islice(zip(dataset(flat=True, **options), dataset(**options), strict=True), 5):
        assert isinstance(batch, PackedBatch)
        documents = batch.documents
        shapes = {name: tuple(value.shape) for name, value in got.items() if isinstance(value, torch.Tensor)}
        assert {shapes[name] for name in ("input_ids", "position_ids", "token_type_ids", "labels")} == {(1, 256)}
        assert torch.equal(got["input_ids"][0], batch.ids) and torch.equal(got["position_ids"][0], documents.positions)
        assert torch.equal(got["token_type_ids"][0], batch.segments)
        assert torch.equal(got["next_sentence_label"], batch.pair_labels)
        for side in "qk":
            assert got[f"cu_seq_lens_{side}"].dtype == torch.int32 and got[f"max_length_{side}"] == 32
            assert torch.equal(got[f"cu_seq_lens_{side}"], documents.cu_seqlens)
        labels = got["labels"][0]
        used = batch.labels != IGNORED
        assert torch.equal(labels[batch.masked[used]], batch.labels[used])
        assert int((labels != IGNORED).sum()) == int(used.sum()) > 0


@pytest.mark.parametrize(
    ("options", "message", "way_out"),
    [
        ({"split": "test"}, "split must be 'train' or 'held_out', got 'test'", {"split": "held_out"}),
        ({"split": "held_out", "endless": True}, "one fixed epoch, but .*; leave endless out", {"split": "held_out"}),
        ({"flat": True, "masking": "next_token"}, "flat must be False .*; leave flat out", {"masking": "next_token"}),
        ({"rank": 1}, r"must be given together, .* got 1 and None; leave both out", {}),
        ({"rank": 2, "world_size": 2}, r"rank in \[0, world_size\), got 2 and 2; leave both out", {}),
        (
            {"masking": MaskingConfig(rate_end=0.3)},
            "rate_over must be given .* give the number of micro-batches",
            {"masking": MaskingConfig(rate_end=0.3), "rate_over": 10},
        ),
        (
            {"masking": MaskingConfig(rate_end=0.3), "rate_over": 10, "endless": False},
            "leave endless out, or set masking.rate_end to None",
            {"masking": MaskingConfig(rate_end=None), "endless": False},
        ),
    ],
)
def test_arguments_that_contradict_each_other_are_refused_and_the_way_out_works(
    options: dict[str, Any], message: str, way_out: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(**options)
    assert next(iter(dataset(**way_out)))


def test_a_mask_rate_that_changes_is_read_from_epoch_0() -> None:
    data = dataset(masking=MaskingConfig(rate_end=0.3), rate_over=10)
    data.set_epoch(1)
    with pytest.raises(ConfigError, match=r"must be read from epoch 0, got epoch 1; read it from there"):
        iter(data)
    data.set_epoch(0)
    assert next(iter(data))
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        data.set_epoch(-1)
