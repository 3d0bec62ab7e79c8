"""What composition reads and what it makes: a block of documents, and a table of sequences.

    block     documents in the order of their epoch, by source           (n,)
    pieces  a stretch of one document each                            (F,)
    sequences  runs of pieces, P of them: pieces firsts[p] : firsts[p + 1]

A sequence is laid out as [CLS] f [SEP] [CLS] f [SEP] ..., its pieces being documents to the attention (scope
`document`) or parts of one document that has the first [CLS] only (scope `sequence`); a pair is
[CLS] A [SEP] B [SEP], one document in either scope. Both scopes count a piece as its tokens and 2, so that
they hold the same text; no sequence counts more than L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import philox_4x32, piece_keys, site_key

__all__ = ["Block", "Composer", "Indices", "SequenceTable", "Text", "spread"]

Indices = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


class Text(Protocol):
    """What composition reads of a token store; T tokens in all spans asked for, one after the other."""

    def gather(self, documents: Any, starts: Any, lengths: Any) -> tuple[Any, npt.NDArray[np.bool_]]:
        """Ids (T,) and word starts (T,)."""

    def gather_sentence_starts(self, documents: Any, starts: Any, lengths: Any) -> npt.NDArray[np.bool_]:
        """True where a token begins a sentence, (T,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The documents that are composed together; none is empty.

    Attributes:
        documents: store index, (n,).
        lengths: tokens, without specials, (n,).
        sources: number of the source, (n,), ascending.
        source_epochs: how often the source was read to its end before, (n,); the epoch, unless the source has a weight.
        ranks: index of the document in its source, (n,).
        max_length: L, tokens that a sequence may count.
        seed: 64-bit seed of the order.
        text: the tokens; a strategy that does not look at them runs without.
    """

    documents: Indices
    lengths: Indices
    sources: Indices
    source_epochs: Indices
    ranks: Indices
    max_length: int
    seed: int
    text: Text | None = None

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def keys(self, owners: Indices, parts: Indices) -> Keys:
        """Names of pieces of documents, (F,); `parts` (F,) tells those of one document apart."""
        return piece_keys(self.source_epochs[owners], self.sources[owners], self.ranks[owners], parts)

    def draws(self, site: int, parts: int = 0) -> Keys:
        """64 random bits for each document at a site, (n,)."""
        names = self.keys(np.arange(len(self)), np.full(len(self), parts))
        words = philox_4x32(names & _LOW, names >> _32, 0, 0, *site_key(self.seed, site))
        bits: Keys = words[0] << _32 | words[1]
        return bits

    def by_source(self) -> list[Indices]:
        """The documents of each source that has some, in order."""
        edges = np.flatnonzero(np.diff(self.sources)) + 1
        return np.split(np.arange(len(self)), edges) if len(self) else []

    def require_text(self) -> Text:
        """The tokens, for a strategy that looks at them."""
        assert self.text is not None
        return self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceTable:
    """Sequences made of pieces of a block's documents.

    Attributes:
        owners: document of each piece, its index in the block, (F,).
        starts, lengths: the stretch of it, (F,); no length is 0.
        keys: name of each piece, (F,), uint64; masks and dropout are addressed by it.
        firsts: sequence p holds pieces firsts[p] : firsts[p + 1], (P + 1,).
        pair_labels: 0 where the second segment follows the first, 1 where it does not, (P,); None: no pairs.
    """

    owners: Indices
    starts: Indices
    lengths: Indices
    keys: Keys
    firsts: Indices
    pair_labels: Indices | None = None

    @classmethod
    def of(cls, block: Block, owners: Any, starts: Any, lengths: Any, firsts: Any) -> "SequenceTable":
        """Sequences without pairs, their pieces named by where they start."""
        columns = [np.asarray(column, dtype=np.int64) for column in (owners, starts, lengths, firsts)]
        names = block.keys(columns[0], columns[1])
        return cls(owners=columns[0], starts=columns[1], lengths=columns[2], keys=names, firsts=columns[3])

    @property
    def begins(self) -> npt.NDArray[np.bool_]:
        """Fragments that begin a sequence, (F,)."""
        flags = np.zeros(len(self.owners), dtype=bool)
        flags[self.firsts[:-1]] = True
        return flags

    @property
    def opens(self) -> npt.NDArray[np.bool_]:
        """Fragments with a [CLS] before them, (F,): all but the second segments of pairs."""
        return np.ones(len(self.owners), dtype=bool) if self.pair_labels is None else self.begins

    def costs(self, mask_counts: Indices) -> tuple[Indices, Indices, Indices]:
        """What each sequence takes of a micro-batch: tokens, masked tokens, document slots; (P,) each.

        Args:
            mask_counts: masked tokens of a document of n tokens, at index n, (L + 1,).
        """
        opens, begins = self.opens, self.firsts[:-1]
        if not begins.size:
            return begins, begins, begins
        tokens = self.lengths + 1 + opens
        heads = np.flatnonzero(opens)
        masked = np.zeros(len(opens), dtype=np.int64)
        masked[heads] = mask_counts[np.add.reduceat(tokens, heads)]
        slots = opens.astype(np.int64)
        return np.add.reduceat(tokens, begins), np.add.reduceat(masked, begins), np.add.reduceat(slots, begins)


Composer = Callable[[Block], SequenceTable]
"""A strategy: makes the sequences of a block. Their order does not matter; they are shuffled."""


def spread(firsts: Indices, counts: Indices) -> Indices:
    """The numbers firsts[i], firsts[i] + 1, ..., counts[i] of them, for each i in turn."""
    return np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
