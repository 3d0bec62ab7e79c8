"""Makes micro-batches ahead in background processes: the same ones in the same order for any number of workers.

Worker w of W makes the micro-batches w, w + W, w + 2 W, ... of this rank, and the consumer takes from the workers in
turn, so the order needs no coordination. A worker is a forked process that runs NumPy only. A thread would share the
interpreter's lock with the training loop, which launches a kernel every few microseconds. Micro-batches travel as small
arrays, about 6 bytes a token, and become tensors in the consumer.

Workers ignore SIGINT, SIGTERM, SIGUSR1 and SIGHUP: the trainer decides what such a signal means, and may need more
batches to finish its step. Workers end when the loader is closed or collected, when the interpreter exits, and when
their parent is gone.

If sequences are expensive to compose and kept in files, one more process composes the next two blocks while the workers
make micro-batches of the present one. It also removes the files of blocks that are done.

Why these processes are neither `unmask.processes` nor a DataLoader: docs/decisions/0012-the-loader-forks.md.
"""

import contextlib
import gc
import multiprocessing
import multiprocessing.util
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unmask.batch import PackedBatch
from unmask.data.stream.stream import Stream
from unmask.errors import RunError

__all__ = ["Loader"]

_POLL_SECONDS = 0.5
_BLOCKS_AHEAD = 2
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


