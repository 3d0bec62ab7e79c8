"""The records of attention, what its two directions take and return, and the schedule of the Triton backend.

T tokens, S documents, H heads of K elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from ..documents import BOUNDS, TILE_ROWS, Documents
from . import tunables

__all__ = [
    "NARROWEST_TILE",
    "SHORT_UP_TO",
    "Arguments",
    "BackwardArguments",
    "Gradients",
    "Results",
    "bitmask_shape",
    "fused_bound",
    "is_aligned",
    "is_banded",
    "is_wide",
    "keep_bytes",
    "schedule",
    "sides",
]

SHORT_UP_TO = 64
"""Documents up to this length are one tile of the Triton backend; an element of `BOUNDS`."""

NARROWEST_TILE = 32
"""Elements of the narrowest head that a tile has: one of fewer is padded to it, others to the next power of two."""


class _Schedule(NamedTuple):
    fused_up_to: int | None = None
    bitmask_up_to: int | None = None


# A variable of the module, not a ContextVar, which torch.compile cannot trace. Only `Arguments.of` reads it.
_schedule = _Schedule()


@contextmanager
def schedule(*, fused_up_to: int | None = None, bitmask_up_to: int | None = None) -> Iterator[None]:
    """Change how the Triton backend works for the calls inside the block, forward and backward.

    For tests and measurements: results keep their meaning, and may add up in another order.

    Args:
        fused_up_to: documents up to this length take the fused backward, which makes dq, dk and dv in one kernel; an
            element of `BOUNDS` from 64 on. It saves two products in seven and half of the exponentials and random
            numbers; longer documents need the parallelism of tiles more. Default: as it is, at first what was tuned,
            else 512.
        bitmask_up_to: dropout of documents up to this length is drawn before the forward, into a bitmask that is kept
            for the backward and takes bitmask_up_to / 8 bytes for each token and head, twice that where `fused_up_to`
            or wide heads leave documents to two kernels; 128, 256 or 512, or 0 to draw in the kernels. The same
            elements are dropped. Default: as it is, at first what was tuned, else 512.
    Raises:
        ValueError: a length that is not one of these.
    """
    global _schedule
    before = _schedule
    fused = before.fused_up_to if fused_up_to is None else fused_up_to
    bitmask = before.bitmask_up_to if bitmask_up_to is None else bitmask_up_to
    lengths = BOUNDS[BOUNDS.index(SHORT_UP_TO) :]
    if fused is not None and fused not in lengths:
        raise ValueError(f"attention: fused_up_to must be one of {lengths}, got {fused}")
    # up to 64 tokens the forward draws in the kernel anyway
    if bitmask not in (None, 0) and bitmask not in lengths[1:-1]:
        raise ValueError(f"attention: bitmask_up_to must be 0 or one of {lengths[1:-1]}, got {bitmask}")
    _schedule = _Schedule(fused, bitmask)
    try:
        yield
    finally:
        _schedule = before


class Arguments(NamedTuple):
    """What the forward takes.

    The schedule is part of a call, so that a backward works by the schedule of its forward, even after the block.

    Attributes:
        qkv: (T, 3, H, K), fp16, bf16, fp32 or fp64; contiguous in the last dimension.
        cu_seqlens, keys, order, tiles: lists of `Documents`, int32 (S + 1,), int64 (S,), int32 (S,), int32 (lines, 4).
        key: of the random stream, scalar int64; None without dropout.
        p: probability of dropping an attention probability, in [0, 1).
        causal: whether a row sees only columns up to its own.
        window: columns seen on either side of a row's own, -1 for all.
        scale: factor of the scores.
        max_seqlen: static bound on the length of a document.
        fused_up_to, bitmask_up_to: see `schedule`; read by the Triton backend only. 0 for the latter without dropout.
    """

    qkv: Tensor
    cu_seqlens: Tensor
    keys: Tensor
    order: Tensor
    tiles: Tensor
    key: Tensor | None
    p: float
    causal: bool
    window: int
    scale: float
    max_seqlen: int
    fused_up_to: int
    bitmask_up_to: int

    @classmethod
    def of(
        cls,
        qkv: Tensor,
        documents: Documents,
        *,
        key: Tensor | None,
        p: float,
        causal: bool,
        window: int | None,
        scale: float,
    ) -> Arguments:
        """The record of a call of `attention`, whose window may be None."""
        max_seqlen = documents.max_seqlen
        # no two tokens of a document are farther apart, so backends without windows may run it
        window = -1 if window is None or window >= max_seqlen else window
        here = tunables.shape(qkv.shape[3], qkv.dtype, dropout=p > 0.0, banded=causal or window >= 0)
        fused, bitmask = _schedule
        if fused is None:
            fused = tunables.FUSED_UP_TO.value(here)
        if bitmask is None:
            bitmask = tunables.BITMASK_UP_TO.value(here)
        return cls(
            qkv=qkv,
            cu_seqlens=documents.cu_seqlens,
            keys=documents.keys,
            order=documents.order,
            tiles=documents.tiles,
            key=None if p == 0.0 else key,
            p=p,
            causal=causal,
            window=window,
            scale=scale,
            max_seqlen=max_seqlen,
            fused_up_to=fused,
            bitmask_up_to=bitmask if p > 0.0 else 0,
        )


class Results(NamedTuple):
    """What the forward returns.

    Attributes:
        out: (T, H, K) in the dtype of qkv.
        lse: log-sum-exp of a row's scaled scores, fp32 (H, T), in the base that the backend likes; (0,) from a backend
            that does not save it, see `choice.saves_lse`.
        keep: what dropout keeps, from a backend that draws it once, for both directions; else (0,). From "torch", see
            `choice.saves_keep`: uint8 (H, T, ceil(max_seqlen / 8)): bit j of byte b of a row is column 8 b + j of its
            document. From "triton": int32 of `bitmask_shape`, see `_triton_dropout`.
    """

    out: Tensor
    lse: Tensor
    keep: Tensor


class BackwardArguments(NamedTuple):
    """What the backward takes: the gradient of out, (T, H, K), and what the forward took and returned."""

    dout: Tensor
    qkv: Tensor
    out: Tensor
    lse: Tensor
    keep: Tensor
    cu_seqlens: Tensor
    keys: Tensor
    order: Tensor
    tiles: Tensor
    key: Tensor | None
    p: float
    causal: bool
    window: int
    scale: float
    max_seqlen: int
    fused_up_to: int
    bitmask_up_to: int


class Gradients(NamedTuple):
    """What the backward returns: dqkv (T, 3, H, K), contiguous, in the dtype of qkv."""

    dqkv: Tensor


def keep_bytes(arguments: Arguments) -> int:
    """Bytes of a row of `Results.keep`: a bit for each column of the longest document."""
    return -(-arguments.max_seqlen // 8)


def is_banded(arguments: Arguments | BackwardArguments) -> bool:
    """Whether a token of a row's document may be hidden from the row."""
    return arguments.causal or arguments.window >= 0


