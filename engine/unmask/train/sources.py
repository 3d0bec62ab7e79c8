"""The data side of a run: the store it reads and the streams of its segments.

A stream is a pure function of the store and the configuration, so nothing here has a state worth saving.
"""

from unmask.config import RunConfig
from unmask.data.loader import Loader
from unmask.data.store import Store
from unmask.data.stream import Stream, StreamConfig
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError
from unmask.train.segments import Segment, plan_segments

__all__ = ["Sources"]


class Sources:
    """Streams over one store, each laid out once.

    Args:
        store: the tokens. tokenizer: the one the store was made with.
        config: of the run.
    """

    def __init__(self, store: Store, tokenizer: Tokenizer, config: RunConfig) -> None:
        self.store = store
        self.tokenizer = tokenizer
        self.config = config
        self.segments = plan_segments(
            config.train.steps, config.train.phases, longest=config.data.longest, seed=config.seed
        )
        self._streams: dict[int, Stream] = {}
        self._held_out: Stream | None = None

    def stream(self, segment: Segment) -> Stream:
        """The training stream of a segment."""
        if segment.number not in self._streams:
            self._streams[segment.number] = Stream(
                self.store, self._stream_config(segment), self.tokenizer.ordinary_ids, split="train"
            )
        return self._streams[segment.number]

    def held_out(self) -> Stream | None:
        """The evaluation stream: one fixed pass over the held-out documents, at the length of the last
        segment; None when no document is held out.
        """
        if self._held_out is None:
            config = self._stream_config(self.segments[-1])
            try:
                self._held_out = Stream(self.store, config, self.tokenizer.ordinary_ids, split="held_out")
            except CorpusError:
                return None
        return self._held_out

    def loader(self, stream: Stream, *, start: int) -> Loader:
        """Micro-batches of `stream` from the global index `start` on, made ahead by the workers."""
        return Loader(stream, start=start, workers=self.config.data.workers)

    def _stream_config(self, segment: Segment) -> StreamConfig:
        data, train = self.config.data, self.config.train
        return StreamConfig(
            longest=segment.longest,
            tokens=train.micro_batch_tokens,
            sequences=train.max_documents,
            seed=segment.seed,
            mask_rate=data.mask_rate,
            mask_split=data.mask_split,
            held_out_fraction=data.held_out,
        )
