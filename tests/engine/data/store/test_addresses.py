"""Stores at addresses: fetched into a cache, verified, shared by processes, and what is wrong is named."""

import http.server
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from unmask.config import StreamConfig, load_config
from unmask.data.prepare import prepare
from unmask.data.store import Store, StoreCache, StoredDocument, write_store
from unmask.data.stream import Stream
from unmask.errors import ConfigError, StoreError

HEAD: dict[str, Any] = {
    "tokenizer_hash": "made",
    "vocab_size": 100,
    "special_ids": {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4},
}
SHARD = "shard-00001.arrow"
GB = 1e9


def make(folder: Path, *, seed: int = 0, documents: int = 200) -> Store:
    rng = np.random.default_rng(seed)
    rows = (
        StoredDocument(
            ids=rng.integers(5, 100, rng.integers(1, 40)),
            source="made",
            content_hash=int(rng.integers(0, 2**64, dtype=np.uint64)),
        )
        for _ in range(documents)
    )
    return write_store(folder, rows, batch_documents=16, shard_tokens=1000, **HEAD)


def gathered(store: Store) -> list[list[Any]]:
    rows = np.random.default_rng(0).permutation(store.num_documents)
    spans = rows, np.zeros(len(rows), int), store.lengths[rows]
    return [part.tolist() for part in (*store.gather(*spans), store.gather_sentence_starts(*spans))]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("local") / "store")


@pytest.fixture
def memory(local: Store) -> Iterator[Any]:
    """`memory://bucket/store`, as a file system whose names begin with /bucket/store."""
    system = fsspec.filesystem("memory")
    system.put(str(local.folder), "/bucket/store", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


@pytest.fixture
def cache(tmp_path: Path) -> StoreCache:
    return StoreCache(folder=tmp_path / "cache", patience=20)


@dataclass
class Served:
    """A folder that is served on this machine; files whose names end with one of `stalled` stop after a few bytes."""

    address: str
    stalled: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def served(local: Store, tmp_path: Path) -> Iterator[Served]:
    root = tmp_path / "served"
    shutil.copytree(local.folder, root / "store")
    over = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            if any(self.path.endswith(name) for name in found.stalled):
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"few")
                self.wfile.flush()
                over.wait(60)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    found = Served(f"http://127.0.0.1:{server.server_port}/store")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    over.set()
    server.shutdown()
    server.server_close()


def test_a_store_at_an_address_is_the_store(local: Store, memory: Any, cache: StoreCache) -> None:
    store = Store.open("memory://bucket/store", cache=cache)
    assert store.fingerprint == local.fingerprint
    assert repr(store).startswith("<Store 'memory://bucket/store': 200 documents")
    # nothing is fetched before a document is asked for
    assert not list(store.folder.glob("shard-*"))
    store.gather([0], [0], [1])
    assert [path.name for path in store.folder.glob("shard-*")] == ["shard-00000.arrow"]
    assert gathered(store) == gathered(local)
    config = StreamConfig(max_length=16, micro_batch_tokens=128, held_out_fraction=0.1)
    one, other = (Stream(given, config, range(5, 100)) for given in (local, store))
    assert one.fingerprint == other.fingerprint
    for _, mine, theirs in zip(range(5), one.batches(), other.batches(), strict=False):
        assert mine.ids.tolist() == theirs.ids.tolist()
    # the cache has become a store
    assert gathered(Store.open(store.folder, verify=True)) == gathered(local)
    assert not [path.name for path in store.folder.iterdir() if path.name.endswith(".partial")]


def test_what_is_in_the_cache_is_not_fetched_again(local: Store, memory: Any, cache: StoreCache) -> None:
    gathered(Store.open("memory://bucket/store", cache=cache))
    for shard in local.manifest["shards"]:
        memory.rm(f"/bucket/store/{shard['file']}")
    store = Store.open("memory://bucket/store", cache=cache)
    assert gathered(store) == gathered(local)
    assert gathered(pickle.loads(pickle.dumps(store))) == gathered(local)
    assert os.fspath(store) == "memory://bucket/store"


