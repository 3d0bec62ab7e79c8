"""The stream: from the number of a micro-batch to the micro-batch, as a pure function of store and configuration.

Micro-batches are numbered through all epochs. Rank r of R reads the numbers start + r, start + r + R, start + r + 2 R,
and so on, so any number of ranks and workers, and any number of restarts, sees the same micro-batches. Five steps make
micro-batch g:

    locate    g lies at a cursor (epoch, block, k): it is the k-th micro-batch of a shuffle block     blocks.py
    plan      which pieces of which documents are in it                                              plan.py
    lay out   their tokens with [CLS] and [SEP]                                                      rows.py
    mask      which tokens are predicted, and what replaces them                                     masking/
    join      in scope `sequence`, the pieces of a sequence become one document                      rows.py

Blocks hold different numbers of micro-batches, so the stream notes where the blocks that it met begin. `remember`
tells it where a micro-batch lies, from a checkpoint or from a batch that another process made. Otherwise, seeking plans
every block before once, about 1.5 us a document.

`fingerprint` is a hash of everything that the micro-batches depend on; a resumed run must find the same one.
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unmask.batch import Cursor, PackedBatch, assemble
from unmask.config.schema import CompositionConfig, MaskingConfig, StreamConfig
from unmask.data.compose import PairTask, composer, identity
from unmask.data.compose.stored import StoredSequences
from unmask.data.masking import MASK_RATE_DENOMINATOR, Masker, MaskRule, NextToken
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.randomness import Uint64Array, mix64
from unmask.data.stream.blocks import BlockStarts, TokenStore, sources_of
from unmask.data.stream.capacities import capacities, compose_sample, count_tokens, times_read
from unmask.data.stream.plan import BlockPlan, Planner
from unmask.data.stream.rows import BatchArrays, join, lay_out
from unmask.errors import ConfigError

__all__ = ["Stream"]

_FORMAT = 2
# the hashes of format 2 spell the names that it began with
_OLD_NAMES = {"max_length": "longest"}
# Evaluation is one fixed epoch, the same for every run over a store, whatever the seed of training.
_HELD_OUT_SEED = 0x6865_6C64_6F75_74


class Stream:
    """Packed, masked micro-batches of a store: without end for training, one fixed epoch of held-out documents.

    Attributes:
        store, config, masking, pair_task, split: as given.
        capacities: of a micro-batch; the same for both splits.
        composition: how this split is composed.
        tokens_per_epoch: tokens with their [CLS] and [SEP]; an estimate where sequences are composed.
        fingerprint: SHA-256 of everything that the micro-batches depend on.
    """

    def __init__(
        self,
        store: TokenStore,
        config: StreamConfig,
        ordinary_ids: npt.ArrayLike,
        *,
        composition: CompositionConfig | None = None,
        masking: MaskingConfig | Literal["next_token"] | None = None,
        pair_task: PairTask = "nsp",
        seed: int = 0,
        split: Literal["train", "held_out"] = "train",
        rate_over: int = 1,
        masked_slots: int | None = None,
        similar_words: SimilarWords | None = None,
        composed: Path | None = None,
        masks: bool = True,
    ) -> None:
        """Lay out the epochs.

        Args:
            store: the tokens.
            config: lengths, capacities and the share of held-out documents.
            ordinary_ids: ids that a random replacement is drawn from, (O,).
            composition: how documents become sequences, and how often each source is read. Default: its defaults.
            masking: what is predicted; `next_token` masks nothing and labels each token with the next. Default: its
                defaults. Held-out text always has the rate at the beginning, so that scores compare.
            pair_task: what pairs are for.
            seed: 64-bit seed of order and masks.
            split: the documents to train on, or the held-out ones. The order and masks of held-out documents do not
                depend on `seed`. Each is a sequence by itself whatever training composes, except for pairs.
            rate_over: micro-batches in which the mask rate goes from `rate` to `rate_end`.
            masked_slots: slots for masked tokens of a micro-batch (M). Default: from the corpus.
            similar_words: the table that masking `mac` replaces words from.
            composed: folder that keeps sequences which are expensive to compose, for all workers and ranks to read.
            masks: whether batches come masked. If not, `mask_rule` lets the trainer make the same masks.
        Raises:
            ConfigError: capacities that cannot hold a piece, no table for `mac`, or a weight for a source that is not
                there.
            CorpusError: no documents in the split, or fewer tokens than one micro-batch to train on.
        """
        self.store = store
        self.config = config
        self.masking = masking if masking is not None else MaskingConfig()
        self.pair_task = pair_task
        self.split = split
        self._rule = MaskingConfig() if self.masking == "next_token" else self.masking
        self._rate_over = rate_over
        self._endless = split == "train"
        self._masks = masks
        seed = seed & ((1 << 64) - 1) if self._endless else _HELD_OUT_SEED
        special = store.special_ids
        self._cls, self._sep, self._pad = special["cls"], special["sep"], special["pad"]
        self._masker: Masker | NextToken = NextToken()
        if self.masking != "next_token":
            self._masker = Masker(
                self.masking,
                seed=seed,
                special_ids=[*special.values(), *store.added_special_ids],
                ordinary_ids=ordinary_ids,
                mask_id=special["mask"],
                vocab_size=store.vocab_size,
                similar_words=similar_words,
            )
        highest = max(self._rule.rate, self._rule.rate_end or 0.0)
        counts = self._masker.counts(np.arange(config.max_length + 1), rate=highest)
        chosen = composition if composition is not None else CompositionConfig()
        sample = compose_sample(chosen, store, max_length=config.max_length, pair_task=pair_task)
        lengths, often = times_read(chosen, store)
        self.capacities = capacities(config, chosen, lengths, counts, masked=masked_slots, weights=often, sample=sample)
        self.composition = chosen if self._endless else chosen.held_out()
        sources = sources_of(
            store,
            self.composition.source_weights(store.sources),
            held_out_fraction=config.held_out_fraction,
            train=self._endless,
        )
        needed = self.capacities.tokens if self._endless else 0
        self.tokens_per_epoch = count_tokens(config, store, sources, sample, needed=needed)
        self._stored = self._stored_sequences(composed, seed)
        self._planner = Planner(
            sources,
            store.lengths,
            self.capacities,
            counts,
            seed=seed,
            compose=composer(self.composition, pair_task),
            text=store,
            stored=self._stored,
        )
        self.fingerprint = self._fingerprint(seed, ordinary_ids, similar_words)
        self._starts = BlockStarts()
        # the block after the last one
        self._end = None if self._endless else self._planner.blocks
        self._planned: tuple[int, BlockPlan] | None = None

    def _stored_sequences(self, folder: Path | None, seed: int) -> StoredSequences | None:
        """Choose the files that keep sequences: a hash of what sequences depend on, without the scope, names them."""
        if folder is None or not self.composition.expensive:
            return None
        facts = {
            "format": _FORMAT,
            "store": self.store.fingerprint,
            "seed": seed,
            "held_out_fraction": self.config.held_out_fraction,
            "longest": self.capacities.max_length,
            "tokens": self.capacities.tokens,
            "composition": identity(replace(self.composition, scope="document"), self.pair_task),
        }
        return StoredSequences(folder, hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16])

    def _fingerprint(self, seed: int, ordinary_ids: npt.ArrayLike, similar_words: SimilarWords | None) -> str:
        ordinary = np.ascontiguousarray(ordinary_ids, dtype=np.int64)
        rule = self._rule
        facts = {
            "format": _FORMAT,
            "store": self.store.fingerprint,
            "capacities": {_OLD_NAMES.get(name, name): size for name, size in asdict(self.capacities).items()},
            "seed": seed,
            "mask_rate": rule.rate,
            "mask_rate_end": [rule.rate_end, self._rate_over],
            "mask_split": list(rule.split),
            "masking": "next_token" if self.masking == "next_token" else rule.strategy,
            "similar_words": None if similar_words is None else similar_words.hash,
            "static_masks": rule.static_masks,
            "held_out_fraction": self.config.held_out_fraction,
            "split": self.split,
            "composition": identity(self.composition, self.pair_task),
            "ordinary_ids": hashlib.sha256(ordinary.tobytes()).hexdigest(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def from_epoch(self, epoch: int, *, endless: bool) -> "Stream":
        """Return this stream with its micro-batches counted from the beginning of an epoch.

        It plans none of the blocks before that epoch.

        Args:
            epoch: the epoch, from 0 on; held-out documents have one only.
            endless: whether later epochs follow.
        Raises:
            ConfigError: a mask rate that changes, which is counted from the beginning of the run.
        """
        if epoch and self._rule.rate_end is not None:
            raise ConfigError(
                "stream: masking.rate_end is set, and the mask rate is counted from the first micro-batch, so the "
                f"stream must be read from epoch 0, got epoch {epoch}; read it from there, or set masking.rate_end to "
                "None"
            )
        other = copy.copy(self)
        first = epoch * self._planner.blocks
        other._starts = BlockStarts(first)
        if not endless:
            other._end = first + self._planner.blocks
        return other

    def count(self) -> int:
        """Count the micro-batches to the end of the epoch, which plans all of its blocks.

        Raises:
            ValueError: the stream does not end.
        """
        if self._end is None:
            raise ValueError(
                "stream: it must have an end to be counted, and has none; call from_epoch(epoch, endless=False).count()"
            )
        block, first = self._starts.at_or_before(1 << 62)
        for number in range(block, self._end):
            first += len(self._plan(number))
            self._starts.learn(number + 1, first)
        return first

    def batches(self, start: int = 0, *, rank: int = 0, world_size: int = 1) -> Iterator[PackedBatch]:
        """Yield micro-batches start + rank, start + rank + world_size, ...; without end when training."""
        for arrays in self.arrays(start + rank, world_size):
            yield self.to_batch(arrays)

    def arrays(self, first: int, step: int) -> Iterator[BatchArrays]:
        """Yield micro-batches first, first + step, ... as NumPy arrays."""
        index = first
        while (arrays := self._make(index)) is not None:
            yield arrays
            index += step

    def to_batch(self, arrays: BatchArrays) -> PackedBatch:
        """Put a micro-batch into tensors of the stream's capacities."""
        return assemble(
            **arrays._asdict(),
            tokens=self.capacities.tokens,
            sequences=self.capacities.sequences,
            masked_capacity=self.capacities.masked,
            max_seqlen=self.capacities.max_length,
            pad_id=self._pad,
        )

    @property
    def mask_rule(self) -> MaskRule:
        """The rule by which the trainer masks a batch that comes without masks; a causal model has none."""
        assert isinstance(self._masker, Masker)
        return self._masker.rule

    def locate(self, index: int) -> Cursor:
        """Return where micro-batch `index` lies.

        Raises:
            ValueError: a negative index.
            IndexError: past the end of the epoch, if the stream has one.
        """
        if index < 0:
            raise ValueError(f"stream: index must be at least 0, got {index}")
        # From the nearest known block on, plan every block once until the index lies in it.
        block, first = self._starts.at_or_before(index)
        while self._end is None or block < self._end:
            count = len(self._plan(block))
            self._starts.learn(block + 1, first + count)
            if index < first + count:
                epoch, number = divmod(block, self._planner.blocks)
                return Cursor(epoch, number, index - first)
            block, first = block + 1, first + count
        epoch_name = "epoch" if self._endless else "held-out epoch"
        raise IndexError(f"stream: index must be below {first}, the micro-batches of the {epoch_name}, got {index}")

    def remember(self, index: int, cursor: Cursor) -> None:
        """Note that micro-batch `index` lies at `cursor`, so that no block before it has to be planned.

        Both come from a batch or a checkpoint of a stream with this `fingerprint`.

        Raises:
            ValueError: the block is known to begin at another micro-batch.
        """
        self._starts.learn(self.block_of(cursor), index - cursor.k)

    @property
    def composes_ahead(self) -> bool:
        """Whether a process of its own composes blocks ahead: sequences are expensive to compose, and kept in files."""
        return self._stored is not None

    def block_of(self, cursor: Cursor) -> int:
        """Return the number of a cursor's block, counted through all epochs."""
        return cursor.epoch * self._planner.blocks + cursor.block

    def compose(self, block: int) -> None:
        """Compose the sequences of a block and keep them, unless that is done or they are not kept."""
        if self.composes_ahead:
            self._planner.compose(*self._address(block))

    def forget(self, block: int) -> None:
        """Remove the sequences kept of a block."""
        if self._stored is not None:
            self._stored.forget(*self._address(block))

    def _plan(self, block: int) -> BlockPlan:
        if self._planned is None or self._planned[0] != block:
            self._planned = block, self._planner.plan(*self._address(block))
        return self._planned[1]

    def _address(self, block: int) -> tuple[int, int]:
        """Return the epoch of a block and its number there; with static masks, the epochs repeat."""
        epoch, number = divmod(block, self._planner.blocks)
        return epoch % self._rule.static_masks if self._rule.static_masks else epoch, number

    def _make(self, index: int) -> BatchArrays | None:
        """Make micro-batch `index`; None past the end of the epoch, if the stream has one."""
        try:
            cursor = self.locate(index)
        except IndexError:
            return None
        plan = self._plan(self.block_of(cursor))
        pieces = slice(plan.bounds[cursor.k], plan.bounds[cursor.k + 1])
        opens, lengths = plan.opens[pieces], plan.lengths[pieces]
        sizes = lengths + 1 + opens
        ids, word_starts = lay_out(
            self.store, plan.documents[pieces], plan.starts[pieces], lengths, opens, cls=self._cls, sep=self._sep
        )
        documents = np.flatnonzero(opens)
        keys = plan.keys[pieces][documents]
        document_sizes = np.add.reduceat(sizes, documents)
        rows = labels = None
        if self._masks:
            rate = self._rate_at(index if self._endless else 0)
            ids, rows, labels = self._masker(ids, document_sizes, keys, word_starts, rate=rate)
        arrays = BatchArrays(
            ids=ids,
            lengths=document_sizes,
            keys=self._dropout_keys(keys, cursor.epoch).view(np.int64),
            word_starts=word_starts,
            segments=None if plan.pair_labels is None else np.repeat((~opens).astype(np.int8), sizes),
            pair_labels=None if plan.pair_labels is None else plan.pair_labels[pieces][documents],
            masked=rows,
            labels=labels,
            cursor=cursor,
        )
        return join(arrays, plan.begins[pieces][documents]) if self.composition.scope == "sequence" else arrays

    def _rate_at(self, index: int) -> Fraction:
        """Return the mask rate of micro-batch `index`, an exact fraction, so that all ranks and workers agree."""
        begin = Fraction(self._rule.rate).limit_denominator(MASK_RATE_DENOMINATOR)
        if self._rule.rate_end is None:
            return begin
        end = Fraction(self._rule.rate_end).limit_denominator(MASK_RATE_DENOMINATOR)
        return begin + (end - begin) * min(index, self._rate_over) / self._rate_over

    def _dropout_keys(self, keys: Uint64Array, epoch: int) -> Uint64Array:
        """Return the keys for dropout, (D,): an epoch that repeats has the same masks, but drops other elements."""
        repeats = epoch // self._rule.static_masks if self._rule.static_masks else 0
        return mix64(keys + np.uint64(repeats)) if repeats else keys
