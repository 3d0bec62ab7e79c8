"""One direction of an operation as something to time: calls on several input sets, forward, backward or both.

The sets are taken in turn, so that a call does not find the inputs of the previous one in cache. The backward of a
set is timed alone: its graph is made once, in the first call of all, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unmask_kernels.testing.inputs import Inputs

__all__ = ["ROTATED", "copies", "directed"]

ROTATED = 4
"""Input sets that the rounds take in turn."""


def directed(
    functions: Mapping[str, Callable[..., Tensor]], inputs: Inputs, direction: str
) -> dict[str, Callable[[int], object]]:
    """Calls by name for `interleave`; a function takes the arguments of `inputs` and returns one tensor.

    Args:
        functions: what to time.
        inputs: one call of full size.
        direction: "forward", with gradients wanted, "backward", or "both" in one call.
    """
    sets = copies(inputs)
    if direction == "forward":
        return {
            name: lambda at, function=function: function(**sets[at % ROTATED].arguments)
            for name, function in functions.items()
        }
    made = _backward if direction == "backward" else _both
    return {name: made(function, sets) for name, function in functions.items()}


def copies(inputs: Inputs) -> list[Inputs]:
    """`ROTATED` sets of the same values whose gradients are wanted, each in memory of its own."""

    def one() -> Inputs:
        leaves = {name: inputs.arguments[name].clone().requires_grad_() for name in inputs.differentiable}
        return inputs.change(**leaves)

    return [one() for _ in range(ROTATED)]


def _backward(function: Callable[..., Tensor], sets: list[Inputs]) -> Callable[[int], object]:
    graphs: list[tuple[Tensor, list[Any], Tensor]] = []

    def graph(made: Inputs) -> tuple[Tensor, list[Any], Tensor]:
        y = function(**made.arguments)
        return y, [made.arguments[name] for name in made.differentiable], torch.randn_like(y)

    def call(at: int) -> object:
        if not graphs:
            graphs.extend([graph(made) for made in sets])
        y, leaves, dy = graphs[at % ROTATED]
        return torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return call


def _both(function: Callable[..., Tensor], sets: list[Inputs]) -> Callable[[int], object]:
    incoming: list[Tensor] = []

    def call(at: int) -> object:
        made = sets[at % ROTATED]
        y = function(**made.arguments)
        if not incoming:
            incoming.append(torch.randn_like(y))
        return torch.autograd.grad(y, [made.arguments[name] for name in made.differentiable], incoming[0])

    return call
