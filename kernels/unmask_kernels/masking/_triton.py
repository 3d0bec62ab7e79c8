"""Triton masking: one launch, one program per document, which holds its document in registers.

A block is the power of two that covers the longest document, up to 4,096 tokens, 8 a thread. A shorter document masks
the rest of its block, so the work is that of S blocks. Nothing is sorted. Words are chosen in two steps:

    1. Find the largest bound x for which all words with priority < x fit in the count, bit by bit, with 32 sums over
       the block. For single tokens this is the choice, unless priorities are equal.
    2. Take words behind the bound one by one, each time the smallest (priority, place) that still fits. These are a few
       steps, since what is left is less than the words at the bound have.

A program counts the slots of the documents before its own, from `cu_seqlens` alone, so no program waits for another. A
running sum puts its rows there in ascending order. Four tokens take one Philox call for their priorities, and each
token takes one for its replacement. DOCUMENTS is how many earlier documents are counted at a time.

Traffic is about 30 bytes a token. Arithmetic, a few hundred integer instructions a token, sets the time.

Pointers: ids, out (T,) int64 or int32; starts (T,) bool, None for single tokens; special (V,) bool; ordinary (O,), None
where nothing is replaced at random; cu_seqlens (S + 1,) int32; document_keys (S,) int64; keys (2,) int64; rows, labels
(M,) int64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .._triton.launch import OPTIONS, device_guard
from .arguments import Arguments, MaskedTokens
from .rule import IGNORED, numbers

__all__ = ["forward"]

_TOKENS_PER_WARP = 256
_NEVER: tl.constexpr = tl.constexpr(1 << 62)
_IGNORED: tl.constexpr = tl.constexpr(IGNORED)
_NUMBERS = ["documents", "capacity", "numerator", "denominator", "to_mask", "to_random", "num_ordinary", "mask_id"]


@triton.jit
def _count(lengths, numerator, denominator):
    # the count of `rule`, in 32 bits: 4,096 tokens times 65,536
    product = lengths * numerator
    whole = product // denominator
    twice = 2 * (product - whole * denominator)
    up = (twice > denominator) | ((twice == denominator) & (whole % 2 == 1))
    return tl.minimum(tl.maximum(whole + up.to(tl.int32), 1), tl.maximum(lengths - 2, 0))


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _choose(priority, place, candidate, size, count):
    # Returns 1 for the words that are taken, int32 (BLOCK,), as the head of this file says.
    left = count
    size = tl.where(candidate, size, 0)
    bound = (left * 0).to(tl.uint32)
    bit = (bound + 1) << 31
    for _ in range(32):
        below = tl.sum(tl.where(priority < bound + bit, size, 0), axis=0)
        bound = tl.where(below <= left, bound + bit, bound)
        bit = bit >> 1
    taken = (candidate & (priority < bound)).to(tl.int32)
    left -= tl.sum(taken * size, axis=0)
    rank = tl.where(candidate & (taken == 0) & (size <= left), (priority.to(tl.int64) << 14) | place, _NEVER)
    best = tl.min(rank, axis=0)
    while best < _NEVER:
        here = rank == best
        taken = tl.where(here, 1, taken)
        left -= tl.sum(tl.where(here, size, 0), axis=0)
        rank = tl.where(here | (size > left), _NEVER, rank)
        best = tl.min(rank, axis=0)
    return taken


@triton.jit(do_not_specialize=_NUMBERS)
def _masking_kernel(
    ids_ptr, starts_ptr, special_ptr, ordinary_ptr, cu_seqlens_ptr, document_keys_ptr, keys_ptr, out_ptr,
    rows_ptr, labels_ptr,
    documents, capacity, numerator, denominator, to_mask, to_random, num_ordinary, mask_id,
    BLOCK: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    document = tl.program_id(0)
    first_row = tl.load(cu_seqlens_ptr + document)
    length = tl.load(cu_seqlens_ptr + document + 1) - first_row
    place = tl.arange(0, BLOCK)
    inside = place < length
    first_slot = 0
    for first in range(0, document, DOCUMENTS):
        earlier = first + tl.arange(0, DOCUMENTS)
        before = earlier < document
        begin = tl.load(cu_seqlens_ptr + earlier, mask=before, other=0)
        end = tl.load(cu_seqlens_ptr + earlier + 1, mask=before, other=0)
        first_slot += tl.sum(tl.where(before, _count(end - begin, numerator, denominator), 0), axis=0)
    count = _count(length, numerator, denominator)

    document_key = tl.load(document_keys_ptr + document)
    special = (
        tl.load(special_ptr + tl.load(ids_ptr + first_row + place, mask=inside, other=0), mask=inside, other=1) != 0
    )
    quarter = tl.zeros((BLOCK // 4,), dtype=tl.uint32)
    low = (document_key & 0xFFFFFFFF).to(tl.uint32)
    high = ((document_key >> 32) & 0xFFFFFFFF).to(tl.uint32)
    call = tl.arange(0, BLOCK // 4).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.load(keys_ptr), call, quarter, quarter + low, quarter + high)
    priority = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BLOCK,))  # w0 w1 w2 w3 of a call in this order

    if starts_ptr is not None:
        begins = ((tl.load(starts_ptr + first_row + place, mask=inside, other=1) != 0) | (place == 0)) & inside
        behind = place + 1
        ends = tl.load(starts_ptr + first_row + behind, mask=behind < length, other=1) != 0
        end = tl.associative_scan(tl.where(ends, behind, BLOCK), 0, _smaller, reverse=True)
        excluded = tl.associative_scan(tl.where(special, place, BLOCK), 0, _smaller, reverse=True)
        taken = _choose(priority, place, begins & (excluded >= end), end - place, count)
        # a token looks at the nearest beginning of a word at or before it
        mark = tl.associative_scan(tl.where(begins, 2 * place + taken, 0), 0, _larger)
        chosen = ((mark & 1) == 1) & inside
    else:
        chosen = _choose(priority, place, ~special, tl.full((BLOCK,), 1, tl.int32), count) == 1

    rank = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    used = tl.minimum(tl.sum(chosen.to(tl.int32), axis=0), tl.maximum(capacity - first_slot, 0))
    chosen = chosen & (rank < used)
    owned = tl.minimum(count, capacity - first_slot)
    tl.store(rows_ptr + first_slot + place, tl.zeros((BLOCK,), dtype=tl.int64), mask=(place >= used) & (place < owned))
    unused = tl.full((BLOCK,), _IGNORED, dtype=tl.int64)
    tl.store(labels_ptr + first_slot + place, unused, mask=(place >= used) & (place < owned))
    # slots behind those of the last document
    behind_all = tl.where(document == documents - 1, capacity, 0)
    for first in range(first_slot + count, behind_all, BLOCK):
        free = first + place < capacity
        tl.store(rows_ptr + first + place, tl.zeros((BLOCK,), dtype=tl.int64), mask=free)
        tl.store(labels_ptr + first + place, unused, mask=free)
    tl.store(rows_ptr + first_slot + rank, (first_row + place).to(tl.int64), mask=chosen)
    # read again, from cache: holding the ids all along costs registers
    ids = tl.load(ids_ptr + first_row + place, mask=inside, other=0).to(tl.int32)
    tl.store(labels_ptr + first_slot + rank, ids.to(tl.int64), mask=chosen)

    zero = tl.zeros((BLOCK,), dtype=tl.uint32)
    kind, draw, _, _ = tl.philox(tl.load(keys_ptr + 1), place.to(tl.uint32), zero, zero + low, zero + high)
    kind = kind.to(tl.int64)
    new = tl.where(kind < to_mask, mask_id, ids)
    if ordinary_ptr is not None:
        random = chosen & (kind >= to_mask) & (kind < to_random)
        drawn = (draw.to(tl.int64) * num_ordinary) >> 32
        new = tl.where(random, tl.load(ordinary_ptr + drawn, mask=random, other=0).to(tl.int32), new)
    out = tl.where(chosen, new, ids)
    tl.store(out_ptr + first_row + place, out.to(out_ptr.dtype.element_ty), mask=inside)


def forward(arguments: Arguments) -> MaskedTokens:
    """Launch a program for each document."""
    ids, rule = arguments.ids, numbers(arguments.rate, arguments.split)
    has_random = rule.to_random > rule.to_mask
    out = torch.empty_like(ids, memory_format=torch.contiguous_format)
    rows = ids.new_empty(arguments.capacity, dtype=torch.int64)
    labels = torch.empty_like(rows)
    block = max(16, triton.next_power_of_2(arguments.max_seqlen))
    with device_guard(ids):
        _masking_kernel[(len(arguments.document_keys),)](
            ids_ptr=ids.contiguous(),
            starts_ptr=None if arguments.word_starts is None else arguments.word_starts.contiguous(),
            special_ptr=arguments.special.contiguous(),
            ordinary_ptr=arguments.ordinary.contiguous() if has_random else None,
            cu_seqlens_ptr=arguments.cu_seqlens,
            document_keys_ptr=arguments.document_keys,
            keys_ptr=arguments.keys.contiguous(),
            out_ptr=out,
            rows_ptr=rows,
            labels_ptr=labels,
            documents=len(arguments.document_keys),
            capacity=arguments.capacity,
            **rule._asdict(),
            num_ordinary=len(arguments.ordinary),
            mask_id=arguments.mask_id,
            BLOCK=block,
            DOCUMENTS=256,
            num_warps=max(1, block // _TOKENS_PER_WARP),
            **OPTIONS,
        )
    return MaskedTokens(out, rows, labels)
