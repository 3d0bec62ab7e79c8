"""linear_gelu: every backend against what a PyTorch user would write, without gradients, forward and backward.

Shapes are those of models: T packed tokens, D columns of x, F of the result. Activations have the dtype of
`machine.fast_dtype`, parameters are fp32. Variants:

    eager               PyTorch's product and activation
    compiled            the same under `torch.compile` (not the reference, which multiplies in fp32)
    library epilogue    `torch._addmm_activation`, which keeps no product, so it serves only without gradients; it has
                        the exact activation on a CPU, the tanh form on a GPU
    torch               PyTorch's product and the family gelu, which runs by default

The floor is the larger of operations divided by the measured rate of a large product, and bytes divided by the measured
copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from bench import machine
from bench.clock import PLAYBACK
from bench.roofline import copy_bandwidth, matmul_rate
from bench.variants import checked, compiled, timed_calls
from torch import Tensor

from unmask_kernels import linear_gelu
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.gelu import GATED, Activation
from unmask_kernels.linear_gelu import FAMILY, LinearGeluCall, cost, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Inputs, run
from unmask_kernels.testing.linear_gelu import linear_gelu_case, plain_linear_gelu

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 64 if machine.DRY else 512
PEERS = ("eager", "compiled", "library epilogue")
WITH_EPILOGUE: Activation = "gelu_tanh" if ON_GPU else "gelu"
DIRECTIONS = ("no gradients", "forward", "backward")


class Shape(NamedTuple):
    """A case: T, D, F, the activation, and whether there is a bias."""

    tokens: int
    depth: int
    width: int
    activation: Activation
    bias: bool

    def __str__(self) -> str:
        dtype, bias = machine.SHORT[DTYPE], ", bias" if self.bias else ""
        return f"{self.activation}, {self.tokens} x {self.depth} -> {self.width} {dtype}{bias}"


SHAPES = [
    Shape(TOKENS, 768, 3072, "gelu", True),  # BERT-base
    Shape(TOKENS, 768, 1152, "geglu", False),  # ModernBERT-base
    *([Shape(TOKENS, 768, 3072, "gelu_tanh", True), Shape(TOKENS, 1024, 4096, "gelu", True)] if ON_GPU else []),
]


def _library_epilogue(x: Tensor, weight: Tensor, bias: Tensor, *, activation: Activation) -> Tensor:
    assert activation == WITH_EPILOGUE
    y: Tensor = torch._addmm_activation(bias.to(x.dtype), x, weight.to(x.dtype).t(), use_gelu=True)
    return y


def _functions(device: torch.device, shape: Shape, gradients: bool) -> dict[str, Callable[..., Tensor]]:
    """Return the peers and the backends that can run here, by name."""
    functions: dict[str, Callable[..., Tensor]] = {"eager": plain_linear_gelu}
    call = LinearGeluCall(device.type, architecture(torch.empty(0, device=device)), DTYPE)
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(call):
            functions[name] = partial(linear_gelu, backend=name)
    functions["compiled"] = compiled(plain_linear_gelu)
    if shape.activation == WITH_EPILOGUE and shape.bias and not gradients:
        functions["library epilogue"] = _library_epilogue
    return functions


def _made(shape: Shape, tokens: int, device: torch.device, gradients: bool) -> Inputs:
    case = linear_gelu_case(tokens, shape.depth, shape.width, activation=shape.activation, bias=shape.bias)
    inputs = case.make(DTYPE, device)
    return inputs if gradients else replace(inputs, differentiable=())


@lru_cache
def _compared(shape: Shape, device: torch.device, gradients: bool) -> dict[str, Callable[..., Tensor]]:
    """Compare every function with the truth, on a CPU with fewer rows."""
    # on a GPU a program computes several tiles only at full size
    small = _made(shape, shape.tokens if device.type == "cuda" else min(shape.tokens, 257), device, gradients)
    truth, plain = run(reference.linear_gelu, small.double()), run(plain_linear_gelu, small)
    functions = _functions(device, shape, gradients)
    return checked(functions, lambda name, function: compare(run(function, small), plain, truth))


def _enter(shape: Shape, device: torch.device, direction: str) -> dict[str, Callable[[int], object]]:
    """Compare, then return calls on cold inputs of full size."""
    gradients = direction != DIRECTIONS[0]
    inputs = _made(shape, shape.tokens, device, gradients)
    return timed_calls(
        _compared(shape, device, gradients), inputs, "backward" if direction == "backward" else "forward"
    )


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_linear_gelu(
    benchmark: Any, side_by_side: Any, device: torch.device, shape: Shape, direction: str, variant: str
) -> None:
    functions = _functions(device, shape, direction != DIRECTIONS[0])
    if variant == "library epilogue" and variant not in functions:
        pytest.skip(f"library epilogue: needs activation {WITH_EPILOGUE!r} here, a bias, and no gradients")
    if variant not in functions:
        call = LinearGeluCall(device.type, architecture(torch.empty(0, device=device)), DTYPE)
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, call)
        pytest.skip(str(refusal.value))
    gated = shape.activation in GATED
    count = cost.flops_backward if direction == "backward" else cost.flops_forward
    flops = count(shape.tokens, shape.depth, shape.width, gated=gated)
    if direction == "backward":
        moved = cost.bytes_backward(shape.tokens, shape.depth, shape.width, DTYPE.itemsize, gated=gated)
    else:
        keep = direction == "forward"
        moved = cost.bytes_forward(shape.tokens, shape.depth, shape.width, DTYPE.itemsize, gated=gated, keep=keep)
    rate, bandwidth = matmul_rate(str(device), DTYPE), copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group=f"linear_gelu {direction}",
        case=str(shape),
        variant=variant,
        enter=lambda: _enter(shape, device, direction),
        rounds=100 if ON_GPU else 10,
        extra={
            "baseline": "eager",
            "flops": flops,
            "bytes": moved,
            "floor_seconds": max(flops / rate, moved / bandwidth),
            "ceiling": f"matrix product and copy of this run, {rate / 1e12:,.2f} TFLOP/s, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
