"""A short training run on generated batches: does the training step learn here, with PyTorch and NumPy alone?

    python bench/engine/bench_generated.py --steps 200 --out run-generated.json

The text is a random walk through a vocabulary with unequal frequencies: each id has one of a few fixed successors. The
loss first falls to the entropy of single ids; later, as attention learns the successors, far below it. Nothing is read
from disk. The result is a run that `bench/report.py` can plot.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import record  # noqa: E402
from bench.lengths import DISTRIBUTIONS  # noqa: E402
from bench.training_step import STEP_OPERATIONS  # noqa: E402

from unmask.batch import PackedBatch, assemble  # noqa: E402
from unmask_kernels import using  # noqa: E402

MAX_LENGTH = 512
FIRST_ID, MASK_ID = 5, 4
CLS_ID, SEP_ID = 2, 3
SUCCESSORS = 4
MASK_RATE = 0.15


def generated_batch(tokens: int, vocab: int, seed: int) -> PackedBatch:
    """`tokens` real tokens in documents of lognormal lengths, 15 % of them replaced by [MASK]."""
    random = np.random.Generator(np.random.PCG64(seed))
    lengths = np.array(DISTRIBUTIONS["lognormal-512"].fill(tokens, seed))
    starts = np.cumsum(lengths) - lengths
    choice = random.integers(SUCCESSORS, size=tokens).tolist()
    ids = np.empty(tokens, dtype=np.int64)
    current = int(random.integers(vocab - FIRST_ID))
    for at in range(tokens):
        # a fixed affine map a successor: the table of successors without a table
        current = (current * (2 * choice[at] + 3) + 7 * choice[at] + 1) % (vocab - FIRST_ID)
        # the cube makes small ids frequent, as words are
        ids[at] = current**3 // (vocab - FIRST_ID) ** 2 + FIRST_ID
    ids[starts], ids[starts + lengths - 1] = CLS_ID, SEP_ID
    ordinary = np.flatnonzero(ids >= FIRST_ID)
    masked = np.sort(random.choice(ordinary, int(MASK_RATE * len(ordinary)), replace=False))
    labels = ids[masked]
    ids[masked] = MASK_ID
    return assemble(
        ids,
        lengths,
        keys=random.integers(1 << 62, size=len(lengths)),
        tokens=tokens,
        sequences=tokens // DISTRIBUTIONS["lognormal-512"].min_length,
        max_seqlen=MAX_LENGTH,
        masked=masked,
        labels=labels,
        masked_capacity=-(-round(MASK_RATE * tokens) // 64) * 64,
    )


def train(settings: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Train from scratch and return a row for each logged step."""
    from unmask.config import OptimizerConfig
    from unmask.model import EncoderConfig, PretrainingModel
    from unmask.objectives import build_objectives
    from unmask.train.optim import build_optimizer
    from unmask.train.precision import choose_precision
    from unmask.train.step import TrainingStep

    config = EncoderConfig(
        vocab_size=settings["vocab"],
        hidden_size=settings["hidden"],
        num_layers=settings["layers"],
        num_heads=settings["hidden"] // 64,
        intermediate_size=4 * settings["hidden"],
        max_positions=MAX_LENGTH,
        hidden_dropout=settings["dropout"],
        attention_dropout=settings["dropout"],
    )
    dtype = choose_precision(settings["dtype"], device).dtype
    model = PretrainingModel(config, heads=("mlm",), compute_dtype=dtype, seed=0).to(device).train()
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=settings["learning_rate"]))
    step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=optimizer, clip_norm=1.0)
    numbers = range(1, settings["steps"] + 1)
    batches = [generated_batch(settings["tokens"], settings["vocab"], number) for number in numbers]
    rows: list[dict[str, Any]] = []
    since, every = time.perf_counter(), max(1, settings["steps"] // 40)
    for number, batch in zip(numbers, batches, strict=True):
        done = step([batch.to(device)])
        if number % every == 0:
            # reading the loss waits for the device, so the wall clock is right here
            loss = float(done.loss)
            now = time.perf_counter()
            rows.append({"step": number, "loss": loss, "tokens_per_second": every * batch.real_tokens / (now - since)})
            since = now
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="A short training run on generated batches.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=8192, help="real tokens of a step")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128, help="a multiple of 64")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--dtype",
        choices=["auto", "bfloat16", "float32"],
        default="auto",
        help="of activations; auto: the one that is fast on the device",
    )
    parser.add_argument("--backend", help="ask for this one in every operation, as triton before it is verified")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="result file to write")
    options = parser.parse_args(arguments)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "device")}
    with using(**dict.fromkeys(STEP_OPERATIONS, options.backend) if options.backend else {}):
        rows = train(settings, torch.device(options.device))
    first, last = rows[0], rows[-1]
    print(f"step {first['step']}: loss {first['loss']:.3f}; step {last['step']}: loss {last['loss']:.3f}")
    if options.out:
        content = {
            **record.benchmark_file([]),
            "run": "generated",
            "settings": settings,
            "curve": rows,
            "evaluations": [],
        }
        record.save(options.out, content)
    if not last["loss"] < first["loss"]:
        raise SystemExit("bench_generated: the loss did not fall; the step does not learn on this machine")


if __name__ == "__main__":
    main()
