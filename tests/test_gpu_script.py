"""bench/gpu.sh, dry on a CPU: what it writes, and when; how it shares its budget; what may be verified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import gpu, gpu_verdict  # noqa: E402
from bench.gpu_plan import FIRST, OPERATIONS, SECOND, STAGES, Command, Stage, stages  # noqa: E402
from bench.kernels import bench_attention  # noqa: E402

from unmask_kernels import FAMILIES  # noqa: E402


def _gpu_script(out: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHON": sys.executable, "DRY": "1", "OMP_NUM_THREADS": "1", **environment}
    command = ["bash", str(ROOT / "bench" / "gpu.sh"), str(out), *names]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=1200)


def _summary(out: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((out / "summary.json").read_text())["stages"]
    return found


def _plan(tmp_path: Path, **changes: object) -> dict[str, Stage]:
    settings = {"dry": False, "variants": "", "ptxas": "", "workers": 1, "scratch": tmp_path}
    return stages(**{**settings, **changes})  # type: ignore[arg-type]


def _runner(tmp_path: Path, budget: float) -> gpu.Runner:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    (out / "facts.json").write_text('{"machine_info": {}}')
    return gpu.Runner(out, dry=True, ends=time.monotonic() + budget, environment=dict(os.environ), scratch=scratch)


def _stage(name: str, seconds: int, program: str, **more: str) -> Stage:
    return Stage(
        name=name, seconds=seconds, shows="", commands=[Command(arguments=[sys.executable, "-c", program], **more)]
    )


def test_gpu_script_runs_dry_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _gpu_script(out, "facts", "train", BUDGET="1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "summary.json").read_text())["dry"] is True
    assert {name: stage["code"] for name, stage in _summary(out).items()} == {"facts": 0, "train": 0}
    assert len(list(out.iterdir())) <= 8
    # the five products are lines as soon as they are measured, and a result file after the stage
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    content = json.loads((out / "results.json").read_text())
    assert content["benchmarks"] == lines and len(lines) == 5
    assert {"tool.ncu", "tool.compute-sanitizer", "ptxas", "triton"} <= content["machine_info"].keys()
    curve = json.loads((out / "run-generated.json").read_text())["curve"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    with tarfile.open(out / "logs.tar.gz") as logs:
        assert {"logs/facts.log", "logs/train.log"} <= set(logs.getnames())


def test_the_shares_of_each_call_fit_into_its_budget(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    assert tuple(plan) == STAGES
    assert sum(plan[name].seconds for name in FIRST) <= 570
    assert sum(plan[name].seconds for name in SECOND) <= 200


def test_a_stage_gets_its_share_and_what_others_have_saved() -> None:
    plan = [_stage(name, 100, "") for name in "abc"]
    assert gpu.share_of(plan, 0, 300).seconds == 100
    # the first took 40 of its 100: the second may take the 60 that are left over
    assert gpu.share_of(plan, 1, 260).seconds == 160
    assert gpu.share_of(plan, 2, 260).seconds == 260
    # nothing is left over, but its own share fits
    assert gpu.share_of(plan, 1, 120).seconds == 100
    assert gpu.share_of(plan, 1, 99).seconds == 0
    assert gpu.share_of(plan, 1, 99).reason == "its 100 s no longer fit into the 99 s that are left"


def test_a_stage_that_outlasts_its_time_is_stopped_and_keeps_its_lines(tmp_path: Path) -> None:
    program = "import time; print('one', flush=True); time.sleep(60)"
    runner = _runner(tmp_path, budget=6)
    began = time.monotonic()
    assert runner.run([_stage("slow", 5, program), _stage("late", 5, "print('two')")]) == 1
    assert time.monotonic() - began < 30
    rows = _summary(tmp_path / "out")
    assert rows["slow"]["code"] == 124
    assert str(rows["late"]["skipped"]).startswith("its 5 s no longer fit into the")
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as logs:
        log = logs.extractfile("logs/slow.log")
        assert log is not None and "one\n" in log.read().decode()


def test_a_line_that_was_cut_off_is_left_out_of_the_results(tmp_path: Path) -> None:
    runner = _runner(tmp_path, budget=100)
    (tmp_path / "out" / "results.jsonl").write_text('{"name": "whole"}\n{"name": "cut o{"name": "next"}\n')
    assert runner.run([_stage("facts", 5, "")]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"] == [{"name": "whole"}]


def test_a_tool_that_is_missing_leaves_out_its_command(tmp_path: Path) -> None:
    runner = _runner(tmp_path, budget=100)
    assert runner.run([_stage("counters", 5, "raise SystemExit(3)", tool="no-such-tool")]) == 0
    log = (tmp_path / "scratch" / "logs" / "counters.log").read_text()
    assert "no-such-tool is not installed: nothing to run" in log


def test_another_assembler_is_tried_only_after_a_failure(tmp_path: Path) -> None:
    plan = _plan(tmp_path, ptxas="/opt/ptxas")
    first, again = plan["correctness"].commands
    assert again.after_failure and again.environment["TRITON_PTXAS_PATH"] == "/opt/ptxas"
    assert not first.after_failure and len(_plan(tmp_path)["correctness"].commands) == 1
    for code in (0, 1):
        folder = tmp_path / str(code)
        folder.mkdir()
        commands = [
            Command(arguments=[sys.executable, "-c", f"raise SystemExit({code})"]),
            Command(arguments=[sys.executable, "-c", "print('again')"], after_failure=True, output="$OUT/again"),
        ]
        _runner(folder, budget=100).run([Stage(name="s", seconds=20, shows="", commands=commands)])
        assert (folder / "out" / "again").exists() == (code == 1)


def test_gpu_script_keeps_what_it_had_when_it_is_killed(tmp_path: Path) -> None:
    script = subprocess.Popen(
        ["bash", str(ROOT / "bench" / "gpu.sh"), str(tmp_path / "out"), "facts", "train"],
        env={**os.environ, "PYTHON": sys.executable, "DRY": "1", "TMPDIR": str(tmp_path), "BUDGET": "1000"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline().startswith("gpu.sh: a rehearsal")
    assert script.stdout.readline().startswith("facts: exit code 0")
    logs_file = tmp_path / "out" / "logs.tar.gz"
    # the second stage runs already when the archive of the first is complete
    end = time.monotonic() + 600
    while not logs_file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    assert _summary(tmp_path / "out")["facts"]["code"] == 0
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 5
    with tarfile.open(logs_file) as logs:
        assert "logs/facts.log" in logs.getnames()


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
        [sys.executable, "-c", program, str(script), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DRY": "1"},
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["benchmarks"]
    assert row["extra_info"]["variant"] == "unmask"
    assert row["extra_info"]["dtype"] in ("bf16", "fp32")
    assert row["extra_info"]["loss_agreement"] is None
    assert "transformers is not installed here" in row["extra_info"]["note"]


def test_gpu_script_measures_every_operation_that_has_a_bench(tmp_path: Path) -> None:
    files = {file.stem.removeprefix("bench_") for file in (ROOT / "bench" / "kernels").glob("bench_*.py")}
    commands = [command for stage in _plan(tmp_path).values() for command in stage.commands]
    measured = {Path(part).stem for command in commands for part in command.arguments if "bench/kernels/" in part}
    assert {name.removeprefix("bench_") for name in measured} == files & set(FAMILIES)


def test_every_script_of_the_plan_exists(tmp_path: Path) -> None:
    for stage in _plan(tmp_path, ptxas="/opt/ptxas").values():
        for part in (part for command in stage.commands for part in command.arguments):
            if part.endswith(".py") or part.startswith("tests/"):
                assert (ROOT / part).exists(), part


def test_variants_that_are_asked_for_replace_those_of_the_plan(tmp_path: Path) -> None:
    asked = _plan(tmp_path, variants="triton;flex")["attention"].commands[0].environment["VARIANTS"]
    assert asked == "triton;flex"
    planned = _plan(tmp_path)["attention"].commands[0].environment["VARIANTS"].split(";")
    # FlexAttention takes minutes to compile
    assert set(planned) <= set(bench_attention.VARIANTS)
    assert {"triton", "padded", "varlen_attn", "triton, drawn"} <= set(planned) and "flex" not in planned


@pytest.mark.parametrize(
    ("names", "environment", "said"),
    [
        (("fly",), {}, "no stage 'fly'; there are: first second build facts correctness races"),
        (("facts",), {"BUDGET": "ten"}, "BUDGET must be a number of seconds above 0, got 'ten'; such as BUDGET=570"),
        (("facts",), {"BUDGET": "0"}, "BUDGET must be a number of seconds above 0, got '0'; such as BUDGET=570"),
        ((), {}, "usage: bench/gpu.sh OUT"),
    ],
)
def test_gpu_script_refuses_what_it_does_not_know(
    names: tuple[str, ...],
    environment: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert gpu.main([str(tmp_path / "out"), *names] if names else []) == 2
    assert said in capsys.readouterr().err


def test_gpu_script_refuses_variants_that_name_nothing(tmp_path: Path) -> None:
    done = _gpu_script(tmp_path / "out", "others", VARIANTS="trition; ", BUDGET="100")
    assert done.returncode == 2, done.stdout + done.stderr
    told = "gpu.sh: stage others would be empty: VARIANTS names none of the variants of these benches, got 'trition; '"
    assert f"{told}; there are: " in done.stderr
    assert "triton" in done.stderr.partition("there are: ")[2].strip().split("; ")


def test_a_budget_without_room_for_a_stage_is_told_and_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = [_stage("one", 30, "print('one')"), _stage("two", 20, "print('two')")]
    assert _runner(tmp_path, budget=5).run(plan) == 2
    assert "gpu.sh: no stage was run; give BUDGET at least 20 seconds" in capsys.readouterr().err


def test_gpu_script_refuses_a_folder_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert gpu.main([str(file), "facts"]) == 2
    assert "gpu.sh: OUT must be a folder that can be written, got " in capsys.readouterr().err
    monkeypatch.setenv("WHEELS", str(tmp_path))
    assert gpu.main([str(tmp_path / "out"), "facts"]) == 2
    assert "gpu.sh: WHEELS must be a folder with wheels, got " in capsys.readouterr().err


def _report(path: Path, *cases: tuple[str, str, str]) -> Path:
    kinds = {"passed": "", "failed": "<failure/>", "skipped": "<skipped/>"}
    rows = [
        f'<testcase classname="tests.kernels.{file}" name="{name}">{kinds[kind]}</testcase>'
        for file, name, kind in cases
    ]
    path.write_text(f"<testsuites><testsuite>{''.join(rows)}</testsuite></testsuites>")
    return path


PASSES = [
    ("test_gelu", "test_matches[triton-cuda-odd]", "passed"),
    ("test_linear_gelu", "test_matches[triton-cuda-odd]", "passed"),
    ("test_races_gpu", "test_bits[linear_gelu-bf16]", "passed"),
    ("test_layer_norm", "test_matches[torch-cpu-odd]", "passed"),
    ("test_philox_triton", "test_words[cuda]", "passed"),
]


def _told(
    path: Path, *cases: tuple[str, str, str], complete: bool = True, architecture: str = "sm_90"
) -> dict[str, str]:
    found = gpu_verdict.verdict(_report(path, *cases), complete=complete, architecture=architecture)
    return {family: told["reason"] for family, told in found["families"].items() if not told["may_be_verified"]}


def test_families_of_the_verdict_are_those_with_a_triton_backend() -> None:
    assert gpu_verdict.families() == sorted(name for name, family in FAMILIES.items() if "triton" in family.backends)
    assert set(OPERATIONS) == set(FAMILIES)


def test_a_family_may_be_verified_by_a_complete_pass_of_its_own(tmp_path: Path) -> None:
    refused = _told(tmp_path / "a.xml", *PASSES)
    assert "gelu" not in refused and "linear_gelu" not in refused
    # tests on a CPU are no evidence about Triton
    assert refused["layer_norm"] == "none of its tests ran Triton on the GPU"


@pytest.mark.parametrize("file", ["test_gelu", "test_races_gpu"])
def test_a_failure_keeps_back_its_family_and_no_other(file: str, tmp_path: Path) -> None:
    refused = _told(tmp_path / "a.xml", *PASSES, (file, "test_bits[gelu-triton-cuda]", "failed"))
    assert refused["gelu"] == "1 tests failed"
    assert "linear_gelu" not in refused


def test_a_failure_of_what_all_use_keeps_back_all(tmp_path: Path) -> None:
    refused = _told(tmp_path / "a.xml", *PASSES, ("test_philox_triton", "test_keep[cuda]", "failed"))
    assert set(refused) == set(gpu_verdict.families())


def test_a_suite_that_was_stopped_or_had_no_gpu_verifies_nothing(tmp_path: Path) -> None:
    everything = set(gpu_verdict.families())
    assert set(_told(tmp_path / "a.xml", *PASSES, complete=False)) == everything
    assert set(_told(tmp_path / "a.xml", *PASSES, architecture="")) == everything
    found = gpu_verdict.verdict(tmp_path / "none.xml", complete=True, architecture="sm_90")
    assert {told["reason"] for told in found["families"].values()} == {"the suite has not run"}
    (tmp_path / "cut.xml").write_text("<testsuites><testcase")
    assert (
        gpu_verdict.verdict(tmp_path / "cut.xml", complete=False, architecture="sm_90")["families"]["gelu"]["failed"]
        == []
    )


def test_the_verdict_names_the_file_to_change(tmp_path: Path) -> None:
    found = gpu_verdict.verdict(_report(tmp_path / "a.xml", *PASSES), complete=True, architecture="sm_90")
    said = list(gpu_verdict.lines(found))
    assert 'gelu: may get verified=("sm_90",) in kernels/unmask_kernels/gelu/choice.py: 2 tests passed' in said
    assert all((ROOT / "kernels" / "unmask_kernels" / family / "choice.py").exists() for family in found["families"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", [FIRST, SECOND], ids=["first", "second"])
def test_gpu_script_runs_every_stage_dry_within_its_share(call: tuple[str, ...], tmp_path: Path) -> None:
    """Stand-ins for ncu and compute-sanitizer run the program that they are given."""
    for tool in ("ncu", "compute-sanitizer"):
        stand_in = tmp_path / tool
        stand_in.write_text('#!/bin/sh\nwhile [ "$1" != "$PYTHON" ]; do shift; done\nexec "$@"\n')
        stand_in.chmod(0o755)
    done = _gpu_script(tmp_path / "out", *call, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").iterdir())) <= 8
    rows = _summary(tmp_path / "out")
    assert set(rows) == set(call) and all(row["seconds"] <= row["share"] for row in rows.values()), done.stdout
