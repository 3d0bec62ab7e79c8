"""Makes the fixtures of a version: a store, runs stopped half way, and what that version makes of them.

    python make.py FOLDER        with that version of unmask, one thread, and an empty FOLDER beside the texts

It uses what stays the same between versions: the command line, `load_config`, `pretrain`, `PackedBatch`, and folders on
the disk. The tests use its functions to look at what their own version makes of the fixtures.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

STORE = ["--input", "tales=texts/tales.txt", "shan=texts/shan.jsonl", "--blank-line-documents", "--vocab-size", "260"]

MODEL = {
    "num_layers": 1,
    "hidden_size": 8,
    "num_heads": 2,
    "intermediate_size": 8,
    "max_positions": 48,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
}
TRAIN = {
    "steps": 12,
    "tokens_per_step": 256,
    "micro_batch_tokens": 128,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "dtype": "float32",
    "threads": 1,
    "log_every": 2,
    "evaluate_every": 4,
    "evaluate_tokens": 512,
    "save_every": 100,
}
DATA = {"store": "store", "held_out": 0.1, "workers": 0}

RUNS: dict[str, dict[str, Any]] = {
    # two lengths, sequences that are kept in files, masks that become more
    "phases": {
        "seed": 3,
        "data": {
            **DATA,
            "compose": "bm25",
            "scope": "sequence",
            "bm25_buffer": 16,
            "masking": "whole_word",
            "mask_rate_end": 0.3,
            "weights": {"tales": 2.0},
        },
        "model": MODEL,
        "train": {**TRAIN, "phases": [{"share": 0.5, "longest": 24}, {"share": 0.5, "longest": 48}]},
    },
    # pairs, words corrected instead of filled in, masks that come again
    "pairs": {
        "seed": 4,
        "data": {
            **DATA,
            "longest": 48,
            "compose": "pairs",
            "masking": "mac",
            "similar_words": "similar_words.tsv",
            "static_masks": 2,
        },
        "objective": {"nsp": 0.5},
        "model": MODEL,
        "train": TRAIN,
    },
}
STOPS = {"phases": 15, "pairs": 11}
"""Batches after which the runs get a SIGTERM: in step 7, where the second length begins, and in step 5."""

STREAMS: dict[str, dict[str, Any]] = {
    "documents": {"masking": "token"},
    "doc_sentences": {"masking": "span"},
    "full_sentences": {"masking": "ngram", "scope": "sequence"},
    "mix": {"masking": "whole_word", "scope": "sequence"},
    "uni": {"masking": "token", "scope": "document", "weights": {"shan": 0.5}},
    "bm25": {"masking": "token", "bm25_walk": "star", "bm25_query_terms": 8},
    "best_fit": {"masking": "whole_word", "mask_split": [0.5, 0.3, 0.2]},
    "pairs": {"masking": "token", "short_pairs": 0.5},
}


def digest(*arrays: Any) -> str:
    """16 hexadecimal digits of whole numbers, None among them."""
    import numpy as np

    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(b"none" if array is None else np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return hashed.hexdigest()[:16]


def batch_digest(batch: Any) -> str:
    """Of all that a batch holds."""
    documents = batch.documents
    tensors = (batch.ids, documents.cu_seqlens, documents.keys, documents.positions, batch.segments, batch.word_starts)
    rest = (batch.masked, batch.labels, batch.pair_labels)
    plain = [batch.real_tokens, *(batch.cursor or ())]
    return digest(*(None if tensor is None else tensor.cpu().numpy() for tensor in (*tensors, *rest)), plain)


@contextmanager
def watched(stop_after: int | None = None) -> Iterator[list[str]]:
    """Digests of the batches that go to the model's device; after some, the process gets a SIGTERM."""
    from unmask import PackedBatch

    digests: list[str] = []
    to = PackedBatch.to

    def noted(self: Any, *arguments: Any, **named: Any) -> Any:
        digests.append(batch_digest(self))
        if stop_after is not None and len(digests) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return to(self, *arguments, **named)

    PackedBatch.to = noted  # type: ignore[method-assign]
    try:
        yield digests
    finally:
        PackedBatch.to = to  # type: ignore[method-assign]


