"""Masking on the device chooses and corrupts exactly what the data loader's masking does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unmask.config import MaskingConfig
from unmask.data.masking import Masker
from unmask.data.randomness import REPLACEMENT, SELECTION, site_key
from unmask_kernels import Documents, masking

VOCAB, MASK = 3000, 4
SPECIAL, ORDINARY = np.arange(5), np.arange(100, VOCAB)
SEED = 2**63 + 11


def row(lengths: list[int], seed: int) -> dict[str, np.ndarray]:
    """A packed row as the loader lays it out, some of its text special ids, and where words begin."""
    rng = np.random.default_rng(seed)
    pieces = [np.array([2, *rng.integers(5, VOCAB, n - 2), 3]) for n in lengths]
    ids = np.concatenate(pieces)
    ids[rng.random(ids.size) < 0.02] = 1
    first = np.cumsum([0, *lengths[:-1]])
    starts = (rng.random(ids.size) < 0.7) | (ids < 5)
    starts[first + 1] = True
    keys = rng.integers(-(2**63), 2**63 - 1, len(lengths))
    return {"ids": ids, "lengths": np.array(lengths), "keys": keys, "word_starts": starts}


def key(site: int) -> int:
    """The two words of a site's key as one signed number of 64 bits."""
    low, high = site_key(SEED, site)
    return low | (high - (1 << 32) * (high >> 31)) << 32


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("strategy", ["token", "whole_word"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_chooses_and_corrupts_what_the_loader_does(backend: str, strategy: str, rate: float) -> None:
    split = (0.7, 0.2, 0.1)
    masker = Masker(
        MaskingConfig(strategy=strategy, rate=rate, split=split),  # type: ignore[arg-type]
        seed=SEED,
        special_ids=SPECIAL,
        ordinary_ids=ORDINARY,
        mask_id=MASK,
        vocab_size=VOCAB,
    )
    many = np.random.default_rng(0).integers(3, 130, 40).tolist() if backend == "torch" else [3, 5, 64, 129, 511]
    made = row(many, 1)
    expected = masker(made["ids"], made["lengths"], made["keys"], made["word_starts"])
    offsets = torch.tensor([0, *np.cumsum(made["lengths"]).tolist()], dtype=torch.int32)
    ours = masking(
        torch.from_numpy(made["ids"]),
        Documents.build(offsets, torch.from_numpy(made["keys"])),
        None if strategy == "token" else torch.from_numpy(made["word_starts"]),
        torch.arange(VOCAB) < 5,
        torch.from_numpy(ORDINARY),
        keys=torch.tensor([key(SELECTION), key(REPLACEMENT)]),
        rate=rate,
        split=split,
        mask_id=MASK,
        capacity=int(masker.counts(made["lengths"]).sum()),
        backend=backend,
    )
    rule = masker.rule
    assert rule.keys.tolist() == [key(SELECTION), key(REPLACEMENT)]
    assert (rule.rate, rule.split, rule.mask_id) == (rate, split, MASK)
    assert rule.whole_words == (strategy == "whole_word")
    assert len(expected.rows) > 50
    assert ours.rows[ours.labels >= 0].tolist() == expected.rows.tolist()
    assert ours.labels[ours.labels >= 0].tolist() == expected.labels.tolist()
    np.testing.assert_array_equal(ours.ids.numpy(), expected.ids)
