"""Run the stages of `gpu_plan.py` on a machine with a GPU and no network, within a budget of seconds.

    bench/gpu.sh OUT                    the first call on a new GPU: ten minutes
    bench/gpu.sh OUT second             the second call: the whole suite of tests, and the peer of the step
    bench/gpu.sh OUT attention step     these stages

    BUDGET=seconds    for all stages together (default 570, for machines that allow ten minutes)
    VARIANTS="a;b"    the variants that the benches of operations build and time, in place of those of the plan
    PTXAS=path        another assembler, with which a verification that failed is repeated
    WHEELS=folder     wheels of packages that the machine lacks; they are unpacked into a temporary folder
    COMMIT=id         the commit, if this copy of the repository has no .git
    DRY=1             tiny sizes on the CPU, to check the script; the default on a machine without a GPU

A stage may take its share of the budget and all that the stages before it have saved. Where its share no longer fits,
it is skipped, and the summary says so. A stage that outlasts its time is interrupted, and killed `_GRACE` seconds
later; its exit code is 124. One that fails does not stop the others. The script changes no setting of the GPU and uses
no network.

Every result is a line of OUT/results.jsonl as soon as it exists, so nothing that was measured is lost. After each stage
OUT also gets summary.json, logs.tar.gz, results.json (the format of bench/results) and verified.json, which says what
`verified=` may be set to. With facts.json, verify.json and run-generated.json that is at most 8 files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import gpu_verdict  # noqa: E402
from bench.gpu_plan import FIRST, SECOND, STAGES, Command, Stage, stages  # noqa: E402

__all__ = ["Share", "main", "share_of"]

_GRACE = 4.0
"""Seconds between the interrupt, at which pytest writes its report, and the kill."""

_OUTLASTED, _WITHOUT_GPU = 124, 3


@dataclass(frozen=True, slots=True)
class Share:
    """What a stage may take.

    Attributes:
        seconds: until it is killed; 0 if it is skipped.
        reason: why it is skipped, or "".
    """

    seconds: float
    reason: str = ""


def share_of(plan: Sequence[Stage], at: int, left: float) -> Share:
    """Return what stage `at` of the plan may take, with `left` seconds left of the budget.

    It gets its share, and what earlier stages have saved: what is left beyond the shares of the stages from here on.
    """
    own = plan[at].seconds
    if left < own:
        return Share(0.0, f"its {own} s no longer fit into the {max(0.0, left):.0f} s that are left")
    return Share(own + max(0.0, left - sum(stage.seconds for stage in plan[at:])))


class Runner:
    """Runs stages and writes what OUT gets.

    Args:
        out: the folder of results, with facts.json.
        dry: whether this is a rehearsal.
        ends: when the budget is spent, of `time.monotonic`.
        environment: of every command.
        scratch: for logs and reports of tests.
    """

    def __init__(self, out: Path, *, dry: bool, ends: float, environment: Mapping[str, str], scratch: Path) -> None:
        self._out, self._dry, self._environment, self._scratch = out, dry, environment, scratch
        self._ends = ends
        self._rows: dict[str, dict[str, Any]] = {}
        (scratch / "logs").mkdir()

    def run(self, plan: Sequence[Stage]) -> int:
        """Run the stages and return 1 if one of them failed, and 2 if the budget had room for none."""
        for at, stage in enumerate(plan):
            share = share_of(plan, at, self._ends - time.monotonic())
            row: dict[str, Any] = {"share": stage.seconds, "shows": stage.shows}
            if share.reason:
                row["skipped"] = share.reason
                print(f"{stage.name}: skipped, {share.reason}", flush=True)
            else:
                began = time.monotonic()
                code = self._stage(stage, began + share.seconds)
                row |= {"code": code, "seconds": round(time.monotonic() - began, 1), "limit": round(share.seconds)}
                print(f"{stage.name}: exit code {code}, {row['seconds']:.0f} s of {row['limit']} s", flush=True)
                self._show_log(stage.name, 3 if code == 0 else 25)
            self._rows[stage.name] = row
            self._write()
        self._table()
        if all("skipped" in row for row in self._rows.values()):
            least = min(stage.seconds for stage in plan)
            print(f"gpu.sh: no stage was run; give BUDGET at least {least} seconds", file=sys.stderr)
            return 2
        return int(any(row.get("code") for row in self._rows.values()))

    def _stage(self, stage: Stage, ends: float) -> int:
        worst = last = 0
        with (self._scratch / "logs" / f"{stage.name}.log").open("w") as log:
            for index, command in enumerate(stage.commands):
                log.write(f"$ {' '.join(command.arguments)}\n")
                if command.tool and shutil.which(command.tool, path=self._environment.get("PATH")) is None:
                    log.write(f"{command.tool} is not installed: nothing to run\n")
                    continue
                if command.after_failure and last == 0:
                    continue
                now = time.monotonic()
                last = self._command(command, now + (ends - now) / (len(stage.commands) - index), log)
                worst = worst or last
        return worst

    def _command(self, command: Command, ends: float, log: Any) -> int:
        left = max(1, int(ends - time.monotonic() - _GRACE - 2))
        given = {"$SECONDS_LEFT": str(left), "$OUT": str(self._out), "$LOGS": str(self._scratch / "logs")}
        arguments = [_replaced(argument, given) for argument in command.arguments]
        log.flush()
        with contextlib.ExitStack() as stack:
            target = log
            if command.output:
                target = stack.enter_context(Path(_replaced(command.output, given)).open("w"))
            process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env={**self._environment, **command.environment},
                stdout=target,
                stderr=log,
                start_new_session=True,
            )
            return _wait(process, ends)

    def _show_log(self, name: str, lines: int) -> None:
        text = (self._scratch / "logs" / f"{name}.log").read_text(errors="replace").splitlines()
        print("".join(f"    {line[:200]}\n" for line in text[-lines:]), end="", flush=True)

    def _write(self) -> None:
        """Write all files of OUT again, each in one move: a file is whole or absent."""
        summary = {"dry": self._dry, "stages": self._rows}
        _in_one_move(self._out / "summary.json", lambda path: path.write_text(json.dumps(summary, indent=1)))
        facts = json.loads((self._out / "facts.json").read_text())
        lines = self._out / "results.jsonl"
        if lines.exists():
            content = {**facts, "benchmarks": list(_rows(lines))}
            _in_one_move(self._out / "results.json", lambda path: path.write_text(json.dumps(content)))
        found = gpu_verdict.verdict(
            self._scratch / "tests.xml",
            complete=not self._dry and self._rows.get("tests", {}).get("code") in (0, 1),
            architecture=str(facts["machine_info"].get("gpu_capability") or ""),
        )
        _in_one_move(self._out / "verified.json", lambda path: path.write_text(json.dumps(found, indent=1)))

        def pack(path: Path) -> None:
            with tarfile.open(path, "w:gz") as archive:
                archive.add(self._scratch / "logs", "logs")
                for report in sorted(self._scratch.glob("*.xml")):
                    archive.add(report, f"logs/{report.name}")

        _in_one_move(self._out / "logs.tar.gz", pack)

    def _table(self) -> None:
        print(f"{'stage':<14}{'share':>6}{'took':>8}  {'result':<10}{'shows'}")
        for name, row in self._rows.items():
            took = f"{row['seconds']:.1f}" if "seconds" in row else "-"
            result = "skipped" if "skipped" in row else "passed" if row["code"] == 0 else f"code {row['code']}"
            print(f"{name:<14}{row['share']:>6}{took:>8}  {result:<10}{row['shows']}")
        for line in gpu_verdict.lines(json.loads((self._out / "verified.json").read_text())):
            print(line)


def _wait(process: subprocess.Popen[bytes], ends: float) -> int:
    """Wait for a process and return its exit code; interrupt its group near the end, kill it at the end: 124."""
    try:
        return process.wait(max(0.0, ends - _GRACE - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _OUTLASTED


def _rows(lines: Path) -> Iterator[Any]:
    """Yield the results in a file of lines; one is cut off if its bench was killed while it wrote."""
    for line in lines.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def _replaced(text: str, given: Mapping[str, str]) -> str:
    for name, value in given.items():
        text = text.replace(name, value)
    return text


def _in_one_move(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(f".{path.name}")
    write(beside)
    beside.replace(path)


def _has(python: str, expression: str) -> bool:
    return subprocess.run([python, "-c", expression], capture_output=True, check=False).returncode == 0


def _names_no_variant(stage: Stage, environment: Mapping[str, str]) -> str:
    """Return what pytest says if `VARIANTS` leaves nothing of a stage's benches; "" if something is left."""
    for command in stage.commands:
        if "VARIANTS" in command.environment:
            files = [part for part in command.arguments if part.endswith(".py")]
            told = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", *files],
                cwd=ROOT,
                env={**environment, **command.environment},
                capture_output=True,
                text=True,
                check=False,
            )
            found = [line for line in told.stderr.splitlines() if "VARIANTS" in line]
            if found:
                return found[-1].removeprefix("ERROR: ")
    return ""


