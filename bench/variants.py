"""The variants of an operation that are timed: checked against the truth, compiled, and as calls on rotated inputs.

A call takes the next of several input sets, so it does not find the inputs of the previous call in cache. The backward
is timed alone: the first call makes the graphs of all sets, and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from unmask_kernels.testing.inputs import Inputs

__all__ = ["INPUT_SETS", "checked", "compiled", "input_sets", "select", "timed_calls", "wanted"]

INPUT_SETS = 4
"""How many copies of the inputs the rounds rotate."""


_selected: frozenset[str] | None = None


def select(names: Iterable[str] | None) -> None:
    """Build and time variants of these names alone; None stands for all."""
    global _selected
    _selected = None if names is None else frozenset(names)


def wanted(name: str) -> bool:
    """Return whether the variant is selected."""
    return _selected is None or name in _selected


def checked(
    functions: Mapping[str, Callable[..., Any]], check: Callable[[str, Callable[..., Any]], object]
) -> dict[str, Callable[..., Any]]:
    """Run `check(name, function)` on each selected function; one that fails becomes one that raises the error."""
    judged: dict[str, Callable[..., Any]] = {}
    for name, function in functions.items():
        if not wanted(name):
            continue
        try:
            check(name, function)
        except Exception as error:
            judged[name] = _raises(f"{type(error).__name__}: {error}")
        else:
            judged[name] = function
    return judged


def _raises(message: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(message)

    return call


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with torch.compile, again for each shape.

    By default torch.compile silently runs eagerly after eight shapes. Here it compiles up to 1,000, and then raises.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1000
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False)


def timed_calls(
    functions: Mapping[str, Callable[..., Tensor]], inputs: Inputs, direction: str
) -> dict[str, Callable[[int], object]]:
    """Return the calls to time, by name, as `clock.interleave` takes them.

    Args:
        functions: by name; each takes the arguments of `inputs` and returns one tensor.
        inputs: a call at full size.
        direction: "forward", with inputs that require gradients; "backward"; or "both" in one call.
    """
    functions = {name: function for name, function in functions.items() if wanted(name)}
    sets = input_sets(inputs)
    if direction == "forward":
        return {
            name: lambda at, function=function: function(**sets[at % INPUT_SETS].arguments)
            for name, function in functions.items()
        }
    made = _backward if direction == "backward" else _both
    return {name: made(function, sets) for name, function in functions.items()}


def input_sets(inputs: Inputs) -> list[Inputs]:
    """Return `INPUT_SETS` copies of the inputs, each in memory of its own; differentiable ones require gradients."""

    def one() -> Inputs:
        leaves = {name: inputs.arguments[name].clone().requires_grad_() for name in inputs.differentiable}
        return inputs.change(**leaves)

    return [one() for _ in range(INPUT_SETS)]


def _backward(function: Callable[..., Tensor], sets: list[Inputs]) -> Callable[[int], object]:
    graphs: list[tuple[Tensor, list[Any], Tensor]] = []

    def graph(made: Inputs) -> tuple[Tensor, list[Any], Tensor]:
        y = function(**made.arguments)
        return y, [made.arguments[name] for name in made.differentiable], torch.randn_like(y)

    def call(at: int) -> object:
        if not graphs:
            graphs.extend([graph(made) for made in sets])
        y, leaves, dy = graphs[at % INPUT_SETS]
        return torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return call


def _both(function: Callable[..., Tensor], sets: list[Inputs]) -> Callable[[int], object]:
    incoming: list[Tensor] = []

    def call(at: int) -> object:
        made = sets[at % INPUT_SETS]
        y = function(**made.arguments)
        if not incoming:
            incoming.append(torch.randn_like(y))
        return torch.autograd.grad(y, [made.arguments[name] for name in made.differentiable], incoming[0])

    return call
