"""Runs that are killed, stopped, damaged and restarted on other numbers of processes, beside one that is left alone.

    python bench/engine/bench_resume.py                                a few of each, in about a minute
    nice python bench/engine/bench_resume.py --kills 100 --corruptions 100 --out auto

The runs are those of the tests: one small layer, documents of random words, dropout, a step of some milliseconds. Their
processes are forks of this one, which has trained such a run (`tests/many.py`). Every process notes a digest of the
ids, masks and documents of each micro-batch that it trains on. A micro-batch that is done again, after a kill, must
have the same digest, and at the end the digests must be those of the run that was left alone, one for each number.
Then no document was left out and none was read twice.

Each part below makes rows of the table of reliability in docs/measured.md, or fails.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = [ROOT, ROOT / "engine", ROOT / "kernels", ROOT / "tests", ROOT / "tests" / "engine" / "train"]
sys.path += [str(path) for path in PLACES if str(path) not in sys.path]
# for the processes that fork
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, PLACES))
os.environ["OMP_NUM_THREADS"] = "1"

from bench import record  # noqa: E402

import many  # noqa: E402
from many import noted, rows_of, run_ranks  # noqa: E402

LATER = 75
SAVE_EVERY = 3
MICRO_BATCHES = 4
AGREEMENT = 1e-5

Rows = dict[str, str]


def tiny() -> Any:
    """Return the module with the small run."""
    return importlib.import_module("tiny")


def require(condition: bool, *told: object) -> None:
    """End the bench if something is not as it must be."""
    if not condition:
        sys.exit(f"bench_resume: {' '.join(map(str, told))}")


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what a run in this process says."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def words_of(run: Path, **changes: Any) -> list[str]:
    """Return the words of a command that starts a run or continues it; each step has four micro-batches."""
    from unmask.config import to_yaml

    settings = {"tokens_per_step": 512, "log_every": 1, "evaluate_every": 1000, "save_every": SAVE_EVERY, "phases": []}
    config = tiny().config(run, **settings | {"timeout_seconds": 60.0} | changes)
    config = replace(config, model=replace(config.model, hidden_dropout=0.1, attention_dropout=0.1))
    run.with_suffix(".yaml").write_text(to_yaml(config))
    return [str(run.with_suffix(".yaml")), "--resume", "auto"]


def saved_step(run: Path) -> int:
    """Return the step of the newest whole checkpoint; 0 without one."""
    from unmask.interop.checkpoint_folder import newest_whole

    newest, damaged = newest_whole(run / "checkpoints")
    require(not damaged, "a kill left a damaged checkpoint:", damaged)
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def expected(run: Path, steps: int) -> dict[int, str]:
    """Return the digests of all micro-batches of a run that nothing interrupts, by their numbers."""
    (ended,) = run_ranks(words_of(run, steps=steps, save_every=1000), run.with_name(f"{run.name}-said"), world_size=1)
    require(ended.status == 0, ended.said)
    found = noted(run.with_name(f"{run.name}-said"))
    require(sorted(found) == list(range(steps * MICRO_BATCHES)), "micro-batches are missing")
    return found


def worst_difference(run: Path, whole: Path) -> float:
    """Return the largest relative difference of the losses of two runs."""
    ours, theirs = rows_of(run), rows_of(whole)
    require([row["step"] for row in ours] == [row["step"] for row in theirs], "rows of the log are missing")
    return max(abs(one["loss"] - two["loss"]) / two["loss"] for one, two in zip(ours, theirs, strict=True))


def kill_over_and_over(root: Path, kills: int, chance: random.Random) -> Rows:
    """Kill and stop one process at random moments, in steps and in saves; the run ends with the same bits."""
    steps = 6 * kills
    run, said = root / "killed", root / "killed-said"
    digests = expected(root / "whole", steps)
    words, stops, lost = words_of(run, steps=steps), 0, []
    for _ in range(kills):
        before = saved_step(run)
        at = before + chance.randint(1, 6)
        require(at < steps - 20, "too few steps")
        polite = chance.random() < 0.3
        name = chance.choice(["SIGTERM", "SIGUSR1"]) if polite else "SIGKILL"
        (ended,) = run_ranks(words, said, world_size=1, at={(0, at): f"{name}+{chance.uniform(0.0, 0.05):.4f}"})
        if polite:
            require(ended.status == LATER and "saved; continue" in ended.said, ended.said)
            stops += 1
        else:
            require(ended.status == -signal.SIGKILL, ended.status, ended.said)
            done = max(int(line.split()[0]) for line in (said / "said-0.batches").read_text().splitlines())
            lost.append((done + 1) // MICRO_BATCHES - saved_step(run))
    (ended,) = run_ranks(words, said, world_size=1)
    require(ended.status == 0, ended.said)
    require(noted(said) == digests, "documents or masks differ")
    tiny().assert_same_end(run, root / "whole")
    require(max(lost) <= 2 * SAVE_EVERY + 1, "steps lost:", max(lost))
    return {
        "R2": f"{len(digests):,} of {len(digests):,} micro-batches equal after {kills} kills and stops",
        "R4": f"0 lost, 0 repeated of {len(digests):,} micro-batches after {kills} kills and stops; last bits equal",
        "R6": f"{stops} of {stops} saved and exited with 75",
        "R7": f"{len(lost)} of {len(lost)} went on, at most {max(lost)} steps back with a save each {SAVE_EVERY}",
    }


def change_the_number_of_processes(root: Path, kills: int, chance: random.Random) -> Rows:
    """Go on with 1, 2 and 4 processes, with ranks that are killed, stopped or hang."""
    steps = 4 * kills + 8
    run, said = root / "many", root / "many-said"
    digests = expected(root / "many-whole", steps)
    words, hangs, sizes = words_of(run, steps=steps), 0, []
    for number in range(kills):
        size = [2, 1, 4][number % 3]
        rank, at = chance.randrange(size), saved_step(run) + chance.randint(1, 4)
        what = "wait" if size > 1 and number % 5 == 0 else chance.choice(["SIGKILL", "SIGTERM"])
        more = ["--train.timeout_seconds", "5"] if what == "wait" else []
        ended = run_ranks([*words, *more], said, world_size=size, at={(rank, at): what}, timeout=120)
        statuses = {one.status for one in ended}
        require(statuses <= {LATER, -signal.SIGKILL}, what, ended)
        if what == "wait":
            require(any("has kept the others waiting for 5 seconds" in one.said for one in ended), ended)
            hangs += 1
        sizes.append(size)
    ended = run_ranks(words, said, world_size=2)
    require([one.status for one in ended] == [0, 0], ended)
    require(noted(said) == digests, "documents or masks differ")
    worst = worst_difference(run, root / "many-whole")
    require(worst < 1e-4, "losses differ by", worst)
    used = ", ".join(f"{sizes.count(size)} times {size}" for size in sorted(set(sizes)))
    return {
        "R4": f"0 lost, 0 repeated of {len(digests):,} micro-batches after {kills} failures with {used} processes; "
        f"losses within {worst:.0e}",
        "hang": f"{hangs} of {hangs} ended on all ranks and named the rank",
    }


def damage(root: Path, corruptions: int, chance: random.Random) -> Rows:
    """Truncate files, flip bits and remove files of the newest checkpoint."""
    from unmask.train.checkpoint.checkpoints import Checkpoints

    run = root / "damaged"
    (ended,) = run_ranks(words_of(run, steps=6), root / "damaged-said", world_size=1)
    require(ended.status == 0, ended.said)
    kinds = {"truncated": 0, "flipped": 0, "removed": 0}
    for _ in range(corruptions):
        folder = root / "copy"
        shutil.copytree(run / "checkpoints", folder)
        file = chance.choice([one for one in sorted((folder / "step-000006").rglob("*")) if one.is_file()])
        content = file.read_bytes()
        kind = chance.choice([*kinds])
        kinds[kind] += 1
        if kind == "removed":
            file.unlink()
        elif kind == "truncated":
            file.write_bytes(content[: chance.randrange(len(content))])
        else:
            place = chance.randrange(len(content))
            file.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
            )
        with quiet():
            found = Checkpoints(folder=folder).latest_valid()
        require(found == folder / "step-000003", kind, file, "was not detected")
        shutil.rmtree(folder)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return {"R8": f"{corruptions} of {corruptions} detected, and the checkpoint before taken ({counts})"}


def fill_the_disk(root: Path, times: int, chance: random.Random) -> Rows:
    """Let the system refuse files beyond a random size in mid-run, then take the limit away."""
    words_whole = words_of(root / "roomy", steps=12)
    (ended,) = run_ranks(words_whole, root / "roomy-said", world_size=1)
    require(ended.status == 0, ended.said)
    for number in range(times):
        run = root / f"full-{number}"
        limit = chance.randint(6_000, 60_000)
        (ended,) = run_ranks(words_of(run, steps=12), root / "full-said", world_size=1, at={(0, 4): f"limit {limit}"})
        require(ended.status == 2 and "could not be written" in ended.said, ended.status, ended.said)
        (ended,) = run_ranks(words_of(run, steps=12), root / "full-said", world_size=1)
        require(ended.status == 0, ended.said)
        tiny().assert_same_end(run, root / "roomy")
    return {"disk": f"{times} of {times} said so, and went on to the same bits"}


def resume_at_every_step(root: Path, steps: int, chance: random.Random) -> Rows:
    """Stop at every step, go on for one step, stop again, go on to the end."""
    from unmask.train.logging.progress import Display
    from unmask.train.pretrain import pretrain
    from unmask.train.run_folder import saved_config

    advance, stops = Display.advance, [0]

    def stopping(display: Display) -> None:
        advance(display)
        if display._done in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    sys.modules["unmask.train.pretrain"].open_store = tiny().open_text  # type: ignore[attr-defined]
    Display.advance = stopping  # type: ignore[method-assign]
    settings = {"steps": steps, "log_every": 1, "evaluate_every": 10}
    with quiet():
        pretrain(tiny().config(root / "unbroken", **settings))
    for step in range(1, steps):
        run = root / f"at-{step}"
        stops[:] = [step, step + 1]
        with quiet():
            pretrain(tiny().config(run, **settings))
            for _ in range(2):
                pretrain(saved_config(run), resume=run)
        tiny().assert_same_end(run, root / "unbroken")
        shutil.rmtree(run)
    Display.advance = advance  # type: ignore[method-assign]
    return {"R1": f"{steps - 1} of {steps - 1} steps, twice each: parameters and log rows equal to the bit"}


def compare_numbers_of_processes(root: Path, steps: int, chance: random.Random) -> Rows:
    """Train by 1, 2 and 4 processes, with whole models and in shards."""
    kinds = [(1, "ddp"), (2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")]
    for size, parallel in kinds:
        name = f"{parallel}-{size}"
        words = words_of(root / name, steps=steps, parallel=parallel)
        ended = run_ranks(words, root / f"{name}-said", world_size=size)
        require({one.status for one in ended} == {0}, ended)
    found = [noted(root / f"{parallel}-{size}-said") for size, parallel in kinds]
    require(all(one == found[0] for one in found), "documents or masks differ")
    worst = {
        f"{parallel} {size}": worst_difference(root / f"{parallel}-{size}", root / "ddp-1")
        for size, parallel in kinds[1:]
    }
    losses, gradients = compare_accumulation(steps)
    require(max(*worst.values(), losses, gradients) < AGREEMENT, worst, losses, gradients)
    told = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
    return {
        "R3": f"{len(found[0])} of {len(found[0])} micro-batches equal for 1, 2 and 4 processes, ddp and fsdp",
        "R13": f"losses of {steps} steps against one process: {told}; accumulation 2 and 4 against 1: losses "
        f"{losses:.0e}, gradients of a step {gradients:.0e} (fp32, dropout 0.1)",
    }


def compare_accumulation(steps: int) -> tuple[float, float]:
    """Return the largest relative differences of losses and gradients of one step cut into 1, 2 and 4 micro-batches."""
    import numpy as np
    import torch

    from unmask.batch import PackedBatch, assemble
    from unmask.config import EncoderConfig, OptimizerConfig
    from unmask.model import PretrainingModel
    from unmask.objectives import build_objectives
    from unmask.train.optim import build_optimizer
    from unmask.train.step import TrainingStep

    def batches(step: int, count: int) -> list[PackedBatch]:
        draw = np.random.default_rng(step)
        lengths = draw.integers(4, 32, size=16)
        texts = [draw.integers(5, 50, size=length) for length in lengths]
        masks = [np.sort(draw.permutation(length)[: 1 + int(length) // 7]) for length in lengths]
        labels = [draw.integers(5, 50, size=mask.size) for mask in masks]
        made = []
        for part in np.array_split(np.arange(16), count):
            starts = np.concatenate([[0], np.cumsum(lengths[part])[:-1]])
            rows = np.concatenate([masks[one] + start for one, start in zip(part, starts, strict=True)])
            made.append(
                assemble(
                    np.concatenate([texts[one] for one in part]),
                    lengths[part],
                    keys=part + 16 * step,
                    tokens=512 // count + 64,
                    sequences=32,
                    max_seqlen=32,
                    masked=rows,
                    labels=np.concatenate([labels[one] for one in part]),
                    masked_capacity=128,
                )
            )
        return made

    sizes = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "max_positions": 32}
    config = EncoderConfig(vocab_size=50, hidden_dropout=0.1, attention_dropout=0.1, **sizes)
    losses, gradients = {}, {}
    for count in (1, 2, 4):
        model = PretrainingModel(config, seed=1).train()
        optimizer = build_optimizer(model, OptimizerConfig(learning_rate=1e-3))
        step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=optimizer)
        step.accumulate(batches(0, count))
        gradients[count] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        losses[count] = [float(step(batches(number, count)).loss) for number in range(steps)]
    apart = [abs(one - other) / one for count in (2, 4) for one, other in zip(losses[1], losses[count], strict=True)]
    norm = gradients[1].norm()
    return max(apart), max(float((gradients[count] - gradients[1]).norm() / norm) for count in (2, 4))


def spoil_a_gradient(root: Path, times: int, chance: random.Random) -> Rows:
    """Make a gradient not finite on one of two or four ranks."""
    cases = [(2, 0), (2, 1), (4, 3)]
    for size, rank in cases:
        run = root / f"nan-{size}-{rank}"
        ended = run_ranks(words_of(run, steps=4), root / f"{run.name}-said", world_size=size, at={(rank, 99): "nan"})
        require({one.status for one in ended} == {0}, ended)
        require([row["skipped"] for row in rows_of(run)] == [1, 0, 0, 0], rows_of(run))
    return {"R10": f"{len(cases)} of {len(cases)}: one update skipped on all ranks, and the run went on"}


def load_in_transformers(root: Path, steps: int, chance: random.Random) -> Rows:
    """Load every checkpoint of a run by transformers, and compare its logits with ours."""
    import torch
    from transformers import BertForMaskedLM

    from unmask import pack
    from unmask.model import PretrainingModel

    run = root / "loaded"
    words = words_of(run, steps=steps, save_every=1, keep_checkpoints=steps)
    (ended,) = run_ranks(words, root / "loaded-said", world_size=1)
    require(ended.status == 0, ended.said)
    folders, worst = sorted((run / "checkpoints").glob("step-*")), 0.0
    ids = list(range(5, 25))
    for folder in folders:
        ours = PretrainingModel.from_pretrained(folder)
        with torch.no_grad():
            theirs = BertForMaskedLM.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0]
            logits = ours.mlm_logits(ours(pack([ids])))[: len(ids)]
        worst = max(worst, float((logits - theirs).abs().max()))
    require(len(folders) == steps and worst < AGREEMENT, len(folders), worst)
    return {"R12": f"{len(folders)} of {len(folders)} saves load; logits within {worst:.0e}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description="Runs that fail in every way, and go on.")
    parser.add_argument("--kills", type=int, default=10, help="kills and stops, a tenth of them with several processes")
    parser.add_argument("--corruptions", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30, help="steps of the runs that are compared or stopped at each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    options = parser.parse_args(arguments)
    command = f"bench_resume.py --kills {options.kills} --corruptions {options.corruptions}"
    several = max(2, options.kills // 10)
    parts: list[tuple[Callable[[Path, int, random.Random], Rows], int]] = [
        # first, since it imports and keeps what forks then have
        (resume_at_every_step, options.steps),
        (damage, options.corruptions),
        (compare_numbers_of_processes, options.steps),
        (spoil_a_gradient, 3),
        (load_in_transformers, 5),
        (fill_the_disk, max(1, options.corruptions // 20)),
        (change_the_number_of_processes, several),
        (kill_over_and_over, options.kills - several),
    ]
    many.FORKS = multiprocessing.get_context("fork")  # type: ignore[assignment]
    found: Rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, count in parts:
            began = time.monotonic()
            for number, text in part(Path(folder), count, random.Random(options.seed)).items():
                found[number] = f"{found[number]}; {text}" if number in found else text
                print(f"{number}: {text}", flush=True)
            print(f"  {part.__name__}: {time.monotonic() - began:.0f} s", flush=True)
            if options.out:
                # after each part, so that a part that fails leaves the others
                path = record.result_path("reliability") if str(options.out) == "auto" else options.out
                rows = {number: {"measured": text, "command": command} for number, text in found.items()}
                record.save(path, {**record.stamp(), "reliability": rows})


if __name__ == "__main__":
    main()
