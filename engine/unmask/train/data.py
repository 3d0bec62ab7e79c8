"""The data of a run: its phases, the stream that each reads, and where a step's micro-batches come from.

A phase is a stretch of steps at one maximum length: BERT trains nine tenths of its steps on short pieces and the rest
on long ones. The maximum length is part of a stream's identity, so each phase has a stream of its own with a seed of
its own; with one seed, two phases would begin with the same documents and the same masks. A run without
`train.phases` has one phase.

A stream is a pure function of the store and the configuration, so nothing here has a state that must be saved.
"""

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from unmask.batch import Cursor, PackedBatch
from unmask.config import MaskingConfig, PhaseConfig, RunConfig, TrainConfig
from unmask.config.step_sizes import StepSizes
from unmask.data.compose import PairTask
from unmask.data.masking import MaskRule
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.stream import Stream, TokenStore
from unmask.data.stream.blocks import Source, sources_of
from unmask.data.stream.capacities import compose_sample, count_tokens
from unmask.data.stream.loader import Loader
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, CorpusError
from unmask.train.side_stream import SideStream
from unmask.train.spikes import LeftOut, merged
from unmask.train.unigram import Unigram, measure_unigram
from unmask_kernels import masking

__all__ = ["ENDLESS", "DeviceMasking", "Phase", "Position", "RunData", "phase_at", "plan_phases"]

ENDLESS = 2**62
"""Number of steps of a run that the clock ends."""

# documents that are looked at for words of the table of similar words, and tokens of each
_SAMPLED_DOCUMENTS, _SAMPLED_TOKENS = 2048, 512

# Spreads the seeds of phases, so that a later phase does not get the seed of another run.
_SEED_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """The steps [first, end) of a run, at one maximum length.

    Attributes:
        number: counted from 0.
        first: first step.
        end: step after the last one.
        max_length: maximum number of tokens of a sequence, [CLS] and [SEP] included.
        seed: seed of its stream and of its dropout.
    """

    number: int
    first: int
    end: int
    max_length: int
    seed: int


def plan_phases(steps: int, phases: Sequence[PhaseConfig], *, max_length: int, seed: int) -> list[Phase]:
    """Cut `steps` by the shares of the phases, rounded to whole steps; without phases, make one phase at `max_length`.

    Raises:
        ConfigError: the share of a phase is less than one step.
    """
    settings = list(phases) or [PhaseConfig(share=1.0, max_length=max_length)]
    planned: list[Phase] = []
    share = 0.0
    for number, phase in enumerate(settings):
        share += phase.share
        first = planned[-1].end if planned else 0
        end = steps if number == len(settings) - 1 else round(share * steps)
        if end <= first:
            raise ConfigError(
                f"config: train.phases.{number} has a share of {phase.share:g}, less than one of {steps} steps; raise "
                "its share or train.steps, or give --train.phases '[]' for one phase at stream.max_length"
            )
        own_seed = (seed + number * _SEED_STRIDE) % 2**63
        planned.append(Phase(number=number, first=first, end=end, max_length=phase.max_length, seed=own_seed))
    return planned


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase of update number `step`, counted from 0; past the end of the run, the last phase."""
    return next((phase for phase in phases if step < phase.end), phases[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in the data.

    Attributes:
        phase: number of the phase.
        index: number, in the phase, of the next global micro-batch.
        fingerprint: fingerprint of the phase's stream.
    """

    phase: int
    index: int
    fingerprint: str


