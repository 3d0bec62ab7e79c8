"""Background workers change when batches are made, never which; they end with their loader and parent."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from streams import make_stream
from unmask.data.store.memory import MemoryStore
from unmask.data.stream.loader import Loader
from unmask.errors import RunError, StoreError

SETTINGS = {
    "max_length": 32,
    "micro_batch_tokens": 128,
    "max_documents": 40,
    "masked_slots": 40,
    "seed": 1,
    "held_out_fraction": 0.2,
}


class FailingStore(MemoryStore):
    """A store whose file breaks after some reads."""

    reads_left = 5
    error: Exception = StoreError("store: tokens.arrow is truncated")

    def gather(self, documents, starts, lengths):
        self.reads_left -= 1
        if self.reads_left < 0:
            raise self.error
        return super().gather(documents, starts, lengths)


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def make(kind=MemoryStore, split="train"):
    store = kind.generated(np.arange(1, 120), vocab_size=300)
    return make_stream(store, **SETTINGS, split=split)


def running(loader):
    return [process for process in loader._processes if process.is_alive()]


def gone(pid, seconds=600.0):
    """Whether a process has ended, or does within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_workers_gives_the_same_order(workers):
    with Loader(make(), start=3, rank=1, world_size=2, workers=workers, prefetch=3) as loader:
        expected = make().batches(3, rank=1, world_size=2)
        for one, two in islice(zip(loader, expected, strict=False), 60):
            assert one.cursor == two.cursor
            assert torch.equal(one.ids, two.ids)
            assert torch.equal(one.masked, two.masked)
            assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_held_out_epoch_ends_and_so_do_the_workers(workers):
    expected = [batch.cursor for batch in make(split="held_out").batches()]
    loader = Loader(make(split="held_out"), workers=workers)
    assert [batch.cursor for batch in loader] == expected
    assert not running(loader)
    assert list(loader) == []


def test_a_start_past_the_end_of_the_epoch_gives_nothing():
    with Loader(make(split="held_out"), start=10_000, workers=2) as loader:
        assert list(loader) == []


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_reaches_the_consumer_after_the_batches_before_it(workers):
    loader = Loader(make(FailingStore), workers=workers)
    taken = []

    def consume():
        for batch in loader:
            taken.append(batch.cursor)

    with pytest.raises(StoreError, match=r"tokens\.arrow is truncated"):
        consume()
    # every worker reads from its own copy of the store
    assert taken == [batch.cursor for batch in islice(make().batches(), 5 * max(1, workers))]
    assert not running(loader)


def test_an_error_that_does_not_pickle_is_told_by_its_text(monkeypatch):
    monkeypatch.setattr(FailingStore, "error", Unpicklable("one", "two"))
    with (
        Loader(make(FailingStore), workers=1) as loader,
        pytest.raises(RunError, match="a worker failed with Unpicklable: one and two"),
    ):
        list(loader)


@pytest.mark.parametrize("tokens", [128, 40_000])
def test_a_worker_that_is_killed_is_reported(tokens):
    # a batch of 40,000 tokens is larger than a pipe, so that this worker dies in the middle of sending one
    store = MemoryStore.generated(np.full(3000, 30), vocab_size=300)
    stream = make_stream(store, max_length=32, micro_batch_tokens=tokens)
    loader = Loader(stream, workers=1, prefetch=1)
    next(loader)
    assert loader._pipes[0].poll(10.0), "the worker must have begun to send the next batch"
    os.kill(loader._processes[0].pid, signal.SIGKILL)
    with pytest.raises(RunError, match="worker 0 must live as long as the loader, ended with exit code -9"):
        list(loader)
    assert not running(loader)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_do_not_react_to_signals_meant_for_the_trainer(number):
    with Loader(make(), workers=2) as loader:
        for process in loader._processes:
            os.kill(process.pid, number)
        expected = make().batches()
        assert [next(loader).cursor for _ in range(12)] == [next(expected).cursor for _ in range(12)]
        assert len(running(loader)) == 2


