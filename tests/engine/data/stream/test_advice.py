"""What the errors about streams, datasets and loaders advise: each is followed here, and then batches come."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from advice import Action, follow, refusal
from streams import make_stream
from unmask import PackedDataset
from unmask.config import CompositionConfig, MaskingConfig, PhaseConfig, RunConfig, StreamConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import ranks
from unmask.data.stream.blocks import Permutation
from unmask.data.stream.loader import Loader
from unmask.errors import CorpusError

STREAM = StreamConfig(max_length=32, micro_batch_tokens=256, held_out_fraction=0.2)
LENGTHS = np.random.default_rng(0).integers(20, 60, 60)
STORE = MemoryStore.generated(LENGTHS, vocab_size=300)
OTHER = MemoryStore.generated(LENGTHS, vocab_size=300, seed=1)
RISING = MaskingConfig(rate_end=0.3)
RUN = RunConfig()


def dataset(store: Any = STORE, **options: Any) -> PackedDataset:
    return PackedDataset(store, options.pop("stream", STREAM), seed=7, ordinary_ids=STORE.ordinary_ids, **options)


def read(**options: Any) -> Action:
    return lambda: next(iter(dataset(**options)))


def of_run(train: dict[str, Any], **parts: Any) -> Action:
    config = dataclasses.replace(RUN, stream=STREAM, train=dataclasses.replace(RUN.train, **train), **parts)
    return lambda: next(iter(PackedDataset.of_run(STORE, config, ordinary_ids=STORE.ordinary_ids)))


def continued(store: Any = STORE, **options: Any) -> Action:
    """Read on from the state of a dataset with other or the same store and settings."""

    def go_on() -> None:
        data = dataset(store, **options)
        data.load_state_dict(dataset().state_dict())
        next(iter(data))

    return go_on


def stream(lengths: Any = LENGTHS, **given: Any) -> Action:
    store = MemoryStore.generated(lengths, vocab_size=300)
    return lambda: next(make_stream(store, **({"max_length": 32, "micro_batch_tokens": 256} | given)).batches())


def at(index: int, **given: Any) -> Action:
    made = make_stream(STORE, max_length=32, micro_batch_tokens=256, held_out_fraction=0.2, **given)
    return lambda: made.locate(index)


def load(**given: Any) -> Action:
    def first() -> None:
        with Loader(make_stream(STORE, max_length=32, micro_batch_tokens=256), **given) as loader:
            next(loader)

    return first


HALVES = [PhaseConfig(share=0.5, max_length=length) for length in (16, 32)]

CASES: dict[str, tuple[Action, str, list[Action]]] = {
    "phases": (
        of_run({"phases": HALVES}),
        "PackedDataset: the run has 2 phases, each with a stream of its own; give train.phases [] for one at "
        "stream.max_length, or make a dataset for each",
        [of_run({"phases": []}), *(of_run({"phases": [dataclasses.replace(one, share=1.0)]}) for one in HALVES)],
    ),
    "rate without steps": (
        of_run({"steps": None, "epochs": 2.0}, masking=RISING),
        "PackedDataset: masking.rate_end needs masking.rate_steps or train.steps, in which the rate gets there, got "
        "None; give one of them, or leave masking.rate_end out",
        [
            of_run({"steps": 10}, masking=RISING),
            of_run({"steps": None, "epochs": 2.0}, masking=dataclasses.replace(RISING, rate_steps=10)),
            of_run({"steps": None, "epochs": 2.0}, masking=MaskingConfig()),
        ],
    ),
    "length": (
        lambda: len(dataset()),
        "PackedDataset: an endless dataset has no length; give the trainer a number of steps (max_steps), or set "
        "endless=False to have an epoch in each iteration",
        [lambda: list(islice(dataset(), 3)), lambda: len(dataset(endless=False))],
    ),
    "another store": (
        continued(OTHER),
        "PackedDataset: the state is of another store ( ... ); open that store, or leave the state out to begin anew",
        [continued(STORE), read(store=OTHER)],
    ),
    "other settings": (
        continued(masking=MaskingConfig(rate=0.2)),
        "PackedDataset: the state is of other settings: masking.rate 0.15 (here 0.2); make the dataset with them, or "
        "leave the state out to begin anew",
        [continued(masking=MaskingConfig(rate=0.15)), read(masking=MaskingConfig(rate=0.2))],
    ),
    "split": (
        read(split="test"),
        "PackedDataset: split must be 'train' or 'held_out', got 'test'",
        [read(split="train"), read(split="held_out")],
    ),
    "held-out without end": (
        read(split="held_out", endless=True),
        "PackedDataset: held-out documents are one fixed epoch, but endless is True; leave endless out",
        [read(split="held_out")],
    ),
    "flat for causal models": (
        read(flat=True, masking="next_token"),
        "PackedDataset: flat must be False for masking 'next_token', since causal models of transformers shift labels "
        "themselves; leave flat out, and give them the ids alone",
        [read(masking="next_token")],
    ),
    "a rank alone": (
        read(rank=1),
        "PackedDataset: rank and world_size must be given together, rank in [0, world_size), got 1 and None; leave "
        "both out to take those of torch.distributed",
        [read(), read(rank=1, world_size=2)],
    ),
    "rate without micro-batches": (
        read(masking=RISING),
        "PackedDataset: rate_over must be given with masking.rate_end, got None; give the number of micro-batches in "
        "which the mask rate gets there",
        [read(masking=RISING, rate_over=10)],
    ),
    "rate of an epoch": (
        read(masking=RISING, rate_over=10, endless=False),
        "PackedDataset: endless must be True with masking.rate_end, since the rate is counted from the first "
        "micro-batch; leave endless out, or set masking.rate_end to None",
        [read(masking=RISING, rate_over=10), read(masking=MaskingConfig(rate_end=None), endless=False)],
    ),
    "epoch": (
        lambda: dataset().set_epoch(-1),
        "PackedDataset: epoch must be at least 0, got -1",
        [lambda: dataset().set_epoch(0)],
    ),
    "no end to count": (
        lambda: make_stream(STORE, max_length=32, micro_batch_tokens=256).count(),
        "stream: it must have an end to be counted, and has none; call from_epoch(epoch, endless=False).count()",
        [lambda: make_stream(STORE, max_length=32, micro_batch_tokens=256).from_epoch(2, endless=False).count()],
    ),
    "index below 0": (at(-1), "stream: index must be at least 0, got -1", [at(0)]),
    "index past the end": (
        at(10**6, split="held_out"),
        "stream: index must be below ... , the micro-batches of the held-out epoch, got 1000000",
        [at(0, split="held_out")],
    ),
    "permutation": (
        lambda: Permutation(0, 1, 2),
        "Permutation: n must be at least 1, got 0",
        [lambda: Permutation(1, 1, 2)(np.arange(1))],
    ),
    "short pairs": (
        stream(max_length=4, composition=CompositionConfig(strategy="pairs")),
        "stream: max_length must be at least 5 for pairs, got 4",
        [stream(max_length=5, composition=CompositionConfig(strategy="pairs"))],
    ),
    "a piece in a micro-batch": (
        stream(micro_batch_tokens=16),
        "stream: micro_batch_tokens must be at least max_length (32) to hold one piece, got 16",
        [stream(micro_batch_tokens=32)],
    ),
    "documents": (
        stream(max_documents=2),
        "stream: max_documents must be at least 9, the documents of one sequence and the inert documents that fill up "
        "256 tokens, got 2",
        [stream(max_documents=9)],
    ),
    "masked tokens": (
        stream(masked_slots=2),
        "stream: 2 masked tokens of a micro-batch are too few for one piece of max_length (32), which has 5; give at "
        "least that many",
        [stream(masked_slots=5)],
    ),
    "no document": (
        stream([], held_out_fraction=0.0),
        "stream: the train split must hold documents, none of 0 is in it; add text, cut it into more documents when it "
        "is prepared (--split-at",
        [stream()],
    ),
    "few tokens": (
        stream([20, 20], held_out_fraction=0.0),
        "stream: the corpus has 44 tokens in 2 documents, fewer than one micro-batch of 256; add text, or lower "
        "stream.micro_batch_tokens to at most 44",
        [stream(held_out_fraction=0.0), stream([20, 20], held_out_fraction=0.0, micro_batch_tokens=44)],
    ),
    "fewer tokens than a piece": (
        stream([3, 3], held_out_fraction=0.0),
        "stream: the corpus has 10 tokens in 2 documents, fewer than one micro-batch of 256; add text",
        [stream(held_out_fraction=0.0)],
    ),
    "start": (
        load(start=-1),
        "loader: start must be at least 0 and rank in [0, world_size), got start=-1, rank=0, world_size=1",
        [load(start=0)],
    ),
    "workers": (
        load(workers=-1),
        "loader: workers must be at least 0 and prefetch at least 1, got -1 and ",
        [load(workers=0)],
    ),
    "ids of a store in memory": (
        lambda: MemoryStore(np.arange(5), [2, 2], vocab_size=9),
        "MemoryStore: lengths must sum to the number of ids (5), sum to 4",
        [lambda: MemoryStore(np.arange(5), [2, 3], vocab_size=9)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_an_error_advises_gives_batches(case: str) -> None:
    wrong, told, advised = CASES[case]
    follow(wrong, told, *advised)


def test_documents_too_short_for_pairs_are_joined_or_composed_otherwise() -> None:
    pairs = CompositionConfig(strategy="pairs")
    follow(
        stream([1] * 99, composition=pairs, pair_task="sop", held_out_fraction=0.0),
        "stream: composition.strategy makes no sequence of the 99 documents; they are too short for it, so join them "
        "to longer ones or choose another composition.strategy",
        stream([30] * 99, composition=pairs, pair_task="nsp", held_out_fraction=0.0),
        stream([1] * 999, composition=CompositionConfig(strategy="mix"), held_out_fraction=0.0),
    )


def test_nothing_held_out_of_one_document_is_mended_by_more_text() -> None:
    told = refusal(stream([40], split="held_out", held_out_fraction=1e-9))
    assert (
        "the held_out split must hold documents, none of 1 is in it; add text, cut it into more documents when" in told
    )
    assert told.endswith("TEXT.txt > TEXT.jsonl)")
    stream(split="held_out", held_out_fraction=0.3)()


def test_a_rate_that_is_counted_from_the_beginning_is_read_from_there() -> None:
    data = dataset(masking=RISING, rate_over=10)
    data.set_epoch(1)
    follow(
        lambda: iter(data),
        "stream: masking.rate_end is set, and the mask rate is counted from the first micro-batch, so the stream must "
        "be read from epoch 0, got epoch 1; read it from there, or set masking.rate_end to None",
        lambda: (data.set_epoch(0), next(iter(data))),
    )
    plain = dataset()
    plain.set_epoch(1)
    assert next(iter(plain)).cursor.epoch == 1


def test_a_loaded_state_is_used_by_its_epoch_or_loaded_afterwards() -> None:
    first = dataset(endless=False)
    list(first)
    state = first.state_dict()
    second = dataset(endless=False)
    second.load_state_dict(state)
    follow(
        lambda: second.set_epoch(0),
        "lies in epoch 1, but set_epoch(0) would leave it unused; call set_epoch(1), also of a loader that accelerate "
        "prepared, or load the state afterwards",
        lambda: (second.set_epoch(1), next(iter(second))),
    )
    third = dataset(endless=False)
    third.set_epoch(0)
    third.load_state_dict(state)
    assert next(iter(third)).cursor.epoch == 1


def test_something_else_than_a_state_is_replaced_by_the_state_of_the_dataset() -> None:
    data = dataset()
    follow(
        lambda: data.load_state_dict({"_snapshot": {}}),
        "PackedDataset: state must come from state_dict of a PackedDataset, format 1, got ['_snapshot']; of the state "
        "of a StatefulDataLoader, give the whole to the loader",
        lambda: data.load_state_dict(pickle.loads(pickle.dumps(dataset().state_dict()))),
    )


def test_a_state_of_several_workers_is_continued_by_as_many() -> None:
    state = dataset().state_dict() | {"workers": 2}
    data = dataset()
    data.load_state_dict(state)
    told = refusal(lambda: iter(data))
    assert told == (
        "PackedDataset: the state was taken with 2 workers and world_size 1, got 1 and 1; continue with the same "
        "numbers: num_workers=2 of the loader, and 1 processes"
    )
    from torch.utils.data import DataLoader

    assert len(list(islice(DataLoader(data, batch_size=None, num_workers=2), 3))) == 3


@contextmanager
def processes(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": count}.items():
            patched.setattr(dist, name, lambda value=value: value)
        patched.setattr(ranks, "_accelerate_runs", lambda: True)
        yield


def test_beside_accelerate_the_place_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes(2, monkeypatch):
        follow(
            read(),
            "PackedDataset: rank and world_size must be given beside accelerate, which may share out the micro-batches "
            "too; give rank=0, world_size=1 if accelerate or the Trainer of transformers prepares the loader, with ... "
            ", else rank=accelerator.process_index, world_size=accelerator.num_processes",
            read(rank=0, world_size=1),
            read(rank=1, world_size=2),
        )


class _Broken(MemoryStore):
    """A store that cannot be read in another process, with an error that cannot be sent."""

    home = os.getpid()

    def gather(self, *arguments: Any) -> Any:
        if os.getpid() != self.home:
            raise type("Odd", (Exception,), {"__reduce__": lambda self: (print, ("\0", "\0"), 1, 2)})("broken")
        return super().gather(*arguments)


def test_a_worker_that_fails_oddly_fails_in_the_main_process() -> None:
    made = make_stream(_Broken.generated(LENGTHS, vocab_size=300), max_length=32, micro_batch_tokens=256)
    with Loader(made, workers=1) as loader:
        told = refusal(lambda: next(loader))
    assert told.startswith(
        "loader: a worker failed with Odd: broken; set stream.workers to 0 to have it fail in the main"
    )
    with Loader(made, workers=0) as loader:
        assert next(loader)


def test_a_killed_worker_leaves_fewer_as_the_way_out() -> None:
    made = make_stream(MemoryStore.generated(np.full(3000, 30), vocab_size=300), max_length=32, micro_batch_tokens=256)
    with Loader(made, workers=2, prefetch=1) as loader:
        next(loader)
        for process in loader._processes:
            os.kill(process.pid or 0, signal.SIGKILL)
        told = refusal(lambda: list(loader))
    assert (
        "must live as long as the loader, ended with exit code -9; if it was killed for lack of memory, use fewer"
        in told
    )
    with Loader(made, workers=1) as loader:
        assert next(loader)


def test_a_cursor_of_another_stream_is_replaced_by_its_own() -> None:
    made = make_stream(STORE, max_length=32, micro_batch_tokens=256)
    cursor = made.locate(9)
    follow(
        lambda: made.remember(8, cursor),
        "was said to begin at ... ; does the cursor come from another stream?",
        lambda: made.remember(9, cursor),
    )


def test_masks_that_no_kernel_makes_are_made_on_the_host() -> None:
    spans = MaskingConfig(strategy="span")
    follow(
        lambda: make_stream(STORE, max_length=32, micro_batch_tokens=256, masking=spans, masks=False).mask_rule,
        "masking: strategy must be 'token' or 'whole_word' to be made on the device, got 'span'; set masking.place to "
        "'host'",
        stream(masking=spans, masks=True),
    )


def test_the_text_is_too_short_for_a_micro_batch() -> None:
    with pytest.raises(CorpusError, match="fewer than one micro-batch"):
        stream([20], held_out_fraction=0.0)()
