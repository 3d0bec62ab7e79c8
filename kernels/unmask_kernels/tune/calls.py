"""The calls that decide the choices of a machine: one or more of each family, at the sizes of a configuration.

Documents have lengths that are lognormal with a median of 300 and sigma 1.1, up to the maximum length.
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
from ..gelu.arguments import GATED
from ..layer_norm.choice import FAMILY as LAYER_NORM
from ..layer_norm.choice import LayerNormCall
from ..layer_norm.choice import shape as shape_of_layer_norm
from ..layer_norm.op import layer_norm
from ..layer_norm.reference import layer_norm as reference_layer_norm
from ..linear_gelu.choice import FAMILY as LINEAR_GELU
from ..linear_gelu.choice import LinearGeluCall
from ..linear_gelu.choice import describe as linear_gelu_call
from ..linear_gelu.choice import shape as shape_of_linear_gelu
from ..linear_gelu.op import linear_gelu
from ..linear_gelu.reference import linear_gelu as reference_linear_gelu
from ..optimizer.choice import FAMILY as OPTIMIZER
from ..optimizer.choice import OptimizerCall
from ..optimizer.choice import describe as optimizer_call
from ..optimizer.choice import shape as shape_of_optimizer
from ..optimizer.op import run as update
from ..testing.attention import attention_case, described, plain_attention
from ..testing.distill import described as distill_call
from ..testing.distill import plain_distill, reference_distill, run_distill, score_case
from ..testing.inputs import Case, Inputs
from ..testing.layer_norm import layer_norm_case, plain_layer_norm
from ..testing.linear_gelu import linear_gelu_case, plain_linear_gelu
from ..testing.optimizer import optimizer_case, plain_optimizer, run_updates, updates_of
from ..verify.shapes import Shapes

__all__ = [
    "FEWEST_TOKENS",
    "MeasuredCall",
    "attention_calls",
    "distill_calls",
    "document_lengths",
    "dropout_calls",
    "forward_and_backward",
    "fused_calls",
    "layer_norm_calls",
    "linear_gelu_calls",
    "one_tile_calls",
    "optimizer_calls",
]

FEWEST_TOKENS = 256
"""Of a call that is timed where the memory is small."""

# the fp64 reference keeps the scores of every document for its backward
_MOST_COMPARED = 4096
_MOST_ROWS = 64
_MEDIAN, _SIGMA, _SHORTEST = 300.0, 1.1, 8
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class MeasuredCall(NamedTuple):
    """A call that decides a choice.

    Attributes:
        shape: what the value depends on.
        measured: the call in words.
        case: makes its inputs.
        compared: the same for the comparison: fewer tokens, of the same kind.
        function, plain, reference: the public operation, the plain formula, the definition; their results are compared.
        timed: makes of inputs what is timed.
        backend: returns the backend that runs it; None if none does.
    """

    shape: str
    measured: str
    case: Case
    compared: Case
    function: Callable[..., Any]
    plain: Callable[..., Any]
    reference: Callable[..., Any]
    timed: Callable[[Inputs], Callable[[], object]]
    backend: Callable[[Inputs], str | None]


def forward_and_backward(function: Callable[..., Tensor], inputs: Inputs) -> Callable[[], object]:
    """Return a call of an operation and its backward, with the same gradient of the result each time."""
    arguments = dict(inputs.arguments)
    leaves = [arguments[name].requires_grad_() for name in inputs.differentiable]
    dy: list[Tensor] = []

    def call() -> None:
        y = function(**arguments)
        if not dy:
            dy.append(torch.randn_like(y))
        torch.autograd.grad(y, leaves, dy[0])

    return call


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


def attention_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """One for each window of the layers."""
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
            timed=partial(forward_and_backward, attention),
            backend=lambda inputs: ATTENTION.chosen(described(**inputs.arguments)),
        )


def fused_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those that the fused backward takes; for wider heads and shorter documents there is no choice."""
    if shapes.head_dim <= 64 and shapes.max_length > 64:
        yield from attention_calls(shapes)


