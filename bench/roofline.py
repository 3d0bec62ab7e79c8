"""The two ceilings of a machine, measured in the run that uses them: memory copy and matrix product.

    bandwidth   bytes read plus bytes written per second, by a large copy on the device
    matmul      operations per second of an n x n x n product (2 n^3 operations) by PyTorch's library, on random data

The larger of bytes / bandwidth and operations / matmul rate is the floor: no version can be much faster. A bench
reports floor / time as its share of the ceiling. The product is never measured on zeros: they use less power and run
faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from bench import machine
from bench.clock import DeviceClock

__all__ = ["bert_step_flops", "copy_bandwidth", "matmul_rate"]

_REPEATS = 20


@lru_cache
def copy_bandwidth(device: str, size: int | None = None) -> float:
    """Measure the bytes read plus written per second by a copy of `size` bytes (1 GiB on a GPU, 256 MiB on a CPU)."""
    size = size or (1 << 30 if device.startswith("cuda") else 1 << 20 if machine.DRY else 256 << 20)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best_seconds(device, lambda: target.copy_(source))


@lru_cache
def matmul_rate(device: str, dtype: torch.dtype, n: int | None = None) -> float:
    """Measure the operations per second of an n x n x n product (n is 8,192 on a GPU, 2,048 on a CPU)."""
    n = n or (8192 if device.startswith("cuda") else 256 if machine.DRY else 2048)
    a = torch.randn(n, n, device=device).to(dtype)
    b = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / _best_seconds(device, lambda: torch.mm(a, b))


def bert_step_flops(
    lengths: Sequence[int], *, masked: int, layers: int, hidden: int, intermediate: int, vocab: int
) -> float:
    """Count the operations of the matrix products of a training step, on tokens without padding.

    The forward needs, and the backward needs twice as many:

        2 (3 D^2)           per token and layer, for queries, keys and values
        4 n^2 D             per document of n tokens and layer, for attention
        2 (D^2 + 2 D F)     per token and layer for the rest of the layer; in the last layer per masked token, since
                            nothing reads the other rows
        2 (D^2 + D V)       per masked token, for the head

    Embeddings, norms, softmax, the optimizer and recomputation are not counted.
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
    # the best of several: a ceiling is what the machine can do when nothing else runs
    return min(clock.seconds(call) for _ in range(_REPEATS))
