"""What must come of every case: a result, or one sentence of ours; and how many cases are tried.

Without `FUZZ_MINUTES` a target tries a few cases, the same ones each time. With it, each target tries new ones for that
many minutes, goes on past a failure, and ends with the smallest example of each kind of failure: a line for the list of
examples that stands in the target's test file and is tried first, always.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, strategies

from unmask.errors import UnmaskError

__all__ = ["Fault", "result_or_sentence", "try_cases"]

T = TypeVar("T")

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
# far beyond what a case takes, even where two processes share a core
SECONDS = 60
_OURS = tuple(str(Path(__import__(name).__file__ or "").parent) + os.sep for name in ("unmask", "unmask_kernels"))
_ROUND = 300


class Fault(AssertionError):
    """What must not come of a case; `kind` tells two faults apart, whatever the case."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Slow(BaseException):
    pass


def result_or_sentence(call: Callable[[], T], *, names: Sequence[str] = ()) -> T | None:
    """What `call` returns, None where it refuses in a sentence that holds one of `names`; anything else is a Fault."""
    try:
        with _time_limit():
            return call()
    except (KeyboardInterrupt, Fault):
        raise
    # a panic in Rust is no Exception
    except BaseException as error:
        kind = _kind(error)
        ours = isinstance(error, UnmaskError) or (type(error) in (ValueError, TypeError) and _raised_by_us(error))
        if not ours:
            raise Fault(f"{kind}: {str(error)[:300]}", kind) from error
        sentence = str(error)
        if not sentence.strip() or "Traceback" in sentence or len(sentence) > 20_000:
            raise Fault(f"{kind} is no sentence: {sentence[:300]!r}", f"{kind}, text") from error
        if names and not any(name in sentence for name in names):
            raise Fault(f"{kind} names none of {list(names)}: {sentence[:300]!r}", f"{kind}, name") from error
        return None


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(_signal: int, frame: FrameType | None) -> None:
        raise _Slow(f"no result after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_cases(
    body: Callable[[Any], None],
    cases: strategies.SearchStrategy[Any],
    *,
    few: int,
    examples: Sequence[Any] = (),
) -> None:
    """Run `body` on the examples, then on drawn cases: `few` of them, or as many as fit into `FUZZ_MINUTES`."""
    for example in examples:
        body(example)
    if not MINUTES:
        _round(body, cases, hypothesis.settings(_common(few), derandomize=True))
        return
    known: dict[str, str] = {}
    end = time.monotonic() + 60 * MINUTES
    last: list[Any] = []
    tried = 0

    def unless_known(case: Any) -> None:
        nonlocal tried
        tried += 1
        last[:] = [case]
        try:
            body(case)
        except Exception as error:
            if _kind(error) not in known:
                raise

    while time.monotonic() < end:
        seed = random.SystemRandom().getrandbits(64)
        try:
            _round(hypothesis.seed(seed)(unless_known), cases, _common(_ROUND))
        except Exception as error:
            # hypothesis runs the smallest example last
            known[_kind(error)] = f"{error}\n    {last[0]!r}"
            print(f"found: {known[_kind(error)]}", flush=True)
    print(f"{tried:,} cases tried")
    if known:
        raise AssertionError("\n".join([f"{len(known)} kinds of failure:", *known.values()]))


def _raised_by_us(error: BaseException) -> bool:
    """Whether a `raise` of our own made the error; what a built-in function raises in our code has no sentence."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return where.filename.startswith(_OURS) and (where.line or "").lstrip().startswith("raise ")


def _kind(error: BaseException) -> str:
    """What tells one fault from another: its class and the innermost line, whatever the case was."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return getattr(error, "kind", f"{type(error).__name__} at {where.filename}:{where.lineno}")


def _round(body: Callable[[Any], None], cases: strategies.SearchStrategy[Any], settings: hypothesis.settings) -> None:
    settings(hypothesis.given(cases)(body))()


def _common(cases: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=cases,
        # the machine may be slow; `result_or_sentence` has a limit of its own
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
