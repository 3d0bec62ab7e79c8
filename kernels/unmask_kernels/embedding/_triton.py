"""Triton embedding: the forward in one pass over rows, the backward in two.

    forward      `_triton_forward`: gather, add, normalise, drop
    backward     `_triton_words`: in the order of ids: dword, dweight, dbias, and two means a row
                 `_triton_places`: by place: dposition, dsegment

Both passes of the backward read dy and form dh in registers, where it would cost three times its 4 D bytes a token to
write it once and read it in either order. The rows of h are gathered again instead of being saved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmask_kernels._triton.launch import device_guard

from . import _triton_places, _triton_words
from ._triton_forward import forward

__all__ = ["backward", "forward"]


def backward(
    dy: Tensor,
    ids: Tensor,
    places: Tensor,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    key: Tensor | None,
    row_keys: Tensor,
    cu_seqlens: Tensor,
    order: Tensor,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dword (V, D), dposition (P, D), dsegment (N, D), dweight (D,), dbias (D,)."""
    if len(dy) == 0:
        tables = tuple(torch.zeros_like(table) for table in (word, position, segment, weight, weight))
        return tables[0], tables[1], tables[2], tables[3], tables[4]
    dy = dy.contiguous()
    shared: dict[str, Any] = {
        "dy_ptr": dy,
        "segments_ptr": None if segments is None else segments.contiguous(),
        "word_ptr": word.contiguous(),
        "position_ptr": position.contiguous(),
        "segment_ptr": segment.contiguous(),
        "weight_ptr": weight.contiguous(),
        "mean_ptr": mean,
        "rstd_ptr": rstd,
        "bits_ptr": keep,
        "scale": 1.0 / (1.0 - p),
        "COLS": word.shape[1],
        "HAS_SEGMENTS": segments is not None,
        "HAS_DROPOUT": p > 0.0,
    }
    with device_guard(word):
        words = _triton_words.by_word(dy, ids, places, word, shared)
        dposition, dsegment = _triton_places.by_place(
            dy, ids, words, cu_seqlens, order, len(position), len(segment), shared
        )
    return words.dword, dposition, dsegment, words.dweight, words.dbias
