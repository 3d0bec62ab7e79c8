"""What this project does by hand, beside the library that does the same: times, and the promises that differ.

    loader      Loader beside torch's DataLoader over the same arrays: seconds for 100 micro-batches, then what a
                signal, a killed worker and the global random state meet in each
    vocabulary  train_vocabulary beside the trainer of `tokenizers` alone: seconds, and tokens whose id differs between
                two processes with the same text
    store       Store.gather beside `datasets` and one flat memory map: tokens a second of random documents
    hashes      verification of a folder by SHA-256 beside none: seconds, and who notices a byte that was altered
    weights     load_torch_model of huggingface_hub on the odd folders that the tests hold for our own reading

Variants are interleaved. A time is the median of the rounds: of the clock for the loaders, of the processor for the
others, so that another process disturbs it less. The decisions 0012 and 0014 hold the tables that this
prints.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_by_hand.py loader vocabulary store hashes weights
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unmask.config import StreamConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import Stream
from unmask.data.stream.loader import Loader
from unmask.data.stream.rows import BatchArrays

ROUNDS = 5


def interleaved(
    variants: dict[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the median seconds of each variant; a round times each once and begins with the next one."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for at in range(rounds):
        for name in names[at % len(names) :] + names[: at % len(names)]:
            began = clock()
            variants[name]()
            seconds[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Rows(IterableDataset[BatchArrays]):
    """The arrays of a stream: worker w of W yields the micro-batches w, w + W, ..."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[BatchArrays]:
        worker = get_worker_info()
        assert worker is not None
        return self.stream.arrays(worker.id, worker.num_workers)


