"""The inputs of `prepare`: text, token stores, or the embedded corpus, as one sequence of documents.

An input is a store if its folder holds a store's manifest (`folders.py`). The documents of a store are copied, not
encoded, so the same tokenizer and segmenter must make the new store. A store that the user names is one source; else it
keeps its own sources.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from unmask.data.prepare.encoding import content_hash
from unmask.data.prepare.seen import SeenHashes
from unmask.data.store import Store
from unmask.data.store.manifest import StoreHead
from unmask.data.store.unfinished import partial_folder
from unmask.data.store.writer import StoredDocument
from unmask.data.text.cleaning import Normalisation
from unmask.data.text.corpus import DOCSTRINGS, Document, Input, named_inputs, read_input
from unmask.data.text.decoding import UndecodedError
from unmask.data.text.docstrings import docstring_corpus
from unmask.data.text.listing import CorpusFile, Listing, list_files, real_path
from unmask.data.text.options import Cuts, ReadOptions
from unmask.data.text.readers import FORMATS, format_of
from unmask.data.text.remote import FilePath, shown
from unmask.data.text.undecoded import all_undecoded, probably_utf8
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError
from unmask.folders import is_store
from unmask.paths import as_typed, printable

__all__ = ["Corpus", "stores_among"]

_log = logging.getLogger(__name__)

_GATHERED = 1024
_NAMED = 5
# the options of reading, each with the field of `Format` that says whether it applies
_APPLIES = {
    "text_field": "text_field",
    "split_at": "split_at",
    "blank_line_documents": "blank_lines",
    "encoding": "encoding",
    "delimiter": "delimiter",
}
_DATASETS = " and data sets"
_SAMPLED_PLACES = 32


class Corpus:
    """The documents of all inputs, in their order; iterating again reads again.

    Warns of files that were left out, of inputs that are read twice, of files that are UTF-8 where another encoding was
    given, and of a rule that cuts no file into documents.

    Args:
        inputs: what `named_inputs` knows, and token stores; a single str or Path is one input.
        options: how text is cut into documents.
        normalisation: of the text, before it is encoded.
        cache: folder for the embedded corpus.
        out: the store to make; nothing in it, or in its `.partial`, is read.
        drop_duplicates: whether of documents with the same text only the first is kept. This takes 16 to 32 bytes of
            disk for each document while it is read.

    Attributes:
        dropped: documents that were dropped as copies, after all were read.

    Raises:
        CorpusError: an input does not exist or holds nothing to read, or an option applies to none of them.
        StoreError: a store is damaged.
    """

    def __init__(
        self,
        inputs: str | Path | Sequence[str | Path],
        options: ReadOptions,
        normalisation: Normalisation = "none",
        cache: Path | None = None,
        *,
        out: str | Path | None = None,
        drop_duplicates: bool = False,
    ) -> None:
        self.dropped = 0
        self._drops = drop_duplicates
        # the disk of the new store has room, and /tmp may be memory
        self._scratch = Path(out).parent if out is not None and Path(out).parent.is_dir() else None
        self._options = options
        self._inputs = named_inputs(inputs)
        self._stores = {location: Store.open(location) for location in _stores(self._inputs)}
        is_embedded = [given.kind == "docstrings" for given in self._inputs]
        if cache is not None and not any(is_embedded):
            raise CorpusError(
                f"corpus: cache is {cache} but only the embedded corpus is kept in it, and {DOCSTRINGS} is no input; "
                "leave one of them out"
            )
        self._embedded = docstring_corpus(cache=cache) if any(is_embedded) else []
        self._cuts = Cuts(options)
        grows = () if out is None else (Path(out), partial_folder(Path(out)))
        avoid = [real_path(folder) for folder in grows]
        # listed once: files that this process writes are no input, and every reading sees the same files
        listings = [
            Listing(files=[], left_out="")
            if given.location in self._stores or given.kind != "files"
            else list_files(given.location, avoid)
            for given in self._inputs
        ]
        self._files = [listing.files for listing in listings]
        for given, listing in zip(self._inputs, listings, strict=True):
            if listing.left_out:
                # a file name may hold bytes that are no text
                _log.warning(f"corpus: {printable(shown(given.location))}: left out {printable(listing.left_out)}")
        self._warn_of_repeated()
        self._require_applicable(normalisation)
        self._warn_of_utf8()

    @property
    def paths(self) -> list[FilePath]:
        """The files to read."""
        return [file.path for some in self._files for file in some]

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the first store."""
        return next(iter(self._stores.values())).load_tokenizer() if self._stores else None

    @property
    def segmenter(self) -> str | None:
        """The name of the first store's segmenter."""
        labels = [store.segmenter for store in self._stores.values()]
        return labels[0].partition(" ")[0] or None if labels else None

    @property
    def names(self) -> list[str]:
        """The names of the inputs' sources."""
        return [name for given in self._inputs for name in self._names_of(given)]

    @property
    def identity(self) -> str:
        """SHA-256 of the inputs: sources, files and their sizes, fingerprints of stores."""
        parts: list[object] = []
        for given, files in zip(self._inputs, self._files, strict=True):
            if given.location in self._stores:
                parts.append([given.source, given.named, self._stores[given.location].fingerprint])
            elif given.kind == "files":
                parts.append([given.source, [[str(file.path), file.bytes] for file in files]])
            # the embedded corpus alone was once no input
            elif given.kind == "data set" or given.named or len(self._inputs) > 1:
                parts.append([given.source, given.location])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def require(self, head: StoreHead) -> None:
        """Check that every input store was made as `head` says.

        Raises:
            StoreError: another tokenizer or segmenter made one of them.
        """
        stores = list(self._stores.values())
        for store in stores:
            if store.tokenizer_hash != head.tokenizer_hash:
                first = next((one for one in stores if one.tokenizer_hash == head.tokenizer_hash), None)
                which = (
                    "the same --tokenizer" if first is None else f"--tokenizer {as_typed(first.folder / 'tokenizer')}"
                )
                raise StoreError(
                    f"store: {store.folder} was made by tokenizer {store.tokenizer_hash[:12]}, the new store by "
                    f"{head.tokenizer_hash[:12]}; stores of different tokenizers cannot be mixed; prepare the "
                    f"text of {store.folder} again with {which}"
                )
            if store.segmenter != head.segmenter:
                raise StoreError(
                    f"store: {store.folder} has words by {store.segmenter or 'no segmenter'}, the new store by "
                    f"{head.segmenter or 'no segmenter'}; prepare the text of one of them again"
                )

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the inputs that are text, for training a tokenizer."""
        return cast("Iterator[Document]", self._kept(self._all_documents()))

    def __iter__(self) -> Iterator[Document | StoredDocument]:
        return self._kept(self._all())

    def _kept(self, items: Iterator[Document | StoredDocument]) -> Iterator[Document | StoredDocument]:
        """Yield what is not dropped as a copy; texts without a character are counted as empty, not as copies."""
        if not self._drops:
            yield from items
            return
        self.dropped = 0
        with SeenHashes(self._scratch) as seen:
            for item in items:
                hashed = content_hash(item.text) if isinstance(item, Document) else item.content_hash
                if hashed in seen:
                    self.dropped += 1
                    continue
                if not isinstance(item, Document) or item.text.strip():
                    seen.add(hashed)
                yield item

    def _all_documents(self) -> Iterator[Document]:
        for given, files in zip(self._inputs, self._files, strict=True):
            if given.location not in self._stores:
                yield from self._read(given, files)
        self._warn_of_uncut()

    def sample(self, characters: int) -> Iterator[str]:
        """Yield the beginnings of texts from places spread over all inputs that are text, `characters` at most."""
        places = [
            (given, some)
            for given, files in zip(self._inputs, self._files, strict=True)
            for some in ([[file] for file in files] or [[]])
            if given.location not in self._stores
        ]
        chosen = places[:: 1 + len(places) // _SAMPLED_PLACES]
        for given, some in chosen:
            left = characters // len(chosen)
            # cuts are noted when all of the text is read
            for document in self._read(given, some, Cuts(self._options)):
                yield document.text[:left]
                left -= len(document.text)
                if left <= 0:
                    break

    def _all(self) -> Iterator[Document | StoredDocument]:
        found = bool(self._stores)
        for given, files in zip(self._inputs, self._files, strict=True):
            store = self._stores.get(given.location)
            if store is not None:
                yield from _stored(store, given.source if given.named else None)
                continue
            for document in self._read(given, files):
                found = found or bool(document.text.strip())
                yield document
        self._warn_of_uncut()
        if not found:
            inputs = ", ".join(shown(given.location) for given in self._inputs)
            raise CorpusError(f"corpus: {inputs} holds no text, every document is empty; give text")

    def _read(self, given: Input, files: Sequence[CorpusFile], cuts: Cuts | None = None) -> Iterator[Document]:
        if given.kind == "docstrings":
            source = given.source if given.named else None
            yield from (replace(document, source=source or document.source) for document in self._embedded)
            return
        try:
            yield from read_input(given, files, self._options, self._cuts if cuts is None else cuts)
        except UndecodedError as error:
            raise all_undecoded(error, self._paths_with("encoding"), self._options) from None

    def _names_of(self, given: Input) -> Sequence[str]:
        if given.location in self._stores and not given.named:
            return self._stores[given.location].sources
        return [given.source] if given.kind != "docstrings" or given.named else []

    def _paths_with(self, option: str) -> list[FilePath]:
        """Return the files to whose format an option applies, by the name of a field of `Format`."""
        return [path for path in self.paths if getattr(format_of(path), option)]

    def _require_applicable(self, normalisation: Normalisation) -> None:
        """Refuse options that apply to no input."""
        options, default = self._options, ReadOptions()
        datasets = any(given.kind == "data set" for given in self._inputs)
        for option, field in _APPLIES.items():
            value = getattr(options, option)
            if value == getattr(default, option) or self._paths_with(field) or (datasets and option == "text_field"):
                continue
            named = option if option in ("split_at", "blank_line_documents") else f"{option} {value!r}"
            formats = [suffix for suffix, known in FORMATS.items() if getattr(known, field)]
            raise CorpusError(
                f"corpus: {named} applies to {', '.join(formats)}{_DATASETS if option == 'text_field' else ''}, but no "
                "input is one; leave it out"
            )
        if normalisation != "none" and len(self._stores) == len(self._inputs):
            raise CorpusError(
                f"corpus: normalisation {normalisation} applies to text, but every input is a store, which holds "
                "tokens; leave it out"
            )

    def _warn_of_utf8(self) -> None:
        if self._options.encoding == ReadOptions().encoding:
            return
        found = probably_utf8([path for path in self._paths_with("encoding") if isinstance(path, Path)])
        if found:
            more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
            names = ", ".join(printable(str(path)) for path in found[:_NAMED]) + more
            _log.warning(
                f"corpus: encoding is {self._options.encoding}, but these files seem to be UTF-8: {names}; leave the "
                "encoding out if they are"
            )

    def _warn_of_repeated(self) -> None:
        named: list[tuple[object, str]] = [(file.place, str(file.path)) for some in self._files for file in some]
        named.extend(
            (real_path(Path(given.location)), given.location)
            for given in self._inputs
            if given.location in self._stores or given.kind == "data set"
        )
        times = Counter(place for place, _ in named)
        again = sorted({path for place, path in named if times[place] > 1})
        if again:
            names = ", ".join(again[:_NAMED]) + (f" and {len(again) - _NAMED:,} more" if len(again) > _NAMED else "")
            _log.warning(f"corpus: what the inputs name more than once is also read more than once: {printable(names)}")

    def _warn_of_uncut(self) -> None:
        """Warn, once and after all text was read, if no text file was cut, or if all lines of one are headings."""
        if not self._options.cuts_text or self._cuts.told:
            return
        self._cuts.told = True
        rule = self._options.split_at
        if self._cuts.all_headings is not None:
            path, typed = self._cuts.all_headings, as_typed(self._cuts.all_headings)
            _log.warning(
                f"corpus: split_at {rule!r} is found in each line of {printable(str(path))}, and lines with nothing "
                f"between them open one document; where each line is a document, make JSON lines of it: "
                f"jq -cR '{{text: .}}' {printable(typed)} > lines.jsonl"
            )
        if self._cuts.found:
            if self._cuts.missed:
                names = ", ".join(printable(str(path)) for path in self._cuts.named)
                more = self._cuts.missed - len(self._cuts.named)
                _log.warning(
                    f"corpus: split_at {rule!r} is found in no line of {self._cuts.missed:,} of the text files, and "
                    f"each of these is one document: {names}{f' and {more:,} more' if more else ''}"
                )
            return
        missed = (
            "blank_line_documents found no blank line" if rule is None else f"split_at {rule!r} is found in no line"
        )
        _log.warning(f"corpus: {missed} of the text files, so each of them is one document")


def stores_among(inputs: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the folders of the inputs that are stores, in their order.

    Raises:
        CorpusError: an input does not exist.
    """
    return _stores(named_inputs(inputs)) if inputs else []


def _stores(inputs: Sequence[Input]) -> list[str]:
    return [one.location for one in inputs if one.kind == "files" and is_store(Path(one.location))]


def _stored(store: Store, source: str | None) -> Iterator[StoredDocument]:
    names = store.sources
    first = 0
    for batch in store.hash_batches():
        for start in range(0, len(batch), _GATHERED):
            hashes = batch[start : start + _GATHERED].tolist()
            rows = np.arange(first + start, first + start + len(hashes))
            lengths, numbers = store.lengths[rows], store.source_of[rows].tolist()
            spans = (rows, np.zeros(len(rows), np.int64), lengths)
            ids, words = store.gather(*spans)
            sentences = store.gather_sentence_starts(*spans)
            end = 0
            for length, number, hashed in zip(lengths.tolist(), numbers, hashes, strict=True):
                begin, end = end, end + length
                yield StoredDocument(
                    ids=ids[begin:end],
                    source=source or names[number],
                    content_hash=hashed,
                    word_starts=words[begin:end],
                    sentence_starts=sentences[begin:end],
                )
        first += len(batch)
