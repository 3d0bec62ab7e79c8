"""Examples in micro-batches of at most T tokens: full, in a new order each epoch, shared out and resumable."""

from __future__ import annotations

import doctest
import pickle
import sys
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from torchdata.stateful_dataloader import StatefulDataLoader

from unmask.hf import TokenBatchSampler

LENGTHS = np.random.default_rng(0).gamma(2.0, 40.0, 600).astype(int).clip(3, 512)


def sampler(lengths: Any = LENGTHS, tokens: int = 1024, **options: Any) -> TokenBatchSampler:
    return TokenBatchSampler(lengths, tokens, **options)


def test_each_example_comes_once_and_no_batch_exceeds_its_tokens() -> None:
    made = sampler()
    batches = list(made)
    assert sorted(index for batch in batches for index in batch) == list(range(600))
    assert max(LENGTHS[batch].sum() for batch in batches) <= 1024 and len(batches) == len(made)


def test_batches_are_filled() -> None:
    """Batches of a fixed number of examples that never exceed T would leave far more free."""
    many = np.tile(LENGTHS, 5)
    assert sampler(many).padding_share() < 0.01
    assert sampler(many, shuffle=False).padding_share() < 0.01
    at_most = 1024 // LENGTHS.max()
    assert 1 - LENGTHS.mean() * at_most / 1024 > 0.8


def test_the_next_iteration_is_the_next_epoch_of_another_order_but_the_same_length() -> None:
    made = sampler(LENGTHS[:100], tokens=600)
    epochs = [list(made) for _ in range(30)]
    assert len({str(epoch) for epoch in epochs}) == 30
    assert {len(epoch) for epoch in epochs} == {len(made)}
    # that is not so by chance
    assert len({len(made._packed(epoch)) for epoch in range(30)}) > 1
    assert max(sum(LENGTHS[batch].sum() > 600 for batch in epoch) for epoch in epochs) == 0
    made.set_epoch(3)
    assert list(made) == epochs[3] == list(islice(sampler(LENGTHS[:100], tokens=600).batches(3), None))
    assert list(made) == epochs[4]
    assert list(sampler(LENGTHS[:100], tokens=600, seed=1)) != epochs[0]


def test_the_order_of_the_examples_is_kept_without_shuffling() -> None:
    made = sampler(np.full(100, 10), tokens=50, shuffle=False)
    assert list(made) == list(made) == [list(range(first, first + 5)) for first in range(0, 100, 5)]


class _Epochs(list[int]):
    set_epoch = list.append


def test_a_collator_is_told_the_epoch_before_a_batch_is_made() -> None:
    told = _Epochs()
    made = sampler(collator=told)
    for _ in range(2):
        iterator = iter(made)
        assert told[-1] == len(told) - 1
        list(iterator)
    iter(made)
    assert told == [0, 1, 2]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_have_the_same_number_of_batches_and_share_an_epoch(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(sampler())
    shares = [list(sampler(rank=rank, world_size=ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {len(whole) // ranks}
    assert [batch for together in zip(*shares, strict=True) for batch in together] == whole[
        : len(whole) // ranks * ranks
    ]
    # other tests leave accelerate set up
    monkeypatch.delitem(sys.modules, "accelerate.state", raising=False)
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": ranks}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    assert list(sampler()) == shares[1]


@pytest.mark.parametrize("ranks", [2, 3])
def test_beside_accelerate_the_share_is_asked_for_and_both_ways_out_work(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from accelerate.state import PartialState

    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": ranks}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(PartialState, "_shared_state", {"backend": "gloo"})
    with pytest.raises(ValueError, match=r"give rank=0, world_size=1 if accelerate .*, with even_batches=False, else"):
        iter(sampler())
    expected = [list(sampler(rank=rank, world_size=ranks)) for rank in range(ranks)]
    for rank in range(ranks):
        whole: Any = sampler(rank=0, world_size=1)
        share = BatchSamplerShard(whole, num_processes=ranks, process_index=rank, even_batches=False)
        assert list(share) == expected[rank] and len(share) == len(expected[rank])


@pytest.mark.parametrize("workers", [0, 2])
def test_it_continues_in_a_stateful_loader(workers: int) -> None:
    data = [int(length) for length in LENGTHS]

    def loader() -> StatefulDataLoader[int]:
        return StatefulDataLoader(data, batch_sampler=sampler(), num_workers=workers, collate_fn=list)

    read = loader()
    first, second = list(read), list(read)
    count = len(first)
    for place in (1, count // 2, count - 1):
        stopped = loader()
        list(stopped)
        taken = list(islice(stopped, place))
        state = pickle.dumps(stopped.state_dict())
        again = loader()
        again.load_state_dict(pickle.loads(state))
        assert [*taken, *again] == second


def test_a_state_at_the_end_of_an_epoch_is_the_beginning_of_the_next() -> None:
    first, second = sampler(), sampler()
    list(first)
    second.load_state_dict(first.state_dict())
    assert list(second) == list(first)


def test_a_loaded_state_is_not_lost_by_set_epoch_and_one_of_another_sampler_is_refused() -> None:
    made = sampler()
    list(made)
    rest = iter(made)
    next(rest)
    again = sampler()
    again.load_state_dict(made.state_dict())
    with pytest.raises(ValueError, match=r"lies in epoch 1, but set_epoch\(0\) would leave it unused; call set_epoch"):
        again.set_epoch(0)
    again.set_epoch(1)
    assert again.state_dict() == made.state_dict()
    assert list(again) == list(rest)
    for other in (sampler(seed=1), sampler(tokens=2048), sampler(LENGTHS[1:]), sampler(shuffle=False)):
        with pytest.raises(ValueError, match="with the same lengths, tokens, seed and shuffle"):
            other.load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {}, "must hold the number of tokens of each example, got shape"),
        ([[1, 2], [3, 4]], {}, r"got shape \(2, 2\); give \[len\(ids\) for ids"),
        ([5, 0], {}, "must be at least 1, got 0 for example 1; leave examples"),
        ([5, 9, 7], {"tokens": 8}, "at least 9, the tokens of example 1, got 8; raise tokens, or cut .* max_length=8"),
        ([5], {"rank": 1}, "must be given together"),
    ],
)
def test_refuses_what_makes_no_batches(lengths: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(lengths, **options)
    if options.get("tokens"):
        assert list(sampler(lengths, tokens=9)) and list(sampler(np.minimum(lengths, 8), tokens=8))
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        sampler().set_epoch(-1)


def test_its_example_gives_what_it_shows() -> None:
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(TokenBatchSampler, "sampler"):
        assert runner.run(test).attempted >= 3 and runner.failures == 0


def test_more_processes_than_micro_batches_are_refused_before_a_loop_that_does_nothing() -> None:
    few = TokenBatchSampler([4, 4, 4], 4, rank=0, world_size=4)
    with pytest.raises(ValueError, match="3 micro-batches, fewer than its 4 processes; give fewer tokens to a micro-"):
        list(few)
    assert len(list(TokenBatchSampler([4, 4, 4], 4, rank=0, world_size=3))) == 1
    assert len(list(TokenBatchSampler([2, 2, 2, 2], 2, rank=3, world_size=4))) == 1