class Loader:
    """Iterates over the micro-batches of one rank, which workers make ahead.

    Attributes:
        waited_seconds: time that the consumer spent in `next`: it waits for a batch and turns it into tensors.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        prefetch: int = 4,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the workers.

        Args:
            stream: where batches come from.
            start: number of the first micro-batch of all ranks.
            rank, world_size: this process takes the numbers start + rank, start + rank + world_size, ...
            workers: background processes; with 0, `next` makes the batch itself.
            prefetch: batches made ahead, over all workers; each makes at least one.
            stop: asked before each worker starts. Once it is true, no more start, those that did end, and `next` makes
                the batch itself: the consumer will not want many.
        Raises:
            ValueError: an argument out of range.
        """
        if start < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"loader: start must be at least 0 and rank in [0, world_size), got start={start}, rank={rank}, "
                f"world_size={world_size}"
            )
        if workers < 0 or prefetch < 1:
            raise ValueError(
                f"loader: workers must be at least 0 and prefetch at least 1, got {workers} and {prefetch}"
            )
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            warnings.warn("loader: this system cannot fork, so batches are made without workers", stacklevel=2)
            workers = 0
        self.waited_seconds = 0.0
        self._stream = stream
        self._index = start + rank
        self._step = world_size
        self._next_worker = 0
        self._closed = False
        self._processes: list[Any] = []
        self._helpers: list[Any] = []
        self._pipes: list[Any] = []
        self._block: Any = None
        started = (self._processes, self._helpers, self._pipes)
        self._stop = multiprocessing.util.Finalize(self, _end, started, exitpriority=10)
        if not (workers and self._start(workers, -(-prefetch // workers), stop)):
            self._here = stream.arrays(self._index, world_size)

    def _start(self, workers: int, depth: int, stop: Callable[[], bool]) -> bool:
        """Start the workers and return True, or False if a stop was asked for meanwhile."""
        # Seek once, here, for all workers, which inherit it. Past the end of a held-out epoch there is nothing to
        # find, as the workers will say.
        with contextlib.suppress(IndexError):
            self._stream.locate(self._index)
        context = multiprocessing.get_context("fork")
        parent = os.getpid()
        for worker in range(workers):
            if stop():
                _end(self._processes, self._helpers, self._pipes)
                self._processes.clear()
                self._pipes.clear()
                return False
            receiver, sender = context.Pipe(duplex=False)
            first = self._index + worker * self._step
            self._pipes.append(receiver)
            arguments = self._stream, first, workers * self._step, depth, sender, parent
            self._processes.append(_fork(f"unmask-loader-{worker}", _work, arguments))
            # Now only the worker holds this end of the pipe: it closes when the worker dies, even in mid-message.
            sender.close()
        if self._stream.composes_ahead:
            self._block = context.RawValue("q", self._stream.block_of(self._stream.locate(self._index)))
            self._helpers.append(_fork("unmask-composer", _compose_ahead, (self._stream, self._block, parent)))
        return True

    def __iter__(self) -> Iterator[PackedBatch]:
        return self

    def __next__(self) -> PackedBatch:
        if self._closed:
            raise StopIteration
        began = time.perf_counter()
        arrays = self._receive() if self._processes else next(self._here, None)
        if arrays is None:
            self.close()
            raise StopIteration
        batch = self._stream.to_batch(arrays)
        self._stream.remember(self._index, arrays.cursor)
        if self._block is not None:
            self._block.value = self._stream.block_of(arrays.cursor)
        self._index += self._step
        self.waited_seconds += time.perf_counter() - began
        return batch

    def _receive(self) -> Any:
        worker = self._next_worker
        self._next_worker = (worker + 1) % len(self._processes)
        try:
            arrays, error, trace = self._pipes[worker].recv()
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join()
            self.close()
            raise RunError(
                f"loader: worker {worker} must live as long as the loader, ended with exit code "
                f"{process.exitcode}; if it was killed for lack of memory, use fewer workers"
            ) from None
        if error is not None:
            self.close()
            error.add_note(f"in loader worker {worker}:\n{trace}")
            raise error
        return arrays

    def close(self) -> None:
        """End the workers; a closed loader has no further batches. Repeated calls do nothing."""
        self._closed = True
        self._stop()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _fork(name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments, name=name, daemon=True)
    # A fork inherits the signal mask, so there is no moment in which a worker could react to these signals.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns that a fork beside threads may copy a lock that is taken. The child runs NumPy, nothing
            # of PyTorch, and prints nothing, so it takes no such lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _end(processes: Sequence[Any], helpers: Sequence[Any], pipes: Sequence[Any]) -> None:
    for process in (*processes, *helpers):
        process.kill()  # none owns anything that could be left half done
    for process in (*processes, *helpers):
        process.join()
    for pipe in pipes:
        pipe.close()


def _work(stream: Stream, first: int, step: int, depth: int, pipe: Any, parent: int) -> None:
    """Run a worker until it is killed or orphaned: send (arrays, or None at the end; error; its traceback)."""
    # The inherited objects are the parent's: collecting them here would run destructors of its GPU tensors.
    gc.freeze()
    made: queue.Queue[Any] = queue.Queue(maxsize=depth)
    # A pipe holds one batch at most, so a thread fills it and the worker runs ahead.
    threading.Thread(target=_send, args=(made, pipe), daemon=True).start()
    try:
        for arrays in stream.arrays(first, step):
            _put(made, (arrays, None, ""), parent)
        _put(made, (None, None, ""), parent)
    except Exception as error:
        _put(made, (None, _portable(error), traceback.format_exc()), parent)
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


def _compose_ahead(stream: Stream, block: Any, parent: int) -> None:
    """Compose the blocks after the present one, until killed or orphaned."""
    gc.freeze()
    composed = behind = block.value
    # An error here would come to a worker too, which reports it.
    with contextlib.suppress(Exception):
        while os.getppid() == parent:
            while behind < block.value - _BLOCKS_AHEAD:
                stream.forget(behind)
                behind += 1
            if composed < block.value + _BLOCKS_AHEAD:
                composed = max(composed, block.value) + 1
                stream.compose(composed)
            else:
                time.sleep(_POLL_SECONDS)
    os._exit(0)


def _put(made: "queue.Queue[Any]", message: Any, parent: int) -> None:
    while True:
        if os.getppid() != parent:
            os._exit(0)
        with contextlib.suppress(queue.Full):
            made.put(message, timeout=_POLL_SECONDS)
            return


def _send(made: "queue.Queue[Any]", pipe: Any) -> None:
    while True:
        try:
            pipe.send(made.get())
        except OSError:
            os._exit(0)  # nobody is left to read


def _portable(error: Exception) -> Exception:
    """Return the error itself if it can be pickled, else an error that tells its type and text."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RunError(
            f"loader: a worker failed with {type(error).__name__}: {error}; set stream.workers to 0 to have it fail in "
            "the main process"
        )
