"""The documents of a split, and what is known of its sequences before any block is composed.

A split is the training documents or the held-out ones, by source, each source with its weight. How many document and
mask slots sequences take is learnt from a sample, composed as training composes.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unmask.data.compose import Block, Composition, Sequences, sampler
from unmask.data.stream.blocks import Source
from unmask.errors import CorpusError

__all__ = ["Store", "count_tokens", "sample_sequences", "sources_of"]

# Documents whose sequences are composed to learn how many slots they take.
_SAMPLE = 4096


class Store(Protocol):
    """What the stream reads of a token store; `unmask.data.store.Store` is one."""

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
    def held_out_mask(self, fraction: float) -> npt.NDArray[np.bool_]: ...
    def gather(self, documents: Any, starts: Any, lengths: Any) -> tuple[Any, Any]: ...
    def gather_sentence_starts(self, documents: Any, starts: Any, lengths: Any) -> Any: ...


def sources_of(store: Store, weights: Sequence[Fraction], *, held_out_fraction: float, train: bool) -> list[Source]:
    """The documents of a split by source; empty ones are left out."""
    kept = np.zeros(store.lengths.size, dtype=bool)
    if held_out_fraction:
        kept = store.held_out_mask(held_out_fraction)
    if train:
        kept = ~kept
    sources = []
    for number, weight in enumerate(weights):
        members = np.flatnonzero(store.source_of == number)
        ranks = np.flatnonzero(kept[members] & (store.lengths[members] > 0))
        sources.append(Source(documents=members[ranks], ranks=ranks, weight=weight))
    return sources


def sample_sequences(
    store: Store, composition: Composition, weights: npt.NDArray[np.float64], *, max_length: int
) -> Sequences | None:
    """Sequences of some thousand documents, drawn evenly; None where they follow from the lengths of all.

    Args:
        weights: how often each document comes in an epoch, (N,).
    """
    compose = sampler(composition)
    often = np.cumsum(weights * (store.lengths > 0))
    if compose is None or not often.size or not often[-1]:
        return None
    places = np.linspace(0, often[-1], min(_SAMPLE, often.size), endpoint=False)
    chosen = np.searchsorted(often, places, side="right")
    chosen = chosen[np.argsort(store.source_of[chosen], kind="stable")]
    return compose(
        Block(
            documents=chosen,
            lengths=store.lengths[chosen].astype(np.int64),
            sources=store.source_of[chosen].astype(np.int64),
            source_epochs=np.zeros(chosen.size, dtype=np.int64),
            ranks=np.arange(chosen.size),
            max_length=max_length,
            seed=0,
            text=store,
        )
    )


def count_tokens(
    store: Store,
    sources: Sequence[Source],
    sample: Sequences | None,
    *,
    max_length: int,
    held_out_fraction: float,
    needed: int,
) -> int:
    """Tokens of an epoch with their [CLS] and [SEP], extrapolated from the sample where sequences are composed.

    Args:
        needed: tokens of a micro-batch if the split must fill one, else 0.
    Raises:
        CorpusError: no documents, or fewer tokens than needed.
    """
    room = max_length - 2
    documents, counted = 0, Fraction(0)
    for source in sources:
        lengths = store.lengths[source.documents].astype(np.int64)
        documents += lengths.size if source.weight else 0
        specials = 2 * -(-lengths // room) if sample is None else 0
        counted += source.weight * int((lengths + specials).sum())
    if sample is not None:
        counted *= Fraction(int((sample.lengths + 1 + sample.opens).sum()), max(1, int(sample.lengths.sum())))
    tokens = int(counted)
    if not documents:
        raise CorpusError(
            f"stream: the {'train' if needed else 'held_out'} split must hold documents, none of "
            f"{store.lengths.size} is in it; add text, cut it into more documents when it is prepared (--split-at, "
            f"--blank-line-documents), or change data.held_out ({held_out_fraction}) or data.weights"
        )
    if needed and not tokens:
        raise CorpusError(
            f"stream: data.compose makes no sequence of the {documents} documents; they are too short for it, so join "
            "them to longer ones or choose another data.compose"
        )
    if tokens < needed:
        # a micro-batch holds one piece at least
        way_out = f", or lower train.micro_batch_tokens to at most {tokens}" if tokens >= max_length else ""
        raise CorpusError(
            f"stream: the corpus has {tokens} tokens in {documents} documents, fewer than one micro-batch of "
            f"{needed}; add text{way_out}"
        )
    return tokens
