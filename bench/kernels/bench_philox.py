"""The masks of dropout on a CPU: Philox by C++, by NumPy and by PyTorch, and the mask of PyTorch's own dropout.

    cpp     what runs on a CPU, if the extension is built
    numpy   what runs on a CPU without it; the same bits
    torch   what runs on other devices, here on the CPU; the same bits
    eager   `bernoulli_`, numbers that depend on how many were drawn before

Cases are the scores of one document, of many short ones, and the rows of an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from bench.clock import PLAYBACK

from unmask_kernels import philox, philox_cpp, philox_numpy

pytestmark = [
    pytest.mark.benchmark(timer=PLAYBACK),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU draws in its kernels"),
]

P = 0.1
KEY = torch.tensor(-77)


class Shape(NamedTuple):
    """The mask of `count` documents of `length` tokens, or of `count` rows of `length` columns if `heads` is 0."""

    count: int
    heads: int
    length: int

    def __str__(self) -> str:
        if self.heads:
            return f"scores, {self.count} x {self.heads} heads x {self.length} x {self.length}"
        return f"rows, {self.count} x {self.length}"


SHAPES = [Shape(1, 12, 512), Shape(40, 12, 51), Shape(4096, 0, 768)]


def _functions(shape: Shape) -> dict[str, Callable[[], Any]]:
    count, heads, length = shape
    keys = philox.mix64(torch.arange(count))
    by_number = int(KEY) & 0xFFFFFFFFFFFFFFFF, keys
    bound, threads = philox.threshold(P), torch.get_num_threads()
    ours: dict[str, Any] = {"numpy": philox_numpy} if philox_cpp.fault() else {"numpy": philox_numpy, "cpp": philox_cpp}
    if not heads:
        return {
            "eager": lambda: torch.empty(count, length).bernoulli_(1.0 - P),
            "torch": lambda: philox._rows_by_torch(KEY, keys, length, P),
            **{name: partial(one.keep_rows, *by_number, length, bound, threads) for name, one in ours.items()},
        }
    scores = heads, range(length), length, bound, threads
    return {
        "eager": lambda: torch.empty(count, heads, length, length).bernoulli_(1.0 - P),
        "torch": lambda: philox._scores_by_torch(KEY, keys, heads, 0, length, length, P),
        **{name: partial(one.keep_scores, *by_number, *scores) for name, one in ours.items()},
    }


def _enter(functions: dict[str, Callable[[], Any]]) -> dict[str, Callable[[int], object]]:
    """Compare those that must agree, then return the calls."""
    for name in functions.keys() - {"eager", "torch"}:
        assert torch.equal(functions[name](), functions["torch"]())
    return {name: lambda at, draw=draw: draw() for name, draw in functions.items()}  # type: ignore[misc]


BUILT = pytest.mark.skipif(bool(philox_cpp.fault()), reason=philox_cpp.fault() or "it is built")


@pytest.mark.parametrize("variant", ["eager", "torch", "numpy", pytest.param("cpp", marks=BUILT)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_philox(benchmark: Any, side_by_side: Any, shape: Shape, variant: str) -> None:
    functions = _functions(shape)
    side_by_side.run(
        benchmark,
        group="dropout mask",
        case=str(shape),
        variant=variant,
        enter=lambda: _enter(functions),
        rounds=20,
        extra={"baseline": "torch"},
    )
