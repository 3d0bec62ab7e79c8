"""The choices that a machine makes: each with its candidates, where it applies, and the calls that decide it.

A choice is inside one backend, and is made only where that backend runs the call by itself or because it was asked for.
A call is timed forward and backward, at the sizes of a configuration, on documents whose lengths are lognormal with a
median of 300 and sigma 1.1, up to the maximum length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention import tunables as of_attention
from ..attention.choice import FAMILY as ATTENTION
from ..attention.op import attention
from ..attention.reference import attention as reference_attention
from ..capability import architecture
from ..distill.choice import FAMILY as DISTILL
from ..distill.choice import shape as shape_of_distill
from ..layer_norm.choice import BLOCK, LayerNormCall
from ..layer_norm.choice import FAMILY as LAYER_NORM
from ..layer_norm.choice import shape as shape_of_layer_norm
from ..layer_norm.op import layer_norm
from ..layer_norm.reference import layer_norm as reference_layer_norm
from ..linear_gelu.choice import FAMILY as LINEAR_GELU
from ..linear_gelu.choice import LinearGeluCall
from ..linear_gelu.choice import describe as linear_gelu_call
from ..linear_gelu.choice import shape as shape_of_linear_gelu
from ..linear_gelu.op import linear_gelu
from ..linear_gelu.reference import linear_gelu as reference_linear_gelu
from ..linear_gelu.tunables import TILE
from ..testing.attention import attention_case, described, plain_attention
from ..testing.compare import compare, same_bits
from ..testing.distill import described as distill_call
from ..testing.distill import plain_distill, reference_distill, run_distill, score_case
from ..testing.inputs import Case, Inputs, run
from ..testing.layer_norm import layer_norm_case, plain_layer_norm
from ..testing.linear_gelu import linear_gelu_case, plain_linear_gelu
from ..tuned import Key, Tunable, Value, using_values
from ..verify.shapes import Shapes
from .contest import Contest, Contestant, Prepared

__all__ = ["CHOICES", "Choice", "contests", "document_lengths"]

_FEWEST_TOKENS = 256
# the fp64 reference keeps the scores of every document for its backward
_MOST_COMPARED = 4096
_MEDIAN, _SIGMA, _SHORTEST = 300.0, 1.1, 8
# Triton's interpreter stands in for a GPU on a CPU
_EVERYWHERE = ("cuda", "cpu")
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class MeasuredCall(NamedTuple):
    """A call that decides a choice.

    Attributes:
        shape: what the value depends on.
        measured: the call in words.
        case: makes its inputs.
        compared: the same for the comparison: fewer tokens, of the same kind.
        function, plain, reference: the public operation, the plain formula, the definition.
        backend: returns the backend that runs it; None if none does.
    """

    shape: str
    measured: str
    case: Case
    compared: Case
    function: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    backend: Callable[[Inputs], str | None]


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


def document_lengths(tokens: int, max_length: int) -> list[int]:
    """Lengths of documents that fill `tokens`, the same on every machine; the last one is cut to fit."""
    normal = NormalDist()
    lengths: list[int] = []
    left = tokens
    while left > 0:
        # evenly spread over the quantiles, however many there are
        place = (0.5 + len(lengths) * _GOLDEN) % 1.0
        length = round(_MEDIAN * math.exp(_SIGMA * normal.inv_cdf(place)))
        lengths.append(min(max(length, _SHORTEST), max_length, left))
        left -= lengths[-1]
    return lengths


def _attention_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    head_dim, p = shapes.head_dim, shapes.attention_dropout
    for window in shapes.windows:
        # a window that hides nothing is none
        window = None if window is not None and window >= shapes.max_length else window
        settings: dict[str, Any] = {
            "heads": shapes.num_heads, "head_dim": head_dim, "causal": shapes.causal, "window": window, "p": p
        }  # fmt: skip
        cases = [
            attention_case("tune", document_lengths(tokens, shapes.max_length), **settings)
            for tokens in (shapes.tokens, min(shapes.tokens, _MOST_COMPARED))
        ]
        banded = shapes.causal or window is not None
        yield MeasuredCall(
            shape=of_attention.shape(head_dim, shapes.dtype, dropout=p > 0.0, banded=banded),
            measured=f"{shapes.tokens} tokens in documents up to {shapes.max_length}, {shapes.num_heads} heads"
            + ("" if window is None else f", window {window}"),
            case=cases[0],
            compared=cases[1],
            function=attention,
            plain=partial(plain_attention, scale=head_dim**-0.5),
            reference=partial(reference_attention, scale=head_dim**-0.5),
            backend=lambda inputs: ATTENTION.chosen(described(**inputs.arguments)),
        )


def _fused_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those that the fused backward takes; for wider heads and shorter documents there is no choice."""
    if shapes.head_dim <= 64 and shapes.max_length > 64:
        yield from _attention_calls(shapes)


