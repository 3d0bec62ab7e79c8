"""A training step by 1, 2 and 4 processes, which share its micro-batches, and by one process with two threads.

Every process has one thread but for that variant. The step is the same for all of them: four micro-batches of generated
documents. The processes of a variant are started once and wait while another variant is measured. The bench first
compares the losses of three steps, which must agree to 1e-5. `sums alone` is the time of the sums over ranks if nothing
is computed meanwhile, with gloo on this machine.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_scaling.py --size nano --rounds 5
    PYTHONPATH=engine:kernels:. python bench/engine/bench_scaling.py --size mini --rounds 5 --out auto
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from bench import record
from bench.lengths import DISTRIBUTIONS
from bench.training_step import SIZES

MICRO_BATCHES, MAX_LENGTH, DOCUMENTS = 4, 128, 4096
AGREEMENT = 1e-5
_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Processes that train together, and the threads of each."""

    processes: int
    threads: int = 1

    def __str__(self) -> str:
        threads = f" with {self.threads} threads" if self.threads > 1 else ""
        return f"{self.processes} process{'' if self.processes == 1 else 'es'}{threads}"


VARIANTS = [Variant(processes=1), Variant(processes=1, threads=2), Variant(processes=2), Variant(processes=4)]


def work(rank: int, variant: Variant, port: int, size_name: str, pipe: Connection) -> None:
    """Be a rank: answer each number of steps with the loss of the last one and the seconds that they took."""
    if variant.processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": variant.processes, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}})
    import torch

    from unmask.config import EncoderConfig, OptimizerConfig, RunConfig, StreamConfig, TrainConfig
    from unmask.data.store.memory import MemoryStore
    from unmask.data.stream import Stream
    from unmask.model import PretrainingModel
    from unmask.objectives import build_objectives
    from unmask.train.gradient_sum import GradientSum
    from unmask.train.optim import build_optimizer
    from unmask.train.parallel import join_ranks
    from unmask.train.step import TrainingStep

    torch.set_num_threads(variant.threads)
    size = SIZES[size_name]
    lengths = np.minimum(np.array(DISTRIBUTIONS["lognormal-512"].draw(DOCUMENTS)), MAX_LENGTH) - 2
    store = MemoryStore.generated(lengths, vocab_size=size.vocab)
    settings = RunConfig(
        stream=StreamConfig(max_length=MAX_LENGTH, micro_batch_tokens=size.tokens // MICRO_BATCHES),
        train=TrainConfig(tokens_per_step=size.tokens),
    )
    stream = Stream(store, settings.stream, store.ordinary_ids)
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
    with join_ranks(_SECONDS) as ranks:
        shared = GradientSum(model, ranks) if ranks.size > 1 else None
        step = TrainingStep(
            model=model,
            objectives=build_objectives({"mlm": 1.0}),
            optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4)),
            shared=shared,
        )
        batches = stream.batches(rank=ranks.rank, world_size=ranks.size)
        flat = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
        while (count := pipe.recv()) is not None:
            own = [[next(batches) for _ in range(MICRO_BATCHES // ranks.size)] for _ in range(max(count, 0))]
            ranks.totals([0.0])
            began, loss = time.perf_counter(), 0.0
            for micro_batches in own:
                loss = float(step(micro_batches).loss)
            if count == 0:
                ranks.sum(flat)
            ranks.totals([0.0])
            pipe.send((loss, time.perf_counter() - began))


class Processes:
    """The started processes of a variant."""

    def __init__(self, variant: Variant, size: str) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._pipes, self._processes = [], []
        for rank in range(variant.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(rank, variant, port, size, theirs), daemon=True)
            process.start()
            # the end of a process is then the end of its pipe
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def steps(self, count: int) -> tuple[float, float]:
        """Return the loss of the last of so many steps and their seconds; 0 steps sum as much as one does."""
        for pipe in self._pipes:
            pipe.send(count)
        answers = []
        for pipe in self._pipes:
            if not pipe.poll(_SECONDS):
                sys.exit("bench_scaling: a process did not answer")
            answers.append(pipe.recv())
        return answers[0][0], max(seconds for _, seconds in answers)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(timeout=30)
            process.kill()


@contextmanager
def started(size: str) -> Iterator[dict[Variant, Processes]]:
    """Start the processes of all variants, and end them."""
    found = {variant: Processes(variant, size) for variant in VARIANTS}
    try:
        yield found
    finally:
        for processes in found.values():
            processes.close()


def measure(size: str, rounds: int) -> list[dict[str, Any]]:
    """Compare the losses, then time a step of each variant in interleaved rounds."""
    with started(size) as groups:
        losses = {variant: [group.steps(1)[0] for _ in range(3)] for variant, group in groups.items()}
        expected = losses[VARIANTS[0]]
        for variant, found in losses.items():
            worst = max(abs(one - other) / other for one, other in zip(found, expected, strict=True))
            if worst > AGREEMENT:
                sys.exit(f"bench_scaling: losses of {variant} differ by {worst:.1e}: {found}, expected {expected}")
        seconds: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
        sums: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
        for number in range(rounds):
            for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
                seconds[variant].append(groups[variant].steps(1)[1])
                if variant.processes > 1:
                    sums[variant].append(groups[variant].steps(0)[1])
    model = SIZES[size]
    return [
        record.benchmark_entry(
            f"scaling, {size}: layers {model.layers}, hidden {model.hidden}",
            str(variant),
            seconds[variant],
            case=f"{model.tokens:,} tokens in {MICRO_BATCHES} micro-batches",
            baseline=str(VARIANTS[0]),
            tokens=model.tokens,
            sums_alone_seconds=float(np.median(sums[variant])) if sums[variant] else None,
            cores=os.cpu_count(),
        )
        for variant in VARIANTS
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="A training step by several processes, and by one.")
    parser.add_argument("--size", choices=sorted(SIZES), default="nano")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    rows = measure(options.size, options.rounds)
    first = rows[0]["stats"]["median"]
    print(f"{'variant':<26}{'median s':>10}{'IQR s':>9}{'speed':>8}{'sums alone, s':>16}")
    for row in rows:
        info, stats = row["extra_info"], row["stats"]
        sums = info["sums_alone_seconds"]
        alone = "" if sums is None else f"{sums:.3f}"
        ratio = first / stats["median"]
        print(f"{info['variant']:<26}{stats['median']:>10.3f}{stats['iqr']:>9.3f}{ratio:>8.2f}{alone:>16}")
    if options.out:
        path = record.result_path(f"scaling-{options.size}") if str(options.out) == "auto" else options.out
        record.save(path, record.benchmark_file(rows))


if __name__ == "__main__":
    main()
