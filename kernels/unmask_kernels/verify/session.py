"""A verification from its plan to its record: the worker process, the time limit, the record and the finding.

shapes of a run -> plan -> worker: one check after the other -> outcomes -> record, or a file that describes failures
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import capability
from ..dispatch import known
from ..machine_record import Machine, NotRecorded, cache_folder, this_machine
from ..passes import Entry, keep_passes, table_of
from ..testing.compare import FACTOR
from ..testing.inputs import SEED
from .outcome import Outcome, Verification
from .plan import Check, plan, refusals
from .run_check import run_check
from .shapes import Shapes

__all__ = ["OLDEST_ARCHITECTURE", "CannotVerify", "VerificationProgress", "is_interpreting", "require_device", "verify"]

OLDEST_ARCHITECTURE = 80
"""The compute capability from which on the kernels of this package run: they need bf16 and asynchronous copies."""

NEWEST_TRITON = (3, 9)
"""The newest release that the kernels were compiled and inspected with."""

_TIME_WAS_OVER = "the time was over"
_START = "from unmask_kernels.verify.worker import serve; serve()"
_COMMENT = """What has passed `unmask verify` on this machine, and what has failed. The kernels are chosen by it.
Delete this file to forget it."""


class CannotVerify(RuntimeError):
    """Nothing can be verified here; one sentence says why, and what to do."""


class VerificationProgress(NamedTuple):
    """How far a verification is.

    Attributes:
        done, total: checks.
        doing: the check that has begun, in words.
        seconds: since the beginning.
        limit: seconds that it may take.
    """

    done: int
    total: int
    doing: str
    seconds: float
    limit: float


def verify(
    shapes: Shapes,
    *,
    device: str = "cuda",
    seconds: float = 120.0,
    progress: Callable[[VerificationProgress], None] | None = None,
    operations: Sequence[str] | None = None,
    own_process: bool = True,
    fallback: Path | None = None,
) -> Verification:
    """Run every check of the plan, and record what has passed.

    Args:
        shapes: of the run.
        device: on which; "cpu" with Triton's interpreter.
        seconds: after which what has not been run is left.
        progress: is told of each check.
        operations: those to verify. Default: all.
        own_process: whether the checks run in a process of their own, which a fault of a kernel may end. On a GPU they
            always do.
        fallback: folder for the record if the user's own cannot be written.
    Raises:
        ValueError: there is no such operation, or `seconds` is no time.
        CannotVerify: there is no such device.
    """
    for name in operations or ():
        if name not in known:
            raise ValueError(f"verify: {name!r} is not an operation; choose from {', '.join(known)}")
    if not 0.0 <= seconds < math.inf:
        raise ValueError(f"verify: seconds must be a number from 0 on, got {seconds}; leave it out, and it is 120")
    require_device(device)
    machine = this_machine(device)
    report = Verification(machine=asdict(machine))
    begun = time.monotonic()
    if _is_older(machine):
        note = (
            f"The kernels are for sm_{OLDEST_ARCHITECTURE} and newer, {machine.device} is {machine.architecture}: "
            "PyTorch's own operations run here, and there is nothing to verify."
        )
        return replace(report, notes=[note])
    kind = torch.device(device).type
    checks = plan(shapes, kind, machine.architecture, operations)
    # a second call goes on where the time of the first was over
    order = sorted(range(len(checks)), key=lambda number: _has_passed(checks[number]))
    told = progress or (lambda progress: None)
    session = _Session(shapes, device, machine, operations, checks, order, begun, seconds, told)
    try:
        (session.run_apart if own_process or kind == "cuda" else session.run_here)()
    finally:
        # an interruption keeps what is done
        session.fill(_TIME_WAS_OVER if session.is_over() else "interrupted")
        notes = [*_notes(machine), *session.notes]
        record = _keep(machine, checks, session.outcomes, notes, fallback)
    refused = [
        Outcome(family=family, backend=backend, call={}, verdict="not run", problem="; ".join(reasons))
        for (family, backend), reasons in refusals(shapes, kind, machine.architecture, operations).items()
        if backend in _WORTH_A_LINE and not any((one.family, one.backend) == (family, backend) for one in checks)
    ]
    outcomes = [session.outcomes[number] for number in range(len(checks))]
    report = replace(report, outcomes=[*outcomes, *refused], notes=notes, record=record)
    finding = _write_finding(report, shapes) if report.failed else None
    return replace(report, finding=finding, seconds=round(time.monotonic() - begun, 1))


# a library that is not installed is no news
_WORTH_A_LINE = ("triton", "cuda")


def is_interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return capability.INTERPRETING


def require_device(device: str) -> None:
    """Raise CannotVerify unless kernels run on a device, with the reason and what to do."""
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise CannotVerify(
            f"verify: device must be a GPU such as cuda or cuda:1, got {device!r}; leave it out, and it is cuda"
        ) from None
    if asked.type == "cuda":
        why = _why_no_gpu()
        if why:
            raise CannotVerify(f"verify: {why}")
        if (asked.index or 0) >= (count := torch.cuda.device_count()):
            raise CannotVerify(f"verify: device must be below cuda:{count}, got {device}; leave it out, and it is cuda")
    elif not capability.INTERPRETING:
        raise CannotVerify(
            f"verify: device must be a GPU, got {device}: on a CPU PyTorch's own operations run, and there is nothing "
            "to verify; leave it out, or set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter"
        )
    elif not capability.HAS_TRITON:
        raise CannotVerify("verify: package triton is not installed, so there is no interpreter; pip install triton")


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            "this PyTorch is built without CUDA: PyTorch's own operations run, and there is nothing to verify; on a "
            "machine with a GPU, install a PyTorch that is built for CUDA"
        )
    try:
        torch.cuda.init()
        if torch.cuda.device_count() > 0:
            return ""
        told = "no CUDA GPUs are available"
    except (RuntimeError, AssertionError) as error:
        told = re.split(r"\.\s|\n", str(error).strip())[0]
    way = "update the driver, or install a PyTorch for an older CUDA" if "too old" in told else "check nvidia-smi"
    return f"no GPU can be used: {told}; {way}"


def _has_passed(check: Check) -> bool:
    return known[check.family].has_passed(check.backend, check.call)


def _is_older(machine: Machine) -> bool:
    capable = machine.architecture.removeprefix("sm_")
    return capable.isdecimal() and int(capable) < OLDEST_ARCHITECTURE


def _notes(machine: Machine) -> list[str]:
    """What to know about the machine besides the outcomes."""
    if not capability.HAS_TRITON:
        return ["Package triton is not installed, so its kernels were not run; pip install triton, and verify again."]
    numbers = tuple(int(number) for number in re.findall(r"\d+", machine.triton.split(" ")[0])[:2])
    if numbers > NEWEST_TRITON:
        tested = ".".join(map(str, NEWEST_TRITON))
        return [
            f"Triton {machine.triton} is newer than any that the kernels were tested with ({tested}): what has passed "
            "here is chosen all the same."
        ]
    return []


@dataclass(slots=True)
class _Session:
    """The checks of one verification, and what has become of them."""

    shapes: Shapes
    device: str
    machine: Machine
    operations: Sequence[str] | None
    checks: list[Check]
    order: list[int]
    begun: float
    seconds: float
    tell: Callable[[VerificationProgress], None]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() - self.begun >= self.seconds

    def run_here(self) -> None:
        """Run the checks in this process."""
        for number in self.order:
            if self.is_over():
                return
            self._tell(number)
            self.outcomes[number] = run_check(self.checks[number], self.shapes.dtype, self.device, self.shapes.tokens)

    def run_apart(self) -> None:
        """Run the checks in workers, one after the other as each of them ends."""
        while len(self.outcomes) < len(self.checks) and not self.is_over():
            left = [number for number in self.order if number not in self.outcomes]
            before = len(self.outcomes)
            self._run_worker(left)
            if len(self.outcomes) == before:
                return

    def fill(self, why: str) -> None:
        """Say of every check without an outcome that it was not run."""
        left = [number for number in range(len(self.checks)) if number not in self.outcomes]
        for number in left:
            self.outcomes[number] = self._outcome(number, "not run", why)
        if any(_TIME_WAS_OVER in outcome.problem for outcome in self.outcomes.values()):
            self.notes.append(
                f"The {self.seconds:g} s were over before everything was run: run the same command again, which begins "
                "with the rest, or give it more time with --seconds."
            )

    def _outcome(self, number: int, verdict: Any, problem: str) -> Outcome:
        check = self.checks[number]
        return Outcome(**table_of(Entry(check.family, check.backend, check.call)), verdict=verdict, problem=problem)

    def _tell(self, number: int) -> None:
        spent = time.monotonic() - self.begun
        self.tell(
            VerificationProgress(len(self.outcomes), len(self.checks), str(self.checks[number]), spent, self.seconds)
        )

    def _run_worker(self, numbers: list[int]) -> None:
        question = {
            "shapes": self.shapes.to_json(),
            "device": self.device,
            "architecture": self.machine.architecture,
            "operations": self.operations,
            "numbers": numbers,
        }
        doing: int | None = None
        with _worker(question) as (process, answers, errors):
            while True:
                left = self.begun + self.seconds - time.monotonic()
                try:
                    line = answers.get(timeout=max(0.0, left))
                except queue.Empty:
                    if doing is not None:
                        self.outcomes[doing] = self._outcome(doing, "not run", f"{_TIME_WAS_OVER} while it ran")
                    return
                if line is None:
                    break
                answer = json.loads(line)
                if "begin" in answer:
                    doing = int(answer["begin"])
                    self._tell(doing)
                else:
                    assert doing is not None
                    self.outcomes[doing] = Outcome(**answer["outcome"])
                    doing = None
            status = process.wait()
            told = errors()
        if doing is not None:
            ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            self.outcomes[doing] = self._outcome(doing, "failed", f"its process ended with {ended}: {told}")
        elif status and len(self.outcomes) < len(self.checks):
            raise CannotVerify(f"verify: the worker process ended with status {status} ({told}); run the command again")


@contextlib.contextmanager
def _worker(
    question: dict[str, Any],
) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None], Callable[[], str]]]:
    """A worker with its question: the process, its lines (None is the end), and the end of what it said besides."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # deterministic algorithms, which fill new memory, need it; cuBLAS reads it once
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONSAFEPATH": "1",
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
            # a signal to the group of the parent is for the parent to handle
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()

        def read(stream: Any = process.stdout) -> None:
            with contextlib.suppress(ValueError, OSError):
                for line in stream:
                    lines.put(line)
            lines.put(None)

        def errors() -> str:
            said.seek(0)
            return " / ".join(said.read().strip().splitlines()[-3:])[-600:]

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.close()
            yield process, lines, errors
        finally:
            # compilers that it has started are in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
            process.stdout.close()


