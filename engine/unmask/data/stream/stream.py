"""The stream: global micro-batch number -> PackedBatch, as a pure function of (store, configuration).

    batches(start, rank, world_size) yields micro-batches start + rank, start + rank + world_size, ...

so any number of ranks and workers, and any number of restarts, sees the same batches. Where number g lies is
a cursor (epoch, block, k). Blocks hold different numbers of micro-batches, so the stream keeps a table of
where those it met begin; `remember` extends it from a checkpoint or from batches made elsewhere. Without it,
seeking plans every block before once, about 1.5 us a document.

What the numbers depend on is in `fingerprint`; a run that is continued must find the same one.

Sequences are composed, masked and only then given their scope: in scope `sequence` the [CLS] of all pieces but the
first of a sequence are taken out again. So both scopes hold the same text under the same masks.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.batch import Cursor, PackedBatch, assemble
from unmask.data.compose import composer
from unmask.data.compose.stored import StoredSequences
from unmask.data.masking import Masker, MaskRule, NextToken
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.randomness import mix64
from unmask.data.stream.block_table import BlockTable
from unmask.data.stream.config import StreamConfig
from unmask.data.stream.plan import BlockPlan, Planner
from unmask.data.stream.rows import Flat, join, lay_out
from unmask.data.stream.split import Store, count_tokens, sample_sequences, sources_of

__all__ = ["Store", "Stream", "StreamConfig"]

_FORMAT = 2
# hashes keep the names that format 2 began with
_OLD_NAMES = {"max_length": "longest"}
# Evaluation is one fixed epoch, the same for every run over a store, whatever the seed of training.
_HELD_OUT_SEED = 0x6865_6C64_6F75_74


class Stream:
    """Packed, masked micro-batches over a store: endless for training, one fixed epoch if held out."""

    def __init__(
        self,
        store: Store,
        config: StreamConfig,
        ordinary_ids: npt.ArrayLike,
        *,
        split: Literal["train", "held_out"] = "train",
        similar_words: SimilarWords | None = None,
        composed: Path | None = None,
        masks: bool = True,
    ) -> None:
        """Lay out the epochs.

        Args:
            store: the tokens.
            config: capacities, seed, composition and masking.
            ordinary_ids: ids that a random replacement is drawn from.
            split: which documents; held-out ones come in one epoch whose order and masks do not depend on
                `config.seed`, each by itself whatever is composed for training, unless that is pairs.
            similar_words: the table that masking `mac` replaces words from.
            composed: folder that keeps sequences which are expensive to compose, for all workers and ranks to read.
            masks: whether batches come masked; else what trains masks them by `mask_rule`, with the same result.
        Raises:
            ConfigError: capacities that cannot hold a piece, a masking rule out of range, or a weight for a source
                that is not there.
            CorpusError: no documents in the split, or fewer tokens than one micro-batch to train on.
        """
        self.store = store
        self.config = config
        self.split = split
        self._endless = split == "train"
        self._masks = masks
        seed = config.seed & ((1 << 64) - 1) if self._endless else _HELD_OUT_SEED
        special = store.special_ids
        self._cls, self._sep, self._pad = special["cls"], special["sep"], special["pad"]
        self._masker: Masker | NextToken = NextToken()
        if config.masking != "next_token":
            self._masker = Masker(
                seed=seed,
                rate=config.mask_rate,
                split=config.mask_split,
                special_ids=[*special.values(), *store.added_special_ids],
                ordinary_ids=ordinary_ids,
                mask_id=special["mask"],
                vocab_size=store.vocab_size,
                masking=config.masking,
                similar_words=similar_words,
            )
        counts = self._masker.counts(np.arange(config.max_length + 1), rate=config.highest_rate)
        weights = config.composition.source_weights(store.sources)
        often = np.array(weights, dtype=np.float64)[store.source_of]
        # From all documents as training composes them, so that both splits have the same shapes.
        sample = sample_sequences(store, config.composition, often, max_length=config.max_length)
        self.capacities = config.capacities(store.lengths, counts, weights=often, sample=sample)
        self.composition = config.composition if self._endless else config.composition.held_out()
        sources = sources_of(
            store,
            self.composition.source_weights(store.sources),
            held_out_fraction=config.held_out_fraction,
            train=self._endless,
        )
        needed = self.capacities.tokens if self._endless else 0
        self.tokens_per_epoch = count_tokens(
            store,
            sources,
            sample,
            max_length=config.max_length,
            held_out_fraction=config.held_out_fraction,
            needed=needed,
        )
        self._planner = Planner(
            sources,
            store.lengths,
            self.capacities,
            counts,
            seed=seed,
            compose=composer(self.composition),
            text=store,
            stored=self._stored_tables(composed, seed),
        )
        self.fingerprint = self._fingerprint(seed, ordinary_ids, similar_words)
        self._table = BlockTable()
        self._planned: tuple[int, BlockPlan] | None = None

    def _stored_tables(self, folder: Path | None, seed: int) -> StoredSequences | None:
        """Where sequences are kept: under a name of what they depend on, which the scope is not part of."""
        if folder is None or not self.composition.expensive:
            return None
        identity = {
            "format": _FORMAT,
            "store": self.store.fingerprint,
            "seed": seed,
            "held_out_fraction": self.config.held_out_fraction,
            "longest": self.capacities.max_length,
            "tokens": self.capacities.tokens,
            "composition": asdict(replace(self.composition, scope="document")),
        }
        return StoredSequences(folder, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16])

    def _fingerprint(self, seed: int, ordinary_ids: npt.ArrayLike, similar_words: SimilarWords | None) -> str:
        ordinary = np.ascontiguousarray(ordinary_ids, dtype=np.int64)
        identity = {
            "format": _FORMAT,
            "store": self.store.fingerprint,
            "capacities": {_OLD_NAMES.get(name, name): size for name, size in asdict(self.capacities).items()},
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

    def flat_batches(self, first: int, step: int) -> Iterator[Flat]:
        """The same as NumPy arrays: numbers first, first + step, ..."""
        index = first
        while (flat := self._materialise(index)) is not None:
            yield flat
            index += step

    def assemble(self, flat: Flat) -> PackedBatch:
        """Give a flat batch its static capacities, as tensors."""
        return assemble(
            flat.ids,
            flat.lengths,
            keys=flat.keys,
            tokens=self.capacities.tokens,
            sequences=self.capacities.sequences,
            max_seqlen=self.capacities.max_length,
            pad_id=self._pad,
            segments=flat.segments,
            word_starts=flat.word_starts,
            pair_labels=flat.pair_labels,
            masked=flat.rows,
            labels=flat.labels,
            masked_capacity=self.capacities.masked,
            cursor=flat.cursor,
        )

    @property
    def mask_rule(self) -> MaskRule:
        """What masks a batch that comes without masks as this stream would have; not for a causal model's labels."""
        assert isinstance(self._masker, Masker)
        return self._masker.rule

    def locate(self, index: int) -> Cursor:
        """Return where global micro-batch `index` lies.

        Raises:
            ValueError: a negative index.
            IndexError: past the end of the held-out epoch.
        """
        if index < 0:
            raise ValueError(f"stream: index must be at least 0, got {index}")
        # The nearest known block at or before the index; from there on, every block has to be planned once.
        block, first = self._table.at_or_before(index)
        while self._endless or block < self._planner.blocks:
            count = len(self._plan(block))
            self._table.learn(block + 1, first + count)
            if index < first + count:
                epoch, number = divmod(block, self._planner.blocks)
                return Cursor(epoch, number, index - first)
            block, first = block + 1, first + count
        raise IndexError(f"stream: index must be below {first}, the micro-batches of the held-out epoch, got {index}")

    def remember(self, index: int, cursor: Cursor) -> None:
        """Learn that `index` lies at `cursor`, so that no block before it has to be planned.

        The pair comes from a batch or a checkpoint of a stream with this `fingerprint`.
        """
        self._table.learn(cursor.epoch * self._planner.blocks + cursor.block, index - cursor.k)

    @property
    def composes_ahead(self) -> bool:
        """Whether sequences are expensive to compose and kept, so that a process of its own can run ahead."""
        return self._planner.stored

    def block_of(self, cursor: Cursor) -> int:
        """The number of a cursor's block, counted through all epochs."""
        return cursor.epoch * self._planner.blocks + cursor.block

    def compose(self, block: int) -> None:
        """Compose the sequences of a block and keep them, unless it is done or there is nothing to keep them in."""
        if self.composes_ahead:
            self._planner.compose(*self._address(block))

    def forget(self, block: int) -> None:
        """Remove what is kept of a block."""
        self._planner.forget(*self._address(block))

    def _plan(self, block: int) -> BlockPlan:
        if self._planned is None or self._planned[0] != block:
            self._planned = block, self._planner.plan(*self._address(block))
        return self._planned[1]

    def _address(self, block: int) -> tuple[int, int]:
        """Pass and block of the plan: with static masks, epochs come again."""
        epoch, number = divmod(block, self._planner.blocks)
        return epoch % self.config.static_masks if self.config.static_masks else epoch, number

    def _materialise(self, index: int) -> Flat | None:
        try:
            cursor = self.locate(index)
        except IndexError:
            return None
        plan = self._plan(cursor.epoch * self._planner.blocks + cursor.block)
        pieces = slice(plan.bounds[cursor.k], plan.bounds[cursor.k + 1])
        opens, lengths = plan.opens[pieces], plan.lengths[pieces]
        sizes = lengths + 1 + opens
        ids, word_starts = lay_out(
            self.store, plan.documents[pieces], plan.starts[pieces], lengths, opens, cls=self._cls, sep=self._sep
        )
        documents = np.flatnonzero(opens)
        keys = plan.keys[pieces][documents]
        document_sizes = np.add.reduceat(sizes, documents)
        masked = None
        if self._masks:
            rate = self.config.rate_at(index if self._endless else 0)
            masked = self._masker(ids, document_sizes, keys, word_starts, rate=rate)
        flat = Flat(
            ids=ids if masked is None else masked.ids,
            lengths=document_sizes,
            keys=self._dropout_keys(keys, cursor.epoch).view(np.int64),
            word_starts=word_starts,
            segments=None if plan.pair_labels is None else np.repeat((~opens).astype(np.int8), sizes),
            pair_labels=None if plan.pair_labels is None else plan.pair_labels[pieces][documents],
            rows=None if masked is None else masked.rows,
            labels=None if masked is None else masked.labels,
            cursor=cursor,
        )
        return join(flat, plan.begins[pieces]) if self.composition.scope == "sequence" else flat

    def _dropout_keys(self, keys: npt.NDArray[np.uint64], epoch: int) -> npt.NDArray[np.uint64]:
        """Names for dropout: an epoch that comes again has the names and masks it had, but drops other elements."""
        turn = epoch // self.config.static_masks if self.config.static_masks else 0
        return mix64(keys + np.uint64(turn)) if turn else keys
