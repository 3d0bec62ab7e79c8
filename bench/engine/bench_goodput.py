"""Goodput: the share of useful time in a run that is killed now and then and starts again, as a scheduler would do it.

    PYTHONPATH=engine:kernels:. python bench/engine/bench_goodput.py STORE --minutes 30 --kill-every 10 --out auto

A process of its own trains the recipe, with whatever starting costs: imports, reading the checkpoint, finding the place
in the text. SIGKILL ends it at random moments; the time between two kills is exponential with the mean `--kill-every`,
and each time the same command starts again. In the end SIGTERM lets the run save.

    useful time    tokens of the steps that were kept, at the median speed of all logged steps
    goodput        useful time over the time from the first start to the end

So lost steps count as lost time, as do starts, the waits of saves and the last save.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import record  # noqa: E402

LATER = 75  # exit status of a run that saved and can go on


class Goodput(NamedTuple):
    """What was measured.

    Attributes:
        share: useful time over all of it.
        seconds: all of it.
        kills: how often the run was killed.
        lost: steps that were done and lost, in all.
        steps: steps that were kept.
    """

    share: float
    seconds: float
    kills: int
    lost: int
    steps: int


def moments_of_kills(seconds: float, every: float, chance: random.Random) -> list[float]:
    """Return when the run is killed, in seconds after its start."""
    found: list[float] = []
    at = chance.expovariate(1.0 / every)
    while at < seconds:
        found.append(at)
        at += chance.expovariate(1.0 / every)
    return found


def measure(command: Sequence[str], run: Path, *, seconds: float, kills: Sequence[float]) -> Goodput:
    """Train by a command for `seconds`, with a kill at each moment, and return what was useful of the time."""
    from unmask.train.logging.log import read_log

    began, lost = time.monotonic(), 0
    speeds: list[float] = []
    for moment in [*kills, seconds]:
        last = moment == seconds
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
            try:
                process.wait(max(0.0, began + moment - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
            status = process.wait()
            said.seek(0)
            if status not in ((LATER,) if last else (-signal.SIGKILL,)):
                sys.exit(f"bench_goodput: exit status {status}: {said.read().decode()}")
        rows = read_log(run)
        speeds += [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
        kept = saved_step(run)
        lost += max(0, max((row["step"] for row in rows), default=0) - kept)
    taken = time.monotonic() - began
    tokens = next(row["tokens"] for row in reversed(rows) if row["step"] == kept)
    useful = tokens / statistics.median(speeds)
    return Goodput(useful / taken, taken, len(kills), lost, kept)


def saved_step(run: Path) -> int:
    """Return the step of the newest whole checkpoint; 0 without one."""
    from unmask.interop.checkpoint_folder import newest_whole

    newest, _ = newest_whole(run / "checkpoints")
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="text: a store that `unmask prepare` made")
    parser.add_argument("--recipe", default="bert-mini")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the whole run")
    parser.add_argument("--kill-every", type=float, default=10.0, help="mean minutes between two kills")
    parser.add_argument("--save-every", type=int, default=10, help="steps between two saves")
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="result file to write ('auto' for bench/results)")
    given = parser.parse_args(arguments)
    words = [given.recipe, "--data.store", given.store, "--train.steps", "1000000", "--train.log_every", "1"]
    words += ["--train.evaluate_every", "1000000", "--train.save_every", str(given.save_every)]
    words += ["--train.tokens_per_step", str(given.tokens_per_step), "--train.phases", "[]"]
    words += ["--stream.micro_batch_tokens", str(given.tokens_per_step)]
    words += [] if given.threads is None else ["--train.threads", str(given.threads)]
    seconds = 60.0 * given.minutes
    kills = moments_of_kills(seconds, 60.0 * given.kill_every, random.Random(given.seed))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "unmask", "pretrain", *words, "--run", str(run), "--resume", "auto"]
        found = measure(command, run, seconds=seconds, kills=kills)
    told = (
        f"{100 * found.share:.1f}% of {found.seconds / 60:.0f} minutes with {found.kills} kills; {found.lost} of "
        f"{found.lost + found.steps} steps done twice, a save each {given.save_every} steps"
    )
    print(f"R17: {told}")
    if given.out:
        path = record.result_path("goodput") if str(given.out) == "auto" else given.out
        command = f"bench_goodput.py STORE --minutes {given.minutes:g} --kill-every {given.kill_every:g}"
        record.save(path, {**record.stamp(), "reliability": {"R17": {"measured": told, "command": command}}})


if __name__ == "__main__":
    main()
