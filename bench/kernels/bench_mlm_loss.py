"""mlm_loss: every backend against the heads that BERT users have, forward and backward together.

Shapes are the model's: T tokens of which 15% are masked, D hidden, V vocabulary; activations bf16, parameters fp32.
Peers:

    all-token   logits and loss of all tokens with labels -100, widened to fp32, as `transformers`' BertForMaskedLM
    masked      the same on the masked rows only
    chunked     `F.linear_cross_entropy` of PyTorch on the masked rows, where it exists (2.13 and later)

Forward and backward are timed together, since our backends make gradients in the forward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench.clock import PLAYBACK
from bench.directions import ROTATED
from bench.roofline import matmul_rate
from torch import Tensor

from unmask_kernels import mlm_loss
from unmask_kernels.mlm_loss import FAMILY, cost
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Inputs, run
from unmask_kernels.testing.mlm_loss import mlm_loss_case

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = torch.bfloat16
VOCABULARY = 30522
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 4096
WIDTHS = (768, 1024) if ON_GPU else (256, 768)
BACKENDS = [name for name in FAMILY.backends if name != "reference"]


def _masked(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.linear(hidden[positions], weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def _all_token(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    everywhere = torch.full((len(hidden),), -100, device=hidden.device).index_copy_(0, positions, labels)
    logits = F.linear(hidden, weight.to(hidden.dtype), bias.to(hidden.dtype))
    return F.cross_entropy(logits.float(), everywhere, reduction="sum")


def _chunked(hidden: Tensor, positions: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = hidden[positions]
    return F.linear_cross_entropy(  # type: ignore[attr-defined]
        rows, weight.to(rows.dtype), labels, linear_bias=bias.to(rows.dtype), reduction="sum"
    )


PEERS: dict[str, Callable[..., Tensor]] = {"all-token": _all_token, "masked": _masked}
if hasattr(F, "linear_cross_entropy"):
    PEERS["chunked"] = _chunked


def _ours(backend: str) -> Callable[..., Tensor]:
    return lambda **arguments: mlm_loss(backend=backend, **arguments).loss_sum


def _enter(width: int, device: torch.device) -> dict[str, Callable[[int], object]]:
    """Compare every backend with fp64 truth on few rows; then forward and backward at full size."""
    small = mlm_loss_case("gate", tokens=64, width=width, vocabulary=VOCABULARY, masked=24).make(DTYPE, device)
    truth, plain = run(_ours("reference"), small.double()), run(_masked, small)
    for name in BACKENDS:
        compare(run(_ours(name), small), plain, truth)
    masked = round(0.15 * TOKENS)
    case = mlm_loss_case("full", tokens=TOKENS, width=width, vocabulary=VOCABULARY, masked=masked)
    sets = [case.make(DTYPE, device) for _ in range(ROTATED)]
    functions = {**PEERS, **{name: _ours(name) for name in BACKENDS}}
    return {name: partial(_both_directions, function, sets) for name, function in functions.items()}


def _both_directions(function: Callable[..., Tensor], sets: list[Inputs], at: int) -> object:
    inputs = sets[at % ROTATED]
    leaves = {name: inputs.arguments[name].requires_grad_() for name in inputs.differentiable}
    return torch.autograd.grad(function(**inputs.arguments), list(leaves.values()))


@pytest.mark.parametrize("variant", [*PEERS, *BACKENDS])
@pytest.mark.parametrize("width", WIDTHS)
def bench_mlm_loss(benchmark: Any, race: Any, device: torch.device, width: int, variant: str) -> None:
    masked = round(0.15 * TOKENS)
    flops = cost.flops_forward(masked, width, VOCABULARY) + cost.flops_backward(masked, width, VOCABULARY)
    rate = matmul_rate(str(device), DTYPE)
    race.run(
        benchmark,
        group="mlm_loss forward + backward",
        case=f"{masked} of {TOKENS} tokens, D {width}, V {VOCABULARY}, bf16",
        variant=variant,
        enter=lambda: _enter(width, device),
        rounds=100 if ON_GPU else 5,
        extra={
            "baseline": "all-token",
            "flops": flops,
            "floor_seconds": flops / rate,
            "ceiling": f"matrix product of this run, {rate / 1e12:,.2f} TFLOP/s",
        },
    )
