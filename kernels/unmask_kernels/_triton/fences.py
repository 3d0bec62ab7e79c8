"""Fences between copies and tensor cores, which Triton below 3.7.1 leaves out on sm_90 and sm_100.

A pipelined loop fetches its operands by `cp.async`, and wgmma (sm_90) or tcgen05 (sm_100) reads them from shared
memory. `cp.async` writes through the generic proxy, and these read through the async proxy. So PTX wants three things
in between: the wait for the copy, `fence.proxy.async`, and a barrier. Triton 3.6.0 and 3.7.0 emit the wait and the
barrier alone, and what the tensor cores read is undefined. Triton 3.7.1 emits the fence:

    https://github.com/triton-lang/triton/pull/9610     the pass that places fences learns of these reads
    https://github.com/triton-lang/triton/pull/10537    the same for the release 3.7.1

`fenced_jit` is `triton.jit` for a kernel that multiplies. Below 3.7.1 it adds a fence behind each wait for a copy, in
the PTX, by Triton's hook on the stages of its compiler. The hook is in place while such a kernel is compiled, and acts
on the thread that compiles it, so other kernels of the process stay as they are. The key of Triton's cache says that
the kernel has fences: a binary without them, made by an older release of this package, is not taken.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import triton
from triton.runtime.jit import JITFunction

__all__ = ["FENCES_MISSING", "compiler_of", "fenced_jit"]


def _version(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (3, 7, 1) of "3.7.1+git1a2b3c"."""
    return tuple(int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", text)[0]))  # type: ignore[index]


FENCES_MISSING: bool = _version(triton.__version__) < (3, 7, 1)
"""Whether this release of Triton leaves the fences out."""

_FENCE = "fence.proxy.async.shared::cta;"
_WAIT = re.compile(r"^([ \t]*)cp\.async\.wait_(?:group[ \t]+\d+|all)[ \t]*;", re.MULTILINE)
_READERS = re.compile(r"wgmma\.mma_async|tcgen05\.mma")
_COMPILING = threading.Lock()


def with_fences(ptx: str) -> str:
    """PTX with a fence behind each wait for a copy, if tensor cores read shared memory by themselves in it."""
    return _WAIT.sub(rf"\g<0>\n\1{_FENCE}", ptx) if _READERS.search(ptx) else ptx


class _Hook:
    """The hook on the stages: calls the one that was there before, and on its own thread adds fences to the PTX."""

    def __init__(self, before: Callable[..., Any] | None) -> None:
        self._before, self._thread = before, threading.get_ident()

    def __call__(self, backend: Any = None, stages: Any = None, *rest: Any) -> Any:
        if stages is None:
            # Triton 3.7 asks every hook for its part of the key; `_FencedFunction` has ours
            return ("", "") if self._before is None else self._before()
        if self._before is not None:
            self._before(backend, stages, *rest)
        if threading.get_ident() == self._thread:
            make_ptx = stages["ptx"]
            stages["ptx"] = lambda source, metadata: with_fences(make_ptx(source, metadata))
        return None


def _compile(*arguments: Any, **settings: Any) -> Any:
    """`triton.compile` with the hook in place; one kernel at a time, so that each hook finds what was there before."""
    knobs = triton.knobs.runtime
    with _COMPILING:
        before = knobs.add_stages_inspection_hook
        knobs.add_stages_inspection_hook = _Hook(before)
        try:
            return triton.compile(*arguments, **settings)
        finally:
            knobs.add_stages_inspection_hook = before


class _FencedFunction(JITFunction):  # type: ignore[misc]
    """A kernel that is compiled with fences."""

    @property
    def cache_key(self) -> str:
        return f"{super().cache_key}-fenced"

    def create_binder(self) -> Any:
        binder = super().create_binder()
        self.compile = _compile  # what a launch calls
        return binder


def fenced_jit(**settings: Any) -> Callable[[Callable[..., Any]], Any]:
    """`triton.jit(**settings)` for a kernel that multiplies: its copies are fenced with every release of Triton."""
    if FENCES_MISSING and not triton.knobs.runtime.interpret:
        return lambda function: _FencedFunction(function, **settings)
    return triton.jit(**settings)


def compiler_of(kernel: Any) -> Callable[..., Any]:
    """`triton.compile`, as a launch of this kernel calls it."""
    return _compile if isinstance(kernel, _FencedFunction) else triton.compile