def data_loader(stream: Stream, workers: int) -> DataLoader[BatchArrays]:
    """Return torch's loader of the arrays that `Loader(stream, workers=workers)` receives."""
    return DataLoader(
        Rows(stream),
        batch_size=None,
        collate_fn=lambda arrays: arrays,
        num_workers=workers,
        prefetch_factor=-(-4 // workers),
        multiprocessing_context="fork",
        # without a generator of its own it would draw a number from the global one
        generator=torch.Generator(),
    )


def stream_of(tokens: int) -> Stream:
    """Return a stream over generated documents of 8 to 510 tokens."""
    lengths = np.random.default_rng(0).integers(8, 511, 8192)
    store = MemoryStore.generated(lengths, vocab_size=30_522)
    return Stream(store, StreamConfig(max_length=512, micro_batch_tokens=tokens), store.ordinary_ids)


def loader() -> None:
    """Compare `Loader` and `DataLoader`."""
    # a background job of a shell begins with SIGINT ignored, and so would its workers
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("| tokens | workers | Loader, s | DataLoader, s |\n|---|---|---|---|")
    for tokens in (4096, 16_384):
        stream = stream_of(tokens)

        def theirs(count: int, workers: int, stream: Stream = stream) -> list[Any]:
            return [stream.to_batch(arrays) for arrays in islice(data_loader(stream, workers), count)]

        def ours(count: int, workers: int, stream: Stream = stream) -> list[Any]:
            with Loader(stream, workers=workers) as batches:
                return list(islice(batches, count))

        for workers in (1, 2):
            for one, two in zip(ours(40, workers), theirs(40, workers), strict=True):
                assert one.cursor == two.cursor
                assert torch.equal(one.ids, two.ids)
            seconds = interleaved(
                {
                    "ours": functools.partial(ours, 100, workers),
                    "theirs": functools.partial(theirs, 100, workers),
                },
                clock=time.perf_counter,
            )
            print(f"| {tokens} | {workers} | {seconds['ours']:.2f} | {seconds['theirs']:.2f} |", flush=True)
    for name, make in {"Loader": _our_pids, "DataLoader": _their_pids}.items():
        for what in ("SIGINT to a worker", "SIGKILL to a worker"):
            print(f"{name}, {what}: {_after_signal(make, signal.SIGINT if 'INT' in what else signal.SIGKILL)}")


def _our_pids(stream: Stream) -> tuple[Iterator[Any], list[int], Callable[[], None]]:
    made = Loader(stream, workers=1, prefetch=1)
    return made, [process.pid for process in made._processes], made.close


def _their_pids(stream: Stream) -> tuple[Iterator[Any], list[int], Callable[[], None]]:
    batches: Any = iter(data_loader(stream, 1))
    return batches, [process.pid for process in batches._workers], batches._shutdown_workers


def _after_signal(make: Callable[..., Any], number: int) -> str:
    """Send a signal to the worker, work for a second without the loader, then take 20 batches; tell what is raised."""
    batches, pids, close = make(stream_of(4096))
    where = "in next"
    try:
        next(batches)
        os.kill(pids[0], number)
        where = "in the training step, which does not use the loader"
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            sum(range(1000))
        where = "in next"
        for _ in islice(batches, 20):
            pass
        return "the batches go on"
    except Exception as error:
        return f"{type(error).__name__} {where}: {str(error).splitlines()[0]}"
    finally:
        with contextlib.suppress(Exception):
            close()


def generated_text(characters: int) -> list[str]:
    """Return documents of words of 20 letters, Zipf-distributed."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxzéüñçåø"))
    sizes = rng.integers(2, 12, 20_000)
    words = ["".join(letters[(rng.random(size) ** 2 * letters.size).astype(int)]) for size in sizes]
    ranks = np.exp(rng.random(characters // 7) * np.log(len(words))).astype(int) - 1
    texts = np.array(words, dtype=object)[ranks]
    return [" ".join(texts[first : first + 500]) for first in range(0, texts.size, 500)]


def _train(how: str, texts: list[str]) -> dict[str, int]:
    from unmask.data.tokenizer import SPECIAL_TOKENS
    from unmask.data.tokenizer.vocabulary import train_vocabulary

    special = list(SPECIAL_TOKENS.values())
    if how == "ours":
        return train_vocabulary(texts, 8192, special_tokens=special, lowercase=True, strip_accents=False)
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=8192, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    found: dict[str, int] = backend.get_vocab()
    return found


def vocabulary() -> None:
    """Compare `train_vocabulary` and the library's trainer alone."""
    texts = generated_text(5_000_000)
    variants = {how: functools.partial(_train, how, texts) for how in ("ours", "library")}
    seconds = interleaved(variants, rounds=3)
    program = (
        "import bench.engine.bench_by_hand as b, json, sys\n"
        "print(json.dumps(b._train(sys.argv[1], b.generated_text(500_000))))"
    )
    print("| training | s for 5 MB | tokens with another id in a second process |\n|---|---|---|")
    for how in variants:
        one, two = (
            json.loads(subprocess.check_output([sys.executable, "-c", program, how], text=True)) for _ in range(2)
        )
        moved = sum(one.get(token) != index for token, index in two.items())
        print(f"| {how} | {seconds[how]:.2f} | {moved:,} of {len(two):,} |", flush=True)


def store() -> None:
    """Compare `Store.gather` with `datasets` and with one flat memory map."""
    import datasets

    from unmask.data.store import StoredDocument, write_store

    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 511, 20_000)
    ids = [rng.integers(5, 30_522, length).astype(np.uint16) for length in lengths]
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    with tempfile.TemporaryDirectory() as folder:
        documents = (StoredDocument(ids=row, source="a", content_hash=n) for n, row in enumerate(ids))
        made = write_store(Path(folder) / "store", documents, tokenizer_hash="", vocab_size=30_522, special_ids=special)
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict({"ids": ids}).save_to_disk(f"{folder}/datasets")
        data = datasets.load_from_disk(f"{folder}/datasets").with_format("numpy")
        np.concatenate(ids).tofile(f"{folder}/flat")
        flat = np.memmap(f"{folder}/flat", dtype=np.uint16, mode="r")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        chosen = rng.integers(0, len(ids), 2000)
        expected = np.concatenate([ids[row] for row in chosen])
        variants: dict[str, Callable[[], Any]] = {
            "Store.gather, with word starts": lambda: made.gather(chosen, np.zeros(2000, int), lengths[chosen])[0],
            "a flat memory map, a slice for each document": lambda: np.concatenate(
                [flat[offsets[row] : offsets[row + 1]] for row in chosen]
            ),
            "datasets, format numpy": lambda: np.concatenate(list(data[chosen.tolist()]["ids"])),
        }
        for variant in variants.values():
            assert np.array_equal(variant(), expected)
        print("| reading 2,000 random documents | million tokens/s |\n|---|---|")
        for name, seconds in interleaved(variants).items():
            print(f"| {name} | {expected.size / seconds / 1e6:.1f} |", flush=True)


