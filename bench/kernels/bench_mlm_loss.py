"""mlm_loss: every backend against other libraries (`bench/mlm_loss_peers.py`), forward and backward together.

Shapes are those of models: T tokens, of which 15% or 30% are masked, D hidden, V vocabulary. Activations have the dtype
of `machine.fast_dtype`, parameters are fp32. The operation is bound by three products of 2 M V D operations each, on
the M masked rows, so the floor is their operations divided by the measured rate of a large product. Peers that multiply
more rows have the same floor. Forward and backward are timed together, since our backends compute most gradients in the
forward. Peak memory is what PyTorch's allocators hold beyond the inputs, including gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bench import machine
from bench.clock import PLAYBACK
from bench.mlm_loss_peers import masked_head, names, peers
from bench.roofline import matmul_rate
from bench.variants import INPUT_SETS, checked, input_sets, wanted
from torch import Tensor

from unmask_kernels import mlm_loss
from unmask_kernels.capability import architecture
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.mlm_loss import FAMILY, MLMLossCall, cost
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Inputs, run
from unmask_kernels.testing.mlm_loss import mlm_loss_case

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = machine.fast_dtype()
ON_GPU = torch.cuda.is_available()
BERT, MODERNBERT = 30522, 50368
# tokens, width, vocabulary, masked share
SHAPES = (
    [
        # what targets are set for comes first: a run that is cut short then has it
        *((tokens, width, BERT, share) for tokens in (65536, 16384) for share in (0.15, 0.3) for width in (768, 1024)),
        (16384, 768, MODERNBERT, 0.3),
    ]
    if ON_GPU
    else [(64, 256, 2000, 0.15)]
    if machine.DRY
    else [(4096, 256, BERT, 0.15), (4096, 768, BERT, 0.15), (4096, 768, BERT, 0.3)]
)
BACKENDS = [name for name in FAMILY.backends if name != "reference"]


def _ours(backend: str) -> Callable[..., Tensor]:
    return lambda **arguments: mlm_loss(backend=backend, **arguments).loss_sum


def _call(device: torch.device, width: int, vocabulary: int) -> MLMLossCall:
    return MLMLossCall(device.type, architecture(torch.empty(0, device=device)), DTYPE, vocabulary, width)


def _enter(
    tokens: int, width: int, vocabulary: int, share: float, device: torch.device
) -> dict[str, Callable[[int], object]]:
    """Compare every backend with fp64 truth on few rows; then forward and backward at full size."""
    call = _call(device, width, vocabulary)
    backends = {name: _ours(name) for name in BACKENDS if not FAMILY.backends[name].refuses(call)}
    small = mlm_loss_case("small", tokens=64, width=width, vocabulary=vocabulary, masked=24).make(DTYPE, device)
    truth, plain = run(_ours("reference"), small.double()), run(masked_head, small)
    backends = checked(backends, lambda name, function: compare(run(function, small), plain, truth))
    case = mlm_loss_case("full", tokens=tokens, width=width, vocabulary=vocabulary, masked=round(share * tokens))
    sets = input_sets(case.make(DTYPE, device))
    functions = {name: function for name, function in {**peers(), **backends}.items() if wanted(name)}
    return {name: partial(_both_directions, function, sets) for name, function in functions.items()}


def _both_directions(function: Callable[..., Tensor], sets: list[Inputs], at: int) -> object:
    inputs = sets[at % INPUT_SETS]
    leaves = [inputs.arguments[name] for name in inputs.differentiable]
    return torch.autograd.grad(function(**inputs.arguments), leaves)


@pytest.mark.parametrize("variant", [*names(), *BACKENDS])
@pytest.mark.parametrize(("tokens", "width", "vocabulary", "share"), SHAPES)
def bench_mlm_loss(
    benchmark: Any,
    side_by_side: Any,
    device: torch.device,
    tokens: int,
    width: int,
    vocabulary: int,
    share: float,
    variant: str,
) -> None:
    if variant in BACKENDS and FAMILY.backends[variant].refuses(_call(device, width, vocabulary)):
        with pytest.raises(BackendUnavailable) as refusal:
            FAMILY.choose(variant, _call(device, width, vocabulary))
        pytest.skip(str(refusal.value))
    masked = round(share * tokens)
    flops = cost.flops_forward(masked, width, vocabulary) + cost.flops_backward(masked, width, vocabulary)
    rate = matmul_rate(str(device), DTYPE)
    side_by_side.run(
        benchmark,
        group="mlm_loss forward + backward",
        case=f"{masked} of {tokens} tokens, D {width}, V {vocabulary}, {machine.SHORT[DTYPE]}",
        variant=variant,
        enter=lambda: _enter(tokens, width, vocabulary, share, device),
        rounds=50 if ON_GPU else 5,
        extra={
            "baseline": "all-token",
            "flops": flops,
            "floor_seconds": flops / rate,
            "ceiling": f"matrix product of this run, {rate / 1e12:,.2f} TFLOP/s",
        },
    )