def one_tile_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those whose documents of 65 to 128 tokens fit a tile: without dropout, in rows that begin at 16 bytes."""
    if shapes.attention_dropout == 0.0 and shapes.head_dim % 8 == 0:
        yield from fused_calls(shapes)


def dropout_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those with dropout; for documents of up to 64 tokens there is no choice."""
    if shapes.attention_dropout > 0.0 and shapes.max_length > 64:
        yield from attention_calls(shapes)


def linear_gelu_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """The first product of the feed-forward layer and its activation."""
    depth, width, activation = shapes.hidden_size, shapes.intermediate_size, shapes.activation
    cases = [
        linear_gelu_case(tokens, depth, width, activation=activation)
        for tokens in (shapes.tokens, min(shapes.tokens, FEWEST_TOKENS))
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
        timed=partial(forward_and_backward, linear_gelu),
        backend=lambda inputs: LINEAR_GELU.chosen(described(inputs)),
    )


def layer_norm_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """Those that go a block at a time: rows that are dropped or widened."""
    width, p = shapes.hidden_size, shapes.hidden_dropout
    if p == 0.0 and shapes.dtype.itemsize != 2:
        return
    cases = [layer_norm_case(tokens, width, p=p) for tokens in (shapes.tokens, min(shapes.tokens, FEWEST_TOKENS))]

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
        timed=partial(forward_and_backward, layer_norm),
        backend=backend,
    )


def distill_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
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
        timed=partial(forward_and_backward, run_distill),
        backend=lambda inputs: DISTILL.chosen(distill_call(**inputs.arguments)),
    )


def optimizer_calls(shapes: Shapes) -> Iterator[MeasuredCall]:
    """An update of all parameters, as a training step asks for it; in 16 bits it writes copies of the weights.

    Nothing is differentiated, and each update goes on from what the one before has left.
    """
    parameters = _parameters(shapes)
    few = [(min(rows, _MOST_ROWS), *rest) for rows, *rest in _parameters(replace(shapes, num_layers=1))]
    narrow = str(shapes.dtype).removeprefix("torch.")
    for algorithm, clip_update in (("adamw", False), ("lamb", False), ("adamw", True)):
        cases = [
            optimizer_case(
                "tune",
                [math.prod(shape) for shape in each],
                updates=updates,
                algorithm=algorithm,
                clip_update=clip_update,
                grad_scale=1.0,
                copies=shapes.dtype.itemsize == 2,
                copy_dtype=narrow,
                adapted=[len(shape) > 1 for shape in each],
                fp32=True,
            )
            for each, updates in ((parameters, 1), (few, 3))
        ]

        def described(inputs: Inputs) -> OptimizerCall:
            return optimizer_call(updates_of(**inputs.arguments)[0])

        yield MeasuredCall(
            shape=shape_of_optimizer(described(cases[1].make(shapes.dtype, "meta"))),
            measured=f"{sum(map(math.prod, parameters)):,} parameters in {len(parameters)} tensors",
            case=cases[0],
            compared=cases[1],
            function=run_updates,
            plain=plain_optimizer,
            reference=partial(run_updates, backend="reference"),
            timed=_one_update,
            backend=lambda inputs: OPTIMIZER.chosen(described(inputs)),
        )


def _one_update(inputs: Inputs) -> Callable[[], object]:
    """Return an update that its norm might have skipped, as that of a training step."""
    [arguments] = updates_of(**inputs.arguments)
    arguments = arguments._replace(found_inf=torch.zeros((), device=arguments.params[0].device))
    return lambda: update(arguments, backend=None)


def _parameters(shapes: Shapes) -> list[tuple[int, ...]]:
    """Shapes of the parameters of an encoder with a head for masked language modelling."""
    width, inner = shapes.hidden_size, shapes.intermediate_size
    norm = [(width,), (width,)]
    product = [(width, width), (width,)]
    widened = inner * 2 if shapes.activation in GATED else inner
    layer = [
        *((3 * width, width), (3 * width,), *product, *norm),
        *((widened, width), (widened,), (width, inner), (width,), *norm),
    ]
    tables = [(rows, width) for rows in (shapes.vocab_size, shapes.max_length, shapes.num_segments)]
    return [*tables, *norm, *layer * shapes.num_layers, *product, *norm, (shapes.vocab_size,)]
