"""Encodes batches of texts in other processes, in order, and gives what one process would give.

A worker is started as `python -c`, not forked (tokenizers and Arrow have threads) and not by `multiprocessing` (which
asks the caller's script for a main guard); it loads the tokenizer and segmenter by name, reads pickled texts on its
standard input and answers on its standard output. It ends with its input, so a killed parent leaves none behind.
Cost: 0.3 s to start, 1 GB a second through the pipe.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar, cast

from unmask.data.prepare.encoding import EncodedBatch, TextEncoder
from unmask.data.text.cleaning import Normalisation
from unmask.errors import StoreError, UnmaskError
from unmask.imports import import_path

__all__ = ["WorkerPool", "cores", "serve"]

_T = TypeVar("_T")
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer)\n"
    "from unmask.data.prepare.workers import serve; serve()"
)
# Nothing of the current folder before the path of the parent is in; file names are decoded as it does.
_ALONE = ("-I", "-X", f"utf8={sys.flags.utf8_mode}")


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """A context with worker processes, started with the second batch: a small text is encoded here.

    Args:
        encode: the encoder; it works here while there is one batch or one worker.
        tokenizer: the folder that its tokenizer was saved in.
        workers: processes; 1 leaves all to `encode`.
    """

    def __init__(self, encode: TextEncoder, tokenizer: Path, workers: int) -> None:
        self._encode = encode
        segmenter = None if encode.segmenter is None else encode.segmenter.name
        self._hello = (str(tokenizer), segmenter, encode.normalisation)
        self._workers = workers
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            # nothing that they still do is wanted, and a thread may wait for its answer
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None and not pipe.closed:
                    _close(pipe)

    def map(self, jobs: Iterable[tuple[_T, Sequence[str] | None]]) -> Iterator[tuple[_T, EncodedBatch | None]]:
        """Yields each job's first part with its encoded texts, in the order of the jobs; None stays None.

        Raises:
            CorpusError, StoreError: what the encoder raises; or a worker died.
        """
        waiting: deque[tuple[_T, Future[EncodedBatch] | EncodedBatch | None]] = deque()
        first: tuple[_T, Sequence[str]] | None = None
        for tag, texts in jobs:
            if first is None and self._threads is None and texts is not None and self._workers > 1:
                first = (tag, texts)
                continue
            if first is not None:
                self._start()
                waiting.append((first[0], self._submit(first[1])))
                first = None
            waiting.append((tag, None if texts is None else self._submit(texts)))
            while len(waiting) > self._workers + 1 or (waiting and self._threads is None):
                yield _finished(waiting.popleft())
        if first is not None:
            yield first[0], self._encode(first[1])
        while waiting:
            yield _finished(waiting.popleft())

    def _submit(self, texts: Sequence[str]) -> Future[EncodedBatch] | EncodedBatch:
        return self._encode(texts) if self._threads is None else self._threads.submit(self._ask, texts)

    def _start(self) -> None:
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        for _ in range(self._workers):
            process = subprocess.Popen(
                [sys.executable, *_ALONE, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            self._processes.append(process)
            self._idle.put(process)
            stdin, _ = _pipes(process)
            pickle.dump(import_path(), stdin)
            pickle.dump(self._hello, stdin)
        self._threads = ThreadPoolExecutor(self._workers)

    def _ask(self, texts: Sequence[str]) -> EncodedBatch:
        process = self._idle.get()
        stdin, stdout = _pipes(process)
        try:
            pickle.dump(list(texts), stdin, protocol=5)
            stdin.flush()
            answer = pickle.load(stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise StoreError(
                f"prepare: a worker process died (status {process.poll()}), perhaps for want of memory; run the same "
                "command again, with fewer --workers"
            ) from None
        finally:
            self._idle.put(process)
        if isinstance(answer, BaseException):
            raise answer
        return cast(EncodedBatch, answer)


def serve() -> None:
    """Answers on standard output what comes on standard input, until it ends: a worker process."""
    import signal

    from unmask.data.text.words import load_segmenter
    from unmask.data.tokenizer import Tokenizer

    # a signal to the whole group is the parent's to handle
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    questions = sys.stdin.buffer
    # what a segmenter prints must not come between the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    encode: TextEncoder | None = None
    while True:
        try:
            question: Any = pickle.load(questions)
        except EOFError:
            return
        try:
            if encode is None:
                folder, segmenter, normalisation = question
                encode = TextEncoder(
                    tokenizer=Tokenizer.load(folder),
                    segmenter=None if segmenter is None else load_segmenter(segmenter),
                    normalisation=cast(Normalisation, normalisation),
                )
                continue
            answer: object = encode(question)
        except UnmaskError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"prepare: a worker process failed\n{traceback.format_exc()}")
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:
            return


def _finished(job: tuple[_T, Future[EncodedBatch] | EncodedBatch | None]) -> tuple[_T, EncodedBatch | None]:
    tag, result = job
    return tag, result.result() if isinstance(result, Future) else result


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:
        # what was still to be sent goes to nobody
        return
