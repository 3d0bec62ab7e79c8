"""layer_norm on PyTorch's own kernels: the fast backend on CPU, and a plain one on GPUs.

The native kernels run in fp32 whatever the dtype of the rows, for two reasons. The CPU backward sums dweight and dbias
of 16-bit rows in 16 bits, which is 2% wrong after 64 rows. And the CUDA kernels refuse 16-bit rows beside fp32
parameters. On a CPU, rows that are widened or dropped go a block at a time through buffers that stay in cache: the
pages of fresh memory are cleared in each call, which costs more than the norm. The backward adds x, x_bias and residual
again instead of saving their sum. The dropout mask is saved, one byte an element: drawing it takes longer than
everything else.

Traffic per element of s bytes without dropout: forward 3 s, backward 4 s.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import philox
from ..precision import accumulation_dtype
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import BLOCK, shape

__all__ = ["backward", "forward"]

_SUMMED = 128  # rows of one fp32 sum of dweight and dbias
_BLOCK = 1 << 18  # elements worked on at a time by each thread, 1 MiB of fp32


def forward(arguments: Arguments) -> Results:
    """Normalise a block of rows at a time."""
    x, p = arguments.x, arguments.p
    tokens, width = x.shape
    keep = x.new_empty(0, dtype=torch.bool)
    if p > 0.0:
        assert arguments.key is not None and arguments.row_keys is not None
        keep = philox.keep_rows(arguments.key, arguments.row_keys, width, p)
    y = x.new_empty((tokens, width))
    mean = x.new_empty(tokens, dtype=arguments.weight.dtype)
    rstd = torch.empty_like(mean)
    size = _block_rows(x, p)
    buffer, factors = _buffer(x, size), _buffer(x, size if p > 0.0 else 0)
    for rows in _blocks(tokens, size):
        h = _sum(buffer, factors, arguments, keep, rows)
        normalised, mean_, rstd_ = torch.native_layer_norm(h, (width,), arguments.weight, arguments.bias, arguments.eps)
        y = _place(y, rows, normalised)
        mean[rows], rstd[rows] = mean_.view(-1), rstd_.view(-1)
    return Results(y, mean, rstd, keep)


def backward(arguments: BackwardArguments) -> Gradients:
    """Differentiate a block of rows at a time; dx_bias, dweight and dbias add up over blocks."""
    dy, x, weight, p = arguments.dy, arguments.x, arguments.weight, arguments.p
    tokens, width = x.shape
    dx = x.new_empty((tokens, width) if p > 0.0 else (0,))
    dresidual = x.new_empty((tokens, width) if p == 0.0 or arguments.residual is not None else (0,))
    dx_bias = weight.new_zeros(0 if arguments.x_bias is None else width)
    sums: list[tuple[Tensor, Tensor]] = []
    size = _block_rows(x, p)
    buffer, incoming, factors = _buffer(x, size), _buffer(x, size), _buffer(x, size if p > 0.0 else 0)
    # PyTorch adds up the rows of one call one after the other, so a call for the sums gets few.
    summed = _SUMMED if x.device.type == "cpu" else max(1, tokens)
    for rows in _blocks(tokens, size):
        h = _sum(buffer, factors, arguments, arguments.keep, rows)
        wide_dy = _widened(incoming, dy[rows])
        mean, rstd = arguments.mean[rows, None], arguments.rstd[rows, None]
        dh = _native_backward(wide_dy, h, mean, rstd, weight, [True, False, False])[0]
        for some in _blocks(len(h), summed):
            sums.append(
                _native_backward(wide_dy[some], h[some], mean[some], rstd[some], weight, [False, True, True])[1:]
            )
        if len(dresidual):
            dresidual = _place(dresidual, rows, dh)
        if p > 0.0:
            narrow = dx.dtype != dh.dtype
            dh = torch.mul(dh, factors[: len(dh)], out=dh if narrow else dx[rows])
            if narrow:
                dx[rows] = dh
        if arguments.x_bias is not None:
            dx_bias += dh.sum(0)
    if not sums:
        return Gradients(dx, dresidual, dx_bias, torch.zeros_like(weight), torch.zeros_like(weight))
    dweight, dbias = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
    return Gradients(dx, dresidual, dx_bias, dweight, dbias)


def _native_backward(
    dy: Tensor, h: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns dh, dweight and dbias. PyTorch only asks whether there is a bias, so weight stands in for it."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        dy, h, [h.shape[1]], mean, rstd, weight, weight, wanted
    )
    return found


def _block_rows(x: Tensor, p: float) -> int:
    """Rows to work on at a time: all if one native call writes the result, else what fits in the cache of a CPU."""
    tokens, width = x.shape
    if x.device.type != "cpu" or (p == 0.0 and x.dtype == accumulation_dtype(x.dtype)):
        return max(1, tokens)
    block = _BLOCK * BLOCK.value(shape(width, x.dtype, dropout=p > 0.0)) // 100
    rows = block * torch.get_num_threads() // width
    # a block is made of whole sums
    return max(1, min(tokens, rows // _SUMMED * _SUMMED or rows))


def _blocks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))


def _buffer(x: Tensor, rows: int) -> Tensor:
    """A block in the accumulation dtype."""
    return x.new_empty((rows, x.shape[1]), dtype=accumulation_dtype(x.dtype))


def _place(whole: Tensor, rows: slice, part: Tensor) -> Tensor:
    """Returns `whole` with `part` in these rows, or `part` itself if it has all rows and needs no rounding."""
    if part.shape == whole.shape and part.dtype == whole.dtype:
        return part.contiguous()
    whole[rows] = part
    return whole


def _sum(
    buffer: Tensor, factors: Tensor, arguments: Arguments | BackwardArguments, keep: Tensor, rows: slice
) -> Tensor:
    """h = residual + keep * (x + x_bias) / (1 - p) of these rows in the accumulation dtype, in `buffer`.

    With dropout, `factors` then holds 1 / (1 - p) where an element is kept and 0 elsewhere.
    """
    x, p = arguments.x[rows], arguments.p
    h, buffer = _widened(buffer, x), buffer[: len(x)]
    if arguments.x_bias is not None:
        h = torch.add(h, arguments.x_bias, out=buffer)
    if p > 0.0:
        # a copy from uint8 is several times faster than a product with bool, and needs no temporary
        factor = factors[: len(x)].copy_(keep[rows].view(torch.uint8)).mul_(1.0 / (1.0 - p))
        h = torch.mul(h, factor, out=buffer)
    if arguments.residual is not None:
        h = torch.add(h, arguments.residual[rows], out=buffer)
    return h


def _widened(buffer: Tensor, rows: Tensor) -> Tensor:
    """Returns the rows themselves if they have the accumulation dtype, else a copy in `buffer`."""
    return rows if rows.dtype == buffer.dtype else buffer[: len(rows)].copy_(rows)
