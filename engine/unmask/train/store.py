"""The store of a run: one that exists, text prepared in the run directory, or the docstrings of installed packages.

data.store    opened as it is
data.input    prepared once, as <run>/store
init.from     with it, text is prepared as <run>/store, whatever it is, with the tokenizer that the run begins with
neither       the docstrings of the installed Python packages, as for data.input: [docstrings:]; prepared once for this
              machine in the cache folder, where the name of the store is a hash of the text and of the tokenizer's
              settings
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from unmask.config import RunConfig
from unmask.data.prepare import Progress, describe, prepare
from unmask.data.prepare.inputs import stores_among
from unmask.data.store import Store, StoreCache
from unmask.data.store.duplicates import describe_duplicates
from unmask.data.store.summary import headline
from unmask.data.text.corpus import DOCSTRINGS
from unmask.data.text.docstrings import cache_folder, docstring_corpus
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.find_tokenizer import find_tokenizer
from unmask.data.tokenizer.folder import case_is_open
from unmask.errors import StoreError
from unmask.paths import address_of

__all__ = ["cache_of", "open_store"]

_log = logging.getLogger(__name__)


def open_store(config: RunConfig, run: Path) -> tuple[Store, Tokenizer]:
    """Open the store of the run in `run`, which is prepared first if it does not exist yet, and its tokenizer.

    Raises:
        StoreError: the store is missing or damaged, was made with another tokenizer than `data.tokenizer`, or without
            the segmenter of `data.segmenter` (`chinese` accepts any).
        CorpusError: the text cannot be used.
        TokenizerError: the tokenizer cannot be used.
    """
    if config.data.store is not None:
        store = _opened(config.data.store, cache_of(config))
        asked, made_by = config.data.segmenter, store.segmenter.partition(" ")[0]
        if asked is not None and not made_by:
            raise StoreError(
                f"store: {store.location} was made without a segmenter, so each Chinese character is a word in it, but "
                f"data.segmenter is {asked!r}; prepare the text again with --segmenter {asked}, or give "
                "--data.segmenter None"
            )
        if asked not in (None, "chinese", made_by):
            raise StoreError(
                f"store: {store.location} has words by {store.segmenter}, but data.segmenter is {asked!r}; prepare the "
                f"text again with --segmenter {asked}, or give --data.segmenter {made_by}"
            )
    elif config.init.from_ is not None or config.data.input not in ([], [DOCSTRINGS]):
        store = _prepared(run / "store", config)
    else:
        store = _docstrings(config, run)
    tokenizer = store.load_tokenizer()
    if (given := config.data.tokenizer) is not None:
        # a store may be older than the reading of case from a bare vocabulary, which is the same one with either case
        place = find_tokenizer(given)
        lowercase = tokenizer.lowercase if case_is_open(place) else None
        store.require_tokenizer(Tokenizer.load(place, lowercase=lowercase))
    return store, tokenizer


def cache_of(config: RunConfig) -> StoreCache | None:
    """Return where a run keeps the shards of a store at an address; None for a store in a folder."""
    data = config.data
    if data.store is None or address_of(data.store) is None:
        return None
    return StoreCache(folder=data.cache_folder, limit_gb=data.cache_gb, patience=data.cache_patience)


def _opened(place: str | Path, cache: StoreCache | None = None) -> Store:
    """Open a store that was described when it was made."""
    store = Store.open(place, cache=cache)
    _log.info(headline(store))
    return store


def _prepared(folder: Path, config: RunConfig) -> Store:
    """Open the store in `folder`, or make it there from the configured text."""
    if folder.exists():
        return _opened(folder)
    stages: list[str] = []

    def log_stage(progress: Progress) -> None:
        if progress.stage not in stages:
            stages.append(progress.stage)
            _log.info(f"preparing {folder}: {progress.stage}")

    data = config.data
    trained = data.tokenizer is None and not stores_among(data.input)
    store = prepare(
        data.input or [DOCSTRINGS],
        folder,
        tokenizer=data.tokenizer,
        vocab_size=data.vocab_size if trained else None,
        lowercase=data.lowercase,
        strip_accents=False if trained and not data.strip_accents else None,
        keep_indentation=data.keep_indentation,
        allow_unknown=data.allow_unknown,
        text_field=data.text_field,
        blank_line_documents=data.blank_line_documents,
        split_at=data.split_at,
        encoding=data.encoding,
        delimiter=data.delimiter,
        drop_duplicates=data.drop_duplicates,
        segmenter=data.segmenter,
        progress=log_stage,
    )
    _log.info(describe(store))
    if copies := describe_duplicates(store):
        _log.info(copies)
    return store


def _docstrings(config: RunConfig, run: Path) -> Store:
    """Open the store of the docstrings in the cache, or make it if it is not there or damaged."""
    digest = hashlib.sha256()
    for document in docstring_corpus():
        digest.update(f"{document.source}\0{document.text}\0".encode())
    data = config.data
    asked: object = [data.vocab_size, data.lowercase is not False, *([] if data.strip_accents else [False])]
    if data.keep_indentation:
        asked = [asked, "keep_indentation"]
    if data.tokenizer is not None:
        asked = Tokenizer.load(data.tokenizer, lowercase=data.lowercase).hash
    digest.update(json.dumps([asked, data.segmenter]).encode())
    cache = cache_folder()
    folder = run / "store"
    with contextlib.suppress(OSError):
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            folder = cache / f"store-{digest.hexdigest()[:16]}" if os.access(cache, os.W_OK) else folder
    try:
        return _prepared(folder, config)
    except StoreError as error:
        # Another run may have prepared the same text meanwhile. A damaged store is made again.
        _log.warning(f"{error}; preparing the cached text again")
        try:
            return _opened(folder)
        except StoreError:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            return _prepared(folder, config)
        except StoreError as busy:
            # Another run is preparing the store at this moment.
            _log.warning(f"{busy}; preparing the text for this run alone")
            return _prepared(run / "store", config)
