"""Worker processes that apply one function to many items: what one process would return, in the same order.

    with ProcessPool(encode, workers=8) as pool:
        for batch, encoded in pool.map((batch, texts_of(batch)) for batch in batches):
            ...

A worker is a new `python -c`. It reads pickles on its standard input (the import path, the function, then item after
item) and answers on its standard output. It ends when its input ends, so a killed parent leaves no process behind.
Other ways of starting it break a promise:

    fork                         copies locks that a thread of tokenizers or Arrow may hold
    multiprocessing, and         imports the caller's script again, which then needs a main guard; and if the parent is
    ProcessPoolExecutor on it    killed, the workers wait for work for ever

Cost: 0.3 s to start, 1 GB a second through the pipe.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from unmask.errors import UnmaskError
from unmask.imports import import_path

__all__ = ["ProcessPool", "cores", "serve"]

_Tag = TypeVar("_Tag")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)\nfrom unmask.processes import serve; serve()"
# nothing is imported from the current folder before the path is set; file names are decoded as in the parent
_ALONE = ("-I", "-X", f"utf8={sys.flags.utf8_mode}")
# the workers use one core each
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def cores() -> int:
    """Return how many cores this process may use."""
    # macOS cannot tell
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessPool(Generic[_Item, _Result]):
    """A context with worker processes. They start with the second job: a single one is done here.

    Args:
        function: what to apply; it must pickle, for example by its name.
        workers: number of processes; with 1 all work is done here.
    """

    def __init__(self, function: Callable[[_Item], _Result], workers: int) -> None:
        self._function = function
        self._workers = workers
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> ProcessPool[_Item, _Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            # nobody wants what it still does, and a thread may wait for its answer
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in _pipes(process):
                # closing flushes what nobody reads
                with suppress(OSError):
                    pipe.close()

    def map(self, jobs: Iterable[tuple[_Tag, _Item | None]]) -> Iterator[tuple[_Tag, _Result | None]]:
        """Yield (tag, result) for each job (tag, item), in the order of the jobs; an item None gives None.

        At most `workers` + 1 jobs are taken ahead of the result that is yielded.

        Raises:
            UnmaskError: a worker died.
            Exception: what `function` raises; from a worker an UnmaskError as it is, others as a RuntimeError.
        """
        jobs = iter(jobs)
        head = list(islice(jobs, 2 if self._workers > 1 else 0))
        if len(head) < 2:
            for tag, item in chain(head, jobs):
                yield tag, None if item is None else self._function(item)
            return
        waiting: deque[tuple[_Tag, Future[_Result] | None]] = deque()
        for tag, item in chain(head, jobs):
            waiting.append((tag, None if item is None else self._submit(item)))
            if len(waiting) > self._workers + 1:
                tag, result = waiting.popleft()
                yield tag, None if result is None else result.result()
        while waiting:
            tag, result = waiting.popleft()
            yield tag, None if result is None else result.result()

    def _submit(self, item: _Item) -> Future[_Result]:
        if self._threads is None:
            self._start()
            self._threads = ThreadPoolExecutor(self._workers)
        return self._threads.submit(self._ask, item)

    def _start(self) -> None:
        for _ in range(self._workers):
            process = subprocess.Popen(
                [sys.executable, *_ALONE, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | _ENVIRONMENT,
            )
            self._processes.append(process)
            self._idle.put(process)
            stdin, _ = _pipes(process)
            pickle.dump(import_path(), stdin)
            # in a pickle of its own: an error in loading the function leaves the stream at the next item
            pickle.dump(pickle.dumps(self._function), stdin)

    def _ask(self, item: _Item) -> _Result:
        """Send an item to an idle worker and wait for the result."""
        process = self._idle.get()
        stdin, stdout = _pipes(process)
        try:
            pickle.dump(item, stdin, protocol=5)
            stdin.flush()
            answer = pickle.load(stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise UnmaskError(
                f"prepare: a worker process died (status {process.poll()}), perhaps for want of memory; run the same "
                "command again, with fewer --workers"
            ) from None
        finally:
            self._idle.put(process)
        if isinstance(answer, BaseException):
            raise answer
        result: _Result = answer
        return result


def serve() -> None:
    """Be a worker: answer on standard output what comes on standard input, until it ends."""
    # a signal to the whole process group is for the parent to handle
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    questions = sys.stdin.buffer
    # what the function prints goes to standard error, not between the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    pickled: bytes = pickle.load(questions)
    function: Callable[[Any], object] | None = None
    while True:
        try:
            item = pickle.load(questions)
        except EOFError:
            return
        try:
            function = function or pickle.loads(pickled)
            answer = function(item)
        except UnmaskError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"prepare: a worker process failed\n{traceback.format_exc()}")
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:
            return


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
