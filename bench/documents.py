"""The documents of a training step: random ids with the lengths of a distribution, or the text of a token store.

A store that `unmask prepare` made gives real text. Each of its documents is cut into as few pieces as fit, of equal
length within one token, as in training; a piece then counts as a document. The seed decides the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bench.lengths import LengthDistribution, random_documents

__all__ = ["BERT_SPECIAL_IDS", "Documents", "Pool", "from_distribution", "from_store"]

BERT_SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""As in the vocabulary of bert-base-uncased; its words start at 1,000."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Documents of which only some are read.

    Attributes:
        lengths: tokens of each document, [CLS] and [SEP] included.
        read: returns the ids of the documents at some indices.
    """

    lengths: list[int]
    read: Callable[[Sequence[int]], list[list[int]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """A source of documents.

    Attributes:
        name: of the distribution, or of the store's folder.
        fill: takes a number of tokens and a seed, and returns documents with exactly these tokens; the last is cut.
        pool: takes a number of documents and a seed, and returns so many; fewer if a store has fewer.
        vocab: entries of the vocabulary of a store; None if the ids suit any vocabulary.
        special_ids: of [PAD], [UNK], [CLS], [SEP] and [MASK].
    """

    name: str
    fill: Callable[[int, int], list[list[int]]]
    pool: Callable[[int, int], Pool]
    vocab: int | None = None
    special_ids: Mapping[str, int] = field(default_factory=lambda: BERT_SPECIAL_IDS)


def from_distribution(distribution: LengthDistribution, vocab: int) -> Documents:
    """Return documents of random ids of a vocabulary with `vocab` entries."""

    def make(lengths: list[int], seed: int) -> list[list[int]]:
        cls_id, sep_id = BERT_SPECIAL_IDS["[CLS]"], BERT_SPECIAL_IDS["[SEP]"]
        return random_documents(lengths, vocab, cls_id=cls_id, sep_id=sep_id, first_id=1000, seed=seed)

    def pool(count: int, seed: int) -> Pool:
        lengths = distribution.draw(count, seed)
        return Pool(lengths, lambda chosen: make([lengths[index] for index in chosen], seed))

    return Documents(
        name=distribution.name, fill=lambda tokens, seed: make(distribution.fill(tokens, seed), seed), pool=pool
    )


def from_store(folder: Path, max_length: int) -> Documents:
    """Return the documents of the token store in `folder`, in pieces of at most `max_length` tokens."""
    from unmask.data.store import Store

    store = Store.open(folder)
    special = {f"[{role.upper()}]": index for role, index in store.special_ids.items()}
    whole = store.lengths.astype(np.int64)
    parts = -(-whole // (max_length - 2))
    owners = np.repeat(np.arange(whole.size), parts)
    part = np.arange(owners.size) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = part * whole[owners] // parts[owners]
    sizes = (part + 1) * whole[owners] // parts[owners] - starts

    def read(pieces: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        inner = np.asarray(lengths) - 2
        ids, _ = store.gather(owners[list(pieces)], starts[list(pieces)], inner)
        cuts = np.cumsum(inner)[:-1]
        return [[special["[CLS]"], *piece.tolist(), special["[SEP]"]] for piece in np.split(ids, cuts)]

    def order(seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.Generator(np.random.PCG64(seed)).permutation(owners.size)

    def fill(tokens: int, seed: int) -> list[list[int]]:
        chosen, lengths, left = [], [], tokens
        for piece in order(seed).tolist():
            length = min(int(sizes[piece]) + 2, left)
            # what is left may be too little for a document: the one before it then stays shorter by three tokens
            if 0 < left - length < 3:
                length -= 3
            if length < 3:
                continue
            chosen.append(piece)
            lengths.append(length)
            left -= length
            if left == 0:
                return read(chosen, lengths)
        raise ValueError(
            f"documents: {folder} must hold at least {tokens:,} tokens, which a step reads; give more text"
        )

    def pool(count: int, seed: int) -> Pool:
        chosen = order(seed)[:count]
        return Pool(
            (sizes[chosen] + 2).tolist(),
            lambda at: read(chosen[list(at)].tolist(), (sizes[chosen[list(at)]] + 2).tolist()),
        )

    return Documents(name=folder.resolve().name, fill=fill, pool=pool, vocab=store.vocab_size, special_ids=special)
