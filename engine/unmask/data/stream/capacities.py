"""The sizes of micro-batches, which follow from the settings and the corpus.

A micro-batch has fixed capacities: T tokens, S document slots and M slots for masked tokens. Where S and M are not
given they follow from the corpus: the mean number in T tokens, three standard deviations, and 4 % (S) or 1 % (M) more.
Mean and deviation come from the lengths of all documents, or from a sample that is composed as training composes.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from unmask.config.schema import CompositionConfig, StreamConfig
from unmask.config.settings import counted
from unmask.data.compose import Block, PairTask, Sequences, sampler
from unmask.data.compose.sequences import Indices
from unmask.data.stream.blocks import Source, TokenStore
from unmask.data.stream.plan import Capacities
from unmask.errors import ConfigError, CorpusError
from unmask.limits import SHORTEST, SHORTEST_PAIR

__all__ = ["capacities", "compose_sample", "count_tokens", "times_read"]

_DEVIATIONS = 3.0
# A document slot costs little; a slot for a masked token is a row of the output projection.
_MORE_DOCUMENTS, _MORE_MASKED = 1.04, 1.01
# documents of the sample
_SAMPLE = 4096
# documents that are summed at once, and runs of neighbours that are sorted in memory
_SUMMED, _FEW_RUNS = 1 << 20, 1 << 16


def times_read(composition: CompositionConfig, store: TokenStore) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return the lengths of documents of a store, and how often an epoch reads a document of each, (K,) both."""
    lengths: list[Indices] = [np.zeros(0, np.int64)]
    often: list[npt.NDArray[np.float64]] = [np.zeros(0)]
    for number, weight in enumerate(composition.source_weights(store.sources)):
        counts = store.length_counts(number)
        lengths.append(counts.lengths)
        often.append(np.asarray(counts.counts * float(weight)))
    found, place = np.unique(np.concatenate(lengths), return_inverse=True)
    read = np.bincount(place, weights=np.concatenate(often), minlength=found.size)
    return found, read.astype(np.float64)


def compose_sample(
    composition: CompositionConfig, store: TokenStore, *, max_length: int, pair_task: PairTask
) -> Sequences | None:
    """Compose some thousand documents, spread evenly over those that an epoch reads.

    Both splits use the same sample, so their micro-batches have the same shapes. Returns None if the sizes of
    sequences follow from the lengths of documents.
    """
    compose = sampler(composition, pair_task)
    if compose is None:
        return None
    chosen = _spread(composition, store)
    if not chosen.size:
        return None
    chosen = chosen[np.argsort(store.source_of[chosen], kind="stable")]
    return compose(
        Block(
            documents=chosen,
            lengths=store.lengths[chosen].astype(np.int64),
            sources=store.source_of[chosen].astype(np.int64),
            readings=np.zeros(chosen.size, dtype=np.int64),
            ranks=np.arange(chosen.size),
            max_length=max_length,
            seed=0,
            text=store,
        )
    )


