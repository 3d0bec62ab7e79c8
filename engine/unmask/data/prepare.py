"""From raw text to a token store: read, train a tokenizer if none is given, encode, write.

The text is read once with a given tokenizer and twice when one is trained. Documents are encoded sentence by
sentence in parallel, which is exact (a sentence ends where a word ends) and marks the sentence starts for
free. Documents that give no token are counted and left out. Cost: 1 MB or more of English a second and core,
memory of one batch of 8 MB of text and one record batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unmask.data.corpus import Document, read_corpus
from unmask.data.docstrings import docstring_corpus
from unmask.data.encoding import TextEncoder
from unmask.data.store import Store
from unmask.data.store_writer import StoredDocument, StoreWriter
from unmask.data.tokenizer import Tokenizer
from unmask.data.words import load_segmenter
from unmask.errors import CorpusError, StoreError

__all__ = ["Progress", "describe", "prepare"]

_BATCH_CHARACTERS = 8_000_000


class Progress(NamedTuple):
    """How far `prepare` is, told after every batch."""

    stage: Literal["read", "train tokenizer", "encode"]
    documents: int
    characters: int
    total_characters: int | None  # known once the corpus has been read for training


def prepare(
    inputs: Sequence[str | Path] | None,
    out: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    vocab_size: int = 30_522,
    lowercase: bool = True,
    text_field: str = "text",
    blank_line_documents: bool = False,
    segmenter: str | None = None,
    sample_characters: int = 100_000_000,
    cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Store:
    """Makes a token store and opens it; its `manifest["summary"]` counts what was found (`describe` prints it).

    Args:
        inputs: files and directories as `read_corpus` takes them; None or empty takes the embedded corpus.
        out: the store to make; it must not exist.
        tokenizer: a tokenizer or its folder; None trains one on this text. The store keeps a copy in
            `tokenizer/`.
        vocab_size: tokens of a trained tokenizer; not used with a given one.
        lowercase: whether a trained tokenizer drops case and accents; not used with a given one.
        text_field: field of JSON lines or column of parquet that holds the text.
        blank_line_documents: text files hold a document per block between blank lines.
        segmenter: name of what joins Chinese characters to words, see `words.py`; None makes each a word.
        sample_characters: how much text training a tokenizer looks at.
        cache: folder for the embedded corpus, as in `docstring_corpus`.
        progress: called with a `Progress` after every batch.

    Raises:
        StoreError: `out` exists or cannot be written.
        CorpusError: the text cannot be read, or no document gives a token.
        TokenizerError: the tokenizer cannot be loaded or trained.
    """
    if Path(out).exists():
        raise StoreError(f"store: {out} exists already; choose another folder or remove it first")
    cutter = None if segmenter is None else load_segmenter(segmenter)
    report = progress or _silent
    embedded = None if inputs else docstring_corpus(cache=cache)

    def documents() -> Iterable[Document]:
        if embedded is not None:
            return embedded
        return read_corpus(inputs or (), text_field=text_field, blank_line_documents=blank_line_documents)

    total = None
    if tokenizer is None:
        reader = _Reader(documents(), report)
        tokenizer = Tokenizer.train(reader.texts(), vocab_size, lowercase, sample_characters=sample_characters)
        total = reader.characters
    elif not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(tokenizer)
    writer = StoreWriter(
        out,
        tokenizer_hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        segmenter="" if cutter is None else cutter.label,
    )
    with writer:
        encode = TextEncoder(tokenizer=tokenizer, segmenter=cutter)
        writer.summary = _encode(documents(), encode, writer, report, total)
        tokenizer.save(writer.partial / "tokenizer")
    return Store.open(out)


def describe(store: Store) -> str:
    """Returns a few lines for people: documents, tokens, lengths and unknown tokens by source."""
    summary = store.manifest["summary"]
    counts = f"{store.num_documents:,} documents, {store.num_tokens:,} tokens, vocabulary {store.vocab_size:,}"
    lines = [f"{store.folder}: {counts}"]
    if summary.get("empty_documents"):
        lines.append(f"{summary['empty_documents']:,} documents without a token were left out")
    for source in store.manifest["sources"]:
        unknown = summary.get("unknown_tokens", {}).get(source["name"], 0) / max(1, source["tokens"])
        lines.append(
            f"  {source['name']}: {source['documents']:,} documents, {source['tokens']:,} tokens, {unknown:.3%} unknown"
        )
    lines.append("tokens per document:")
    lines.extend(f"  {label:>12} {count:,}" for label, count in summary.get("lengths", {}).items())
    return "\n".join(lines)


def _encode(
    documents: Iterable[Document],
    encode: TextEncoder,
    writer: StoreWriter,
    report: Callable[[Progress], None],
    total: int | None,
) -> dict[str, Any]:
    lengths: list[int] = []
    unknown: Counter[str] = Counter()
    empty = characters = read = 0
    for batch in _batches(documents):
        encoded = encode([document.text for document in batch])
        end = 0
        for index, document in enumerate(batch):
            start, end = end, end + int(encoded.lengths[index])
            if start == end:
                empty += 1
                continue
            ids = encoded.ids[start:end]
            lengths.append(end - start)
            unknown[document.source] += int(np.count_nonzero(ids == encode.tokenizer.unk_id))
            writer.add(
                StoredDocument(
                    ids=ids,
                    source=document.source,
                    content_hash=int(encoded.content_hashes[index]),
                    word_starts=encoded.word_starts[start:end],
                    sentence_starts=encoded.sentence_starts[start:end],
                )
            )
        read += len(batch)
        characters += sum(len(document.text) for document in batch)
        report(Progress("encode", read, characters, total))
    if not lengths:
        raise CorpusError(f"corpus: none of {read} documents gives a token; is this text in the tokenizer's language?")
    return {"empty_documents": empty, "unknown_tokens": dict(unknown), "lengths": _histogram(lengths)}


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


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


def _histogram(lengths: Sequence[int]) -> dict[str, int]:
    """Documents by their tokens in powers of two from 16 up, for example "65-128"."""
    bins = Counter(max(4, (length - 1).bit_length()) for length in lengths)
    labels = {power: f"{(1 << power - 1) + 1 if power > 4 else 1}-{1 << power}" for power in range(4, max(bins) + 1)}
    return {label: bins[power] for power, label in labels.items()}


def _silent(progress: Progress) -> None:
    """Tells nobody."""
