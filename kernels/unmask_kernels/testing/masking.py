"""Cases of `masking`: documents of many lengths, special ids in the text, long words, few and many masked tokens."""

from __future__ import annotations

from typing import Any

import torch

from unmask_kernels import philox
from unmask_kernels.masking.rule import counts, numbers

from .inputs import Case, lengths_to_documents

__all__ = ["CASES", "CLS", "MASK", "ORDINARY", "SEP", "SPECIAL", "masking_case"]

VOCABULARY = 500
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = torch.arange(VOCABULARY) < 5
ORDINARY = torch.arange(100, VOCABULARY)


def masking_case(
    name: str,
    lengths: list[int],
    *,
    words: float | None = None,
    rate: float = 0.15,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    spelled: float = 0.0,
    padding: int = 0,
    dtype: torch.dtype = torch.int64,
    spare: int = 0,
    seed: int = 3,
) -> Case:
    """Return a case of packed documents with [CLS] and [SEP].

    Args:
        name: of the case.
        lengths: tokens of each document, [CLS] and [SEP] included.
        words: share of tokens that begin a word; None masks single tokens instead of whole words.
        rate: share of tokens to mask.
        split: shares of masked tokens that become [MASK], become another token, and stay.
        spelled: share of the text's tokens that have a special id.
        padding: tokens of [PAD] in a last document.
        dtype: of the ids.
        spare: slots beyond those that the documents fill.
        seed: of the random keys.
    """

    def build(generator: torch.Generator) -> dict[str, Any]:
        pieces = []
        for length in lengths:
            content = torch.randint(5, VOCABULARY, (max(0, length - 2),), generator=generator)
            content[torch.rand(len(content), generator=generator) < spelled] = UNK
            pieces.append(torch.cat([torch.tensor([CLS]), content, torch.tensor([SEP])])[:length])
        ids = torch.cat([*pieces, torch.full((padding,), PAD)])
        starts = None
        if words is not None:
            # as the loader has them: special tokens and the first token of the text begin words
            starts = (torch.rand(len(ids), generator=generator) < words) | SPECIAL[ids]
            starts |= torch.cat([torch.ones(1, dtype=torch.bool), ids[:-1] == CLS])
        return {
            "ids": ids.to(dtype),
            "documents": lengths_to_documents([*lengths, padding]),
            "word_starts": starts,
            "special": SPECIAL,
            "ordinary": ORDINARY,
            "keys": philox.mix64(torch.arange(2) + seed),
            "rate": rate,
            "split": split,
            "mask_id": MASK,
            "capacity": int(counts(torch.tensor(lengths), numbers(rate, split)).sum()) + spare,
        }

    return Case(name=name, build=build)


CASES = [
    masking_case("tokens", [40, 3, 0, 23, 0], padding=9, spare=5),
    masking_case("words", [40, 3, 0, 23, 0, 61], words=0.6, padding=9, spare=5),
    masking_case("long-words", [50, 33, 64], words=0.2, rate=0.3),
    masking_case("one-word", [30], words=0.0, rate=0.5),
    masking_case("special-text", [60, 44], words=0.7, spelled=0.3, rate=0.4, dtype=torch.int32),
    masking_case("special-tokens", [60, 44, 3], spelled=0.9, rate=1.0),
    masking_case("shortest", [1, 2, 3, 4, 5], rate=1.0, split=(0.0, 1.0, 0.0)),
    masking_case("all-kept", [17, 16], split=(0.0, 0.0, 1.0), words=0.9),
    masking_case("empty", [0]),
]
"""Single tokens and whole words, every split, documents with nothing to mask, slots that no document fills."""