def test_a_path_that_was_an_address_is_one(local: Store, memory: Any, cache: StoreCache, tmp_path: Path) -> None:
    assert Store.open(Path("memory://bucket/store"), cache=cache).fingerprint == local.fingerprint
    address = f"file://{local.folder}"
    for given in (address, Path(address)):
        store = Store.open(given, cache=cache)
        assert store.folder.is_relative_to(tmp_path / "cache")
    assert gathered(store) == gathered(local)
    with pytest.raises(ValueError, match=r"cache is given, but .* is a folder of this machine.*; leave cache out"):
        Store.open(local.folder, cache=cache)
    assert Store.open(local.folder).fingerprint == local.fingerprint


def test_a_store_over_http_is_fetched_once_by_several_processes(
    local: Store, served: Served, cache: StoreCache
) -> None:
    code = (
        "import sys; from unmask.data.store import Store, StoreCache; import numpy as np;"
        "store = Store.open(sys.argv[1], cache=StoreCache(folder=sys.argv[2]));"
        "rows = np.arange(100); print(int(store.gather(rows, rows * 0, store.lengths[rows])[0].sum()))"
    )
    command = [sys.executable, "-c", code, served.address, str(cache.folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=300)[0] for process in processes}
    rows = np.arange(100)
    assert told == {f"{int(local.gather(rows, rows * 0, local.lengths[rows])[0].sum())}\n"}
    shards = [path for path in served.asked if "shard-" in path]
    assert shards
    assert len(shards) == len(set(shards))


def test_a_file_that_stalls_is_given_up_by_name_and_the_advice_works(
    local: Store, served: Served, tmp_path: Path
) -> None:
    served.stalled.add(SHARD)
    store = Store.open(served.address, cache=StoreCache(folder=tmp_path / "cache", patience=5))
    began = time.monotonic()
    with pytest.raises(
        StoreError,
        match=rf"/store/{SHARD} stalls: no byte came for 5 s; try again, raise data.cache_patience \(5\), or copy "
        "the store to this machine and give its folder",
    ):
        # the first document of that shard
        store.gather([local.manifest["shards"][0]["documents"]], [0], [1])
    assert time.monotonic() - began < 30
    assert not list(store.folder.glob("*.partial"))
    served.stalled.clear()
    # as advised, and a busy machine may need it
    patient = Store.open(served.address, cache=StoreCache(folder=tmp_path / "cache", patience=60))
    assert gathered(patient) == gathered(local)


def test_a_manifest_that_stalls_is_given_up_too(served: Served, tmp_path: Path) -> None:
    served.stalled.add("manifest.json")
    with pytest.raises(StoreError, match=r"/store/manifest.json stalls: no byte came for 1 s"):
        Store.open(served.address, cache=StoreCache(folder=tmp_path / "cache", patience=1))


def test_a_missing_shard_is_named_and_the_advice_works(local: Store, memory: Any, cache: StoreCache) -> None:
    memory.rm(f"/bucket/store/{SHARD}")
    Store.open("memory://bucket/store", cache=cache)
    store = Store.open("memory://bucket/store", cache=cache)
    with pytest.raises(
        StoreError, match=rf"memory://bucket/store/{SHARD} is missing, but the store names it; copy it there again"
    ):
        gathered(store)
    memory.put(str(local.folder / SHARD), f"/bucket/store/{SHARD}")
    # what a killed process left
    (store.folder / f".{SHARD}.1-2.partial").write_text("half")
    assert gathered(store) == gathered(local)
    assert not list(store.folder.glob(".*.partial"))


def test_a_missing_part_of_the_index_is_named_and_the_advice_works(
    local: Store, memory: Any, cache: StoreCache
) -> None:
    memory.rm("/bucket/store/index/hashes.npy")
    with pytest.raises(StoreError, match=r"memory://bucket/store/index/hashes.npy is missing, but the store names it"):
        Store.open("memory://bucket/store", cache=cache)
    memory.put(str(local.folder / "index" / "hashes.npy"), "/bucket/store/index/hashes.npy")
    assert gathered(Store.open("memory://bucket/store", cache=cache)) == gathered(local)