def sides(arguments: Arguments | BackwardArguments) -> tuple[int, int]:
    """Columns seen left and right of a row's own, -1 for all of them."""
    return arguments.window, 0 if arguments.causal else arguments.window


def is_aligned(qkv: Tensor) -> bool:
    """Whether every head begins at a multiple of 16 bytes in 16 bits, so that a load takes that many."""
    return qkv.shape[3] % 8 == 0


def is_wide(qkv: Tensor) -> bool:
    """Whether a head takes too many registers for the fused backward, and smaller tiles in the other kernels.

    The five products of the fused backward fill the registers. With heads of more than 64 elements its tiles are so
    small that the two kernels for long documents do less work together. Heads that are not aligned need addresses for
    more loads, each of fewer bytes.
    """
    return qkv.shape[3] > (64 if is_aligned(qkv) else NARROWEST_TILE)


def fused_bound(arguments: Arguments | BackwardArguments) -> int:
    """Documents over `SHORT_UP_TO` and up to this length take the fused backward of the Triton backend."""
    return SHORT_UP_TO if is_wide(arguments.qkv) else arguments.fused_up_to


def bitmask_shape(arguments: Arguments) -> tuple[int, ...]:
    """The shape of the bitmasks that the Triton backend keeps: (orders, W, H, T), W words for the longest document.

    One order, or two if the two kernels of the backward take documents of the bitmask. (0,) where dropout is drawn in
    the kernels, or there is none.
    """
    if arguments.bitmask_up_to == 0:
        return (0,)
    tokens, _, heads, _ = arguments.qkv.shape
    bound = min(arguments.max_seqlen, arguments.bitmask_up_to)
    tiles = (bound + TILE_ROWS - 1) // TILE_ROWS
    return 2 if fused_bound(arguments) < bound else 1, tiles * TILE_ROWS // 32, heads, tokens
