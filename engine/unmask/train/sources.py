"""The data side of a run: the store it reads and the streams of its segments.

A stream is a pure function of the store and the configuration, so nothing here has a state worth saving.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from unmask.batch import Cursor, PackedBatch
from unmask.config import RunConfig
from unmask.data.compose import Composition
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.stream import Stream, StreamConfig, TokenStore
from unmask.data.stream.loader import Loader
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError
from unmask.train.device_masking import DeviceMasking
from unmask.train.phases import Segment, plan_segments, segment_of

__all__ = ["Position", "Sources"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in the data: number of the segment, next global micro-batch in it, fingerprint of its stream."""

    segment: int
    index: int
    fingerprint: str


class Sources:
    """Streams over one store, each laid out once.

    Args:
        store: the tokens. tokenizer: the one the store was made with.
        config: of the run.
        composed: folder for sequences that are expensive to compose; none: they are composed by each worker.
    Attributes:
        segments: of the run, in order.
        micro_batches: in one update.
        similar_words: the table of masking `mac`, or None.
        waited_seconds: time that `steps` kept the trainer waiting, so far.
    """

    def __init__(
        self, store: TokenStore, tokenizer: Tokenizer, config: RunConfig, *, composed: Path | None = None
    ) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.config = config
        self._composed = composed
        self.segments = plan_segments(
            config.train.steps, config.train.phases, max_length=config.data.max_length, seed=config.seed
        )
        self.micro_batches = config.train.tokens_per_step // config.train.micro_batch_tokens
        self.waited_seconds = 0.0
        table = config.data.similar_words
        self.similar_words = None if table is None else SimilarWords.load(table, tokenizer)
        self._streams: dict[int, Stream] = {}
        self._held_out: dict[int, Stream | None] = {}
        self._masking: dict[int, DeviceMasking] = {}

    def stream(self, segment: Segment) -> Stream:
        """The training stream of a segment."""
        if segment.number not in self._streams:
            self._streams[segment.number] = Stream(
                self.store,
                self._stream_config(segment),
                self.tokenizer.ordinary_ids,
                split="train",
                similar_words=self.similar_words,
                composed=self._composed,
                masks=self.config.data.mask_on == "host",
            )
        return self._streams[segment.number]

    def held_out(self, segment: Segment) -> Stream | None:
        """The evaluation stream of a segment: one fixed epoch over the held-out documents, at the length that the
        segment trains at (positions beyond it are untrained); None when no document is held out.
        """
        if segment.number not in self._held_out:
            config = self._stream_config(segment)
            try:
                stream = Stream(
                    self.store,
                    config,
                    self.tokenizer.ordinary_ids,
                    split="held_out",
                    similar_words=self.similar_words,
                )
            except CorpusError:
                stream = None
            self._held_out[segment.number] = stream
        return self._held_out[segment.number]

    def position(self, step: int) -> Position:
        """Where the data stands after `step` updates."""
        segment = segment_of(self.segments, step)
        index = (step - segment.first) * self.micro_batches
        return Position(segment=segment.number, index=index, fingerprint=self.stream(segment).fingerprint)

    def steps(self, done: int, cursor: Cursor | None = None) -> Generator[list[PackedBatch], None, None]:
        """The micro-batches of every update after the first `done`, on the CPU, to the end of the run.

        Args:
            done: updates that lie behind.
            cursor: of the last micro-batch used, which spares a resumed stream the planning of all before it.
        """
        for segment in self.segments:
            if segment.end <= done:
                continue
            stream = self.stream(segment)
            start = max(0, done - segment.first) * self.micro_batches
            if start > 0 and cursor is not None:
                stream.remember(start - 1, cursor)
            before = self.waited_seconds
            with closing(Loader(stream, start=start, workers=self.config.data.workers)) as loader:
                for _ in range(max(done, segment.first), segment.end):
                    batches = list(islice(loader, self.micro_batches))
                    self.waited_seconds = before + loader.waited_seconds
                    yield batches

    def to_device(self, batch: PackedBatch, segment: Segment, device: torch.device) -> PackedBatch:
        """A batch of a segment where the model is, masked there if the data are configured so."""
        moved = batch.to(device, non_blocking=True)
        if self.config.data.mask_on == "host":
            return moved
        if segment.number not in self._masking:
            stream = self.stream(segment)
            self._masking[segment.number] = DeviceMasking(
                stream.mask_rule, capacity=stream.capacities.masked, device=device
            )
        return self._masking[segment.number](moved)

    def _stream_config(self, segment: Segment) -> StreamConfig:
        data, train = self.config.data, self.config.train
        first, end = (self._mask_rate(step) for step in (segment.first, segment.end))
        return StreamConfig(
            max_length=segment.max_length,
            tokens=train.micro_batch_tokens,
            sequences=train.max_documents,
            seed=segment.seed,
            mask_rate=first,
            mask_rate_end=None if data.mask_rate_end is None else end,
            # part of the stream's identity, which without a schedule does not depend on the number of steps
            mask_rate_over=1 if data.mask_rate_end is None else (segment.end - segment.first) * self.micro_batches,
            masking="next_token" if self.config.objective.clm > 0 else data.masking,
            static_masks=data.static_masks,
            mask_split=data.mask_split,
            held_out_fraction=data.held_out,
            composition=Composition(
                strategy=data.compose,
                scope=data.scope,
                weights=data.weights,
                pair_task="sop" if self.config.objective.sop > 0 else "nsp",
                short_share=data.short_pairs,
                walk=data.bm25_walk,
                buffer=data.bm25_buffer,
                query_terms=data.bm25_query_terms,
            ),
        )

    def _mask_rate(self, step: int) -> float:
        """The mask rate at a step, on the line from `mask_rate` to `mask_rate_end`."""
        data = self.config.data
        end = data.mask_rate if data.mask_rate_end is None else data.mask_rate_end
        return data.mask_rate + (end - data.mask_rate) * step / self.config.train.steps
