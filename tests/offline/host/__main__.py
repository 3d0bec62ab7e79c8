"""Run kernels in many schedules and with all mutations, and write down what came of it.

    PYTHONPATH=tests python -m offline.host optimizer --schedules 200 --mutations all --out FILE

Without options it runs ten schedules and every tenth mutation. The last line says whether everything is right; the exit
code is 1 if a schedule shows a fault or a mutation survives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from offline.host import attention_cases, attention_sm90_cases, examples, optimizer_cases
from offline.host.build import missing
from offline.host.subject import Subject

__all__ = ["SUBJECTS", "main"]

SUBJECTS = {
    subject.name: subject
    for subject in (examples.SUBJECT, optimizer_cases.SUBJECT, attention_cases.SUBJECT, attention_sm90_cases.SUBJECT)
}
_SCHEDULES_OF_A_MUTATION = 4
_NUMBERS = ("launches", "accesses", "barriers", "atomics", "switches")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m offline.host", description="Run kernels on the host machine.")
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--schedules", type=int, default=10, help="how many schedules every case runs in")
    parser.add_argument("--mutations", default="tenth", choices=("none", "tenth", "all"), help="which mutations to try")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes run at the same time")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    wanted = parser.parse_args(arguments)
    if missing() is not None:
        print(missing(), file=sys.stderr)
        return 2
    subject = SUBJECTS[wanted.subject]
    step = {"none": None, "tenth": 10, "all": 1}[wanted.mutations]
    places = range(0, len(subject.mutations()), step) if step else range(0)
    # compiled once, before the processes need it
    subject.build(subject.folder)
    with ProcessPoolExecutor(wanted.jobs, multiprocessing.get_context("fork")) as pool:
        runs = [pool.submit(_run, subject.name, schedule) for schedule in range(wanted.schedules)]
        tries = [pool.submit(_try, subject.name, place) for place in places]
        schedules, faults = _summed(subject, [run.result() for run in runs])
        mutations = [each.result() for each in tries]
    survivors = [each for each in mutations if each["caught_by"] is None]
    result = {
        "subject": subject.name,
        "sources": _digest(subject),
        "compiler": subprocess.run(
            ["g++", "-dumpfullversion"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "schedules": schedules,
        "faults": faults,
        "mutations": mutations,
        "survivors": len(survivors),
        "equivalent": [{"line": line, "reason": reason} for line, reason in subject.equivalent.items()],
    }
    if wanted.out:
        wanted.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    found = f"{wanted.schedules} schedules, {len(faults)} faults"
    print(f"{found}; {len(mutations)} mutations, {len(survivors)} survive")
    return 1 if faults or survivors else 0


def _run(name: str, schedule: int) -> tuple[dict[str, float], list[str]]:
    """Run every case in a schedule; return numbers, and what was noticed."""
    torch.set_num_threads(1)
    subject, began, faults = SUBJECTS[name], time.process_time(), list[str]()
    machine = subject.build(subject.folder)
    totals: dict[str, float] = dict.fromkeys(_NUMBERS, 0)
    for case_name, case in subject.cases.items():
        try:
            with machine.device(schedule=schedule) as device:
                case(device)
            device.report.check()
        except AssertionError as error:
            faults.append(f"{case_name}, schedule {schedule}: {error}")
        for number in _NUMBERS:
            totals[number] += getattr(device.report.counts, number)
    print(f"schedule {schedule}: {len(faults)} faults", flush=True)
    return {**totals, "cpu_seconds": time.process_time() - began}, faults


def _summed(subject: Subject, runs: Sequence[tuple[dict[str, float], list[str]]]) -> tuple[dict[str, Any], list[str]]:
    numbers = {name: round(sum(each[name] for each, _ in runs)) for name in (*_NUMBERS, "cpu_seconds")}
    return {"count": len(runs), "cases": [*subject.cases], **numbers}, [fault for _, faults in runs for fault in faults]


def _try(name: str, place: int) -> dict[str, Any]:
    """Try a mutation; return what was changed and what noticed it."""
    torch.set_num_threads(1)
    mutation = SUBJECTS[name].mutations()[place]
    caught = SUBJECTS[name].outcome(mutation, range(_SCHEDULES_OF_A_MUTATION)).caught_by
    first = None if caught is None else caught.splitlines()[0]
    print(f"{'SURVIVES' if caught is None else 'caught'}: {mutation.name}: {first}", flush=True)
    tried: dict[str, Any] = {"place": f"{mutation.path}:{mutation.line}", "what": mutation.what}
    return tried | {"before": mutation.before.strip(), "after": mutation.after.strip(), "caught_by": first}


def _digest(subject: Subject) -> str:
    text = b"".join((subject.folder / path).read_bytes() for path in subject.files)
    return hashlib.sha256(text).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