def hashes() -> None:
    """Time verification of a checkpoint's files, and alter a byte of a weight."""
    import torch.distributed.checkpoint as dcp
    import xxhash
    from safetensors.torch import load_file, save_file

    from unmask.interop.checkpoint_folder import damage_of
    from unmask.train.checkpoint.checkpoints import Checkpoints

    weights = {f"weight {n}": torch.randn(1024, 1024) for n in range(64)}
    with tempfile.TemporaryDirectory() as folder:
        kept = Checkpoints(folder=Path(folder) / "checkpoints")
        mine = kept.save(1, lambda place: save_file(weights, place / "model.safetensors"), bytes_needed=0)
        file = mine / "model.safetensors"
        dcp.save(weights, checkpoint_id=f"{folder}/dcp", no_dist=True)
        [theirs] = Path(f"{folder}/dcp").glob("*.distcp")

        def digest(make: Callable[[], Any]) -> None:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, make)

        variants: dict[str, Callable[[], object]] = {
            "read, no hash": file.read_bytes,
            "SHA-256 (hashlib)": lambda: digest(hashlib.sha256),
            "BLAKE2b (hashlib)": lambda: digest(hashlib.blake2b),
            "XXH3 (xxhash)": lambda: digest(xxhash.xxh3_128),
        }
        size = file.stat().st_size
        print(f"| reading {size >> 20} MiB | s | GB/s |\n|---|---|---|")
        for name, seconds in interleaved(variants).items():
            print(f"| {name} | {seconds:.3f} | {size / seconds / 1e9:.2f} |", flush=True)
        for path in (file, theirs):
            content = bytearray(path.read_bytes())
            content[int(0.37 * len(content))] ^= 1
            path.write_bytes(content)
        read = {name: torch.zeros_like(value) for name, value in weights.items()}
        dcp.load(read, checkpoint_id=f"{folder}/dcp", no_dist=True)
        print(f"a bit altered, safetensors: {_differs(load_file(file), weights)}")
        print(f"a bit altered, torch.distributed.checkpoint: {_differs(read, weights)}")
        print(f"a bit altered, this project: {damage_of(mine)}")


def _differs(read: dict[str, torch.Tensor], written: dict[str, torch.Tensor]) -> str:
    wrong = sum(not torch.equal(read[name], value) for name, value in written.items())
    return f"loads, with {wrong} wrong tensor" if wrong else "loads, nothing is wrong"


def weights() -> None:
    """Give the folders of tests/engine/interop/test_odd_folders.py, each of which is refused here, to the library."""
    import importlib.util

    from huggingface_hub import load_torch_model
    from transformers import BertConfig, BertForMaskedLM

    import unmask

    path = Path(__file__).resolve().parents[2] / "tests/engine/interop/test_odd_folders.py"
    spec = importlib.util.spec_from_file_location("test_odd_folders", path)
    assert spec is not None
    assert spec.loader is not None
    odd = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(odd)
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 12, "max_positions": 16}
    answers: dict[str, list[str]] = {}
    for name, (change, _) in odd.WEIGHTS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            unmask.PretrainingModel(unmask.EncoderConfig(vocab_size=50, **sizes), seed=3).save_pretrained(folder)
            model = BertForMaskedLM(BertConfig.from_pretrained(folder))
            change(folder)
            try:
                load_torch_model(model, folder, safe=False)
                answer = "loads"
            except Exception as error:
                answer = type(error).__name__
            answers.setdefault(answer, []).append(name)
    print("| load_torch_model | odd folders |\n|---|---|")
    for answer, names in sorted(answers.items(), key=lambda item: -len(item[1])):
        print(f"| {answer} | {len(names)}: {', '.join(names)} |")


SECTIONS = {"loader": loader, "vocabulary": vocabulary, "store": store, "hashes": hashes, "weights": weights}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    for section in parser.parse_args().sections:
        print(f"\n{section}", flush=True)
        SECTIONS[section]()
