"""bench/gpu.sh, dry on a CPU: what it writes, and when."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _gpu_script(out: Path, *stages: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHON": sys.executable, "DRY": "1", "OMP_NUM_THREADS": "1", **environment}
    command = ["bash", str(ROOT / "bench" / "gpu.sh"), str(out), *stages]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=1200)


def test_gpu_script_runs_dry_on_a_cpu(tmp_path: Path) -> None:
    done = _gpu_script(tmp_path / "out", "facts", "build", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["dry"] is True
    assert {name: stage["code"] for name, stage in summary["stages"].items()} == {
        "facts": 0,
        "build": 0,
        "train": 0,
    }
    assert len(list((tmp_path / "out").iterdir())) <= 8
    curve = json.loads((tmp_path / "out" / "run-generated.json").read_text())["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as logs:
        assert {"logs/facts.log", "logs/build.log", "logs/train.log"} <= set(logs.getnames())


def test_gpu_script_reports_a_stage_that_outlasts_its_limit(tmp_path: Path) -> None:
    done = _gpu_script(tmp_path / "out", "facts", LIMIT="0.05")
    assert done.returncode == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["stages"]["facts"]["code"] == 124


def test_gpu_script_keeps_what_it_had_when_it_is_killed(tmp_path: Path) -> None:
    script = subprocess.Popen(
        ["bash", str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out"), "build", "train"],
        env={**os.environ, "PYTHON": sys.executable, "DRY": "1", "TMPDIR": str(tmp_path)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline().startswith("build: exit code 0")
    logs_file = tmp_path / "out" / "logs.tar.gz"
    # the second stage runs already when the archive of the first is complete
    end = time.monotonic() + 600
    while not logs_file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["stages"]["build"]["code"] == 0
    with tarfile.open(logs_file) as logs:
        assert "logs/build.log" in logs.getnames()


def test_the_step_is_measured_without_transformers_and_pytest(tmp_path: Path) -> None:
    program = """
import importlib.util, runpy, sys
blocked = {"transformers", "tokenizers", "pytest", "hypothesis", "pytest_benchmark"}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in blocked else find_spec(name, *rest)
sys.modules.update(dict.fromkeys(blocked))
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    script, out = ROOT / "bench" / "engine" / "bench_step.py", tmp_path / "step.json"
    options = ["--size", "nano", "--tokens", "300", "--rounds", "1", "--dropout", "0", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", program, str(script), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["benchmarks"]
    assert row["extra_info"]["variant"] == "unmask"
    assert row["extra_info"]["dtype"] in ("bf16", "fp32")
    assert row["extra_info"]["loss_agreement"] is None
    assert "transformers is not installed here" in row["extra_info"]["note"]


def test_gpu_script_measures_every_operation_that_has_a_bench() -> None:
    (named,) = re.findall(r"^KERNELS=\$\{KERNELS:-(.+)\}$", (ROOT / "bench" / "gpu.sh").read_text(), re.MULTILINE)
    files = (ROOT / "bench" / "kernels").glob("bench_*.py")
    assert sorted(named.split()) == sorted(file.stem.removeprefix("bench_") for file in files)


def test_gpu_script_refuses_an_unknown_stage_or_operation(tmp_path: Path) -> None:
    done = _gpu_script(tmp_path / "out", "fly")
    assert done.returncode == 2
    assert "no stage 'fly'; there are: facts build tests sanitizer kernels step train" in done.stderr
    done = _gpu_script(tmp_path / "out", "kernels", KERNELS="attention flying")
    assert done.returncode == 2
    assert "bench/kernels has no bench_flying.py" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_gpu_script_runs_every_stage_dry(tmp_path: Path) -> None:
    done = _gpu_script(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").iterdir())) <= 8
