"""A run small enough to be repeated many times, and a process of its own to be killed in.

Run as a script it trains or resumes: tiny.py RUN_FOLDER [number of the file flush at which the process kills itself].
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.config import DataConfig, ModelConfig, Phase, RunConfig, TrainConfig
from unmask.data.memory_store import MemoryStore
from unmask.data.tokenizer import Tokenizer
from unmask.train import assembly, checkpoint
from unmask.train.run_folder import saved_config
from unmask.train.trainer import pretrain

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dog",
    "ran",
    "fast",
    "tree",
    "house",
    "river",
    "blue",
    "green",
    "seven",
    "under",
]


@cache
def text() -> tuple[MemoryStore, Tokenizer]:
    """Six hundred documents of random words, and a tokenizer made for them."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, size=generator.integers(5, 40))) for _ in range(600)]
    tokenizer = Tokenizer.train(texts, 120)
    ids = [np.array(document, dtype=np.uint16) for document in tokenizer.encode_batch(texts)]
    store = MemoryStore(np.concatenate(ids), [len(d) for d in ids], vocab_size=tokenizer.vocab_size)
    return store, tokenizer


def open_text(config: RunConfig, run: Path, say: Callable[[str], None]) -> tuple[MemoryStore, Tokenizer]:
    """Stands in for `stores.open_store`."""
    return text()


def config(run: Path, *, workers: int = 0, held_out: float = 0.05, **train: Any) -> RunConfig:
    """Sixteen steps of two micro-batches in two length phases, saved every five."""
    settings: dict[str, Any] = {
        "steps": 16,
        "tokens_per_step": 256,
        "micro_batch_tokens": 128,
        "max_documents": 16,
        "warmup_steps": 4,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "log_every": 3,
        "evaluate_every": 8,
        "evaluate_tokens": 512,
        "save_every": 5,
        "threads": 1,
        "phases": [Phase(share=0.5, longest=16), Phase(share=0.5, longest=32)],
    }
    return RunConfig(
        run=str(run),
        data=DataConfig(longest=32, held_out=held_out, workers=workers),
        model=ModelConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, max_positions=32),
        train=TrainConfig(**(settings | train)),
    )


def parameters(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint of a run."""
    from safetensors.torch import load_file

    return load_file(max((run / "checkpoints").glob("step-*[0-9]")) / "model.safetensors")


def main(run: Path, kill_at_flush: int | None) -> None:
    """Start or resume the run in `run`."""
    flush, flushed = checkpoint.sync, 0

    def count(path: Path) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == kill_at_flush:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    checkpoint.sync = count
    assembly.open_store = open_text  # type: ignore[assignment]
    if run.exists():
        pretrain(saved_config(run), resume=run)
    else:
        pretrain(config(run, workers=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