def _spread(composition: CompositionConfig, store: TokenStore) -> Indices:
    """Return documents that are spread evenly over those that an epoch reads, each as often as it is read.

    Document j is read w_j times, and W_j = w_0 + ... + w_j. The documents are those with the first W_j above each of
    evenly spaced numbers. Where all w are multiples of 1/1024, sums are exact in any order, so each run of neighbours
    of a source is one step of W. Else W is summed document by document, as it always was: another order would round
    otherwise and might choose another document.
    """
    weights = [float(weight) for weight in composition.source_weights(store.sources)]
    members = [store.members(number) for number in range(len(weights))]
    runs = sum(len(one.firsts) for one in members)
    exact = all((weight * 1024).is_integer() for weight in weights)
    empty = any(0 in store.length_counts(number).lengths[:1] for number in range(len(weights)))
    if exact and not empty and runs <= _FEW_RUNS:
        firsts = np.concatenate([one.firsts for one in members])
        sizes = np.concatenate([np.diff(one.befores, append=one.size) for one in members])
        weight = np.repeat(weights, [len(one.firsts) for one in members])
        order = np.argsort(firsts)
        firsts, weight, read = firsts[order], weight[order], (sizes * weight)[order]
        ends = np.cumsum(read)
        places = _places(float(ends[-1]) if ends.size else 0.0, store.lengths.size)
        run = np.searchsorted(ends, places, side="right")
        return np.asarray(firsts[run] + ((places - (ends - read)[run]) // weight[run]).astype(np.int64))
    total = 0.0
    for _, often in _often(store, weights):
        total = float(often[-1])
    places = _places(total, store.lengths.size)
    chosen = [np.zeros(0, np.int64)]
    done = 0
    for first, often in _often(store, weights):
        here = np.searchsorted(places, often[-1], side="left")
        chosen.append(first + np.searchsorted(often, places[done:here], side="right"))
        done = here
    return np.concatenate(chosen)


def _places(total: float, documents: int) -> npt.NDArray[np.float64]:
    return np.linspace(0, total, min(_SAMPLE, documents), endpoint=False) if total else np.zeros(0)


def _often(store: TokenStore, weights: Sequence[float]) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Yield the first document of each part of a store, and how often it and all before each are read."""
    table, total = np.array(weights), 0.0
    for first in range(0, store.lengths.size, _SUMMED):
        part = slice(first, first + _SUMMED)
        often = table[store.source_of[part]] * (store.lengths[part] > 0)
        often[0] += total
        often = np.cumsum(often)
        total = float(often[-1])
        yield first, often


def capacities(
    config: StreamConfig,
    composition: CompositionConfig,
    lengths: npt.NDArray[np.integer],
    mask_counts: npt.NDArray[np.int64],
    *,
    masked: int | None = None,
    weights: npt.NDArray[np.float64] | None = None,
    sample: Sequences | None = None,
) -> Capacities:
    """Compute the capacities of a micro-batch.

    Args:
        config: T, L, and S if it is given.
        composition: how documents become sequences.
        lengths: tokens of documents, without special ones, (N,).
        mask_counts: masked tokens of a piece of n tokens, special ones included, at index n, (L + 1,).
        masked: M. Default: from the corpus. Short pieces have more masked tokens than the rate says, since each has
            at least one.
        weights: how often an epoch reads documents of each of the lengths, (N,). Default: once.
        sample: the result of `compose_sample`. Default: the even pieces of all documents.
    Raises:
        ConfigError: T, S, M or L is too small for one sequence.
    """
    max_length, tokens = config.max_length, config.micro_batch_tokens
    if composition.strategy == "pairs" and max_length < SHORTEST_PAIR:
        raise ConfigError(f"stream: max_length must be at least {SHORTEST_PAIR} for pairs, got {max_length}")
    if tokens < max_length:
        raise ConfigError(
            f"stream: micro_batch_tokens must be at least max_length ({max_length}) to hold one piece, got {tokens}"
        )
    sequences = config.max_documents
    fewest, fewest_masked = _fewest(composition, tokens, mask_counts)
    if sample is None:
        sizes, count = np.arange(max_length + 1), _pieces_by_size(lengths, max_length, weights)
        in_masked, slots = mask_counts, np.ones_like(sizes)
    else:
        sizes, in_masked, slots = sample.costs(mask_counts)
        count = np.ones(sizes.size)
    if sequences is None:
        sequences = max(fewest, _room(tokens, sizes, count, slots, _MORE_DOCUMENTS))
    if sequences < fewest:
        raise ConfigError(
            f"stream: max_documents must be at least {fewest}, the documents of one sequence and the inert documents "
            f"that fill up {tokens} tokens, got {sequences}"
        )
    if masked is None:
        masked = min(tokens, max(fewest_masked, _room(tokens, sizes, count, in_masked, _MORE_MASKED)))
    if masked < fewest_masked:
        raise ConfigError(
            f"stream: {masked} masked tokens of a micro-batch are too few for one piece of max_length ({max_length}), "
            f"which has {fewest_masked}; give at least that many"
        )
    return Capacities(tokens=tokens, sequences=sequences, masked=masked, max_length=max_length)


def count_tokens(
    config: StreamConfig, store: TokenStore, sources: Sequence[Source], sample: Sequences | None, *, needed: int
) -> int:
    """Count the tokens of an epoch with their [CLS] and [SEP]; with a sample, extrapolate from it.

    Args:
        config: the maximum length.
        store: the documents.
        sources: those of the split.
        sample: the result of `compose_sample`.
        needed: tokens of a micro-batch if the split must fill one, else 0.
    Raises:
        CorpusError: no documents, or fewer tokens than needed.
    """
    room = config.max_length - 2
    documents, weighted = 0, Fraction(0)
    for source in sources:
        lengths, counts = source.lengths
        documents += source.documents.size if source.weight else 0
        specials = 2 * -(-lengths // room) if sample is None else 0
        weighted += source.weight * int((counts * (lengths + specials)).sum())
    if sample is not None:
        weighted *= Fraction(int((sample.lengths + 1 + sample.opens).sum()), max(1, int(sample.lengths.sum())))
    tokens = int(weighted)
    if not documents:
        other = ""
        if store.lengths.size > 1:
            other = f", or change stream.held_out_fraction ({config.held_out_fraction}) or composition.weights"
        raise CorpusError(
            f"stream: the {'train' if needed else 'held_out'} split must hold documents, none of {store.lengths.size} "
            "is in it; add text, cut it into more documents when it is prepared (--split-at, --blank-line-documents, "
            f"or for a document a line: jq -cR '{{text: .}}' TEXT.txt > TEXT.jsonl){other}"
        )
    if needed and not tokens:
        raise CorpusError(
            f"stream: composition.strategy makes no sequence of the {documents} documents; they are too short for it, "
            "so join them to longer ones or choose another composition.strategy"
        )
    if tokens < needed:
        # a micro-batch holds one piece at least
        way_out = f", or lower stream.micro_batch_tokens to at most {tokens}" if tokens >= config.max_length else ""
        raise CorpusError(
            f"stream: the corpus has {tokens} tokens in {counted(documents, 'document')}, fewer than one "
            f"micro-batch of {needed}; add text{way_out}"
        )
    return tokens


def _fewest(composition: CompositionConfig, tokens: int, mask_counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Count the fewest slots for documents and for masked tokens that hold any sequence alone in a micro-batch."""
    max_length = mask_counts.size - 1
    # A document of 3 tokens alone leaves the most room for inert documents.
    alone = 1 + -(-(tokens - SHORTEST) // max_length)
    if not composition.joins:
        return alone, int(mask_counts[-1])
    # A sequence may be made of the shortest documents, each with a masked token.
    most = max_length // SHORTEST
    share = (mask_counts[SHORTEST:] / np.arange(SHORTEST, max_length + 1)).max()
    return max(alone, most + -(-(tokens - most * SHORTEST) // max_length)), min(tokens, ceil(share * max_length))


def _pieces_by_size(
    lengths: npt.NDArray[np.integer], max_length: int, weights: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """Count the even pieces of n tokens, special ones included, of all documents, at index n, (L + 1,)."""
    content = lengths[lengths > 0].astype(np.int64)
    often = np.ones(content.size) if weights is None else weights[lengths > 0]
    parts = -(-content // (max_length - 2))
    size, larger = np.divmod(content, parts)
    small = np.bincount(size + 2, weights=often * (parts - larger), minlength=max_length + 2)
    large = np.bincount(size + 3, weights=often * larger, minlength=max_length + 2)
    return np.asarray((small + large)[: max_length + 1], dtype=np.float64)


def _room(
    tokens: int,
    sizes: npt.NDArray[np.int64],
    pieces: npt.NDArray[np.float64],
    each: npt.NDArray[np.int64],
    more: float,
) -> int:
    """Compute the slots that a micro-batch needs, a multiple of 16.

    Of each kind of piece, (kinds,): `sizes` tokens, `pieces` of them, and `each` the slots that one takes. With
    a = sum(each) / sum(sizes) over all pieces, a micro-batch of T `tokens` needs T a slots on average, times `more`. It
    holds about n = T / mean(sizes) pieces, so the standard deviation of the need is sqrt(n) that of each - a size.
    """
    count = pieces.sum()
    if not count:
        return 16
    share = (pieces * each).sum() / (pieces * sizes).sum()
    variance = (pieces * (each - share * sizes) ** 2).sum() / count
    drawn = tokens * count / (pieces * sizes).sum()
    return ceil((more * share * tokens + _DEVIATIONS * sqrt(drawn * variance) + 2) / 16) * 16
