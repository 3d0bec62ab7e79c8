"""From raw text to a token store: read, train a tokenizer if none is given, encode, write.

The text is read once with a given tokenizer and twice when one is trained. Documents are encoded in worker processes
(`encoding.py`, `processes.py`), written in order, and those that give no token are counted and left out. A run that was
killed goes on after its last finished shard (`unfinished.py`) and gives the same bytes, whatever the workers. An input
may be a store: its documents are copied when the same tokenizer and segmenter made them. Cost: 1 MB or more of English
or Chinese a second and core, memory of a few batches of 1 MB of text and one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unmask.data.prepare.encoding import EncodedBatch, TextEncoder, content_hash
from unmask.data.prepare.inputs import Inputs, stores_among
from unmask.data.store import Store
from unmask.data.store.manifest import StoreHead, make_manifest
from unmask.data.store.summary import Tally, describe
from unmask.data.store.unfinished import UnfinishedStore
from unmask.data.store.writer import SHARD_TOKENS, ShardWriter, StoredDocument
from unmask.data.text.cleaning import KINDS, Normalisation
from unmask.data.text.corpus import Document
from unmask.data.text.readers import ReadOptions
from unmask.data.text.words import load_segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError
from unmask.processes import ProcessPool, cores

__all__ = ["Progress", "describe", "prepare"]

_BATCH_CHARACTERS = 1_000_000
_BATCH_STORED = 4096
_NOTHING_REMOVED = (0,) * len(KINDS)
_Encoders = ProcessPool[Sequence[str], EncodedBatch]
_TRAINED: dict[str, Any] = {"vocab_size": 30_522, "lowercase": True, "sample_characters": 100_000_000}


class Progress(NamedTuple):
    """How far `prepare` is, told after every batch."""

    stage: Literal["read", "train tokenizer", "continue", "encode"]
    documents: int
    characters: int
    total_characters: int | None  # known once the corpus has been read for training


def prepare(
    inputs: Sequence[str | Path] | None,
    out: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    vocab_size: int | None = None,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    sample_characters: int | None = None,
    text_field: str = "text",
    blank_line_documents: bool = False,
    split_at: str | None = None,
    segmenter: str | None = None,
    normalisation: Normalisation = "none",
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Store:
    """Make a token store and opens it; its `manifest["summary"]` counts what was found (`describe` prints it).

    Args:
        inputs: files, folders, data sets (see `corpus.py`) and token stores; None or empty takes the embedded corpus.
        out: the store to make; it must not exist. `<out>.partial` is what a killed run left to go on with.
        tokenizer: a tokenizer, its folder or `vocab.txt`; None takes that of the first store among the inputs, else
            trains one on this text. The store keeps a copy in `tokenizer/`.
        vocab_size: tokens of a tokenizer trained here, default 30,522; nothing else takes this and the next three.
        lowercase: whether it drops case and accents, default True.
        strip_accents: whether it drops accents; None follows `lowercase`. See `accents.py`.
        sample_characters: how much text its training looks at, default 100,000,000.
        text_field: as in `ReadOptions`, and so are `blank_line_documents` and `split_at`.
        blank_line_documents: see there.
        split_at: see there.
        segmenter: name of what joins Chinese characters to words, see `words.py`; None takes that of the first store
            among the inputs, else makes each a word.
        normalisation: of Unicode, see `cleaning.py`.
        workers: processes that encode; None is one per core. The store is the same for any number.
        shard_tokens: tokens that end a shard, after each of which a killed run can go on.
        cache: folder for the embedded corpus, as in `docstring_corpus`.
        progress: called with a `Progress` after every batch.

    Raises:
        StoreError: `out` exists, is being written, was begun with other settings or cannot be written; an input store
            was made by another tokenizer or segmenter.
        CorpusError: the text cannot be read, no document gives a token, the segmenter cannot be loaded, or a setting
            is about text that no input holds.
        TokenizerError: the tokenizer cannot be loaded or trained.
        UnmaskError: a worker process died.
        ValueError: `workers` or `shard_tokens` is below 1, or a vocabulary is asked for beside one that is given.
    """
    if Path(out).exists():
        raise StoreError(f"store: {out} exists already; choose another folder or remove it first")
    for option, value in (("workers", workers), ("shard_tokens", shard_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"prepare: {option} must be at least 1, got {value}")
    asked = {
        "vocab_size": vocab_size,
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "sample_characters": sample_characters,
    }
    trained = _TRAINED | {name: value for name, value in asked.items() if value is not None}
    _require_trained(inputs or (), tokenizer, asked)
    report = progress or _silent
    options = ReadOptions(text_field=text_field, blank_line_documents=blank_line_documents, split_at=split_at)
    source = Inputs(inputs or (), options, normalisation, cache, out=out)
    given = source.tokenizer if tokenizer is None else tokenizer
    if given is not None and not isinstance(given, Tokenizer):
        given = Tokenizer.load(given)
    name = source.segmenter if segmenter is None else segmenter
    cutter = None if name is None else load_segmenter(name)
    settings = {
        **asdict(options),
        "input": source.identity,
        "tokenizer": trained if given is None else given.hash,
        "segmenter": "" if cutter is None else cutter.label,
        "normalisation": normalisation,
        "shard_tokens": shard_tokens,
    }
    with UnfinishedStore(out, settings) as place:
        saved = place.path / "tokenizer"
        total = None
        long_words: list[int] = []
        if given is None and place.journal is not None:
            given = Tokenizer.load(saved)
        elif given is None:
            reader = _Reader(source.documents(), report)
            given = Tokenizer.train(reader.texts(), **trained, long_words=long_words.append)
            total = reader.characters
        given.save(saved)
        encode = TextEncoder(tokenizer=given, segmenter=cutter, normalisation=normalisation)
        head = StoreHead(
            tokenizer_hash=given.hash,
            vocab_size=given.vocab_size,
            special_ids=given.special_ids,
            segmenter=settings["segmenter"],
            added_special_ids=given.added_special_ids,
        )
        source.require(head)
        with ProcessPool(encode, cores() if workers is None else workers) as pool:
            _Filling(place, head, shard_tokens, given.unk_id, sum(long_words)).run(source, pool, report, total)
    return Store.open(out)


def _require_trained(
    inputs: Sequence[str | Path], tokenizer: Tokenizer | str | Path | None, asked: dict[str, Any]
) -> None:
    """Refuse what is asked of a trained vocabulary where none is trained."""
    stores = stores_among(inputs)
    keeper = "a tokenizer is given" if tokenizer is not None else f"the input {stores[0]} is a store" if stores else ""
    for name, value in asked.items():
        if keeper and value is not None:
            raise ValueError(
                f"prepare: {name} is {value} but {keeper}, which keeps its own vocabulary; leave one of them out"
            )


class _Filling:
    """Writes documents to the store that grows in `place`, from where a run before stopped."""

    def __init__(
        self, place: UnfinishedStore, head: StoreHead, shard_tokens: int, unknown: int, long_words: int
    ) -> None:
        journal = place.journal
        state = journal["state"] if journal else {}
        self._place, self._head, self._unknown = place, head, unknown
        self._tally = Tally(state.get("tally"))
        # training, of which these were left out, is not repeated when a run goes on
        self._tally.long_words += long_words
        self._resumed = bool(journal)
        self._digest = str(state.get("digest", ""))
        self._writer = ShardWriter(
            place.path,
            head,
            sources=journal["sources"] if journal else (),
            shards=journal["shards"] if journal else (),
            shard_tokens=shard_tokens,
            finished=self._finished,
        )

    def run(self, source: Inputs, pool: _Encoders, report: Callable[[Progress], None], total: int | None) -> None:
        """Encode and writes all that is not written yet, and puts the store in place."""
        items = iter(source)
        try:
            self._skip(items, report)
            for batch, encoded in pool.map(_jobs(items)):
                for document, text, removed in _documents(batch, encoded):
                    self._add(document, text, removed)
                report(Progress("encode", self._tally.read, self._tally.characters, total))
            self._writer.close()
        finally:
            self._writer.abandon()
        if not self._writer.shards:
            raise CorpusError(
                f"corpus: none of {self._tally.read} documents gives a token; is this text in the tokenizer's language?"
            )
        summary = self._tally.summary(source.names)
        self._place.publish(make_manifest(self._head, self._writer.sources, self._writer.shards, summary))

    def _skip(self, items: Iterator[Document | StoredDocument], report: Callable[[Progress], None]) -> None:
        """Pass over what the finished shards hold, and checks that it is still the same."""
        if not self._resumed:
            return
        digest = ""
        read = 0
        for item in islice(items, self._tally.read):
            hashed = content_hash(item.text) if isinstance(item, Document) else item.content_hash
            digest = _chain(digest, item.source, hashed)
            read += 1
        if digest != self._digest:
            raise StoreError(
                f"store: {self._place.path} was begun with another text: its first {self._tally.read} documents have "
                f"changed; remove it to start afresh"
            )
        report(Progress("continue", read, self._tally.characters, None))

    def _add(self, document: StoredDocument, characters: int, removed: Sequence[int]) -> None:
        # counted first: the shard that this document completes has to know of it
        unknown = int(np.count_nonzero(document.ids == self._unknown))
        self._tally.note(document.source, characters, len(document.ids), unknown, removed)
        self._digest = _chain(self._digest, document.source, document.content_hash)
        if len(document.ids):
            self._writer.add(document)

    def _finished(self) -> None:
        state = {"tally": self._tally.state(), "digest": self._digest}
        self._place.record(self._writer.shards, self._writer.sources, state)


def _chain(digest: str, source: str, hashed: int) -> str:
    return hashlib.blake2b(f"{digest} {source} {hashed}".encode(), digest_size=8).hexdigest()


def _documents(
    batch: list[Document | StoredDocument], encoded: EncodedBatch | None
) -> Iterator[tuple[StoredDocument, int, Sequence[int]]]:
    """Each document of a batch with its characters and what cleaning removed."""
    end = 0
    for index, item in enumerate(batch):
        if isinstance(item, StoredDocument):
            yield item, 0, _NOTHING_REMOVED
            continue
        assert encoded is not None
        start, end = end, end + int(encoded.lengths[index])
        document = StoredDocument(
            ids=encoded.ids[start:end],
            source=item.source,
            content_hash=int(encoded.content_hashes[index]),
            word_starts=encoded.word_starts[start:end],
            sentence_starts=encoded.sentence_starts[start:end],
        )
        yield document, len(item.text), encoded.removed[index]


def _jobs(
    items: Iterable[Document | StoredDocument],
) -> Iterator[tuple[list[Document | StoredDocument], list[str] | None]]:
    """Batches of documents of one kind, with their texts where they have to be encoded."""
    batch: list[Document | StoredDocument] = []
    size = 0
    for item in items:
        if batch and type(item) is not type(batch[0]):
            yield batch, _texts(batch)
            batch, size = [], 0
        batch.append(item)
        size += len(item.text) if isinstance(item, Document) else _BATCH_CHARACTERS // _BATCH_STORED
        if size >= _BATCH_CHARACTERS:
            yield batch, _texts(batch)
            batch, size = [], 0
    if batch:
        yield batch, _texts(batch)


def _texts(batch: Sequence[Document | StoredDocument]) -> list[str] | None:
    texts = [item.text for item in batch if isinstance(item, Document)]
    return texts or None


class _Reader:
    """Passes texts on to training and counts them."""

    def __init__(self, documents: Iterable[Document], report: Callable[[Progress], None]) -> None:
        self.characters = 0
        self._documents = documents
        self._report = report

    def texts(self) -> Iterator[str]:
        read = 0
        for read, document in enumerate(self._documents, start=1):
            self.characters += len(document.text)
            if read % 1024 == 0:
                self._report(Progress("read", read, self.characters, None))
            yield document.text
        self._report(Progress("train tokenizer", read, self.characters, self.characters))


def _silent(progress: Progress) -> None:
    """Tell nobody."""