def _one_tile_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those whose documents of 65 to 128 tokens fit a tile: without dropout, in rows that begin at 16 bytes."""
    if shapes.attention_dropout == 0.0 and shapes.head_dim % 8 == 0:
        yield from _fused_calls(shapes)


def _dropout_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    if shapes.attention_dropout > 0.0 and shapes.max_length > 64:
        yield from _attention_calls(shapes)


def _linear_gelu_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    depth, width, activation = shapes.hidden_size, shapes.intermediate_size, shapes.activation
    cases = [
        linear_gelu_case(tokens, depth, width, activation=activation)
        for tokens in (shapes.tokens, min(shapes.tokens, _FEWEST_TOKENS))
    ]

    def described(inputs: Inputs) -> LinearGeluCall:
        return linear_gelu_call(inputs.arguments["x"], inputs.arguments["weight"], activation)

    yield MeasuredCall(
        shape=shape_of_linear_gelu(described(cases[1].make(shapes.dtype, "meta"))),
        measured=f"{shapes.tokens} rows",
        case=cases[0],
        compared=cases[1],
        function=linear_gelu,
        plain=plain_linear_gelu,
        reference=reference_linear_gelu,
        backend=lambda inputs: LINEAR_GELU.chosen(described(inputs)),
    )


def _layer_norm_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those that go a block at a time: rows that are dropped or widened."""
    width, p = shapes.hidden_size, shapes.hidden_dropout
    if p == 0.0 and shapes.dtype.itemsize != 2:
        return
    cases = [layer_norm_case(tokens, width, p=p) for tokens in (shapes.tokens, min(shapes.tokens, _FEWEST_TOKENS))]

    def backend(inputs: Inputs) -> str | None:
        x = inputs.arguments["x"]
        return LAYER_NORM.chosen(LayerNormCall(x.device.type, architecture(x), x.dtype, width))

    yield MeasuredCall(
        shape=shape_of_layer_norm(width, shapes.dtype, dropout=p > 0.0),
        measured=f"{shapes.tokens} rows",
        case=cases[0],
        compared=cases[1],
        function=layer_norm,
        plain=plain_layer_norm,
        reference=reference_layer_norm,
        backend=backend,
    )


def _distill_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """The score loss of a student beside a teacher with heads of the same width."""
    width = shapes.head_dim
    cases = [
        score_case(
            "tune",
            document_lengths(tokens, shapes.max_length),
            heads=shapes.num_heads,
            head_dim=width,
            teacher_dim=width,
            causal=shapes.causal,
        )
        for tokens in (shapes.tokens, min(shapes.tokens, _MOST_COMPARED))
    ]
    described = distill_call(**cases[1].make(shapes.dtype, "meta").arguments)
    yield MeasuredCall(
        shape=shape_of_distill(described),
        measured=f"score loss, {shapes.tokens} tokens in documents up to {shapes.max_length}, {shapes.num_heads} heads",
        case=cases[0],
        compared=cases[1],
        function=run_distill,
        plain=plain_distill,
        reference=reference_distill,
        backend=lambda inputs: DISTILL.chosen(distill_call(**inputs.arguments)),
    )


def _in_16_bits(calls: Callable[[Shapes], Iterator[MeasuredCall]]) -> Callable[[Shapes], Iterator[MeasuredCall]]:
    """The same calls, or none in fp32, where tiles are small and serve accuracy."""
    return lambda shapes: calls(shapes) if shapes.dtype.itemsize == 2 else iter(())


CHOICES: tuple[Choice, ...] = (
    *(
        Choice(family.fastest, None, ("cuda",), calls)
        for family, calls in (
            (ATTENTION, _attention_calls),
            (LINEAR_GELU, _linear_gelu_calls),
            (DISTILL, _distill_calls),
        )
        if family.fastest is not None
    ),
    Choice(of_attention.FUSED_UP_TO, "triton", _EVERYWHERE, _fused_calls),
    Choice(of_attention.BITMASK_UP_TO, "triton", _EVERYWHERE, _dropout_calls),
    Choice(of_attention.ONE_TILE_UP_TO, "triton", _EVERYWHERE, _in_16_bits(_one_tile_calls)),
    Choice(of_attention.FUSED_TILE, "triton", _EVERYWHERE, _in_16_bits(_fused_calls)),
    Choice(of_attention.FORWARD_TILE, "triton", _EVERYWHERE, _in_16_bits(_attention_calls)),
    Choice(TILE, "triton", _EVERYWHERE, _in_16_bits(_linear_gelu_calls)),
    Choice(of_attention.SCORES, "torch", ("cpu",), _attention_calls),
    Choice(of_attention.CACHED, "torch", ("cpu",), _attention_calls),
    Choice(of_attention.PADDING, "torch", ("cpu",), _attention_calls),
    Choice(BLOCK, "torch", ("cpu",), _layer_norm_calls),
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

    def smaller() -> Contest | None:
        half = shapes.tokens // 2
        return None if half < _FEWEST_TOKENS else _contest(choice, number, replace(shapes, tokens=half), device)

    return Contest(
        key=Key(choice.tunable.name, call.shape),
        measured=call.measured + _on(device),
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
    inputs = call.case.make(dtype, device)
    arguments = dict(inputs.arguments)
    leaves = [arguments[name].requires_grad_() for name in inputs.differentiable]
    dy: list[Tensor] = []

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

        def both() -> None:
            with using_values(here):
                y = call.function(**arguments)
                if not dy:
                    dy.append(torch.randn_like(y))
                torch.autograd.grad(y, leaves, dy[0])

        return Contestant(value, both, check, results)

    others = _candidates(choice, call, dtype, device)
    return Prepared(contestant(choice.tunable.default), [contestant(value) for value in others])
