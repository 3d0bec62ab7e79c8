"""The input and output of composition: a block of documents, and the sequences of their pieces.

    block      the documents that are shuffled together, by source                  n documents
    piece      consecutive tokens of one document                                   P pieces
    sequence   pieces that share room for L tokens: pieces firsts[q] : firsts[q + 1]  Q sequences

In the micro-batch a sequence reads [CLS] piece [SEP] [CLS] piece [SEP] ... In scope `document`, attention sees every
piece as a document. In scope `sequence`, it sees the whole sequence as one document, which keeps only the first [CLS].
A pair is [CLS] A [SEP] B [SEP], one document in either scope. Both scopes count two special tokens for every piece, so
they hold the same text. No sequence counts more than L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unmask.data.randomness import Uint64Array, philox_4x32, piece_keys, site_key

__all__ = ["Block", "Composer", "Indices", "Sequences", "Text", "ranges"]

Indices = npt.NDArray[np.int64]

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


class Text(Protocol):
    """The part of a token store that composition reads.

    A call names k stretches of documents by store index, first token and number of tokens, (k,) each. It returns their
    T tokens, one stretch after the other.
    """

    def gather(self, documents: Any, starts: Any, lengths: Any) -> tuple[Any, npt.NDArray[np.bool_]]:
        """Return ids (T,), and True where a token begins a word (T,)."""

    def gather_sentence_starts(self, documents: Any, starts: Any, lengths: Any) -> npt.NDArray[np.bool_]:
        """Return True where a token begins a sentence, (T,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """The n documents that are composed together; none is empty.

    Attributes:
        documents: store index of each document, (n,).
        lengths: tokens of each document without special ones, (n,).
        sources: number of each document's source, (n,), ascending.
        readings: how often the document's source was read to its end before, (n,). Without a weight, the epoch.
        ranks: index of the document in its source, (n,).
        max_length: L, tokens that a sequence may count.
        seed: 64-bit seed of the order.
        text: the tokens, for strategies that look at them.
    """

    documents: Indices
    lengths: Indices
    sources: Indices
    readings: Indices
    ranks: Indices
    max_length: int
    seed: int
    text: Text | None = None

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.documents)

    def keys(self, owners: Indices, parts: Indices) -> Uint64Array:
        """Make the keys of pieces, (P,).

        Args:
            owners: index in the block of each piece's document, (P,).
            parts: a number that differs between the pieces of one document, (P,).
        """
        return piece_keys(self.readings[owners], self.sources[owners], self.ranks[owners], parts)

    def draws(self, site: int) -> Uint64Array:
        """Draw 64 random bits for each document at a site, (n,)."""
        keys = self.keys(np.arange(len(self)), np.zeros(len(self), dtype=np.int64))
        words = philox_4x32(keys & _LOW, keys >> _32, 0, 0, *site_key(self.seed, site))
        return words[0] << _32 | words[1]

    def by_source(self) -> list[Indices]:
        """List the documents of each source as indices in the block; skip sources without documents."""
        edges = np.flatnonzero(np.diff(self.sources)) + 1
        return np.split(np.arange(len(self)), edges) if len(self) else []

    def require_text(self) -> Text:
        """Return the tokens, for a strategy that looks at them."""
        assert self.text is not None
        return self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Q sequences made of P pieces of a block's documents. Stored files use the names of these fields.

    Attributes:
        owners: index in the block of each piece's document, (P,).
        starts: first token of each piece in its document, (P,).
        lengths: tokens of each piece without special ones, at least 1, (P,).
        keys: of the pieces, uint64 (P,); addresses of their masks and dropout.
        firsts: sequence q holds pieces firsts[q] : firsts[q + 1], (Q + 1,).
        pair_labels: 0 where the second segment follows the first, else 1, (Q,); None where sequences are not pairs.
    """

    owners: Indices
    starts: Indices
    lengths: Indices
    keys: Uint64Array
    firsts: Indices
    pair_labels: Indices | None = None

    @classmethod
    def of(cls, block: Block, owners: Any, starts: Any, lengths: Any, firsts: Any) -> "Sequences":
        """Make sequences without pairs; the key of a piece comes from its first token's place in the document."""
        owners, starts, lengths, firsts = (np.asarray(x, dtype=np.int64) for x in (owners, starts, lengths, firsts))
        return cls(owners=owners, starts=starts, lengths=lengths, keys=block.keys(owners, starts), firsts=firsts)

    @property
    def begins(self) -> npt.NDArray[np.bool_]:
        """True for pieces that begin a sequence, (P,)."""
        flags = np.zeros(len(self.owners), dtype=bool)
        flags[self.firsts[:-1]] = True
        return flags

    @property
    def opens(self) -> npt.NDArray[np.bool_]:
        """True for pieces with a [CLS] before them, (P,): all but the second segments of pairs."""
        return np.ones(len(self.owners), dtype=bool) if self.pair_labels is None else self.begins

    def costs(self, mask_counts: Indices) -> tuple[Indices, Indices, Indices]:
        """Count what each sequence uses of a micro-batch: tokens, masked tokens and document slots, (Q,) each.

        Args:
            mask_counts: at index n, the masked tokens of a document of n tokens, (L + 1,).
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


Composer = Callable[[Block], Sequences]
"""A strategy: a function that makes the sequences of a block, in any order, since the stream shuffles them."""


def ranges(firsts: Indices | int, counts: Indices) -> Indices:
    """Concatenate, for each i, the counts[i] numbers firsts[i], firsts[i] + 1, ...; shape (sum of counts,).

    One number for `firsts` begins all of them.
    """
    return np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
