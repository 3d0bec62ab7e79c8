"""Where the text of a run comes from: a store that exists, text prepared in the run directory, or the docstrings.

data.store    opened as it is
data.input    prepared once as <run>/store
neither       the docstrings of the installed Python packages, prepared once a machine in the cache folder, under a
              name made from their content and the tokenizer asked for
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from unmask.config import RunConfig
from unmask.data.prepare import Progress, describe, prepare
from unmask.data.prepare.inputs import stores_among
from unmask.data.store import Store
from unmask.data.text.docstrings import cache_folder, docstring_corpus
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError

__all__ = ["open_store"]


def open_store(config: RunConfig, run: Path, say: Callable[[str], None]) -> tuple[Store, Tokenizer]:
    """The store that the run in `run` reads, prepared first when it does not exist, and its tokenizer.

    Raises:
        StoreError: the store is missing, damaged, made by another tokenizer than `data.tokenizer`, or without the
            segmenter that `data.segmenter` asks for (`chinese` is any).
        CorpusError, TokenizerError: the text or the tokenizer cannot be used.
    """
    if config.data.store is not None:
        store = Store.open(config.data.store)
        asked, made_by = config.data.segmenter, store.segmenter.partition(" ")[0]
        if asked is not None and not made_by:
            raise StoreError(
                f"store: {store.folder} was made without a segmenter, so each Chinese character is a word in it, but "
                f"data.segmenter is {asked!r}; prepare the text again with --segmenter {asked}, or give "
                "--data.segmenter None"
            )
        if asked not in (None, "chinese", made_by):
            raise StoreError(
                f"store: {store.folder} has words by {store.segmenter}, but data.segmenter is {asked!r}; prepare the "
                f"text again with --segmenter {asked}, or give --data.segmenter {made_by}"
            )
    elif config.data.input:
        store = _prepared(run / "store", config, say)
    else:
        store = _embedded(config, run, say)
    tokenizer = store.load_tokenizer()
    if config.data.tokenizer is not None:
        store.require_tokenizer(Tokenizer.load(config.data.tokenizer))
    say(describe(store))
    return store, tokenizer


def _prepared(folder: Path, config: RunConfig, say: Callable[[str], None]) -> Store:
    """The store in `folder`, made from the configured text when it is not there yet."""
    if folder.exists():
        return Store.open(folder)
    stages: list[str] = []

    def tell(progress: Progress) -> None:
        if progress.stage not in stages:
            stages.append(progress.stage)
            say(f"preparing {folder}: {progress.stage}")

    data = config.data
    trained = data.tokenizer is None and not stores_among(data.input)
    return prepare(
        data.input or None,
        folder,
        tokenizer=data.tokenizer,
        vocab_size=data.vocab_size if trained else None,
        lowercase=data.lowercase if trained else None,
        strip_accents=False if trained and not data.strip_accents else None,
        text_field=data.text_field,
        blank_line_documents=data.blank_line_documents,
        split_at=data.split_at,
        segmenter=data.segmenter,
        progress=tell,
    )


def _embedded(config: RunConfig, run: Path, say: Callable[[str], None]) -> Store:
    """The store of the docstrings, from the cache if it is there and whole."""
    digest = hashlib.sha256()
    for document in docstring_corpus():
        digest.update(f"{document.source}\0{document.text}\0".encode())
    data = config.data
    asked: object = [data.vocab_size, data.lowercase, *([] if data.strip_accents else [False])]
    if data.tokenizer is not None:
        asked = Tokenizer.load(data.tokenizer).hash
    digest.update(json.dumps([asked, data.segmenter]).encode())
    cache = cache_folder()
    folder = run / "store"
    with contextlib.suppress(OSError):
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            folder = cache / f"store-{digest.hexdigest()[:16]}" if os.access(cache, os.W_OK) else folder
    try:
        return _prepared(folder, config, say)
    except StoreError as error:
        # Another run may have prepared the same text meanwhile; or the cache is damaged, which costs time and no more.
        say(f"{error}; preparing the cached text again")
        try:
            return Store.open(folder)
        except StoreError:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            return _prepared(folder, config, say)
        except StoreError as busy:
            # another run is preparing it at this moment
            say(f"{busy}; preparing the text for this run alone")
            return _prepared(run / "store", config, say)
