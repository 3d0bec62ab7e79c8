"""A run small enough to be repeated many times, and a process of its own to be killed in.

Run as a script it trains or resumes: tiny.py RUN_FOLDER STEPS MOMENT, where at MOMENT, see `kill_at`, the process kills
itself; an empty one lets it live.
"""

import os
import signal
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.config import OptimizerConfig, PhaseConfig, RunConfig, StreamConfig, TrainConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.tokenizer import Tokenizer
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.logging.log import read_evaluations, read_log
from unmask.train.logging.progress import Display
from unmask.train.pretrain import build_trainer, pretrain
from unmask.train.run_folder import saved_config
from unmask.train.trainer import Trainer

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


def open_text(config: RunConfig, run: Path) -> tuple[MemoryStore, Tokenizer]:
    """Stands in for `store.open_store`."""
    return text()


def config(run: Path, **changes: Any) -> RunConfig:
    """Sixteen steps of two micro-batches in two length phases, saved every five.

    What changes are settings of `StreamConfig`, `OptimizerConfig` and `TrainConfig`.
    """
    settings: dict[str, Any] = {
        "steps": 16,
        "tokens_per_step": 256,
        "max_length": 32,
        "held_out_fraction": 0.05,
        "workers": 0,
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
        "phases": [PhaseConfig(share=0.5, max_length=16), PhaseConfig(share=0.5, max_length=32)],
    }
    settings |= changes
    groups: dict[str, Any] = {"stream": StreamConfig, "optimizer": OptimizerConfig, "train": TrainConfig}
    parts = {}
    for group, cls in groups.items():
        own = {field.name for field in fields(cls)} & settings.keys()
        parts[group] = cls(**{name: settings.pop(name) for name in own})
    assert not settings, settings
    return RunConfig(
        run=str(run),
        model=replace(
            RunConfig().model, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, max_positions=32
        ),
        **parts,
    )


def trainer(config: RunConfig, run: Path) -> Trainer:
    """The trainer of a run that is not there."""
    return build_trainer(config, run, Checkpoints(folder=run), Display())


def parameters(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint of a run."""
    from safetensors.torch import load_file

    return load_file(max((run / "checkpoints").glob("step-*[0-9]")) / "model.safetensors")


TIMES = ("tokens_per_second", "data_wait", "seconds_per_step", "peak_memory_bytes")


def assert_same_end(run: Path, unbroken: Path) -> None:
    """Equal weights to the bit, and an equal log but for the times in it."""
    expected, got = parameters(unbroken), parameters(run)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    assert without_times(run) == without_times(unbroken)


def without_times(run: Path) -> list[dict[str, Any]]:
    """Training and evaluation rows of a run, less what depends on the clock."""
    rows = read_log(run) + read_evaluations(run)
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def kill_at(run: Path, moment: str) -> None:
    """Kill this process at a moment `kind:count`: before the count-th operation of that kind on files of the run.

    Kinds: `any`; `rename`; `remove` of a file or folder; `open`; `torn`, an opening to write, after which a piece of
    another content stands in the file.
    """
    kind, count = moment.split(":")
    left, process = int(count), os.getpid()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in KINDS or os.getpid() != process or left <= 0:
            return
        # Removal of a tree names what is in it relative to an open folder; a number is a file that is open already.
        place = None if isinstance(arguments[0], int) else Path(os.fsdecode(arguments[0]))
        if place is None or (place.is_absolute() and not place.is_relative_to(run)):
            return
        to_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if kind not in ("any", KINDS[event]) and not (kind == "torn" and to_write):
            return
        left -= 1
        if left == 0:
            if kind == "torn":
                how = os.O_WRONLY | os.O_CREAT | arguments[2] & (os.O_APPEND | os.O_TRUNC)
                os.write(os.open(arguments[0], how), b'{"step"')
            os.kill(process, signal.SIGKILL)

    sys.addaudithook(watch)


KINDS = {
    "open": "open",
    "os.rename": "rename",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "shutil.rmtree": "remove",
    "os.mkdir": "any",
}


def main(run: Path, steps: int, moment: str) -> None:
    """Start or resume the run in `run`."""
    sys.modules[pretrain.__module__].open_store = open_text  # type: ignore[attr-defined]
    if moment:
        kill_at(run, moment)
    if (run / "config.yaml").exists():
        pretrain(saved_config(run), resume=run)
    else:
        pretrain(config(run, workers=1, steps=steps))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
