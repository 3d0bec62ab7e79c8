"""Cases of `embedding`: the models' widths, documents of many lengths, frequent words, tables with unused rows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels.documents import Documents

from .inputs import Case, lengths_to_documents

__all__ = ["CASES", "embedding_case", "plain_embedding"]


def embedding_case(
    lengths: list[int],
    width: int,
    *,
    vocabulary: int = 23,
    positions: int | None = None,
    segments: int | None = 2,
    p: float = 0.0,
    frequent: float = 0.3,
    text: bool = False,
    ids_dtype: torch.dtype = torch.int64,
) -> Case:
    """Return a case of packed documents of random words.

    Args:
        lengths: tokens of each document.
        width: columns of the tables and of the result.
        vocabulary: rows of the table of words.
        positions: rows of the table of positions; by default the longest document's length.
        segments: rows of the table of segments; the second half of each document has the last segment. None passes no
            segments, with a table of two rows.
        p: dropout.
        frequent: share of tokens that are one word, as [MASK] is in training.
        text: whether the other words are as unequal as in text: the odds of word r are (r + 8) ** -1.25. A vocabulary
            of 30,522 then has 3,330 different words in 16,384 tokens and 8,090 in 65,536, as English books and
            documentation have.
        ids_dtype: of ids and segments.
    """

    def build(generator: torch.Generator) -> dict[str, Any]:
        normal = partial(torch.randn, generator=generator)
        documents = lengths_to_documents(lengths)
        tokens = documents.tokens
        if text:
            odds = (torch.arange(vocabulary) + 9.0) ** -1.25
            ids = torch.multinomial(odds, tokens, replacement=True, generator=generator)
        else:
            ids = torch.randint(0, vocabulary, (tokens,), generator=generator)
        ids[torch.rand(tokens, generator=generator) < frequent] = vocabulary // 3
        halves = [(torch.arange(length) * 2 >= length).long() for length in lengths]
        return {
            "ids": ids.to(ids_dtype),
            "documents": documents,
            "segments": None if segments is None else (torch.cat(halves) * (segments - 1)).to(ids_dtype),
            "word": normal(vocabulary, width),
            "position": normal(positions or max(1, *lengths), width),
            "segment": normal(segments or 2, width),
            "weight": 1 + normal(width) / 4,
            "bias": normal(width) / 4,
            "p": p,
            "key": torch.tensor(0x0123456789ABCDEF),
            "dtype": torch.float32,
        }

    parts = [f"{len(lengths)}documents-{sum(lengths)}x{width}", f"p{math.floor(100 * p)}" * (p > 0.0)]
    parts += ["no-segments" if segments is None else f"{segments}segments" * (segments != 2)]
    parts += ["text" * text, f"frequent{math.floor(100 * frequent)}" * (frequent != 0.3)]
    parameters = ("word", "position", "segment", "weight", "bias")
    return Case(name="-".join(filter(None, parts)), build=build, parameters=parameters)


def plain_embedding(
    ids: Tensor,
    documents: Documents,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    p: float,
    key: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Compute embedding with PyTorch's own functions in the tables' dtype; only the result is rounded to `dtype`."""
    segments = torch.zeros_like(documents.positions) if segments is None else segments
    h = F.embedding(ids, word) + (F.embedding(documents.positions, position) + F.embedding(segments, segment))
    y = F.layer_norm(h, (word.shape[1],), weight, bias, 1e-12)
    if p > 0.0:
        y = torch.where(philox.keep_rows(key, documents.row_keys, word.shape[1], p), y * (1 / (1 - p)), 0)
    return y.to(dtype)


CASES = [
    embedding_case([6, 4, 0, 5, 0], 768, vocabulary=7, positions=8),  # BERT-base, unused slots
    embedding_case([5, 3, 1], 1024, vocabulary=7, p=0.1, segments=None),  # BERT-large
    # TinyBERT, a prime number of rows
    embedding_case([9, 4, 7, 1, 1, 1], 312, vocabulary=11, p=0.1, ids_dtype=torch.int32),
    embedding_case([170], 40, frequent=0.95, vocabulary=7),  # one word in many spans
    # more documents than a block has, more segments than BERT has, an odd width
    embedding_case([2] * 70 + [3], 21, p=0.5, segments=3),
    embedding_case([1], 768, p=0.1),
    embedding_case([0], 768, p=0.1),
    embedding_case([4, 1], 3, vocabulary=1, segments=1),
]
"""The models' widths, and the first and last round of every loop: over documents, equal words, segments."""
