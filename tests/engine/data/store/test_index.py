"""The index of a store: what it says about each document, for any order of sources, and where it comes from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unmask.config import CompositionConfig, StreamConfig
from unmask.data.store import Store, StoredDocument, index, write_store
from unmask.data.store.reader import _MappedShards
from unmask.data.stream import Stream, capacities
from unmask.data.text import docstrings
from unmask.errors import StoreError

HEAD = {
    "tokenizer_hash": "made",
    "vocab_size": 100,
    "special_ids": {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4},
}


def make(folder: Path, documents: int = 300, *, names: str = "abc", runs: int = 7, seed: int = 0) -> Store:
    """A store of several shards whose sources come in runs of `runs` documents."""
    rng = np.random.default_rng(seed)
    rows = (
        StoredDocument(
            ids=rng.integers(5, 100, rng.integers(1, 40)),
            source=names[number // runs % len(names)],
            content_hash=int(rng.integers(0, 2**64, dtype=np.uint64)),
        )
        for number in range(documents)
    )
    return write_store(folder, rows, batch_documents=16, shard_tokens=1000, **HEAD)


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "STRETCH", 32)
    monkeypatch.setattr(index, "_RUNS_AT_ONCE", 5)


@pytest.mark.parametrize("names", ["a", "abc"])
@pytest.mark.parametrize("runs", [1, 7, 1000])
def test_it_answers_as_arrays_of_all_documents_do(tmp_path: Path, names: str, runs: int) -> None:
    store = make(tmp_path / "store", names=names, runs=runs)
    expected_sources = np.arange(300) // runs % len(names)
    np.testing.assert_array_equal(store.source_of, expected_sources)
    assert store.lengths.sum() == store.num_tokens
    for number in range(len(store.sources)):
        documents = np.flatnonzero(expected_sources == number)
        members = store.members(number)
        np.testing.assert_array_equal(members.at(np.arange(members.size)), documents)
        counts = store.length_counts(number)
        found, times = np.unique(store.lengths[documents], return_counts=True)
        assert (counts.lengths.tolist(), counts.counts.tolist()) == (found.tolist(), times.tolist())
    for fraction in (1e-9, 0.01, 0.1, 0.6, 1 - 1e-9):
        held_out = store.content_hashes < np.uint64(int(fraction * 2.0**64))
        held_out |= store.content_hashes == store.content_hashes.min()
        held_out &= store.content_hashes != store.content_hashes.max()
        chosen = store.held_out(fraction)
        np.testing.assert_array_equal(chosen.documents, np.flatnonzero(held_out))
        np.testing.assert_array_equal(chosen.sources, store.source_of[held_out])
        np.testing.assert_array_equal(chosen.lengths, store.lengths[held_out])


def test_a_store_without_an_index_gives_the_same_batches(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    old = tmp_path / "old"
    shutil.copytree(store.folder, old)
    shutil.rmtree(old / "index")
    config = StreamConfig(max_length=16, micro_batch_tokens=128, held_out_fraction=0.1)
    for split in ("train", "held_out"):
        one, other = (Stream(Store.open(given), config, range(5, 100), split=split) for given in (store.folder, old))
        assert one.fingerprint == other.fingerprint
        for _, mine, theirs in zip(range(12), one.batches(), other.batches(), strict=False):
            assert mine.ids.tolist() == theirs.ids.tolist()
    assert not (old / "index").exists()


def test_a_large_store_without_an_index_gets_one_in_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_IN_MEMORY", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = make(tmp_path / "store")
    shutil.rmtree(store.folder / "index")
    opened = Store.open(store.folder)
    [kept] = (tmp_path / "cache" / "unmask").iterdir()
    assert kept.name == f"index-{store.fingerprint[:16]}"
    np.testing.assert_array_equal(opened.lengths, store.lengths)
    monkeypatch.setattr(index, "build_index", None)
    np.testing.assert_array_equal(Store.open(store.folder).lengths, store.lengths)


@pytest.mark.parametrize("cache", [None, "no folder"])
def test_without_a_cache_the_index_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str | None
) -> None:
    monkeypatch.setattr(index, "_IN_MEMORY", 10)
    (tmp_path / "no folder").write_text("")
    monkeypatch.setattr(docstrings, "cache_folder", lambda: None if cache is None else tmp_path / cache / "unmask")
    store = make(tmp_path / "store")
    shutil.rmtree(store.folder / "index")
    np.testing.assert_array_equal(Store.open(store.folder).lengths, store.lengths)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "facts"])
def test_a_damaged_index_is_refused_and_the_advice_works(tmp_path: Path, damage: str) -> None:
    store = make(tmp_path / "store")
    file = store.folder / "index" / "documents.npy"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "changed":
        file.write_bytes(data[:-1] + b"x")
    elif damage == "gone":
        file.unlink()
    else:
        (store.folder / "index" / "index.json").write_text("{")
    with pytest.raises(StoreError, match=r"index.* is damaged.*; remove .*index, and the next opening makes it again"):
        Store.open(store.folder)
    shutil.rmtree(store.folder / "index")
    np.testing.assert_array_equal(Store.open(store.folder).lengths, store.lengths)


def test_an_index_of_another_store_is_not_read(tmp_path: Path) -> None:
    store, other = make(tmp_path / "store"), make(tmp_path / "other", seed=1)
    shutil.rmtree(store.folder / "index")
    shutil.copytree(other.folder / "index", store.folder / "index")
    np.testing.assert_array_equal(Store.open(store.folder).lengths, store.lengths)
    facts = json.loads((other.folder / "index" / "index.json").read_text())
    (other.folder / "index" / "index.json").write_text(json.dumps(facts | {"format": 99}))
    np.testing.assert_array_equal(Store.open(other.folder).lengths, other.lengths)


def test_few_shards_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "store")
    assert len(store.manifest["shards"]) > 4
    rows = np.random.default_rng(0).permutation(300)
    whole = store.gather(rows, np.zeros(300, int), store.lengths[rows])
    monkeypatch.setattr("unmask.data.store.reader._MOST_MAPPED", 2)
    again = Store.open(store.folder)
    few = again.gather(rows, np.zeros(300, int), again.lengths[rows])
    for one, other in zip(whole, few, strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(again._shards, _MappedShards)
    assert len(again._shards._mapped) == 2


@pytest.mark.parametrize("weights", [{}, {"a": 2, "b": 0}, {"b": 0.5}, {"a": 0.3, "c": 1.7}])
@pytest.mark.parametrize("runs", [1, 50])
def test_the_sample_of_a_composition_is_that_of_a_sum_over_all_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float], runs: int
) -> None:
    store = make(tmp_path / "store", runs=runs)
    composition = CompositionConfig(strategy="uni", weights=weights)
    often = np.array([float(weight) for weight in composition.source_weights(store.sources)])[store.source_of]
    summed = np.cumsum(often)
    for most in (40, 300, 1000):
        monkeypatch.setattr(capacities, "_SAMPLE", most)
        places = np.linspace(0, summed[-1], min(most, 300), endpoint=False)
        expected = np.searchsorted(summed, places, side="right")
        np.testing.assert_array_equal(capacities._spread(composition, store), expected)
        with monkeypatch.context() as few:
            few.setattr(capacities, "_FEW_RUNS", 0)
            few.setattr(capacities, "_SUMMED", 16)
            np.testing.assert_array_equal(capacities._spread(composition, store), expected)
