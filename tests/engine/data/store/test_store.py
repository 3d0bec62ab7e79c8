"""The token store: what goes in comes out by any path, damage and strangers are refused, the split goes by content."""

import errno
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unmask.data.prepare.encoding import content_hash
from unmask.data.store import Store, writer
from unmask.data.store.manifest import fingerprint
from unmask.data.store.writer import StoredDocument, write_store
from unmask.errors import StoreError

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
COMMON: dict[str, Any] = {"tokenizer_hash": "abc", "special_ids": SPECIAL}


def _documents(count: int, vocab_size: int = 1000, seed: int = 0) -> list[StoredDocument]:
    draw = np.random.default_rng(seed)
    return [
        StoredDocument(
            ids=draw.integers(0, vocab_size, length),
            source=("books", "peps")[number % 3 == 0],
            content_hash=content_hash(f"text {number}"),
            word_starts=draw.random(length) < 0.7,
            sentence_starts=draw.random(length) < 0.1,
        )
        for number, length in enumerate(draw.integers(1, 60, count))
    ]


@pytest.fixture
def documents() -> list[StoredDocument]:
    return _documents(257)


@pytest.fixture
def store(tmp_path: Path, documents: list[StoredDocument]) -> Store:
    """Several shards of several record batches each."""
    limits: dict[str, Any] = {"batch_documents": 20, "shard_tokens": 1500}
    return write_store(tmp_path / "store", documents, vocab_size=1000, **COMMON, **limits)


def test_whole_documents_come_back_in_any_order(store: Store, documents: list[StoredDocument]) -> None:
    assert len(store.manifest["shards"]) > 2
    order = np.random.default_rng(1).permutation(len(documents))
    chosen = [documents[index] for index in order]
    ids, words = store.gather(order, np.zeros_like(order), store.lengths[order])
    sentences = store.gather_sentence_starts(order, np.zeros_like(order), store.lengths[order])
    np.testing.assert_array_equal(ids, np.concatenate([document.ids for document in chosen]))
    np.testing.assert_array_equal(words, np.concatenate([document.word_starts for document in chosen]))
    np.testing.assert_array_equal(sentences, np.concatenate([document.sentence_starts for document in chosen]))
    assert ids.dtype == np.uint16 and words.dtype == sentences.dtype == np.bool_


def test_spans_with_repetitions_and_empty_ones_come_back_in_order(
    store: Store, documents: list[StoredDocument]
) -> None:
    draw = np.random.default_rng(2)
    rows = draw.integers(0, len(documents), 300)
    starts = draw.integers(0, store.lengths[rows] + 1)
    lengths = draw.integers(0, store.lengths[rows] - starts + 1)
    ids, words = store.gather(rows, starts, lengths)
    spans = [(documents[r], slice(s, s + n)) for r, s, n in zip(rows, starts, lengths, strict=True)]
    np.testing.assert_array_equal(ids, np.concatenate([document.ids[span] for document, span in spans]))
    np.testing.assert_array_equal(words, np.concatenate([document.word_starts[span] for document, span in spans]))


def test_ids_are_counted_in_the_documents_that_are_asked_for(store: Store, documents: list[StoredDocument]) -> None:
    asked = np.array([200, 3, 3, 17])
    expected = np.bincount(np.concatenate([documents[index].ids for index in asked]), minlength=1000)
    np.testing.assert_array_equal(store.count_ids(asked), expected)
    assert store.count_ids(np.zeros(0, np.int64)).sum() == 0


def test_gathering_nothing_gives_nothing(store: Store) -> None:
    ids, words = store.gather([], [], [])
    assert ids.shape == words.shape == (0,)
    assert ids.dtype == np.uint16


def test_counts_sources_and_lengths_are_those_written(store: Store, documents: list[StoredDocument]) -> None:
    assert store.num_documents == store.manifest["documents"] == len(documents)
    assert store.lengths.tolist() == [len(document.ids) for document in documents]
    assert store.num_tokens == store.lengths.sum()
    assert [store.sources[number] for number in store.source_of] == [document.source for document in documents]
    assert sum(source["tokens"] for source in store.manifest["sources"]) == store.num_tokens
    assert store.content_hashes.tolist() == [document.content_hash for document in documents]
    assert (store.special_ids, store.vocab_size, store.tokenizer_hash) == (SPECIAL, 1000, "abc")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32), (100_000, np.uint32)])
