"""The masks of dropout on a CPU: NumPy's rounds of Philox, PyTorch's, and the mask of PyTorch's own dropout.

    numpy   what runs on a CPU
    torch   what runs on other devices, here on the CPU; the same bits
    eager   `bernoulli_`, numbers that depend on how many were drawn before

Cases are the scores of one document, of many short ones, and the rows of an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from bench.clock import PLAYBACK
from torch import Tensor

from unmask_kernels import philox

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


def _functions(shape: Shape) -> dict[str, Callable[[], Tensor]]:
    count, heads, length = shape
    keys = philox.mix64(torch.arange(count))
    if not heads:
        return {
            "eager": lambda: torch.empty(count, length).bernoulli_(1.0 - P),
            "torch": lambda: philox._rows_by_torch(KEY, keys, length, P),
            "numpy": lambda: philox.keep_rows(KEY, keys, length, P),
        }
    return {
        "eager": lambda: torch.empty(count, heads, length, length).bernoulli_(1.0 - P),
        "torch": lambda: philox._scores_by_torch(KEY, keys, heads, 0, length, length, P),
        "numpy": lambda: philox.keep_scores(KEY, keys, heads, range(length), length, P),
    }


def _enter(functions: dict[str, Callable[[], Tensor]]) -> dict[str, Callable[[int], object]]:
    """Compare the two that must agree, then return the calls."""
    assert torch.equal(functions["numpy"](), functions["torch"]())
    return {name: lambda at, draw=draw: draw() for name, draw in functions.items()}  # type: ignore[misc]


@pytest.mark.parametrize("variant", ["eager", "torch", "numpy"])
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
