"""What the passes of the backward read beside the rows, made by one launch instead of a dozen.

keys     (T,)       ids to be sorted: in 16 bits where the vocabulary allows it, which halves the passes of the sort
runs     (V, 2)     cleared; `_triton_words` writes where the run of each word begins and ends
starts   (S,)       first token of each document, from the longest document to the shortest
before   (P + 1,)   tokens at places before q, that is, the sum over documents of min(length, q)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmask_kernels._triton.launch import OPTIONS

from .arguments import Arguments

__all__ = ["Lists", "make_lists"]

_EACH, _PLACES, _DOCUMENTS, _WARPS = 256, 8, 256, 4
_WORDS_IN_16_BITS = 1 << 16


@triton.jit(do_not_specialize=["tokens", "words", "documents", "places"])
def _lists_kernel(
    ids_ptr, cu_seqlens_ptr, order_ptr, keys_ptr, runs_ptr, starts_ptr, before_ptr,
    tokens, words, documents, places,
    LEAST: tl.constexpr, EACH: tl.constexpr, PLACES: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    at = program * EACH + tl.arange(0, EACH)
    key = tl.load(ids_ptr + at, mask=at < tokens, other=0).to(tl.int32) + LEAST
    tl.store(keys_ptr + at, key.to(keys_ptr.dtype.element_ty), mask=at < tokens)
    run = program * 2 * EACH + tl.arange(0, 2 * EACH)
    tl.store(runs_ptr + run, tl.zeros((2 * EACH,), dtype=tl.int32), mask=run < 2 * words)
    document = tl.load(order_ptr + at, mask=at < documents, other=0)
    start = tl.load(cu_seqlens_ptr + document, mask=at < documents, other=0)
    tl.store(starts_ptr + at, start, mask=at < documents)
    for first in range(program * PLACES, places + 1, tl.num_programs(0) * PLACES):
        place = first + tl.arange(0, PLACES)
        total = tl.zeros((PLACES, DOCUMENTS), dtype=tl.int32)
        for first_document in range(0, documents, DOCUMENTS):
            document = first_document + tl.arange(0, DOCUMENTS)
            start = tl.load(cu_seqlens_ptr + document, mask=document < documents, other=0)
            end = tl.load(cu_seqlens_ptr + document + 1, mask=document < documents, other=0)
            total += tl.minimum((end - start)[None, :], place[:, None])
        tl.store(before_ptr + place, tl.sum(total, axis=1), mask=place <= places)


class Lists(NamedTuple):
    """Sorted ids, counted from `least`, their tokens, and the lists above."""

    ids: Tensor
    tokens: Tensor
    least: int
    runs: Tensor
    starts: Tensor
    before: Tensor


def make_lists(ids: Tensor, arguments: Arguments, vocabulary: int, places: int) -> Lists:
    """The lists of a call, for at least one token."""
    narrow = vocabulary <= _WORDS_IN_16_BITS
    least = -(1 << 15) if narrow else 0
    keys = torch.empty_like(ids, dtype=torch.int16 if narrow else torch.int32)
    runs = arguments.order.new_empty((vocabulary, 2))
    starts = torch.empty_like(arguments.order)
    before = arguments.order.new_empty(places + 1)
    _lists_kernel[(triton.cdiv(max(len(ids), vocabulary, len(starts)), _EACH),)](
        ids_ptr=ids,
        cu_seqlens_ptr=arguments.cu_seqlens,
        order_ptr=arguments.order,
        keys_ptr=keys,
        runs_ptr=runs,
        starts_ptr=starts,
        before_ptr=before,
        tokens=len(ids),
        words=vocabulary,
        documents=len(starts),
        places=places,
        LEAST=least,
        EACH=_EACH,
        PLACES=_PLACES,
        DOCUMENTS=_DOCUMENTS,
        num_warps=_WARPS,
        **OPTIONS,
    )
    sorted_keys, tokens = torch.sort(keys, stable=True)
    return Lists(sorted_keys, tokens, least, runs, starts, before)
