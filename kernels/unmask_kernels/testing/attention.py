"""Cases of `attention`: lengths that break kernels (one token, none, primes, a whole tile, a tile and one more)."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels.attention import AttentionCall
from unmask_kernels.attention.arguments import Arguments
from unmask_kernels.attention.choice import describe
from unmask_kernels.documents import Documents

from .inputs import Case, lengths_to_documents

__all__ = ["CASES", "LARGE", "attention_case", "described", "plain_attention"]


def attention_case(
    name: str,
    lengths: list[int],
    *,
    heads: int = 2,
    head_dim: int = 64,
    causal: bool = False,
    window: int | None = None,
    p: float = 0.0,
) -> Case:
    """Return a case of packed documents of these lengths; scores have a deviation of about 2, as trained."""

    def build(generator: torch.Generator) -> dict[str, Any]:
        return {
            "qkv": torch.randn(sum(lengths), 3, heads, head_dim, generator=generator) * 1.5,
            "documents": lengths_to_documents(lengths),
            "causal": causal,
            "window": window,
            "p": p,
            "key": philox.mix64(torch.tensor(77)),
        }

    form = f"-k{head_dim}" + ("-causal" if causal else "")
    form += ("" if window is None else f"-window{window}") + (f"-p{round(100 * p)}" if p else "")
    return Case(name=name + form, build=build)


def described(qkv: Tensor, documents: Documents, **settings: Any) -> AttentionCall:
    """Return the description of a call by which its backend is chosen."""
    return describe(Arguments.of(qkv, documents, scale=1.0, **settings))


def plain_attention(
    qkv: Tensor, documents: Documents, *, causal: bool, window: int | None, p: float, key: Tensor, scale: float
) -> Tensor:
    """Compute attention as PyTorch users write it: products in the dtype of qkv, softmax in fp32."""
    outputs = []
    for index, (start, end) in enumerate(pairwise(documents.cu_seqlens.tolist())):
        q, k, v = qkv[start:end].permute(1, 2, 0, 3)
        scores = q @ k.mT * scale
        everything = torch.ones_like(scores[0], dtype=torch.bool)
        if causal:
            scores = scores.masked_fill(everything.triu(1), float("-inf"))
        if window is not None:
            scores = scores.masked_fill(everything.triu(window + 1) | everything.tril(-window - 1), float("-inf"))
        weights = scores.float().softmax(-1).to(qkv.dtype)
        if p > 0 and end > start:
            keys = documents.keys[index, None]
            weights = (
                weights * philox.keep_scores(key, keys, qkv.shape[2], range(end - start), end - start, p)[0] / (1 - p)
            )
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


HEAD_DIMS = (32, 64, 96, 128)
PADDED_HEAD_DIMS = (26, 48, 80)
"""Head dims that a tile of the Triton backend pads; TinyBERT's 26 in rows of which no two begin at 16 bytes."""
MASKS: tuple[dict[str, Any], ...] = ({}, {"causal": True}, {"window": 7}, {"causal": True, "window": 16})
DROPOUT = (0.0, 0.1)

LENGTHS = {
    "one-token": [1],
    "empty-documents": [0, 7, 0, 0, 13, 0],
    "mixed": [33, 5, 64, 1, 40],
    "primes": [101, 67, 131],
    "a-tile": [64, 128],
    "a-tile-and-one-more": [65, 129],
    "equal-lengths": [24] * 9,
    "skewed": [420, 3, 3, 3, 2, 1],
}
LONG_MASKS: tuple[dict[str, Any], ...] = ({}, {"causal": True}, {"window": 64}, {"causal": True, "window": 100})
LONG_LENGTHS = {
    "1x4096": [4096],
    "500x8": [8] * 500,
    "long-and-short": [3001, *[64] * 20, 777, *[5] * 100, 513, 512],
}

CASES = [
    # every list of lengths with every mask; head dims and dropout alternate, so every pair of two settings occurs
    *(
        attention_case(name, lengths, head_dim=HEAD_DIMS[(i + j) % 4], p=DROPOUT[(i + i // 2 + j) % 2], **mask)
        for (i, (name, lengths)), (j, mask) in product(enumerate(LENGTHS.items()), enumerate(MASKS))
    ),
    # every head dim with every mask, with and without dropout, on a few tokens
    *(
        attention_case("grid", [17, 0, 1, 22], head_dim=head_dim, p=p, **mask)
        for head_dim, mask, p in product(HEAD_DIMS, MASKS, DROPOUT)
    ),
    *(
        attention_case("padded", [17, 0, 1, 70], head_dim=head_dim, p=p, **mask)
        for i, head_dim in enumerate(PADDED_HEAD_DIMS)
        for p, mask in ((0.1, {}), (0.0, MASKS[1 + i]))
    ),
]
"""Documents of every kind that a batch may hold, up to 432 tokens."""

LARGE = [
    attention_case(name, lengths, heads=4, p=p, **mask)
    for (name, lengths), mask, p in product(LONG_LENGTHS.items(), LONG_MASKS, DROPOUT)
]
"""Long and many documents, for a GPU."""
