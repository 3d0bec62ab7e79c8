"""Several processes that train one model, its ranks: how they meet, agree, add up, and leave together.

    with join_ranks(timeout=600) as ranks:
        newest = ranks.first(find_newest)      # rank 0 does it, all get the result
        ranks.sum(counts)                      # in place, over all ranks

Rank 0 decides what must be decided once, writes the run directory and tells its user. Before training the ranks talk
through the store by which they met. A rank that waits there polls it, so that it hears signals, and rank 0 may prepare
text for hours. In training they talk through collectives: gloo for numbers of the host and on a CPU, NCCL on GPUs.

A rank that fails says so in the store, and the others leave with it; one that dies or hangs is found by `heartbeat`.
One of them tells the user, and the others end with `ToldByOther`.

A process that is alone is rank 0 of 1, and nothing here does anything then.
"""

import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.errors import RankLost, RunError, ToldByOther, UnmaskError
from unmask.launch import Place, place
from unmask.train.heartbeat import Gone, Heartbeat

__all__ = ["ALONE", "Ranks", "join_ranks"]

_T = TypeVar("_T")

_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.5
_INTERRUPTED = 130


class Ranks:
    """The ranks of a run, seen from one of them.

    Attributes:
        rank: number of this process, in [0, size).
        size: number of processes.
        local_rank: number of this process on its node.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @property
    def is_first(self) -> bool:
        """Whether this rank decides, writes and tells."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Return the device to train on."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all ranks, in their order."""
        return [value]

    def first(self, work: Callable[[], _T]) -> _T:
        """Let rank 0 do something, however long it takes, and return its result on all ranks."""
        return work()

    def in_turn(self, work: Callable[[], _T]) -> _T:
        """Do something on rank 0, then on the first rank of each other node, then on all others.

        So what the first one leaves on a disk, the others find there.
        """
        return work()

    def require_same(self, what: str, value: str, way: str) -> None:
        """Raise a `RunError` if a value differs between the ranks, with the way out."""

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    def begin_sum(self, tensor: Tensor) -> Any:
        """Begin to replace a tensor by its sum over all ranks."""

    def finish_sums(self, begun: Sequence[Any]) -> None:
        """Wait until sums that were begun are there."""

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """Return numbers of the host, summed over all ranks in fp64."""
        return list(numbers)

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of rank 0."""

    def waiting(self) -> AbstractContextManager[None]:
        """Return a context for collectives that others begin; if one fails, the rank that is missing is named."""
        return nullcontext()


ALONE = Ranks()
"""The ranks of a process that is alone."""


