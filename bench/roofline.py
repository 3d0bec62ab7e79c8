"""The two ceilings of a machine, measured in the run that uses them: memory copy and matrix product.

    bandwidth   bytes read plus bytes written of a large device-to-device copy, per second
    matmul      2 n^3 operations of an n x n x n product through PyTorch's library, on random data, per second

The larger of bytes / bandwidth and operations / matmul rate is the floor that no version gets far below; a
bench reports the floor over its time as its share of the ceiling. Zeros are never multiplied: they draw
less power and run faster than data does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from bench.clock import DeviceClock

__all__ = ["bert_step_flops", "copy_bandwidth", "matmul_rate"]

_REPEATS = 20


@lru_cache
def copy_bandwidth(device: str, size: int | None = None) -> float:
    """Bytes read plus written per second by a copy of `size` bytes (1 GiB on a GPU, 256 MiB on a CPU)."""
    size = size or (1 << 30 if device.startswith("cuda") else 256 << 20)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(device, lambda: target.copy_(source))


@lru_cache
def matmul_rate(device: str, dtype: torch.dtype, n: int | None = None) -> float:
    """Operations per second of an n x n x n product (8,192 on a GPU, 2,048 on a CPU), threads as set now."""
    n = n or (8192 if device.startswith("cuda") else 2048)
    a = torch.randn(n, n, device=device).to(dtype)
    b = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / _best_seconds(device, lambda: torch.mm(a, b))


def bert_step_flops(
    lengths: Sequence[int], *, masked: int, layers: int, hidden: int, intermediate: int, vocab: int
) -> float:
    """Operations that a training step needs on real tokens: matrix products forward, twice that backward.

    Per token and layer 2 (3 D^2) for queries, keys and values, per document and layer 4 n^2 D for its attention; per
    token and layer 2 (D^2 + 2 D F) for what follows, in the last layer per masked token, since nothing reads the
    others; per masked token 2 (D^2 + D V) for the head. Embeddings, norms, softmax and the optimizer are not counted,
    nor is recomputation.
    """
    tokens = sum(lengths)
    read = (layers - 1) * tokens + masked
    linear = 2 * (layers * tokens * 3 * hidden**2 + read * (hidden**2 + 2 * hidden * intermediate))
    attention = layers * 4 * hidden * sum(length**2 for length in lengths)
    head = masked * 2 * (hidden**2 + hidden * vocab)
    return 3.0 * (linear + attention + head)


def _best_seconds(device: str, call: object) -> float:
    assert callable(call)
    clock = DeviceClock(device)
    for _ in range(2):
        call()
    # a ceiling is what the machine can do, not what it does beside others
    return min(clock.seconds(call) for _ in range(_REPEATS))
