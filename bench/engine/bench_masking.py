"""Masking alone, one strategy at a time, in one process on one core, beside the collators of transformers.

A round masks a packed row of 65,536 tokens, in pieces of 512. Words have 1.5 tokens on average; the table of `mac` has
three words in four. The peer, `DataCollatorForLanguageModeling`, gets the same pieces as lists. It masks each token
with a fixed probability, and with `whole_word_mask` whole words, every token of which becomes [MASK].

The bench first checks what was masked: whole words, the number of tokens, 80/10/10. Goals: 2 million tokens/s for
`token`, 0.5 million for `whole_word` and `mac`.

    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_masking.py --import-mode=importlib
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from unmask.config import MaskingConfig
from unmask.data.masking import Masked, Masker
from unmask.data.masking.similar_words import SimilarWords

VOCAB_SIZE = 30_522
PIECE, PIECES = 512, 128
CLS, SEP, MASK = 2, 3, 4
# words begin with these ids, and continue with higher ones, as WordPiece does with ##
FIRST = range(5, 20_000)
ROUNDS = 9
GOALS = {"token": 2e6, "whole_word": 0.5e6, "mac": 0.5e6}


class Row:
    """A packed row of generated words."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        total = PIECE * PIECES
        self.lengths = np.full(PIECES, PIECE)
        self.keys = rng.integers(0, 2**63, PIECES)
        self.starts = rng.random(total) < 1 / 1.5
        place = np.arange(total) % PIECE
        self.starts[(place <= 1) | (place == PIECE - 1)] = True
        # as in text, few words are frequent: frequencies fall as 1 / rank
        ranks = np.exp(rng.random(total) * np.log(len(FIRST))).astype(np.int64)
        self.ids = np.where(self.starts, 4 + ranks, len(FIRST) + 5 + ranks % 10_000).astype(np.uint16)
        self.ids[place == 0], self.ids[place == PIECE - 1] = CLS, SEP

    def table(self) -> SimilarWords:
        """Similar words for three words in four of the row."""
        bounds = np.append(np.flatnonzero(self.starts), self.ids.size)
        words = {tuple(self.ids[a:b].tolist()) for a, b in pairwise(bounds)}
        rng = np.random.default_rng(1)
        return SimilarWords([(w, tuple(token + 1 for token in w)) for w in sorted(words) if rng.random() < 0.75])


@pytest.fixture(scope="module")
def row() -> Row:
    return Row()


def masker(row: Row, masking: str) -> Masker:
    return Masker(
        MaskingConfig(strategy=masking),  # type: ignore[arg-type]
        seed=0,
        special_ids=[0, 1, CLS, SEP, MASK],
        ordinary_ids=np.arange(5, VOCAB_SIZE),
        mask_id=MASK,
        vocab_size=VOCAB_SIZE,
        similar_words=row.table() if masking == "mac" else None,
    )


def check(row: Row, masking: str, masked: Masked, budget: npt.NDArray[np.int64]) -> None:
    """Check that the row is masked as the strategy says."""
    chosen = np.zeros(row.ids.size, dtype=bool)
    chosen[masked.rows] = True
    assert not (chosen & np.isin(row.ids, [CLS, SEP])).any(), "specials must not be chosen"
    assert masked.rows.size <= budget.sum(), "the budget must hold"
    assert masked.rows.size > 0.98 * budget.sum(), "the budget must be used"
    if masking != "token":
        word = np.cumsum(row.starts) - 1
        inside = np.bincount(word, weights=chosen)
        assert np.isin(inside / np.bincount(word), [0, 1]).all(), "words must stay whole"
    kept = (masked.ids[masked.rows] == masked.labels).mean()
    assert abs(kept - 0.1) < 0.03, "a tenth of what is chosen must stay"
    assert (masked.ids == MASK).any() != (masking == "mac"), "mac must not write [MASK]"


@pytest.mark.parametrize("masking", ["token", "whole_word", "ngram", "span", "mac"])
def bench_masking(benchmark: Any, row: Row, masking: str) -> None:
    ours = masker(row, masking)
    check(row, masking, ours(row.ids, row.lengths, row.keys, row.starts), ours.counts(row.lengths))
    run(benchmark, masking, row.ids.size, lambda: ours(row.ids, row.lengths, row.keys, row.starts))
    benchmark.extra_info["goal_tokens_per_second"] = GOALS.get(masking, 0.5e6)


@pytest.mark.parametrize("whole_words", [False, True], ids=["token", "whole_word"])
def bench_transformers(benchmark: Any, row: Row, whole_words: bool, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in FIRST)]
    vocabulary += [f"##c{n}" for n in range(VOCAB_SIZE - len(vocabulary))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    pieces = row.ids.reshape(PIECES, PIECE).tolist()
    features: list[dict[str, Any]] = [{"input_ids": piece} for piece in pieces]
    options: dict[str, Any] = {"mlm_probability": 0.15, "return_tensors": "np"}
    if whole_words:
        # the collator finds words by offsets: tokens without a gap are one word
        options |= {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0}
        starts = row.starts.reshape(PIECES, PIECE)
        for feature, begins in zip(features, starts, strict=True):
            feature["offset_mapping"] = offsets(begins)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, **options)
    share = (collator(features)["labels"] >= 0).mean()
    assert 0.1 < share < 0.2, "the peer must mask about 15 %"
    run(benchmark, "whole_word" if whole_words else "token", row.ids.size, lambda: collator(features), "transformers")


def offsets(begins: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the characters of each token as a tokenizer does: a blank before a word; special tokens have none."""
    first = 2 * np.arange(begins.size) + np.cumsum(begins)
    pairs = list(zip(first.tolist(), (first + 2).tolist(), strict=True))
    pairs[0] = pairs[-1] = (0, 0)
    return pairs


def run(benchmark: Any, masking: str, tokens: int, call: Callable[[], object], variant: str = "unmask") -> None:
    benchmark.group = f"masking: {masking}"
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(
        {
            "case": f"{masking}, {PIECES} pieces of {PIECE}",
            "variant": variant,
            "tokens_per_second": tokens / benchmark.stats.stats.median,
            "cores": 1,
        }
    )