class _Group(Ranks):
    """Several ranks.

    Args:
        here: this process.
        store: through which the ranks met.
        timeout: seconds for which a rank may keep the others waiting.
        has_gloo: whether the process group sums tensors of the host too.
    """

    def __init__(self, here: Place, store: Any, *, timeout: float, has_gloo: bool) -> None:
        super().__init__(here.rank, here.world_size, here.local_rank)
        self._here = here
        self._store = store
        self._timeout = timeout
        self._heart: Heartbeat | None = None
        self._host: Any = None
        self._has_gloo = has_gloo
        self._exchanges = 0
        self._names = [f"rank {rank}" for rank in range(here.world_size)]

    def meet(self) -> None:
        """Wait for all ranks, and begin to watch over them.

        Raises:
            RunError: some do not come.
        """
        self._names = self.gather(self._here.name)
        self._heart = Heartbeat(
            self._store.clone(), rank=self.rank, names=self._names, timeout=self._timeout, status=RankLost.status
        )
        self.gather(None)

    def prepare(self) -> None:
        """Make what is missing of the process group."""
        if not self._has_gloo:
            self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=self._timeout))

    def device(self) -> torch.device:
        if not torch.cuda.is_available():
            return super().device()
        count = torch.cuda.device_count()
        index = 0 if count == 1 and self._here.one_gpu_each else self.local_rank
        if index >= count:
            raise RunError(
                f"launch: {self._here.name} needs a GPU of its own, but its node has {count} for {index + 1} processes "
                f"or more; start {count} processes a node"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def gather(self, value: _T) -> list[_T]:
        return self._exchange(value, range(self.size), patient=False)

    def first(self, work: Callable[[], _T]) -> _T:
        value = work() if self.is_first else None
        found: list[_T] = self._exchange(value, [0], patient=True)
        return found[0]

    def in_turn(self, work: Callable[[], _T]) -> _T:
        order = 0 if self.is_first else 1 if self.local_rank == 0 else 2
        for now in range(3):
            if now == order:
                done = work()
            self._exchange(None, range(self.size), patient=True)
        return done

    def require_same(self, what: str, value: str, way: str) -> None:
        found = self.gather(value)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise RunError(f"launch: {what} must be the same on all ranks, but {self._names[rank]} differs; {way}")

    def sum(self, tensor: Tensor) -> None:
        with self._waiting():
            dist.all_reduce(tensor)

    def begin_sum(self, tensor: Tensor) -> Any:
        with self._waiting():
            return dist.all_reduce(tensor, async_op=True)

    def finish_sums(self, begun: Sequence[Any]) -> None:
        with self._waiting():
            for work in begun:
                work.wait()

    def totals(self, numbers: Sequence[float]) -> list[float]:
        summed = torch.tensor(numbers, dtype=torch.float64)
        with self._waiting():
            dist.all_reduce(summed, group=self._host)
        return summed.tolist()

    def send(self, tensors: Sequence[Tensor]) -> None:
        with self._waiting(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        assert self._heart is not None
        try:
            with self._heart.waiting():
                yield
        except RuntimeError as error:
            # what is computed between collectives may fail too
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise self._lost() from error
            raise

    def leave(self, error: BaseException) -> Exception | None:
        """Tell the others that this rank ends with an error. Return what to raise instead, if another one tells it."""
        if self._heart is None or isinstance(error, ToldByOther):
            return None
        status = error.status if isinstance(error, UnmaskError) else 1 if isinstance(error, Exception) else _INTERRUPTED
        gone = Gone(rank=self.rank, by=self.rank, text=str(error) or type(error).__name__, status=status)
        with suppress(RuntimeError):
            first = self._heart.leave(gone)
            if self.is_first:
                self._heart.linger()
            if first.by != self.rank and isinstance(error, UnmaskError):
                return _told(first)
        return None

    def part(self) -> None:
        """Wait for all ranks at the end, rank 0 last, since the others may need its store."""
        self.gather(None)
        self._store.set(f"parted/{self.rank}", "")
        if self.is_first:
            for rank in range(self.size):
                self._fetch(f"parted/{rank}", rank, patient=False)

    def close(self) -> None:
        """Stop watching."""
        if self._heart is not None:
            self._heart.close()

    def _exchange(self, value: Any, ranks: Sequence[int], *, patient: bool) -> list[Any]:
        """Give a value to the others and return those of some ranks."""
        self._exchanges += 1
        name = f"exchange/{self._exchanges}"
        if self.rank in ranks:
            self._store.set(f"{name}/{self.rank}", pickle.dumps(value))
        return [pickle.loads(self._fetch(f"{name}/{rank}", rank, patient=patient)) for rank in ranks]

    def _fetch(self, key: str, rank: int, *, patient: bool) -> bytes:
        """Wait for the value that a rank gives, and return it; if `patient`, as long as nobody leaves."""
        began, pause = time.monotonic(), _POLL_SECONDS
        looked = began
        try:
            while not self._store.check([key]):
                time.sleep(pause)
                pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
                now = time.monotonic()
                if self._heart is not None and (gone := self._heart.gone()) is not None:
                    raise _told(gone)
                if now - (looked if patient else began) > self._timeout:
                    looked = now
                    self._look_for(rank, patient=patient)
            return bytes(self._store.get(key))
        except RuntimeError as error:
            raise self._without_store() from error

    def _look_for(self, rank: int, *, patient: bool) -> None:
        """Raise if a rank that keeps this one waiting is not there; a patient rank asks only whether it lives."""
        if self._heart is None:
            raise RunError(
                f"launch: rank {rank} of {self.size} must come within {self._timeout:g} seconds "
                f"(train.timeout_seconds), and did not; look what its process says, or raise train.timeout_seconds"
            )
        if not patient or not self._heart.lives(rank):
            raise self._lost()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        assert self._heart is not None
        try:
            with self._heart.waiting():
                yield
        except RuntimeError as error:
            raise self._lost() from error

    def _lost(self) -> UnmaskError:
        assert self._heart is not None
        gone = self._heart.missing()
        # without the store, the first rank that is left tells it, and one of each other node
        tells = self.rank == 1 or self.local_rank == 0 if gone.by < 0 else gone.by == self.rank
        return RankLost(f"run: {gone.text}; all ranks end, so {_AGAIN}") if tells else _told(gone)

    def _without_store(self) -> UnmaskError:
        if self._heart is not None:
            return self._lost()
        return RankLost(f"run: {self._names[0]} ended or does not answer; all ranks end, so {_AGAIN}")


_AGAIN = "look what it says in its own output, and start the same command again with --resume auto"


def _told(gone: Gone) -> ToldByOther:
    told = ToldByOther(f"run: rank {max(gone.by, 1)} ends it for all ({gone.text}); read what that rank says")
    told.status = gone.status
    return told


@contextmanager
def join_ranks(timeout: float) -> Iterator[Ranks]:
    """Join the ranks that a launcher started, and part from them at the end.

    A process group that is there already is used, and left as it was.

    Args:
        timeout: seconds for which a rank may keep the others waiting.
    Raises:
        RunError: the variables of the launcher are wrong, or ranks do not come.
        RankLost: a rank ended or hangs. One rank raises it.
        ToldByOther: another rank raises an error that ends the run for all.
    """
    ours = not (dist.is_available() and dist.is_initialized())
    here = place() if ours else _of_group()
    if here is None:
        yield ALONE
        return
    store: Any = _meet_at(here, timeout) if ours else dist.distributed_c10d._get_default_store()
    ranks = _Group(here, dist.PrefixStore("unmask", store.clone()), timeout=timeout, has_gloo=ours)
    try:
        ranks.meet()
        if ours:
            _init(here, store, timeout)
        ranks.prepare()
        yield ranks
        ranks.part()
    except BaseException as error:
        instead = ranks.leave(error)
        if instead is not None:
            raise instead from error
        raise
    finally:
        ranks.close()
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def _of_group() -> Place | None:
    """Return the place in a process group that the caller made; None in one of a single process."""
    if dist.get_world_size() == 1:
        return None
    local = int(os.environ.get("LOCAL_RANK") or 0)
    return Place(rank=dist.get_rank(), world_size=dist.get_world_size(), local_rank=local, address="", port=0)


def _meet_at(here: Place, timeout: float) -> Any:
    """Return a connection to the store of rank 0, or to torchrun's."""
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            here.address,
            here.port,
            is_master=here.rank == 0 and not of_agent,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"launch: rank {here.rank} must reach rank 0 at {here.address}, port {here.port} ({reason}); set "
            "MASTER_ADDR to a host and MASTER_PORT to a free port there that all nodes reach"
        ) from error
    # torchrun starts all processes again after a failure, and its store still has the keys of the former ones
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _init(here: Place, store: Any, timeout: float) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=here.rank, world_size=here.world_size, timeout=timedelta(seconds=timeout)
    )
