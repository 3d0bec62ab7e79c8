"""The choices that a machine makes: each with its candidates, where it applies, and the calls that decide it.

A choice is inside one backend, and is made only where that backend runs the call by itself or because it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..attention import tunables as of_attention
from ..attention.choice import FAMILY as ATTENTION
from ..distill.choice import FAMILY as DISTILL
from ..layer_norm.choice import BLOCK
from ..linear_gelu.choice import FAMILY as LINEAR_GELU
from ..linear_gelu.tunables import TILE
from ..optimizer.choice import FAMILY as OPTIMIZER
from ..testing.compare import compare, same_bits
from ..testing.inputs import run
from ..tuned import Key, Tunable, Value, using_values
from ..verify.shapes import Shapes
from .calls import (
    FEWEST_TOKENS,
    MeasuredCall,
    attention_calls,
    distill_calls,
    dropout_calls,
    fused_calls,
    layer_norm_calls,
    linear_gelu_calls,
    one_tile_calls,
    optimizer_calls,
)
from .contest import Contest, Contestant, Prepared

__all__ = ["CHOICES", "Choice", "contests"]

# Triton's interpreter stands in for a GPU on a CPU
_EVERYWHERE = ("cuda", "cpu")


class Choice(NamedTuple):
    """A choice.

    Attributes:
        tunable: its name, its default, its candidates; the operation reads its value there.
        backend: inside which it is made; None: it is the choice of the backend.
        devices: kinds of devices on which it is made.
        calls: the calls that decide it.
    """

    tunable: Tunable[int] | Tunable[str]
    backend: str | None
    devices: tuple[str, ...]
    calls: Callable[[Shapes], Iterator[MeasuredCall]]


def _in_16_bits(calls: Callable[[Shapes], Iterator[MeasuredCall]]) -> Callable[[Shapes], Iterator[MeasuredCall]]:
    """The same calls, or none in fp32, where tiles are small and serve accuracy."""
    return lambda shapes: calls(shapes) if shapes.dtype.itemsize == 2 else iter(())


CHOICES: tuple[Choice, ...] = (
    *(
        Choice(family.fastest, None, ("cuda",), calls)
        for family, calls in (
            (ATTENTION, attention_calls),
            (LINEAR_GELU, linear_gelu_calls),
            (OPTIMIZER, optimizer_calls),
            (DISTILL, distill_calls),
        )
        if family.fastest is not None
    ),
    Choice(of_attention.FUSED_UP_TO, "triton", _EVERYWHERE, fused_calls),
    Choice(of_attention.BITMASK_UP_TO, "triton", _EVERYWHERE, dropout_calls),
    Choice(of_attention.ONE_TILE_UP_TO, "triton", _EVERYWHERE, _in_16_bits(one_tile_calls)),
    Choice(of_attention.FUSED_TILE, "triton", _EVERYWHERE, _in_16_bits(fused_calls)),
    Choice(of_attention.FORWARD_TILE, "triton", _EVERYWHERE, _in_16_bits(attention_calls)),
    Choice(TILE, "triton", _EVERYWHERE, _in_16_bits(linear_gelu_calls)),
    Choice(of_attention.SCORES, "torch", ("cpu",), attention_calls),
    Choice(of_attention.CACHED, "torch", ("cpu",), attention_calls),
    Choice(of_attention.PADDING, "torch", ("cpu",), attention_calls),
    Choice(BLOCK, "torch", ("cpu",), layer_norm_calls),
)
"""Every choice, the most valuable first."""


def contests(shapes: Shapes, device: torch.device, choices: tuple[Choice, ...] = CHOICES) -> Iterator[Contest]:
    """The choices that apply on a device, one contest for each shape; a shape that comes twice is decided once."""
    seen = set()
    for choice in choices:
        if device.type not in choice.devices:
            continue
        for number, call in enumerate(choice.calls(shapes)):
            key = Key(choice.tunable.name, call.shape)
            if key not in seen and _candidates(choice, call, shapes.dtype, device):
                seen.add(key)
                yield _contest(choice, number, shapes, device)


def _candidates(choice: Choice, call: MeasuredCall, dtype: torch.dtype, device: torch.device) -> tuple[Value, ...]:
    """The values that may replace the default in a call; none if the backend that they are inside does not run it."""
    inputs = call.compared.make(dtype, device)
    runs, others = call.backend(inputs), choice.tunable.candidates[1:]
    if choice.backend is not None:
        return others if runs == choice.backend else ()

    def chosen(value: Value) -> str | None:
        with using_values({Key(choice.tunable.name, call.shape): value}):
            return call.backend(inputs)

    # a backend that is not right here, or refuses the call, is not chosen whatever its speed
    return tuple(value for value in others if value != runs and chosen(value) == value)


def _contest(choice: Choice, number: int, shapes: Shapes, device: torch.device) -> Contest:
    call = list(choice.calls(shapes))[number]

    measured = call.measured + _on(device)

    def smaller() -> Contest | None:
        half = shapes.tokens // 2
        if half < FEWEST_TOKENS:
            return None
        contest = _contest(choice, number, replace(shapes, tokens=half), device)
        # an update does not depend on tokens
        return None if contest.measured == measured else contest

    return Contest(
        key=Key(choice.tunable.name, call.shape),
        measured=measured,
        default=choice.tunable.default,
        prepare=lambda: _prepare(choice, call, shapes.dtype, device),
        smaller=smaller,
    )


def _on(device: torch.device) -> str:
    threads = torch.get_num_threads()
    return "" if device.type != "cpu" else f", {threads} thread{'s' if threads > 1 else ''}"


def _prepare(choice: Choice, call: MeasuredCall, dtype: torch.dtype, device: torch.device) -> Prepared:
    small = call.compared.make(dtype, device)
    truth, plain = run(call.reference, small.double()), run(call.plain, small)
    timed = call.timed(call.case.make(dtype, device))

    def contestant(value: Value) -> Contestant:
        here = {Key(choice.tunable.name, call.shape): value}

        def results() -> dict[str, Tensor]:
            with using_values(here):
                return run(call.function, small)

        def check() -> str:
            first = results()
            try:
                compare(first, plain, truth)
                same_bits(first, results(), "two runs on the same inputs")
            except AssertionError as error:
                return str(error).splitlines()[0]
            return ""

        def once() -> None:
            with using_values(here):
                timed()

        return Contestant(value, once, check, results)

    others = _candidates(choice, call, dtype, device)
    return Prepared(contestant(choice.tunable.default), [contestant(value) for value in others])
