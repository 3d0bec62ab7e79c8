"""Shuffle blocks: which documents are shuffled together, and in which order they come, epoch by epoch.

    reading   the n documents of a source in a pseudo-random order, another order for each reading
    epoch     from every source as many documents as its weight w says: documents floor(epoch w n) to
              floor((epoch + 1) w n) of its readings, taken one after the other
    group     1,024 consecutive documents of one source; group i of g stands at (i + 1/2) / g of the epoch, so that
              sources mix in proportion
    block     consecutive groups of all sources: at least 64, and enough for 256 micro-batches on average; or the whole
              epoch

With weight 1 an epoch reads a source once; with 2 twice, in two orders; with 1/2 it takes the first half of a reading,
and the next epoch the other half. All of it is a function of (seed, epoch, block): any block is known without the
blocks before it.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unmask.data.compose.sequences import Block, Indices, Text, ranges
from unmask.data.documents import Chosen, LengthCounts, Members, Selection
from unmask.data.randomness import ORDER, mix64, site_key

__all__ = ["BlockStarts", "Permutation", "ShuffleBlocks", "Source", "TokenStore", "sources_of"]

GROUP_DOCUMENTS = 1024
_MIN_GROUPS = 64
_MEAN_BATCHES = 256

_ROUNDS = 6
_LOOKED_AT = 1 << 20


class TokenStore(Text, Protocol):
    """What the stream reads of a token store; `unmask.data.store.Store` is one. N documents.

    `members` and `length_counts` describe the documents of a source, by its number. `held_out` chooses the given share
    of the documents. `count_ids` counts each id in documents (n,), (V,).
    """

    @property
    def sources(self) -> list[str]: ...
    @property
    def lengths(self) -> npt.NDArray[np.int32]: ...
    @property
    def source_of(self) -> npt.NDArray[np.int16]: ...
    @property
    def special_ids(self) -> dict[str, int]: ...
    @property
    def added_special_ids(self) -> list[int]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def members(self, source: int) -> Members: ...
    def length_counts(self, source: int) -> LengthCounts: ...
    def held_out(self, fraction: float) -> Chosen: ...
    def count_ids(self, documents: Indices) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The n documents of a source that are in a split.

    Attributes:
        documents: the documents; each has a rank, its index in its source.
        lengths: how many of them have each length.
        weight: how often an epoch reads the source.
    """

    documents: Selection
    lengths: LengthCounts
    weight: Fraction = Fraction(1)


def sources_of(
    store: TokenStore, weights: Sequence[Fraction], *, held_out_fraction: float, train: bool
) -> list[Source]:
    """Find the documents of a split, by source; documents without tokens are left out.

    Args:
        store: the documents.
        weights: of each source.
        held_out_fraction: share of the documents kept for evaluation.
        train: the documents to train on, else the held-out ones.
    """
    chosen = store.held_out(held_out_fraction) if held_out_fraction else Chosen()
    all_but = chosen.all_but is not train
    # the listed documents of each source, still ascending
    order = np.argsort(chosen.sources, kind="stable")
    edges = np.searchsorted(chosen.sources[order], np.arange(len(weights) + 1))
    sources = []
    for number, weight in enumerate(weights):
        members, counts = store.members(number), store.length_counts(number)
        places = order[edges[number] : edges[number + 1]]
        own = chosen.documents[places]
        lengths = LengthCounts.of(chosen.lengths[places])
        if all_but:
            lengths = counts.without(lengths)
        if len(lengths.lengths) and lengths.lengths[0] == 0:
            empty = _empty(store, members)
            own = np.union1d(own, empty) if all_but else np.setdiff1d(own, empty)
            lengths = LengthCounts(lengths.lengths[1:], lengths.counts[1:])
        documents = Selection(members, members.ranks(own), all_but=all_but)
        sources.append(Source(documents=documents, lengths=lengths, weight=weight))
    return sources


def _empty(store: TokenStore, members: Members) -> Indices:
    """Return the documents of a source that have no token, which a store that `prepare` made has not."""
    found = [np.zeros(0, np.int64)]
    for first in range(0, members.size, _LOOKED_AT):
        documents = members.at(np.arange(first, min(first + _LOOKED_AT, members.size)))
        found.append(documents[store.lengths[documents] == 0])
    return np.concatenate(found)


