"""From raw text to a token store: read, train a tokenizer unless one is given, encode, write.

The text is read once, or twice if a tokenizer is trained. Worker processes encode it (`encoding.py`, `processes.py`);
documents are written in their order, and those without a token are counted and left out. If `prepare` is killed, the
same call goes on after the last finished shard (`store/unfinished.py`) and gives the same bytes, for any number of
workers. The documents of an input store are copied. Text of which more than a tenth becomes unknown tokens is refused
(`unknown.py`).

Cost: 1 MB or more of English or Chinese a second and core; memory for a few batches of 1 MB of text and one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unmask.config.settings import counted
from unmask.data.prepare.doubts import warn_of_documents
from unmask.data.prepare.encoding import EncodedBatch, TextEncoder, content_hash
from unmask.data.prepare.inputs import Corpus, stores_among
from unmask.data.prepare.unknown import Origin, UnknownTokens, require_known
from unmask.data.store import Store
from unmask.data.store.manifest import StoreHead, make_manifest
from unmask.data.store.summary import SummaryCounts, describe
from unmask.data.store.unfinished import UnfinishedStore
from unmask.data.store.writer import SHARD_TOKENS, ShardWriter, StoredDocument
from unmask.data.text.cleaning import KINDS, Normalisation, clean
from unmask.data.text.corpus import Document
from unmask.data.text.options import ReadOptions
from unmask.data.text.remote import shown
from unmask.data.text.words import load_segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.case import require_case
from unmask.data.tokenizer.find_tokenizer import find_tokenizer
from unmask.data.tokenizer.folder import case_is_open
from unmask.errors import CorpusError, StoreError
from unmask.paths import address_of
from unmask.processes import ProcessPool, cores

__all__ = ["Progress", "describe", "prepare"]

_BATCH_CHARACTERS = 1_000_000
_BATCH_STORED = 4096
_SAMPLE_CHARACTERS = 500_000
_NOTHING_REMOVED = (0,) * len(KINDS)
_Encoders = ProcessPool[Sequence[str], EncodedBatch]
_TRAINED: dict[str, Any] = {"vocab_size": 30_522, "lowercase": True, "sample_characters": 100_000_000}


class Progress(NamedTuple):
    """How far `prepare` is, reported after every batch.

    Attributes:
        stage: what is being done.
        documents: documents read so far.
        characters: their characters.
        total_characters: characters of the corpus; None until it was read for training.
    """

    stage: Literal["read", "train tokenizer", "continue", "encode"]
    documents: int
    characters: int
    total_characters: int | None


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    add_words: Sequence[str] | None = None,
    vocab_size: int | None = None,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    keep_indentation: bool = False,
    sample_characters: int | None = None,
    allow_unknown: bool = False,
    text_field: str = "text",
    blank_line_documents: bool = False,
    split_at: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    drop_duplicates: bool = False,
    segmenter: str | None = None,
    normalisation: Normalisation = "none",
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Store:
    """Make a token store and open it; `describe` prints the counts in its `manifest["summary"]`.

    Warnings about the text are logged by `unmask.data` (see `Corpus`, `Tokenizer.train` and `require_known`).

    Example:
        >>> import unmask
        >>> store = unmask.prepare(["texts"], "store", vocab_size=500)
        >>> store.num_documents
        20

    Args:
        inputs: files, folders, patterns, data sets, `docstrings:` (`text/corpus.py`) and token stores; one or a list.
        out: the store to make; it must not exist. A killed run leaves `<out>.partial`, with which the same call goes
            on.
        tokenizer: a tokenizer, its folder or `vocab.txt`, or a store or run that has one; the store keeps a copy.
            Default: that of the first store among the inputs, else one is trained on this text.
        add_words: words that become further entries of the given tokenizer, after its others
            (`tokenizer/further_words.py`).
        vocab_size: number of tokens of a trained tokenizer. Default: 30,522.
        lowercase: whether the tokenizer drops case. Default: True for a trained one, which then drops accents too; a
            given one says it, and the entries of a `vocab.txt` alone show it (`Tokenizer.load`).
        strip_accents: whether a trained tokenizer drops accents (`text/accents.py`). Default: as `lowercase`.
        keep_indentation: whether a trained tokenizer makes a word of a line break and the indentation after it, for
            source code.
        sample_characters: most characters of text that a tokenizer is trained on. Default: 100,000,000.
        allow_unknown: whether to take text of which more than 10% becomes unknown tokens. A preparation that was
            refused for them goes on where it was.
        text_field: field of JSON, or column of a table, that holds the text; several, as in "title,text", are joined.
            "1" is the first column of a table without a header line.
        blank_line_documents: whether blank lines separate the documents of a text file.
        split_at: regular expression; a document of a text file begins at each line in which it is found.
        encoding: encoding of all files but parquet, by its name in Python.
        delimiter: character between the columns of `.csv` and `.tsv`, or "tab". Default: a comma, and a tab.
        drop_duplicates: whether of documents with the same text only the first is kept.
        segmenter: name of the segmenter that joins Chinese characters to words (`text/words.py`). Default: that of the
            first store among the inputs, else each character is a word.
        normalisation: Unicode normalisation (`text/cleaning.py`).
        workers: processes that encode; the store is the same for any number. Default: one per core.
        shard_tokens: tokens after which a shard ends. A killed run goes on after the last finished shard.
        cache: folder for the embedded corpus, as in `docstring_corpus`.
        progress: called with a `Progress` after every batch.

    Raises:
        StoreError: `out` exists, is being written, was begun with other settings or cannot be written; or another
            tokenizer or segmenter made an input store.
        CorpusError: the text cannot be read; no document gives a token; the segmenter cannot be loaded; or an option
            applies to no input.
        TokenizerError: the tokenizer cannot be loaded or trained, `lowercase` contradicts it, or more than 10% of the
            tokens are unknown.
        UnmaskError: a worker process died.
        ValueError: `workers` or `shard_tokens` is below 1, or an option is for training a tokenizer and one is given.
    """
    if (address := address_of(out)) is not None:
        raise StoreError(
            f"store: {shown(address)} is on another machine, where no store can be made; make it in a folder here, and "
            "copy the folder there when it is whole"
        )
    if Path(out).exists():
        raise StoreError(f"store: {out} exists already; choose another folder or remove it first")
    for option, value in (("workers", workers), ("shard_tokens", shard_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"prepare: {option} must be at least 1, got {value}")
    asked = {
        "vocab_size": vocab_size,
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "keep_indentation": keep_indentation or None,
        "sample_characters": sample_characters,
    }
    trained = _TRAINED | {name: value for name, value in asked.items() if value is not None}
    _require_trained(inputs, tokenizer, asked)
    report = progress or _silent
    options = ReadOptions(
        text_field=text_field,
        blank_line_documents=blank_line_documents,
        split_at=split_at,
        encoding=encoding,
        delimiter=delimiter,
    )
    corpus = Corpus(inputs, options, normalisation, cache, out=out, drop_duplicates=drop_duplicates)
    given, origin = _tokenizer(tokenizer, corpus, lowercase)
    if add_words is not None:
        if given is None:
            raise ValueError(
                "prepare: add_words needs a tokenizer to add them to, but one is trained on the text; give tokenizer"
            )
        given = given.with_words(add_words)
    name = corpus.segmenter if segmenter is None else segmenter
    cutter = None if name is None else load_segmenter(name)
    # an earlier version trained on the text as it is: what it began is not continued
    changes = normalisation != "none"
    settings = {
        **options.identity,
        **({"drop_duplicates": True} if drop_duplicates else {}),
        "input": corpus.identity,
        "tokenizer": given.hash if given is not None else trained | ({"normalised": True} if changes else {}),
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
            reader = _Reader(corpus.documents(), report, normalisation)
            given = Tokenizer.train(reader.texts(), **trained, long_words=long_words.append)
            total = reader.characters
        given.save(saved)
        encode = TextEncoder(tokenizer=given, segmenter=cutter, normalisation=normalisation)
        # a segmenter changes no token, and a failing one would end this process
        plain = replace(encode, segmenter=None)
        try_nfkc = partial(_unknown_shares, corpus, plain, replace(plain, normalisation="NFKC"))
        known = partial(require_known, tokenizer=given, origin=origin, allow=allow_unknown, try_nfkc=try_nfkc)
        head = StoreHead.of(given, settings["segmenter"])
        corpus.require(head)
        if place.journal is None and origin != "trained" and not allow_unknown:
            known(_counted(plain, corpus.sample(_SAMPLE_CHARACTERS)), sampled=True)
        with ProcessPool(encode, cores() if workers is None else workers) as pool:
            writer = _DocumentWriter(place, head, shard_tokens, given.unk_id, sum(long_words), known)
            writer.run(corpus, pool, report, total)
    store = Store.open(out)
    warn_of_documents(store, corpus.paths, options)
    return store


def _tokenizer(
    tokenizer: Tokenizer | str | Path | None, corpus: Corpus, lowercase: bool | None
) -> tuple[Tokenizer | None, Origin]:
    """Return the tokenizer that is given or that a store has, None to train one, and where it comes from."""
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        place = find_tokenizer(tokenizer)
        origin: Origin = "bare vocabulary" if case_is_open(place) else "given"
        return Tokenizer.load(place, lowercase=lowercase), origin
    given, origin = (corpus.tokenizer, "store") if tokenizer is None else (tokenizer, "given")
    if given is None:
        return None, "trained"
    said = "that of the input store" if origin == "store" else "the given tokenizer"
    if lowercase is not None:
        require_case(lowercase, given.lowercase, f"{said} {'drops' if given.lowercase else 'keeps'} case")
    return given, origin


def _counted(encode: TextEncoder, texts: Iterable[str]) -> UnknownTokens:
    counts = UnknownTokens()
    encoded = encode(list(texts))
    for tokens, words in zip(encoded.lengths, encoded.unknown_words, strict=True):
        counts.note(int(tokens), words)
    return counts


def _unknown_shares(corpus: Corpus, first: TextEncoder, second: TextEncoder) -> tuple[float, float]:
    """Return the share of unknown tokens that each of two encoders makes of a sample of the text."""
    texts = list(corpus.sample(_SAMPLE_CHARACTERS))
    one, other = _counted(first, texts), _counted(second, texts)
    return one.unknown / max(1, one.tokens), other.unknown / max(1, other.tokens)


def _require_trained(
    inputs: str | Path | Sequence[str | Path], tokenizer: Tokenizer | str | Path | None, asked: dict[str, Any]
) -> None:
    """Refuse options of a trained vocabulary if none is trained; `lowercase` must agree with the one that is given."""
    stores = stores_among(inputs)
    keeper = "a tokenizer is given" if tokenizer is not None else f"the input {stores[0]} is a store" if stores else ""
    for name, value in asked.items():
        if keeper and value is not None and name != "lowercase":
            raise ValueError(
                f"prepare: {name} is {value} but {keeper}, which keeps its own vocabulary; leave one of them out"
            )


class _DocumentWriter:
    """Writes documents to the unfinished store `place`, after those that a killed run has written."""

    def __init__(
        self,
        place: UnfinishedStore,
        head: StoreHead,
        shard_tokens: int,
        unknown: int,
        long_words: int,
        require_known: Callable[[UnknownTokens], None],
    ) -> None:
        journal = place.journal
        state = journal["state"] if journal else {}
        self._place, self._head, self._unknown = place, head, unknown
        self._counts = SummaryCounts(state.get("tally"))
        self._words = UnknownTokens(state.get("unknown"))
        self._require_known = require_known
        # words that training left out; a run that is continued does not train again
        self._counts.long_words += long_words
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

    def run(self, corpus: Corpus, pool: _Encoders, report: Callable[[Progress], None], total: int | None) -> None:
        """Encode and write all documents that are not written yet, and publish the store."""
        items = iter(corpus)
        try:
            self._skip(items, report)
            for batch, encoded in pool.map(_jobs(items)):
                for document, text, removed, words in _documents(batch, encoded):
                    self._add(document, text, removed, words)
                report(Progress("encode", self._counts.read, self._counts.characters, total))
            self._writer.close()
        finally:
            self._writer.abandon()
        if not self._writer.shards:
            raise CorpusError(
                f"corpus: none of {counted(self._counts.read, 'document')} gives a token; is the text in the "
                "tokenizer's language?"
            )
        # all shards are in the journal by now: what is refused here can go on
        self._require_known(self._words)
        summary = self._counts.summary(corpus.names)
        if corpus.dropped:
            summary["dropped_duplicates"] = corpus.dropped
        self._place.publish(make_manifest(self._head, self._writer.sources, self._writer.shards, summary))

    def _skip(self, items: Iterator[Document | StoredDocument], report: Callable[[Progress], None]) -> None:
        """Skip the documents of the finished shards, and check that they have not changed."""
        if not self._resumed:
            return
        digest = ""
        read = 0
        for item in islice(items, self._counts.read):
            hashed = content_hash(item.text) if isinstance(item, Document) else item.content_hash
            digest = _chain(digest, item.source, hashed)
            read += 1
        if digest != self._digest:
            count = self._counts.read
            first = "its first document has" if count == 1 else f"its first {count:,} documents have"
            raise StoreError(
                f"store: {self._place.path} was begun with another text: {first} changed; remove it to start afresh"
            )
        report(Progress("continue", read, self._counts.characters, None))

    def _add(
        self, document: StoredDocument, characters: int, removed: Sequence[int], words: Mapping[str, int] | None
    ) -> None:
        # counted first: if this document completes a shard, the journal has to include it
        unknown = int(np.count_nonzero(document.ids == self._unknown))
        self._counts.note(document.source, characters, len(document.ids), unknown, removed)
        if words is not None:
            self._words.note(len(document.ids), words)
        self._digest = _chain(self._digest, document.source, document.content_hash)
        if len(document.ids):
            self._writer.add(document)

    def _finished(self) -> None:
        state = {"tally": self._counts.state(), "digest": self._digest, "unknown": self._words.state()}
        self._place.record(self._writer.shards, self._writer.sources, state)


def _chain(digest: str, source: str, hashed: int) -> str:
    return hashlib.blake2b(f"{digest} {source} {hashed}".encode(), digest_size=8).hexdigest()


def _documents(
    batch: list[Document | StoredDocument], encoded: EncodedBatch | None
) -> Iterator[tuple[StoredDocument, int, Sequence[int], Mapping[str, int] | None]]:
    """Yield each document of a batch with its characters, what cleaning removed, and its unknown words.

    The words of a document that was stored before are not known: None.
    """
    end = 0
    for index, item in enumerate(batch):
        if isinstance(item, StoredDocument):
            yield item, 0, _NOTHING_REMOVED, None
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
        yield document, len(item.text), encoded.removed[index], encoded.unknown_words[index]


def _jobs(
    items: Iterable[Document | StoredDocument],
) -> Iterator[tuple[list[Document | StoredDocument], list[str] | None]]:
    """Yield batches of documents, either all text or all stored, with the texts to encode or None."""
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
    """Yields texts to training, normalised as they are when they are encoded, and reports how many were read."""

    def __init__(
        self, documents: Iterable[Document], report: Callable[[Progress], None], normalisation: Normalisation
    ) -> None:
        self.characters = 0
        self._documents = documents
        self._report = report
        self._normalisation = normalisation

    def texts(self) -> Iterator[str]:
        read = 0
        for read, document in enumerate(self._documents, start=1):
            self.characters += len(document.text)
            if read % 1024 == 0:
                self._report(Progress("read", read, self.characters, None))
            # training leaves out what cleaning removes; only normalisation gives other characters
            yield document.text if self._normalisation == "none" else clean(document.text, self._normalisation).text
        self._report(Progress("train tokenizer", read, self.characters, self.characters))


def _silent(progress: Progress) -> None:
    """Tell nobody."""
