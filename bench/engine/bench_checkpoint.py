"""What a save costs: how long training waits for it, how long it takes, and how much it slows the steps beside it.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_checkpoint.py --size mini --rounds 5 --out auto

Each round: `--steps` steps without a save, the same number with one in the background, and a save that training waits
for. `waiting` is the time in which training stands still: the call, and the wait of the next update for the copy.
`processor time` is all that a save in the background adds to that of the steps: copying, hashing and writing. On a CPU
they take it from training; and it does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import record  # noqa: E402
from bench.lengths import DISTRIBUTIONS  # noqa: E402
from bench.training_step import SIZES  # noqa: E402

MAX_LENGTH, DOCUMENTS = 128, 4096
# steps between two saves by default, which the overhead is set against
SAVE_EVERY = 500


def training(size_name: str) -> tuple[Any, Callable[[], object]]:
    """Return a training step, and a function that does one."""
    import numpy as np

    from unmask.config import EncoderConfig, OptimizerConfig, RunConfig, StreamConfig, TrainConfig
    from unmask.data.store.memory import MemoryStore
    from unmask.data.stream import Stream
    from unmask.model import PretrainingModel
    from unmask.objectives import build_objectives
    from unmask.train.optim import build_optimizer
    from unmask.train.step import TrainingStep

    size = SIZES[size_name]
    lengths = np.minimum(np.array(DISTRIBUTIONS["lognormal-512"].draw(DOCUMENTS)), MAX_LENGTH) - 2
    store = MemoryStore.generated(lengths, vocab_size=size.vocab)
    settings = RunConfig(
        stream=StreamConfig(max_length=MAX_LENGTH, micro_batch_tokens=size.tokens),
        train=TrainConfig(tokens_per_step=size.tokens),
    )
    model = PretrainingModel(
        EncoderConfig(
            vocab_size=size.vocab,
            num_layers=size.layers,
            hidden_size=size.hidden,
            num_heads=size.heads,
            intermediate_size=size.intermediate,
            max_positions=MAX_LENGTH,
        ),
        seed=1,
    )
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=1e-4))
    step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=optimizer)
    batches = Stream(store, settings.stream, store.ordinary_ids).batches()
    return step, lambda: step([next(batches)])


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(size: str, rounds: int, steps: int) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of a size, and its line for the table of reliability."""
    from unmask.train.checkpoint.background import BackgroundSaves
    from unmask.train.checkpoint.checkpoints import Checkpoints
    from unmask.train.checkpoint.state import Facts, export_of, save_state, state_bytes, state_of, without_values

    step, train = training(size)
    model, optimizer = step.model, step.optimizer
    counts = dict.fromkeys(("step", "phase", "index", "tokens", "skipped", "threads"), 1)
    facts = Facts(**counts, cursor=None, fingerprint="", machine={}, interval=[])
    blank, saves, number = without_values(model), BackgroundSaves(), 0
    found: dict[str, list[float]] = {name: [] for name in ("waiting", "writing", "processor time", "without a thread")}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder=Path(folder) / "checkpoints", keep=1)

        def save(state: Any) -> None:
            nonlocal number

            def write(target: Path) -> None:
                export_of(state, blank).save_pretrained(target)
                save_state(target / "training", state, facts)

            number += 1
            found["writing"].append(
                timed(lambda: checkpoints.save(number, write, bytes_needed=state_bytes(model), beside=None))
            )

        def begin() -> None:
            saves.begin(state_of(model, optimizer).items(), save, optimizer)

        def waiting() -> float:
            """Begin a save and train a step; return the seconds in which training stood still."""
            times: list[float] = []

            def note(*_: object) -> None:
                times.append(time.perf_counter())

            # hooks run in their order, and that of the save is between these two
            before = optimizer.register_step_pre_hook(note)
            called = timed(begin)
            after = optimizer.register_step_pre_hook(note)
            train()
            before.remove()
            after.remove()
            return called + times[1] - times[0]

        train()
        first = waiting()
        saves.wait()
        found["writing"].clear()
        plain = []
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(steps):
                train()
            plain.append(time.process_time() - began)
            found["without a thread"].append(timed(lambda: (begin(), saves.wait())))
            began = time.process_time()
            found["waiting"].append(waiting())
            for _ in range(steps - 1):
                train()
            saves.wait()
            found["processor time"].append(time.process_time() - began - plain[-1])
        written = sum(file.stat().st_size for file in checkpoints.path(number).rglob("*") if file.is_file())
    copied = sum(value.numel() * value.element_size() for value in state_of(model, optimizer).values())
    median = {name: statistics.median(values) for name, values in found.items()}
    step_seconds = statistics.median(plain) / steps
    share = median["processor time"] / (SAVE_EVERY * step_seconds)
    note = (
        f"{size}: {copied / 1e6:,.0f} MB are copied and {written / 1e6:,.0f} MB written, at "
        f"{written / median['without a thread'] / 1e6:,.0f} MB/s with hashes and flushes; the first save keeps "
        f"training waiting for {1e3 * first:,.0f} ms. A step takes {step_seconds:.2f} s of processor time, so a save "
        f"each {SAVE_EVERY} steps costs {share:.2%}."
    )
    sizes = SIZES[size]
    rows = [
        record.benchmark_entry(
            f"checkpoint, {size}: layers {sizes.layers}, hidden {sizes.hidden}",
            name,
            [max(value, 1e-9) for value in values],
            case=f"{written / 1e6:,.0f} MB",
            note=note,
        )
        for name, values in found.items()
    ]
    text = (
        f"{size}: training waits {1e3 * median['waiting']:.0f} ms; a save takes {median['processor time']:.2f} s of "
        f"processor time, {share:.2%} of that of {SAVE_EVERY} steps"
    )
    return rows, text


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="What a save in the background costs.")
    parser.add_argument("--size", choices=sorted(SIZES), default=["nano"], nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    rows, told = [], []
    for size in options.size:
        of_size, text = measure(size, options.rounds, options.steps)
        rows += of_size
        told.append(text)
        for row in of_size:
            stats = row["stats"]
            print(f"{size:<8}{row['extra_info']['variant']:<20}{stats['median']:>9.3f} s  IQR {stats['iqr']:.3f}")
        print(of_size[0]["extra_info"]["note"])
    if options.out:
        name = f"checkpoint-{'-'.join(options.size)}"
        path = record.result_path(name) if str(options.out) == "auto" else options.out
        command = f"bench_checkpoint.py --size {' '.join(options.size)}"
        content = record.benchmark_file(rows)
        record.save(path, content | {"reliability": {"R9": {"measured": "; ".join(told), "command": command}}})


if __name__ == "__main__":
    main()