def _environment(out: Path, scratch: Path) -> dict[str, str]:
    """Return the variables of every command."""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if wheels := os.environ.get("WHEELS"):
        site = scratch / "site"
        files = sorted(map(str, Path(wheels).glob("*.whl")))
        install = ["-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        subprocess.run([sys.executable, "-m", "pip", "install", *install, str(site), *files], check=True)
        paths.append(str(site))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        # cuBLAS reads it once; the tests' deterministic algorithms need it
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # what passes here is recorded for these stages alone
        "UNMASK_CACHE": str(scratch / "cache"),
        "RESULT_LINES": str(out / "results.jsonl"),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the stages that the arguments name; return 1 if one failed, and 2 if the arguments are wrong or none ran."""
    if not arguments:
        print("usage: bench/gpu.sh OUT [first | second | STAGE ...]", file=sys.stderr)
        return 2
    names = [
        name for asked in arguments[1:] or ["first"] for name in {"first": FIRST, "second": SECOND}.get(asked, (asked,))
    ]
    for name in names:
        if name not in STAGES:
            print(f"gpu.sh: no stage '{name}'; there are: first second {' '.join(STAGES)}", file=sys.stderr)
            return 2
    budget = os.environ.get("BUDGET", "570")
    if not budget.replace(".", "", 1).isdecimal() or float(budget) == 0.0:
        print(
            f"gpu.sh: BUDGET must be a number of seconds above 0, got '{budget}'; such as BUDGET=570", file=sys.stderr
        )
        return 2
    began = time.monotonic()
    out = Path(arguments[0]).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.jsonl").unlink(missing_ok=True)
    except OSError as error:
        print(f"gpu.sh: OUT must be a folder that can be written, got {out} ({error.strerror})", file=sys.stderr)
        return 2
    if (wheels := os.environ.get("WHEELS")) and not list(Path(wheels).glob("*.whl")):
        print(f"gpu.sh: WHEELS must be a folder with wheels, got '{wheels}'; unset it without any", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="unmask-gpu-") as folder:
        scratch = Path(folder)
        environment = _environment(out, scratch)
        dry = os.environ.get("DRY", "0") not in ("", "0")
        if dry:
            # a rehearsal must look the same on every machine
            environment |= {"CUDA_VISIBLE_DEVICES": ""}
        told = [sys.executable, "bench/gpu_facts.py", "--write", str(out / "facts.json")]
        code = subprocess.run(told, cwd=ROOT, env=environment, check=False).returncode
        if code not in (0, _WITHOUT_GPU):
            print(f"gpu.sh: {sys.executable} cannot run PyTorch; name another Python with PYTHON=", file=sys.stderr)
            return 2
        if code == _WITHOUT_GPU:
            dry = True
            environment |= {"DRY": "1"}
        if dry:
            print("gpu.sh: a rehearsal, with tiny sizes on the CPU: its numbers mean nothing", flush=True)
        cores = os.cpu_count() or 1
        workers = min(12, -(-cores // 2)) if _has(sys.executable, "import xdist") else 1
        variants, ptxas = os.environ.get("VARIANTS", ""), os.environ.get("PTXAS", "")
        every = stages(dry=dry, variants=variants, ptxas=ptxas, workers=workers, scratch=scratch)
        for name in names if variants else ():
            if reason := _names_no_variant(every[name], environment):
                print(f"gpu.sh: stage {name} would be empty: {reason}", file=sys.stderr)
                return 2
        runner = Runner(out, dry=dry, ends=began + float(budget), environment=environment, scratch=scratch)
        return runner.run([every[name] for name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
