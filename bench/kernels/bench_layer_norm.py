"""layer_norm: every backend against what a PyTorch user would write, forward and backward.

Shapes are the model's: T packed tokens, D hidden. Activations are bf16, norm parameters fp32. Peers are the
eager composition `F.layer_norm(residual + F.dropout(x))`, which writes the sum and the mask, and the same
under `torch.compile`, which fuses them. The operation is memory bound, so the floor is the bytes that
`cost` counts over the measured copy bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bench.clock import PLAYBACK
from bench.directions import directed
from bench.peers import eager_layer_norm
from bench.roofline import copy_bandwidth
from torch import Tensor

from unmask_kernels import layer_norm
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.layer_norm import FAMILY, LayerNormCall, cost, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import layer_norm_case, run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = torch.bfloat16
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 2048
SHAPES = [
    (TOKENS, 768, 0.0),
    (TOKENS, 768, 0.1),
    *([(TOKENS, 1024, 0.1)] if ON_GPU else [(TOKENS, 256, 0.1)]),
]
PEERS = ("eager", "compiled")


def _eager(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *, p: float, **address: Tensor) -> Tensor:
    return eager_layer_norm(x, residual, weight, bias, p, 1e-12)


def _functions(device: torch.device, width: int) -> dict[str, Callable[..., Tensor]]:
    """Peers, and the backends that can run here."""
    functions: dict[str, Callable[..., Tensor]] = {"eager": _eager}
    call = LayerNormCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, width)
    for name, backend in FAMILY.backends.items():
        if not backend.refuses(call):
            functions[name] = partial(layer_norm, backend=name)
    functions["compiled"] = torch.compile(_eager, dynamic=False)
    return functions


def _enter(
    functions: dict[str, Callable[..., Tensor]],
    tokens: int,
    width: int,
    p: float,
    device: torch.device,
    direction: str,
) -> dict[str, Callable[[int], object]]:
    """Compare every function with fp64 truth on a smaller case; then calls on cold inputs of full size."""
    small = layer_norm_case(min(tokens, 257), width, p=p).make(DTYPE, device)
    truth, plain = run(reference.layer_norm, small.double()), run(reference.layer_norm, small)
    for name, function in functions.items():
        found = run(function, small)
        if name not in PEERS:
            compare(found, plain, truth)
        elif p == 0.0:
            # their dropout draws other numbers, and their bf16 sums for dweight are too rough for the criterion
            compare({"y": found["y"]}, {"y": plain["y"]}, {"y": truth["y"]})
    case = layer_norm_case(tokens, width, p=p).make(DTYPE, device)
    return directed(functions, case, direction)


@pytest.mark.parametrize("variant", [*PEERS, *FAMILY.backends])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("tokens", "width", "p"), SHAPES)
def bench_layer_norm(
    benchmark: Any,
    race: Any,
    device: torch.device,
    tokens: int,
    width: int,
    p: float,
    direction: str,
    variant: str,
) -> None:
    functions = _functions(device, width)
    if variant not in functions:
        call = LayerNormCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, width)
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, call)
        pytest.skip(str(refusal.value))
    forward = cost.bytes_forward(tokens, width, DTYPE.itemsize)
    moved = forward if direction == "forward" else cost.bytes_backward(tokens, width, DTYPE.itemsize, dropout=p > 0.0)
    bandwidth = copy_bandwidth(str(device))
    race.run(
        benchmark,
        group=f"layer_norm {direction}",
        case=f"{tokens} x {width} bf16, p {p:g}",
        variant=variant,
        enter=lambda: _enter(functions, tokens, width, p, device, direction),
        rounds=100 if ON_GPU else 20,
        extra={
            "baseline": "eager",
            "bytes": moved,
            "floor_seconds": moved / bandwidth,
            "ceiling": f"copy bandwidth of this run, {bandwidth / 1e9:,.1f} GB/s",
        },
    )
