"""Dropout drawn beforehand: a bit for every attention probability, the same ones that `keep_tile` draws in a kernel.

Words of 32 bits, int32 (W, H, T), hold documents of at most 32 W tokens, each in one of two ways:

    by row       word [w, h, t]: the row of token t, columns 32 w : 32 w + 32
    by column    word [w, h, t]: the column of token t, rows 32 w : 32 w + 32

so that the words of neighbouring members of a tile are one line of memory, and one of them serves 32 elements. A
program is a warp with 32 rows of a document and a head: a thread draws a word of its row with four calls, and no bit
crosses shared memory; for words by column the warp exchanges bits, five times a word. The grid is persistent over the
tiles of the work list, as those of attention are. Memory: T H 4 W bytes, 64 a token and head for documents of 512
tokens, of which s / 8 are written for a document of s; drawn for each direction, nothing is kept between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels._triton.launch import OPTIONS, persistent_programs
from unmask_kernels.documents import BOUNDS, TILE_ROWS, TILES_HEAD

from ._triton_tile import entry
from .arguments import Arguments

__all__ = ["BITS_UP_TO", "bits_up_to", "draw_by_row", "draw_for_backward", "dropout_bits"]

BITS_UP_TO = 512
"""Longer documents draw in the kernel: words of a document grow with the square of its length."""

_PROGRAMS = 32
_bound = [0]


@triton.jit
def _draw(key, low, high, head, row, column, bound):
    """uint32, for each row: which of the elements column : column + 32 are kept, as `keep_scores` decides."""
    zero = row ^ row
    words = zero
    for part in tl.static_range(4):
        counter = (row << 16) | tl.cast(column // 8 + part, tl.uint32)
        call = tl.philox(key, counter, tl.cast(head, tl.uint32) + zero, low + zero, high + zero)
        for j in tl.static_range(4):
            # the bound stands in the upper half, where the low half of a word is with one shift, the high one without
            words |= tl.where((call[j] << 16) >= bound, 1 << (8 * part + 2 * j), zero)
            words |= tl.where(call[j] >= bound, 2 << (8 * part + 2 * j), zero)
    return words


@triton.jit
def _exchange(words, SIZE: tl.constexpr):
    """One step of a transposition: blocks of SIZE x SIZE bits off the diagonal change places."""
    mask: tl.constexpr = 0xFFFFFFFF // ((1 << SIZE) + 1)
    line = tl.arange(0, 32)
    other = tl.gather(words, line ^ SIZE, 0)
    lower = (words & mask) | ((other & mask) << SIZE)
    upper = (words & (mask << SIZE)) | ((other >> SIZE) & mask)
    return tl.where((line & SIZE) == 0, lower, upper)


@triton.jit
def _transposed(words):
    """Bit i of word j becomes bit j of word i, uint32 (32,)."""
    for step in tl.static_range(5):
        words = _exchange(words, 16 >> step)
    return words


@triton.jit(
    do_not_specialize=["tokens", "slots", "upper", "lower", "threshold"], do_not_specialize_on_alignment=["key_ptr"]
)
def _draw_kernel(
    words_ptr, tiles_ptr, key_ptr, keys_ptr, tokens, slots, upper, lower, threshold,
    HEADS: tl.constexpr, LISTS: tl.constexpr, BY_COLUMN: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The words of the documents with a length in (BOUNDS[lower], BOUNDS[upper]]."""
    key = tl.load(key_ptr)
    bound = threshold.to(tl.uint32) << 16
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 4 * lower + 1) * HEADS * PARTS
    for item in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        head, tile = item % HEADS, item // HEADS
        document, first, start, length = entry(tiles_ptr, LISTS + slots + tile // PARTS)
        first += tile % PARTS * 32
        document_key = tl.load(keys_ptr + document)
        low = (document_key & 0xFFFFFFFF).to(tl.uint32)
        high = ((document_key >> 32) & 0xFFFFFFFF).to(tl.uint32)
        row = first + tl.arange(0, 32)
        # nothing for a part past the end of its document
        for column in range(0, tl.where(first < length, length, 0), 32):
            words = _draw(key, low, high, head, row.to(tl.uint32), column, bound)
            member, word = row, column // 32
            if BY_COLUMN:
                words = _transposed(words)
                member, word = column + tl.arange(0, 32), first // 32
            line = tl.cast(word * HEADS + head, tl.int64) * tokens + start
            tl.store(words_ptr + line + member, words.to(tl.int32, bitcast=True), mask=member < length)


@contextmanager
def dropout_bits(up_to: int = BITS_UP_TO) -> Iterator[None]:
    """Inside the block dropout of documents up to `up_to` is drawn beforehand: the same bits of every result.

    Args:
        up_to: 128, 256 or 512; a token and head take up_to / 8 bytes while a direction runs.
    """
    if up_to not in BOUNDS[2:-1]:
        raise ValueError(f"attention: dropout_bits must be up to one of {BOUNDS[2:-1]}, got {up_to}")
    previous = _bound[0]
    _bound[0] = up_to
    try:
        yield
    finally:
        _bound[0] = previous


def bits_up_to() -> int:
    """The longest document whose dropout is drawn beforehand, 0 for none."""
    return _bound[0]


def draw_by_row(qkv: Tensor, arguments: Arguments) -> Tensor | None:
    """The words of a forward, int32 (W, H, T); None where dropout is drawn in the kernel, or there is none."""
    return _launch(qkv, arguments, 0, _bound[0]) if _wanted(arguments) else None


def draw_for_backward(qkv: Tensor, arguments: Arguments, short: int, owned: int) -> tuple[Tensor | None, Tensor | None]:
    """Words by row and by column: up to `short` tokens by row, longer documents by column, over `owned` in both ways.

    The two are one tensor where no document needs both.
    """
    if not _wanted(arguments):
        return None, None
    both = owned < min(arguments.max_seqlen, _bound[0])
    by_row = _launch(qkv, arguments, 0, _bound[0] if both else short)
    return by_row, _launch(qkv, arguments, short, _bound[0], by_column=True, into=None if both else by_row)


def _wanted(arguments: Arguments) -> bool:
    return _bound[0] > 0 and arguments.p > 0.0


def _launch(
    qkv: Tensor, arguments: Arguments, lower: int, upper: int, by_column: bool = False, into: Tensor | None = None
) -> Tensor:
    """Words of the documents with a length in (lower, upper]; W serves whole tiles of the longest document."""
    tokens, _, heads, _ = qkv.shape
    tiles, parts = arguments.tiles, TILE_ROWS // 32
    if into is None:
        words = triton.cdiv(min(arguments.max_seqlen, _bound[0]), TILE_ROWS) * parts
        into = torch.empty((words, heads, tokens), dtype=torch.int32, device=qkv.device)
    if lower < min(arguments.max_seqlen, upper):
        slots = len(arguments.keys)
        items = (len(tiles) - TILES_HEAD - slots) * heads * parts
        _draw_kernel[(persistent_programs(qkv, items, _PROGRAMS),)](
            words_ptr=into,
            tiles_ptr=tiles,
            key_ptr=arguments.key,
            keys_ptr=arguments.keys,
            tokens=tokens,
            slots=slots,
            upper=BOUNDS.index(upper),
            lower=BOUNDS.index(lower),
            threshold=philox.threshold(arguments.p),
            HEADS=heads,
            LISTS=TILES_HEAD,
            BY_COLUMN=by_column,
            PARTS=parts,
            num_warps=1,
            num_stages=1,
            **OPTIONS,
        )
    return into
