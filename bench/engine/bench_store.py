"""Memory and time of stores of many documents: indexing, counting copies, opening, the first batch, resuming, prepare.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_store.py --documents 1000000 10000000 --out auto

Stores of short random documents are written as Arrow files, without text, and then finished as `prepare` finishes its
own. Each measurement runs in a process of its own. Memory is what the process holds itself (anonymous pages, the most
that was seen); pages of mapped files are not counted, since the kernel takes them back when memory is short. The growth
a document is a least-squares line over the sizes.

    index        the index of a store, from its shards
    duplicates   the copies, as `prepare` reports them
    open         the store
    first batch  the stream laid out, and the first micro-batch made of its first block
    resume       the stream laid out in a new process, and a micro-batch of the last block by its cursor
    prepare      `unmask prepare` of as much text as --texts says, by a given tokenizer, on one core
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE, MOST_TOKENS = 30_522, 24
BATCH, SHARD_BATCHES = 65_536, 40
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
STAGES = ("index", "duplicates", "open", "first batch", "resume")
ROUNDS = 3
GROUP = "store of many documents"


def generate(folder: Path, documents: int) -> None:
    """Write a store of `documents` documents of 1 to 24 tokens, of two sources, a hundredth of them copies."""
    import pyarrow as pa

    from unmask.data.store.manifest import SourceEntry, StoreHead, make_manifest
    from unmask.data.store.unfinished import UnfinishedStore
    from unmask.data.store.writer import _ShardFile

    rng = np.random.default_rng(0)
    head = StoreHead(tokenizer_hash="generated", vocab_size=VOCAB_SIZE, special_ids=SPECIAL)
    sources = [SourceEntry(name=name, documents=0, tokens=0) for name in ("first", "second")]
    shards = []
    with UnfinishedStore(folder) as place:
        shard = None
        for number, start in enumerate(range(0, documents, BATCH)):
            count = min(BATCH, documents - start)
            lengths = rng.integers(1, MOST_TOKENS + 1, count)
            tokens = int(lengths.sum())
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            sentences = np.zeros(tokens, np.bool_)
            sentences[offsets[:-1]] = True
            hashes = rng.integers(0, 2**64, count, np.uint64)
            hashes[rng.integers(0, count, count // 100)] = hashes[0]
            source = int(start >= documents // 2)
            values = {
                "ids": rng.integers(5, VOCAB_SIZE, tokens, np.uint16),
                "word_starts": np.ones(tokens, np.bool_),
                "sentence_starts": sentences,
            }
            columns = {
                name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(column))
                for name, column in values.items()
            }
            columns["source"] = pa.array(np.full(count, source, np.int16))
            columns["content_hash"] = pa.array(hashes)
            batch = pa.RecordBatch.from_pydict(columns)
            if shard is None:
                shard = _ShardFile(place.path / f"shard-{len(shards):05d}.arrow", batch.schema)
            shard.write(batch, tokens)
            sources[source]["documents"] += count
            sources[source]["tokens"] += tokens
            if number % SHARD_BATCHES == SHARD_BATCHES - 1:
                shards.append(shard.close())
                shard = None
        if shard is not None:
            shards.append(shard.close())
        place.publish(make_manifest(head, sources, shards, {}))


class Memory:
    """A context that notes the most anonymous memory of this process, in bytes, above what there was before."""

    def __init__(self) -> None:
        self.most = self._before = anonymous()
        self._over = threading.Event()

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.most = max(self.most, anonymous())
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, anonymous())

    @property
    def grown(self) -> int:
        return self.most - self._before


def anonymous() -> int:
    """Return the anonymous memory of this process, in bytes."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def measure(stage: str, given: str) -> dict[str, Any]:
    """Run a stage in this process; return its seconds and its memory."""
    job = _prepare(Path(given)) if stage == "prepare" else _job(stage, Path(given))
    with Memory() as memory:
        began = time.perf_counter()
        extra = job()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": memory.grown, "resident": memory.most, **(extra or {})}


