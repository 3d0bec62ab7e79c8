"""Record the training steps of this machine, one after the other, and write the pages.

    python bench/record_steps.py --documents STORE      about an hour on two cores with AVX2; nothing else should run
    python bench/record_steps.py --only mini queries    the steps whose name holds both words
    python bench/record_steps.py --dry                  prints the steps and runs none

Each step runs in a process of its own and writes its result file when it is done, so a command that is stopped keeps
what it has measured. Given the same day and commit again, it goes on with the steps that have no file. STORE is the
folder of a token store; without one, only random documents are measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import record  # noqa: E402

__all__ = ["STEPS", "Step", "main"]

STORE = "store"
"""In the place of a distribution: the text of a store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step to record.

    Attributes:
        size: of the model, one of `training_step.SIZES`.
        documents: a distribution of `lengths.py`, or `STORE`.
        tokens: real tokens of a step.
        rounds: timed rounds.
        minutes: an estimate for two cores with AVX2, for the plan that is printed.
    """

    size: str
    documents: str
    tokens: int
    rounds: int
    minutes: float

    def __str__(self) -> str:
        return f"{self.size} {self.documents}"


STEPS = [
    Step(size="mini", documents=STORE, tokens=4096, rounds=5, minutes=5),
    Step(size="minilm", documents="queries", tokens=2048, rounds=5, minutes=6),
    Step(size="mini", documents="lognormal-512", tokens=4096, rounds=5, minutes=5),
    Step(size="mini", documents="queries", tokens=2048, rounds=5, minutes=3),
    Step(size="minilm", documents=STORE, tokens=4096, rounds=5, minutes=6),
    Step(size="base", documents=STORE, tokens=2048, rounds=3, minutes=13),
    Step(size="base", documents="lognormal-512", tokens=2048, rounds=3, minutes=16),
]
"""In the order in which they are recorded, the most telling first."""


def chosen(only: Sequence[str], store: Path | None) -> list[Step]:
    """Return the steps whose name holds all words of `only`; without a store, those of random documents."""
    steps = [step for step in STEPS if store is not None or step.documents != STORE]
    return [step for step in steps if all(word in str(step) for word in only)]


def result_of(step: Step, store: Path | None) -> Path:
    """Return the result file of a step, of today and this commit."""
    name = store.resolve().name if store is not None and step.documents == STORE else step.documents
    return record.result_path(f"step-{step.size}-{name}")


def command(step: Step, store: Path | None, out: Path) -> list[str]:
    """Return the command that measures a step."""
    source = ["--documents", str(store)] if step.documents == STORE else ["--lengths", step.documents]
    script = str(ROOT / "bench" / "engine" / "bench_step.py")
    numbers = ["--tokens", str(step.tokens), "--rounds", str(step.rounds)]
    return [sys.executable, script, "--size", step.size, *source, *numbers, "--out", str(out)]


def run(parts: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    return subprocess.run(parts, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and write the pages; return 1 if a step failed."""
    parser = argparse.ArgumentParser(description="Record the training steps of this machine.")
    parser.add_argument("--documents", type=Path, metavar="STORE", help="text: a store that `unmask prepare` made")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only steps whose name holds all words")
    parser.add_argument("--dry", action="store_true", help="print the commands and run none")
    options = parser.parse_args(arguments)
    steps = chosen(options.only, options.documents)
    if not steps:
        parser.error(f"no step is named so; there are: {', '.join(map(str, chosen([], options.documents)))}")
    print(
        f"{len(steps)} steps, about {sum(step.minutes for step in steps):.0f} minutes on two cores with AVX2",
        flush=True,
    )
    failed = 0
    for step in steps:
        out = result_of(step, options.documents)
        parts = command(step, options.documents, out)
        if options.dry:
            print(" ".join(parts))
            continue
        if out.exists():
            print(f"{step}: {out.name} is there", flush=True)
            continue
        began = time.monotonic()
        code = run(parts)
        failed |= code != 0
        took = (time.monotonic() - began) / 60
        print(f"{step}: {f'exit code {code}' if code else out.name}, {took:.1f} minutes", flush=True)
    if not options.dry:
        failed |= run([sys.executable, str(ROOT / "bench" / "report.py")]) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
