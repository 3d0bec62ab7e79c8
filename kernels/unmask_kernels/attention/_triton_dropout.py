"""Dropout of attention's Triton kernels: drawn where it is needed, or drawn before into a bitmask and read.

Both ways keep the same elements, those of `philox.keep_scores`. `keep_tile` gives a kernel the elements of its tile.

A bitmask, int32 (W, H, T), has one bit for each attention probability of the documents up to `arguments.bitmask_up_to`
tokens, which is 32 W at most. A document lies in it in one of two orders:

    by row       [w, h, t]: the row of token t, columns 32 w : 32 w + 32
    by column    [w, h, t]: the column of token t, rows 32 w : 32 w + 32

So the words that neighbouring rows (or columns) of a tile need are neighbours in memory, and one word serves 32
elements. A program of the kernel that draws is one warp; it takes 32 rows of a document and a head. A thread draws each
word of its row with four calls of Philox, and no bit crosses shared memory. For the order by column the warp transposes
32 words in five exchanges.

The forward draws once, in both orders:

    by row        read by the forward, and by `grad_query_kernel`
    the other     documents of one tile by row, for `short_backward_kernel`, longer ones by column, for the kernels that
                  hold scores transposed

It keeps the other for the backward, and the one by row only where `grad_query_kernel` needs it, or where there is no
difference. Memory: 4 W H T bytes, that is 64 bytes for each token and head where documents have up to 512 tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import philox
from .._triton.launch import OPTIONS, persistent_programs
from .._triton.random import keep_scores
from ..documents import BOUNDS, TILE_ROWS, TILES_HEAD
from ._triton_documents import load_item
from .arguments import SHORT_UP_TO, Arguments, BackwardArguments, bitmask_shape

__all__ = ["Dropout", "draw", "keep_tile", "kept_bitmasks"]

_PROGRAMS = 32  # on a multiprocessor, each of one warp


class Dropout(NamedTuple):
    """What `keep_tile` reads.

    Attributes:
        key_ptr, keys_ptr: key of the call, int64 scalar, and of the documents, int64 (S,); None without dropout.
        bitmask_ptr: int32 (W, H, T); None where the elements are drawn in the kernel.
        threshold: `philox.threshold(p)`.
        tokens, HEADS: T and H.
    """

    key_ptr: Any
    keys_ptr: Any
    bitmask_ptr: Any
    threshold: Any
    tokens: Any
    HEADS: Any


@triton.jit
def keep_tile(
    dropout, item, first_row, first_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr = False
):  # fmt: skip
    """Which elements of a tile survive, bool (ROWS, COLUMNS), or (COLUMNS, ROWS) if TRANSPOSED.

    A bitmask must hold the document by row, or by column if TRANSPOSED.
    """
    if dropout.bitmask_ptr is None:
        key, document_key = tl.load(dropout.key_ptr), tl.load(dropout.keys_ptr + item.document)
        keep = keep_scores(key, document_key, item.head, first_row, first_column, dropout.threshold, ROWS, COLUMNS)
        if TRANSPOSED:
            keep = tl.trans(keep)
    elif TRANSPOSED:
        keep = _read_bits(dropout, item, first_column, first_row, COLUMNS, ROWS)
    else:
        keep = _read_bits(dropout, item, first_row, first_column, ROWS, COLUMNS)
    return keep


@triton.jit
def _read_bits(dropout, item, first, other, MEMBERS: tl.constexpr, OTHERS: tl.constexpr):
    """The bits of members first : first + MEMBERS for others other : other + OTHERS, bool (MEMBERS, OTHERS).

    Members are rows and others columns of a document that lies by row; the other way round by column.
    """
    tl.static_assert(OTHERS % 32 == 0, "a tile that reads a bitmask has whole words")
    bitmask_ptr = dropout.bitmask_ptr + (tl.cast(item.head, tl.int64) * dropout.tokens + item.start)
    member = first + tl.arange(0, MEMBERS)
    bit = tl.arange(0, OTHERS)[None, :]
    words = tl.zeros((MEMBERS, OTHERS), dtype=tl.int32)
    # One load for each word: if a tile of words is loaded and reshaped, sm_90 waits for each product alone.
    for word in tl.static_range(OTHERS // 32):
        plane = tl.cast(other // 32 + word, tl.int64) * (dropout.HEADS * dropout.tokens)
        some = tl.load(bitmask_ptr + plane + member, mask=member < item.length, other=0)
        words = tl.where(bit // 32 == word, some[:, None], words)
    # Of a column's number, a thread of a tensor core's result has bits 1 and 2 to itself. So the shift is one value
    # for each thread and word, and everything else is a constant.
    return ((words >> (bit & 6)) & (1 << (bit & 25))) != 0


@triton.jit
def _draw_word(key, low, high, head, row, column, bound):
    """For each row, which of the elements column : column + 32 survive, uint32; as `keep_scores` decides."""
    zero = row ^ row
    word = zero
    for part in tl.static_range(4):
        counter = (row << 16) | tl.cast(column // 8 + part, tl.uint32)
        lanes = tl.philox(key, counter, tl.cast(head, tl.uint32) + zero, low + zero, high + zero)
        for j in tl.static_range(4):
            # bound is in the upper 16 bits: a low lane gets there with a shift, a high one is there
            word |= tl.where((lanes[j] << 16) >= bound, 1 << (8 * part + 2 * j), zero)
            word |= tl.where(lanes[j] >= bound, 2 << (8 * part + 2 * j), zero)
    return word


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
def _transpose(words):
    """Bit i of word j becomes bit j of word i, uint32 (32,)."""
    for step in tl.static_range(5):
        words = _exchange(words, 16 >> step)
    return words


@triton.jit(
    do_not_specialize=["tokens", "slots", "upper", "short_up_to", "threshold"],
    do_not_specialize_on_alignment=["key_ptr", "by_row_ptr", "other_ptr"],
)
def draw_bitmask_kernel(
    by_row_ptr, other_ptr, tiles_ptr, key_ptr, keys_ptr, tokens, slots, upper, short_up_to, threshold,
    HEADS: tl.constexpr, HEAD_LINES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The bitmasks of the documents up to BOUNDS[upper] tokens.

    Args: as in `forward_kernel`, and
        by_row_ptr: all documents by row.
        other_ptr: those over short_up_to tokens by column, the others by row; None where there is no document over it.
        PARTS: so many times 32 rows are a tile of the work list.
    """
    key = tl.load(key_ptr)
    bound = threshold.to(tl.uint32) << 16
    begin = tl.load(tiles_ptr + 4 * upper + 1) * HEADS * PARTS
    end = tl.load(tiles_ptr + 1) * HEADS * PARTS
    for index in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        part = index // HEADS
        item = load_item(tiles_ptr, HEAD_LINES + slots + part // PARTS, index % HEADS)
        first = item.first_row + part % PARTS * 32
        document_key = tl.load(keys_ptr + item.document)
        low = (document_key & 0xFFFFFFFF).to(tl.uint32)
        high = ((document_key >> 32) & 0xFFFFFFFF).to(tl.uint32)
        row = first + tl.arange(0, 32)
        # nothing for a part past the end of its document
        for column in range(0, tl.where(first < item.length, item.length, 0), 32):
            words = _draw_word(key, low, high, item.head, row.to(tl.uint32), column, bound)
            line = tl.cast(column // 32 * HEADS + item.head, tl.int64) * tokens + item.start
            tl.store(by_row_ptr + line + row, words.to(tl.int32, bitcast=True), mask=row < item.length)
            if other_ptr is not None:
                member = row
                if item.length > short_up_to:
                    words = _transpose(words)
                    member = column + tl.arange(0, 32)
                    line = tl.cast(first // 32 * HEADS + item.head, tl.int64) * tokens + item.start
                tl.store(other_ptr + line + member, words.to(tl.int32, bitcast=True), mask=member < item.length)


def draw(arguments: Arguments) -> tuple[Tensor | None, Tensor]:
    """Draw the bitmasks of the documents up to `bitmask_up_to` tokens.

    Returns:
        The bitmask by row, int32 (W, H, T), for the forward, None where its kernel draws; and what the backward takes,
        of `bitmask_shape`: both orders, or the other alone.
    """
    qkv, tiles = arguments.qkv, arguments.tiles
    kept = qkv.new_empty(bitmask_shape(arguments), dtype=torch.int32)
    if kept.dim() == 1:
        return None, kept
    is_one = arguments.max_seqlen <= SHORT_UP_TO
    by_row = kept[0] if is_one or len(kept) == 2 else torch.empty_like(kept[0])
    parts, heads, slots = TILE_ROWS // 32, qkv.shape[2], len(arguments.keys)
    items = (len(tiles) - TILES_HEAD - slots) * heads * parts
    draw_bitmask_kernel[(persistent_programs(qkv, items, _PROGRAMS),)](
        by_row_ptr=by_row,
        other_ptr=None if is_one else kept[-1],
        tiles_ptr=tiles,
        key_ptr=arguments.key,
        keys_ptr=arguments.keys,
        tokens=len(qkv),
        slots=slots,
        upper=BOUNDS.index(arguments.bitmask_up_to),
        short_up_to=SHORT_UP_TO,
        threshold=philox.threshold(arguments.p),
        HEADS=heads,
        HEAD_LINES=TILES_HEAD,
        PARTS=parts,
        num_warps=1,
        num_stages=1,
        **OPTIONS,
    )
    return by_row, kept


def kept_bitmasks(arguments: BackwardArguments) -> tuple[Tensor | None, Tensor | None]:
    """The bitmasks by row and in the other order that the forward kept, int32 (W, H, T); one tensor if it kept one."""
    kept = arguments.keep
    return (None, None) if kept.dim() == 1 else (kept[0], kept[-1])