class ShuffleBlocks:
    """Lays out the documents of a split in blocks.

    Attributes:
        count: blocks of an epoch. It is the same for every epoch, so block b of epoch e has the number
            e * count + b, whatever comes before it.
    """

    def __init__(self, sources: Sequence[Source], lengths: npt.NDArray[np.integer], *, tokens: int, seed: int) -> None:
        """Lay out the groups of an epoch.

        Args:
            sources: at least one with documents and a weight above 0.
            lengths: tokens of every document of the store, without special ones, (N,).
            tokens: T, tokens of a micro-batch.
            seed: 64-bit seed of the order.
        """
        self._sources = [(n, source) for n, source in enumerate(sources) if source.documents.size and source.weight]
        self._lengths = lengths
        self._seed = seed
        most = np.array([ceil(source.weight * source.documents.size) for _, source in self._sources])
        counts = -(-most // GROUP_DOCUMENTS)
        owner = np.repeat(np.arange(len(counts)), counts)
        number = ranges(0, counts)
        place = (number + 0.5) / np.repeat(counts, counts)
        order = np.lexsort((owner, place))
        # index in self._sources and number in its source of each group, (groups, 2)
        self._groups = np.stack([owner[order], number[order]], axis=1)
        expected = sum(source.weight * source.lengths.tokens for _, source in self._sources)
        needed = ceil(Fraction(_MEAN_BATCHES * tokens * len(self._groups)) / max(1, expected))
        self.count = max(1, len(self._groups) // max(_MIN_GROUPS, needed))

    def block(self, epoch: int, number: int, *, max_length: int, text: Text | None = None) -> Block:
        """Find the documents of block `number` in [0, count) of an epoch, by source."""
        first, last = (edge * len(self._groups) // self.count for edge in (number, number + 1))
        groups = self._groups[first:last]
        # columns of source, reading, store index and index in the source
        tables: list[Indices] = [np.zeros((4, 0), dtype=np.int64)]
        for slot, (source_number, source) in enumerate(self._sources):
            # The groups of one source stay in order, so those of a block are consecutive.
            own = groups[groups[:, 0] == slot, 1]
            if not own.size:
                continue
            n = source.documents.size
            begin, end = (floor(edge * source.weight * n) for edge in (epoch, epoch + 1))
            places = np.arange(begin + own[0] * GROUP_DOCUMENTS, min(end, begin + (own[-1] + 1) * GROUP_DOCUMENTS))
            for reading in range(begin // n, -(-end // n)):
                inside = places[places // n == reading] - reading * n
                if inside.size:
                    index = Permutation(n, self._seed, ORDER, reading, source_number)(inside)
                    columns = source_number, reading, *source.documents.find(index)
                    tables.append(np.stack(np.broadcast_arrays(*columns)))
        table = np.concatenate(tables, axis=1)
        lengths = self._lengths[table[2]].astype(np.int64)
        if not lengths.all():
            table, lengths = table[:, lengths > 0], lengths[lengths > 0]
        sources, readings, documents, ranks = table
        return Block(
            documents=documents,
            lengths=lengths,
            sources=sources,
            readings=readings,
            ranks=ranks,
            max_length=max_length,
            seed=self._seed,
            text=text,
        )


class Permutation:
    """A pseudo-random permutation of [0, n) that is computed, not stored.

        permutation(i) = walk(feistel(i)),   feistel: (left, right) -> (right, left xor F(right, round key)), 6 rounds

    A Feistel network over b = ceil(log2 n) bits is a permutation of [0, 2**b) whatever F is. Walking restricts it to
    [0, n): the network is applied again while the result is not below n (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains"). Since 2**b < 2 n, this takes fewer than two applications on average. If b is odd, the
    two halves differ by a bit and exchange their widths each round; an even number of rounds brings them back.

    Memory O(1) in n; about 60 ns an index, one core.
    """

    def __init__(self, n: int, seed: int, site: int, *parts: int) -> None:
        """Choose the permutation.

        Args:
            n: elements, at least 1.
            seed: 64-bit seed.
            site: what the permutation is drawn for, a constant of `randomness`.
            parts: further numbers that tell permutations apart, here reading and source.
        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"Permutation: n must be at least 1, got {n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._left_bits, self._right_bits = bits // 2, bits - bits // 2
        keys = [site_key(seed, site, *parts, r) for r in range(_ROUNDS)]
        self._keys = [np.uint64(low | high << 32) for low, high in keys]

    def __call__(self, indices: Any) -> npt.NDArray[np.int64]:
        """Return where `indices` (m,) in [0, n) go, int64 (m,)."""
        out = self._network(np.asarray(indices, dtype=np.uint64))
        limit = np.uint64(self.n)
        astray = np.flatnonzero(out >= limit)
        while astray.size:
            out[astray] = self._network(out[astray])
            astray = astray[out[astray] >= limit]
        return out.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left_bits, right_bits = self._left_bits, self._right_bits
        left = values >> np.uint64(right_bits)
        right = values & np.uint64((1 << right_bits) - 1)
        for key in self._keys:
            # Keep the top bits of the mixed number, which are its best.
            left, right = right, left ^ (mix64(right ^ key) >> np.uint64(64 - left_bits))
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


class BlockStarts:
    """The micro-batches at which blocks begin: known for the first block, which begins at 0, and for those met since.

    Args:
        first: the block from which micro-batches are counted.
    """

    def __init__(self, first: int = 0) -> None:
        self._blocks, self._starts = [first], [0]

    def at_or_before(self, index: int) -> tuple[int, int]:
        """Return the last known block that begins at or before micro-batch `index`, and where it begins."""
        place = bisect.bisect_right(self._starts, index) - 1
        return self._blocks[place], self._starts[place]

    def learn(self, block: int, start: int) -> None:
        """Note that `block` begins at micro-batch `start`.

        Raises:
            ValueError: it is known to begin elsewhere.
        """
        place = bisect.bisect_left(self._blocks, block)
        if place < len(self._blocks) and self._blocks[place] == block:
            known = self._starts[place]
            if known != start:
                raise ValueError(
                    f"stream: block {block} must begin at micro-batch {known}, was said to begin at {start}; "
                    "does the cursor come from another stream?"
                )
            return
        self._blocks.insert(place, block)
        self._starts.insert(place, start)