class RunData:
    """The store of a run and a stream for each phase, laid out once.

    Args:
        store: the tokens.
        tokenizer: the tokenizer that the store was made with.
        config: configuration of the run.
        composed: folder for sequences that are expensive to compose. None: each worker composes them.
        rank: number of this process among `world_size` that share the micro-batches of each step.
        world_size: number of processes; it divides the micro-batches of a step.
    Attributes:
        phases: the phases of the run, in order.
        sizes: micro-batches of each update, of all ranks.
        similar_words: the table of masking `mac`, or None.
        left_out: micro-batches that the run does not read, see `leave_out`.
        num_steps: optimizer steps of the run; `ENDLESS` if the clock ends it.
        waited_seconds: time that `steps` has kept the trainer waiting so far.
    """

    def __init__(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        config: RunConfig,
        *,
        composed: Path | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.config = config
        self._composed = composed
        self._rank, self._world_size = rank, world_size
        train = config.train
        self.num_steps = self.planned_steps(train)
        self.phases = plan_phases(self.num_steps, train.phases, max_length=config.stream.max_length, seed=config.seed)
        self.sizes = StepSizes.of(train, config.stream)
        self.waited_seconds = 0.0
        self.left_out: list[LeftOut] = []
        table = config.masking.similar_words
        self.similar_words = None if table is None else SimilarWords.load(table, tokenizer)
        self._streams: dict[int, Stream] = {}
        self._held_out: dict[int, Stream | None] = {}
        self._masking: dict[int, DeviceMasking] = {}
        self._side_stream: SideStream | None = None

    def stream(self, phase: Phase) -> Stream:
        """Return the training stream of a phase."""
        if phase.number not in self._streams:
            self._streams[phase.number] = self._stream(
                phase, "train", composed=self._composed, masks=self.masks_text and self.config.masking.place == "host"
            )
        return self._streams[phase.number]

    def held_out(self, phase: Phase) -> Stream | None:
        """Return the evaluation stream of a phase, or None if no document is held out.

        It is one fixed epoch of the held-out documents, at the phase's maximum length: positions beyond that length
        are untrained.
        """
        if phase.number not in self._held_out:
            try:
                stream = self._stream(phase, "held_out", masks=self.masks_text)
            except CorpusError:
                stream = None
            self._held_out[phase.number] = stream
        return self._held_out[phase.number]

    def position(self, step: int) -> Position:
        """Return where the data stands after `step` updates; what is left out there is still to come."""
        phase = phase_at(self.phases, step)
        index = self._index(phase, step, jump=False)
        return Position(phase=phase.number, index=index, fingerprint=self.stream(phase).fingerprint)

    def steps(
        self, done: int, cursor: Cursor | None = None, *, stop: Callable[[], bool] = lambda: False
    ) -> Generator[list[PackedBatch], None, None]:
        """Yield this rank's micro-batches of every update after the first `done`, on the CPU, to the end of the run.

        A step is the same micro-batches whatever the number of ranks: rank r of R takes numbers r, r + R, ... of it.

        Args:
            done: updates that are already done.
            cursor: cursor of the last micro-batch used. With it, a resumed stream need not plan all micro-batches
                before it again.
            stop: whether the run is to stop, so that no more workers start.
        """
        for phase in self.phases:
            if phase.end <= done:
                continue
            stream = self.stream(phase)
            first = max(done, phase.first)
            used = self._index(phase, first, jump=False)
            if used > 0 and cursor is not None:
                stream.remember(used - 1, cursor)
            workers = self.config.stream.workers
            place = {"rank": self._rank, "world_size": self._world_size}
            while first < phase.end:
                before, end = self.waited_seconds, self._next_jump(phase, first)
                start = self._index(phase, first)
                with closing(Loader(stream, start=start, **place, workers=workers, stop=stop)) as loader:
                    for step in range(first, end):
                        batches = list(islice(loader, self.sizes.at(step) // self._world_size))
                        self.waited_seconds = before + loader.waited_seconds
                        yield batches
                first = end

    def leave_out(self, parts: Iterable[LeftOut]) -> None:
        """Leave out micro-batches from now on: the stream goes on behind them."""
        self.left_out = merged([*self.left_out, *parts])

    def read_in(self, first: int, end: int) -> list[LeftOut]:
        """Return the micro-batches of the updates number `first` to `end` - 1, and what is left out between them."""
        found = []
        for phase in self.phases:
            begin, stop = max(first, phase.first), min(end, phase.end)
            if begin < stop:
                start = self._index(phase, begin)
                found.append(LeftOut(phase.number, start, self._index(phase, stop, jump=False) - start))
        return found

    def _index(self, phase: Phase, step: int, *, jump: bool = True) -> int:
        """Return the number, in the phase, of the first micro-batch of update number `step`.

        Args:
            phase: the phase.
            step: the update.
            jump: whether to pass over micro-batches that are left out right before it.
        """
        index = self._read_before(phase, step)
        for part in self.left_out:
            if part.phase == phase.number and (index > part.first or (jump and index == part.first)):
                index += part.size
        return index

    def _read_before(self, phase: Phase, step: int) -> int:
        """Return the number of micro-batches that the updates of a phase before number `step` read."""
        return self.sizes.before(step) - self.sizes.before(phase.first)

    def _next_jump(self, phase: Phase, step: int) -> int:
        """Return the next update after number `step` before which micro-batches are left out; else the phase's end."""
        if not any(part.phase == phase.number for part in self.left_out):
            return phase.end

        def passed(later: int) -> int:
            return self._index(phase, later) - self._read_before(phase, later)

        later = range(step + 1, phase.end)
        return step + 1 + bisect_right(later, passed(step), key=passed)

    def to_device(self, batch: PackedBatch, phase: Phase, device: torch.device) -> PackedBatch:
        """Move a batch of a phase to the device, and mask it there if `masking.place` is `device`."""
        if device.type == "cuda":
            self._side_stream = self._side_stream or SideStream(device)
            moved = self._side_stream(batch)
        else:
            moved = batch.to(device, non_blocking=True)
        if self.config.masking.place == "host" or not self.masks_text:
            return moved
        if phase.number not in self._masking:
            stream = self.stream(phase)
            self._masking[phase.number] = DeviceMasking(
                stream.mask_rule, capacity=stream.capacities.masked, device=device
            )
        return self._masking[phase.number](moved)

    def _stream(
        self, phase: Phase, split: Literal["train", "held_out"], *, composed: Path | None = None, masks: bool = True
    ) -> Stream:
        config = self.config
        masking, rate_over = self._masking_of(phase)
        return Stream(
            self.store,
            replace(config.stream, max_length=phase.max_length),
            self.tokenizer.ordinary_ids,
            composition=config.composition,
            masking="next_token" if config.objective.clm > 0 else masking,
            pair_task=self._pair_task,
            seed=phase.seed,
            split=split,
            rate_over=rate_over,
            similar_words=self.similar_words,
            composed=composed,
            masks=masks,
        )

    @property
    def masks_text(self) -> bool:
        """Whether text is masked; a student that learns from a teacher alone reads it as it is."""
        return self.config.distillation.teacher is None or self.config.objective.mlm > 0

    @property
    def _pair_task(self) -> PairTask:
        return "sop" if self.config.objective.sop > 0 else "nsp"

    def _masking_of(self, phase: Phase) -> tuple[MaskingConfig, int]:
        """Return the masking of a phase, and the micro-batches in which its mask rate goes to the end.

        The rates lie on the line from the run's `rate` to its `rate_end`. Both values are part of the stream's
        identity, which without a schedule, and with `rate_steps`, does not depend on the number of steps.
        """
        masking = self.config.masking
        if masking.rate_end is None:
            return masking, 1
        over = masking.rate_steps or self.num_steps
        # with steps of its own the line goes on to their end, whatever the end of the phase
        last = phase.end if masking.rate_steps is None else over
        if phase.first >= over:
            return replace(masking, rate=masking.rate_end, rate_end=None, rate_steps=None), 1
        begin, end = (masking.rate + (masking.rate_end - masking.rate) * step / over for step in (phase.first, last))
        return replace(masking, rate=begin, rate_end=end), self._read_before(phase, last)

    def planned_steps(self, train: TrainConfig) -> int:
        """Return the steps of a run with the budget of `train`; with `train.epochs`, those that read so many epochs."""
        if train.epochs is None:
            return ENDLESS if train.steps is None else train.steps
        phases = train.phases or [PhaseConfig(share=1.0, max_length=self.config.stream.max_length)]
        # parts of an epoch that a step reads, on average
        read = sum(phase.share * train.tokens_per_step / self._epoch_tokens(phase.max_length) for phase in phases)
        # less a rounding error, so that ten steps of a tenth are ten
        steps = train.epochs / read - 1e-6
        sizes = StepSizes.of(train, self.config.stream)
        return sizes.steps_for(steps * sizes.last) if sizes.growth else max(1, ceil(steps))

    def _epoch_tokens(self, max_length: int) -> int:
        """Count the tokens of an epoch at a maximum length, with their [CLS] and [SEP]."""
        config = replace(self.config.stream, max_length=max_length)
        sample = compose_sample(self.config.composition, self.store, max_length=max_length, pair_task=self._pair_task)
        return count_tokens(config, self.store, self.sources(), sample, needed=config.micro_batch_tokens)

    def sources(
        self, split: Literal["train", "held_out"] = "train", *, held_out_fraction: float | None = None
    ) -> list[Source]:
        """Return the documents of a part of the store, by source; `held_out_fraction` is that of the run by default."""
        train = split == "train"
        composition = self.config.composition if train else self.config.composition.held_out()
        return sources_of(
            self.store,
            composition.source_weights(self.store.sources),
            held_out_fraction=self.config.stream.held_out_fraction if held_out_fraction is None else held_out_fraction,
            train=train,
        )

    def covered_words(self) -> float:
        """Return the share of the words of the text that the table of similar words has, from a sample of documents."""
        assert self.similar_words is not None
        count = self.store.lengths.size
        documents = np.linspace(0, count, min(count, _SAMPLED_DOCUMENTS), endpoint=False).astype(np.int64)
        lengths = np.minimum(self.store.lengths[documents].astype(np.int64), _SAMPLED_TOKENS)
        ids, starts = self.store.gather(documents, np.zeros(documents.size, np.int64), lengths)
        first = np.flatnonzero(starts)
        found = self.similar_words.find(ids, first, np.diff(np.append(first, ids.size)))
        return float((found >= 0).mean()) if first.size else 0.0

    def text_tokens(
        self, split: Literal["train", "held_out"] = "train", *, held_out_fraction: float | None = None
    ) -> int:
        """Count the tokens of text in an epoch of a part of the store, without [CLS] and [SEP]; see `sources`."""
        return int(
            sum(
                source.weight * source.lengths.tokens
                for source in self.sources(split, held_out_fraction=held_out_fraction)
            )
        )

    def unigram(self, scored: list[Source] | None = None) -> Unigram | None:
        """Return the loss of a model that knows only token frequencies; None if there is no token to predict.

        Args:
            scored: documents whose tokens it predicts. Default: the held-out ones.
        """
        return measure_unigram(
            self.store,
            self.tokenizer.ordinary_ids,
            training=self.sources("train"),
            held_out=self.sources("held_out") if scored is None else scored,
        )


class DeviceMasking:
    """Masks batches on the device of the model, with the masks that the loader would make, bit for bit.

    It moves the tables of a stream's `mask_rule` to the device once. Each micro-batch then takes one launch of
    `unmask_kernels.masking`. Masks are a function of the document keys, so both places give the same ones.

    Args:
        rule: mask rule of the stream that the batches come from.
        capacity: M, slots for masked tokens of a micro-batch.
        device: device of the batches.
    """

    def __init__(self, rule: MaskRule, *, capacity: int, device: torch.device | str) -> None:
        self._rule = rule
        self._capacity = capacity
        self._tables = [torch.from_numpy(table).to(device) for table in (rule.special, rule.ordinary)]
        self._keys = torch.from_numpy(rule.keys.copy()).to(device)

    def __call__(self, batch: PackedBatch) -> PackedBatch:
        """Return the batch with corrupted ids, masked rows and labels."""
        rule = self._rule
        made = masking(
            batch.ids,
            batch.documents,
            batch.word_starts if rule.whole_words else None,
            *self._tables,
            keys=self._keys,
            rate=rule.rate,
            split=rule.split,
            mask_id=rule.mask_id,
            capacity=self._capacity,
        )
        return replace(batch, ids=made.ids, masked=made.rows, labels=made.labels)
