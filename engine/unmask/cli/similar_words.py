"""`unmask similar-words --store STORE --out TABLE [--vectors FILE]`: the table of similar words for masking `mac`."""

import time
from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked
from unmask.paths import as_typed
from unmask.terminal import messages_through

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Make the table of similar words that MacBERT's masking needs, for the words of a store.

    Word vectors are trained on the store, or read from a file. The most similar word is the one with the nearest vector
    among the words of as many tokens. Needs gensim: pip install 'unmask[vectors]'.
    """

    store: Path = option(
        MISSING,
        "Store whose words the table is for. Chinese text needs words: prepare it with --segmenter chinese.",
        metavar="STORE",
    )
    out: Path = option(MISSING, "File to make; must not exist.", metavar="TABLE")
    vectors: Path | None = option(
        None,
        "Word vectors in word2vec's format, text or binary, or in GloVe's; also .gz or .bz2. The first million is "
        "read. None: they are trained on the store.",
        metavar="FILE",
    )
    words: int = option(30_000, "Number of words of the table, the most frequent of the store.", ge=1)
    neighbours: int = option(5, "Similar words to list for a word. Masking takes the first.", ge=1)
    min_count: int = option(5, "Occurrences that a word needs.", ge=1)
    tokens: int = option(100_000_000, "Tokens of the store to read, of documents spread evenly over it.", ge=1)
    epochs: int | None = option(None, "Readings of the text in training. None: 5.", ge=1)
    seed: int | None = option(None, "Seed of the training; the same seed gives the same table. None: 1.")


def run(arguments: list[str]) -> None:
    """Make the table, and print how many words it has and how to use it."""
    options = read(Options, prog="unmask similar-words", arguments=arguments)
    from unmask.data.masking.neighbours import similar_words

    began = time.perf_counter()
    with messages_through(print):
        table = similar_words(
            options.store,
            options.out,
            vectors=options.vectors,
            words=options.words,
            neighbours=options.neighbours,
            min_count=options.min_count,
            tokens=options.tokens,
            epochs=options.epochs,
            seed=options.seed,
        )
    print(f"{options.out}: {table.coverage}, made in {time.perf_counter() - began:.1f} s")
    store, out = as_typed(options.store), as_typed(options.out)
    print(f"try: unmask pretrain macbert-mini --data.store {store} --masking.similar_words {out}")