def test_large_vocabularies_take_32_bits(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    documents = [
        *_documents(4, vocab_size),
        replace(_documents(1)[0], ids=np.array([0, vocab_size - 1]), word_starts=None, sentence_starts=None),
    ]
    store = write_store(tmp_path / "store", documents, vocab_size=vocab_size, **COMMON)
    ids, _ = store.gather(np.arange(5), np.zeros(5, int), store.lengths)
    assert ids.dtype == dtype
    np.testing.assert_array_equal(ids, np.concatenate([document.ids for document in documents]))


def test_absent_flags_mean_whole_words_and_one_sentence(tmp_path: Path) -> None:
    document = StoredDocument(ids=np.array([5, 6, 7]), source="a", content_hash=1)
    store = write_store(tmp_path / "store", [document], vocab_size=10, **COMMON)
    assert store.gather([0], [0], [3])[1].tolist() == [True, True, True]
    assert store.gather_sentence_starts([0], [0], [3]).tolist() == [True, False, False]


def test_the_same_documents_give_the_same_bytes_and_other_contents_another_fingerprint(tmp_path: Path) -> None:
    stores = [
        write_store(tmp_path / name, _documents(30, seed=seed), vocab_size=1000, **COMMON)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert stores[0].manifest == stores[1].manifest
    assert stores[0].fingerprint == stores[1].fingerprint != stores[2].fingerprint


def test_a_fingerprint_is_of_everything_that_the_tokens_mean(store: Store) -> None:
    manifest = store.manifest
    other = [
        manifest | {"tokenizer_hash": "abd"},
        manifest | {"special_ids": {**SPECIAL, "mask": 5}},
        manifest | {"sources": [{**source, "name": source["name"].upper()} for source in manifest["sources"]]},
        manifest | {"shards": manifest["shards"][::-1]},
        manifest | {"schema_version": 2},
    ]
    found = {fingerprint(one) for one in (manifest, *other)}  # type: ignore[arg-type]
    assert len(found) == 6
    assert fingerprint(manifest | {"summary": {"note": "x"}}) == store.fingerprint  # type: ignore[arg-type]


def test_a_text_is_on_the_same_side_of_the_split_on_every_machine() -> None:
    assert content_hash("text") == 2024992729630503895
    assert content_hash("深度") == 14788195878130600035


def test_a_store_crosses_to_another_process_as_its_path(store: Store) -> None:
    again = pickle.loads(pickle.dumps(store))
    rows = np.arange(store.num_documents)
    first, second = (each.gather(rows, rows * 0, store.lengths)[0] for each in (store, again))
    np.testing.assert_array_equal(first, second)
    assert len(pickle.dumps(store)) < 1000


def test_other_arrow_readers_open_a_shard(store: Store, documents: list[StoredDocument]) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.ipc.open_file(str(store.folder / "shard-00000.arrow")).read_all()
    assert table.column("ids")[3].as_py() == documents[3].ids.tolist()
    np.testing.assert_array_equal(table.column("word_starts")[3].as_py(), documents[3].word_starts)
    assert table.schema.metadata[b"unmask.tokenizer_hash"] == b"abc"


# the held-out split


def test_held_out_goes_by_content_whatever_the_order_and_the_rest_of_the_corpus(tmp_path: Path) -> None:
    documents = _documents(2000)
    all_of_them = write_store(tmp_path / "a", documents, vocab_size=1000, **COMMON)
    some = write_store(tmp_path / "b", documents[1500::-1], vocab_size=1000, **COMMON)
    mask = all_of_them.held_out_mask(0.05)
    assert 60 < mask.sum() < 140
    np.testing.assert_array_equal(some.held_out_mask(0.05), mask[1500::-1])
    assert not np.any(all_of_them.held_out_mask(0.02) & ~mask)


def test_held_out_is_never_empty_nor_everything(tmp_path: Path) -> None:
    pair = write_store(tmp_path / "pair", _documents(2), vocab_size=1000, **COMMON)
    assert pair.held_out_mask(1e-9).sum() == pair.held_out_mask(0.999999).sum() == 1
    single = write_store(tmp_path / "single", _documents(1), vocab_size=1000, **COMMON)
    assert single.held_out_mask(0.01).tolist() == [True]
    with pytest.raises(ValueError, match=r"above 0 and below 1, got 1\.5"):
        pair.held_out_mask(1.5)


# refusals


@pytest.mark.parametrize(
    ("rows", "starts", "lengths", "message"),
    [
        ([0], [0], [10_000], r"a span must lie in \[0, \d+\], the tokens of its document 0, got 0 to 10000 at place 0"),
        ([0, 1], [0, -1], [1, 1], r"got -1 to 0 at place 1"),
        ([257], [0], [1], r"documents must be in \[0, 257\), got 257"),
        ([-1], [0], [1], r"documents must be in \[0, 257\), got -1"),
        ([0, 1], [0], [1], r"must have one shape \(P,\), got \(2,\), \(1,\), \(1,\)"),
    ],
)
def test_spans_outside_the_store_are_refused(
    store: Store, rows: list[int], starts: list[int], lengths: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.gather(rows, starts, lengths)


def test_another_tokenizer_is_refused(store: Store) -> None:
    store.require_tokenizer(SimpleNamespace(hash="abc"))
    with pytest.raises(StoreError, match="was made by tokenizer abc, got xyz; use the tokenizer in the store's folder"):
        store.require_tokenizer(SimpleNamespace(hash="xyz"))


def test_a_truncated_or_missing_shard_is_refused_even_without_hashing(store: Store) -> None:
    shard = store.folder / "shard-00001.arrow"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(StoreError, match=rf"shard-00001\.arrow is truncated: {len(data) - 100} bytes, .* {len(data)}"):
        Store.open(store.folder, verify=False)
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is missing"):
        Store.open(store.folder, verify=False)


def test_a_flipped_bit_is_found_by_hashing_which_small_stores_always_get(store: Store) -> None:
    shard = store.folder / "shard-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    for verify in (None, True):
        with pytest.raises(StoreError, match=r"shard-00000\.arrow is damaged: its SHA-256"):
            Store.open(store.folder, verify=verify)


def test_newer_damaged_and_absent_manifests_are_refused(store: Store, tmp_path: Path) -> None:
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for text, message in (
        (
            json.dumps(manifest | {"schema_version": 7}),
            "was written in format 7; this version reads format 1 - upgrade",
        ),
        (json.dumps(manifest | {"schema_version": 0}), "was written in format 0; this version reads format 1"),
        (path.read_text()[:-30], "manifest.json is damaged"),
        (json.dumps({"schema_version": 1}), "lacks documents, shards"),
        (json.dumps(manifest | {"documents": 3}), "holds 257 documents, the manifest says 3"),
    ):
        path.write_text(text)
        with pytest.raises(StoreError, match=message):
            Store.open(store.folder)
    path.unlink()
    with pytest.raises(StoreError, match=r"is no token store .*unmask prepare --out"):
        Store.open(store.folder)
    with pytest.raises(StoreError, match="nowhere does not exist"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    with pytest.raises(StoreError, match=r"a\.jsonl is a file, .*; give text with data\.input, or make a store"):
        Store.open(tmp_path / "a.jsonl")


def test_an_existing_folder_is_never_touched(store: Store) -> None:
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="exists already; choose another folder or remove it first"):
        write_store(store.folder, _documents(3), vocab_size=1000, **COMMON)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[StoredDocument]:
        yield from _documents(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", interrupted(), vocab_size=1000, batch_documents=10, **COMMON)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stream: object, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer._HashingFile, "write", full)
    with pytest.raises(
        StoreError,
        match=r"store cannot be written \(.*No space left on device.*\); make room .*, nothing of it was kept",
    ):
        write_store(tmp_path / "store", _documents(3), vocab_size=1000, **COMMON)
    assert list(tmp_path.iterdir()) == []


def test_documents_that_make_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="would be empty"):
        write_store(tmp_path / "store", [], vocab_size=10, **COMMON)
    for ids, message in ((np.array([], int), "at least one token"), (np.array([10]), r"ids must be in \[0, 10\)")):
        with pytest.raises(ValueError, match=message):
            write_store(
                tmp_path / "store",
                [StoredDocument(ids=ids, source="a", content_hash=0)],
                vocab_size=10,
                **COMMON,
            )
    flags = np.ones(1, np.bool_)
    document = StoredDocument(ids=np.array([1, 2]), source="a", content_hash=0, word_starts=flags)
    with pytest.raises(ValueError, match="need one flag for each of 2 tokens, got 1 and 2"):
        write_store(tmp_path / "store", [document], vocab_size=10, **COMMON)
    with pytest.raises(ValueError, match="special_ids must name pad, unk, cls, sep, mask, got pad"):
        write_store(tmp_path / "store", [], tokenizer_hash="x", vocab_size=10, special_ids={"pad": 0})
    assert list(tmp_path.iterdir()) == []
