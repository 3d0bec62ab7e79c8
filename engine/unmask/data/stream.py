"""The stream: global micro-batch number -> PackedBatch, as a pure function of (store, configuration).

    batches(start, rank, world_size) yields micro-batches start + rank, start + rank + world_size, ...

so any number of ranks and workers, and any number of restarts, sees the same batches. Where number g lies is
a cursor (pass, window, k). Windows hold different numbers of micro-batches, so the stream keeps a table of
where those it met begin; `remember` extends it from a checkpoint or from batches made elsewhere. Without it,
seeking plans every window before once, about 1.5 us a document.

What the numbers depend on is in `fingerprint`; a run that is continued must find the same one.

Sequences are composed, masked and only then given their scope: in scope `sequence` the [CLS] of all fragments but the
first of a sequence are taken out again. So both scopes hold the same text under the same masks.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unmask.batch import Cursor, PackedBatch, assemble
from unmask.data.compose import SequenceTable, Window, composer, sampler
from unmask.data.masking import Masker, NextToken
from unmask.data.plan import Planner, WindowPlan
from unmask.data.randomness import mix64
from unmask.data.similar_words import SimilarWords
from unmask.data.stream_config import StreamConfig
from unmask.data.window_table import WindowTable
from unmask.data.windows import Source
from unmask.errors import CorpusError

__all__ = ["Store", "Stream", "StreamConfig"]

_FORMAT = 2
# Documents whose sequences are composed to learn how many document and mask slots they take.
_SAMPLE = 4096
# Evaluation is one fixed pass, the same for every run over a store, whatever the seed of training.
_HELD_OUT_SEED = 0x6865_6C64_6F75_74


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
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def held_out_mask(self, fraction: float) -> npt.NDArray[np.bool_]: ...
    def gather(self, documents: Any, starts: Any, lengths: Any) -> tuple[Any, Any]: ...
    def gather_sentence_starts(self, documents: Any, starts: Any, lengths: Any) -> Any: ...


class _Flat(NamedTuple):
    """A micro-batch as NumPy arrays, to travel between processes; `Stream.assemble` completes it."""

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    word_starts: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int8] | None
    pair_labels: npt.NDArray[np.int64] | None
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    cursor: Cursor


class Stream:
    """Packed, masked micro-batches over a store: endless for training, one fixed pass if held out."""

    def __init__(
        self,
        store: Store,
        config: StreamConfig,
        ordinary_ids: npt.ArrayLike,
        *,
        split: Literal["train", "held_out"] = "train",
        similar_words: SimilarWords | None = None,
    ) -> None:
        """Lay out the passes.

        Args:
            store: the tokens.
            config: capacities, seed, composition and masking.
            ordinary_ids: ids that a random replacement is drawn from.
            split: which documents; held-out ones come in one pass whose order and masks do not depend on
                `config.seed`, each by itself whatever is composed for training, unless that is pairs.
            similar_words: the table that masking `mac` replaces words from.
        Raises:
            ConfigError: capacities that cannot hold a piece, a masking rule out of range, or a weight for a source
                that is not there.
            CorpusError: no documents in the split, or fewer tokens than one micro-batch to train on.
        """
        self.store = store
        self.config = config
        self.split = split
        self._endless = split == "train"
        seed = config.seed & ((1 << 64) - 1) if self._endless else _HELD_OUT_SEED
        special = store.special_ids
        self._cls, self._sep, self._pad = special["cls"], special["sep"], special["pad"]
        self._masker: Masker | NextToken = NextToken()
        if config.masking != "next_token":
            self._masker = Masker(
                seed=seed,
                rate=config.mask_rate,
                split=config.mask_split,
                special_ids=list(special.values()),
                ordinary_ids=ordinary_ids,
                mask_id=special["mask"],
                vocab_size=store.vocab_size,
                masking=config.masking,
                similar_words=similar_words,
            )
        counts = self._masker.counts(np.arange(config.longest + 1), rate=config.highest_rate)
        weights = config.composition.source_weights(store.sources)
        # From all documents as training composes them, so that both splits have the same shapes.
        sample = self._sample(weights)
        self.capacities = config.capacities(
            store.lengths,
            counts,
            weights=np.array(weights, dtype=np.float64)[store.source_of],
            sample=sample,
        )
        self.composition = config.composition if self._endless else config.composition.held_out()
        sources = self._sources(self.composition.source_weights(store.sources))
        self.tokens_per_pass = self._count_tokens(sources, sample)
        self._planner = Planner(
            sources,
            store.lengths,
            self.capacities,
            counts,
            seed=seed,
            compose=composer(self.composition),
            text=store,
        )
        self.fingerprint = self._fingerprint(seed, ordinary_ids, similar_words)
        self._table = WindowTable()
        self._planned: tuple[int, WindowPlan] | None = None

    def _sample(self, weights: list[Fraction]) -> SequenceTable | None:
        """Sequences of some thousand documents, as often from each source as the weights say; None where all
        documents are looked at instead.
        """
        compose = sampler(self.config.composition)
        if compose is None or not self.store.lengths.any():
            return None
        often = np.array(weights, dtype=np.float64)[self.store.source_of] * (self.store.lengths > 0)
        places = np.linspace(0, often.sum(), min(_SAMPLE, often.size), endpoint=False)
        chosen = np.searchsorted(np.cumsum(often), places, side="right")
        chosen = chosen[np.argsort(self.store.source_of[chosen], kind="stable")]
        return compose(
            Window(
                documents=chosen,
                lengths=self.store.lengths[chosen].astype(np.int64),
                sources=self.store.source_of[chosen].astype(np.int64),
                turns=np.zeros(chosen.size, dtype=np.int64),
                ranks=np.arange(chosen.size),
                longest=self.config.longest,
                seed=0,
                text=self.store,
            )
        )

    def _sources(self, weights: list[Fraction]) -> list[Source]:
        kept = np.zeros(self.store.lengths.size, dtype=bool)
        if self.config.held_out_fraction:
            kept = self.store.held_out_mask(self.config.held_out_fraction)
        if self._endless:
            kept = ~kept
        sources = []
        for number, weight in enumerate(weights):
            members = np.flatnonzero(self.store.source_of == number)
            ranks = np.flatnonzero(kept[members] & (self.store.lengths[members] > 0))
            sources.append(Source(documents=members[ranks], ranks=ranks, weight=weight))
        return sources

    def _count_tokens(self, sources: list[Source], sample: SequenceTable | None) -> int:
        """Tokens of a pass with their [CLS] and [SEP], extrapolated where sequences are composed; refuses a split
        that is too small.
        """
        room = self.capacities.longest - 2
        lengths = [self.store.lengths[source.documents].astype(np.int64) for source in sources]
        documents = sum(length.size for length, source in zip(lengths, sources, strict=True) if source.weight)
        counted = Fraction(0)
        for length, source in zip(lengths, sources, strict=True):
            counted += source.weight * int((length + (2 * -(-length // room) if sample is None else 0)).sum())
        if sample is not None and sample.lengths.size:
            counted *= Fraction(int((sample.lengths + 1 + sample.opens).sum()), int(sample.lengths.sum()))
        tokens = int(counted)
        if not documents:
            raise CorpusError(
                f"stream: the {self.split} split must hold documents, none of {self.store.lengths.size} is in it; "
                f"add text or change data.held_out ({self.config.held_out_fraction}) or data.weights"
            )
        if self._endless and tokens < self.capacities.tokens:
            raise CorpusError(
                f"stream: the corpus has {tokens} tokens in {documents} documents, fewer than one micro-batch of "
                f"{self.capacities.tokens}; add text, or lower train.micro_batch_tokens to at most {tokens}"
            )
        return tokens

    def _fingerprint(self, seed: int, ordinary_ids: npt.ArrayLike, similar_words: SimilarWords | None) -> str:
        ordinary = np.ascontiguousarray(ordinary_ids, dtype=np.int64)
        identity = {
            "format": _FORMAT,
            "store": self.store.fingerprint,
            "capacities": asdict(self.capacities),
            "seed": seed,
            "mask_rate": self.config.mask_rate,
            "mask_rate_end": [self.config.mask_rate_end, self.config.mask_rate_over],
            "mask_split": list(self.config.mask_split),
            "masking": self.config.masking,
            "similar_words": None if similar_words is None else similar_words.hash,
            "static_masks": self.config.static_masks,
            "held_out_fraction": self.config.held_out_fraction,
            "split": self.split,
            "composition": asdict(self.composition),
            "ordinary_ids": hashlib.sha256(ordinary.tobytes()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def batches(self, start: int = 0, *, rank: int = 0, world_size: int = 1) -> Iterator[PackedBatch]:
        """Yield micro-batches start + rank, start + rank + world_size, ...; without end when training."""
        for flat in self.flat_batches(start + rank, world_size):
            yield self.assemble(flat)

    def flat_batches(self, first: int, step: int) -> Iterator[_Flat]:
        """The same as NumPy arrays: numbers first, first + step, ..."""
        index = first
        while (flat := self._materialise(index)) is not None:
            yield flat
            index += step

    def assemble(self, flat: _Flat) -> PackedBatch:
        """Give a flat batch its static capacities, as tensors."""
        return assemble(
            flat.ids,
            flat.lengths,
            keys=flat.keys,
            tokens=self.capacities.tokens,
            sequences=self.capacities.sequences,
            longest=self.capacities.longest,
            pad_id=self._pad,
            segments=flat.segments,
            word_starts=flat.word_starts,
            pair_labels=flat.pair_labels,
            masked=flat.rows,
            labels=flat.labels,
            masked_capacity=self.capacities.masked,
            cursor=flat.cursor,
        )

    def locate(self, index: int) -> Cursor:
        """Return where global micro-batch `index` lies.

        Raises:
            ValueError: a negative index.
            IndexError: past the end of the held-out pass.
        """
        if index < 0:
            raise ValueError(f"stream: index must be at least 0, got {index}")
        # The nearest known window at or before the index; from there on, every window has to be planned once.
        window, first = self._table.at_or_before(index)
        while self._endless or window < self._planner.windows:
            count = len(self._plan(window))
            self._table.learn(window + 1, first + count)
            if index < first + count:
                pass_, number = divmod(window, self._planner.windows)
                return Cursor(pass_, number, index - first)
            window, first = window + 1, first + count
        raise IndexError(f"stream: index must be below {first}, the micro-batches of the held-out pass, got {index}")

    def remember(self, index: int, cursor: Cursor) -> None:
        """Learn that `index` lies at `cursor`, so that no window before it has to be planned.

        The pair comes from a batch or a checkpoint of a stream with this `fingerprint`.
        """
        self._table.learn(cursor.pass_ * self._planner.windows + cursor.window, index - cursor.k)

    def _plan(self, window: int) -> WindowPlan:
        if self._planned is None or self._planned[0] != window:
            pass_, number = divmod(window, self._planner.windows)
            again = self.config.static_masks
            self._planned = window, self._planner.plan(pass_ % again if again else pass_, number)
        return self._planned[1]

    def _materialise(self, index: int) -> _Flat | None:
        try:
            cursor = self.locate(index)
        except IndexError:
            return None
        plan = self._plan(cursor.pass_ * self._planner.windows + cursor.window)
        pieces = slice(plan.bounds[cursor.k], plan.bounds[cursor.k + 1])
        opens, lengths = plan.opens[pieces], plan.lengths[pieces]
        sizes = lengths + 1 + opens
        ids, word_starts = self._row(plan.documents[pieces], plan.starts[pieces], lengths, opens)
        documents = np.flatnonzero(opens)
        keys = plan.keys[pieces][documents]
        document_sizes = np.add.reduceat(sizes, documents)
        rate = self.config.rate_at(index if self._endless else 0)
        masked = self._masker(ids, document_sizes, keys, word_starts, rate=rate)
        flat = _Flat(
            ids=masked.ids,
            lengths=document_sizes,
            keys=self._dropout_keys(keys, cursor.pass_).view(np.int64),
            word_starts=word_starts,
            segments=None if plan.pair_labels is None else np.repeat((~opens).astype(np.int8), sizes),
            pair_labels=None if plan.pair_labels is None else plan.pair_labels[pieces][documents],
            rows=masked.rows,
            labels=masked.labels,
            cursor=cursor,
        )
        return _joined(flat, plan.begins[pieces]) if self.composition.scope == "sequence" else flat

    def _dropout_keys(self, keys: npt.NDArray[np.uint64], pass_: int) -> npt.NDArray[np.uint64]:
        """Names for dropout: a pass that comes again has the names and masks it had, but drops other elements."""
        turn = pass_ // self.config.static_masks if self.config.static_masks else 0
        return mix64(keys + np.uint64(turn)) if turn else keys

    def _row(
        self,
        documents: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        opens: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Ids and word starts of fragments, each with its [SEP] and, where it opens a document, its [CLS]."""
        content, begins = self.store.gather(documents, starts, lengths)
        sizes = lengths + 1 + opens
        ends = np.cumsum(sizes)
        cls = (ends - sizes)[opens]
        inside = np.ones(ends[-1], dtype=bool)
        inside[cls] = False
        inside[ends - 1] = False
        ids = np.empty(ends[-1], dtype=content.dtype)
        ids[inside] = content
        ids[cls] = self._cls
        ids[ends - 1] = self._sep
        # [CLS] and [SEP] are words of their own, and so is what a cut leaves at the front of a piece.
        word_starts = ~inside
        word_starts[inside] = begins
        word_starts[ends - 1 - lengths] = True
        return ids, word_starts


def _joined(flat: _Flat, begins: npt.NDArray[np.bool_]) -> _Flat:
    """The documents of each sequence as one, which has the first [CLS] only."""
    kept = np.ones(flat.ids.size, dtype=bool)
    kept[(np.cumsum(flat.lengths) - flat.lengths)[~begins]] = False
    return flat._replace(
        ids=flat.ids[kept],
        lengths=np.add.reduceat(flat.lengths - ~begins, np.flatnonzero(begins)),
        keys=flat.keys[begins],
        word_starts=flat.word_starts[kept],
        # What a [CLS] that goes was to predict, a causal model's first token of a document, the [SEP] before it does.
        rows=(np.cumsum(kept) - 1)[flat.rows],
    )
