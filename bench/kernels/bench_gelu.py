"""gelu: every backend against what a PyTorch user would write, forward and backward.

Shapes are those of models: T packed tokens, F columns of the result, twice as many columns of x for gated activations.
Activations have the dtype of `machine.fast_dtype`, the bias is fp32. Cases without a bias are those of a CPU, whose
products add the bias, and of ModernBERT. Peers:

    eager       writes the sum to memory and, if gated, the activation
    compiled    the reference under `torch.compile`
    liger       gated functions of liger-kernel, on a GPU with that package: they take the halves as two tensors without
                a bias, geglu is the tanh form, and the backward overwrites what the forward saved

The operation is bound by memory, so the floor is the number of bytes that `cost` counts, divided by the measured copy
bandwidth.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from bench import machine
from bench.clock import PLAYBACK
from bench.roofline import copy_bandwidth
from bench.variants import checked, compiled, timed_calls
from torch import Tensor

from unmask_kernels import gelu
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.gelu import FAMILY, GATED, Activation, GeluCall, cost, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.inputs import run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 64 if machine.DRY else 2048
PEERS = ("eager", "compiled", "liger")


class Shape(NamedTuple):
    """A case: T, F, the activation, and whether there is a bias."""

    tokens: int
    width: int
    activation: Activation
    bias: bool

    def __str__(self) -> str:
        dtype, bias = machine.SHORT[DTYPE], ", bias" if self.bias else ""
        return f"{self.activation}, {self.tokens} x {self.width} {dtype}{bias}"


SHAPES = [
    Shape(TOKENS, 3072, "gelu", True),  # BERT-base
    Shape(TOKENS, 3072, "gelu", False),
    Shape(TOKENS, 3072, "gelu_tanh", True),
    Shape(TOKENS, 1152, "geglu", False),  # ModernBERT-base
    Shape(TOKENS, 2624, "swiglu", False),
    *([Shape(TOKENS, 4096, "gelu", True), Shape(4 * TOKENS, 4096, "gelu", True)] if ON_GPU else []),
    *([Shape(TOKENS, 2624, "geglu", True)] if ON_GPU else []),
]


def _eager(x: Tensor, bias: Tensor | None, *, activation: Activation) -> Tensor:
    if bias is not None:
        x = x + bias.to(x.dtype)
    if activation not in GATED:
        return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")
    gate, value = x.chunk(2, dim=-1)
    return (F.silu(gate) if activation == "swiglu" else F.gelu(gate)) * value


def _liger(x: Tensor, bias: Tensor | None, *, activation: Activation) -> Tensor:
    from liger_kernel.transformers.functional import liger_geglu, liger_swiglu

    assert bias is None
    gate, value = x.chunk(2, dim=-1)
    y: Tensor = (liger_swiglu if activation == "swiglu" else liger_geglu)(gate, value)
    return y


def _functions(device: torch.device, shape: Shape) -> dict[str, Callable[..., Tensor]]:
    """Return the peers and the backends that can run here, by name."""
    functions: dict[str, Callable[..., Tensor]] = {"eager": _eager}
    call = GeluCall(device.type, architecture(torch.empty(0, device=device)), DTYPE)
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(call):
            functions[name] = partial(gelu, backend=name)
    functions["compiled"] = compiled(reference.gelu)
    gated = shape.activation in GATED and not shape.bias
    if gated and device.type == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
        functions["liger"] = _liger
    return functions


def _enter(
    functions: dict[str, Callable[..., Tensor]], shape: Shape, device: torch.device, direction: str
) -> dict[str, Callable[[int], object]]:
    """Compare every function with the truth on a small case, then return calls on cold inputs of full size."""
    made = partial(gelu_case, activation=shape.activation, bias=shape.bias)
    small = made(min(shape.tokens, 257), shape.width).make(DTYPE, device)
    truth, plain = run(reference.gelu, small.double()), run(reference.gelu, small)

    def check(name: str, function: Callable[..., Tensor]) -> None:
        if name not in PEERS:
            compare(run(function, small), plain, truth)
        elif name != "compiled" and (name, shape.activation) != ("liger", "geglu"):
            # only outputs: eager rounds the sum, so its dbias is too rough for the criterion. Compiled is not checked,
            # since it would compile for this shape too, which takes longer than timing it
            compare({"y": run(function, small)["y"]}, {"y": plain["y"]}, {"y": truth["y"]})

    return timed_calls(checked(functions, check), made(shape.tokens, shape.width).make(DTYPE, device), direction)


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_gelu(
    benchmark: Any, side_by_side: Any, device: torch.device, shape: Shape, direction: str, variant: str
) -> None:
    functions = _functions(device, shape)
    if variant == "liger" and variant not in functions:
        pytest.skip("liger: needs a GPU, the package liger-kernel, and a gated activation without a bias")
    if variant not in functions:
        call = GeluCall(device.type, architecture(torch.empty(0, device=device)), DTYPE)
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, call)
        pytest.skip(str(refusal.value))
    count = cost.bytes_forward if direction == "forward" else cost.bytes_backward
    gated = shape.activation in GATED
    moved = count(shape.tokens, shape.width, DTYPE.itemsize, gated=gated, bias=shape.bias)
    bandwidth = copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group=f"gelu {direction}",
        case=str(shape),
        variant=variant,
        enter=lambda: _enter(functions, shape, device, direction),
        rounds=100 if ON_GPU else 20,
        extra={
            "baseline": "eager",
            "bytes": moved,
            "floor_seconds": moved / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
