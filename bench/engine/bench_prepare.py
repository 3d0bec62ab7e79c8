"""Raw text to a token store on one core: reading, cleaning, sentences, words, WordPiece, writing, hashing.

English is the embedded corpus of docstrings, with a vocabulary of 30,522 trained on it. Chinese is the text that
`--chinese` names, tokenized by character with a vocabulary trained on it, and segmented by rjieba. Both are .jsonl
files of about 4 MB. The bench first checks that the store contains the tokenizer's ids of each text. Goal: 1 MB of text
per second and core, where MB means 10^6 bytes of UTF-8.

    PYTHONPATH=engine:kernels python -m pytest bench/engine/bench_prepare.py --import-mode=importlib --chinese FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.prepare import prepare
from unmask.data.prepare.inputs import Corpus
from unmask.data.store import Store
from unmask.data.text.docstrings import docstring_corpus
from unmask.data.text.options import ReadOptions
from unmask.data.tokenizer import Tokenizer

VOCAB_SIZE = 30_522
BYTES = 4_000_000
PIECE = 20_000  # characters: books are cut, so a few of them give a few hundred documents
ROUNDS = 3
GOAL = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Texts of about `BYTES` in a file, their tokenizer, and their segmenter."""

    path: Path
    texts: list[str]
    bytes: int
    tokenizer: Tokenizer
    segmenter: str | None


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    yield
    if cores:
        os.sched_setaffinity(0, cores)


@pytest.fixture
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "english":
        return _corpus(tmp_path / "english.jsonl", (document.text for document in docstring_corpus()), None)
    given = request.config.getoption("--chinese")
    if given is None:
        pytest.skip("no Chinese text: name some with --chinese")
    pytest.importorskip("rjieba")
    return _corpus(
        tmp_path / "chinese.jsonl", (document.text for document in Corpus([given], ReadOptions()).documents()), "rjieba"
    )


def _corpus(path: Path, texts: Iterable[str], segmenter: str | None) -> Case:
    taken: list[str] = []
    size = 0
    for text in texts:
        for start in range(0, len(text), PIECE):
            taken.append(text[start : start + PIECE])
            size += len(taken[-1].encode())
        if size > BYTES:
            break
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in taken))
    tokenizer = Tokenizer.train(taken, VOCAB_SIZE)
    return Case(path=path, texts=taken, bytes=size, tokenizer=tokenizer, segmenter=segmenter)


def run(corpus: Case, out: Path) -> Store:
    return prepare([corpus.path], out, tokenizer=corpus.tokenizer, segmenter=corpus.segmenter, workers=1)


def check(corpus: Case, store: Store) -> None:
    """Fail unless the store holds every text's tokens, and word starts that only a segmenter took away."""
    rows = np.arange(store.num_documents)
    ids, words = store.gather(rows, np.zeros_like(rows), store.lengths)
    expected = [tokens for tokens in corpus.tokenizer.encode_batch(corpus.texts) if tokens]
    assert np.array_equal(ids, np.concatenate(expected)), "the store must hold the tokens of every text"
    spelled = corpus.tokenizer.word_starts(ids)
    assert not np.any(words & ~spelled), "a piece that continues a word by its spelling starts none"
    assert (words.sum() < spelled.sum()) == (corpus.segmenter is not None), "a segmenter joins ideographs, nothing else"


@pytest.mark.parametrize("corpus", ["english", "chinese"], indirect=True)
def bench_prepare(benchmark: Any, corpus: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    out = tmp_path / "store"
    check(corpus, run(corpus, out))
    processor_seconds: list[float] = []

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def timed() -> Store:
        began = time.process_time()
        store = run(corpus, out)
        processor_seconds.append(time.process_time() - began)
        return store

    benchmark.group = "prepare"
    store = benchmark.pedantic(timed, setup=fresh, rounds=request.config.getoption("--rounds") or ROUNDS)
    benchmark.extra_info.update(
        {
            "case": f"{corpus.path.stem}, {corpus.bytes:,} bytes",
            "variant": "prepare",
            "bytes_per_second": corpus.bytes / benchmark.stats.stats.median,
            # what a core that nobody else uses would reach
            "bytes_per_processor_second": corpus.bytes / float(np.median(processor_seconds)),
            "goal_bytes_per_second": GOAL,
            "tokens": store.num_tokens,
            "segmenter": store.segmenter,
            "cores": 1,
        }
    )
    print(
        f"\n{corpus.path.stem}: {benchmark.extra_info['bytes_per_processor_second'] / 1e6:.2f} MB per core and second"
    )
