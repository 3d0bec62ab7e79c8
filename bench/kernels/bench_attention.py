"""attention: every backend against padded attention, as a BERT user has it today, on real document lengths.

Shapes are the model's: T packed tokens, H heads of 64. The peer is PyTorch's `scaled_dot_product_attention` on
documents padded to the longest of the batch with a boolean mask, or none where all have one length; padding and
unpadding are not timed, which favours it. On a GPU PyTorch's `varlen_attn`, which has no dropout, is another. Work is
useful work, the sum of s_i^2 over documents, so a peer's padding lowers its rate.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench.cases import CASES
from bench.clock import PLAYBACK
from bench.directions import directed
from bench.roofline import matmul_rate
from torch import Tensor

from unmask_kernels import Documents, attention
from unmask_kernels.attention import FAMILY, cost, reference
from unmask_kernels.testing.attention import attention_case, eager
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

DTYPE = torch.bfloat16
HEAD_DIM = 64
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 4096
SHAPES = [
    ("lognormal-512", 12, 0.0),
    ("lognormal-512", 4, 0.0),
    ("queries", 4, 0.0),
    ("all-512", 12, 0.0),
    ("lognormal-512", 4, 0.1),
]
BACKENDS = [name for name in FAMILY.backends if name != "reference"]


def _padded(qkv: Tensor, documents: Documents, *, causal: bool, window: int | None, p: float, key: Tensor) -> Tensor:
    """SDPA on rows padded by the caller: qkv (B, longest, 3, H, K) and a mask travel in place of packed tokens."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if documents.tokens == qkv.shape[0] * qkv.shape[1]:  # equal lengths: a mask would only keep the fast kernels away
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    lengths = documents.cu_seqlens.diff()
    mask = torch.arange(qkv.shape[1], device=qkv.device) < lengths[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=p)


def _varlen(qkv: Tensor, documents: Documents, *, causal: bool, window: int | None, p: float, key: Tensor) -> Tensor:
    """PyTorch's own attention on packed documents."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries, longest = documents.cu_seqlens, documents.longest
    return varlen_attn(*qkv.unbind(1), boundaries, boundaries, longest, longest)


def _peers(p: float) -> list[str]:
    has_varlen = ON_GPU and p == 0.0 and importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return ["padded", "varlen_attn"] if has_varlen else ["padded"]


def _enter(lengths: list[int], heads: int, p: float, device: torch.device, direction: str) -> dict[str, Any]:
    """Compare every backend with fp64 truth on a few documents; then calls of full size."""
    small = attention_case("gate", lengths[:2], heads=heads, head_dim=HEAD_DIM, p=p).make(DTYPE, device)
    scale = HEAD_DIM**-0.5
    truth = run(partial(reference.attention, scale=scale), small.double())
    plain = run(partial(eager, scale=scale), small)
    for name in BACKENDS:
        compare(run(partial(attention, backend=name), small), plain, truth)
    inputs = attention_case("full", lengths, heads=heads, head_dim=HEAD_DIM, p=p).make(DTYPE, device)
    qkv = inputs.arguments["qkv"]
    rows = torch.nn.utils.rnn.pad_sequence(qkv.split(lengths), batch_first=True)
    calls = directed({name: partial(attention, backend=name) for name in BACKENDS}, inputs, direction)
    calls.update(directed({"padded": _padded}, inputs.change(qkv=rows), direction))
    if "varlen_attn" in _peers(p):
        calls.update(directed({"varlen_attn": _varlen}, inputs, direction))
    return calls


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("lengths", "heads", "p", "variant"),
    [(*shape, variant) for shape in SHAPES for variant in (*_peers(shape[2]), *BACKENDS)],
)
def bench_attention(
    benchmark: Any, race: Any, device: torch.device, lengths: str, heads: int, p: float, direction: str, variant: str
) -> None:
    drawn = CASES[lengths].fill(TOKENS)
    count = cost.flops_forward if direction == "forward" else cost.flops_backward
    flops = count(drawn, heads, HEAD_DIM)
    rate = matmul_rate(str(device), DTYPE)
    race.run(
        benchmark,
        group=f"attention {direction}",
        case=f"{lengths}, {TOKENS} tokens, {heads} heads x {HEAD_DIM} bf16, p {p:g}",
        variant=variant,
        enter=lambda: _enter(drawn, heads, p, device, direction),
        rounds=100 if ON_GPU else 7,
        extra={
            "baseline": "padded",
            "flops": flops,
            "floor_seconds": flops / rate,
            "ceiling": f"matrix product of this run, {rate / 1e12:,.2f} TFLOP/s",
        },
    )