def unmask(*arguments: str) -> None:
    """Run a command."""
    from unmask.cli import main

    assert main(arguments) == 0, arguments


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a log, without what depends on the clock."""
    read = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    clock = ("second", "wait", "flops", "utilisation", "memory", "mfu")
    return [{key: value for key, value in row.items() if not any(part in key for part in clock)} for row in read]


def store_digest(store: Any) -> dict[str, Any]:
    """Of an open store: what it holds, and its fingerprint."""
    import numpy as np

    spans = (np.arange(store.num_documents), np.zeros(store.num_documents, np.int64), store.lengths)
    ids, words = store.gather(*spans)
    found = digest(ids, words, store.gather_sentence_starts(*spans), store.lengths, store.source_of)
    hashes = digest(store.content_hashes.view(np.int64), store.held_out_mask(0.1))
    return {"tokens": found, "hashes": hashes, "fingerprint": store.fingerprint, "sources": store.sources}


def streams(folder: Path) -> dict[str, list[str]]:
    """Digests of the first batches of every way to compose, in the folder of the store."""
    from unmask.config import load_config
    from unmask.train.pretrain import pretrain

    found = {}
    for compose, settings in STREAMS.items():
        data = {**DATA, "store": str(folder / "store"), "longest": 48, "compose": compose, **settings}
        objective = {"sop": 1.0} if compose == "pairs" else {}
        train = {**TRAIN, "steps": 4, "evaluate_every": 4}
        run = str(folder / "runs" / f"stream-{compose}")
        overrides = {"run": run, "seed": 5, "data": data, "model": MODEL, "train": train, "objective": objective}
        with watched() as found[compose]:
            pretrain(load_config(None, overrides))
        shutil.rmtree(run)
    return found


def end_of(run: Path) -> dict[str, Any]:
    """What a finished run shows: where its data stands, its log, and its parameters in few numbers."""
    from safetensors.numpy import load_file

    last = max((run / "checkpoints").glob("step-*"))
    state = json.loads((last / "training" / "state.json").read_text(encoding="utf-8"))
    whole = {key: state[key] for key in ("step", "segment", "index", "cursor", "fingerprint", "tokens", "skipped")}
    weights = load_file(last / "model.safetensors")
    sums = {name: [float(value.sum()), float(abs(value).sum())] for name, value in sorted(weights.items())}
    return {
        "state": whole,
        "log": rows(run / "log.jsonl"),
        "evaluation": rows(run / "evaluation.jsonl"),
        "weights": {name: [round(number, 6) for number in pair] for name, pair in sums.items()},
    }


def make(folder: Path) -> None:
    """Make all fixtures in `folder`, which holds `texts` and `similar_words.tsv`."""
    from unmask.config import load_config
    from unmask.data.store import Store  # type: ignore[attr-defined]
    from unmask.train.pretrain import pretrain

    os.chdir(folder)
    unmask("prepare", *STORE, "--out", "store", "--workers", "1")
    expected: dict[str, Any] = {"store": store_digest(Store.open("store")), "streams": streams(folder), "runs": {}}
    for name, settings in RUNS.items():
        run = folder / "runs" / name
        with watched(stop_after=STOPS[name]):
            pretrain(load_config(None, {**settings, "run": f"runs/{name}"}))
        copy = folder / "runs" / f"{name}-resumed"
        shutil.copytree(run, copy)
        with watched() as rest:
            unmask("pretrain", "--resume", str(copy))
        expected["runs"][name] = {"batches": rest, **end_of(copy)}
        shutil.rmtree(copy)
        # without the name of the folder that it was started in; packed, because most of a checkpoint is zeros
        (run / ".started_in").unlink()
        shutil.make_archive(name, "zip", folder, f"runs/{name}")
        shutil.rmtree(run)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