def _job(stage: str, store: Path) -> Callable[[], dict[str, Any] | None]:
    from unmask.data.store import Store
    from unmask.data.store.manifest import read_manifest

    if stage == "index":
        from unmask.data.store.index import build_index

        def index() -> None:
            with tempfile.TemporaryDirectory(dir=store.parent) as target:
                build_index(store, read_manifest(store), Path(target))

        return index
    if stage == "duplicates":
        from unmask.data.store import duplicates

        duplicates._beginning = lambda store, document: "generated"  # type: ignore[assignment]
        opened = Store.open(store, verify=False)
        return lambda: {"copies": duplicates.describe_duplicates(opened)}
    from unmask.batch import Cursor
    from unmask.config import CompositionConfig, StreamConfig
    from unmask.data.stream import Stream

    if stage == "open":
        return lambda: {"documents": Store.open(store, verify=False).num_documents}

    def batch() -> dict[str, Any]:
        began = time.perf_counter()
        opened = Store.open(store, verify=False)
        config = StreamConfig(max_length=128, micro_batch_tokens=4096)
        stream = Stream(opened, config, np.arange(5, VOCAB_SIZE), composition=CompositionConfig())
        laid_out = time.perf_counter() - began
        index = 0
        if stage == "resume":
            # as a checkpoint in the last block of the tenth epoch would say
            index = 10**9
            stream.remember(index, Cursor(9, stream._planner.blocks - 1, 5))
        made = next(stream.arrays(index, 1))
        return {"laid_out": laid_out, "tokens": int(made.lengths.sum())}

    return batch


def _prepare(folder: Path) -> Callable[[], None]:
    from unmask.data.prepare import prepare
    from unmask.data.store.duplicates import describe_duplicates

    def job() -> None:
        out = folder / "prepared"
        store = prepare(folder / "text.jsonl", out, tokenizer=folder / "tokenizer", workers=1)
        describe_duplicates(store)
        shutil.rmtree(out)

    return job


def write_text(folder: Path, documents: int) -> None:
    """Write short random texts, and a tokenizer for them."""
    from unmask.data.tokenizer import Tokenizer

    folder.mkdir(parents=True)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "while",
        "seven",
        "old",
        "dogs",
        "ran",
        "fast",
        "under",
        "green",
        "trees",
        "and",
        "sang",
    ]
    rng = np.random.default_rng(0)
    Tokenizer.train([" ".join(words)] * 50, 200).save(folder / "tokenizer")
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(documents):
            text = " ".join(words[place] for place in rng.integers(0, len(words), 12))
            file.write(json.dumps({"text": text}) + "\n")


def apart(stage: str, given: Path) -> dict[str, Any]:
    """Measure a stage in a new process."""
    command = [sys.executable, __file__, "--measure", stage, str(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{given.name:>12} {stage:12} {found['seconds']:8.2f} s {found['bytes'] / 2**20:8.1f} MiB", flush=True)
    return found


def growth(found: Sequence[tuple[int, dict[str, Any]]]) -> float:
    """Return the bytes a document, by a least-squares line."""
    sizes, memory = zip(*((size, one["bytes"]) for size, one in found), strict=True)
    return float(np.polyfit(sizes, memory, 1)[0]) if len(set(sizes)) > 1 else float("nan")


def rows(found: dict[str, list[tuple[int, dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return an entry for each size and stage; the note tells the growth of each stage."""
    from bench import record

    grown = ", ".join(f"{stage} {growth(some):.2f}" for stage, some in found.items() if len({s for s, _ in some}) > 1)
    note = (
        "Peak memory is what the process holds itself while it does this, without pages of mapped files. It grows by "
        f"so many bytes a document: {grown}."
    )
    entries = []
    for stage, some in found.items():
        for size in dict(some):
            own = [one for number, one in some if number == size]
            entries.append(
                record.benchmark_entry(
                    GROUP,
                    stage,
                    [one["seconds"] for one in own],
                    case=f"{size:,} documents",
                    peak_bytes=max(0, max(one["bytes"] for one in own)),
                    bytes_per_document=growth(some) if len({s for s, _ in some}) > 1 else None,
                    note=note,
                )
            )
    return sorted(entries, key=lambda entry: int(entry["extra_info"]["case"].split()[0].replace(",", "")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes of the stores")
    parser.add_argument("--texts", type=int, nargs="*", default=[100_000, 400_000], help="documents to prepare")
    parser.add_argument("--folder", type=Path, help="where the stores are made and removed (default: temporary)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", help="result file; auto: one in bench/results")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    from bench import record

    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-store-") as name:
        for size in options.documents:
            store = Path(name) / str(size)
            generate(store, size)
            for stage in STAGES:
                for _ in range(options.rounds if stage not in ("index", "duplicates") else 1):
                    found.setdefault(stage, []).append((size, apart(stage, store)))
            shutil.rmtree(store)
        for size in options.texts:
            folder = Path(name) / f"{size}-texts"
            write_text(folder, size)
            found.setdefault("prepare", []).append((size, apart("prepare", folder)))
            shutil.rmtree(folder)
    for stage, some in found.items():
        print(f"{stage}: {growth(some):.2f} bytes a document")
    if options.out:
        path = record.result_path("store") if options.out == "auto" else Path(options.out)
        record.save(path, record.benchmark_file(rows(found)))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