def test_signals_reach_the_consumer_as_before():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Loader(make(), workers=1):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_close_leaves_nothing_running_and_may_be_repeated():
    loader = Loader(make(), workers=3)
    next(loader)
    assert len(running(loader)) == 3
    pids = [process.pid for process in loader._processes]
    loader.close()
    loader.close()
    assert not running(loader)
    assert all(gone(pid, 0.1) for pid in pids)
    with pytest.raises(StopIteration):
        next(loader)


def test_a_forgotten_loader_ends_its_workers():
    loader = Loader(make(), workers=1)
    pid = loader._processes[0].pid
    del loader
    gc.collect()
    assert gone(pid)


PROGRAM = """
import os, sys, signal
import numpy as np
from unmask.data.stream.loader import Loader
from unmask.data.store.memory import MemoryStore
from unmask.config import StreamConfig
from unmask.data.stream import Stream
store = MemoryStore.generated(np.arange(1, 120), vocab_size=300)
stream = Stream(store, StreamConfig(max_length=32, micro_batch_tokens=128), store.ordinary_ids)
loader = Loader(stream, workers=2)
next(loader)
print(*(process.pid for process in loader._processes), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "returns"])
def test_workers_end_with_their_parent(how):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.stderr
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_the_time_spent_waiting_is_counted(monkeypatch):
    slow = make()
    real, now, gathered = slow.store.gather, [0.0], []

    def gather(*span):
        gathered.append(span)
        now.append(now[-1] + 2.0)
        return real(*span)

    monkeypatch.setattr(slow.store, "gather", gather)
    monkeypatch.setattr(time, "perf_counter", lambda: now[-1])
    with Loader(slow, workers=0) as loader:
        for _ in islice(loader, 5):
            now.append(now[-1] + 1000.0)  # the consumer's own time
    assert len(gathered) >= 5
    assert loader.waited_seconds == 2.0 * len(gathered)


def test_batches_made_ahead_are_not_waited_for(monkeypatch):
    slow = make()
    real = slow.store.gather
    begun, permits = multiprocessing.Value("i", 0), multiprocessing.Semaphore(5)

    def gather(*span):
        begun.value += 1
        permits.acquire()
        return real(*span)

    monkeypatch.setattr(slow.store, "gather", gather)
    with Loader(slow, workers=1, prefetch=4) as loader:
        next(loader)
        end = time.monotonic() + 600
        # the one taken, four ahead, and then the worker turns to the next, which it is not allowed to make
        while begun.value < 6:
            assert time.monotonic() < end, "the worker must run four batches ahead"
            time.sleep(0.01)
        # the worker stands still, so these four can only be those made ahead
        assert len(list(islice(loader, 4))) == 4


def test_the_consumers_stream_learns_where_blocks_begin():
    stream = make()
    with Loader(stream, workers=2) as loader:
        last = list(islice(loader, 150))[-1].cursor
    assert last.epoch > 0
    planned = []
    real = stream._planner.plan
    stream._planner.plan = lambda *where: planned.append(where) or real(*where)
    assert stream.locate(149) == last
    assert planned == [(last.epoch, last.block)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -1}, "start must be at least 0"),
        ({"rank": 2, "world_size": 2}, r"rank in \[0, world_size\)"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"prefetch": 0}, "prefetch at least 1"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Loader(make(), **arguments)


def test_a_stop_while_workers_start_starts_no_more_and_loses_no_batch(monkeypatch):
    forked = []
    original = Loader.__init__.__globals__["_fork"]

    def fork(*arguments):
        forked.append(original(*arguments))
        return forked[-1]

    monkeypatch.setattr("unmask.data.stream.loader._fork", fork)
    stream = make()
    with Loader(stream, start=3, workers=50, stop=lambda: len(forked) == 2) as loader:
        assert [process.is_alive() for process in forked] == [False, False]
        got = [next(loader) for _ in range(3)]
    with Loader(stream, start=3, workers=0) as loader:
        for batch in got:
            assert torch.equal(batch.ids, next(loader).ids)
