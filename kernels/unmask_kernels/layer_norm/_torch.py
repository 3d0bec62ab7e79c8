"""layer_norm on PyTorch's own kernels: the fast path on CPU, and a plain one on GPUs.

The native kernels run in fp32 whatever the activation dtype, for two reasons: the CPU backward sums dweight
and dbias of 16-bit rows in 16 bits (2% wrong after 64 rows), and the CUDA one refuses 16-bit rows next to
fp32 parameters. On CPU, 16-bit rows are widened a block at a time, so that the fp32 values live in cache
only. The backward adds x and residual again instead of saving their sum. The dropout mask is saved, one byte
an element: drawing it takes longer than the rest.

Traffic per element of size s without dropout: forward 3 s, plus 2 s where blocks are joined; backward 5 s,
and 1 s more.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels.precision import accumulation_dtype

__all__ = ["backward", "forward"]

_BLOCK = 3 << 17  # elements widened at a time, 1.5 MiB of fp32; measured best of 64 to 512 rows of 768


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    eps: float,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (T, D), mean (T,), rstd (T,), and keep (T, D), which is empty without dropout."""
    keep = x.new_empty(0, dtype=torch.bool)
    if p > 0.0:
        assert key is not None and row_keys is not None
        keep = philox.keep_rows(key, row_keys, x.shape[1], p)
    blocks = []
    for rows in _blocks(x):
        h = _sum(x, residual, keep, p, rows)
        y, mean, rstd = torch.native_layer_norm(h, (x.shape[1],), weight, bias, eps)
        blocks.append((y.to(x.dtype), mean.view(-1), rstd.view(-1)))
    y, mean, rstd = (_join(parts) for parts in zip(*blocks, strict=True))
    return y.contiguous(), mean, rstd, keep


def backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    key: Tensor | None,
    row_keys: Tensor | None,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dh (T, D), the gradient of residual, and dx (T, D), each empty where the other serves; dweight, dbias (D,)."""
    blocks = []
    for rows in _blocks(x):
        h = _sum(x, residual, keep, p, rows)
        # The native backward only looks at whether there is a bias, so weight stands in for it.
        dh, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
            dy[rows].to(h.dtype),
            h,
            [h.shape[1]],
            mean[rows, None],
            rstd[rows, None],
            weight,
            weight,
            [True] * 3,
        )
        dx = dh.new_empty(0)
        if p > 0.0:
            dx = (dh * (1.0 / (1.0 - p))).mul_(keep[rows].view(torch.uint8))
            dh = dh if residual is not None else dh.new_empty(0)
        blocks.append((dh.to(x.dtype), dx.to(x.dtype), dweight[None], dbias[None]))
    dh, dx, dweight, dbias = (_join(parts) for parts in zip(*blocks, strict=True))
    return dh.contiguous(), dx.contiguous(), dweight.sum(0), dbias.sum(0)


def _blocks(x: Tensor) -> Iterator[slice]:
    """Rows to work on at a time, at least one block: all, or what fits in cache when rows are widened."""
    tokens, width = x.shape
    widened = x.device.type == "cpu" and x.dtype != accumulation_dtype(x.dtype)
    size = max(1, _BLOCK // width) if widened else max(1, tokens)
    return (slice(start, start + size) for start in range(0, max(1, tokens), size))


def _sum(x: Tensor, residual: Tensor | None, keep: Tensor, p: float, rows: slice) -> Tensor:
    """residual + keep * x / (1 - p) of these rows in the accumulation dtype."""
    wide = accumulation_dtype(x.dtype)
    h = x[rows].to(wide)
    if p == 0.0:
        return h if residual is None else h + residual[rows]
    # PyTorch multiplies by bytes four times faster than by the same memory as bool.
    kept, scale = keep[rows].view(torch.uint8), 1.0 / (1.0 - p)
    return h * kept * scale if residual is None else torch.addcmul(residual[rows].to(wide), h, kept, value=scale)


def _join(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