def test_its_bytes_are_those_of_the_whole_store(local: Store, memory: Any, cache: StoreCache) -> None:
    store = Store.open("memory://bucket/store", cache=cache)
    on_disk = sum(path.stat().st_size for path in local.folder.rglob("*") if path.is_file())
    assert local.num_bytes == on_disk
    assert store.num_bytes == pytest.approx(on_disk, rel=0.01)


@pytest.mark.parametrize("part", [SHARD, "index/documents.npy"])
def test_a_file_with_other_contents_is_refused_and_the_advice_works(
    local: Store, memory: Any, cache: StoreCache, part: str
) -> None:
    memory.pipe(f"/bucket/store/{part}", (local.folder / part).read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=rf"memory://bucket/store/{part} is not what the manifest says: .* SHA-256"):
        gathered(Store.open("memory://bucket/store", cache=cache))
    memory.put(str(local.folder / part), f"/bucket/store/{part}")
    assert gathered(Store.open("memory://bucket/store", cache=cache)) == gathered(local)


def test_a_store_that_was_made_anew_is_another_one(
    local: Store, memory: Any, cache: StoreCache, tmp_path: Path
) -> None:
    before = Store.open("memory://bucket/store", cache=cache)
    other = make(tmp_path / "other", seed=1)
    memory.rm("/bucket/store", recursive=True)
    memory.put(str(other.folder), "/bucket/store", recursive=True)
    # as the message says, opening it again helps
    with pytest.raises(StoreError, match=r"copy the file there again, or open the store again if it was made anew"):
        gathered(before)
    after = Store.open("memory://bucket/store", cache=cache)
    assert after.fingerprint == other.fingerprint
    assert after.folder != before.folder
    assert gathered(after) == gathered(other)


def test_an_early_store_without_an_index_is_fetched_whole(
    local: Store, memory: Any, cache: StoreCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="unmask")
    monkeypatch.setattr("unmask.data.store.remote._TOLD_SECONDS", 0.0)
    memory.rm("/bucket/store/index", recursive=True)
    store = Store.open("memory://bucket/store", cache=cache)
    assert "is of an early version without an index, so all of its shards come first" in caplog.text
    count = len(local.manifest["shards"])
    assert f"store: fetched {count} of {count} shards of memory://bucket/store, " in caplog.text
    assert len(list(store.folder.glob("shard-*"))) == len(local.manifest["shards"])
    assert gathered(store) == gathered(local)