def _keep(
    machine: Machine, checks: list[Check], outcomes: dict[int, Outcome], notes: list[str], fallback: Path | None
) -> Path | None:
    """Record what has passed and failed; a note says why not."""

    def entries(verdict: str) -> list[Entry]:
        numbers = [number for number, outcome in outcomes.items() if outcome.verdict == verdict]
        return [Entry(checks[number].family, checks[number].backend, checks[number].call) for number in numbers]

    passed, failed = entries("passed"), entries("failed")
    if not passed and not failed:
        return None
    try:
        return keep_passes(machine, passed, failed, comment=_COMMENT)
    except NotRecorded as error:
        notes.append(f"What has passed holds for this process alone: {error}.")
    if fallback is not None:
        with contextlib.suppress(NotRecorded):
            keep_passes(machine, passed, failed, comment=_COMMENT, folder=fallback)
    return None


def _write_finding(report: Verification, shapes: Shapes) -> Path | None:
    """Write what somebody needs to see a failure again."""
    found = {
        "what": "a kernel of unmask gave a wrong result on this machine",
        "machine": dict(report.machine),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "command": sys.argv,
        "shapes": shapes.to_json(),
        "seed": SEED,
        "factor": FACTOR,
        "failed": [outcome.to_json() for outcome in report.failed],
        "passed": [f"{each.family} {each.backend} {dict(each.call)}" for each in report.passed],
    }
    name = f"finding-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.json"
    own = cache_folder()
    for folder in filter(None, (own and own / "findings", Path(tempfile.gettempdir()))):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            return folder / name
    return None
