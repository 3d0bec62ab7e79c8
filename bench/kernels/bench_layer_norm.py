"""layer_norm: every backend against what a PyTorch user would write, forward and backward.

Shapes are those of models: T packed tokens, D hidden. Activations have the dtype of `machine.fast_dtype`, parameters
are fp32. Peers are the eager composition `F.layer_norm(residual + F.dropout(x))`, which writes the sum and the mask to
memory, and the same under `torch.compile`, which fuses them; if x has a bias, they add it first. The operation is bound
by memory, so the floor is the number of bytes that `cost` counts, divided by the measured copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench import machine
from bench.clock import PLAYBACK
from bench.roofline import copy_bandwidth
from bench.variants import checked, compiled, timed_calls
from torch import Tensor

from unmask_kernels import layer_norm
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.layer_norm import FAMILY, LayerNormCall, cost, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import run
from unmask_kernels.testing.layer_norm import layer_norm_case

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 64 if machine.DRY else 2048
# tokens, width, p, and whether x has a bias: on a GPU the encoder leaves the linear layer's bias to layer_norm
SHAPES = [
    (TOKENS, 768, 0.0, False),
    (TOKENS, 768, 0.1, False),
    (TOKENS, 768, 0.0, True),
    (TOKENS, 768, 0.1, True),
    *([(TOKENS, 1024, 0.1, True), (4 * TOKENS, 1024, 0.1, True)] if ON_GPU else [(TOKENS, 256, 0.1, False)]),
]
PEERS = ("eager", "compiled")


def _eager(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *, x_bias: Tensor | None, p: float, **rest: Any
) -> Tensor:
    if x_bias is not None:
        x = x + x_bias.to(x.dtype)
    return F.layer_norm(residual + F.dropout(x, p), (x.shape[-1],), weight.to(x.dtype), bias.to(x.dtype), 1e-12)


def _functions(device: torch.device, width: int) -> dict[str, Callable[..., Tensor]]:
    """Peers, and the backends that can run here."""
    functions: dict[str, Callable[..., Tensor]] = {"eager": _eager}
    call = LayerNormCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, width)
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(call):
            functions[name] = partial(layer_norm, backend=name)
    functions["compiled"] = compiled(_eager)
    return functions


def _enter(
    functions: dict[str, Callable[..., Tensor]],
    tokens: int,
    width: int,
    p: float,
    x_bias: bool,
    device: torch.device,
    direction: str,
) -> dict[str, Callable[[int], object]]:
    """Compare every function with the truth on a small case, then return calls on cold inputs of full size."""
    small = layer_norm_case(min(tokens, 257), width, p=p, x_bias=x_bias).make(DTYPE, device)
    truth, plain = run(reference.layer_norm, small.double()), run(reference.layer_norm, small)

    def check(name: str, function: Callable[..., Tensor]) -> None:
        if name not in PEERS:
            compare(run(function, small), plain, truth)
        elif name == "eager" and p == 0.0:
            # their dropout draws other numbers, and their bf16 sums for dweight are too rough for the criterion;
            # to compile eager's code for another shape too takes longer than to time it
            compare({"y": run(function, small)["y"]}, {"y": plain["y"]}, {"y": truth["y"]})

    case = layer_norm_case(tokens, width, p=p, x_bias=x_bias).make(DTYPE, device)
    return timed_calls(checked(functions, check), case, direction)


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("tokens", "width", "p", "x_bias"), SHAPES)
def bench_layer_norm(
    benchmark: Any,
    side_by_side: Any,
    device: torch.device,
    tokens: int,
    width: int,
    p: float,
    x_bias: bool,
    direction: str,
    variant: str,
) -> None:
    functions = _functions(device, width)
    if variant not in functions:
        call = LayerNormCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, width)
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, call)
        pytest.skip(str(refusal.value))
    if direction == "forward":
        moved = cost.bytes_forward(tokens, width, DTYPE.itemsize, x_bias=x_bias)
    else:
        moved = cost.bytes_backward(tokens, width, DTYPE.itemsize, dropout=p > 0.0, x_bias=x_bias)
    bandwidth = copy_bandwidth(str(device))
    side_by_side.run(
        benchmark,
        group=f"layer_norm {direction}",
        case=f"{tokens} x {width} {machine.SHORT[DTYPE]}, p {p:g}" + (", bias of x" if x_bias else ""),
        variant=variant,
        enter=lambda: _enter(functions, tokens, width, p, x_bias, device, direction),
        rounds=100 if ON_GPU else 20,
        extra={
            "baseline": "eager",
            "bytes": moved,
            "floor_seconds": moved / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