def test_a_limit_keeps_the_cache_small_and_is_warned_of(
    local: Store, memory: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [shard["bytes"] for shard in local.manifest["shards"]]
    assert len(sizes) > 3
    limit = 2.5 * max(sizes) / GB
    store = Store.open("memory://bucket/store", cache=StoreCache(folder=tmp_path / "cache", limit_gb=limit))
    assert f"{len(sizes)} shards, and a run reads its documents in random order" in caplog.text
    for document in range(0, 200, 3):
        store.gather([document], [0], [1])
        assert sum(path.stat().st_size for path in store.folder.glob("shard-*")) <= limit * GB
    assert gathered(store) == gathered(local)
    # the advice
    caplog.clear()
    Store.open("memory://bucket/store", cache=StoreCache(folder=tmp_path / "cache", limit_gb=sum(sizes) / GB * 1.01))
    assert not caplog.text


def test_a_cache_that_cannot_hold_a_shard_is_refused_and_the_advice_works(
    local: Store, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        StoreError, match=r"data.cache_gb is 1e-09, but memory://bucket/store has a shard of .* GB; give at least"
    ) as told:
        Store.open("memory://bucket/store", cache=StoreCache(folder=tmp_path / "cache", limit_gb=1e-9))
    enough = float(str(told.value).rpartition(" ")[2])
    small = StoreCache(folder=tmp_path / "cache", limit_gb=enough)
    assert gathered(Store.open("memory://bucket/store", cache=small)) == gathered(local)
    shutil.rmtree(tmp_path / "cache")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(
        StoreError, match=r"needs .* GB of disk for its shards, .* has 1e-08; give a folder of a larger"
    ):
        Store.open("memory://bucket/store", cache=StoreCache(folder=tmp_path / "cache"))
    # the other advice
    assert gathered(Store.open("memory://bucket/store", cache=small)) == gathered(local)


def test_a_cache_that_cannot_be_written_is_told(memory: Any, cache: StoreCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"the cache .* cannot be written \(Not a directory\); make room in it, or give"
    ):
        Store.open("memory://bucket/store", cache=StoreCache(folder=tmp_path / "file"))
    Store.open("memory://bucket/store", cache=cache)


def test_without_a_home_a_folder_is_asked_for(memory: Any, cache: StoreCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.store.remote.cache_folder", lambda: None)
    with pytest.raises(StoreError, match=r"no home for a cache of remote stores; give a folder as data.cache_folder"):
        Store.open("memory://bucket/store")
    Store.open("memory://bucket/store", cache=cache)


def test_a_cached_shard_that_was_damaged_is_fetched_again_when_all_are_verified(
    local: Store, memory: Any, cache: StoreCache
) -> None:
    store = Store.open("memory://bucket/store", cache=cache)
    gathered(store)
    data = (store.folder / SHARD).read_bytes()
    (store.folder / SHARD).write_bytes(bytes(len(data)))
    assert gathered(Store.open("memory://bucket/store", cache=cache, verify=True)) == gathered(local)
    # one that was cut is seen by its size
    (store.folder / SHARD).write_bytes(data[:-5])
    assert gathered(Store.open("memory://bucket/store", cache=cache)) == gathered(local)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("memory://bucket/nothing", "memory://bucket/nothing is no token store"),
        ("no-such://bucket/store", r"no-such://bucket/store/manifest.json cannot be read \(.*; check the address"),
        (
            "http://me:secret@127.0.0.1:1/store?key=secret",
            r"store: http://127.0.0.1:1/store/manifest.json cannot be read",
        ),
    ],
)
def test_no_store_at_an_address_is_told_without_keys(address: str, says: str, cache: StoreCache) -> None:
    with pytest.raises(StoreError, match=says) as told:
        Store.open(address, cache=cache)
    assert "secret" not in str(told.value)


def test_a_damaged_manifest_is_told(memory: Any, cache: StoreCache) -> None:
    memory.pipe("/bucket/store/manifest.json", b"\xff")
    with pytest.raises(StoreError, match=r"memory://bucket/store/manifest.json is damaged"):
        Store.open("memory://bucket/store", cache=cache)
    memory.pipe("/bucket/store/manifest.json", json.dumps({"schema_version": 99}).encode())
    with pytest.raises(StoreError, match=r"memory://bucket/store was written in format 99"):
        Store.open("memory://bucket/store", cache=cache)


def test_settings_of_the_cache_need_an_address() -> None:
    with pytest.raises(
        ConfigError, match=r"data.cache_gb is 5.0 but data.store is 'store', which is not at an address"
    ):
        load_config(None, {"data.store": "store", "data.cache_gb": 5})
    assert load_config(None, {"data.store": "s3://bucket/store", "data.cache_gb": 5}).data.cache_gb == 5


def test_a_store_is_not_made_at_an_address_and_the_advice_works(memory: Any, cache: StoreCache, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat")
    for out in ("memory://bucket/new", Path("memory://bucket/new")):
        with pytest.raises(StoreError, match=r"memory://bucket/new is on another machine.*; make it in a folder here"):
            prepare([tmp_path / "a.txt"], out, vocab_size=60, workers=1)
    made = prepare([tmp_path / "a.txt"], tmp_path / "new", vocab_size=60, workers=1)
    memory.put(str(made.folder), "/bucket/new", recursive=True)
    store = Store.open("memory://bucket/new", cache=cache)
    assert store.load_tokenizer().hash == made.tokenizer_hash
    assert gathered(store) == gathered(made)
